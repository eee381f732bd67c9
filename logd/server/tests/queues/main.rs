//! Queues as a program sees them: the Rust client over gRPC against a `logd` of this process.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod again;
mod groups;
mod limits;
mod links;
mod streams;
mod together;
mod work;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fluxmq_client::{Client, Consumer, Delivery, Message, Publisher, QueueInfo, QueueOptions};
use logd::{Config, Running, start};
use tempfile::TempDir;

/// Whatever is waited for comes within this, or the test has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `logd` that may be stopped and started again at the same address.
struct Node {
    dir: TempDir,
    shards: u32,
    address: SocketAddr,
    logd: Option<Running>,
}

// === impl Node ===

impl Node {
    fn start() -> Self {
        Self::with_shards(1)
    }

    fn with_shards(shards: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let logd = Some(run(dir.path(), shards, listener));
        Self { dir, shards, address, logd }
    }

    /// Stops it; whoever is connected loses the link.
    fn stop(&mut self) {
        drop(self.logd.take());
    }

    fn start_again(&mut self) {
        let listener = bind_again(self.address);
        self.logd = Some(run(self.dir.path(), self.shards, listener));
    }

    async fn client(&self) -> Client {
        Client::connect([format!("http://{}", self.address)]).await.unwrap()
    }
}

fn run(dir: &Path, shards: u32, listener: TcpListener) -> Running {
    listener.set_nonblocking(true).unwrap();
    let (data_dir, grpc) = (Some(dir.to_path_buf()), vec![Arc::new(listener)]);
    // As `fluxmq` does: its own gateway has gone, programs may come back.
    start(Config { data_dir, shards, grpc, alone: true, ..Config::default() }).unwrap()
}

/// The port may be taken for a moment by connections that are being closed.
fn bind_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Publishes and waits until it is stored; gives the offset.
async fn put(to: &Publisher, message: impl Into<Message>) -> u64 {
    to.publish(message).await.unwrap().stored().await.unwrap().offset
}

/// The next message.
async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(PATIENCE, consumer.next()).await.expect("a message").unwrap()
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message().payload().to_vec()).unwrap()
}

/// The next messages, as text; each is acknowledged.
async fn take(consumer: &mut Consumer, n: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..n {
        let delivery = next(consumer).await;
        consumer.ack(delivery.offset());
        all.push(text(&delivery));
    }
    consumer.settled().await.unwrap();
    all
}

/// Waits until a queue is as wanted.
async fn until(client: &Client, queue: &str, wanted: impl Fn(&QueueInfo) -> bool) -> QueueInfo {
    let wait = async {
        loop {
            let info = client.queue(queue).await.unwrap();
            if wanted(&info) {
                return info;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the queue comes to be as wanted")
}

/// A client, a queue and a publisher to it.
async fn with_queue(node: &Node, name: &str, options: QueueOptions) -> (Client, Publisher) {
    let client = node.client().await;
    assert!(client.declare(name, &options).await.unwrap());
    let publisher = client.publisher(name).await.unwrap();
    (client, publisher)
}
