//! What a queue is declared with, and what it does then.

use std::time::Duration;

use fluxmq_client::{Appending, ClientError, Message, Overflow, QueueOptions};
use fluxmq_names::ErrorCode;

use crate::{Node, next, put, take, text, until, with_queue};

#[tokio::test(flavor = "multi_thread")]
async fn declaring_again_with_other_arguments_names_the_difference() {
    let node = Node::start();
    let client = node.client().await;
    let options = QueueOptions::work().max_messages(5, Overflow::Reject);
    assert!(client.declare("q", &options).await.unwrap());
    assert!(!client.declare("q", &options).await.unwrap());
    let other = QueueOptions::work().max_messages(6, Overflow::Reject).dead_letter("d");
    let differs = client.declare("q", &other).await.unwrap_err();
    assert_eq!(differs, ClientError::Differs(vec!["max_messages", "dead_letter"]));
    assert_eq!(
        differs.to_string(),
        "it exists with other arguments: max_messages, dead_letter differ"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_drops_or_buries() {
    let node = Node::start();
    let client = node.client().await;
    client.declare("dead", &QueueOptions::work()).await.unwrap();
    let work = QueueOptions::work;
    for (name, options, kept) in [
        ("reject", work().max_messages(2, Overflow::Reject), ["0", "1"]),
        ("drop", work().max_messages(2, Overflow::DropHead), ["1", "2"]),
        ("bury", work().max_messages(2, Overflow::DeadLetter).dead_letter("dead"), ["1", "2"]),
    ] {
        client.declare(name, &options).await.unwrap();
        let publisher = client.publisher(name).await.unwrap();
        put(&publisher, "0").await;
        put(&publisher, "1").await;
        let third = publisher.publish("2").await.unwrap().stored().await;
        let refused =
            matches!(third, Err(ClientError::Refused { code: ErrorCode::LimitExceeded, .. }));
        assert_eq!(refused, name == "reject", "{name}: {third:?}");
        let mut consumer = client.consumer(name).open().await.unwrap();
        assert_eq!(take(&mut consumer, 2).await, kept, "{name}");
    }
    let mut dead = client.consumer("dead").open().await.unwrap();
    let buried = next(&mut dead).await;
    assert_eq!((text(&buried), buried.message().dead.unwrap().reason as u8), ("0".into(), 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_limited_as_messages_are() {
    let node = Node::start();
    let options = QueueOptions::work().max_bytes(250, Overflow::Reject);
    let (_client, publisher) = with_queue(&node, "q", options).await;
    put(&publisher, vec![7; 100]).await;
    put(&publisher, vec![7; 100]).await;
    let full = publisher.publish(vec![7; 100]).await.unwrap().stored().await;
    assert!(matches!(full, Err(ClientError::Refused { code: ErrorCode::LimitExceeded, .. })));
    let large = publisher.publish(vec![7; 300]).await.unwrap().stored().await;
    assert!(matches!(large, Err(ClientError::Refused { code: ErrorCode::TooLarge, .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_priority_goes_first() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work().levels(10)).await;
    for priority in [1, 9, 5, 9, 0] {
        put(&publisher, Message { priority, ..Message::new(priority.to_string()) }).await;
    }
    let mut consumer = client.consumer("q").prefetch(1).open().await.unwrap();
    assert_eq!(take(&mut consumer, 5).await, ["9", "9", "5", "1", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_expire_by_their_own_time_and_by_that_of_the_queue() {
    let node = Node::start();
    let client = node.client().await;
    let soon = Duration::from_millis(100);
    client.declare("dead", &QueueOptions::work()).await.unwrap();
    client.declare("own", &QueueOptions::work().dead_letter("dead")).await.unwrap();
    client.declare("ttl", &QueueOptions::work().message_ttl(soon)).await.unwrap();
    let own = client.publisher("own").await.unwrap();
    put(&own, Message { expires_in: Some(soon), ..Message::new("a") }).await;
    put(&own, "stays").await;
    put(&client.publisher("ttl").await.unwrap(), "b").await;
    let info = until(&client, "own", |i| i.messages == 1).await;
    assert_eq!(info.counters.unwrap().expired, 1);
    until(&client, "ttl", |i| i.messages == 0).await;
    let mut dead = client.consumer("dead").open().await.unwrap();
    let expired = next(&mut dead).await;
    assert_eq!((text(&expired), expired.message().dead.unwrap().reason as u8), ("a".into(), 2));
    let mut consumer = client.consumer("own").open().await.unwrap();
    assert_eq!(take(&mut consumer, 1).await, ["stays"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_holds_does_not_expire_under_it() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    let soon = Some(Duration::from_millis(300));
    put(&publisher, Message { expires_in: soon, ..Message::new("held") }).await;
    let mut consumer = client.consumer("q").prefetch(1).open().await.unwrap();
    let held = next(&mut consumer).await;
    put(&publisher, Message { expires_in: soon, ..Message::new("waits") }).await;
    let info = until(&client, "q", |i| i.messages == 1).await;
    assert_eq!(info.counters.unwrap().expired, 1);
    consumer.ack(held.offset());
    consumer.settled().await.unwrap();
    assert_eq!(client.queue("q").await.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_messages_come_in_their_time_or_are_cancelled() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = now.as_millis() as u64;
    let at = |deliver_at_ms, text: &str| Message { deliver_at_ms, ..Message::new(text.to_owned()) };
    let later = publisher.publish(at(now_ms + 400, "later")).await.unwrap().stored().await.unwrap();
    let soon = publisher.publish(at(now_ms + 200, "soon")).await.unwrap().stored().await.unwrap();
    let never =
        publisher.publish(at(now_ms + 600_000, "never")).await.unwrap().stored().await.unwrap();
    assert!([later, soon, never].iter().all(|s| s.how == Appending::Scheduled));
    put(&publisher, "now").await;
    let info = client.queue("q").await.unwrap();
    assert_eq!((info.scheduled, info.scheduled_ids.len()), (3, 3));
    assert_eq!(client.cancel_scheduled("q", &[never.offset]).await.unwrap(), 1);
    assert_eq!(client.cancel_scheduled("q", &[never.offset]).await.unwrap(), 0);
    let mut consumer = client.consumer("q").open().await.unwrap();
    assert_eq!(take(&mut consumer, 3).await, ["now", "soon", "later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_not_taken() {
    let node = Node::start();
    let options = QueueOptions::work().dedup_window(Duration::from_secs(60));
    let (client, publisher) = with_queue(&node, "q", options).await;
    let with_id = |id: &str| Message { message_id: id.into(), ..Message::new(id.to_owned()) };
    put(&publisher, with_id("a")).await;
    let again = publisher.publish(with_id("a")).await.unwrap().stored().await.unwrap();
    assert_eq!(again.how, Appending::Repeat);
    let by = |n| Message { producer: Some(("p".into(), n)), ..Message::new(n.to_string()) };
    put(&publisher, by(5)).await;
    let again = publisher.publish(by(5)).await.unwrap().stored().await.unwrap();
    assert_eq!(again.how, Appending::Repeat);
    put(&publisher, by(6)).await;
    let mut consumer = client.consumer("q").open().await.unwrap();
    assert_eq!(take(&mut consumer, 3).await, ["a", "5", "6"]);
    assert_eq!(client.queue("q").await.unwrap().counters.unwrap().repeats, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_and_delete_ask_what_is_there() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    put(&publisher, "a").await;
    put(&publisher, "b").await;
    let in_use = client.delete("q", true, false).await;
    assert!(matches!(in_use, Err(ClientError::Refused { code: ErrorCode::InUse, detail: 2 })));
    assert_eq!(client.purge("q").await.unwrap(), 2);
    let mut consumer = client.consumer("q").open().await.unwrap();
    let in_use = client.delete("q", false, true).await;
    assert!(matches!(in_use, Err(ClientError::Refused { code: ErrorCode::InUse, .. })));
    assert_eq!(client.delete("q", true, false).await.unwrap(), 0);
    let ended = tokio::time::timeout(crate::PATIENCE, consumer.next()).await.unwrap();
    assert_eq!(ended.err(), Some(ClientError::NotFound));
    let gone = publisher.publish("c").await.unwrap().stored().await;
    assert_eq!(gone, Err(ClientError::NotFound));
    assert_eq!(client.queue("q").await.err(), Some(ClientError::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_nobody_uses_go_by_themselves() {
    let node = Node::start();
    let client = node.client().await;
    client.declare("auto", &QueueOptions::work().auto_delete()).await.unwrap();
    let soon = Duration::from_millis(200);
    client.declare("unused", &QueueOptions::work().expires(soon)).await.unwrap();
    client.declare("used", &QueueOptions::work().expires(soon)).await.unwrap();
    let auto = client.consumer("auto").open().await.unwrap();
    let _used = client.consumer("used").open().await.unwrap();
    drop(auto);
    let names = async {
        loop {
            let queues = client.queues().await.unwrap();
            let names: Vec<_> = queues.into_iter().map(|q| q.name).collect();
            if names == ["used"] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::PATIENCE, names).await.expect("two of three are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_stored_in_every_queue_that_is_bound_to_it() {
    let node = Node::with_shards(3);
    let client = node.client().await;
    for name in ["a", "b", "c", "d"] {
        client.declare(name, &QueueOptions::work()).await.unwrap();
    }
    for (name, filter) in [("a", "t/+"), ("b", "t/#"), ("c", "t/1")] {
        client.bind(name, filter).await.unwrap();
    }
    client.publish_to_topic("t/1", "x").await.unwrap();
    client.unbind("c", "t/1").await.unwrap();
    client.publish_to_topic("t/1", "y").await.unwrap();
    for (name, expected) in [("a", 2), ("b", 2), ("c", 1), ("d", 0)] {
        assert_eq!(client.queue(name).await.unwrap().messages, expected, "{name}");
    }
    let mut consumer = client.consumer("b").open().await.unwrap();
    assert_eq!(next(&mut consumer).await.message().topic(), Some("t/1"));
}
