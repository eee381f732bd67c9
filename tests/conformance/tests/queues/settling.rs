//! What becomes of a message that was given to somebody.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use conformance::wire::{Client as Mqtt, ack, user};
use fluxmq_client::{ClientError, QueueOptions};

use crate::{PATIENCE, Queue, next, payload, property, say, take, take_mqtt, text, wait};

/// cell: leases | rust
#[test]
fn a_lease_of_rust_that_ends_gives_the_message_to_mqtt() {
    let queue = Queue::work("lease-rust");
    queue.put("m");
    let builder = queue.client.consumer(&queue.name).prefetch(1).lease(Duration::from_millis(200));
    let mut consumer = wait(builder.open()).expect("it consumes");
    let held = next(&mut consumer);
    let mut reader = queue.reader("r", "default", true);
    let got = reader.receive();
    assert_eq!((payload(&got), property(&got, "delivery-count")), ("m".into(), "1".into()));
    assert!(got.dup);
    consumer.ack(held.offset());
    let late = wait(consumer.settled()).expect_err("its lease is over");
    assert!(matches!(late, ClientError::NotHeld(_)), "{late}");
    assert_eq!(say(&mut reader, &queue, "$ack", 0, &[]), 0);
}

/// cell: leases | mqtt
#[test]
fn what_an_mqtt_connection_held_goes_to_rust_when_it_ends() {
    let queue = Queue::work("lease-mqtt");
    queue.put("m");
    let mut reader = queue.reader("r", "default", false);
    assert_eq!(payload(&reader.read_publish()), "m");
    let mut consumer = queue.consumer("default", 1);
    assert!(consumer.try_next().expect("it consumes").is_none(), "it is held");
    drop(reader);
    let got = next(&mut consumer);
    assert_eq!((&*text(&got), got.count(), got.redelivered()), ("m", 1, true));
}

/// cell: lease extension | rust
#[test]
fn a_lease_that_rust_extends_keeps_the_message_from_mqtt() {
    let queue = Queue::work("extend-rust");
    queue.put("m");
    queue.put("marker");
    let builder = queue.client.consumer(&queue.name).prefetch(2).lease(Duration::from_millis(400));
    let mut consumer = wait(builder.open()).expect("it consumes");
    let (held, _left) = (next(&mut consumer), next(&mut consumer));
    let mut reader = queue.reader("r", "default", false);
    // It is extended until the other one has come to MQTT: their leases began together.
    let came = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !came.load(Relaxed) {
                consumer.extend(held.offset(), 1);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(payload(&reader.receive()), "marker");
        came.store(true, Relaxed);
    });
    consumer.ack(held.offset());
    wait(consumer.settled()).expect("it is held still");
}

/// cell: fair dispatch | rust
#[test]
fn rust_and_mqtt_have_equal_shares_of_what_rust_publishes() {
    let queue = Queue::work("fair-rust");
    shares(&queue, |n| {
        queue.put(n.to_string());
    });
}

/// cell: fair dispatch | mqtt
#[test]
fn rust_and_mqtt_have_equal_shares_of_what_mqtt_publishes() {
    let queue = Queue::work("fair-mqtt");
    shares(&queue, |n| queue.put_mqtt(&n.to_string()));
}

/// Of twenty, one at a time, each of two consumers gets ten.
fn shares(queue: &Queue, put: impl Fn(u32)) {
    let mut reader = queue.reader("r", "default", false);
    let mut consumer = queue.consumer("default", 10);
    let (mut by_mqtt, mut by_rust) = (Vec::new(), Vec::new());
    for n in 0..10 {
        put(n * 2);
        put(n * 2 + 1);
        by_mqtt.extend(take_mqtt(&mut reader, 1));
        by_rust.extend(take(&mut consumer, 1));
    }
    let mut all: Vec<u32> =
        by_mqtt.iter().chain(&by_rust).map(|n| n.parse().expect("a number")).collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

/// cell: nack | rust
#[test]
fn what_rust_returns_mqtt_gets_with_its_count() {
    let queue = Queue::work("nack-rust");
    queue.put("a");
    queue.put("b");
    let mut consumer = queue.consumer("default", 1);
    let offset = next(&mut consumer).offset();
    consumer.nack(offset);
    wait(consumer.settled()).expect("returned");
    drop(consumer);
    let mut reader = queue.reader("r", "default", true);
    let got = reader.receive();
    assert!(property(&got, "delivery-count").parse::<u32>().expect("a number") >= 1);
    assert_eq!(
        (payload(&got), payload(&reader.receive())),
        ("a".into(), "b".into()),
        "at the front"
    );
}

/// cell: nack | mqtt
#[test]
fn what_mqtt_returns_rust_gets_with_its_count() {
    let queue = Queue::work("nack-mqtt");
    queue.put("a");
    let mut reader = queue.reader("r", "default", true);
    assert_eq!(payload(&reader.receive()), "a");
    let mut consumer = queue.consumer("default", 1);
    let began = std::time::Instant::now();
    let mut is_held = true;
    let got = loop {
        assert!(began.elapsed() < PATIENCE, "it never comes to Rust");
        // Whoever returns it may be the next who is given it.
        if is_held {
            assert_eq!(say(&mut reader, &queue, "$nack", 0, &[]), 0);
        }
        is_held = came(&mut reader);
        if let Some(got) = consumer.try_next().expect("it consumes") {
            break got;
        }
    };
    assert!(got.count() >= 1 && got.redelivered());
}

/// Whether a message came, which is acknowledged; that settles nothing where it is done by name.
fn came(reader: &mut Mqtt) -> bool {
    reader.send(&[0xC0, 0]);
    let packet = reader.read();
    if packet.kind() == 13 {
        return false;
    }
    reader.send(&ack(0x40, packet.publish(5).id));
    assert_eq!(reader.read().kind(), 13);
    true
}

/// What is returned for later is away for an hour.
fn with_backoff() -> QueueOptions {
    let hour = Duration::from_secs(3_600);
    QueueOptions::work().backoff(hour, hour)
}

/// cell: nack with back-off | rust
#[test]
fn what_rust_returns_for_later_lets_others_pass() {
    let queue = Queue::new("backoff-rust", &with_backoff());
    queue.put("a");
    queue.put("b");
    let mut consumer = queue.consumer("default", 1);
    let offset = next(&mut consumer).offset();
    consumer.nack_later(offset);
    wait(consumer.settled()).expect("returned");
    drop(consumer);
    let mut reader = queue.reader("r", "default", false);
    assert_eq!(take_mqtt(&mut reader, 1), ["b"]);
    reader.nothing_more();
    let info = queue.until(|info| info.messages == 1);
    assert_eq!(info.groups[0].returned, 1);
}

/// cell: nack with back-off | mqtt
#[test]
fn what_mqtt_returns_for_later_lets_others_pass() {
    let queue = Queue::new("backoff-mqtt", &with_backoff());
    queue.put("a");
    queue.put("b");
    let mut reader = queue.reader("r", "default", true);
    assert_eq!([payload(&reader.receive()), payload(&reader.receive())], ["a", "b"]);
    assert_eq!(say(&mut reader, &queue, "$nack", 0, &user("later", "true")), 0);
    queue.until(|info| info.groups[0].returned == 1);
    drop(reader);
    let mut consumer = queue.consumer("default", 10);
    assert_eq!(take(&mut consumer, 1), ["b"]);
    assert!(consumer.try_next().expect("it consumes").is_none());
    assert_eq!(queue.info().groups[0].returned, 1);
}

/// A queue and where its dead letters go.
fn with_dead_letters(name: &str, limit: u32) -> (Queue, Queue) {
    let dead = Queue::work(&format!("{name}-dead"));
    let options = QueueOptions::work().delivery_limit(limit).dead_letter(&dead.name);
    (Queue::new(name, &options), dead)
}

/// cell: reject and dead letter | rust
#[test]
fn what_rust_rejects_mqtt_finds_among_the_dead() {
    let (queue, dead) = with_dead_letters("reject-rust", 5);
    queue.put("fine");
    queue.put("bad");
    let mut consumer = queue.consumer("default", 2);
    assert_eq!(take(&mut consumer, 1), ["fine"]);
    let offset = next(&mut consumer).offset();
    consumer.reject(offset);
    wait(consumer.settled()).expect("rejected");
    let got = dead.reader("r", "default", false).receive();
    assert_eq!(
        (payload(&got), property(&got, "dead-letter-reason")),
        ("bad".into(), "rejected".into())
    );
    assert_eq!(property(&got, "dead-letter-count"), "0");
    assert_eq!(property(&got, "dead-letter-offset"), "1");
    let origin = format!("/{}", queue.info().queue);
    assert!(property(&got, "dead-letter-queue").ends_with(&origin));
}

/// cell: reject and dead letter | mqtt
#[test]
fn what_mqtt_rejects_rust_finds_among_the_dead() {
    let (queue, dead) = with_dead_letters("reject-mqtt", 5);
    queue.put_mqtt("by name");
    queue.put_mqtt("by puback");
    let mut reader = queue.reader("r", "default", true);
    assert_eq!([payload(&reader.receive()), payload(&reader.receive())], ["by name", "by puback"]);
    assert_eq!(say(&mut reader, &queue, "$reject", 0, &[]), 0);
    drop(reader);
    let mut reader = queue.reader("r2", "default", false);
    let id = reader.read_publish().id.to_be_bytes();
    reader.send(&[0x40, 3, id[0], id[1], 0x80]);
    let mut consumer = dead.consumer("default", 10);
    for (text_of, offset) in [("by name", 0), ("by puback", 1)] {
        let got = next(&mut consumer);
        let death = got.message().dead.expect("it died");
        assert_eq!(
            (&*text(&got), death.offset, death.queue),
            (text_of, offset, queue.info().queue)
        );
        assert_eq!(format!("{:?}", death.reason), "Rejected");
    }
}

/// cell: delivery limit | rust
#[test]
fn what_rust_returns_too_often_mqtt_finds_among_the_dead() {
    let (queue, dead) = with_dead_letters("limit-rust", 2);
    queue.put("m");
    let mut consumer = queue.consumer("default", 1);
    for _ in 0..2 {
        let offset = next(&mut consumer).offset();
        consumer.nack(offset);
        wait(consumer.settled()).expect("returned");
    }
    let got = dead.reader("r", "default", false).receive();
    assert_eq!(property(&got, "dead-letter-reason"), "delivery-limit");
    assert_eq!(property(&got, "dead-letter-count"), "2");
    assert_eq!(queue.info().messages, 0);
}

/// cell: delivery limit | mqtt
#[test]
fn what_mqtt_returns_too_often_rust_finds_among_the_dead() {
    let (queue, dead) = with_dead_letters("limit-mqtt", 2);
    queue.put_mqtt("m");
    for n in 0..2 {
        let mut reader = queue.reader(&format!("r{n}"), "default", false);
        assert_eq!(payload(&reader.read_publish()), "m");
        drop(reader);
        queue.until(|info| info.messages == 0 || info.groups[0].returned == 1);
    }
    let got = next(&mut dead.consumer("default", 1));
    let death = got.message().dead.expect("it died");
    assert_eq!((format!("{:?}", death.reason), death.count), ("DeliveryLimit".into(), 2));
}

/// cell: cumulative and ranges | rust
#[test]
fn what_rust_acknowledges_up_to_an_offset_mqtt_never_sees() {
    let queue = Queue::work("ranges-rust");
    for n in 0..6 {
        queue.put(n.to_string());
    }
    let mut consumer = queue.consumer("default", 6);
    let offsets: Vec<_> = (0..6).map(|_| next(&mut consumer).offset()).collect();
    consumer.ack_up_to(offsets[2]);
    consumer.settle(fluxmq_client::Verdict::Ack, offsets[4], 2);
    wait(consumer.settled()).expect("settled");
    drop(consumer);
    let mut reader = queue.reader("r", "default", false);
    assert_eq!(take_mqtt(&mut reader, 1), ["3"]);
    reader.nothing_more();
}
