//! The same commands, the same state: reads and snapshots leave no trace in it, and how commands were
//! cut into batches and entries shows in nothing but the positions (design S6, S10).

use std::collections::BTreeMap;

use fluxmq_commands::command::queue::*;
use fluxmq_commands::command::{Batch, Command, Connect, NEVER, Publish, Settled, Wanted, Will};
use fluxmq_commands::{Appending, EntryBuilder, Outcome};
use fluxmq_names::{Position, ShardId};
use logd_broker::{Broker, DeliveryCursor, GroupCursor};

const GATEWAY: u64 = 5;
const CLIENTS: [&str; 3] = ["c0", "c1", "c2"];
const QUEUES: [&str; 2] = ["qa", "qb"];
const TOPICS: [&str; 4] = ["a", "a/b", "b", "$s/x"];
const FILTERS: [&str; 6] = ["a", "a/#", "#", "+", "b", "$s/#"];

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
}

/// A command whose session, epoch, queue and group are ordinals of the commands that made them.
struct Said {
    time_ms: u64,
    command: Command<'static>,
}

/// Chooses the next command; `sessions` holds client → (session, epoch) as ordinals.
fn choose(r: &mut Random, sessions: &BTreeMap<&str, (u64, u64)>) -> Command<'static> {
    let (session, epoch) = sessions.get(r.one(&CLIENTS)).copied().unwrap_or_default();
    let n = r.below(30);
    if r.below(3) == 0 {
        return Command::Queue(choose_queue(r, sessions));
    }
    match r.below(20) {
        0..=2 => Command::Connect(Connect {
            vhost: "/",
            client_id: r.one(&CLIENTS),
            clean_start: r.below(5) == 0,
            expiry_s: r.one(&[3, 60, NEVER]),
            window: r.one(&[2, 20]),
            token: 1,
            will: (r.below(3) == 0).then_some(Will {
                qos: 1,
                retain: false,
                delay_s: 2,
                expiry_s: 0,
                topic: "w",
            }),
        }),
        3..=5 => Command::Subscribe {
            session,
            epoch,
            filters: vec![Wanted {
                options: (1 + r.below(2) as u8) | ((r.below(4) as u8) << 2),
                identifier: r.below(3) as u32,
                filter: r.one(&FILTERS),
                more: "",
            }],
        },
        6 => Command::Unsubscribe { session, epoch, filters: vec![r.one(&FILTERS)] },
        7..=9 => Command::Settle {
            session,
            epoch,
            sent_upto: n + 10,
            ranges: vec![Settled {
                first: n / 2,
                count: r.below(15) as u32,
                received: r.below(4) == 0,
            }],
        },
        10 => Command::Qos2Open { session, epoch, packet_id: r.below(4) as u16 },
        11 => Command::Qos2Close { session, epoch, packet_id: r.below(4) as u16 },
        12 => Command::Disconnect {
            session,
            epoch,
            publish_will: r.below(2) == 0,
            expiry_s: None,
            sent_upto: n,
        },
        _ => Command::Publish(Publish {
            qos: r.below(3) as u8,
            retain: r.below(3) == 0,
            store: r.below(4) == 0,
            empty: r.below(4) == 0,
            vhost: "/",
            topic: r.one(&TOPICS),
            ..Publish::default()
        }),
    }
}

/// A command on queues; `made` holds name → (queue, 0) among the sessions.
fn choose_queue(r: &mut Random, made: &BTreeMap<&str, (u64, u64)>) -> QueueCommand<'static> {
    let name = r.one(&QUEUES);
    let (queue, _) = made.get(name).copied().unwrap_or_default();
    let group = queue;
    match r.below(12) {
        0 => QueueCommand::Declare {
            vhost: "/",
            name,
            arguments: Arguments {
                overflow: Overflow::DeadLetter,
                max_messages: if name == "qa" { 4 } else { 0 },
                message_ttl_ms: 4_000,
                delivery_limit: 2,
                backoff_ms: 500,
                levels: 3,
                dead_letter: if name == "qa" { "qb" } else { "elsewhere" },
                ..Arguments::default()
            },
            passive: false,
        },
        1 => QueueCommand::Bind { queue, filter: r.one(&FILTERS), bound: r.below(3) > 0 },
        2 => QueueCommand::GroupJoin {
            queue,
            group,
            consumer: 1,
            priority: 0,
            stays: Stays::WithGateway,
        },
        3 => QueueCommand::GroupSeek { queue, group, start: r.one(&[Start::First, Start::Next]) },
        4..=7 => QueueCommand::Settle {
            queue,
            group,
            token: 0,
            verdicts: vec![Settlement {
                verdict: r.one(&[
                    Verdict::Ack,
                    Verdict::Return,
                    Verdict::ReturnLater,
                    Verdict::Reject,
                ]),
                first: r.below(20),
                count: r.below(4) as u32,
            }],
        },
        _ => QueueCommand::Enqueue(Enqueue {
            queues: queue.to_le_bytes().to_vec().leak(),
            options: Options {
                priority: r.below(4) as u8,
                deliver_at_ms: if r.below(4) == 0 { 1_000 + r.below(40_000) } else { 0 },
                ..Options::default()
            },
            ..Enqueue::default()
        }),
    }
}

/// The command with ordinals replaced by the positions they have under this cut.
fn resolved(command: &Command<'static>, at: impl Fn(u64) -> u64) -> Command<'static> {
    let mut command = command.clone();
    match &mut command {
        Command::Subscribe { session, epoch, .. }
        | Command::Unsubscribe { session, epoch, .. }
        | Command::Settle { session, epoch, .. }
        | Command::Qos2Open { session, epoch, .. }
        | Command::Qos2Close { session, epoch, .. }
        | Command::Disconnect { session, epoch, .. } => {
            *session = at(*session);
            *epoch = at(*epoch);
        }
        Command::Queue(command) => match command {
            QueueCommand::Enqueue(enqueue) => {
                let queue = at(enqueue.queues().next().unwrap_or_default());
                enqueue.queues = queue.to_le_bytes().to_vec().leak();
            }
            QueueCommand::Bind { queue, .. } => *queue = at(*queue),
            QueueCommand::GroupJoin { queue, group, .. }
            | QueueCommand::GroupSeek { queue, group, .. }
            | QueueCommand::Settle { queue, group, .. } => {
                *queue = at(*queue);
                *group = at(*group);
            }
            _ => {}
        },
        _ => {}
    }
    command
}

/// A broker that is fed commands cut in some way.
struct Fed {
    broker: Broker,
    index: u64,
    sequence: u64,
    /// Position by ordinal, from 1; ordinal 0 is a session that never was.
    positions: Vec<u64>,
    outcomes: Vec<Outcome>,
    entries: Vec<(u64, Vec<u8>)>,
}

impl Fed {
    fn new() -> Self {
        Self {
            broker: Broker::new(ShardId(0)),
            index: 1,
            sequence: 1,
            positions: vec![0],
            outcomes: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// One entry: `batches` say how many commands each batch has.
    fn feed(&mut self, said: &[Said], batches: &[usize]) {
        let mut builder = EntryBuilder::default();
        let mut rest = said;
        for &count in batches {
            let (batch, behind) = rest.split_at(count);
            rest = behind;
            let head = Batch {
                gateway_epoch: GATEWAY,
                stream: 1,
                first_sequence: self.sequence,
                count: count as u32,
                crc: 0,
                confirmed_upto: self.sequence - 1,
            };
            builder.push(|out| Command::Batch(head).encode(&[], out));
            for one in batch {
                let slot = builder.len() as u32;
                self.positions.push(Position::new(self.index, slot).0);
                let command = resolved(&one.command, |n| self.positions[n as usize]);
                builder.push(|out| command.encode(b"m", out));
            }
            self.sequence += count as u64;
        }
        self.close(builder, said.first().map_or(0, |s| s.time_ms), true);
    }

    fn tick(&mut self, time_ms: u64) {
        let mut builder = EntryBuilder::default();
        builder.push(|out| Command::Tick.encode(&[], out));
        self.close(builder, time_ms, false);
    }

    fn close(&mut self, mut builder: EntryBuilder, time_ms: u64, record: bool) {
        let payload = builder.close(time_ms);
        let applied = self.broker.apply(self.index, &payload).expect("well-formed");
        if record {
            self.outcomes.extend(applied.outcomes.into_iter().map(|(_, o)| o));
        }
        self.entries.push((self.index, payload.to_vec()));
        self.index += 1;
    }

    fn ordinal(&self, position: u64) -> u64 {
        if position == 0 {
            return 0;
        }
        self.positions.binary_search(&position).expect("position of a command") as u64
    }

    /// Everything that can be seen of the state, without positions.
    fn seen(&self) -> String {
        let mut seen = String::new();
        for client in CLIENTS {
            let Some(id) = self.broker.session_of("/", client) else { continue };
            let s = self.broker.session(id).expect("indexed");
            let mut owed = Vec::new();
            self.broker.owed_from(id, &mut DeliveryCursor::at_start(s), 10_000, &mut owed);
            for one in &mut owed {
                one.position = self.ordinal(one.position);
                one.identifiers.sort_unstable();
            }
            let (id, epoch) = (self.ordinal(id), self.ordinal(s.epoch));
            let filters: Vec<_> =
                s.subscriptions.iter().map(|(f, s)| (f, s.options, s.identifier)).collect();
            seen += &format!(
                "{client} {id} {epoch} {:?} {} {} {owed:?} {filters:?}\n",
                s.owner, s.cursor, s.sent_upto
            );
        }
        for (_, name, id) in self.broker.queues() {
            let mut all = self.broker.browse(id, 0, 10_000);
            let mut open = Vec::new();
            let mut cursor = GroupCursor::default();
            self.broker.owed_to_group(id, id, &mut cursor, 10_000, &mut open);
            self.broker.returned_to_group(id, id, None, 10_000, &mut open);
            for one in all.iter_mut().chain(&mut open) {
                one.position = self.ordinal(one.position);
                if let Some(dead) = &mut one.dead {
                    dead.queue = self.ordinal(dead.queue);
                }
            }
            let mut stats = self.broker.queue_stats(id).expect("listed");
            for group in &mut stats.groups {
                group.group = self.ordinal(group.group);
            }
            seen += &format!("{name} {all:?} {open:?} {stats:?}\n");
        }
        let moves = self.broker.owed_moves().map(|(_, n, m, _)| (n, self.ordinal(m.position)));
        seen += &format!("{:?}\n", moves.collect::<Vec<_>>());
        let wills = self.broker.owed_wills().map(|(id, _)| self.ordinal(id)).collect::<Vec<_>>();
        let retained = self.broker.retained_matching("/", "#", "", 99).entries;
        let retained: Vec<_> =
            retained.into_iter().map(|(t, r)| (t, self.ordinal(r.position))).collect();
        let mut filters: Vec<_> = self.broker.filters().collect();
        filters.sort_unstable();
        seen + &format!("{wills:?} {retained:?} {filters:?} {:?}", self.broker.next_due())
    }

    fn outcomes(&self) -> Vec<Outcome> {
        let plain = |outcome: &Outcome| match outcome {
            Outcome::Connected(c) => {
                let mut c = *c;
                (c.session, c.epoch) = (self.ordinal(c.session), self.ordinal(c.epoch));
                Outcome::Connected(c)
            }
            Outcome::Error { code, .. } => Outcome::Error { code: *code, detail: 0 },
            Outcome::Declared { queue, fresh } => {
                Outcome::Declared { queue: self.ordinal(*queue), fresh: *fresh }
            }
            Outcome::Joined { token, active, .. } => {
                Outcome::Joined { token: self.ordinal(*token), epoch: 0, active: *active }
            }
            Outcome::Appended { queues, how: Appending::Scheduled, .. } => {
                Outcome::Appended { queues: *queues, offset: 0, how: Appending::Scheduled }
            }
            other => other.clone(),
        };
        self.outcomes.iter().map(plain).collect()
    }
}

/// Groups of commands of one time, one command an entry while they are chosen.
fn script(seed: u64) -> (Vec<Vec<Said>>, Fed) {
    let mut r = Random(seed);
    let mut fed = Fed::new();
    let mut groups = Vec::new();
    let mut sessions = BTreeMap::new();
    let mut time_ms = 1_000;
    for _ in 0..25 {
        let mut group = Vec::new();
        for _ in 0..8 {
            let said = Said { time_ms, command: choose(&mut r, &sessions) };
            fed.feed(std::slice::from_ref(&said), &[1]);
            if let (Command::Connect(c), Some(Outcome::Connected(made))) =
                (&said.command, fed.outcomes.last())
            {
                let made = (fed.ordinal(made.session), fed.ordinal(made.epoch));
                sessions.insert(c.client_id, made);
            }
            if let (
                Command::Queue(QueueCommand::Declare { name, .. }),
                Some(Outcome::Declared { queue, .. }),
            ) = (&said.command, fed.outcomes.last())
            {
                sessions.insert(name, (fed.ordinal(*queue), 0));
            }
            group.push(said);
        }
        time_ms += r.below(3_000);
        fed.tick(time_ms);
        groups.push(group);
    }
    (groups, fed)
}

#[test]
fn how_commands_are_cut_shows_in_positions_alone() {
    for seed in 1..=60 {
        let (groups, single) = script(seed);
        let mut r = Random(!seed);
        let mut other = Fed::new();
        for (n, group) in groups.iter().enumerate() {
            let mut rest = &group[..];
            while !rest.is_empty() {
                let take = 1 + r.below(rest.len() as u64) as usize;
                let first = 1 + r.below(take as u64) as usize;
                let batches = [first, take - first];
                other.feed(&rest[..take], &batches[..1 + usize::from(first < take)]);
                rest = &rest[take..];
            }
            let time_ms = groups.get(n + 1).map_or(single.broker.now_ms(), |g| g[0].time_ms);
            other.tick(time_ms);
        }
        assert_eq!(other.outcomes(), single.outcomes(), "seed {seed}");
        assert_eq!(other.seen(), single.seen(), "seed {seed}");
    }
}

#[test]
fn reads_snapshots_and_restarts_leave_no_trace() {
    let mut held = Vec::new();
    for seed in 1..=25 {
        let (_, fed) = script(seed);
        held.clear();
        let mut r = Random(seed << 8);
        let (mut plain, mut other) = (Broker::new(ShardId(0)), Broker::new(ShardId(0)));
        for (index, payload) in &fed.entries {
            let applied = plain.apply(*index, payload).expect("applied before");
            match r.below(4) {
                0 => {
                    let bytes = other.snapshot().encode();
                    other = Broker::restore(&bytes).expect("a snapshot");
                }
                1 => {
                    for id in CLIENTS.iter().filter_map(|c| other.session_of("/", c)) {
                        let mut cursor =
                            DeliveryCursor::at_start(other.session(id).expect("indexed"));
                        other.owed_from(id, &mut cursor, 3, &mut Vec::new());
                    }
                    drop(other.retained_matching("/", "#", "", 2));
                }
                2 => held.push(other.snapshot()),
                _ => {}
            }
            assert_eq!(other.apply(*index, payload), Ok(applied), "seed {seed} entry {index}");
            assert_eq!(other.state_hash(), plain.state_hash(), "seed {seed} entry {index}");
            assert_eq!(other.next_due(), plain.next_due(), "seed {seed} entry {index}");
            assert_eq!(other.live_references(), plain.live_references(), "seed {seed}");
        }
    }
}

#[test]
fn a_snapshot_keeps_what_it_saw_while_apply_goes_on() {
    let (_, fed) = script(7);
    let (before, after) = fed.entries.split_at(fed.entries.len() / 2);
    let mut broker = Broker::new(ShardId(0));
    let feed = |broker: &mut Broker, entries: &[(u64, Vec<u8>)]| {
        entries.iter().for_each(|(i, p)| drop(broker.apply(*i, p).expect("applied before")));
    };
    feed(&mut broker, before);
    let (snapshot, hash) = (broker.snapshot(), broker.state_hash());
    let bytes = snapshot.encode();
    feed(&mut broker, after);
    assert_eq!(snapshot.encode(), bytes);
    assert_ne!(broker.state_hash(), hash, "the second half changes something");
    let mut restored = Broker::restore(&bytes).expect("a snapshot");
    assert_eq!(restored.state_hash(), hash);
    feed(&mut restored, after);
    assert_eq!(restored.state_hash(), broker.state_hash());
    for cut in 0..bytes.len() {
        assert!(Broker::restore(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

/// What a log or a peer holds may be anything: the shard stops, the process does not.
#[test]
fn damaged_entries_are_refused_or_applied_never_a_panic() {
    let mut r = Random(42);
    for seed in 1..=20 {
        let (_, fed) = script(seed);
        let mut broker = Broker::new(ShardId(0));
        for (index, payload) in &fed.entries {
            for _ in 0..10 {
                let mut damaged = payload.clone();
                for _ in 0..=r.below(3) {
                    let at = r.below(damaged.len() as u64) as usize;
                    let any = r.below(256) as u8;
                    damaged[at] = r.one(&[0, 1, 0x7F, 0x80, 0xFF, any]);
                }
                if r.below(4) == 0 {
                    damaged.truncate(r.below(damaged.len() as u64) as usize);
                }
                drop(broker.clone().apply(*index, &damaged));
            }
            broker.apply(*index, payload).expect("applied before");
        }
    }
}

/// An entry of one batch with one PUBLISH.
fn batch_of(stream: u32, first_sequence: u64, confirmed_upto: u64) -> impl AsRef<[u8]> {
    let head =
        Batch { gateway_epoch: GATEWAY, stream, first_sequence, count: 2, crc: 0, confirmed_upto };
    let mut builder = EntryBuilder::default();
    builder.push(|out| Command::Batch(head).encode(&[], out));
    let publish = Publish { qos: 1, vhost: "/", topic: "a", ..Publish::default() };
    builder.push(|out| Command::Publish(publish).encode(&[], out));
    builder.push(|out| Command::Publish(publish).encode(&[], out));
    builder.close(1)
}

#[test]
fn sequences_at_the_end_of_their_range_do_not_panic() {
    let mut broker = Broker::new(ShardId(0));
    for (n, (first, confirmed)) in
        [(1, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX), (3, 2)].into_iter().enumerate()
    {
        let payload = batch_of(1, first, confirmed);
        let applied = broker.apply(n as u64 + 1, payload.as_ref()).expect("well-formed");
        let taken = applied.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Published { .. }));
        assert_eq!(taken.count(), if first == u64::MAX { 0 } else { 2 });
    }
}

#[test]
fn a_stream_too_many_is_refused_and_takes_nothing_from_the_others() {
    let mut broker = Broker::new(ShardId(0));
    let streams = logd_broker::limits::STREAMS_MAX as u32;
    let mut taken = |index: u64, stream: u32, first: u64| {
        let payload = batch_of(stream, first, first - 1);
        let applied = broker.apply(index, payload.as_ref()).expect("well-formed");
        matches!(applied.outcomes[0].1, Outcome::Published { .. })
    };
    for stream in 0..streams {
        assert!(taken(1 + u64::from(stream), stream, 1));
    }
    assert!(!taken(5_000, streams, 1), "one too many");
    assert!(!taken(5_001, streams + 1, 1), "and another");
    assert!(taken(5_002, 0, 3), "those that were there go on");
}
