//! What a queue keeps, and what it does when it is full.

use fluxmq_client::{ClientError, Overflow, QueueOptions};
use fluxmq_names::ErrorCode;

use crate::{Queue, next, property, take, take_mqtt, text, wait};

fn full(name: &str, overflow: Overflow) -> Queue {
    Queue::new(name, &QueueOptions::work().max_messages(2, overflow))
}

/// cell: max length: reject | rust
#[test]
fn rust_is_refused_when_it_is_full_of_what_mqtt_put() {
    let queue = full("reject-full-rust", Overflow::Reject);
    queue.put_mqtt("a");
    queue.put_mqtt("b");
    let receipt = wait(queue.publisher.publish("c")).expect("published");
    let refused = wait(receipt.stored()).expect_err("full");
    assert!(
        matches!(refused, ClientError::Refused { code: ErrorCode::LimitExceeded, .. }),
        "{refused}"
    );
    assert_eq!(take_mqtt(&mut queue.reader("r", "default", false), 2), ["a", "b"]);
}

/// cell: max length: reject | mqtt
#[test]
fn mqtt_is_refused_when_it_is_full_of_what_rust_put() {
    let queue = full("reject-full-mqtt", Overflow::Reject);
    queue.put("a");
    queue.put("b");
    assert_eq!(queue.put_mqtt_at("", &[], b"c"), 0x97);
    assert_eq!(take(&mut queue.consumer("default", 10), 2), ["a", "b"]);
    queue.put_mqtt("d");
}

/// cell: max length: drop-head | rust
#[test]
fn rust_pushes_out_what_mqtt_would_have_read() {
    let queue = full("drop-rust", Overflow::DropHead);
    for m in ["a", "b", "c"] {
        queue.put(m);
    }
    assert_eq!(take_mqtt(&mut queue.reader("r", "default", false), 2), ["b", "c"]);
}

/// cell: max length: drop-head | mqtt
#[test]
fn mqtt_pushes_out_what_rust_would_have_read() {
    let queue = full("drop-mqtt", Overflow::DropHead);
    ["a", "b", "c"].into_iter().for_each(|m| queue.put_mqtt(m));
    assert_eq!(take(&mut queue.consumer("default", 10), 2), ["b", "c"]);
    assert_eq!(queue.info().counters.expect("counted").overflowed, 1);
}

fn burying(name: &str) -> (Queue, Queue) {
    let dead = Queue::work(&format!("{name}-dead"));
    let options =
        QueueOptions::work().max_messages(1, Overflow::DeadLetter).dead_letter(&dead.name);
    (Queue::new(name, &options), dead)
}

/// cell: max length: dead-letter | rust
#[test]
fn what_rust_pushes_out_mqtt_finds_among_the_dead() {
    let (queue, dead) = burying("bury-rust");
    queue.put("a");
    queue.put("b");
    let got = dead.reader("r", "default", false).receive();
    assert_eq!(
        (got.payload.as_slice(), &*property(&got, "dead-letter-reason")),
        (&b"a"[..], "overflow")
    );
}

/// cell: max length: dead-letter | mqtt
#[test]
fn what_mqtt_pushes_out_rust_finds_among_the_dead() {
    let (queue, dead) = burying("bury-mqtt");
    queue.put_mqtt("a");
    queue.put_mqtt("b");
    let got = next(&mut dead.consumer("default", 1));
    assert_eq!(text(&got), "a");
    assert_eq!(format!("{:?}", got.message().dead.expect("it died").reason), "Overflow");
}

/// cell: browse | rust
#[test]
fn what_rust_only_looks_at_mqtt_gets() {
    let queue = Queue::work("browse-rust");
    queue.put_mqtt("a");
    let mut reader =
        wait(queue.client.reader(&queue.name, fluxmq_client::Start::First)).expect("a reader");
    let seen = wait(reader.next()).expect("a message");
    assert_eq!(&seen.message.payload()[..], b"a");
    assert_eq!(take_mqtt(&mut queue.reader("r", "default", false), 1), ["a"]);
}

/// cell: purge and delete | rust
#[test]
fn what_rust_purges_mqtt_never_sees_and_a_queue_in_use_is_kept() {
    let queue = Queue::work("purge-rust");
    queue.put_mqtt("a");
    assert_eq!(wait(queue.client.purge(&queue.name)).expect("purged"), 1);
    let mut reader = queue.reader("r", "default", false);
    reader.nothing_more();
    queue.put("b");
    assert_eq!(take_mqtt(&mut reader, 1), ["b"]);
    queue.put("c");
    let in_use = wait(queue.client.delete(&queue.name, true, false)).expect_err("not empty");
    assert!(matches!(in_use, ClientError::Refused { code: ErrorCode::InUse, .. }), "{in_use}");
    assert!(wait(queue.client.delete(&queue.name, false, true)).is_err(), "somebody consumes");
    wait(queue.client.delete(&queue.name, false, false)).expect("deleted");
    // Whoever publishes there is told once that it is gone, and then makes a new one.
    assert_eq!(queue.put_mqtt_at("", &[], b"d"), 0x80);
    queue.put_mqtt("d");
    assert_eq!(queue.info().messages, 1);
}

/// cell: declaring again | rust
#[test]
fn another_declaration_names_the_difference_also_of_what_mqtt_made() {
    let queue = Queue::work("again-rust");
    let mut writer = conformance::wire::Client::clean(crate::at(), 5, "again-rust-w");
    assert_eq!(writer.publish(2, "$queue/again-made-by-mqtt", 1, b"m"), 0);
    let declare =
        |options: QueueOptions| wait(queue.client.declare("again-made-by-mqtt", &options));
    assert!(!declare(QueueOptions::work()).expect("the same"), "it exists");
    let differs = declare(QueueOptions::work().levels(3)).expect_err("it does not have levels");
    assert!(differs.to_string().contains("levels"), "{differs}");
}
