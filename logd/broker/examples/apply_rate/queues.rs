//! Queues: append, settlement, memory of ten million messages, a restart.

use std::time::Duration;

use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::*;
use fluxmq_commands::{EntryBuilder, Outcome};
use fluxmq_names::ShardId;
use logd_broker::{Broker, GroupCursor};

use crate::cpu;

const DEEP: u64 = 10_000_000;
const BATCH: u64 = 100;
const BODY: [u8; 256] = [7; 256];

/// A shard that is led from here.
struct Shard {
    broker: Broker,
    index: u64,
}

impl Shard {
    fn new() -> Self {
        Self { broker: Broker::new(ShardId(0)), index: 0 }
    }

    fn say(&mut self, command: &Command<'_>) -> Outcome {
        let mut builder = EntryBuilder::default();
        builder.push(|out| command.encode(&BODY, out));
        self.index += 1;
        let mut applied = self.broker.apply(self.index, &builder.close(1)).unwrap();
        applied.outcomes.pop().unwrap().1
    }

    fn declare(&mut self, name: &str, arguments: Arguments<'_>) -> u64 {
        let declare = QueueCommand::Declare { vhost: "/", name, arguments, passive: false };
        match self.say(&Command::Queue(declare)) {
            Outcome::Declared { queue, .. } => queue,
            other => panic!("{other:?}"),
        }
    }
}

fn entry(queues: &[u64], command: impl Fn(&[u8]) -> Command<'_>) -> Vec<u8> {
    let mut builder = EntryBuilder::default();
    for queue in queues {
        let bytes = queue.to_le_bytes();
        builder.push(|out| command(&bytes).encode(&BODY, out));
    }
    builder.close(1).to_vec()
}

fn enqueue(queues: &[u8]) -> Command<'_> {
    Command::Queue(QueueCommand::Enqueue(Enqueue { queues, ..Enqueue::default() }))
}

/// Memory of this process that no file backs, KiB.
fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn report(what: &str, start: Duration, messages: u64) {
    println!("{what}: {} ns a message", (cpu() - start).as_nanos() as u64 / messages);
}

/// One queue: filled in batches, read, settled in order by ranges, and one by one in any order.
pub(crate) fn one_queue() {
    let mut shard = Shard::new();
    let before = anonymous_kib();
    let queue = shard.declare("q", Arguments::default());
    let payload = entry(&vec![queue; BATCH as usize], enqueue);
    let start = cpu();
    for _ in 0..DEEP / BATCH {
        shard.index += 1;
        shard.broker.apply(shard.index, &payload).unwrap();
    }
    report("append to one queue, 100 an entry", start, DEEP);
    println!("  {} KiB for {DEEP} messages", anonymous_kib() - before);

    let start = cpu();
    let (mut cursor, mut seen, mut out) = (GroupCursor::default(), 0, Vec::new());
    while seen < DEEP {
        out.clear();
        shard.broker.owed_to_group(queue, queue, &mut cursor, 100, &mut out);
        seen += out.len() as u64;
    }
    report("read for a group, 100 at once", start, DEEP);

    restart(&shard);
    let settle =
        |verdicts| Command::Queue(QueueCommand::Settle { queue, group: queue, token: 0, verdicts });
    let ack = |first, count| Settlement { verdict: Verdict::Ack, first, count };
    let half = DEEP / 2;
    let start = cpu();
    for first in (0..half).step_by(BATCH as usize) {
        shard.say(&settle(vec![ack(first, BATCH as u32)]));
    }
    report("settle in order, ranges of 100", start, half);
    let any = 1_000_000;
    let start = cpu();
    let before = anonymous_kib();
    // 7,919 is prime: every offset once, far from the one before.
    for n in (0..any).step_by(BATCH as usize) {
        let verdicts = (n..n + BATCH).map(|n| ack(half + n * 7_919 % any, 1)).collect();
        shard.say(&settle(verdicts));
    }
    report("settle in any order, one by one, 100 a command", start, any);
    println!("  {} KiB more for it", anonymous_kib().saturating_sub(before));
    let first = half + any;
    let start = cpu();
    for n in 0..any {
        shard.say(&settle(vec![ack(first + n, 1)]));
    }
    report("settle in order, one an entry", start, any);
    shard.say(&Command::Queue(QueueCommand::Purge { queue }));
    while shard.broker.next_due().is_some() {
        shard.say(&Command::Tick);
    }
    assert_eq!(shard.broker.live_references(), 0);
}

/// A thousand queues filled in turn, one message an entry.
pub(crate) fn interleaved() {
    let mut shard = Shard::new();
    let queues: Vec<u64> =
        (0..1_000).map(|n| shard.declare(&format!("q{n}"), Arguments::default())).collect();
    let payloads: Vec<_> = queues.iter().map(|q| entry(&[*q], enqueue)).collect();
    let before = anonymous_kib();
    let start = cpu();
    for n in 0..DEEP {
        shard.index += 1;
        shard.broker.apply(shard.index, &payloads[n as usize % payloads.len()]).unwrap();
    }
    report("append to 1,000 queues in turn, one an entry", start, DEEP);
    let kib = anonymous_kib() - before;
    println!("  {kib} KiB, {} bytes a message with the counts of the log", kib * 1_024 / DEEP);
    restart(&shard);
    let all: Vec<u8> = queues.iter().flat_map(|q| q.to_le_bytes()).collect();
    let start = cpu();
    for _ in 0..10_000 {
        shard.say(&enqueue(&all));
    }
    report("one message to 1,000 queues, a queue", start, 10_000_000);
}

fn restart(shard: &Shard) {
    let start = cpu();
    let bytes = shard.broker.snapshot().encode();
    let encoded_ms = (cpu() - start).as_millis();
    let start = cpu();
    let restored = Broker::restore(&bytes).unwrap();
    println!(
        "  snapshot {} bytes, encoded in {encoded_ms} ms, read back in {} ms",
        bytes.len(),
        (cpu() - start).as_millis()
    );
    assert_eq!(restored.live_references(), shard.broker.live_references());
}
