//! Every feature of queues from both sides: what one protocol does is seen through the other. The line `cell:` above a
//! test says which feature and which side acts; `docs/protocols/queue-features.md` is made from them.

mod features;
mod groups;
mod limits;
mod publishing;
mod settling;
mod streams;

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use conformance::broker::Broker;
use conformance::wire::{Client as Mqtt, Publish, publish, subscribe, user};
use fluxmq_client::{Client, Consumer, Delivery, Message, Publisher, QueueInfo, QueueOptions};
use tokio::runtime::Runtime;

/// Whatever is waited for comes within this, or the test has failed.
const PATIENCE: Duration = Duration::from_secs(30);

fn at() -> SocketAddr {
    Broker::shared().address()
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let build =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    RUNTIME.get_or_init(|| build().expect("a runtime"))
}

/// Waits for what the Rust client says.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let within = async { tokio::time::timeout(PATIENCE, future).await };
    runtime().block_on(within).expect("it comes")
}

/// A queue, the Rust client that made it, and its name over MQTT.
struct Queue {
    name: String,
    topic: String,
    client: Client,
    publisher: Publisher,
    packet_id: std::cell::Cell<u16>,
    writer: std::cell::RefCell<Mqtt>,
}

// === impl Queue ===

impl Queue {
    fn new(name: &str, options: &QueueOptions) -> Self {
        let client = wait(Client::connect([format!("http://{}", Broker::shared().grpc)]));
        let client = client.expect("it connects");
        assert!(wait(client.declare(name, options)).expect("declared"), "{name} is new");
        let publisher = wait(client.publisher(name)).expect("it exists");
        let writer = Mqtt::clean(at(), 5, &format!("{name}-writer")).into();
        let (name, topic) = (name.to_owned(), format!("$queue/{name}"));
        Self { name, topic, client, publisher, packet_id: 0.into(), writer }
    }

    fn work(name: &str) -> Self {
        Self::new(name, &QueueOptions::work())
    }

    /// Publishes by the Rust client.
    fn put(&self, message: impl Into<Message>) -> u64 {
        let receipt = wait(self.publisher.publish(message)).expect("published");
        wait(receipt.stored()).expect("stored").offset
    }

    /// Publishes by MQTT with QoS 1 to what stands behind the name; gives the reason code.
    fn put_mqtt_at(&self, rest: &str, properties: &[u8], payload: &[u8]) -> u8 {
        self.packet_id.set(self.packet_id.get() + 1);
        let topic = format!("{}{rest}", self.topic);
        self.writer.borrow_mut().publish_with(2, &topic, self.packet_id.get(), properties, payload)
    }

    /// Publishes by MQTT; it is stored.
    fn put_mqtt(&self, payload: &str) {
        assert_eq!(self.put_mqtt_at("", &[], payload.as_bytes()), 0);
    }

    /// A consumer of the Rust client.
    fn consumer(&self, group: &str, prefetch: u32) -> Consumer {
        let builder = self.client.consumer(&self.name).group(group).prefetch(prefetch);
        wait(builder.open()).expect("it consumes")
    }

    /// A consumer over MQTT, of a group, settling by name or by PUBACK.
    fn reader(&self, id: &str, group: &str, manual: bool) -> Mqtt {
        let (client, codes) = self.try_reader(id, group, manual);
        assert_eq!(codes, [1]);
        client
    }

    /// As [`Self::reader`]; gives what SUBACK says.
    fn try_reader(&self, id: &str, group: &str, manual: bool) -> (Mqtt, Vec<u8>) {
        let mut client = Mqtt::clean(at(), 5, &format!("{}-{id}", self.name));
        let mut asked = user("consumer-group", group);
        if manual {
            asked.extend(user("ack", "manual"));
        }
        client.send(&subscribe(5, 9, &asked, &[(&self.topic, 1)]));
        let codes = client.expect(0x90, 9).codes(5);
        (client, codes)
    }

    fn info(&self) -> QueueInfo {
        wait(self.client.queue(&self.name)).expect("it exists")
    }

    /// Waits until the queue is as wanted.
    fn until(&self, wanted: impl Fn(&QueueInfo) -> bool) -> QueueInfo {
        wait(async {
            loop {
                let info = self.client.queue(&self.name).await.expect("it exists");
                if wanted(&info) {
                    return info;
                }
                tokio::task::yield_now().await;
            }
        })
    }
}

/// The next message by the Rust client, held.
fn next(consumer: &mut Consumer) -> Delivery {
    wait(consumer.next()).expect("a message")
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message().payload().to_vec()).expect("text")
}

/// The next messages by the Rust client, acknowledged.
fn take(consumer: &mut Consumer, n: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..n {
        let delivery = next(consumer);
        consumer.ack(delivery.offset());
        all.push(text(&delivery));
    }
    wait(consumer.settled()).expect("settled");
    all
}

/// The next messages by MQTT, acknowledged by PUBACK.
fn take_mqtt(client: &mut Mqtt, n: usize) -> Vec<String> {
    (0..n).map(|_| payload(&client.receive())).collect()
}

fn payload(message: &Publish) -> String {
    String::from_utf8(message.payload.clone()).expect("text")
}

/// A user property of a message.
fn property(message: &Publish, name: &str) -> String {
    let wanted = user(name, "");
    let start = &wanted[1..wanted.len() - 2];
    let all = message.property(0x26);
    let value = all.iter().find_map(|pair| pair.strip_prefix(start)).expect(name);
    String::from_utf8(value[2..].to_vec()).expect("text")
}

/// What the holder says by name of a message; gives the reason code.
fn say(holder: &mut Mqtt, queue: &Queue, verdict: &str, offset: u64, more: &[u8]) -> u8 {
    let asked = [user("offset", &offset.to_string()), more.to_vec()].concat();
    let id = 1_000 + u16::try_from(offset).expect("a small one");
    holder.send(&publish(5, 2, &format!("{}/{verdict}", queue.topic), id, &asked, b""));
    holder.expect(0x40, id).reason()
}
