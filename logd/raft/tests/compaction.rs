//! What is forgotten in a shard pins itself, not the log around it (S9), whatever the size of entries.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxmq_commands::command::queue::{Arguments, Enqueue, QueueCommand, Settlement, Verdict};
use fluxmq_commands::command::{self, Batch, Command};
use fluxmq_commands::{Appending, Outcome, slot_of};
use fluxmq_names::{Position, ShardId};
use logd_broker::{Applied, Broker, GroupCursor};
use logd_log::io::{Io, MemoryIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{CommandBatch, Compaction, Group, GroupOptions, Observer};
use tokio::sync::oneshot;

const SEGMENT: u64 = 1024 * 1024;
const BODY: usize = 4096;

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {}
}

/// One voter with one queue, led from here.
struct Shard {
    disk: Disk,
    group: Group,
    queue: u64,
}

impl Shard {
    async fn start(io: &Arc<dyn Io>, compaction: Compaction) -> Self {
        let config = DiskConfig {
            segment_bytes_first: SEGMENT,
            segment_bytes_max: SEGMENT,
            low_water_bytes: Some(0),
            ..DiskConfig::default()
        };
        let disk =
            Disk::start(io.clone(), "/data", config, Arc::new(AbortOnFatal)).expect("starts");
        let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a shard");
        let options = GroupOptions { compaction, ..GroupOptions::alone(ShardId(0), 1) };
        let group = Group::start(options, log, Box::new(Nobody)).await.expect("leads");
        let mut shard = Self { disk, group, queue: 0 };
        let arguments = Arguments::default();
        let declare = QueueCommand::Declare { vhost: "/", name: "q", arguments, passive: false };
        let outcome = shard.say(&[(Command::Queue(declare), &[])]).await.remove(0);
        let Outcome::Declared { queue, .. } = outcome else { panic!("{outcome:?}") };
        shard.queue = queue;
        shard
    }

    async fn stop(self) {
        self.group.stop().await;
        drop(self.group);
        self.disk.close();
    }

    /// One entry, or several of a megabyte.
    async fn say(&self, commands: &[(Command<'_>, &[u8])]) -> Vec<Outcome> {
        let (mut body, mut ends) = (Vec::new(), Vec::new());
        for (command, message) in commands {
            command.encode(message, &mut body);
            ends.push(body.len() as u32);
        }
        let head = Batch {
            gateway_epoch: 0,
            stream: 0,
            first_sequence: 0,
            count: ends.len() as u32,
            crc: 0,
            confirmed_upto: 0,
        };
        let (tx, rx) = oneshot::channel();
        let reply = Box::new(move |result| drop(tx.send(result)));
        self.group.submit(CommandBatch { head, ends, body: body.into() }, reply);
        rx.await.expect("answered").expect("leads")
    }

    /// Stores messages of these numbers as one entry; returns the offset of the first.
    async fn store(&self, numbers: std::ops::Range<u64>) -> u64 {
        let queues = self.queue.to_le_bytes();
        let bodies: Vec<_> = numbers.map(body).collect();
        let enqueue = QueueCommand::Enqueue(Enqueue { queues: &queues, ..Enqueue::default() });
        let command = |body| (Command::Queue(enqueue.clone()), body);
        let commands: Vec<_> = bodies.iter().map(|b| command(&b[..])).collect();
        let outcomes = self.say(&commands).await;
        match outcomes[0] {
            Outcome::Appended { offset, how: Appending::Stored, .. } => offset,
            ref other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, offsets: std::ops::Range<u64>) {
        let count = (offsets.end - offsets.start) as u32;
        let verdicts = vec![Settlement { verdict: Verdict::Ack, first: offsets.start, count }];
        let (queue, group) = (self.queue, self.queue);
        let settle = QueueCommand::Settle { queue, group, token: 0, verdicts };
        self.say(&[(Command::Queue(settle), &[])]).await;
    }

    /// Offset and body of all that is not settled.
    fn owed(&self) -> BTreeMap<u64, Vec<u8>> {
        let (mut cursor, mut out) = (GroupCursor::default(), Vec::new());
        self.group.with_state(|b| {
            while b.owed_to_group(self.queue, self.queue, &mut cursor, 10_000, &mut out) {}
        });
        let read = |position: u64| {
            let position = Position(position);
            let entry = self.group.log().entry(position.index()).expect("readable").expect("live");
            let slot = slot_of(&entry, position.slot()).expect("a slot");
            command::decode(&slot).expect("a command").1.to_vec()
        };
        out.iter().map(|message| (message.offset, read(message.position))).collect()
    }

    fn bytes(&self) -> u64 {
        self.group.log().size().bytes
    }
}

fn body(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(BODY / 8)
}

/// By hand only.
fn by_hand() -> Compaction {
    Compaction { log_bytes: u64::MAX / 16, margin_bytes: SEGMENT / 4, ..Compaction::default() }
}

/// Entries of 40 messages, of which one is never settled: each entry stays alive, and little of it is needed.
#[tokio::test]
async fn of_an_entry_only_what_lives_stays() {
    let io: Arc<dyn Io> = Arc::new(MemoryIo::new(1 << 30));
    let shard = Shard::start(&io, by_hand()).await;
    let mut kept = BTreeMap::new();
    for round in 0..200u64 {
        let first = shard.store(round * 40..round * 40 + 40).await;
        let keep = first + round % 40;
        shard.settle(first..keep).await;
        shard.settle(keep + 1..first + 40).await;
        kept.insert(keep, body(round * 40 + round % 40));
        if round % 5 == 4 {
            shard.group.compact().await.expect("a snapshot");
            let (bytes, live) = (shard.bytes(), kept.len() as u64 * BODY as u64);
            assert!(bytes <= 4 * SEGMENT + 2 * live, "{bytes} on disk, {live} live in {round}");
        }
    }
    assert_eq!(shard.owed(), kept);
    shard.stop().await;
    let shard = Shard::start(&io, by_hand()).await;
    assert_eq!(shard.owed(), kept, "after a restart");
    shard.group.compact().await.expect("a snapshot");
    assert_eq!(shard.owed(), kept, "after one more pass");
    for offset in kept.keys() {
        shard.settle(*offset..offset + 1).await;
    }
    shard.group.compact().await.expect("a snapshot");
    assert!(shard.bytes() <= 4 * SEGMENT, "all of it is gone");
    shard.stop().await;
}

/// The margin of entries behind what is applied counts bytes as well, and growth alone makes it all happen.
#[tokio::test]
async fn large_entries_do_not_pile_up() {
    let io: Arc<dyn Io> = Arc::new(MemoryIo::new(1 << 30));
    let shard = Shard::start(&io, Compaction { log_bytes: SEGMENT, ..by_hand() }).await;
    let forgotten = shard.store(0..1).await;
    for round in 1..150u64 {
        let first = shard.store(round..round + 60).await;
        shard.settle(first..first + 60).await;
    }
    // What is under way ends; nobody calls for it.
    while shard.bytes() > 4 * SEGMENT + 2 * BODY as u64 {
        let first = shard.store(1..2).await;
        shard.settle(first..first + 1).await;
    }
    assert_eq!(shard.owed(), BTreeMap::from([(forgotten, body(0))]));
    shard.stop().await;
}
