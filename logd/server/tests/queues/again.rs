//! Frames as a program sends them, said again over another link: what was done is done once, and its answer the same.

use bytes::Bytes;
use fluxmq_client::contract::{Consume, Event, Request, Role, Submit};
use fluxmq_client::transport::connect;
use fluxmq_client::{Link, QueueOptions};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{QueueCommand, Settlement, Verdict};

use crate::{Node, PATIENCE, next, put, with_queue};

const TOKEN: u64 = 1;

async fn wait<T>(link: &mut Link, wanted: impl Fn(Event) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted(link.from.recv().await.expect("the link stands")) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("an answer")
}

/// A program without the client; gives its epoch.
async fn join(node: &Node, epoch: u64) -> (Link, u64) {
    let mut link = connect(&format!("http://{}", node.address), None).await.unwrap();
    link.to.send(Request::Hello { name: "raw".into(), epoch, role: Role::Program });
    let welcome = |event| match event {
        Event::Welcome { gateway_epoch, .. } => Some(gateway_epoch),
        _ => None,
    };
    let epoch = wait(&mut link, welcome).await;
    (link, epoch)
}

/// A transaction that settles a message of a group; it takes two numbers of the sequence.
fn transaction(queue: u64, group: u64, first_sequence: u64, offset: u64) -> Request {
    let verdicts = vec![Settlement { verdict: Verdict::Ack, first: offset, count: 1 }];
    let (mut ends, mut body) = (Vec::new(), Vec::new());
    for command in [
        QueueCommand::Transaction { count: 1 },
        QueueCommand::Settle { queue, group, token: 0, verdicts },
    ] {
        Command::Queue(command).encode(&[], &mut body);
        ends.push(body.len() as u32);
    }
    let body = Bytes::from(body);
    Request::Submit(Submit { shard: 0, first_sequence, confirmed_upto: 0, ends, body })
}

fn outcomes(event: Event) -> Option<Vec<Outcome>> {
    match event {
        Event::Outcomes { outcomes, .. } => Some(outcomes),
        Event::Refused { code, .. } => panic!("refused: {code:?}"),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_said_again_is_answered_as_before() {
    let mut node = Node::start();
    let (client, publisher) = with_queue(&node, "q", QueueOptions::work()).await;
    put(&publisher, "m").await;
    put(&publisher, "n").await;
    let info = client.queue("q").await.unwrap();
    let (queue, group) = (info.queue, info.groups[0].group);
    let (mut link, epoch) = join(&node, 0).await;
    let consume =
        |held| Consume { token: TOKEN, shard: 0, queue, group, member: 0, lease_ms: 0, held };
    link.to.send(Request::Presented);
    link.to.send(Request::Consume(consume(Vec::new())));
    link.to.send(Request::Credit { token: TOKEN, count: 2 });
    let mut given = 0;
    while given < 2 {
        given += wait(&mut link, |event| match event {
            Event::QueueDeliveries(all) => Some(all.len()),
            _ => None,
        })
        .await;
    }
    // Twice before it is answered, as after a short break; again over a new link; again after a restart.
    link.to.send(transaction(queue, group, 1, 0));
    link.to.send(transaction(queue, group, 1, 0));
    let first = wait(&mut link, outcomes).await;
    assert!(!first.iter().any(|o| matches!(o, Outcome::Error { .. })), "{first:?}");
    assert_eq!(wait(&mut link, outcomes).await, first);
    let (mut link, _) = join(&node, epoch).await;
    link.to.send(transaction(queue, group, 1, 0));
    assert_eq!(wait(&mut link, outcomes).await, first);
    node.stop();
    node.start_again();
    let (mut link, _) = join(&node, epoch).await;
    link.to.send(transaction(queue, group, 1, 0));
    // One of what it holds, which it has yet to present: the lanes of a link have no order among them.
    link.to.send(transaction(queue, group, 3, 1));
    link.to.send(Request::Consume(consume(vec![(1, 1)])));
    link.to.send(Request::Presented);
    assert_eq!(wait(&mut link, outcomes).await, first);
    let second = wait(&mut link, outcomes).await;
    assert!(!second.iter().any(|o| matches!(o, Outcome::Error { .. })), "{second:?}");
    assert_eq!(client.queue("q").await.unwrap().messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_what_was_held_before_a_restart_is_done_after_it() {
    let mut node = Node::start();
    let (client, input) = with_queue(&node, "in", QueueOptions::work()).await;
    client.declare("out", &QueueOptions::work()).await.unwrap();
    let output = client.publisher("out").await.unwrap();
    put(&input, "a").await;
    let mut consumer = client.consumer("in").prefetch(1).open().await.unwrap();
    let delivery = next(&mut consumer).await;
    node.stop();
    let mut transaction = client.transaction();
    transaction.publish(&output, "a!");
    transaction.ack(&consumer, delivery.offset());
    let mut commit = std::pin::pin!(transaction.commit());
    // It is said while nobody hears it.
    assert!(asked_once(commit.as_mut()).is_none());
    node.start_again();
    commit.await.unwrap();
    assert_eq!(client.queue("in").await.unwrap().messages, 0);
    assert_eq!(client.queue("out").await.unwrap().messages, 1);
}

/// What a future gives when it is asked once.
fn asked_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}
