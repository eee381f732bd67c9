//! Queues at a size the model test does not reach: what does not fit into 10,000 steps goes on with later
//! entries and TICKs, also after a restart in the middle (S11); and what follows the clock in blocks.

mod shard;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::*;
use fluxmq_commands::command::{Command, Publish};
use fluxmq_names::{ErrorCode, Position};
use logd_broker::limits::{TARGETS_MAX, VERDICTS_MAX};
use logd_broker::{Broker, GroupCursor};
use shard::{GATEWAY, Shard};

const DEEP: u64 = 50_000;

fn dead_letters() -> Arguments<'static> {
    Arguments { dead_letter: "dead", ..Arguments::default() }
}

#[test]
fn what_goes_at_once_is_let_go_in_steps() {
    for how in 0..5 {
        let mut shard = Shard::new();
        let queue = shard.declare("q", Arguments::default());
        shard.fill(queue, DEEP, Options::default());
        assert_eq!(shard.broker.live_references(), DEEP);
        let (group, token) = (queue, 0);
        let settlement = |verdict, first, count| Settlement { verdict, first, count };
        let outcome = match how {
            0 => shard.say(queue, Verdict::AckBelow, DEEP, 0),
            1 => {
                let half = DEEP / 2;
                let first = shard.say(queue, Verdict::Ack, half, half as u32);
                let second = shard.say(queue, Verdict::Ack, 0, half as u32);
                assert_eq!((first, second), (Outcome::Number(half), Outcome::Number(half)));
                Outcome::Number(DEEP)
            }
            2 => shard.queue(QueueCommand::Purge { queue }),
            3 => shard.queue(QueueCommand::Delete { queue, if_empty: false, if_unused: true }),
            _ => {
                // From the end to the beginning, so that the cursor moves at last.
                let all = (0..DEEP).rev().step_by(100).map(|last| last + 1 - 100);
                for first in all {
                    let verdicts = vec![settlement(Verdict::Ack, first, 100)];
                    shard.queue(QueueCommand::Settle { queue, group, token, verdicts });
                }
                Outcome::Number(DEEP)
            }
        };
        assert_eq!(outcome, Outcome::Number(DEEP), "{how}");
        if how < 3 {
            assert_eq!((shard.stats(queue).messages, shard.stats(queue).first), (0, DEEP), "{how}");
        }
        if how < 4 {
            assert!(shard.broker.live_references() > 0, "{how}: not all at once");
            // A restart in the middle: both go on in the same way.
            let mut twin = Broker::restore(&shard.broker.snapshot().encode()).expect("a snapshot");
            assert_eq!(twin.next_due(), shard.broker.next_due(), "{how}: what is left to do");
            let mut ticks = 0;
            while shard.broker.next_due().is_some() {
                let payload = shard.lead(&Command::Tick);
                assert_eq!(payload.0, [Outcome::Done]);
                let mut builder = fluxmq_commands::EntryBuilder::default();
                builder.push(|out| Command::Tick.encode(b"", out));
                twin.apply(shard.index, &builder.close(shard.now_ms)).expect("well-formed");
                assert_eq!(twin.state_hash(), shard.broker.state_hash(), "{how}");
                ticks += 1;
            }
            assert!((1..20).contains(&ticks), "{how}: {ticks}");
        }
        shard.settle_down();
        assert_eq!(shard.broker.live_references(), 0, "{how}");
    }
}

#[test]
fn a_group_that_leaves_lets_go_of_what_the_others_settled() {
    let mut shard = Shard::new();
    let queue = shard.declare("q", Arguments::default());
    shard.fill(queue, DEEP, Options::default());
    let create = QueueCommand::GroupCreate {
        queue,
        name: "slow",
        start: Start::First,
        sharing: Sharing::Shared,
    };
    let Outcome::Group { group: slow, .. } = shard.queue(create) else { panic!("not made") };
    // All but every hundredth.
    for first in (0..DEEP).step_by(100) {
        shard.say(queue, Verdict::Ack, first + 1, 99);
    }
    assert_eq!(shard.stats(queue).messages, DEEP);
    assert_eq!(shard.queue(QueueCommand::GroupDelete { queue, group: slow }), Outcome::Done);
    shard.settle_down();
    assert_eq!(shard.stats(queue).messages, DEEP / 100);
    assert_eq!(shard.broker.live_references(), DEEP / 100);
    let entries = Position(shard.broker.browse(queue, 200, 1)[0].position).index();
    assert!(shard.broker.is_live(entries..=entries));
}

#[test]
fn a_thousand_full_queues_take_a_message_within_the_steps() {
    for overflow in [Overflow::DropHead, Overflow::DeadLetter] {
        let mut shard = Shard::new();
        let dead = shard.declare("dead", Arguments::default());
        let mut queues = Vec::new();
        for n in 0..TARGETS_MAX {
            let arguments = Arguments { max_messages: 2, overflow, ..dead_letters() };
            let queue = shard.declare(&format!("q{n}"), arguments);
            shard.queue(QueueCommand::Bind { queue, filter: "t/#", bound: true });
            queues.push(queue);
        }
        let publish = Publish { vhost: "/", topic: "t/1", ..Publish::default() };
        for _ in 0..20 {
            let (outcomes, _) = shard.apply(&[Command::Publish(publish)]);
            assert_eq!(outcomes, [Outcome::Published { matched: TARGETS_MAX as u32 }]);
        }
        // Once more with one queue too many.
        let queue = shard.declare("more", Arguments::default());
        shard.queue(QueueCommand::Bind { queue, filter: "t/1", bound: true });
        let before = shard.broker.live_references();
        let (outcomes, _) = shard.apply(&[Command::Publish(publish)]);
        assert_eq!(outcomes, [Outcome::refused(ErrorCode::LimitExceeded)]);
        assert_eq!(shard.broker.live_references(), before, "a refusal changes nothing");
        // What could not be pushed out at once goes with the next message, which is alone.
        for queue in &queues {
            shard.fill(*queue, 1, Options::default());
            assert_eq!(shard.stats(*queue).messages, 2);
        }
        let died = if overflow == Overflow::DeadLetter { 19 * TARGETS_MAX as u64 } else { 0 };
        assert_eq!(shard.stats(dead).messages, died);
        assert_eq!(shard.broker.live_references(), 2 * TARGETS_MAX as u64 + died);
    }
}

#[test]
fn verdicts_on_many_messages_stay_within_the_steps() {
    let mut shard = Shard::new();
    let dead = shard.declare("dead", Arguments { max_messages: 100, ..Arguments::default() });
    let arguments = Arguments { delivery_limit: 2, ..dead_letters() };
    let queue = shard.declare("q", arguments);
    shard.fill(queue, DEEP, Options::default());
    let many = VERDICTS_MAX as u32;
    let number = |n| Outcome::Number(n);
    assert_eq!(shard.say(queue, Verdict::Reject, 1_000, many), number(many.into()));
    assert_eq!(shard.say(queue, Verdict::Return, 5_000, many), number(many.into()));
    assert_eq!(shard.stats(queue).groups[0].returned, many.into());
    assert_eq!(shard.say(queue, Verdict::Return, 5_000, many), number(many.into()), "they die");
    assert_eq!(shard.stats(queue).groups[0].returned, 0);
    assert_eq!(shard.say(queue, Verdict::Release, 9_000, many), number(many.into()));
    assert_eq!(
        shard.say(queue, Verdict::Reject, 0, many + 1),
        Outcome::refused(ErrorCode::InvalidArgument)
    );
    let stats = shard.stats(queue);
    assert_eq!(
        (stats.counters.rejected, stats.counters.delivery_limited),
        (many.into(), many.into())
    );
    assert_eq!(stats.messages, DEEP - 2 * u64::from(many));
    assert_eq!(shard.stats(dead).messages, 100);
    // Alternating single acknowledgements: as many as a command may hold.
    let verdicts: Vec<_> = (0..many / 2)
        .map(|n| Settlement { verdict: Verdict::Ack, first: 20_000 + 130 * u64::from(n), count: 1 })
        .collect();
    let settled = verdicts.len() as u64;
    let settle = QueueCommand::Settle { queue, group: queue, token: 0, verdicts };
    assert_eq!(shard.queue(settle), number(settled.min((DEEP - 20_000).div_ceil(130))));
}

#[test]
fn expiry_goes_on_from_block_to_block() {
    let mut shard = Shard::new();
    let dead = shard.declare("dead", Arguments::default());
    let queue = shard.declare("q", Arguments { message_ttl_ms: 100, ..dead_letters() });
    shard.fill(queue, 20_000, Options::default());
    assert_eq!(shard.broker.next_expiry(), Some((101, queue)));
    shard.now_ms = 101;
    let mut expired = 0;
    let mut commands = 0;
    while shard.broker.next_expiry().is_some_and(|(ms, _)| ms <= shard.now_ms) {
        // A consumer has the first three and the last one.
        let spared = vec![(0, 3), (19_999, 1)];
        let (outcomes, _) = shard.lead(&Command::Queue(QueueCommand::Expire { queue, spared }));
        let Outcome::Number(n) = outcomes[0] else { panic!("{outcomes:?}") };
        expired += n;
        commands += 1;
        assert!(commands < 100);
    }
    assert!(commands > 3, "more than one command may expire");
    assert_eq!((expired, shard.stats(queue).messages), (19_996, 4));
    assert_eq!(shard.broker.next_expiry(), Some((1_101, queue)), "a second later again");
    assert_eq!(shard.stats(dead).messages, 19_996);
    assert_eq!(shard.broker.live_references(), 20_000);
}

#[test]
fn a_stream_keeps_what_its_age_allows_by_blocks() {
    let mut shard = Shard::new();
    let retention = Retention::Policy;
    let queue =
        shard.declare("s", Arguments { retention, max_age_ms: 1_000, ..Arguments::default() });
    for ms in [0, 400, 800] {
        shard.now_ms = 1 + ms;
        shard.fill(queue, 256, Options::default());
    }
    let create = |shard: &mut Shard, name, start| {
        let sharing = Sharing::Shared;
        match shard.queue(QueueCommand::GroupCreate { queue, name, start, sharing }) {
            Outcome::Group { cursor, .. } => cursor,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(create(&mut shard, "t", Start::Time(401)), 256);
    assert_eq!(create(&mut shard, "u", Start::Time(402)), 512);
    assert_eq!(create(&mut shard, "v", Start::Time(9_000)), 768);
    assert_eq!(create(&mut shard, "w", Start::Time(0)), 0);
    assert_eq!(shard.broker.next_due(), Some(1_001));
    shard.now_ms = 1_001;
    shard.settle_down();
    assert_eq!((shard.stats(queue).first, shard.stats(queue).messages), (256, 512));
    assert_eq!(shard.broker.next_due(), Some(1_401));
    shard.now_ms = 5_000;
    shard.settle_down();
    assert_eq!((shard.stats(queue).first, shard.stats(queue).messages), (768, 0));
    assert_eq!((shard.broker.live_references(), shard.broker.next_due()), (0, None));
    assert_eq!(shard.stats(queue).counters.overflowed, 768);
}

#[test]
fn scheduled_messages_come_in_steps_in_the_order_of_their_times() {
    let mut shard = Shard::new();
    let queue = shard.declare("q", Arguments::default());
    for n in 0..20u64 {
        let deliver_at_ms = 1_000 - n;
        shard.fill(queue, 1_000, Options { deliver_at_ms, ..Options::default() });
    }
    assert_eq!((shard.stats(queue).messages, shard.stats(queue).scheduled), (0, 20_000));
    shard.now_ms = 1_000;
    assert!(shard.settle_down() > 1);
    assert_eq!((shard.stats(queue).messages, shard.stats(queue).scheduled), (20_000, 0));
    let positions: Vec<_> = shard
        .broker
        .browse(queue, 0, 20_000)
        .iter()
        .map(|m| Position(m.position).index())
        .collect();
    assert!(positions.is_sorted_by(|a, b| a >= b), "the ones said last came first");
}

#[test]
fn higher_priorities_go_first_and_lower_ones_do_not_starve() {
    let mut shard = Shard::new();
    let queue = shard.declare("q", Arguments { levels: 10, ..Arguments::default() });
    for priority in [0, 9, 4, 200] {
        shard.fill(queue, 500, Options { priority, ..Options::default() });
    }
    let mut cursor = GroupCursor::default();
    let mut got = Vec::new();
    // Some more comes on top while it is given out.
    for _ in 0..30 {
        shard.broker.owed_to_group(queue, queue, &mut cursor, 50, &mut got);
        shard.fill(queue, 20, Options { priority: 9, ..Options::default() });
    }
    let first: Vec<_> = got[..340].iter().map(|m| m.priority).collect();
    assert_eq!(first.iter().filter(|p| **p == 9).count(), 320, "sixteen of seventeen");
    assert_eq!(first.iter().filter(|p| **p == 0).count(), 20, "the lowest has the seventeenth");
    shard.broker.owed_to_group(queue, queue, &mut cursor, 10_000, &mut got);
    let mut offsets: Vec<_> = got.iter().map(|m| m.offset).collect();
    offsets.sort_unstable();
    assert!(offsets.is_sorted_by(|a, b| a < b), "each once");
    assert_eq!(offsets.len() as u64, shard.stats(queue).messages);
}

#[test]
fn few_keys_move_when_a_member_comes_and_all_when_a_gateway_ends() {
    let mut shard = Shard::new();
    let sharing = Sharing::Keyed;
    let queue = shard.declare("q", Arguments { sharing, ..Arguments::default() });
    let join = |shard: &mut Shard| {
        let (consumer, priority, stays) = (1, 0, Stays::WithGateway);
        match shard.queue(QueueCommand::GroupJoin {
            queue,
            group: queue,
            consumer,
            priority,
            stays,
        }) {
            Outcome::Joined { token, active: true, .. } => token,
            other => panic!("{other:?}"),
        }
    };
    let owners = |shard: &Shard| -> Vec<Option<u64>> {
        (0..1_000u32).map(|k| shard.broker.member_for_key(queue, queue, &k.to_le_bytes())).collect()
    };
    assert_eq!(owners(&shard)[0], None);
    let tokens = [join(&mut shard), join(&mut shard), join(&mut shard)];
    let before = owners(&shard);
    for token in tokens {
        let share = before.iter().filter(|o| **o == Some(token)).count();
        assert!((250..420).contains(&share), "{share} of 1,000");
    }
    let fourth = join(&mut shard);
    let after = owners(&shard);
    let moved = before.iter().zip(&after).filter(|(a, b)| a != b);
    assert!(moved.clone().all(|(_, b)| *b == Some(fourth)), "only to the new one");
    assert!((150..350).contains(&moved.count()));
    shard.fill(queue, 1, Options::default());
    let verdicts = vec![Settlement { verdict: Verdict::Ack, first: 0, count: 1 }];
    let settle = |token| {
        let verdicts = verdicts.clone();
        Command::Queue(QueueCommand::Settle { queue, group: queue, token, verdicts })
    };
    shard.queue(QueueCommand::GroupLeave { queue, group: queue, token: fourth });
    let (outcomes, _) = shard.apply(&[settle(fourth), settle(tokens[0])]);
    assert_eq!(
        outcomes[0],
        Outcome::refused(ErrorCode::StaleEpoch),
        "who has left settles nothing"
    );
    assert_eq!(outcomes[1], Outcome::Number(1));
    shard.lead(&Command::GatewayEnded { epoch: GATEWAY });
    assert_eq!(shard.broker.members(queue, queue).count(), 0);
}

#[test]
fn a_reader_that_finds_nothing_new_for_long_says_that_it_goes_on() {
    let mut shard = Shard::new();
    let queue = shard.declare("q", Arguments::default());
    shard.fill(queue, 5_000, Options::default());
    let settle = |shard: &mut Shard, first, count| shard.say(queue, Verdict::Ack, first, count);
    // One in a hundred is left: no block is gone as a whole.
    for first in (0..5_000).step_by(100) {
        assert_eq!(settle(&mut shard, first + 1, 99), Outcome::Number(99));
    }
    let start = Start::Last;
    let seek = |queue| QueueCommand::GroupSeek { queue, group: queue, start };
    let mut cursor = GroupCursor::default();
    let mut got = Vec::new();
    let mut calls = 1;
    while shard.broker.owed_to_group(queue, queue, &mut cursor, 100, &mut got) {
        calls += 1;
        assert!(calls < 20);
    }
    assert!(calls > 2, "it looks at a bounded number");
    assert!(got.iter().map(|m| m.offset).eq((0..5_000).step_by(100)));
    // The newest lies below much that is gone.
    settle(&mut shard, 1, 4_999);
    assert_eq!(shard.queue(seek(queue)), Outcome::Number(0), "the newest that is there");
}

#[test]
fn settling_in_any_order_takes_little() {
    let mut shard = Shard::new();
    let queue = shard.declare("q", Arguments::default());
    let deep = 100_000;
    shard.fill(queue, deep, Options::default());
    // 7,919 is prime and does not divide: every offset once, far from the one before.
    let order: Vec<u64> = (0..deep).map(|n| n * 7_919 % deep).collect();
    for part in order.chunks(100) {
        let verdicts =
            part.iter().map(|first| Settlement { verdict: Verdict::Ack, first: *first, count: 1 });
        let verdicts = verdicts.collect();
        let settle = QueueCommand::Settle { queue, group: queue, token: 0, verdicts };
        assert_eq!(shard.queue(settle), Outcome::Number(100));
        let held = shard.broker.live_references();
        assert_eq!(held, shard.stats(queue).messages, "what is settled is let go at once");
    }
    shard.settle_down();
    assert_eq!(shard.broker.live_references(), 0);
    assert!(shard.broker.snapshot().encode().len() < 30_000);
}

/// What encodes a state must not hold all of it (S10).
#[test]
fn a_deep_state_is_encoded_in_pages() {
    let mut shard = Shard::new();
    let (deep, queues) = (200_000, 300);
    let queue = shard.declare("deep", Arguments::default());
    shard.fill(queue, deep, Options::default());
    for n in 0..queues {
        let queue = shard.declare(&format!("q{n}"), Arguments::default());
        shard.fill(queue, 1_000, Options::default());
    }
    let snapshot = shard.broker.snapshot();
    let (mut all, mut largest) = (Vec::new(), 0);
    let mut sink = |page: &[u8]| {
        largest = largest.max(page.len());
        all.extend_from_slice(page);
        Ok(())
    };
    snapshot.encode_into(&mut sink).expect("a vector takes all");
    assert!(all.len() > 1_000_000 && largest < 300_000, "{} in pages of {largest}", all.len());
    assert_eq!(all, snapshot.encode());
    assert!(Broker::restore(&all).is_ok());
}

/// One forgotten message keeps itself, not what was settled behind it.
#[test]
fn what_is_settled_behind_a_forgotten_message_takes_little() {
    for ttl in [0, 3_600_000] {
        let mut shard = Shard::new();
        let arguments = Arguments { message_ttl_ms: ttl, ..Arguments::default() };
        let queue = shard.declare("q", arguments);
        let (mut deep, forgotten) = (0, 1_000);
        while deep < 100_000 {
            shard.fill(queue, 1_000, Options::default());
            deep += 1_000;
            for (first, count) in without(deep - 1_000, deep, forgotten) {
                shard.say(queue, Verdict::Ack, first, count);
            }
        }
        let bytes = shard.broker.snapshot().encode();
        assert!(bytes.len() < 80_000, "{} for one of {deep}", bytes.len());
        let mut twin = Broker::restore(&bytes).expect("a snapshot");
        assert_eq!(twin.live_references(), 1);
        assert_eq!(twin.state_hash(), shard.broker.state_hash());
        shard.fill(queue, 10, Options::default());
        let (mut cursor, mut out) = (GroupCursor::default(), Vec::new());
        while shard.broker.owed_to_group(queue, queue, &mut cursor, 100, &mut out) {}
        let owed: Vec<u64> = out.iter().map(|m| m.offset).collect();
        let expected: Vec<u64> = std::iter::once(forgotten).chain(deep..deep + 10).collect();
        assert_eq!(owed, expected);
        let browsed = shard.broker.browse(queue, deep - 500, 100);
        assert!(browsed.iter().map(|m| m.offset).eq(deep..deep + 10));
        let positions = shard.broker.snapshot().live_positions(&[0..=u64::MAX]);
        assert_eq!(positions.len(), 11);
        shard.say(queue, Verdict::Ack, forgotten, 1);
        shard.settle_down();
        assert_eq!((shard.stats(queue).first, shard.broker.live_references()), (deep, 10));
        twin = Broker::restore(&shard.broker.snapshot().encode()).expect("a snapshot");
        assert_eq!(twin.state_hash(), shard.broker.state_hash());
    }
}

/// Ranges of `from..to` without `forgotten`.
fn without(from: u64, to: u64, forgotten: u64) -> Vec<(u64, u32)> {
    let ranges = match (from..to).contains(&forgotten) {
        true => vec![(from, forgotten), (forgotten + 1, to)],
        false => vec![(from, to)],
    };
    let some = ranges.into_iter().filter(|(first, end)| first < end);
    some.map(|(first, end)| (first, (end - first) as u32)).collect()
}
