//! Rough figures of the log on this disk: `cargo run --release -p logd-log --example append_rate [dir]`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use logd_log::io::DiskIo;
use logd_log::{AbortOnFatal, Disk, DiskConfig, Entry, EntryKind, Log, OpenOptions, Priority};

/// Bytes that reached the device under a directory, by anyone: `/proc/self/io` would count whole dirtied folios.
fn written(dir: &Path) -> u64 {
    let dev = std::fs::metadata(dir).unwrap().dev();
    let (major, minor) = ((dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
    let sectors = stat.ok().and_then(|s| s.split_whitespace().nth(6)?.parse::<u64>().ok());
    sectors.unwrap_or(0) * 512
}

fn entry(index: u64, payload: &Bytes) -> Entry {
    let payload = payload.clone();
    Entry { index, term: 1, leader_node: None, kind: EntryKind::Normal, payload }
}

/// Appends `count` entries, `in_flight` at a time.
fn run((disk, log, dir): (&Disk, &Log, &Path), count: u64, len: usize, in_flight: u64) {
    let payload = Bytes::from(vec![7; len]);
    let (tell, told) = mpsc::channel();
    let start = log.last().map_or(0, |l| l.index + 1);
    let (before, stats, began) = (written(dir), disk.stats(), Instant::now());
    for i in 0..count {
        let tell = tell.clone();
        let done = Box::new(move |result: Result<(), _>| tell.send(result).unwrap());
        log.append(vec![entry(start + i, &payload)], Priority::Normal, done).unwrap();
        if i + 1 >= in_flight {
            told.recv().unwrap().unwrap();
        }
    }
    (0..in_flight.min(count) - 1).for_each(|_| told.recv().unwrap().unwrap());
    let seconds = began.elapsed().as_secs_f64();
    let (after, now) = (written(dir), disk.stats());
    let rounds = (now.rounds - stats.rounds) as f64;
    println!(
        "{count} x {len} B, {in_flight} in flight: {:.0} entries/s, {:.0} us/round, {:.1} entries/round, \
         {:.2} record bytes and {:.2} disk bytes per payload byte",
        count as f64 / seconds,
        seconds * 1e6 / rounds,
        count as f64 / rounds,
        (now.bytes - stats.bytes) as f64 / (count * len as u64) as f64,
        (after - before) as f64 / (count * len as u64) as f64,
    );
}

fn main() {
    let temporary;
    let base: PathBuf = match std::env::args().nth(1) {
        Some(dir) => dir.into(),
        None => {
            temporary = tempfile::tempdir().unwrap();
            temporary.path().to_owned()
        }
    };
    for interval in [0, 300] {
        let dir = base.join(format!("rate-{interval}"));
        let config = DiskConfig { commit_interval_us: interval, ..DiskConfig::default() };
        let began = Instant::now();
        let disk = Disk::start(Arc::new(DiskIo), &dir, config, Arc::new(AbortOnFatal)).unwrap();
        let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
        println!("commit interval {interval} us; new shard in {:?}", began.elapsed());
        let on = (&disk, &log, &*dir);
        // A first stretch makes the segments large.
        run(on, 2_000, 64 * 1024, 16);
        run(on, 5_000, 4096 - 92, 1);
        run(on, 20_000, 256, 64);
        run(on, 4_000, 64 * 1024, 8);
        let last = log.last().unwrap().index + 1;
        for pass in ["first", "second"] {
            let (began, mut at, mut bytes) = (Instant::now(), 0, 0);
            while at < last {
                let entries = log.read_entries(at..last, 4 << 20).unwrap();
                bytes += entries.iter().map(|e| e.payload.len()).sum::<usize>();
                at = entries.last().unwrap().index + 1;
            }
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "read {pass}: {last} entries, {:.2} GB/s, {:.0} ns/entry",
                bytes as f64 / seconds / 1e9,
                seconds * 1e9 / last as f64
            );
        }
        drop((log, disk));
    }
}
