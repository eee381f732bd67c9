//! Transactions.

use fluxmq_client::{ClientError, Overflow, QueueOptions};
use fluxmq_names::ErrorCode;

use crate::{Node, next, put, take, with_queue};

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_settlements_are_done_together() {
    for shards in [1, 8] {
        let node = Node::with_shards(shards);
        let (client, input) = with_queue(&node, "in", QueueOptions::work()).await;
        client.declare("out", &QueueOptions::work()).await.unwrap();
        let output = client.publisher("out").await.unwrap();
        put(&input, "a").await;
        put(&input, "b").await;
        let mut consumer = client.consumer("in").prefetch(1).open().await.unwrap();
        for expected in ["a", "b"] {
            let delivery = next(&mut consumer).await;
            let mut transaction = client.transaction();
            transaction.publish(&output, format!("{expected}!"));
            transaction.ack(&consumer, delivery.offset());
            transaction.commit().await.unwrap();
        }
        assert_eq!(client.queue("in").await.unwrap().messages, 0, "{shards}");
        let mut out = client.consumer("out").open().await.unwrap();
        assert_eq!(take(&mut out, 2).await, ["a!", "b!"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refusal_leaves_everything_undone() {
    let node = Node::start();
    let (client, input) = with_queue(&node, "in", QueueOptions::work()).await;
    let full = QueueOptions::work().max_messages(1, Overflow::Reject);
    client.declare("full", &full).await.unwrap();
    client.declare("out", &QueueOptions::work()).await.unwrap();
    let (out, full) =
        (client.publisher("out").await.unwrap(), client.publisher("full").await.unwrap());
    put(&full, "x").await;
    put(&input, "a").await;
    let mut consumer = client.consumer("in").prefetch(1).open().await.unwrap();
    let delivery = next(&mut consumer).await;
    let mut transaction = client.transaction();
    transaction.publish(&out, "1");
    transaction.publish(&full, "2");
    transaction.ack(&consumer, delivery.offset());
    let refused = transaction.commit().await.unwrap_err();
    assert!(
        matches!(refused, ClientError::Refused { code: ErrorCode::LimitExceeded, .. }),
        "{refused}"
    );
    assert_eq!(client.queue("out").await.unwrap().messages, 0);
    assert_eq!(client.queue("in").await.unwrap().messages, 1);
    // The message is held still, and can be settled.
    consumer.ack(delivery.offset());
    consumer.settled().await.unwrap();
    assert_eq!(client.queue("in").await.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_held_is_not_settled() {
    let node = Node::start();
    let (client, input) = with_queue(&node, "in", QueueOptions::work()).await;
    client.declare("out", &QueueOptions::work()).await.unwrap();
    let out = client.publisher("out").await.unwrap();
    put(&input, "a").await;
    let mut consumer = client.consumer("in").prefetch(1).open().await.unwrap();
    let delivery = next(&mut consumer).await;
    consumer.nack(delivery.offset());
    consumer.settled().await.unwrap();
    let other = node.client().await;
    let mut second = other.consumer("in").prefetch(1).open().await.unwrap();
    drop(next(&mut consumer).await);
    let mut transaction = client.transaction();
    transaction.publish(&out, "1");
    transaction.ack(&consumer, 77);
    let refused = transaction.commit().await.unwrap_err();
    assert!(
        matches!(refused, ClientError::Refused { code: ErrorCode::StaleEpoch, .. }),
        "{refused}"
    );
    assert_eq!(client.queue("out").await.unwrap().messages, 0);
    // What follows goes on in sequence.
    put(&out, "2").await;
    assert!(second.try_next().unwrap().is_none());
}
