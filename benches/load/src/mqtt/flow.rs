//! Publishers and subscribers in pairs, fan-in, fan-out or sharing a queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::JoinSet;

use super::link::{Bell, Introduction, Link, Role, ring};
use super::subscriber::Subscriber;
use super::wire::{self, Version};
use crate::account::{Account, Receiver, tallies};
use crate::meter::Meter;
use crate::options::{FlowOptions, Shape};
use crate::report::publish;

/// Messages a publisher writes at most at once.
const BURST: u64 = 256;

/// What the two ends of a topic know of each other.
pub(crate) struct Topic {
    name: String,
    sent: Cell<u64>,
    /// By place of a subscriber: one behind the highest number it got.
    pub(crate) delivered: RefCell<Vec<u64>>,
    pub(crate) publisher: Bell,
}

/// One connection that sends.
pub(crate) struct Publisher {
    options: FlowOptions,
    account: Rc<Account>,
    topics: Rc<[Topic]>,
    number: usize,
    payload: Vec<u8>,
    next_id: u16,
    /// Publishes in the handshake.
    open: u32,
}

// === impl Publisher ===

impl Publisher {
    pub(crate) fn new(
        options: &FlowOptions,
        account: &Rc<Account>,
        topics: &Rc<[Topic]>,
        number: usize,
    ) -> Self {
        let payload = vec![0x5A; options.load.size as usize];
        let (options, account, topics) = (options.clone(), account.clone(), topics.clone());
        Self { options, account, topics, number, payload, next_id: 1, open: 0 }
    }

    /// How many messages may go now.
    fn allowance(&self) -> u64 {
        let (load, topic) = (&self.options.load, &self.topics[self.number]);
        let sent = topic.sent.get();
        let window = if self.options.qos > 0 {
            u64::from(load.window - self.open)
        } else if load.rate > 0 {
            u64::MAX
        } else {
            let slowest = topic.delivered.borrow().iter().min().copied().unwrap_or(sent);
            u64::from(load.window).saturating_sub(sent - slowest)
        };
        self.account.due().saturating_sub(sent).min(window).min(BURST)
    }
}

impl Role for Publisher {
    fn packet(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let id = *body.first_chunk().context("an acknowledgement cut short")?;
        ensure!(body.get(2).is_none_or(|reason| *reason < 0x80), "publish refused: {body:?}");
        match first {
            0x40 | 0x70 => self.open -= 1,
            0x50 => wire::acknowledge(out, 0x62, id),
            other => bail!("unexpected packet {other:#x}"),
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) {
        self.account.tick();
        let (qos, version) = (self.options.qos, self.options.mqtt);
        let flags = wire::publish_flags(qos, false);
        let topic = &self.topics[self.number];
        for _ in 0..self.allowance() {
            let n = topic.sent.get();
            self.account.stamp(n, self.number as u32).write(&mut self.payload);
            let id = self.next_id;
            wire::publish_head(out, version, flags, &topic.name, id, self.payload.len());
            out.extend_from_slice(&self.payload);
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            topic.sent.set(n + 1);
            self.open += u32::from(qos > 0);
        }
    }

    fn is_done(&self) -> bool {
        self.topics[self.number].sent.get() == self.options.load.messages && self.open == 0
    }
}

/// A workload under way.
pub(crate) struct Flow {
    options: FlowOptions,
    topics: Rc<[Topic]>,
    /// Each with its place among the subscribers of a topic.
    subscribers: Vec<(Link, usize)>,
    /// Subscribers that never read.
    deaf: Vec<Link>,
}

// === impl Flow ===

impl Flow {
    /// The topics of a run, without connections.
    pub(crate) fn topics(publishers: u32, places: u32) -> Rc<[Topic]> {
        let topic = |n| Topic {
            name: format!("bench/{n}/t"),
            sent: Cell::new(0),
            delivered: RefCell::new(vec![0; places as usize]),
            publisher: Bell::default(),
        };
        (0..publishers).map(topic).collect()
    }

    /// Connects the subscribers.
    async fn new(options: FlowOptions) -> Result<Self> {
        let load = &options.load;
        let places = options.shape.places(load);
        let topics = Self::topics(load.publishers, places);
        let publishers: Vec<Option<u32>> = match options.shape {
            Shape::Pairs => (0..load.publishers).map(Some).collect(),
            Shape::FanIn | Shape::Shared => vec![None],
        };
        let mut subscribers = Vec::new();
        for publisher in publishers {
            for n in 0..load.subscribers as usize {
                let client_id = format!("bench-s{}-{n}", publisher.unwrap_or(0));
                let filter = match (options.shape, publisher) {
                    (Shape::Pairs, Some(publisher)) => topics[publisher as usize].name.clone(),
                    (Shape::Shared, _) => "$share/bench/bench/+/t".into(),
                    _ => "bench/+/t".into(),
                };
                let as_who = Introduction {
                    version: options.mqtt,
                    client_id: &client_id,
                    persistent: options.persistent,
                    filter: Some((&filter, options.qos)),
                };
                let link = Link::open(options.target.addr(subscribers.len()), as_who).await?;
                let place = if options.shape == Shape::Shared { 0 } else { n };
                subscribers.push((link, place));
            }
        }
        let mut deaf = Vec::new();
        for n in 0..options.deaf {
            let as_who = Introduction {
                version: options.mqtt,
                client_id: &format!("bench-deaf{n}"),
                persistent: options.persistent,
                filter: Some(("bench/+/t", options.qos)),
            };
            // Beside its twin, when there are several addresses.
            deaf.push(Link::open(options.target.addr(0), as_who).await?);
        }
        Ok(Self { options, topics, subscribers, deaf })
    }

    /// Connects the publishers, who wait until they are driven.
    async fn publishers(&self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        for n in 0..self.topics.len() {
            let client_id = format!("bench-p{n}");
            let (version, persistent) = (self.options.mqtt, false);
            let as_who = Introduction { version, client_id: &client_id, persistent, filter: None };
            // Not where its subscriber is, when there are several addresses.
            links.push(Link::open(self.options.target.addr(n + 1), as_who).await?);
        }
        Ok(links)
    }

    fn receive(&mut self, account: &Rc<Account>) -> JoinSet<Result<()>> {
        let mut receiving = JoinSet::new();
        let shared = tallies(self.options.load.publishers);
        for (link, place) in self.subscribers.drain(..) {
            let own = match self.options.shape {
                Shape::Shared => shared.clone(),
                Shape::Pairs | Shape::FanIn => tallies(self.options.load.publishers),
            };
            let receiver = Receiver::new(account, &own);
            let terms = (self.options.mqtt, self.options.qos);
            let role = Subscriber::new(receiver, terms, &self.topics, place);
            receiving.spawn_local(async move { link.drive(role, Bell::default()).await.map(drop) });
        }
        receiving
    }

    fn send(&self, links: Vec<Link>, account: &Rc<Account>) -> JoinSet<Result<()>> {
        let mut sending = JoinSet::new();
        for (n, link) in links.into_iter().enumerate() {
            let bell = self.topics[n].publisher.clone();
            if self.options.load.rate > 0 {
                tokio::task::spawn_local(metronome(bell.clone()));
            }
            let role = Publisher::new(&self.options, account, &self.topics, n);
            sending.spawn_local(async move { link.drive(role, bell).await.map(drop) });
        }
        sending
    }

    /// Ends the sessions that would outlive the run.
    async fn forget_sessions(&self) -> Result<()> {
        let version = self.options.mqtt;
        let publishers = if self.options.shape == Shape::Pairs { self.topics.len() } else { 1 };
        let subscribers = self.options.load.subscribers;
        let ids = (0..publishers)
            .flat_map(|p| (0..subscribers).map(move |n| format!("bench-s{p}-{n}")))
            .chain((0..self.options.deaf).map(|n| format!("bench-deaf{n}")));
        for client_id in ids {
            let (client_id, persistent) = (&client_id, false);
            let as_who = Introduction { version, client_id, persistent, filter: None };
            Link::open(self.options.target.addr(0), as_who).await?.close().await;
        }
        Ok(())
    }

    fn title(&self) -> String {
        let (o, load) = (&self.options, &self.options.load);
        let version = if o.mqtt == Version::V5 { "5" } else { "3.1.1" };
        let kept = if o.persistent { ", persistent sessions" } else { "" };
        let deaf = match o.deaf {
            0 => String::new(),
            n => format!(", and {n} that never read"),
        };
        format!(
            "MQTT {version} {:?} {} × {} QoS {} {} B, {}{kept}{deaf}",
            o.shape,
            load.publishers,
            load.subscribers,
            o.qos,
            load.size,
            load.pace()
        )
    }
}

/// Runs the workload and prints what it cost.
pub(crate) async fn run(options: FlowOptions) -> Result<()> {
    if options.persistent {
        // What an earlier run left would come first.
        let leftovers = Flow {
            options: options.clone(),
            topics: Flow::topics(options.load.publishers, 0),
            subscribers: Vec::new(),
            deaf: Vec::new(),
        };
        leftovers.forget_sessions().await?;
    }
    let mut flow = Flow::new(options).await?;
    let links = flow.publishers().await?;
    let meter = Meter::start(&flow.options.target);
    let account =
        Account::new(flow.options.load.clone(), flow.options.shape.deliveries(&flow.options.load))?;
    let receiving = flow.receive(&account);
    let sending = flow.send(links, &account);
    account.finish(sending, receiving).await?;
    let used = meter.read();
    flow.deaf.clear();
    if flow.options.persistent {
        flow.forget_sessions().await?;
    }
    let report = account.report(flow.title(), used);
    publish(std::slice::from_ref(&report), flow.options.target.json.as_deref())?;
    ensure!(report.figures.lost == 0, "messages were lost");
    Ok(())
}

/// Wakes a paced publisher each millisecond.
async fn metronome(publisher: Bell) {
    let mut beats = tokio::time::interval(Duration::from_millis(1));
    loop {
        beats.tick().await;
        ring(&publisher);
    }
}
