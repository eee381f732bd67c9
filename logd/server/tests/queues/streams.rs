//! Streams: read from anywhere, kept by age, count and key.

use std::time::Duration;

use fluxmq_client::{Message, Overflow, QueueOptions, Reader, Sharing, Start};

use crate::{Node, put, take, until, with_queue};

async fn rest(reader: &mut Reader) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(item) = reader.next_or_end().await.unwrap() {
        all.push(String::from_utf8(item.message.payload().to_vec()).unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_begins_where_it_is_told() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "s", QueueOptions::stream()).await;
    for n in 0..2_500 {
        publisher.publish(format!("{n}")).await.unwrap();
    }
    publisher.flush().await;
    let all: Vec<_> = (0..2_500).map(|n| n.to_string()).collect();
    let mut first = client.reader("s", Start::First).await.unwrap();
    assert_eq!(rest(&mut first).await, all, "more than a page");
    let mut at = client.reader("s", Start::Offset(2_490)).await.unwrap();
    assert_eq!(rest(&mut at).await, all[2_490..]);
    let mut last = client.reader("s", Start::Last).await.unwrap();
    assert_eq!(rest(&mut last).await, all[2_499..]);
    let mut next = client.reader("s", Start::Next).await.unwrap();
    assert_eq!(next.next_or_end().await.unwrap().map(|i| i.offset), None);
    // It waits for what comes.
    put(&publisher, "new").await;
    assert_eq!(next.next().await.unwrap().offset, 2_500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_begins_at_a_time() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "s", QueueOptions::stream()).await;
    for n in 0..50 {
        put(&publisher, format!("{n}")).await;
    }
    let mut reader = client.reader("s", Start::First).await.unwrap();
    let mut times = Vec::new();
    while let Some(item) = reader.next_or_end().await.unwrap() {
        times.push(item.time_ms);
    }
    assert!(times.is_sorted());
    for wanted in [0, 20, 49] {
        let mut at = client.reader("s", Start::Time(times[wanted])).await.unwrap();
        let expected = times.iter().position(|t| *t >= times[wanted]).unwrap() as u64;
        assert_eq!(at.next().await.unwrap().offset, expected);
    }
    let after = times[49] + 1;
    let mut none = client.reader("s", Start::Time(after)).await.unwrap();
    assert!(none.next_or_end().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_a_stream_replay_it() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "s", QueueOptions::stream()).await;
    for n in 0..10 {
        put(&publisher, format!("{n}")).await;
    }
    for (name, start, expected) in
        [("a", Start::First, 10), ("b", Start::Offset(7), 3), ("c", Start::Last, 1)]
    {
        client.create_group("s", name, start, Sharing::Shared).await.unwrap();
        let mut consumer = client.consumer("s").group(name).open().await.unwrap();
        assert_eq!(take(&mut consumer, expected).await.len(), expected, "{name}");
    }
    assert_eq!(client.queue("s").await.unwrap().messages, 10, "settled ones stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn count_and_age_push_out_what_is_oldest() {
    let node = Node::start();
    let client = node.client().await;
    let by_count = QueueOptions::stream().max_messages(3, Overflow::DropHead);
    client.declare("count", &by_count).await.unwrap();
    let publisher = client.publisher("count").await.unwrap();
    for n in 0..5 {
        put(&publisher, format!("{n}")).await;
    }
    let mut reader = client.reader("count", Start::First).await.unwrap();
    assert_eq!(rest(&mut reader).await, ["2", "3", "4"]);
    let by_age = QueueOptions::stream().max_age(Duration::from_millis(100));
    client.declare("age", &by_age).await.unwrap();
    let publisher = client.publisher("age").await.unwrap();
    put(&publisher, "old").await;
    until(&client, "age", |i| i.messages == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_key_the_newest_is_kept() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "s", QueueOptions::stream().compact()).await;
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"), ("b", "2")] {
        put(&publisher, Message { key: key.into(), ..Message::new(value) }).await;
    }
    let mut reader = client.reader("s", Start::First).await.unwrap();
    let mut kept = Vec::new();
    while let Some(item) = reader.next_or_end().await.unwrap() {
        kept.push((item.message.key().to_vec(), item.message.payload().to_vec()));
    }
    assert_eq!(kept, [(b"a".to_vec(), b"3".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(client.queue("s").await.unwrap().counters.unwrap().compacted, 3);
}
