//! No command does more than 10,000 steps (S11); `Shard` counts them. What is cut off goes on, and nothing
//! is left in the end.

mod shard;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Command, NEVER, Publish, Settled, Wanted};
use fluxmq_names::ErrorCode;
use logd_broker::Effect;
use logd_broker::limits::{INFLIGHT_IN_MAX, MATCHES_MAX, QOS2_SPREAD_MAX};
use shard::{GATEWAY, Shard};

fn wanted(filter: &str) -> Vec<Wanted<'_>> {
    vec![Wanted { options: 1 | 0x20, identifier: 0, filter, more: "" }]
}

fn publish(topic: &str) -> Command<'_> {
    Command::Publish(Publish { qos: 1, vhost: "/", topic, ..Publish::default() })
}

/// A fast and a slow session on one filter, and so many messages.
fn two_on_one(messages: u32) -> (Shard, (u64, u64)) {
    let mut shard = Shard::new();
    let (fast, fast_epoch) = shard.connect("fast", NEVER);
    let slow = shard.connect("slow", 5);
    for (session, epoch) in [(fast, fast_epoch), slow] {
        shard.apply(&[Command::Subscribe { session, epoch, filters: wanted("t") }]);
    }
    for first in (0..messages).step_by(1_000) {
        shard.apply(&vec![publish("t"); 1_000]);
        let ranges = vec![Settled { first: first.into(), count: 1_000, received: false }];
        let sent_upto = u64::from(first) + 1_000;
        shard.apply(&[Command::Settle { session: fast, epoch: fast_epoch, sent_upto, ranges }]);
    }
    shard.settle_down();
    assert_eq!(shard.broker.live_references(), messages.into(), "the slow one holds them");
    (shard, slow)
}

#[test]
fn an_inbox_is_trimmed_in_steps_when_its_slowest_session_leaves() {
    for how in 0..2 {
        let (mut shard, (session, epoch)) = two_on_one(50_000);
        match how {
            0 => {
                let ranges = vec![Settled { first: 0, count: 50_000, received: false }];
                shard.apply(&[Command::Settle { session, epoch, sent_upto: 50_000, ranges }]);
            }
            _ => {
                let (publish_will, expiry_s, sent_upto) = (false, Some(0), 0);
                let gone =
                    Command::Disconnect { session, epoch, publish_will, expiry_s, sent_upto };
                let (_, effects) = shard.apply(&[gone]);
                assert!(effects.contains(&Effect::More), "it takes more than one entry");
            }
        }
        assert!(shard.settle_down() > 2, "{how}");
        assert_eq!(shard.broker.live_references(), 0, "{how}");
    }
}

#[test]
fn sessions_with_many_subscriptions_end_in_steps() {
    let filters: Vec<String> = (0..300).map(|n| format!("f/{n}")).collect();
    for how in 0..2 {
        let mut shard = Shard::new();
        for n in 0..100 {
            let (session, epoch) = shard.connect(&format!("c{n}"), 1);
            let filters = filters.iter().flat_map(|f| wanted(f)).collect();
            shard.apply(&[Command::Subscribe { session, epoch, filters }]);
        }
        shard.apply(&[publish("f/7")]);
        assert_eq!(shard.broker.live_references(), 1);
        if how == 0 {
            shard.lead(&Command::GatewayEnded { epoch: GATEWAY });
        } else {
            shard.lead(&Command::EndGatewaysBefore { epoch: GATEWAY + 1 });
        }
        shard.settle_down();
        shard.now_ms += 1_000;
        assert!(shard.settle_down() > 5);
        assert_eq!(shard.broker.sessions(), 0);
        assert_eq!(shard.broker.live_references(), 0);
        assert_eq!(shard.broker.filters().count(), 0);
    }
}

#[test]
fn a_publish_that_matches_too_much_is_refused_and_changes_nothing() {
    let mut shard = Shard::new();
    // Every way to write `+` or the level: 2^13 filters match.
    let filter = |bits: u32| {
        let level = |n: u32| if bits >> n & 1 == 0 { "+" } else { "a" };
        (0..13).map(level).collect::<Vec<_>>().join("/")
    };
    for client in 0..8u32 {
        let (session, epoch) = shard.connect(&format!("c{client}"), NEVER);
        let all: Vec<String> = (client * 1_024..(client + 1) * 1_024).map(filter).collect();
        for filters in all.chunks(512) {
            let filters = filters.iter().flat_map(|f| wanted(f)).collect();
            shard.apply(&[Command::Subscribe { session, epoch, filters }]);
        }
    }
    assert!(shard.broker.filters().count() > MATCHES_MAX);
    let topic = ["a"; 13].join("/");
    let store = Publish { qos: 1, store: true, vhost: "/", topic: &topic, ..Publish::default() };
    let hash = shard.broker.retained();
    let (outcomes, _) = shard.apply(&[Command::Publish(store)]);
    assert_eq!(outcomes, [Outcome::refused(ErrorCode::LimitExceeded)]);
    assert_eq!((shard.broker.retained(), shard.broker.live_references()), (hash, 0));
    let (outcomes, _) = shard.apply(&[publish("a/a/a")]);
    assert_eq!(outcomes, [Outcome::Published { matched: 0 }]);
}

#[test]
fn what_a_gateway_makes_up_costs_little() {
    let mut shard = Shard::new();
    let (session, epoch) = shard.connect("c", NEVER);
    shard.apply(&[Command::Subscribe { session, epoch, filters: wanted("t") }]);
    for _ in 0..12 {
        shard.apply(&vec![publish("t"); 1_000]);
    }
    let ranges = vec![Settled { first: 0, count: u32::MAX, received: true }];
    let (outcomes, _) =
        shard.apply(&[Command::Settle { session, epoch, sent_upto: u64::MAX, ranges }]);
    assert_eq!(outcomes, [Outcome::refused(ErrorCode::InvalidArgument)]);
}

#[test]
fn an_id_kept_open_does_not_pin_the_publish_numbers() {
    let mut shard = Shard::new();
    let (session, epoch) = shard.connect("c", 1);
    let open = |packet_id| Command::Qos2Open { session, epoch, packet_id };
    let close = |packet_id| Command::Qos2Close { session, epoch, packet_id };
    shard.apply(&[open(1)]);
    let mut opened = 1;
    let refusal = loop {
        let (outcomes, _) = shard.apply(&[open(2), close(2)]);
        match &outcomes[0] {
            Outcome::Opened { lowest_open: 0, .. } => opened += 1,
            other => break other.clone(),
        }
    };
    assert_eq!((refusal, opened), (Outcome::refused(ErrorCode::LimitExceeded), QOS2_SPREAD_MAX));
    let (outcomes, _) = shard.apply(&[close(1), open(2)]);
    assert!(matches!(outcomes[1], Outcome::Opened { fresh: true, number: QOS2_SPREAD_MAX, .. }));
    let ids = 3..3 + INFLIGHT_IN_MAX as u16;
    let (outcomes, _) = shard.apply(&ids.map(open).collect::<Vec<_>>());
    let refused = outcomes.iter().filter(|o| matches!(o, Outcome::Error { .. })).count();
    assert_eq!(refused, 1, "all but the last: one was open already");
    // It has ended: other shards are told to forget its numbers, until they have.
    let (publish_will, expiry_s, sent_upto) = (false, Some(0), 0);
    shard.apply(&[Command::Disconnect { session, epoch, publish_will, expiry_s, sent_upto }]);
    assert_eq!(shard.broker.ended_publishers().collect::<Vec<_>>(), [session]);
    shard.lead(&Command::KeysForgotten { ids: vec![session] });
    assert_eq!(shard.broker.ended_publishers().count(), 0);
}

#[test]
fn keys_of_an_ended_session_of_another_shard_are_forgotten() {
    let mut shard = Shard::new();
    let key = fluxmq_commands::command::Key { shard: 3, id: 4, n: 1 };
    let (key, lowest_open) = (Some(key), Some(1));
    let publish = Command::Publish(Publish {
        qos: 2,
        vhost: "/",
        topic: "t",
        key,
        lowest_open,
        ..Publish::default()
    });
    let matched = |shard: &mut Shard| shard.apply(std::slice::from_ref(&publish)).0;
    assert_eq!(matched(&mut shard), [Outcome::Published { matched: 0 }]);
    assert_eq!(matched(&mut shard), [Outcome::Published { matched: 1 }], "a repeat");
    shard.lead(&Command::ForgetKeys { shard: 3, ids: vec![4] });
    assert_eq!(matched(&mut shard), [Outcome::Published { matched: 0 }]);
}
