//! Streams: what is read stays.

use std::time::Duration;

use conformance::wire::{Client as Mqtt, subscribe, user};
use fluxmq_client::{Message, Overflow, QueueOptions, Reader, Start};

use crate::{Queue, at, take, take_mqtt, wait};

fn rest(reader: &mut Reader) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(item) = wait(reader.next_or_end()).expect("readable") {
        all.push(String::from_utf8(item.message.payload().to_vec()).expect("text"));
    }
    all
}

fn read(queue: &Queue, start: Start) -> Vec<String> {
    rest(&mut wait(queue.client.reader(&queue.name, start)).expect("a reader"))
}

/// A group of MQTT that is new and begins at `start`.
fn from(queue: &Queue, start: &str) -> Mqtt {
    let mut client = Mqtt::clean(at(), 5, &format!("{}-{start}", queue.name));
    let asked = [user("consumer-group", &format!("g-{start}")), user("start", start)].concat();
    client.send(&subscribe(5, 9, &asked, &[(&queue.topic, 1)]));
    assert_eq!(client.expect(0x90, 9).codes(5), [1]);
    client
}

/// cell: stream start positions | rust
#[test]
fn rust_reads_from_where_it_says_what_mqtt_published() {
    let queue = Queue::new("start-rust", &QueueOptions::stream());
    (0..5).for_each(|n| queue.put_mqtt(&n.to_string()));
    assert_eq!(read(&queue, Start::First), ["0", "1", "2", "3", "4"]);
    assert_eq!(read(&queue, Start::Last), ["4"]);
    assert_eq!(read(&queue, Start::Offset(3)), ["3", "4"]);
    assert_eq!(read(&queue, Start::Time(1)), ["0", "1", "2", "3", "4"]);
    assert_eq!(read(&queue, Start::Next), [""; 0]);
}

/// cell: stream start positions | mqtt
#[test]
fn mqtt_reads_from_where_it_says_what_rust_published() {
    let queue = Queue::new("start-mqtt", &QueueOptions::stream());
    for n in 0..5 {
        queue.put(n.to_string());
    }
    for (start, expected) in
        [("first", 0..5), ("last", 4..5), ("3", 3..5), ("time=1", 0..5), ("next", 5..5)]
    {
        let mut reader = from(&queue, start);
        let expected: Vec<_> = expected.map(|n: u32| n.to_string()).collect();
        assert_eq!(take_mqtt(&mut reader, expected.len()), expected, "{start}");
        reader.nothing_more();
    }
    assert_eq!(queue.info().messages, 5, "a stream keeps what was read");
}

fn short(name: &str) -> Queue {
    Queue::new(name, &QueueOptions::stream().max_messages(3, Overflow::DropHead))
}

/// cell: retention by count | rust
#[test]
fn of_what_rust_published_mqtt_reads_what_is_kept() {
    let queue = short("count-rust");
    for n in 0..5 {
        queue.put(n.to_string());
    }
    assert_eq!(take_mqtt(&mut from(&queue, "first"), 3), ["2", "3", "4"]);
}

/// cell: retention by count | mqtt
#[test]
fn of_what_mqtt_published_rust_reads_what_is_kept() {
    let queue = short("count-mqtt");
    (0..5).for_each(|n| queue.put_mqtt(&n.to_string()));
    assert_eq!(read(&queue, Start::First), ["2", "3", "4"]);
    assert_eq!(queue.info().first, 2);
}

fn small(name: &str) -> Queue {
    Queue::new(name, &QueueOptions::stream().max_bytes(2_500, Overflow::DropHead))
}

/// cell: retention by bytes | rust
#[test]
fn of_the_bytes_that_rust_published_mqtt_reads_what_is_kept() {
    let queue = small("bytes-rust");
    for m in ["a", "b", "c"] {
        queue.put(m.repeat(1_000));
    }
    let got = take_mqtt(&mut from(&queue, "first"), 2);
    assert_eq!([&got[0][..1], &got[1][..1]], ["b", "c"]);
}

/// cell: retention by bytes | mqtt
#[test]
fn of_the_bytes_that_mqtt_published_rust_reads_what_is_kept() {
    let queue = small("bytes-mqtt");
    ["a", "b", "c"].into_iter().for_each(|m| queue.put_mqtt(&m.repeat(1_000)));
    let got = read(&queue, Start::First);
    assert_eq!(got.iter().map(|m| &m[..1]).collect::<Vec<_>>(), ["b", "c"]);
}

fn young(name: &str) -> Queue {
    Queue::new(name, &QueueOptions::stream().max_age(Duration::from_millis(300)))
}

/// cell: retention by age | rust
#[test]
fn what_rust_published_long_ago_mqtt_does_not_read() {
    let queue = young("age-rust");
    for _ in 0..128 {
        queue.put("old");
    }
    queue.until(|info| info.messages == 0);
    queue.put("new");
    let mut reader = from(&queue, "first");
    assert_eq!(take_mqtt(&mut reader, 1), ["new"]);
}

/// cell: retention by age | mqtt
#[test]
fn what_mqtt_published_long_ago_rust_does_not_read() {
    let queue = young("age-mqtt");
    (0..128).for_each(|_| queue.put_mqtt("old"));
    queue.until(|info| info.messages == 0);
    queue.put_mqtt("new");
    assert_eq!(read(&queue, Start::First), ["new"]);
}

/// cell: compaction | rust
#[test]
fn of_a_key_of_rust_mqtt_reads_the_newest() {
    let queue = Queue::new("compact-rust", &QueueOptions::stream().compact());
    for (key, payload) in [("a", "1"), ("b", "2"), ("a", "3")] {
        queue.put(Message { key: key.into(), ..Message::new(payload) });
    }
    assert_eq!(take_mqtt(&mut from(&queue, "first"), 2), ["2", "3"]);
}

/// cell: compaction | mqtt
#[test]
fn of_a_key_of_mqtt_rust_reads_the_newest() {
    let queue = Queue::new("compact-mqtt", &QueueOptions::stream().compact());
    for (key, payload) in [("/a", b"1"), ("/b", b"2"), ("/a", b"3")] {
        assert_eq!(queue.put_mqtt_at(key, &[], payload), 0);
    }
    assert_eq!(read(&queue, Start::First), ["2", "3"]);
}

/// cell: cursor reset, replay, copy | mqtt
#[test]
fn a_group_that_mqtt_made_at_an_offset_goes_on_with_rust() {
    let queue = Queue::new("replay-mqtt", &QueueOptions::stream());
    for n in 0..4 {
        queue.put(n.to_string());
    }
    let mut reader = from(&queue, "1");
    assert_eq!(take_mqtt(&mut reader, 2), ["1", "2"]);
    assert_eq!(crate::payload(&reader.read_publish()), "3");
    drop(reader);
    queue.until(|info| info.groups.iter().any(|g| g.cursor == 3));
    assert_eq!(take(&mut queue.consumer("g-1", 10), 1), ["3"]);
}
