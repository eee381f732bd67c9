//! Who of several consumers is given what.

use conformance::wire::Client as Mqtt;
use fluxmq_client::{QueueOptions, Sharing, Start};

use crate::{Queue, at, next, payload, take, take_mqtt, text, wait};

/// cell: named groups | rust
#[test]
fn a_group_of_rust_is_shared_with_mqtt() {
    let queue = Queue::work("groups-rust");
    let created = queue.client.create_group(&queue.name, "g", Start::First, Sharing::Shared);
    wait(created).expect("made");
    queue.put("a");
    let mut consumer = queue.consumer("g", 1);
    let held = next(&mut consumer);
    queue.put("b");
    let mut in_group = Mqtt::clean(at(), 4, "groups-rust-g");
    assert_eq!(in_group.subscribe(&[(&format!("$share/g/{}", queue.topic), 1)]), [1]);
    assert_eq!(take_mqtt(&mut in_group, 1), ["b"], "the other one is held by Rust");
    assert_eq!(take_mqtt(&mut queue.reader("d", "default", false), 2), ["a", "b"]);
    consumer.ack(held.offset());
    wait(consumer.settled()).expect("settled");
    queue.until(|info| info.messages == 0);
}

/// cell: named groups | mqtt
#[test]
fn a_group_of_mqtt_is_shared_with_rust() {
    let queue = Queue::work("groups-mqtt");
    let mut reader = queue.reader("r", "g", false);
    queue.put_mqtt("a");
    assert_eq!(payload(&reader.read_publish()), "a");
    assert!(queue.info().groups.iter().any(|g| g.name == "g"), "made by subscribing");
    queue.put_mqtt("b");
    drop(reader);
    assert_eq!(take(&mut queue.consumer("g", 10), 2), ["a", "b"]);
    assert_eq!(take(&mut queue.consumer("default", 10), 2), ["a", "b"]);
}

/// cell: single active consumer, fencing | rust
#[test]
fn rust_is_active_until_it_leaves_and_then_mqtt() {
    let queue = Queue::new("active-rust", &QueueOptions::work().sharing(Sharing::SingleActive));
    let mut consumer = queue.consumer("default", 1);
    let mut reader = queue.reader("r", "default", false);
    queue.put("a");
    queue.put("b");
    let held = next(&mut consumer);
    let (is_active, token) = consumer.active().expect("one is");
    assert!(is_active && token > 0);
    reader.nothing_more();
    drop(consumer);
    assert_eq!(take_mqtt(&mut reader, 2), ["a", "b"], "what it held as well: {}", held.offset());
}

/// cell: single active consumer, fencing | mqtt
#[test]
fn mqtt_is_active_until_it_leaves_and_then_rust() {
    let queue = Queue::new("active-mqtt", &QueueOptions::work().sharing(Sharing::SingleActive));
    let mut reader = queue.reader("r", "default", false);
    let mut consumer = queue.consumer("default", 10);
    queue.put_mqtt("a");
    queue.put_mqtt("b");
    assert_eq!([payload(&reader.read_publish()), payload(&reader.read_publish())], ["a", "b"]);
    let before = consumer.active().expect("somebody is");
    assert!(!before.0 && consumer.try_next().expect("it waits").is_none());
    drop(reader);
    assert_eq!(take(&mut consumer, 2), ["a", "b"]);
    let after = consumer.active().expect("one is");
    assert!(after.0 && after.1 > before.1, "with a new token");
}

/// cell: exclusive consumer | rust
#[test]
fn while_rust_has_a_group_for_itself_mqtt_is_refused() {
    let queue = Queue::new("exclusive-rust", &QueueOptions::work().sharing(Sharing::Exclusive));
    let consumer = queue.consumer("default", 1);
    let (_, codes) = queue.try_reader("r", "default", false);
    assert!(codes[0] >= 0x80, "{codes:x?}");
    drop(consumer);
    queue.until(|info| info.groups[0].members == 0);
    drop(queue.reader("r2", "default", false));
}

/// cell: exclusive consumer | mqtt
#[test]
fn while_mqtt_has_a_group_for_itself_rust_is_refused() {
    let queue = Queue::new("exclusive-mqtt", &QueueOptions::work().sharing(Sharing::Exclusive));
    let reader = queue.reader("r", "default", false);
    let refused = wait(queue.client.consumer(&queue.name).open());
    assert!(refused.is_err());
    drop(reader);
    queue.until(|info| info.groups[0].members == 0);
    drop(queue.consumer("default", 1));
}

/// cell: key-ordered groups | rust
#[test]
fn keys_that_rust_gives_stay_with_one_consumer() {
    let queue = Queue::new("keyed-rust", &QueueOptions::work().sharing(Sharing::Keyed));
    by_key(&queue, |key, payload| {
        let key = key.to_owned().into();
        queue
            .put(fluxmq_client::Message { key, ..fluxmq_client::Message::new(payload.to_owned()) });
    });
}

/// cell: key-ordered groups | mqtt
#[test]
fn keys_that_mqtt_gives_stay_with_one_consumer() {
    let queue = Queue::new("keyed-mqtt", &QueueOptions::work().sharing(Sharing::Keyed));
    by_key(&queue, |key, payload| {
        assert_eq!(queue.put_mqtt_at(&format!("/{key}"), &[], payload.as_bytes()), 0);
    });
}

/// Forty messages of eight keys to one consumer of each protocol: each key goes to one of them, in order.
fn by_key(queue: &Queue, put: impl Fn(&str, &str)) {
    let mut reader = queue.reader("r", "default", false);
    let mut consumer = queue.consumer("default", 50);
    for n in 0..40 {
        put(&format!("k{}", n % 8), &format!("{} {n}", n % 8));
    }
    let (mut of_mqtt, mut of_rust) = (Vec::new(), Vec::new());
    while of_mqtt.len() + of_rust.len() < 40 {
        // A ping is answered behind what is due.
        reader.send(&[0xC0, 0]);
        loop {
            let packet = reader.read();
            if packet.kind() == 13 {
                break;
            }
            of_mqtt.push(payload(&packet.publish(5)));
        }
        while let Some(delivery) = consumer.try_next().expect("it consumes") {
            of_rust.push(text(&delivery));
        }
    }
    for key in 0..8 {
        let start = format!("{key} ");
        let of = |all: &[String]| -> Vec<u32> {
            let mine = all.iter().filter_map(|m| m.strip_prefix(&start));
            mine.map(|n| n.parse().expect("a number")).collect()
        };
        let (mqtt, rust) = (of(&of_mqtt), of(&of_rust));
        assert!(mqtt.is_empty() || rust.is_empty(), "key {key}: {mqtt:?} {rust:?}");
        let expected: Vec<_> = (0..5).map(|n| n * 8 + key).collect();
        assert_eq!([mqtt, rust].concat(), expected, "in order");
    }
}

/// cell: cursor reset, replay, copy | rust
#[test]
fn rust_moves_and_copies_groups_that_mqtt_reads() {
    let queue = Queue::new("seek-rust", &QueueOptions::stream());
    for n in 0..4 {
        queue.put(n.to_string());
    }
    let created = queue.client.create_group(&queue.name, "g", Start::First, Sharing::Shared);
    wait(created).expect("made");
    assert_eq!(take(&mut queue.consumer("g", 10), 2), ["0", "1"]);
    wait(queue.client.copy_group(&queue.name, "g", "copy")).expect("copied");
    assert_eq!(take_mqtt(&mut queue.reader("copy", "copy", false), 2), ["2", "3"]);
    wait(queue.client.seek_group(&queue.name, "g", Start::Offset(1))).expect("moved");
    assert_eq!(take_mqtt(&mut queue.reader("g", "g", false), 3), ["1", "2", "3"]);
    wait(queue.client.delete_group(&queue.name, "copy")).expect("deleted");
    assert!(queue.info().groups.iter().all(|g| g.name != "copy"));
}
