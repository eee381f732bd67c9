//! Our contract over gRPC, as a gateway speaks it: a producer whose commands are one stream to one shard, and a
//! persistent session that drains what was published. The same work as `backlog` without MQTT: what is left of its
//! cost is `logd`'s. It uses the contract's own client and shares no other code with the broker.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fluxmq_client::Link;
use fluxmq_client::contract::{DELIVERY_OVERHEAD_BYTES, Delivery, Event, Request, Role, Submit};
use fluxmq_client::transport::connect;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Command, Connect, Publish, Settled, Wanted};
use fluxmq_names::{Kind, place};
use hdrhistogram::Histogram;
use tokio::time::{Interval, interval};

use crate::meter::Meter;
use crate::options::GrpcOptions;
use crate::report::{Came, Figures, Report, publish};

const VHOST: &str = "/";
const SESSION: &str = "bench-grpc";
const TOPIC: &str = "grpc/t";
/// The connection of the session, as the contract names it.
const TOKEN: u64 = 1;
/// Bytes of commands that may be unanswered (docs/internals/contract.md).
const UNANSWERED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Deliveries that may be unsettled.
const CREDIT: u32 = 1_000;
/// How often the lease is renewed.
const RENEW: Duration = Duration::from_secs(1);

/// A link, its place in the stream of commands, and its lease.
struct Producer {
    link: Link,
    shard: u32,
    next_sequence: u64,
    answered: u64,
    renew: Interval,
    nonce: u64,
}

// === impl Producer ===

impl Producer {
    async fn join(options: &GrpcOptions) -> Result<Self> {
        let link = connect(&format!("http://{}", options.target.addr(0)), None).await?;
        let mut renew = interval(RENEW);
        renew.reset();
        let mut producer = Self { link, shard: 0, next_sequence: 1, answered: 0, renew, nonce: 0 };
        producer.say(Request::Hello { name: SESSION.into(), epoch: 0, role: Role::Gateway })?;
        loop {
            if let Event::Welcome { shards, .. } = producer.event().await? {
                producer.shard = place(Kind::Session, VHOST, SESSION, shards).0;
                return Ok(producer);
            }
        }
    }

    fn say(&self, request: Request) -> Result<()> {
        ensure!(self.link.to.send(request), "logd closed the link");
        Ok(())
    }

    /// The next event that is not about routes or leases.
    async fn event(&mut self) -> Result<Event> {
        loop {
            tokio::select! {
                event = self.link.from.recv() => match event.context("logd closed the link")? {
                    Event::Deltas { version, .. } => self.say(Request::Ack { version })?,
                    Event::Lease { .. } | Event::Others(_) => {}
                    Event::Refused { code, .. } => bail!("refused: {code:?}"),
                    event => return Ok(event),
                },
                _ = self.renew.tick() => {
                    self.nonce += 1;
                    self.say(Request::Renew { nonce: self.nonce })?;
                }
            }
        }
    }

    /// Sends commands that stand behind one another in `body` as one frame.
    fn submit(&mut self, ends: Vec<u32>, body: Vec<u8>) -> Result<()> {
        let (first_sequence, confirmed_upto) = (self.next_sequence, self.answered);
        self.next_sequence += ends.len() as u64;
        let body = body.into();
        self.say(Request::Submit(Submit {
            shard: self.shard,
            first_sequence,
            confirmed_upto,
            ends,
            body,
        }))
    }

    /// Sends one command and waits for its outcome.
    async fn call(&mut self, command: &Command<'_>) -> Result<Outcome> {
        let mut body = Vec::new();
        command.encode(&[], &mut body);
        self.submit(vec![body.len() as u32], body)?;
        loop {
            if let Event::Outcomes { outcomes, .. } = self.event().await? {
                self.answered += outcomes.len() as u64;
                return outcomes.into_iter().next_back().context("no outcome");
            }
        }
    }

    /// A persistent session that is owed all of the topic: its id and epoch.
    async fn session(&mut self) -> Result<(u64, u64)> {
        let connect = Command::Connect(Connect {
            vhost: VHOST,
            client_id: SESSION,
            clean_start: true,
            expiry_s: 60,
            window: CREDIT as u16,
            token: TOKEN,
            will: None,
        });
        let Outcome::Connected(connected) = self.call(&connect).await? else {
            bail!("the session is refused")
        };
        let (session, epoch) = (connected.session, connected.epoch);
        let filters = vec![Wanted { options: 1, identifier: 0, filter: TOPIC, more: "" }];
        let subscribed = self.call(&Command::Subscribe { session, epoch, filters }).await?;
        ensure!(matches!(subscribed, Outcome::Subscribed(_)), "refused: {subscribed:?}");
        Ok((session, epoch))
    }

    /// Publishes all, a frame's outcomes at a time; latency is that of a frame.
    async fn gather(&mut self, options: &GrpcOptions) -> Result<(Came, Histogram<u64>)> {
        let began = Instant::now();
        let mut latency_ns = Histogram::new(3)?;
        // When each frame went, and how many commands of it are unanswered.
        let mut open: VecDeque<(Instant, u64)> = VecDeque::new();
        let (mut sent, mut answered) = (0, 0);
        let window = u64::from(options.window);
        let bytes_each = (options.size + 128) as usize;
        let window = window.min((UNANSWERED_BYTES_MAX / bytes_each) as u64);
        while answered < options.messages {
            while sent < options.messages && sent - answered < window {
                let count = u64::from(options.frame).min(options.messages - sent);
                let (ends, body) = frame(sent, count, options.size as usize);
                self.submit(ends, body)?;
                open.push_back((Instant::now(), count));
                sent += count;
            }
            let Event::Outcomes { outcomes, .. } = self.event().await? else { continue };
            for outcome in &outcomes {
                ensure!(matches!(outcome, Outcome::Published { matched: 1 }), "{outcome:?}");
                if let Some((at, left)) = open.front_mut() {
                    *left -= 1;
                    if *left == 0 {
                        let _ = latency_ns.record(at.elapsed().as_nanos() as u64);
                        open.pop_front();
                    }
                }
            }
            answered += outcomes.len() as u64;
            self.answered += outcomes.len() as u64;
        }
        let seconds = began.elapsed().as_secs_f64();
        Ok((Came { delivered: answered, seconds, ..Came::default() }, latency_ns))
    }

    /// Takes all that the session is owed, in order, and settles it.
    async fn drain(&mut self, options: &GrpcOptions, (session, epoch): (u64, u64)) -> Result<Came> {
        let (began, shard) = (Instant::now(), self.shard);
        self.say(Request::Open { token: TOKEN, shard, session, epoch, from: 0 })?;
        self.say(Request::Credit { token: TOKEN, count: CREDIT })?;
        let mut expected = 0;
        while expected < options.messages {
            let deliveries = match self.event().await? {
                Event::Deliveries(deliveries) => deliveries,
                Event::Outcomes { outcomes, .. } => {
                    self.answered += outcomes.len() as u64;
                    continue;
                }
                Event::Taken { .. } => bail!("another connection took the session"),
                _ => continue,
            };
            let first = deliveries.first().map_or(0, |d| d.number);
            let mut bytes = 0;
            for delivery in &deliveries {
                ensure!(number(delivery, options.size) == Some(expected), "out of order");
                expected += 1;
                bytes += DELIVERY_OVERHEAD_BYTES + delivery.command.len() as u32;
            }
            let count = deliveries.len() as u32;
            let ranges = vec![Settled { first, count, received: false }];
            let sent_upto = first + u64::from(count);
            let mut body = Vec::new();
            Command::Settle { session, epoch, sent_upto, ranges }.encode(&[], &mut body);
            self.submit(vec![body.len() as u32], body)?;
            self.say(Request::Window { bytes })?;
            self.say(Request::Credit { token: TOKEN, count })?;
        }
        let seconds = began.elapsed().as_secs_f64();
        Ok(Came { delivered: expected, seconds, ..Came::default() })
    }
}

/// `count` publishes from number `first` on: where each ends, and all of them.
fn frame(first: u64, count: u64, size: usize) -> (Vec<u32>, Vec<u8>) {
    let publish = Publish { qos: 1, vhost: VHOST, topic: TOPIC, ..Publish::default() };
    let mut payload = vec![0x5A; size];
    let (mut ends, mut body) = (Vec::with_capacity(count as usize), Vec::new());
    for number in first..first + count {
        payload[..8].copy_from_slice(&number.to_le_bytes());
        Command::Publish(publish).encode(&payload, &mut body);
        ends.push(body.len() as u32);
    }
    (ends, body)
}

/// The number in the payload, which ends the command.
fn number(delivery: &Delivery, size: u32) -> Option<u64> {
    let at = delivery.command.len().checked_sub(size as usize)?;
    Some(u64::from_le_bytes(*delivery.command.get(at..)?.first_chunk()?))
}

async fn both(options: &GrpcOptions) -> Result<[Report; 2]> {
    let o = options;
    let mut producer = Producer::join(o).await?;
    let session = producer.session().await?;
    let title = |what| {
        let (size, frame, window) = (o.size, o.frame, o.window);
        format!("gRPC {what}, {size} B, {frame} a frame, window {window}")
    };
    let meter = Meter::start(&o.target);
    let (came, latency_ns) = producer.gather(o).await?;
    let figures = Figures::new(came, meter.read());
    let gathered =
        Report { workload: title("publish"), figures, latency: Some((&latency_ns).into()) };
    let meter = Meter::start(&o.target);
    let came = producer.drain(o, session).await?;
    let figures = Figures::new(came, meter.read());
    producer.say(Request::Leave)?;
    Ok([gathered, Report { workload: title("drain"), figures, latency: None }])
}

/// Runs the workload and prints what each half cost.
pub(crate) async fn run(options: GrpcOptions) -> Result<()> {
    let limit = Duration::from_secs(options.limit_s);
    let reports =
        tokio::time::timeout(limit, both(&options)).await.context("not over at --limit-s")??;
    publish(&reports, options.target.json.as_deref())
}
