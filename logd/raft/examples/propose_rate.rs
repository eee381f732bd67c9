//! What a group of one voter costs a batch: `BATCHES` batches (default 200,000) of one command, `WINDOW` of them (default
//! 200) unanswered, over a log in memory. Prints wall time, and CPU time of the process by `/proc/self/stat`.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use fluxmq_commands::command::{Batch, Command};
use fluxmq_names::ShardId;
use logd_broker::{Applied, Broker};
use logd_log::io::MemoryIo;
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{CommandBatch, Group, GroupOptions, Observer};
use tokio::sync::mpsc::unbounded_channel;

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {}
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// User and system time of this process, ms (a tick is 10 ms).
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>() * 10
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (batches, window) = (setting("BATCHES", 200_000), setting("WINDOW", 200));
    let io = Arc::new(MemoryIo::new(8 << 30));
    let disk = Disk::start(io, "/data", DiskConfig::default(), Arc::new(AbortOnFatal));
    let disk = disk.expect("a data directory");
    let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a shard");
    let options = GroupOptions::alone(ShardId(0), 1);
    let group = Group::start(options, log, Box::new(Nobody)).await.expect("leads");
    let mut body = Vec::new();
    Command::Tick.encode(&[], &mut body);
    body.resize(256, 0);
    let body = bytes::Bytes::from(body);
    let head = Batch {
        gateway_epoch: 0,
        stream: 0,
        first_sequence: 0,
        count: 1,
        crc: 0,
        confirmed_upto: 0,
    };
    let (tx, mut rx) = unbounded_channel();
    let (begun, cpu) = (Instant::now(), cpu_ms());
    let (mut sent, mut answered) = (0, 0);
    while answered < batches {
        while sent < batches && sent - answered < window {
            let tx = tx.clone();
            let reply = Box::new(move |result: Result<_, _>| {
                let _ = tx.send(result.is_ok());
            });
            let batch = CommandBatch { head, ends: vec![body.len() as u32], body: body.clone() };
            group.submit(batch, reply);
            sent += 1;
        }
        assert!(rx.recv().await.expect("the group answers"), "the only voter leads");
        answered += 1;
        while rx.try_recv().is_ok() {
            answered += 1;
        }
    }
    let (wall, cpu) = (begun.elapsed(), cpu_ms() - cpu);
    let entries = group.with_state(Broker::applied);
    println!(
        "{batches} batches, window {window}: {:.2} s, CPU {:.2} us a batch, {entries} entries, {} rounds",
        wall.as_secs_f64(),
        cpu as f64 * 1_000.0 / batches as f64,
        disk.stats().rounds
    );
    group.stop().await;
}
