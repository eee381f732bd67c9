//! One voter on a real disk, led from here.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use fluxmq_commands::command::queue::{Arguments, Enqueue, QueueCommand, Settlement, Verdict};
use fluxmq_commands::command::{self, Batch, Command, Publish};
use fluxmq_commands::{Appending, Outcome, slot_of};
use fluxmq_names::{Position, ShardId};
use logd_broker::{Applied, Broker, GroupCursor};
use logd_log::io::DiskIo;
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{CommandBatch, Group, GroupOptions, Observer};
use tokio::sync::oneshot;

/// What bodies are filled with.
pub(crate) const BODY: u8 = 7;

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {}
}

pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// User and system time of this process, ms (a tick is 10 ms).
pub(crate) fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>() * 10
}

/// Memory of this process that no file backs, KiB.
pub(crate) fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

pub(crate) fn publish(topic: &str) -> Command<'_> {
    Command::Publish(Publish { qos: 1, vhost: "/", topic, ..Publish::default() })
}

pub(crate) struct Shard {
    disk: Disk,
    pub(crate) group: Group,
}

impl Shard {
    pub(crate) async fn start(dir: &Path) -> Self {
        let mut config = DiskConfig::default();
        config.commit_interval_us = setting("COMMIT_US", config.commit_interval_us);
        let disk = Disk::start(Arc::new(DiskIo), dir, config, Arc::new(AbortOnFatal)).unwrap();
        let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
        let options = GroupOptions::alone(ShardId(0), 1);
        let group = Group::start(options, log, Box::new(Nobody)).await.unwrap();
        Self { disk, group }
    }

    pub(crate) async fn stop(self) {
        self.group.stop().await;
        drop(self.group);
        self.disk.close();
    }

    pub(crate) async fn say(&self, commands: &[(Command<'_>, &[u8])]) -> Vec<Outcome> {
        self.begin(commands).await.unwrap()
    }

    /// Sends a batch; the outcomes come later.
    pub(crate) fn begin(
        &self,
        commands: &[(Command<'_>, &[u8])],
    ) -> oneshot::Receiver<Vec<Outcome>> {
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
        let reply = Box::new(move |result: Result<_, _>| drop(tx.send(result.unwrap())));
        self.group.submit(CommandBatch { head, ends, body: body.into() }, reply);
        rx
    }

    pub(crate) async fn declare(&self, name: &str) -> u64 {
        let arguments = Arguments::default();
        let declare = QueueCommand::Declare { vhost: "/", name, arguments, passive: false };
        match self.say(&[(Command::Queue(declare), &[])]).await[0] {
            Outcome::Declared { queue, .. } => queue,
            ref other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn bound(&self, name: &str, filter: &str) -> u64 {
        let queue = self.declare(name).await;
        let bind = QueueCommand::Bind { queue, filter, bound: true };
        self.say(&[(Command::Queue(bind), &[])]).await;
        queue
    }

    /// Stores messages as one entry; returns the offset of the first.
    pub(crate) async fn store(&self, queues: &[u64], count: u64, size: usize) -> u64 {
        let ids: Vec<u8> = queues.iter().flat_map(|q| q.to_le_bytes()).collect();
        let body = vec![BODY; size];
        let enqueue =
            Command::Queue(QueueCommand::Enqueue(Enqueue { queues: &ids, ..Enqueue::default() }));
        let commands = vec![(enqueue, &body[..]); count as usize];
        match self.say(&commands).await[0] {
            Outcome::Appended { offset, how: Appending::Stored, .. } => offset,
            ref other => panic!("{other:?}"),
        }
    }

    pub(crate) fn settlement(queue: u64, verdicts: Vec<Settlement>) -> Command<'static> {
        let settle = QueueCommand::Settle { queue, group: queue, token: 0, verdicts };
        Command::Queue(settle)
    }

    /// Stores messages, and settles others, in one entry.
    pub(crate) async fn store_and_settle(
        &self,
        queue: u64,
        count: u64,
        size: usize,
        offsets: Range<u64>,
    ) {
        let ids = queue.to_le_bytes();
        let body = vec![BODY; size];
        let enqueue =
            Command::Queue(QueueCommand::Enqueue(Enqueue { queues: &ids, ..Enqueue::default() }));
        let mut commands = vec![(enqueue, &body[..]); count as usize];
        if !offsets.is_empty() {
            let count = (offsets.end - offsets.start) as u32;
            let ack = Settlement { verdict: Verdict::Ack, first: offsets.start, count };
            commands.push((Self::settlement(queue, vec![ack]), &[]));
        }
        self.say(&commands).await;
    }

    /// The body of the first message that is not settled; `nth` of those.
    pub(crate) fn read(&self, nth: usize, queue: u64) -> Vec<u8> {
        let (mut cursor, mut out) = (GroupCursor::default(), Vec::new());
        self.group.with_state(|b| b.owed_to_group(queue, queue, &mut cursor, nth + 1, &mut out));
        let position = Position(out[nth].position);
        let entry = self.group.log().entry(position.index()).unwrap().unwrap();
        let slot = slot_of(&entry, position.slot()).unwrap();
        command::decode(&slot).unwrap().1.to_vec()
    }
}
