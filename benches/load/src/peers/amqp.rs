//! AMQP 0.9.1 by lapin: producers, consumers, and queues of three kinds.

use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use tokio::task::JoinSet;

use super::options::{AmqpOptions, QueueKind};
use crate::account::{Account, Receiver, tallies};
use crate::lane::Lane;
use crate::meter::Meter;
use crate::options::Shape;
use crate::report::publish;

/// The delivery mode of messages that survive a restart.
const PERSISTENT: u8 = 2;

/// A queue, and whose messages it gets (None: everybody's).
struct Queue {
    name: String,
    publisher: Option<u32>,
    /// Its place among the queues of a publisher.
    place: usize,
}

struct Amqp {
    options: AmqpOptions,
    /// Open as long as the run.
    connections: Vec<Connection>,
    queues: Vec<Queue>,
}

// === impl Amqp ===

impl Amqp {
    fn new(options: AmqpOptions) -> Self {
        let load = &options.load;
        let queue = |publisher: Option<u32>, place: u32| Queue {
            name: format!("bench-{}-{place}", publisher.unwrap_or(0)),
            publisher,
            place: place as usize,
        };
        let queues = match options.shape {
            Shape::Shared => vec![queue(None, 0)],
            Shape::FanIn => (0..load.subscribers).map(|n| queue(None, n)).collect(),
            Shape::Pairs => (0..load.publishers)
                .flat_map(|p| (0..load.subscribers).map(move |n| queue(Some(p), n)))
                .collect(),
        };
        Self { options, connections: Vec::new(), queues }
    }

    fn acknowledges(&self) -> bool {
        self.options.queue != QueueKind::Transient
    }

    async fn channel(&mut self) -> Result<Channel> {
        let addr = self.options.target.addr(self.connections.len());
        let uri = format!("amqp://guest:guest@{addr}/%2f");
        let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        self.connections.push(connection);
        Ok(channel)
    }

    /// Makes queues and exchanges afresh: a fan-out exchange a publisher, its queues bound to it.
    async fn declare(&self, channel: &Channel) -> Result<()> {
        for publisher in 0..self.options.load.publishers {
            let (name, kind) = (exchange(publisher), lapin::ExchangeKind::Fanout);
            let options = ExchangeDeclareOptions { auto_delete: true, ..Default::default() };
            channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await?;
        }
        for queue in &self.queues {
            let name = queue.name.as_str();
            channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
            let mut arguments = FieldTable::default();
            if self.options.queue == QueueKind::Quorum {
                let kind = AMQPValue::LongString("quorum".into());
                arguments.insert("x-queue-type".into(), kind);
            }
            let options =
                QueueDeclareOptions { durable: self.acknowledges(), ..Default::default() };
            channel.queue_declare(name.into(), options, arguments).await?;
            for publisher in 0..self.options.load.publishers {
                if queue.publisher.is_none_or(|p| p == publisher) {
                    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
                    let from = exchange(publisher);
                    channel
                        .queue_bind(name.into(), from.into(), "".into(), options, arguments)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// A consumer on a connection of its own for each subscriber.
    async fn consumers(&mut self) -> Result<Vec<(Consumer, usize)>> {
        let each =
            if self.options.shape == Shape::Shared { self.options.load.subscribers } else { 1 };
        let queues: Vec<_> = self.queues.iter().map(|q| (q.name.clone(), q.place)).collect();
        let mut consumers = Vec::new();
        for (name, place) in queues {
            for n in 0..each {
                let channel = self.channel().await?;
                channel.basic_qos(self.options.prefetch, BasicQosOptions::default()).await?;
                let options =
                    BasicConsumeOptions { no_ack: !self.acknowledges(), ..Default::default() };
                let tag = format!("{name}-{n}");
                let consumer = channel.basic_consume(
                    name.as_str().into(),
                    tag.into(),
                    options,
                    FieldTable::default(),
                );
                consumers.push((consumer.await?, place));
            }
        }
        Ok(consumers)
    }

    fn title(&self) -> String {
        let (o, load) = (&self.options, &self.options.load);
        format!(
            "AMQP 0.9.1 {:?} {} × {} {:?} queues, {} B, prefetch {}, {}",
            o.shape,
            load.publishers,
            load.subscribers,
            o.queue,
            load.size,
            o.prefetch,
            load.pace()
        )
    }
}

fn exchange(publisher: u32) -> String {
    format!("bench-p{publisher}")
}

async fn consume(
    mut consumer: Consumer,
    mut receiver: Receiver,
    lanes: Rc<[Lane]>,
    place: usize,
    acknowledges: bool,
) -> Result<()> {
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        receiver.account.tick();
        let stamp = receiver.message(&delivery.data)?;
        if acknowledges {
            delivery.ack(BasicAckOptions::default()).await?;
        }
        if let Some(stamp) = stamp {
            receiver.account.settled();
            lanes[stamp.publisher as usize].came(place, stamp);
        }
    }
    Ok(())
}

async fn produce(
    channel: Channel,
    options: AmqpOptions,
    lanes: Rc<[Lane]>,
    publisher: u32,
) -> Result<()> {
    let confirms = options.queue != QueueKind::Transient;
    let mut properties = BasicProperties::default();
    if confirms {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        properties = properties.with_delivery_mode(PERSISTENT);
    }
    let (lane, exchange) = (&lanes[publisher as usize], exchange(publisher));
    let mut payload = vec![0x5A; options.load.size as usize];
    let mut open = VecDeque::new();
    let mut sent = 0;
    loop {
        let allowance = lane.allowance(sent).await;
        for number in sent..sent + allowance {
            if open.len() == options.load.window as usize {
                confirmed(open.pop_front()).await?;
                lane.confirmed();
            }
            lane.stamp(number, &mut payload);
            let (to, key) = (exchange.as_str().into(), "".into());
            let how = BasicPublishOptions::default();
            let confirm = channel.basic_publish(to, key, how, &payload, properties.clone()).await?;
            if confirms {
                open.push_back(confirm);
            }
        }
        sent += allowance;
        if allowance == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    while !open.is_empty() {
        confirmed(open.pop_front()).await?;
        lane.confirmed();
    }
    Ok(())
}

async fn confirmed(confirm: Option<lapin::PublisherConfirm>) -> Result<()> {
    if let Some(confirm) = confirm {
        let answer = confirm.await?;
        ensure!(answer == Confirmation::Ack(None), "publish refused: {answer:?}");
    }
    Ok(())
}

/// Runs the workload and prints what it cost.
pub(crate) async fn run(options: AmqpOptions) -> Result<()> {
    let mut amqp = Amqp::new(options);
    let own = amqp.channel().await?;
    amqp.declare(&own).await?;
    let consumers = amqp.consumers().await?;
    let mut channels = Vec::new();
    for _ in 0..amqp.options.load.publishers {
        channels.push(amqp.channel().await?);
    }
    let load = amqp.options.load.clone();
    let meter = Meter::start(&amqp.options.target);
    let account = Account::new(load.clone(), amqp.options.shape.deliveries(&amqp.options.load))?;
    let shared = tallies(load.publishers);
    let places = amqp.options.shape.places(&load);
    let lanes = Lane::all(&account, &load, places, amqp.acknowledges());
    let (mut receiving, mut sending) = (JoinSet::new(), JoinSet::new());
    for (consumer, place) in consumers {
        let own = if amqp.options.shape == Shape::Shared {
            shared.clone()
        } else {
            tallies(load.publishers)
        };
        let receiver = Receiver::new(&account, &own);
        receiving.spawn_local(consume(
            consumer,
            receiver,
            lanes.clone(),
            place,
            amqp.acknowledges(),
        ));
    }
    for (n, channel) in channels.into_iter().enumerate() {
        sending.spawn_local(produce(channel, amqp.options.clone(), lanes.clone(), n as u32));
    }
    account.finish(sending, receiving).await?;
    let report = account.report(amqp.title(), meter.read());
    for queue in &amqp.queues {
        own.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await?;
    }
    publish(std::slice::from_ref(&report), amqp.options.target.json.as_deref())?;
    ensure!(report.figures.lost == 0, "messages were lost");
    Ok(())
}
