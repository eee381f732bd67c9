//! Queues against a naive model: random commands, the same outcomes, the same messages in every queue and
//! open to every group, the same references to the log after each entry. A twin that is read back from a
//! snapshot now and then does exactly the same, step for step.
//!
//! `BROKER_CASES` sets how many sequences are run (default 300), `BROKER_SEED` the first seed.

mod naive;

use std::collections::BTreeMap;

use fluxmq_commands::command::queue::*;
use fluxmq_commands::command::{Batch, Command, Key, Publish};
use fluxmq_commands::{EntryBuilder, Outcome};
use fluxmq_names::{ErrorCode, Position, ShardId};
use logd_broker::limits::STEPS_MAX;
use logd_broker::{Broker, GroupCursor, QueueMessage};
use naive::Model;

const COMMANDS: usize = 220;
const NAMES: [&str; 3] = ["qa", "qb", "qc"];
const GROUPS: [&str; 3] = ["default", "ga", "gb"];
const FILTERS: [&str; 4] = ["a", "a/#", "+", "b"];
const TOPICS: [&str; 4] = ["a", "b", "a/b", "c"];
const GATEWAYS: [u64; 2] = [5 << 20, 6 << 20];

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Run {
    random: Random,
    broker: Broker,
    twin: Broker,
    model: Model,
    sequences: BTreeMap<u64, u64>,
    ended: Vec<u64>,
    index: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            broker: Broker::new(ShardId(0)),
            twin: Broker::new(ShardId(0)),
            model: Model::default(),
            sequences: GATEWAYS.iter().map(|g| (*g, 1)).collect(),
            ended: Vec::new(),
            index: 1,
        }
    }

    fn arguments(&mut self) -> Arguments<'static> {
        let r = &mut self.random;
        let retention = if r.chance(75) { Retention::Acked } else { Retention::Policy };
        let odd = |r: &mut Random, all: &[u64]| if r.chance(60) { 0 } else { r.one(all) };
        Arguments {
            retention,
            overflow: r.one(&[Overflow::DropHead, Overflow::Reject, Overflow::DeadLetter]),
            max_messages: odd(r, &[1, 3, 10]),
            max_bytes: odd(r, &[20, 60]),
            message_ttl_ms: odd(r, &[500, 5_000]),
            expires_ms: odd(r, &[4_000, 20_000]),
            delivery_limit: odd(r, &[1, 3]) as u32,
            backoff_ms: odd(r, &[1, 1_000]) as u32,
            backoff_max_ms: odd(r, &[1_500]) as u32,
            levels: odd(r, &[1, 3, 10]) as u8,
            dedup_window_ms: odd(r, &[2_000]),
            compact: r.chance(20),
            auto_delete: r.chance(10),
            dead_letter: r.one(&["", "qa", "qb", "qc", "elsewhere"]),
            sharing: r.one(&[
                Sharing::Shared,
                Sharing::Shared,
                Sharing::SingleActive,
                Sharing::Keyed,
            ]),
            ..Arguments::default()
        }
    }

    /// A queue and a group that exist, mostly.
    fn target(&mut self) -> (u64, u64) {
        let all: Vec<_> = self.model.queues.values().collect();
        if all.is_empty() || self.random.chance(2) {
            return (999, 1);
        }
        let q = all[self.random.below(all.len() as u64) as usize];
        let groups: Vec<_> = q.groups.keys().copied().collect();
        let group =
            if groups.is_empty() || self.random.chance(2) { 1 } else { self.random.one(&groups) };
        (q.id, group)
    }

    fn token(&mut self, (queue, group): (u64, u64)) -> u64 {
        let q = self.model.queues.values().find(|q| q.id == queue);
        let Some(g) = q.and_then(|q| q.groups.get(&group)) else { return 0 };
        if self.random.chance(5) {
            return 3;
        }
        match g.sharing {
            Sharing::Keyed => {
                let members: Vec<_> = g.members.keys().copied().collect();
                if members.is_empty() { 0 } else { self.random.one(&members) }
            }
            _ => g.epoch,
        }
    }

    fn options(&mut self) -> Options<'static> {
        let now_ms = self.model.now_ms;
        let r = &mut self.random;
        Options {
            priority: if r.chance(50) { r.below(12) as u8 } else { 0 },
            deliver_at_ms: if r.chance(15) { now_ms + r.below(4_000) } else { 0 },
            message_id: if r.chance(30) { r.one(&["m1", "m2", "m3"]) } else { "" },
            key: if r.chance(40) { r.one(&[b"k1", b"k2"]) } else { b"" },
            producer: r.chance(20).then(|| (r.one(&["p1", "p2"]), r.below(30))),
        }
    }

    fn enqueue(&mut self) -> QueueCommand<'static> {
        let options = self.options();
        let now_ms = self.model.now_ms;
        let mut queues: Vec<u64> = Vec::new();
        for _ in 0..=self.random.below(2) {
            queues.push(self.target().0);
        }
        queues.sort_unstable();
        let r = &mut self.random;
        if !r.chance(3) {
            queues.dedup();
        }
        let reason = DeadReason::Rejected;
        let dead = DeadLetter { reason, hops: 7, count: 1, shard: 2, queue: 3, offset: 4 };
        let key = r.chance(10).then(|| Key { shard: 3, id: 1, n: r.below(20) });
        let bytes: Vec<u8> = queues.iter().flat_map(|q| q.to_le_bytes()).collect();
        QueueCommand::Enqueue(Enqueue {
            queues: bytes.leak(),
            expiry_ms: r.chance(20).then(|| now_ms + 1 + r.below(5_000)),
            key,
            lowest_open: key.map(|_| 0),
            options,
            dead: r.chance(5).then_some(dead),
        })
    }

    fn settle(&mut self) -> QueueCommand<'static> {
        let (queue, group) = self.target();
        let token = self.token((queue, group));
        let tail = self.model.queues.values().find(|q| q.id == queue).map_or(1, |q| q.tail() + 2);
        let r = &mut self.random;
        let verdicts = (0..=r.below(3)).map(|_| {
            let verdict = r.one(&[
                Verdict::Ack,
                Verdict::Ack,
                Verdict::Return,
                Verdict::ReturnLater,
                Verdict::Reject,
                Verdict::Release,
                Verdict::AckBelow,
            ]);
            let few = if verdict == Verdict::AckBelow { 2 } else { tail };
            let first = if verdict == Verdict::AckBelow { r.below(tail) / 2 } else { r.below(few) };
            Settlement { verdict, first, count: r.below(5) as u32 }
        });
        QueueCommand::Settle { queue, group, token, verdicts: verdicts.collect() }
    }

    fn give(&mut self) -> QueueCommand<'static> {
        let (queue, group) = self.target();
        let tail = self.model.queues.values().find(|q| q.id == queue).map_or(1, |q| q.tail() + 2);
        let r = &mut self.random;
        let to = Recipient { shard: r.below(2) as u32, session: r.below(9), identifier: 7 };
        QueueCommand::Give { queue, group, offset: r.below(tail), to: r.chance(70).then_some(to) }
    }

    fn on_group(&mut self) -> QueueCommand<'static> {
        let (queue, group) = self.target();
        let token = self.token((queue, group));
        let r = &mut self.random;
        let offset = Start::Offset(r.below(40));
        let start = r.one(&[Start::First, Start::Last, Start::Next, offset]);
        match r.below(10) {
            0..=2 => QueueCommand::GroupCreate {
                queue,
                name: r.one(&GROUPS),
                start,
                sharing: r.one(&[Sharing::Shared, Sharing::Keyed, Sharing::Exclusive]),
            },
            3 => QueueCommand::GroupDelete { queue, group },
            4 => QueueCommand::GroupSeek { queue, group, start },
            5 => QueueCommand::GroupCopy { queue, group, name: r.one(&GROUPS) },
            6..=7 => QueueCommand::GroupJoin {
                queue,
                group,
                consumer: 1,
                priority: r.below(2) as u8,
                stays: if r.chance(30) { Stays::UntilItLeaves } else { Stays::WithGateway },
            },
            _ => QueueCommand::GroupLeave { queue, group, token },
        }
    }

    fn command(&mut self) -> QueueCommand<'static> {
        let (queue, _) = self.target();
        let arguments = self.arguments();
        match self.random.below(106) {
            0..=5 => {
                let r = &mut self.random;
                QueueCommand::Declare {
                    vhost: "/",
                    name: r.one(&NAMES),
                    arguments,
                    passive: r.chance(10),
                }
            }
            6..=7 => {
                let r = &mut self.random;
                QueueCommand::Delete { queue, if_empty: r.chance(50), if_unused: r.chance(50) }
            }
            8 => QueueCommand::Purge { queue },
            9..=11 => {
                let r = &mut self.random;
                QueueCommand::Bind { queue, filter: r.one(&FILTERS), bound: r.chance(70) }
            }
            12..=49 => self.enqueue(),
            50..=79 => self.settle(),
            80..=81 => {
                let waiting = self.broker.scheduled(queue, 9);
                let r = &mut self.random;
                let ids = waiting.iter().filter(|_| r.chance(30)).map(|(_, id)| *id).collect();
                QueueCommand::CancelScheduled { queue, ids }
            }
            82..=97 => self.on_group(),
            98 => QueueCommand::Touch { queue },
            99..=104 => self.give(),
            _ => QueueCommand::Expire { queue, spared: Vec::new() },
        }
    }

    /// What only the leader says.
    fn leader_command(&mut self) -> Command<'static> {
        let (queue, _) = self.target();
        let moves: Vec<_> = self.broker.owed_moves().map(|(q, n, ..)| (q, n)).collect();
        let r = &mut self.random;
        match r.below(12) {
            0..=5 => Command::Tick,
            6..=8 => {
                let spared = (0..r.below(3)).map(|_| (r.below(30), r.below(4) as u32)).collect();
                Command::Queue(QueueCommand::Expire { queue, spared })
            }
            9 if self.ended.is_empty() && r.chance(20) => {
                let epoch = r.one(&GATEWAYS);
                self.ended.push(epoch);
                Command::GatewayEnded { epoch }
            }
            // Leases that ended.
            10 => {
                let mut settle = self.settle();
                if let QueueCommand::Settle { token, .. } = &mut settle {
                    *token = 0;
                }
                Command::Queue(settle)
            }
            _ if !moves.is_empty() => {
                let (queue, n) = r.one(&moves);
                Command::Queue(QueueCommand::Moved {
                    queue,
                    dropped: r.chance(30),
                    numbers: vec![n, 77],
                })
            }
            _ => Command::Tick,
        }
    }

    fn expected(
        &mut self,
        gateway: u64,
        position: u64,
        command: &Command<'static>,
        size: u64,
    ) -> Outcome {
        match command {
            Command::Queue(QueueCommand::Expire { .. } | QueueCommand::Moved { .. })
                if gateway != 0 =>
            {
                Outcome::refused(ErrorCode::Forbidden)
            }
            Command::Queue(command) => self.model.apply(gateway, position, command, size),
            Command::Publish(publish) => self.model.publish(position, publish, size),
            Command::Tick => {
                self.model.tick();
                Outcome::Done
            }
            Command::GatewayEnded { epoch } => {
                self.model.end_gateway(position, *epoch);
                Outcome::Done
            }
            other => panic!("{other:?}"),
        }
    }

    /// One entry of one command of a gateway or the leader.
    fn step(&mut self) {
        if self.random.chance(30) {
            self.model.now_ms += self.random.below(1_500);
        }
        let mut builder = EntryBuilder::default();
        let body = vec![7; self.random.below(30) as usize];
        let position = Position::new(self.index, 1).0;
        let leads = self.random.chance(15);
        let (gateway, command) = if leads {
            (0, self.leader_command())
        } else if self.random.chance(12) {
            let options = self.options();
            let topic = self.random.one(&TOPICS);
            let qos = self.random.below(3) as u8;
            let publish = Publish { qos, vhost: "/", topic, options, ..Publish::default() };
            (self.random.one(&GATEWAYS), Command::Publish(publish))
        } else {
            (self.random.one(&GATEWAYS), Command::Queue(self.command()))
        };
        let fenced = self.ended.contains(&gateway);
        let sequence = if leads { 0 } else { self.sequences[&gateway] };
        let head = Batch {
            gateway_epoch: gateway,
            stream: u32::from(!leads),
            first_sequence: sequence,
            count: 1,
            crc: 0,
            confirmed_upto: sequence.saturating_sub(1),
        };
        builder.push(|out| Command::Batch(head).encode(&[], out));
        builder.push(|out| command.encode(&body, out));
        let expected = match fenced && !leads {
            true => Outcome::refused(ErrorCode::Fenced),
            false => self.expected(gateway, position, &command, body.len() as u64),
        };
        if !leads {
            self.sequences.insert(gateway, sequence + 1);
        }
        let payload = builder.close(self.model.now_ms);
        let applied = self.broker.apply(self.index, &payload).expect("well-formed");
        assert_eq!(applied.outcomes, [(1, expected)], "entry {}: {command:?}", self.index);
        assert!(applied.steps <= STEPS_MAX);
        assert_eq!(self.twin.apply(self.index, &payload), Ok(applied), "the twin differs");
        self.index += 1;
    }

    /// One entry of a transaction of a gateway that has not ended.
    fn transact(&mut self) {
        let gateway = self.random.one(&GATEWAYS);
        if self.ended.contains(&gateway) {
            return;
        }
        let count = 1 + self.random.below(4);
        let body = vec![7; self.random.below(30) as usize];
        let mut builder = EntryBuilder::default();
        let first_sequence = self.sequences[&gateway];
        let head = Batch {
            gateway_epoch: gateway,
            stream: 1,
            first_sequence,
            count: count as u32 + 1,
            crc: 0,
            confirmed_upto: first_sequence - 1,
        };
        builder.push(|out| Command::Batch(head).encode(&[], out));
        let begin = QueueCommand::Transaction { count: count as u16 };
        builder.push(|out| Command::Queue(begin).encode(&[], out));
        let mut parts = Vec::new();
        for slot in 2..2 + count as u32 {
            let part = if self.random.chance(60) { self.enqueue() } else { self.settle() };
            builder.push(|out| Command::Queue(part.clone()).encode(&body, out));
            parts.push((Position::new(self.index, slot).0, part));
        }
        self.sequences.insert(gateway, first_sequence + count + 1);
        let expected = self.model.transaction(gateway, &parts, body.len() as u64);
        let expected: Vec<_> = (1..).zip(expected).collect();
        let payload = builder.close(self.model.now_ms);
        let applied = self.broker.apply(self.index, &payload).expect("well-formed");
        assert_eq!(applied.outcomes, expected, "entry {}: {parts:?}", self.index);
        assert_eq!(self.twin.apply(self.index, &payload), Ok(applied), "the twin differs");
        self.index += 1;
    }

    fn check(&self) {
        let names: Vec<_> =
            self.broker.queues().map(|(_, name, id)| (name.to_string(), id)).collect();
        let want: Vec<_> = self.model.queues.iter().map(|(n, q)| (n.clone(), q.id)).collect();
        assert_eq!(names, want);
        assert_eq!(self.broker.live_references(), self.model.references());
        for q in self.model.queues.values() {
            self.check_queue(q);
        }
        let moves: Vec<_> =
            self.broker.owed_moves().map(|(q, n, m, _)| (q, n, m.position, m.to)).collect();
        let mut want: Vec<_> = Vec::new();
        for q in self.model.queues.values() {
            want.extend(q.moving.iter().map(|(n, (position, to))| (q.id, *n, *position, *to)));
        }
        want.sort_by_key(|(q, n, ..)| (*q, *n));
        assert_eq!(moves, want);
        let bound: Vec<_> = self.broker.bindings().map(|(_, f)| f.to_string()).collect();
        let want: std::collections::BTreeSet<_> =
            self.model.queues.values().flat_map(|q| q.bindings.iter().cloned()).collect();
        assert!(bound.iter().eq(want.iter()));
    }

    fn check_queue(&self, q: &naive::Queue) {
        let stats = self.broker.queue_stats(q.id).expect("in the model");
        let c = stats.counters;
        let got =
            (stats.messages, stats.bytes, stats.scheduled, stats.moving, stats.first, stats.next);
        let alive = q.alive().count() as u64;
        let waiting = (q.scheduled.len() as u64, q.moving.len() as u64);
        assert_eq!(got, (alive, q.bytes(), waiting.0, waiting.1, q.floor(), q.tail()));
        assert_eq!(
            (c.expired, c.overflowed, c.rejected, c.delivery_limited, c.compacted),
            (q.expired, q.overflowed, q.rejected, q.limited, q.compacted)
        );
        assert_eq!((c.dead_lettered, c.cycled, c.repeats), (q.dead_lettered, q.cycled, q.repeats));
        let shown = |(offset, m): (u64, &naive::Message), count| QueueMessage {
            offset,
            position: m.position,
            count,
            priority: m.priority,
            expiry_ms: (m.expiry_ms > 0).then_some(m.expiry_ms),
            dead: m.dead,
        };
        let want: Vec<_> = q.alive().map(|m| shown(m, 0)).collect();
        assert_eq!(self.broker.browse(q.id, 0, 10_000), want);
        for m in &want {
            let entry = Position(m.position).index();
            assert!(self.broker.is_live(entry..=entry), "there, but not live");
        }
        assert_eq!(stats.groups.len(), q.groups.len());
        for (s, (id, g)) in stats.groups.iter().zip(&q.groups) {
            let open: Vec<_> = q.alive().filter(|(o, _)| !g.has_settled(*o)).collect();
            assert_eq!((s.group, &*s.name, s.sharing), (*id, &*g.name, g.sharing));
            assert_eq!((s.cursor, s.open), (q.cursor(g), open.len() as u64));
            assert_eq!((s.members, s.active, s.epoch), (g.members.len() as u64, g.active, g.epoch));
            let now_ms = self.model.now_ms;
            let fresh = |m: &naive::Message| m.expiry_ms == 0 || m.expiry_ms > now_ms;
            let ready = |until: &u64| *until <= now_ms;
            let mut owed = Vec::new();
            self.broker.owed_to_group(q.id, *id, &mut GroupCursor::default(), 10_000, &mut owed);
            let new = open.iter().filter(|(o, m)| !g.returned.contains_key(o) && fresh(m));
            let mut want: Vec<_> = new.map(|(o, m)| shown((*o, m), 0)).collect();
            want.sort_by_key(|m| (std::cmp::Reverse(m.priority), m.offset));
            // From the seventeenth on the lowest priority has its turn now and then.
            let strictly = owed.len().min(16);
            assert_eq!(owed[..strictly], want[..want.len().min(16)], "open to {}", g.name);
            owed.sort_by_key(|m| (std::cmp::Reverse(m.priority), m.offset));
            assert_eq!(owed, want);
            let mut back = Vec::new();
            self.broker.returned_to_group(q.id, *id, None, 10_000, &mut back);
            let of = |(o, m): &(u64, &naive::Message)| {
                let (count, until) = g.returned.get(o)?;
                (fresh(m) && ready(until)).then(|| shown((*o, m), *count))
            };
            assert_eq!(back, open.iter().filter_map(of).collect::<Vec<_>>(), "to be given again");
        }
    }

    /// The twin is read back from a snapshot.
    fn restore(&mut self) {
        let bytes = self.twin.snapshot().encode();
        self.twin = Broker::restore(&bytes).expect("a snapshot");
        assert_eq!(self.twin.state_hash(), self.broker.state_hash());
        assert_eq!(self.twin.live_references(), self.broker.live_references());
        assert_eq!(self.twin.next_due(), self.broker.next_due());
        assert_eq!(self.twin.next_expiry(), self.broker.next_expiry());
    }

    /// When all queues are deleted nothing of the log is needed any more.
    fn end(&mut self) {
        let ids: Vec<_> = self.broker.queues().map(|(_, _, id)| id).collect();
        for queue in ids {
            let delete = QueueCommand::Delete { queue, if_empty: false, if_unused: false };
            let mut builder = EntryBuilder::default();
            builder.push(|out| Command::Queue(delete).encode(&[], out));
            self.broker.apply(self.index, &builder.close(0)).expect("well-formed");
            self.index += 1;
        }
        assert_eq!(self.broker.live_references(), 0);
        assert_eq!(self.broker.bindings().count(), 0);
        assert_eq!((self.broker.next_due(), self.broker.next_expiry()), (None, None));
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn queues_do_what_the_model_does() {
    let (cases, first) = (variable("BROKER_CASES", 300), variable("BROKER_SEED", 1));
    for seed in first..first + cases {
        let run = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..COMMANDS {
                if run.random.chance(8) {
                    run.transact();
                } else {
                    run.step();
                }
                run.check();
                if run.random.chance(4) {
                    run.restore();
                }
            }
            run.end();
        });
        assert!(run.is_ok(), "seed {seed}: BROKER_SEED={seed} BROKER_CASES=1 runs it alone");
    }
}
