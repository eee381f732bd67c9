//! A publish that begins behind a SUBACK, on any gateway, reaches the subscriber (R3, R4).

use std::time::{Duration, Instant};

use crate::client::{Client, message};
use crate::pair::{Pair, receive_within};
use crate::proxy::Lane;

/// A message that takes longer is counted as missed.
const MISSED_AFTER: Duration = Duration::from_secs(5);
/// Topics after which clients are new ones.
const BLOCK: u64 = 200;

/// What came of fresh topics.
#[derive(Debug, Default)]
pub struct Topics {
    /// Subscribed and published behind the SUBACK.
    pub topics: u64,
    /// Messages that never came.
    pub missed: u64,
    /// Messages that came again, or that nobody subscribed to.
    pub extra: u64,
}

/// Subscribes on one gateway and publishes on the other as soon as SUBACK is read: `count` topics, QoS 0 and 1, a
/// third each exact, `+`, `#`; transient and persistent sessions; every second is unsubscribed again.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn fresh_topics(pair: &Pair, count: u64) -> Topics {
    let mut result = Topics::default();
    while result.topics < count {
        let block = result.topics / BLOCK;
        let new = |gateway, name: &str| pair.transient(gateway, &format!("{name}-{block}"));
        let mut clients = [new(0, "here"), new(1, "there"), pair.session(1, "durable")];
        for n in result.topics..count.min(result.topics + BLOCK) {
            let (subscriber, publisher) = [(1, 0), (0, 1), (2, 0), (0, 1)][(n % 4) as usize];
            let topic = format!("fresh/{n}/x");
            let filter = [topic.clone(), format!("fresh/{n}/+"), format!("fresh/{n}/#")];
            let filter = &filter[(n % 3) as usize];
            let qos = (n / 4 % 2) as u8;
            assert_eq!(clients[subscriber].subscribe(filter, 1).expect("answered"), 1);
            let sent = message(&topic, qos, 5, &n.to_be_bytes());
            clients[publisher].publish(&sent).expect("taken");
            match receive_within(&mut clients[subscriber], MISSED_AFTER) {
                Some(got) if got.topic == topic && got.number() == n => {}
                Some(_) => result.extra += 1,
                None => result.missed += 1,
            }
            if n % 2 == 0 {
                clients[subscriber].unsubscribe(filter).expect("answered");
            }
            result.topics += 1;
        }
        for client in &mut clients {
            let more = receive_within(client, Duration::from_millis(20));
            result.extra += u64::from(more.is_some());
        }
    }
    result
}

/// How long SUBACK takes on the first gateway when the hub's stream to the second is late by `delay_ms`.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn delayed_hub(pair: &Pair, delay_ms: u64, count: u64) -> Vec<Duration> {
    pair.proxies[1].delay_down(Lane::Control, delay_ms);
    let mut client = pair.transient(0, "waits");
    let mut subscribe = |n| {
        let began = Instant::now();
        client.subscribe(&format!("delayed/{delay_ms}/{n}"), 1).expect("answered");
        began.elapsed()
    };
    let taken = (0..count).map(&mut subscribe).collect();
    pair.proxies[1].delay_down(Lane::Control, 0);
    taken
}

/// Subscribes on the second gateway to `count` topics below one level, more than are announced each (R1), and publishes
/// on the first to some of them and to as many that nobody wants. How many were missed, and how many were too many.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn below_one_level(pair: &Pair, count: u64) -> (u64, u64) {
    /// Filters of one client.
    const EACH: u64 = 100;
    let topic = |n: u64| format!("level/{n}");
    let mut subscribers = Vec::new();
    let mut publisher = pair.transient(0, "publisher");
    let (mut missed, mut extra) = (0, 0);
    for n in 0..count {
        if n % EACH == 0 {
            subscribers.push(pair.transient(1, &format!("subscriber-{n}")));
        }
        let subscriber = subscribers.last_mut().expect("one at least");
        subscriber.subscribe(&topic(n), 1).expect("answered");
        // Also while the many become one.
        if n % 7 == 0 || n > count - 150 {
            publisher.publish(&message(&topic(n), 1, 1, &n.to_be_bytes())).expect("taken");
            let got = receive_within(subscriber, MISSED_AFTER);
            missed += u64::from(got.is_none_or(|got| got.number() != n));
            publisher.publish(&message(&topic(count + n), 1, 1, b"unwanted")).expect("taken");
        }
    }
    for subscriber in &mut subscribers {
        extra += u64::from(receive_within(subscriber, Duration::from_millis(20)).is_some());
    }
    (missed, extra)
}

/// What a gateway does that was stopped for longer than its lease.
#[derive(Debug)]
pub struct Stopped {
    /// How long each SUBACK on the other gateway took meanwhile.
    pub subacks: Vec<Duration>,
    /// Publishes that it acknowledged when it woke up, and that a subscriber of the other gateway never got.
    pub acknowledged_and_missed: u64,
    /// Messages it passed on to its own subscribers and not to those of the other gateway.
    pub passed_on_alone: u64,
}

/// Stops the second gateway, subscribes on the first, publishes into the socket of the stopped one, has it go on.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn stopped_gateway(pair: &mut Pair, filters: u64) -> Stopped {
    let mut here = pair.transient(0, "subscriber-here");
    let mut local = pair.transient(1, "subscriber-there");
    let mut publishers: Vec<Client> =
        (0..filters).map(|n| pair.transient(1, &format!("publisher-there-{n}"))).collect();
    local.subscribe("stopped/#", 1).expect("answered");
    pair.second.stop_part(crate::process::Part::Front, true);
    let mut subacks = Vec::new();
    for n in 0..filters {
        let began = Instant::now();
        here.subscribe(&format!("stopped/{n}"), 1).expect("answered");
        subacks.push(began.elapsed());
    }
    for (n, publisher) in (0..).zip(&mut publishers) {
        for qos in [0, 1] {
            let sent = message(&format!("stopped/{n}"), qos, 7, &u64::from(qos).to_be_bytes());
            publisher.send(&sent).expect("its socket has room");
        }
    }
    pair.second.stop_part(crate::process::Part::Front, false);
    let acknowledged: Vec<bool> =
        publishers.iter_mut().map(|publisher| publisher.expect_ack(0x40, 7).is_ok()).collect();
    // Whether it closes the connection or not: what it passes on comes before it has answered.
    let mut alone = 0;
    while let Ok(Some(packet)) = local.read_within(Duration::from_millis(200)) {
        alone += u64::from(packet.kind() == 3);
    }
    let mut received = 0;
    let mut missed = acknowledged.iter().filter(|acknowledged| **acknowledged).count() as u64;
    while let Some(got) = receive_within(&mut here, Duration::from_millis(200)) {
        received += 1;
        missed = missed.saturating_sub(u64::from(got.qos));
    }
    let passed_on_alone = alone.saturating_sub(received);
    // It serves again, as one of two.
    let mut again = pair.transient(1, "subscriber-again");
    again.subscribe("stopped/again", 1).expect("answered");
    let mut publisher = pair.transient(0, "publisher-again");
    publisher.publish(&message("stopped/again", 1, 1, b"")).expect("taken");
    again.receive().expect("delivered");
    Stopped { subacks, acknowledged_and_missed: missed, passed_on_alone }
}
