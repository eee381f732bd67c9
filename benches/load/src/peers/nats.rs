//! NATS by async-nats: core subjects and queue groups, and JetStream with acknowledgements both ways.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::rc::Rc;

use anyhow::{Context as _, Result, anyhow, ensure};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::{Client, Subscriber, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::task::JoinSet;

use super::options::{NatsKind, NatsOptions};
use crate::account::{Account, Receiver, tallies};
use crate::lane::Lane;
use crate::meter::Meter;
use crate::options::Shape;
use crate::report::publish;

/// Unacknowledged messages of a JetStream consumer, unless the windows are larger: the default of the server.
const ACK_PENDING: u32 = 1_000;

/// Where a receiver gets its messages.
enum Source {
    Core(Subscriber),
    Jetstream(pull::Stream),
}

struct Nats {
    options: NatsOptions,
    clients: Vec<Client>,
}

fn subject(publisher: u32) -> String {
    format!("bench.{publisher}.t")
}

// === impl Nats ===

impl Nats {
    async fn client(&mut self) -> Result<Client> {
        let addr = self.options.target.addr(self.clients.len());
        let client = async_nats::connect(format!("nats://{addr}")).await?;
        self.clients.push(client.clone());
        Ok(client)
    }

    /// What each receiver subscribes to, and its place among the receivers of a publisher.
    fn wanted(&self) -> Vec<(String, usize)> {
        let load = &self.options.load;
        let places = 0..load.subscribers as usize;
        match self.options.shape {
            Shape::Shared => places.map(|_| ("bench.*.t".to_owned(), 0)).collect(),
            Shape::FanIn => places.map(|n| ("bench.*.t".to_owned(), n)).collect(),
            Shape::Pairs => (0..load.publishers)
                .flat_map(|p| places.clone().map(move |n| (subject(p), n)))
                .collect(),
        }
    }

    /// The stream of receiver `n`: one for each publisher in pairs, one for all otherwise.
    fn stream(&self, n: usize) -> String {
        match self.options.shape {
            Shape::Pairs => format!("BENCH-{}", n / self.options.load.subscribers as usize),
            Shape::FanIn | Shape::Shared => "BENCH".into(),
        }
    }

    /// Makes the streams afresh.
    async fn declare(&mut self) -> Result<()> {
        if self.options.kind == NatsKind::Core {
            return Ok(());
        }
        let context = jetstream::new(self.client().await?);
        // Those of an earlier run may have the same subjects.
        let names: Vec<_> = context.stream_names().collect().await;
        for name in names {
            context.delete_stream(name?).await?;
        }
        // A work queue takes one consumer for each subject.
        let retention = match self.options.shape {
            Shape::Pairs if self.options.load.subscribers == 1 => RetentionPolicy::WorkQueue,
            Shape::Shared => RetentionPolicy::WorkQueue,
            Shape::Pairs | Shape::FanIn => RetentionPolicy::Interest,
        };
        let pairs = self.options.shape == Shape::Pairs;
        for publisher in 0..if pairs { self.options.load.publishers } else { 1 } {
            let name = self.stream((publisher * self.options.load.subscribers) as usize);
            let subjects = vec![if pairs { subject(publisher) } else { "bench.>".into() }];
            let storage = StorageType::File;
            let config = Config { name, subjects, retention, storage, ..Config::default() };
            context.create_stream(config).await?;
        }
        Ok(())
    }

    async fn source(&mut self, filter: &str, n: usize) -> Result<Source> {
        let client = self.client().await?;
        let shared = self.options.shape == Shape::Shared;
        if self.options.kind == NatsKind::Core {
            let subscriber = if shared {
                client.queue_subscribe(filter.to_owned(), "bench".into()).await?
            } else {
                client.subscribe(filter.to_owned()).await?
            };
            client.flush().await?;
            return Ok(Source::Core(subscriber));
        }
        let name = if shared { "shared".to_owned() } else { format!("own-{n}") };
        let load = &self.options.load;
        let sharing = if shared { load.subscribers } else { 1 };
        let config = pull::Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            filter_subject: filter.into(),
            max_ack_pending: i64::from(load.window.saturating_mul(sharing).max(ACK_PENDING)),
            ..pull::Config::default()
        };
        let stream = jetstream::new(client).get_stream(self.stream(n)).await?;
        let consumer: PullConsumer = stream.get_or_create_consumer(&name, config).await?;
        let messages =
            consumer.stream().max_messages_per_batch(load.window as usize).messages().await?;
        Ok(Source::Jetstream(messages))
    }

    fn title(&self) -> String {
        let (o, load) = (&self.options, &self.options.load);
        format!(
            "NATS {:?} {:?} {} × {} {} B, {}",
            o.kind,
            o.shape,
            load.publishers,
            load.subscribers,
            load.size,
            load.pace()
        )
    }
}

async fn receive(
    source: Source,
    mut receiver: Receiver,
    lanes: Rc<[Lane]>,
    place: usize,
) -> Result<()> {
    let mut take = |payload: &[u8]| {
        receiver.account.tick();
        if let Some(stamp) = receiver.message(payload)? {
            receiver.account.settled();
            lanes[stamp.publisher as usize].came(place, stamp);
        }
        Ok::<_, anyhow::Error>(())
    };
    match source {
        Source::Core(mut subscriber) => {
            while let Some(message) = subscriber.next().await {
                take(&message.payload)?;
            }
        }
        Source::Jetstream(mut messages) => {
            while let Some(message) = messages.next().await {
                let message = message?;
                message.ack().await.map_err(|e| anyhow!("cannot acknowledge: {e}"))?;
                take(&message.payload)?;
            }
        }
    }
    Ok(())
}

async fn send(
    client: Client,
    options: NatsOptions,
    lanes: Rc<[Lane]>,
    publisher: u32,
) -> Result<()> {
    let (lane, subject) = (&lanes[publisher as usize], subject(publisher));
    let context = (options.kind == NatsKind::Jetstream).then(|| jetstream::new(client.clone()));
    let mut payload = vec![0x5A; options.load.size as usize];
    let mut open = VecDeque::new();
    let mut sent = 0;
    loop {
        let allowance = lane.allowance(sent).await;
        for number in sent..sent + allowance {
            lane.stamp(number, &mut payload);
            let bytes = Bytes::copy_from_slice(&payload);
            let Some(context) = &context else {
                client.publish(subject.clone(), bytes).await?;
                continue;
            };
            if open.len() == options.load.window as usize {
                let oldest: jetstream::context::PublishAckFuture =
                    open.pop_front().context("window of 0")?;
                oldest.into_future().await?;
                lane.confirmed();
            }
            open.push_back(context.publish(subject.clone(), bytes).await?);
        }
        sent += allowance;
        if allowance == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    for ack in open {
        ack.into_future().await?;
        lane.confirmed();
    }
    client.flush().await?;
    Ok(())
}

/// Runs the workload and prints what it cost.
pub(crate) async fn run(options: NatsOptions) -> Result<()> {
    let mut nats = Nats { options, clients: Vec::new() };
    nats.declare().await?;
    let mut sources = Vec::new();
    for (n, (filter, place)) in nats.wanted().into_iter().enumerate() {
        sources.push((nats.source(&filter, n).await?, place));
    }
    let mut publishers = Vec::new();
    for _ in 0..nats.options.load.publishers {
        publishers.push(nats.client().await?);
    }
    let load = nats.options.load.clone();
    let meter = Meter::start(&nats.options.target);
    let account = Account::new(load.clone(), nats.options.shape.deliveries(&nats.options.load))?;
    let shape = nats.options.shape;
    let places = shape.places(&load);
    let answered = nats.options.kind == NatsKind::Jetstream;
    let lanes = Lane::all(&account, &load, places, answered);
    let shared = tallies(load.publishers);
    let (mut receiving, mut sending) = (JoinSet::new(), JoinSet::new());
    for (source, place) in sources {
        let own = if shape == Shape::Shared { shared.clone() } else { tallies(load.publishers) };
        receiving.spawn_local(receive(source, Receiver::new(&account, &own), lanes.clone(), place));
    }
    for (n, client) in publishers.into_iter().enumerate() {
        sending.spawn_local(send(client, nats.options.clone(), lanes.clone(), n as u32));
    }
    account.finish(sending, receiving).await?;
    let report = account.report(nats.title(), meter.read());
    publish(std::slice::from_ref(&report), nats.options.target.json.as_deref())?;
    ensure!(report.figures.lost == 0, "messages were lost");
    Ok(())
}
