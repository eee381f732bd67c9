//! Messages between gateways (R6): acknowledged when the other has them, and once when the link was lost between.

use std::time::Duration;

use crate::client::message;
use crate::pair::{Pair, receive_within};
use crate::proxy::Lane;

/// What was seen of one message to a gateway that cannot be reached for a while.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// The publisher was told before the other gateway had it.
    pub told_early: bool,
    /// The subscriber got it, and how often.
    pub received: u64,
}

/// Publishes to a subscriber of the second gateway between `begin` and `end`, which make and mend what is in the way; looks
/// for a PUBACK `wait_ms` long before the end.
fn publish_between(
    pair: &Pair,
    topic: &str,
    (begin, wait_ms, end): (impl FnOnce(), u64, impl FnOnce()),
) -> Held {
    let mut subscriber = pair.transient(1, &format!("subscriber-{topic}"));
    subscriber.subscribe(topic, 1).expect("answered");
    let mut publisher = pair.transient(0, &format!("publisher-{topic}"));
    begin();
    publisher.send(&message(topic, 1, 3, &[0; 8])).expect("sent");
    let early = publisher.read_within(Duration::from_millis(wait_ms)).expect("it stands");
    end();
    if early.is_none() {
        publisher.expect_ack(0x40, 3).expect("acknowledged");
    }
    let mut received = 0;
    while receive_within(&mut subscriber, Duration::from_millis(150)).is_some() {
        received += 1;
    }
    Held { told_early: early.is_some(), received }
}

/// Publishes to a subscriber of the second gateway while nothing reaches that: no PUBACK before it has the message.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn held(pair: &Pair, topic: &str) -> Held {
    let hold = |on| pair.proxies[1].hold_down(Lane::Publish, on);
    publish_between(pair, topic, (|| hold(true), 150, || hold(false)))
}

/// The same, but the link of the first gateway is lost while the message is on its way.
///
/// # Panics
/// A client is refused, or the publisher is never told.
#[must_use]
pub fn lost_link(pair: &Pair, topic: &str) -> Held {
    let proxy = &pair.proxies[0];
    let lose = || {
        proxy.cut();
        proxy.hold_up(Lane::Publish, false);
        proxy.restore();
    };
    publish_between(pair, topic, (|| proxy.hold_up(Lane::Publish, true), 100, lose))
}
