//! Work queues: given, settled, returned, dead.

use std::collections::BTreeSet;
use std::time::Duration;

use fluxmq_client::{ClientError, Message, QueueOptions, Verdict};

use crate::{Node, next, put, take, text, until, with_queue};

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_in_order_and_are_gone_when_they_are_acknowledged() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    let mut receipts = Vec::new();
    for n in 0..500 {
        receipts.push(publisher.publish(format!("{n}")).await.unwrap());
    }
    for (n, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.stored().await.unwrap().offset, n as u64);
    }
    let mut consumer = client.consumer("q").prefetch(50).open().await.unwrap();
    let expected: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(take(&mut consumer, 500).await, expected);
    assert_eq!(client.queue("q").await.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_holds_more_than_its_prefetch() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    for n in 0..20 {
        put(&publisher, format!("{n}")).await;
    }
    let mut a = client.consumer("q").prefetch(3).open().await.unwrap();
    let first = next(&mut a).await;
    let info = until(&client, "q", |i| i.groups[0].leased == 3).await;
    assert_eq!((info.messages, info.groups[0].consumers), (20, 1));
    // Somebody else gets what the first one does not hold.
    let mut b = client.consumer("q").prefetch(5).open().await.unwrap();
    assert_eq!(next(&mut b).await.offset(), 3);
    until(&client, "q", |i| i.groups[0].leased == 8).await;
    a.ack(first.offset());
    a.settled().await.unwrap();
    until(&client, "q", |i| i.messages == 19).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_consumers_have_equal_shares() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    let mut a = client.consumer("q").prefetch(1_000).open().await.unwrap();
    let mut b = client.consumer("q").prefetch(1_000).open().await.unwrap();
    for n in 0..100 {
        put(&publisher, format!("{n}")).await;
    }
    let mut counts = [0, 0];
    while counts.iter().sum::<i32>() < 100 {
        for (count, consumer) in counts.iter_mut().zip([&mut a, &mut b]) {
            while consumer.try_next().unwrap().is_some() {
                *count += 1;
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(counts.iter().all(|n| (40..=60).contains(n)), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_returned_comes_again_with_its_count() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    put(&publisher, "a").await;
    put(&publisher, "b").await;
    let mut consumer = client.consumer("q").prefetch(1).open().await.unwrap();
    let first = next(&mut consumer).await;
    assert_eq!((first.count(), first.redelivered()), (0, false));
    consumer.nack(first.offset());
    let again = next(&mut consumer).await;
    assert_eq!((text(&again), again.count(), again.redelivered()), ("a".into(), 1, true));
    // Released: given again, not counted.
    consumer.settle(Verdict::Release, again.offset(), 1);
    assert_eq!(next(&mut consumer).await.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn back_off_keeps_a_message_back() {
    let node = Node::start();
    let pause = Duration::from_millis(300);
    let options = QueueOptions::work().backoff(pause, pause);
    let (client, publisher) = with_queue(&node, "q", options).await;
    put(&publisher, "a").await;
    put(&publisher, "b").await;
    let mut consumer = client.consumer("q").prefetch(1).open().await.unwrap();
    let a = next(&mut consumer).await;
    consumer.nack_later(a.offset());
    consumer.settled().await.unwrap();
    let b = next(&mut consumer).await;
    assert_eq!(text(&b), "b", "the one that waits lets others by");
    consumer.ack(b.offset());
    let again = next(&mut consumer).await;
    assert_eq!((text(&again), again.count()), ("a".into(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_limit_and_a_reject_lead_to_the_dead_letter_queue() {
    // With one shard it is one entry; with eight the queues lie apart, and the messages move.
    for shards in [1, 8] {
        let node = Node::with_shards(shards);
        let client = node.client().await;
        client.declare("dead", &QueueOptions::work()).await.unwrap();
        let options = QueueOptions::work().delivery_limit(2).dead_letter("dead");
        client.declare("work", &options).await.unwrap();
        let publisher = client.publisher("work").await.unwrap();
        let poison =
            Message { properties: vec![("k".into(), "v".into())], ..Message::new("poison") };
        put(&publisher, poison).await;
        put(&publisher, "rejected").await;
        put(&publisher, "good").await;
        let mut consumer = client.consumer("work").prefetch(1).open().await.unwrap();
        for expected in [0, 1] {
            let delivery = next(&mut consumer).await;
            assert_eq!((text(&delivery), delivery.count()), ("poison".into(), expected));
            consumer.nack(delivery.offset());
            consumer.settled().await.unwrap();
        }
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery), "rejected");
        consumer.reject(delivery.offset());
        assert_eq!(take(&mut consumer, 1).await, ["good"]);
        let mut dead = client.consumer("dead").open().await.unwrap();
        let (a, b) = (next(&mut dead).await, next(&mut dead).await);
        assert_eq!((text(&a), a.message().property("k")), ("poison".into(), Some("v")));
        let of = |d: &fluxmq_client::Delivery| {
            let letter = d.message().dead.unwrap();
            (letter.reason as u8, letter.count, letter.offset)
        };
        assert_eq!((of(&a), of(&b)), ((4, 2, 0), (1, 0, 1)), "{shards} shards");
        let info = until(&client, "work", |i| i.moving == 0).await;
        assert_eq!(info.messages, 0);
        assert_eq!(client.queue("dead").await.unwrap().messages, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_returns_the_message_and_refuses_what_is_said_late() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    put(&publisher, "a").await;
    let lease = Duration::from_millis(200);
    let mut slow = client.consumer("q").lease(lease).prefetch(1).open().await.unwrap();
    let late = next(&mut slow).await;
    let mut quick = client.consumer("q").prefetch(1).open().await.unwrap();
    let again = next(&mut quick).await;
    assert_eq!((again.offset(), again.count()), (late.offset(), 1));
    slow.ack(late.offset());
    assert_eq!(slow.settled().await, Err(ClientError::NotHeld(vec![(0, 1)])));
    assert_eq!(client.queue("q").await.unwrap().messages, 1, "the other one holds it");
    quick.ack(again.offset());
    quick.settled().await.unwrap();
    assert_eq!(client.queue("q").await.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_extended_does_not_end() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    put(&publisher, "a").await;
    put(&publisher, "b").await;
    let lease = Duration::from_millis(400);
    let mut consumer = client.consumer("q").lease(lease).prefetch(2).open().await.unwrap();
    let (a, b) = (next(&mut consumer).await, next(&mut consumer).await);
    let mut other = client.consumer("q").prefetch(1).open().await.unwrap();
    // Until b is with the other one, a is extended: a is never returned.
    let came = loop {
        consumer.extend(a.offset(), 1);
        match tokio::time::timeout(Duration::from_millis(50), other.next()).await {
            Ok(delivery) => break delivery.unwrap(),
            Err(_) => continue,
        }
    };
    assert_eq!(came.offset(), b.offset());
    consumer.ack(a.offset());
    consumer.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_gives_back_what_it_holds() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    for n in 0..10 {
        put(&publisher, format!("{n}")).await;
    }
    let other = node.client().await;
    let mut goes = other.consumer("q").prefetch(10).open().await.unwrap();
    let tried = next(&mut goes).await;
    until(&client, "q", |i| i.groups[0].leased == 10).await;
    drop(goes);
    let mut stays = client.consumer("q").prefetch(10).open().await.unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        let delivery = next(&mut stays).await;
        // What it had handed to nobody was not tried.
        let counted = u32::from(delivery.offset() == tried.offset());
        assert_eq!(delivery.count(), counted, "offset {}", delivery.offset());
        seen.insert(delivery.offset());
    }
    assert_eq!(seen.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledging_up_to_an_offset_spares_what_others_hold() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    for n in 0..4 {
        put(&publisher, format!("{n}")).await;
    }
    let mut a = client.consumer("q").prefetch(2).open().await.unwrap();
    next(&mut a).await;
    next(&mut a).await;
    let mut b = client.consumer("q").prefetch(2).open().await.unwrap();
    next(&mut b).await;
    let last = next(&mut b).await;
    b.ack_up_to(last.offset());
    b.settled().await.unwrap();
    let info = client.queue("q").await.unwrap();
    assert_eq!((info.messages, info.groups[0].leased), (2, 2), "a still holds its two");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_groups_each_get_everything() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    let start = fluxmq_client::Start::First;
    let shared = fluxmq_client::Sharing::Shared;
    assert!(client.create_group("q", "audit", start, shared).await.unwrap().fresh);
    put(&publisher, "a").await;
    let mut work = client.consumer("q").open().await.unwrap();
    let mut audit = client.consumer("q").group("audit").open().await.unwrap();
    assert_eq!(take(&mut work, 1).await, ["a"]);
    assert_eq!(client.queue("q").await.unwrap().messages, 1, "the other group has not settled it");
    assert_eq!(take(&mut audit, 1).await, ["a"]);
    assert_eq!(client.queue("q").await.unwrap().messages, 0);
}
