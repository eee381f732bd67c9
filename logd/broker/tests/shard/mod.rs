//! A shard that tests talk to, as one gateway and as its leader. No command may do more steps than S11 says.
#![allow(dead_code, reason = "each test uses a part of it")]

use fluxmq_commands::command::queue::{
    Arguments, Enqueue, Options, QueueCommand, Settlement, Verdict,
};
use fluxmq_commands::command::{Batch, Command, Connect};
use fluxmq_commands::{EntryBuilder, Outcome};
use fluxmq_names::ShardId;
use logd_broker::limits::STEPS_MAX;
use logd_broker::{Broker, Effect, QueueStats};

pub(crate) const GATEWAY: u64 = 7 << 20;

pub(crate) struct Shard {
    pub(crate) broker: Broker,
    pub(crate) index: u64,
    sequence: u64,
    /// The time of the next entry, Unix ms.
    pub(crate) now_ms: u64,
}

impl Shard {
    pub(crate) fn new() -> Self {
        Self { broker: Broker::new(ShardId(0)), index: 0, sequence: 1, now_ms: 1 }
    }

    /// A session of the gateway: id and epoch.
    pub(crate) fn connect(&mut self, client_id: &str, expiry_s: u32) -> (u64, u64) {
        let connect = Command::Connect(Connect {
            vhost: "/",
            client_id,
            clean_start: false,
            expiry_s,
            window: 1_000,
            token: 1,
            will: None,
        });
        let (outcomes, _) = self.apply(&[connect]);
        let Outcome::Connected(connected) = &outcomes[0] else { panic!("{outcomes:?}") };
        (connected.session, connected.epoch)
    }

    /// Applies an entry of one gateway's commands.
    pub(crate) fn apply(&mut self, commands: &[Command<'_>]) -> (Vec<Outcome>, Vec<Effect>) {
        let mut builder = EntryBuilder::default();
        let head = Batch {
            gateway_epoch: GATEWAY,
            stream: 1,
            first_sequence: self.sequence,
            count: commands.len() as u32,
            crc: 0,
            confirmed_upto: self.sequence - 1,
        };
        builder.push(|out| Command::Batch(head).encode(&[], out));
        commands.iter().for_each(|c| builder.push(|out| c.encode(b"", out)));
        self.sequence += commands.len() as u64;
        self.finish(builder)
    }

    /// Applies an entry of one command of the leader.
    pub(crate) fn lead(&mut self, command: &Command<'_>) -> (Vec<Outcome>, Vec<Effect>) {
        let mut builder = EntryBuilder::default();
        builder.push(|out| command.encode(b"", out));
        self.finish(builder)
    }

    /// TICKs until nothing is due; returns how many it took.
    pub(crate) fn settle_down(&mut self) -> u32 {
        let mut ticks = 0;
        while self.broker.next_due().is_some_and(|ms| ms <= self.now_ms) {
            self.lead(&Command::Tick);
            ticks += 1;
            assert!(ticks < 1_000, "it comes to an end");
        }
        ticks
    }

    fn finish(&mut self, mut builder: EntryBuilder) -> (Vec<Outcome>, Vec<Effect>) {
        self.index += 1;
        let payload = builder.close(self.now_ms);
        let applied = self.broker.apply(self.index, &payload).expect("well-formed");
        assert!(applied.steps <= STEPS_MAX, "a command did {} steps", applied.steps);
        (applied.outcomes.into_iter().map(|(_, outcome)| outcome).collect(), applied.effects)
    }
}

// --- queues ---

impl Shard {
    /// Declares a queue; the id of its group `default` is the same.
    pub(crate) fn declare(&mut self, name: &str, arguments: Arguments<'_>) -> u64 {
        let declare = QueueCommand::Declare { vhost: "/", name, arguments, passive: false };
        let (outcomes, _) = self.apply(&[Command::Queue(declare)]);
        match outcomes[0] {
            Outcome::Declared { queue, fresh: true } => queue,
            ref other => panic!("{other:?}"),
        }
    }

    pub(crate) fn queue(&mut self, command: QueueCommand<'_>) -> Outcome {
        let (mut outcomes, _) = self.apply(&[Command::Queue(command)]);
        outcomes.remove(0)
    }

    /// `count` messages in entries of a thousand.
    pub(crate) fn fill(&mut self, queue: u64, count: u64, options: Options<'_>) {
        let queues = &queue.to_le_bytes();
        let one = Command::Queue(QueueCommand::Enqueue(Enqueue {
            queues,
            options,
            ..Enqueue::default()
        }));
        for first in (0..count).step_by(1_000) {
            let entry = vec![one.clone(); 1_000.min(count - first) as usize];
            let (outcomes, _) = self.apply(&entry);
            let stored = |o: &Outcome| matches!(o, Outcome::Appended { queues: 1, .. });
            assert!(outcomes.iter().all(stored), "{outcomes:?}");
        }
    }

    /// A verdict of the group `default`.
    pub(crate) fn say(&mut self, queue: u64, verdict: Verdict, first: u64, count: u32) -> Outcome {
        let verdicts = vec![Settlement { verdict, first, count }];
        self.queue(QueueCommand::Settle { queue, group: queue, token: 0, verdicts })
    }

    pub(crate) fn stats(&self, queue: u64) -> QueueStats {
        self.broker.queue_stats(queue).expect("declared")
    }
}
