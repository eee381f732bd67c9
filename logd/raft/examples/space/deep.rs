//! Ten million messages deep: memory, restart, the stall of a snapshot; a million settled in any order.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{Enqueue, QueueCommand, Settlement, Verdict};
use logd_broker::Broker;

use crate::shard::{BODY, Shard, anonymous_kib, cpu_ms, setting};

/// Batches on their way: enough for the next entry to be full while four are synced.
const WINDOW: usize = 48;

/// Fills `queues` queues in turn; with one queue 100 messages an entry, else one.
pub(crate) async fn deep(dir: &Path, queues: u64) {
    let messages = setting("MESSAGES", 10_000_000);
    let per_entry = if queues == 1 { 100 } else { 1 };
    let before = anonymous_kib();
    let most = watch_memory();
    let shard = Shard::start(dir).await;
    let mut ids = Vec::new();
    for n in 0..queues {
        ids.push(shard.declare(&format!("q{n}")).await.to_le_bytes());
    }
    let (begun, cpu) = (Instant::now(), cpu_ms());
    let body = vec![BODY; 256];
    let mut waiting = std::collections::VecDeque::new();
    for n in 0..messages / per_entry {
        let queues = &ids[(n % queues) as usize];
        let enqueue =
            Command::Queue(QueueCommand::Enqueue(Enqueue { queues, ..Enqueue::default() }));
        waiting.push_back(shard.begin(&vec![(enqueue, &body[..]); per_entry as usize]));
        // One an entry: the batcher would make one entry of all that queues.
        let window = if ids.len() > 1 { 4 } else { WINDOW };
        if ids.len() > 1 {
            tokio::task::yield_now().await;
        }
        while waiting.len() >= window {
            waiting.pop_front().unwrap().await.unwrap();
        }
    }
    for answer in waiting {
        answer.await.unwrap();
    }
    let entries = shard.group.with_state(Broker::applied);
    println!(
        "{messages} messages of 256 bytes in {queues} queues, {entries} entries: {:.1} s, CPU {:.2} us a message",
        begun.elapsed().as_secs_f64(),
        (cpu_ms() - cpu) as f64 * 1e3 / messages as f64
    );
    println!(
        "RssAnon {} KiB ({before} at the start), {:?}",
        anonymous_kib(),
        shard.group.log().size()
    );
    stall(&shard).await;
    let kib = most.load(Ordering::Relaxed);
    println!("RssAnon {} KiB after a snapshot, at most {kib}", anonymous_kib());
    let live = shard.group.with_state(Broker::live_references);
    shard.stop().await;
    let me = std::env::current_exe().unwrap();
    let mut again = std::process::Command::new(me);
    again.arg("open").arg(dir).arg(live.to_string()).arg(u64::from_le_bytes(ids[0]).to_string());
    assert!(again.status().unwrap().success());
}

/// The most memory without a file that this process ever has from now on, KiB, looked at every 20 ms.
fn watch_memory() -> Arc<AtomicU64> {
    let most = Arc::<AtomicU64>::default();
    let out = most.clone();
    std::thread::spawn(move || {
        loop {
            out.fetch_max(anonymous_kib(), Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    most
}

/// Opens it in a process of its own.
pub(crate) async fn open(mut arguments: impl Iterator<Item = String>) {
    let dir = arguments.next().unwrap();
    let (live, queue): (u64, u64) =
        (arguments.next().unwrap().parse().unwrap(), arguments.next().unwrap().parse().unwrap());
    let (begun, most) = (Instant::now(), watch_memory());
    let shard = Shard::start(Path::new(&dir)).await;
    println!(
        "open after restart: {:.2} s, CPU {} ms, RssAnon {} KiB, at most {}",
        begun.elapsed().as_secs_f64(),
        cpu_ms(),
        anonymous_kib(),
        most.load(Ordering::Relaxed)
    );
    assert_eq!(shard.group.with_state(Broker::live_references), live);
    assert_eq!(shard.read(0, queue), vec![BODY; 256]);
    shard.stop().await;
}

/// How long one command takes while a snapshot is made and space is gained, and without.
async fn stall(shard: &Shard) {
    let queue = shard.declare("beside").await;
    for what in ["alone", "during a pass"] {
        let group = shard.group.clone();
        let pass = async move {
            match what {
                "alone" => tokio::time::sleep(std::time::Duration::from_secs(2)).await,
                _ => group.compact().await.unwrap(),
            }
        };
        let mut pass = tokio::spawn(pass);
        let (begun, mut took) = (Instant::now(), Vec::new());
        while !pass.is_finished() {
            let before = Instant::now();
            shard.store(&[queue], 1, 256).await;
            took.push(before.elapsed());
        }
        (&mut pass).await.unwrap();
        took.sort_unstable();
        let at = |p: f64| took[((took.len() - 1) as f64 * p) as usize];
        println!(
            "  {what}: {:.2} s, {} commands one at a time, p50 {:?} p99 {:?} max {:?}",
            begun.elapsed().as_secs_f64(),
            took.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
    let before = Instant::now();
    let snapshot = shard.group.with_state(Broker::snapshot);
    println!("  cloning the state: {:?}", before.elapsed());
    drop(snapshot);
}

/// A million messages settled one by one in any order, 100 a command.
pub(crate) async fn random(dir: &Path) {
    let messages = setting("MESSAGES", 1_000_000);
    let shard = Shard::start(dir).await;
    let queue = shard.declare("q").await;
    for _ in 0..messages / 1000 {
        shard.store(&[queue], 1000, 256).await;
    }
    let before = anonymous_kib();
    println!("{messages} messages: RssAnon {before} KiB, {:?}", shard.group.log().size());
    let (begun, cpu, mut most) = (Instant::now(), cpu_ms(), 0);
    let mut waiting = std::collections::VecDeque::new();
    // 7,919 is prime: every offset once, far from the one before.
    for first in (0..messages).step_by(100) {
        let ack = |n| Settlement { verdict: Verdict::Ack, first: n * 7_919 % messages, count: 1 };
        let settle = Shard::settlement(queue, (first..first + 100).map(ack).collect());
        waiting.push_back(shard.begin(&[(settle, &[])]));
        while waiting.len() >= WINDOW {
            waiting.pop_front().unwrap().await.unwrap();
        }
        if first % 50_000 == 0 {
            most = most.max(anonymous_kib());
        }
    }
    for answer in waiting {
        answer.await.unwrap();
    }
    let wall = begun.elapsed();
    // What no command had steps left for.
    while shard.group.with_state(|b| b.live_references()) > 0 {
        shard.say(&[(Command::Tick, &[])]).await;
    }
    assert_eq!(shard.group.with_state(Broker::live_references), 0);
    println!(
        "settled in any order: {:.0} a second, CPU {:.2} us each, RssAnon at most {} KiB more",
        messages as f64 / wall.as_secs_f64(),
        (cpu_ms() - cpu) as f64 * 1e3 / messages as f64,
        most.saturating_sub(before)
    );
    shard.group.compact().await.unwrap();
    println!("after a pass {:?}", shard.group.log().size());
    shard.stop().await;
}
