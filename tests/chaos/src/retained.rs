//! Retained messages against subscriptions (R9): who subscribes while one is being published gets it, by one way or the
//! other, and never an older one after a newer.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::client::{Client, Message, message};
use crate::pair::{Pair, receive_within};
use crate::proxy::Lane;

/// What comes later than this is missing.
const MISSED_AFTER: Duration = Duration::from_secs(5);

fn keep(topic: &str, n: u64) -> Message {
    let mut kept = message(topic, 1, 1, &n.to_be_bytes());
    kept.retain = true;
    kept
}

/// A publish that is on its way to its shard when somebody subscribes: on the other gateway, or on the same. What the
/// subscriber gets, in order.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn publish_under_way(pair: &Pair, subscriber_at: usize, topic: &str) -> Vec<u64> {
    let mut publisher = pair.transient(0, &format!("publisher-{topic}"));
    publisher.publish(&keep(topic, 1)).expect("acknowledged");
    let mut subscriber = pair.transient(subscriber_at, &format!("subscriber-{topic}"));
    pair.proxies[0].hold_up(Lane::Publish, true);
    publisher.send(&keep(topic, 2)).expect("sent");
    publisher.ping().expect("the gateway has it");
    subscriber.subscribe(topic, 1).expect("answered");
    let mut got = Vec::new();
    let next = |client: &mut Client, wait| receive_within(client, wait).map(|m| m.number());
    got.extend(next(&mut subscriber, MISSED_AFTER));
    pair.proxies[0].hold_up(Lane::Publish, false);
    publisher.expect_ack(0x40, 1).expect("acknowledged");
    // Over the other gateway the older one comes first, then this one must.
    if got.last() != Some(&2) {
        got.extend(next(&mut subscriber, MISSED_AFTER));
    }
    while let Some(more) = next(&mut subscriber, Duration::from_millis(50)) {
        got.push(more);
    }
    got
}

/// A page of retained messages that is overtaken by a newer live one. What the subscriber gets, in order.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn page_overtaken(pair: &Pair, topic: &str) -> Vec<u64> {
    let (other, mark) = (format!("{topic}/other"), format!("{topic}/mark"));
    let mut publisher = pair.transient(0, &format!("publisher-{topic}"));
    for kept in [topic, &other, &mark] {
        publisher.publish(&keep(kept, 1)).expect("acknowledged");
    }
    let mut subscriber = pair.transient(1, &format!("subscriber-{topic}"));
    pair.proxies[1].hold_down(Lane::Deliver, true);
    subscriber.subscribe(topic, 1).expect("answered");
    publisher.publish(&keep(topic, 2)).expect("acknowledged");
    let mut got = Vec::new();
    let newer = receive_within(&mut subscriber, MISSED_AFTER);
    got.extend(newer.map(|m| m.number()));
    subscriber.subscribe(&mark, 1).expect("answered");
    pair.proxies[1].hold_down(Lane::Deliver, false);
    // The page of the mark comes behind the one that was held.
    while let Some(message) = receive_within(&mut subscriber, MISSED_AFTER) {
        if message.topic == mark {
            break;
        }
        got.push(message.number());
    }
    got
}

/// What came of a race without a referee.
#[derive(Debug, Default)]
pub struct Race {
    /// Topics.
    pub rounds: u64,
    /// The newest message never came.
    pub lost: u64,
    /// An older one came after a newer.
    pub backwards: u64,
    /// The newest came twice, read and live: allowed.
    pub again: u64,
}

/// Publishes and subscribes at the same moment, `rounds` times: on two gateways, and on one, with a transient session and
/// one that lasts; in every other pair of rounds others on both have subscribed to the topic before.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn race(pair: &Pair, rounds: u64) -> Race {
    let mut race = Race::default();
    let mut publisher = pair.transient(0, "publisher-of-the-race");
    let mut subscribers = [
        pair.transient(0, "subscriber-here"),
        pair.transient(1, "subscriber-there"),
        pair.session(0, "session-here"),
        pair.session(1, "session-there"),
    ];
    let mut before = [
        pair.transient(0, "before-here"),
        pair.transient(1, "before-there"),
        pair.session(0, "session-before-here"),
        pair.session(1, "session-before-there"),
    ];
    let mut random = fastrand::Rng::with_seed(rounds);
    for round in 0..rounds {
        let topic = format!("race/{round}");
        publisher.publish(&keep(&topic, 1)).expect("acknowledged");
        let others = round / 4 % 2 == 1;
        for client in before.iter_mut().filter(|_| others) {
            client.ask_subscribe(&topic, 0x21).expect("sent");
            while client.read().expect("it stands").first != 0x90 {}
        }
        let subscriber = &mut subscribers[(round % 4) as usize];
        let jitter = Duration::from_micros(if others { random.u64(0..2_000) } else { 0 });
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                publisher.publish(&keep(&topic, 2)).expect("acknowledged");
            });
            start.wait();
            thread::sleep(jitter);
            subscriber.ask_subscribe(&topic, 1).expect("sent");
        });
        let (mut newest, mut subscribed) = (0, false);
        while !subscribed || newest != 2 {
            let Some(packet) = subscriber.read_within(MISSED_AFTER).expect("it stands") else {
                break;
            };
            if packet.first == 0x90 {
                subscribed = true;
            } else if let Some(message) = subscriber.answer(&packet).expect("it stands") {
                // One of an earlier round comes behind the newest: it may be the same again, but none before it.
                let ours = message.topic == topic;
                let last = if ours { newest } else { 2 };
                race.backwards += u64::from(message.number() < last);
                race.again += u64::from(message.number() == last);
                newest = if ours { newest.max(message.number()) } else { newest };
            }
        }
        for client in before.iter_mut().filter(|_| others) {
            client.acknowledge_all_within(Duration::from_millis(1)).expect("it stands");
        }
        race.rounds += 1;
        race.lost += u64::from(newest != 2);
    }
    race
}
