//! One active consumer, one only, one for each key.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_client::{ClientError, Message, QueueOptions, Sharing, Start};
use fluxmq_names::ErrorCode;

use crate::{Node, next, put, take, text, until, with_queue};

#[tokio::test(flavor = "multi_thread")]
async fn one_is_active_and_the_next_takes_over_with_a_new_token() {
    let node = Node::start();
    let options = QueueOptions::work().sharing(Sharing::SingleActive);
    let (client, publisher) = with_queue(&node, "q", options).await;
    let other = node.client().await;
    let mut first = other.consumer("q").prefetch(1).open().await.unwrap();
    let mut second = client.consumer("q").prefetch(1).open().await.unwrap();
    put(&publisher, "a").await;
    put(&publisher, "b").await;
    let held = next(&mut first).await;
    let (active, token) = first.active().unwrap();
    assert!(active);
    assert!(second.try_next().unwrap().is_none());
    drop(first);
    let again = next(&mut second).await;
    assert_eq!((again.offset(), again.redelivered()), (held.offset(), true));
    let (active, newer) = second.active().unwrap();
    assert!(active && newer > token, "{newer} is the newer fencing token");
    second.ack(again.offset());
    assert_eq!(take(&mut second, 1).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_priority_takes_over_and_what_the_other_held_is_fenced() {
    let node = Node::start();
    let options = QueueOptions::work().sharing(Sharing::SingleActive);
    let (client, publisher) = with_queue(&node, "q", options).await;
    let mut low = client.consumer("q").prefetch(1).open().await.unwrap();
    put(&publisher, "a").await;
    let held = next(&mut low).await;
    let mut high = client.consumer("q").priority(1).prefetch(1).open().await.unwrap();
    let taken = next(&mut high).await;
    assert_eq!(taken.offset(), held.offset());
    low.ack(held.offset());
    assert_eq!(low.settled().await, Err(ClientError::NotHeld(vec![(0, 1)])));
    high.ack(taken.offset());
    high.settled().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_group_has_one_consumer() {
    let node = Node::start();
    let options = QueueOptions::work().sharing(Sharing::Exclusive);
    let (client, _) = with_queue(&node, "q", options).await;
    let first = client.consumer("q").open().await.unwrap();
    let refused = client.consumer("q").open().await.err().unwrap();
    assert!(matches!(refused, ClientError::Refused { code: ErrorCode::InUse, .. }), "{refused}");
    drop(first);
    until(&client, "q", |i| i.groups[0].members == 0).await;
    client.consumer("q").open().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_key_go_to_one_consumer_in_order_also_when_members_change() {
    let node = Node::start();
    let options = QueueOptions::work().sharing(Sharing::Keyed);
    let (client, publisher) = with_queue(&node, "q", options).await;
    let mut a = client.consumer("q").prefetch(10).open().await.unwrap();
    let mut b = client.consumer("q").prefetch(10).open().await.unwrap();
    for n in 0..200u32 {
        let key = format!("k{}", n % 20).into();
        put(&publisher, Message { key, ..Message::new(n.to_string()) }).await;
    }
    let mut last: BTreeMap<String, u32> = BTreeMap::new();
    let mut owners: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut seen = 0;
    let mut c = None;
    while seen < 200 {
        // A third one comes in the middle.
        if seen >= 100 && c.is_none() {
            c = Some(client.consumer("q").prefetch(10).open().await.unwrap());
        }
        let all = [Some(&mut a), Some(&mut b), c.as_mut()];
        for (who, consumer) in all.into_iter().enumerate() {
            let Some(consumer) = consumer else { continue };
            let Some(delivery) = consumer.try_next().unwrap() else { continue };
            let n: u32 = text(&delivery).parse().unwrap();
            let key = String::from_utf8(delivery.message().key().to_vec()).unwrap();
            let before = last.insert(key.clone(), n);
            assert!(before.is_none_or(|before| before < n), "{key}: {n} after {before:?}");
            owners.entry(key).or_default().insert(who);
            consumer.ack(delivery.offset());
            seen += 1;
        }
        tokio::task::yield_now().await;
    }
    let used: BTreeSet<_> = owners.values().flatten().collect();
    assert_eq!(used.len(), 3, "all three have keys: {owners:?}");
    let moved = owners.values().filter(|who| who.len() > 1).count();
    assert!(moved < 15, "few keys move: {owners:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_can_be_moved_copied_and_deleted() {
    let node = Node::start();
    let (client, publisher) = with_queue(&node, "s", QueueOptions::stream()).await;
    for n in 0..5 {
        put(&publisher, format!("{n}")).await;
    }
    client.create_group("s", "g", Start::First, Sharing::Shared).await.unwrap();
    let mut consumer = client.consumer("s").group("g").open().await.unwrap();
    assert_eq!(take(&mut consumer, 5).await, ["0", "1", "2", "3", "4"]);
    assert_eq!(client.seek_group("s", "g", Start::Offset(3)).await.unwrap(), 3);
    assert_eq!(take(&mut consumer, 2).await, ["3", "4"]);
    client.seek_group("s", "g", Start::Offset(4)).await.unwrap();
    let copy = client.copy_group("s", "g", "h").await.unwrap();
    assert!(copy.fresh);
    let mut second = client.consumer("s").group("h").open().await.unwrap();
    assert_eq!(take(&mut second, 1).await, ["4"]);
    client.delete_group("s", "h").await.unwrap();
    let ended = tokio::time::timeout(crate::PATIENCE, second.next()).await.unwrap();
    assert_eq!(ended.err(), Some(ClientError::NotFound));
}
