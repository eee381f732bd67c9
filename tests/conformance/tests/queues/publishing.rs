//! What is asked of a queue when a message is published.

use std::time::Duration;

use conformance::wire::{Client as Mqtt, four, user};
use fluxmq_client::{Message, QueueOptions};

use crate::{Queue, at, next, payload, property, take, take_mqtt, text, wait};

/// cell: publish and consume | rust
#[test]
fn what_rust_stores_mqtt_reads() {
    let queue = Queue::work("plain-rust");
    let message = Message {
        content_type: "text/plain".into(),
        reply_to: "answers/1".into(),
        properties: vec![("colour".into(), "red".into())],
        ..Message::new("m")
    };
    queue.put(message);
    let got = queue.reader("r", "default", false).receive();
    assert_eq!((&*payload(&got), &*got.topic), ("m", &*queue.topic));
    assert_eq!(got.property(0x03), [b"\0\x0atext/plain".to_vec()]);
    assert_eq!(got.property(0x08), [b"\0\x09answers/1".to_vec()]);
    assert_eq!(property(&got, "colour"), "red");
    queue.until(|info| info.messages == 0);
}

/// cell: publish and consume | mqtt
#[test]
fn what_mqtt_stores_rust_reads() {
    let queue = Queue::work("plain-mqtt");
    assert_eq!(queue.put_mqtt_at("", &user("colour", "red"), b"m"), 0);
    assert_eq!(queue.info().messages, 1, "stored before it was acknowledged");
    let mut consumer = queue.consumer("default", 10);
    let got = next(&mut consumer);
    assert_eq!((&*text(&got), got.count(), got.redelivered()), ("m", 0, false));
    assert_eq!(got.message().property("colour"), Some("red"));
    consumer.ack(got.offset());
    wait(consumer.settled()).expect("settled");
    assert_eq!(queue.info().messages, 0);
}

/// cell: priority | rust
#[test]
fn rust_says_what_goes_first() {
    let queue = Queue::new("priority-rust", &QueueOptions::work().levels(10));
    for priority in [0, 5, 9] {
        queue.put(Message { priority, ..Message::new(format!("{priority}")) });
    }
    assert_eq!(take_mqtt(&mut queue.reader("r", "default", false), 3), ["9", "5", "0"]);
}

/// cell: priority | mqtt
#[test]
fn mqtt_says_what_goes_first() {
    let queue = Queue::new("priority-mqtt", &QueueOptions::work().levels(10));
    for priority in ["0", "5", "9"] {
        let asked = user("priority", priority);
        assert_eq!(queue.put_mqtt_at("", &asked, priority.as_bytes()), 0);
    }
    assert_eq!(queue.put_mqtt_at("", &user("priority", "high"), b"x"), 0x83);
    assert_eq!(take(&mut queue.consumer("default", 10), 3), ["9", "5", "0"]);
    assert_eq!(queue.info().next, 3, "what cannot be understood is not stored");
}

/// cell: delayed and scheduled, cancelled | rust
#[test]
fn rust_schedules_and_cancels() {
    let queue = Queue::work("delay-rust");
    let in_ms = |ms| Message { deliver_at_ms: now_ms() + ms, ..Message::new(format!("{ms}")) };
    queue.put(in_ms(3_600_000));
    queue.put(in_ms(50));
    let info = queue.info();
    assert_eq!(info.scheduled, 2);
    let mut reader = queue.reader("r", "default", false);
    assert_eq!(take_mqtt(&mut reader, 1), ["50"]);
    // The first of them has come; the last is there still.
    let last = *info.scheduled_ids.last().expect("two");
    assert_eq!(wait(queue.client.cancel_scheduled(&queue.name, &[last])).expect("cancelled"), 1);
    assert_eq!(queue.info().scheduled, 0);
    reader.nothing_more();
}

/// cell: delayed and scheduled, cancelled | mqtt
#[test]
fn mqtt_schedules() {
    let queue = Queue::work("delay-mqtt");
    assert_eq!(queue.put_mqtt_at("", &user("delay", "3600000"), b"late"), 0);
    let soon = (now_ms() + 50).to_string();
    assert_eq!(queue.put_mqtt_at("", &user("deliver-at", &soon), b"soon"), 0);
    assert_eq!(queue.put_mqtt_at("", &user("delay", "soon"), b"never"), 0x83);
    assert_eq!(take(&mut queue.consumer("default", 10), 1), ["soon"]);
    let info = queue.info();
    assert_eq!((info.scheduled, info.messages), (1, 0));
    let cancelled = wait(queue.client.cancel_scheduled(&queue.name, &info.scheduled_ids));
    assert_eq!(cancelled.expect("cancelled"), 1);
}

/// cell: deduplication by message id | rust
#[test]
fn rust_names_a_message_once() {
    let window = QueueOptions::work().dedup_window(Duration::from_secs(60));
    let queue = Queue::new("dedup-rust", &window);
    for payload in ["a", "b"] {
        queue.put(Message { message_id: "1".into(), ..Message::new(payload) });
    }
    let mut reader = queue.reader("r", "default", false);
    assert_eq!(take_mqtt(&mut reader, 1), ["a"]);
    reader.nothing_more();
}

/// cell: deduplication by message id | mqtt
#[test]
fn mqtt_names_a_message_once() {
    let window = QueueOptions::work().dedup_window(Duration::from_secs(60));
    let queue = Queue::new("dedup-mqtt", &window);
    for payload in [b"a", b"b"] {
        assert_eq!(queue.put_mqtt_at("", &user("message-id", "1"), payload), 0);
    }
    let info = queue.info();
    assert_eq!((info.messages, info.counters.expect("counted").repeats), (1, 1));
    assert_eq!(take(&mut queue.consumer("default", 10), 1), ["a"]);
}

/// cell: deduplication by producer | rust
#[test]
fn rust_numbers_what_a_producer_says() {
    let queue = Queue::work("producer-rust");
    for (sequence, payload) in [(1, "a"), (1, "again"), (2, "b")] {
        let producer = Some(("p".into(), sequence));
        queue.put(Message { producer, ..Message::new(payload) });
    }
    let mut reader = queue.reader("r", "default", false);
    assert_eq!(take_mqtt(&mut reader, 2), ["a", "b"]);
    reader.nothing_more();
}

/// cell: deduplication by producer | mqtt
#[test]
fn mqtt_publishes_once_with_qos_2() {
    let queue = Queue::work("producer-mqtt");
    let mut writer = Mqtt::clean(at(), 5, "producer-mqtt-w");
    let publish = |dup: u8| conformance::wire::publish(5, 4 | dup, &queue.topic, 7, &[], b"once");
    writer.send(&publish(0));
    assert_eq!(writer.expect(0x50, 7).reason(), 0);
    writer.send(&publish(8));
    assert!(writer.expect(0x50, 7).reason() < 0x80);
    assert_eq!(queue.info().next, 1, "its packet id is open: the same message");
    assert_eq!(take(&mut queue.consumer("default", 10), 1), ["once"]);
}

/// cell: message and queue TTL | rust
#[test]
fn what_rust_lets_expire_mqtt_never_sees() {
    let queue = Queue::work("ttl-rust");
    let soon = Message { expires_in: Some(Duration::from_millis(1)), ..Message::new("gone") };
    queue.put(soon);
    let late = Message { expires_in: Some(Duration::from_secs(3_600)), ..Message::new("there") };
    queue.put(late);
    queue.until(|info| info.messages == 1);
    let got = queue.reader("r", "default", false).receive();
    assert_eq!(payload(&got), "there");
    let left = u32::from_be_bytes(got.property(0x02)[0][..].try_into().expect("four bytes"));
    assert!((3_500..=3_600).contains(&left), "the rest of its time goes along: {left}");
}

/// cell: message and queue TTL | mqtt
#[test]
fn what_mqtt_lets_expire_rust_never_sees() {
    let queue = Queue::work("ttl-mqtt");
    assert_eq!(queue.put_mqtt_at("", &four(0x02, 1), b"gone"), 0);
    assert_eq!(queue.put_mqtt_at("", &four(0x02, 3_600), b"there"), 0);
    let info = queue.until(|info| info.messages == 1);
    assert_eq!(info.counters.expect("counted").expired, 1);
    assert_eq!(take(&mut queue.consumer("default", 10), 1), ["there"]);
}

/// cell: topic bindings | rust
#[test]
fn what_rust_publishes_to_a_topic_is_stored_and_live() {
    let queue = Queue::work("topic-rust");
    wait(queue.client.bind(&queue.name, "topic-rust/+")).expect("bound");
    let mut live = Mqtt::clean(at(), 5, "topic-rust-live");
    assert_eq!(live.subscribe(&[("topic-rust/#", 1)]), [1]);
    wait(queue.client.publish_to_topic("topic-rust/x", "m")).expect("published");
    assert_eq!(payload(&live.receive()), "m");
    assert_eq!(take_mqtt(&mut queue.reader("r", "default", false), 1), ["m"]);
}

/// cell: topic bindings | mqtt
#[test]
fn what_mqtt_publishes_to_a_topic_is_stored() {
    let queue = Queue::work("topic-mqtt");
    wait(queue.client.bind(&queue.name, "topic-mqtt/+")).expect("bound");
    let mut writer = Mqtt::clean(at(), 5, "topic-mqtt-w");
    for qos in 0..3u8 {
        writer.publish(qos << 1, "topic-mqtt/x", u16::from(qos) + 1, &[b'0' + qos]);
    }
    writer.publish(2, "topic-mqtt/x/y", 9, b"elsewhere");
    assert_eq!(take(&mut queue.consumer("default", 10), 3), ["0", "1", "2"]);
    assert_eq!(queue.info().next, 3);
    wait(queue.client.unbind(&queue.name, "topic-mqtt/+")).expect("unbound");
    writer.publish(2, "topic-mqtt/x", 10, b"no more");
    assert_eq!(queue.info().next, 3);
}

/// cell: transactions | rust
#[test]
fn what_rust_does_together_mqtt_sees_together() {
    let (input, output) = (Queue::work("together-in"), Queue::work("together-out"));
    input.put_mqtt("a");
    let mut consumer = input.consumer("default", 1);
    let delivery = next(&mut consumer);
    let mut transaction = input.client.transaction();
    transaction.publish(&input.publisher, "again");
    transaction.ack(&consumer, delivery.offset());
    wait(transaction.commit()).expect("done");
    drop(consumer);
    assert_eq!(take_mqtt(&mut input.reader("r", "default", false), 1), ["again"]);
    let mut refused = input.client.transaction();
    let mut held = input.consumer("default", 1);
    refused.publish(&output.publisher, "never");
    refused.ack(&held, 77);
    assert!(wait(refused.commit()).is_err());
    // In two shards what is published comes first, and stays.
    assert!(output.info().messages <= 1);
    assert!(held.try_next().expect("it consumes").is_none());
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_millis()).expect("before the end")
}
