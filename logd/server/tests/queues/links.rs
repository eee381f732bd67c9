//! Links are lost, `logd` is started again: nothing is lost, nothing is there twice.

use std::collections::BTreeSet;

use fluxmq_client::QueueOptions;

use crate::{Node, next, put, text, until, with_queue};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_restart_is_stored_once() {
    let mut node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    let epoch = client.epoch();
    let mut receipts = Vec::new();
    for round in 0..3 {
        for n in 0..300 {
            receipts.push(publisher.publish(format!("{}", round * 300 + n)).await.unwrap());
        }
        node.stop();
        for n in 0..10 {
            receipts.push(publisher.publish(format!("down {round} {n}")).await.unwrap());
        }
        node.start_again();
    }
    let mut offsets = BTreeSet::new();
    for receipt in receipts {
        offsets.insert(receipt.stored().await.unwrap().offset);
    }
    assert_eq!(offsets.len(), 930);
    assert_eq!(client.epoch(), epoch, "it goes on under the epoch it had");
    assert_eq!(client.queue("q").await.unwrap().messages, 930);
    let mut consumer = client.consumer("q").prefetch(1_000).open().await.unwrap();
    let mut texts = BTreeSet::new();
    for _ in 0..930 {
        assert!(texts.insert(text(&next(&mut consumer).await)), "once each");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_keeps_what_it_holds_over_a_restart() {
    let mut node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    for n in 0..6 {
        put(&publisher, format!("{n}")).await;
    }
    let mut consumer = client.consumer("q").prefetch(4).open().await.unwrap();
    let held: Vec<_> = [next(&mut consumer).await, next(&mut consumer).await].into();
    until(&client, "q", |i| i.groups[0].leased == 4).await;
    node.stop();
    node.start_again();
    // What it holds is its own still: nobody else is given it, and it can be settled.
    let other = node.client().await;
    let mut second = other.consumer("q").prefetch(10).open().await.unwrap();
    let first_of_second = next(&mut second).await;
    assert!(first_of_second.offset() >= 4, "{}", first_of_second.offset());
    for delivery in &held {
        consumer.ack(delivery.offset());
    }
    consumer.settled().await.unwrap();
    let info = until(&client, "q", |i| i.messages == 4).await;
    assert_eq!(info.groups[0].cursor, 2);
    let rest = [next(&mut consumer).await.offset(), next(&mut consumer).await.offset()];
    assert_eq!(rest, [2, 3], "what came before the restart is handed out once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_held_that_does_not_come_back_goes_to_others() {
    let mut node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    for n in 0..3 {
        put(&publisher, format!("{n}")).await;
    }
    // A program of its own, which ends without a word while nobody could hear it.
    let program = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let url = format!("http://{}", node.address);
    let held = program.spawn(async move {
        let dies = fluxmq_client::Client::connect([url]).await.unwrap();
        let mut held = dies.consumer("q").prefetch(3).open().await.unwrap();
        next(&mut held).await;
        std::future::pending::<()>().await;
    });
    until(&client, "q", |i| i.groups[0].leased == 3).await;
    node.stop();
    program.shutdown_background();
    assert!(held.await.is_err());
    node.start_again();
    let mut consumer = client.consumer("q").prefetch(3).open().await.unwrap();
    for n in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.offset(), n);
        assert!(delivery.redelivered(), "an earlier leader may have given it to somebody");
    }
}
