//! The broker against a naive model: random commands, the same outcomes, the same messages owed to every
//! session, the same retained messages and wills after each; a snapshot read back changes nothing.
//!
//! `BROKER_CASES` sets how many sequences are run (default 300), `BROKER_SEED` the first seed.

mod naive;

use std::collections::BTreeMap;

use fluxmq_commands::command::{
    Batch, Command, Connect, Key, NEVER, Progress, Publish, Settled, ToList, Wanted, Will,
};
use fluxmq_commands::{EntryBuilder, Outcome};
use fluxmq_names::{Position, ShardId};
use logd_broker::limits::STEPS_MAX;
use logd_broker::{Broker, DeliveryCursor, Owed};
use naive::Model;

const COMMANDS: usize = 220;
const CLIENTS: [&str; 4] = ["c0", "c1", "c2", "c3"];
const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "b", "$s/x", "b/a"];
const FILTERS: [&str; 9] = ["a", "a/#", "+", "#", "a/+", "b", "+/+", "$s/+", "a/b/c"];
const GATEWAYS: [u64; 2] = [5, 6];

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to choose commands.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
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
    model: Model,
    /// Next sequence of each gateway's stream.
    sequences: BTreeMap<u64, u64>,
    ended: Vec<u64>,
    index: u64,
    /// What a leader keeps for each session, across everything that happens.
    cursors: BTreeMap<u64, DeliveryCursor>,
    delivered: BTreeMap<u64, Vec<Owed>>,
    /// Topic of each message, and whether it was copied into a list.
    topics: BTreeMap<u64, (&'static str, bool)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            broker: Broker::new(ShardId(0)),
            model: Model::default(),
            sequences: GATEWAYS.iter().map(|g| (*g, 1)).collect(),
            ended: Vec::new(),
            index: 1,
            cursors: BTreeMap::new(),
            delivered: BTreeMap::new(),
            topics: BTreeMap::new(),
        }
    }

    /// A session that exists, its epoch right nearly always; or one that never did.
    fn session(&mut self) -> (u64, u64) {
        let all: Vec<_> = self.model.sessions.values().map(|s| (s.id, s.epoch)).collect();
        if all.is_empty() || self.random.chance(3) {
            return (999, 1);
        }
        let (id, epoch) = self.random.one(&all);
        (id, if self.random.chance(5) { epoch - 1 } else { epoch })
    }

    fn gateway(&mut self, session: u64) -> u64 {
        let owner = self.model.sessions.values().find(|s| s.id == session).and_then(|s| s.owner);
        match owner {
            Some((gateway, _)) if !self.random.chance(4) => gateway,
            _ => self.random.one(&GATEWAYS),
        }
    }

    /// A command a gateway may send.
    fn command(&mut self) -> (u64, Command<'static>) {
        let (session, epoch) = self.session();
        let gateway = self.gateway(session);
        let r = &mut self.random;
        let number = r.below(60);
        let command = match r.below(100) {
            0..=11 => Command::Connect(Connect {
                vhost: "/",
                client_id: r.one(&CLIENTS),
                clean_start: r.chance(25),
                expiry_s: r.one(&[0, 1, 5, 60, NEVER]),
                window: r.one(&[1, 3, 20]),
                token: r.below(1_000) + 1,
                will: r.chance(40).then(|| Will {
                    qos: 1,
                    retain: false,
                    delay_s: r.one(&[0, 0, 2, 100]),
                    expiry_s: 0,
                    topic: "will",
                }),
            }),
            12..=28 => Command::Subscribe {
                session,
                epoch,
                filters: (0..=r.below(2))
                    .map(|_| Wanted {
                        options: r.below(3) as u8 | (r.below(4) as u8) << 2,
                        identifier: r.below(4) as u32,
                        filter: r.one(&FILTERS),
                        more: "",
                    })
                    .collect(),
            },
            29..=36 => Command::Unsubscribe { session, epoch, filters: vec![r.one(&FILTERS)] },
            37..=70 => Command::Publish(self.publish(session)),
            71..=86 => Command::Settle {
                session,
                epoch,
                sent_upto: number + r.below(20),
                ranges: (0..=r.below(2))
                    .map(|_| Settled {
                        first: r.below(number + 1),
                        count: r.below(25) as u32,
                        received: r.chance(25),
                    })
                    .collect(),
            },
            87..=90 => Command::Qos2Open { session, epoch, packet_id: r.below(5) as u16 + 1 },
            91..=93 => Command::Qos2Close { session, epoch, packet_id: r.below(5) as u16 + 1 },
            94 => Command::Tick,
            _ => Command::Disconnect {
                session,
                epoch,
                publish_will: r.chance(50),
                expiry_s: r.chance(20).then(|| r.one(&[0, 3])),
                sent_upto: number,
            },
        };
        (gateway, command)
    }

    fn publish(&mut self, session: u64) -> Publish<'static> {
        let now_ms = self.model.now_ms;
        let r = &mut self.random;
        let keyed = r.chance(15);
        let qos = r.below(3) as u8;
        Publish {
            qos,
            retain: r.chance(30),
            store: r.chance(20),
            empty: r.chance(30),
            vhost: "/",
            topic: r.one(&TOPICS),
            expiry_ms: r.chance(20).then(|| now_ms + r.below(5_000)),
            key: keyed.then(|| Key { shard: 3, id: r.below(2), n: r.below(30) }),
            lowest_open: keyed.then(|| r.below(8)),
            publisher: r.chance(60).then_some((0, session)),
            list: None,
            ..Publish::default()
        }
    }

    /// The leader's part in a replay of retained messages.
    fn replay_command(&mut self, session: u64) -> Option<Command<'static>> {
        let state = self.broker.session(session)?;
        let ids: Vec<_> = state.replays.keys().copied().collect();
        let r = &mut self.random;
        let replay = if ids.is_empty() || r.chance(5) { 0 } else { r.one(&ids) };
        let (shard, topic) = (r.below(2) as u32, r.one(&TOPICS));
        if r.chance(30) {
            let progress = r.one(&[Progress::Upto, Progress::ShardDone, Progress::Done]);
            return Some(Command::ReplayAt { session, replay, shard, after: topic, progress });
        }
        let source = Position::new(self.index - self.index.min(r.below(9)), 0).0;
        let identifiers: &[u8] = if r.chance(50) { &[] } else { &[7, 0, 0, 0] };
        let list = ToList { session, replay, shard, source, identifiers };
        let key = (replay == 0).then(|| Key { shard: 3, id: 9, n: r.below(30) });
        Some(Command::Publish(Publish {
            qos: 1 + r.below(2) as u8,
            retain: true,
            vhost: "/",
            topic,
            key,
            lowest_open: key.map(|_| 0),
            list: Some(list),
            ..Publish::default()
        }))
    }

    /// What only leaders say.
    fn leader_command(&mut self) -> Command<'static> {
        let (session, _) = self.session();
        let owed: Vec<_> = self.model.owed_wills.iter().copied().collect();
        if self.random.chance(40)
            && let Some(command) = self.replay_command(session)
        {
            return command;
        }
        let r = &mut self.random;
        match r.below(10) {
            0..=4 => Command::Tick,
            5..=6 => Command::Trim { session, number: r.below(80) },
            7 if self.ended.is_empty() && r.chance(20) => {
                let epoch = r.one(&GATEWAYS);
                self.ended.push(epoch);
                Command::GatewayEnded { epoch }
            }
            _ if !owed.is_empty() => Command::OwedDone { id: r.one(&owed) },
            _ => Command::Tick,
        }
    }

    /// One entry of a few commands, to both.
    fn step(&mut self) -> usize {
        if self.random.chance(20) {
            self.model.now_ms += self.random.below(4_000);
        }
        let mut builder = EntryBuilder::default();
        let mut expected = Vec::new();
        let count = 1 + self.random.below(4);
        let mut commands = 0;
        while commands < count {
            let slot = builder.len() as u32;
            if self.random.chance(15) {
                let command = self.leader_command();
                let head = Batch {
                    gateway_epoch: 0,
                    stream: 0,
                    first_sequence: 0,
                    count: 1,
                    crc: 0,
                    confirmed_upto: 0,
                };
                builder.push(|out| Command::Batch(head).encode(&[], out));
                builder.push(|out| command.encode(&[], out));
                let position = Position::new(self.index, slot + 1).0;
                self.note(position, &command);
                expected.push((slot + 1, self.model.apply(0, position, &command)));
            } else {
                self.gateway_batch(&mut builder, slot, &mut expected);
            }
            commands += 1;
        }
        let payload = builder.close(self.model.now_ms);
        let applied = self.broker.apply(self.index, &payload).expect("well-formed");
        assert_eq!(applied.outcomes, expected, "entry {}", self.index);
        assert!(applied.steps <= STEPS_MAX, "{} steps", applied.steps);
        self.index += 1;
        commands as usize
    }

    fn note(&mut self, position: u64, command: &Command<'static>) {
        if let Command::Publish(publish) = command {
            self.topics.insert(position, (publish.topic, publish.list.is_some()));
        }
    }

    fn gateway_batch(
        &mut self,
        builder: &mut EntryBuilder,
        slot: u32,
        expected: &mut Vec<(u32, Outcome)>,
    ) {
        let (gateway, command) = self.command();
        let repeats = if self.random.chance(10) { 2 } else { 1 };
        let sequence = self.sequences[&gateway];
        let position = Position::new(self.index, slot + 1).0;
        let fenced = self.ended.contains(&gateway);
        let allowed = !matches!(command, Command::Tick);
        self.note(position, &command);
        let outcome = if fenced {
            Outcome::refused(fluxmq_names::ErrorCode::Fenced)
        } else if allowed {
            self.model.apply(gateway, position, &command)
        } else {
            Outcome::refused(fluxmq_names::ErrorCode::Forbidden)
        };
        self.sequences.insert(gateway, sequence + 1);
        for repeat in 0..repeats {
            let head = Batch {
                gateway_epoch: gateway,
                stream: 1,
                first_sequence: sequence,
                count: 1,
                crc: 0,
                confirmed_upto: sequence - 1,
            };
            builder.push(|out| Command::Batch(head).encode(&[], out));
            builder.push(|out| command.encode(b"body", out));
            expected.push((slot + 1 + 2 * repeat, outcome.clone()));
        }
    }

    fn check(&mut self) {
        assert_eq!(self.broker.sessions(), self.model.sessions.len());
        let wills: Vec<_> = self.broker.owed_wills().map(|(id, _)| id).collect();
        assert_eq!(wills, self.model.owed_wills.iter().copied().collect::<Vec<_>>());
        for (name, model) in &self.model.sessions {
            let id = self.broker.session_of("/", name).expect("in the model");
            let session = self.broker.session(id).expect("indexed");
            assert_eq!((id, session.epoch, session.owner), (model.id, model.epoch, model.owner));
            assert_eq!(session.cursor, model.cursor().min(model.owed.len() as u64));
            let mut owed = Vec::new();
            let mut cursor = DeliveryCursor::at_start(session);
            self.broker.owed_from(id, &mut cursor, 10_000, &mut owed);
            for message in &mut owed {
                let (topic, copied) = self.topics[&message.position];
                if !copied {
                    let more = session.identifiers_of_zero(message.position, topic);
                    message.identifiers.extend(more);
                }
            }
            compare(&owed, model, name);
            let replays = session.replays.values().map(|r| (&*r.filter, &r.shards));
            let want = model.replays.values().map(|r| (r.filter.as_str(), &r.shards));
            assert!(replays.eq(want), "replays of {name}");
            for message in &owed {
                let index = Position(message.position).index();
                assert!(self.broker.is_live(index..=index), "owed, but not live");
            }
            // The cursor a leader kept sees each message once, in order.
            let cursor =
                self.cursors.entry(id).or_insert_with(|| DeliveryCursor::at_start(session));
            let delivered = self.delivered.entry(id).or_default();
            self.broker.owed_from(id, cursor, 10_000, delivered);
            assert!(delivered.is_sorted_by(|a, b| a.number < b.number), "out of order or twice");
            for message in delivered.iter() {
                let want = &model.owed[message.number as usize];
                assert_eq!((message.position, message.qos), (want.position, want.qos));
            }
        }
        for filter in FILTERS {
            let broker = self.broker.retained_matching("/", filter, "", 100);
            assert_eq!(broker.next, None);
            let mut broker: Vec<_> =
                broker.entries.iter().map(|(t, r)| (t.as_str(), r.position)).collect();
            broker.sort_unstable();
            let now = self.model.now_ms;
            let model = self.model.retained.iter().filter(|(topic, (_, _, expiry))| {
                naive::filter_matches(filter, topic) && expiry.is_none_or(|ms| ms > now)
            });
            let model: Vec<_> = model.map(|(t, (p, ..))| (t.as_str(), *p)).collect();
            assert_eq!(broker, model, "retained for {filter}");
        }
    }

    /// A snapshot read back is the same broker.
    fn restore(&mut self) {
        let bytes = self.broker.snapshot().encode();
        let restored = Broker::restore(&bytes).expect("a snapshot");
        assert_eq!(restored.state_hash(), self.broker.state_hash());
        assert_eq!(restored.live_references(), self.broker.live_references());
        assert_eq!(restored.next_due(), self.broker.next_due());
        self.broker = restored;
    }

    /// When everything has ended, nothing of the log is needed any more.
    fn end(&mut self) {
        let mut say = |command: Command<'_>| {
            let mut builder = EntryBuilder::default();
            builder.push(|out| command.encode(&[], out));
            let payload = builder.close(u64::MAX / 2);
            self.broker.apply(self.index, &payload).expect("well-formed");
            self.index += 1;
        };
        say(Command::EndGatewaysBefore { epoch: 100 });
        for topic in TOPICS {
            let empty =
                Publish { store: true, empty: true, vhost: "/", topic, ..Publish::default() };
            say(Command::Publish(empty));
        }
        for _ in 0..4 {
            say(Command::Tick);
        }
        let owed: Vec<_> = self.broker.owed_wills().map(|(id, _)| id).collect();
        let never = self.broker.sessions();
        if never > 0 {
            return;
        }
        for id in owed {
            let mut builder = EntryBuilder::default();
            builder.push(|out| Command::OwedDone { id }.encode(&[], out));
            let payload = builder.close(0);
            self.broker.apply(self.index, &payload).expect("well-formed");
            self.index += 1;
        }
        assert_eq!(self.broker.live_references(), 0);
        assert_eq!(self.broker.filters().count(), 0);
    }
}

fn compare(owed: &[Owed], model: &naive::Session, name: &str) {
    let want: Vec<_> = model
        .owed
        .iter()
        .enumerate()
        .map(|(n, m)| (n as u64, m))
        .filter(|(n, _)| !model.settled.contains(n))
        .collect();
    assert_eq!(owed.len(), want.len(), "messages owed to {name}");
    for (got, (number, m)) in owed.iter().zip(want) {
        let mut identifiers = got.identifiers.clone();
        identifiers.sort_unstable();
        assert_eq!(
            (got.number, got.position, got.qos, got.retain, got.own, &identifiers),
            (number, m.position, m.qos, m.retain, m.own, &m.identifiers),
            "owed to {name}"
        );
        assert_eq!(got.received, model.received.contains(&number));
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn the_broker_does_what_the_model_does() {
    let (cases, first) = (variable("BROKER_CASES", 300), variable("BROKER_SEED", 1));
    for seed in first..first + cases {
        let run = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            let mut done = 0;
            while done < COMMANDS {
                done += run.step();
                run.check();
                if run.random.chance(5) {
                    run.restore();
                }
            }
            run.end();
        });
        assert!(run.is_ok(), "seed {seed}: BROKER_SEED={seed} BROKER_CASES=1 runs it alone");
    }
}
