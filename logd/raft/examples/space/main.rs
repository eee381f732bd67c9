//! Space and memory of one shard: log, Raft and state machine together, on a real disk, one voter, no gateway.
//!
//! `space forgotten` (one unsettled message, then `GIB` = 20 through the same shard), `space fanout` (one topic, 1,000
//! queues), `space deep` and `space turns` (ten million messages in one queue, or in 1,000 in turn with one an entry; then
//! a restart), `space random` (a million settled in any order). `DIR` is where the data directory is made,
//! `MESSAGES` how many, `COMMIT_US` the least between two commit rounds (0 for `turns` in a directory in memory).
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod deep;
mod shard;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::shard::{BODY, Shard, anonymous_kib, cpu_ms, publish, setting};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if std::env::args().nth(1).as_deref() == Some("open") {
        return deep::open(std::env::args().skip(2)).await;
    }
    let place = std::env::var_os("DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(place).unwrap();
    match std::env::args().nth(1).as_deref() {
        Some("forgotten") => forgotten(dir.path()).await,
        Some("fanout") => fanout(dir.path()).await,
        Some("deep") => deep::deep(dir.path(), 1).await,
        Some("turns") => deep::deep(dir.path(), 1_000).await,
        Some("random") => deep::random(dir.path()).await,
        other => panic!("what? {other:?}"),
    }
}

/// The files of the log, as the file system says, when they were most.
#[derive(Default)]
struct Most {
    bytes: u64,
    files: Vec<(String, u64)>,
}

/// Looks every few ms until it is told to stop.
fn watch_disk(dir: &std::path::Path) -> (Arc<Mutex<Most>>, Arc<AtomicBool>) {
    let (most, stop) = (Arc::<Mutex<Most>>::default(), Arc::default());
    let (log, m, s) = (dir.join("shard-0/log"), most.clone(), Arc::clone(&stop));
    std::thread::spawn(move || {
        while !AtomicBool::load(&s, Ordering::Relaxed) {
            let file = |file: std::io::Result<std::fs::DirEntry>| {
                let file = file.ok()?;
                Some((file.file_name().into_string().ok()?, file.metadata().ok()?.len()))
            };
            let files: Vec<_> =
                std::fs::read_dir(&log).into_iter().flatten().filter_map(file).collect();
            let bytes = files.iter().map(|(_, len)| len).sum();
            let mut most = m.lock().unwrap();
            if bytes > most.bytes {
                *most = Most { bytes, files };
            }
            drop(most);
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    (most, stop)
}

async fn forgotten(dir: &std::path::Path) {
    let total = setting("GIB", 20) << 30;
    let batch = setting("BATCH", 200);
    let shard = Shard::start(dir).await;
    let queue = shard.declare("q").await;
    let first = shard.store(&[queue], 1, 4096).await;
    assert_eq!(first, 0);
    let (most, stop) = watch_disk(dir);
    let mut latencies = Vec::new();
    let (begun, cpu) = (Instant::now(), cpu_ms());
    let mut next = 1;
    let mut sent = 0;
    while sent < total {
        let before = Instant::now();
        // What was stored by the batch before is settled in this one.
        let settle = (next - batch.min(next - 1))..next;
        shard.store_and_settle(queue, batch, 4096, settle).await;
        next += batch;
        sent += batch * 4096;
        latencies.push(before.elapsed());
    }
    let wall = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    latencies.sort_unstable();
    let at = |p: f64| latencies[((latencies.len() - 1) as f64 * p) as usize];
    let segment = 64 << 20;
    println!(
        "{} GiB in {:.1} s ({:.0} MB/s), CPU {} ms, batches of {batch} x 4 KiB, one at a time: p50 {:?} p99 {:?} max {:?}",
        sent >> 30,
        wall.as_secs_f64(),
        sent as f64 / 1e6 / wall.as_secs_f64(),
        cpu_ms() - cpu,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    let bound = 4 * segment + 2 * 4096;
    let Most { bytes: most, files } = std::mem::take(&mut *most.lock().unwrap());
    println!(
        "most on disk at any time: {most} bytes; bound 4 segments + 2 x live = {bound}: {}; producers held {:?}",
        if most <= bound { "kept" } else { "BROKEN" },
        shard.group.held()
    );
    if most > bound {
        println!("{files:#?}");
    }
    println!("now {:?}, RssAnon {} KiB", shard.group.log().size(), anonymous_kib());
    assert_eq!(shard.read(0, queue), vec![BODY; 4096], "the forgotten one is what it was");
    shard.stop().await;
}

async fn fanout(dir: &std::path::Path) {
    let (queues, messages, size) = (1_000, 10_000, 1024);
    let shard = Shard::start(dir).await;
    for n in 0..queues {
        shard.bound(&format!("q{n}"), "a/b").await;
    }
    for batch in [1, 20] {
        let (before, cpu) = (shard.group.log().bytes_appended(), cpu_ms());
        for _ in 0..messages / batch {
            let body = vec![BODY; size];
            shard.say(&vec![(publish("a/b"), &body[..]); batch]).await;
        }
        let written = shard.group.log().bytes_appended() - before;
        let snapshot = shard.group.with_state(|b| b.snapshot().encode().len());
        println!(
            "{messages} publishes of {size} bytes to {queues} queues, {batch} an entry: log {written} bytes, \
             {:.3} of the payload; state {snapshot} bytes; CPU {} ms; RssAnon {} KiB",
            written as f64 / (messages * size) as f64,
            cpu_ms() - cpu,
            anonymous_kib()
        );
    }
    let size = shard.group.log().size();
    println!("{size:?}, live references {}", shard.group.with_state(|b| b.live_references()));
    shard.stop().await;
}
