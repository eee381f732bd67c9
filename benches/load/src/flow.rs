//! Publishers and subscribers; every message carries its publisher's number and its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

use crate::link::{Bell, Role, drive, open, ring};
use crate::report::{Figures, Report};
use crate::{FlowOptions, process, wire};

/// Bytes before the padding of a payload: sequence number and sending time in ns.
const STAMP: usize = 16;
/// Messages a publisher writes at most at once.
const BURST: u64 = 256;

/// What the two ends of a topic know of each other.
struct Topic {
    name: String,
    /// Messages published and those delivered to the slowest subscriber.
    sent: Cell<u64>,
    delivered: RefCell<Vec<u64>>,
    publisher: Bell,
}

struct Shared {
    start: Instant,
    latency_ns: RefCell<Histogram<u64>>,
    reordered: Cell<u64>,
    repeated: Cell<u64>,
}

struct Publisher {
    options: FlowOptions,
    shared: Rc<Shared>,
    topic: Rc<Topic>,
    payload: Vec<u8>,
    next_id: u16,
    /// Publishes in the handshake.
    open: u32,
    settled: u64,
}

impl Publisher {
    /// How many messages may go now.
    fn allowance(&self) -> u64 {
        let (sent, o) = (self.topic.sent.get(), &self.options);
        let left = o.messages - sent;
        let window = if o.qos > 0 {
            u64::from(o.window - self.open)
        } else if o.rate > 0 {
            left
        } else {
            let slowest = self.topic.delivered.borrow().iter().min().copied().unwrap_or(sent);
            u64::from(o.window).saturating_sub(sent - slowest)
        };
        let due = if o.rate > 0 { self.due().saturating_sub(sent) } else { left };
        left.min(window).min(due).min(BURST)
    }

    /// Messages that the clock says should have been sent.
    fn due(&self) -> u64 {
        let rate = self.options.rate as f64 / f64::from(self.options.publishers);
        (self.shared.start.elapsed().as_secs_f64() * rate) as u64
    }

    /// When message `n` should be sent: its latency counts from there (no coordinated omission).
    fn stamp(&self, n: u64) -> u64 {
        if self.options.rate == 0 {
            return self.shared.start.elapsed().as_nanos() as u64;
        }
        let rate = self.options.rate as f64 / f64::from(self.options.publishers);
        (n as f64 / rate * 1e9) as u64
    }
}

impl Role for Publisher {
    fn packet(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let id = [body[0], body[1]];
        match first {
            0x40 | 0x70 => {
                self.open -= 1;
                self.settled += 1;
            }
            0x50 => wire::acknowledge(out, 0x62, id),
            other => bail!("unexpected packet {other:#x}"),
        }
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) {
        for _ in 0..self.allowance() {
            let n = self.topic.sent.get();
            let stamp = self.stamp(n).to_le_bytes();
            self.payload[..8].copy_from_slice(&n.to_le_bytes());
            self.payload[8..STAMP].copy_from_slice(&stamp);
            let (qos, id) = (self.options.qos, self.next_id);
            wire::publish_head(out, &self.topic.name, qos, id, self.payload.len());
            out.extend_from_slice(&self.payload);
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            self.topic.sent.set(n + 1);
            self.open += u32::from(qos > 0);
        }
    }

    fn is_done(&self) -> bool {
        self.topic.sent.get() == self.options.messages && self.open == 0
    }
}

struct Subscriber {
    options: FlowOptions,
    shared: Rc<Shared>,
    topic: Rc<Topic>,
    /// Which subscriber of the topic.
    place: usize,
    expected: u64,
    received: u64,
    /// Ids of QoS 2 messages that are not released.
    open: VecDeque<[u8; 2]>,
}

impl Role for Subscriber {
    fn packet(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match first >> 4 {
            3 => self.message(first, body, out)?,
            6 => {
                self.open.retain(|id| *id != body[..2]);
                wire::acknowledge(out, 0x70, [body[0], body[1]]);
            }
            other => bail!("unexpected packet {other}"),
        }
        Ok(())
    }

    fn fill(&mut self, _: &mut Vec<u8>) {
        // The publisher learns of all that came in one read at once.
        self.topic.delivered.borrow_mut()[self.place] = self.expected;
        ring(&self.topic.publisher);
    }

    fn is_done(&self) -> bool {
        self.expected == self.options.messages && self.open.is_empty()
    }
}

impl Subscriber {
    fn message(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let qos = (first >> 1) & 3;
        ensure!(qos == self.options.qos, "delivered with qos {qos}");
        let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        ensure!(&body[2..topic_end] == self.topic.name.as_bytes(), "wrong topic");
        let payload = &body[topic_end + if qos > 0 { 2 } else { 0 }..];
        ensure!(payload.len() == self.options.size as usize, "payload of another length");
        if qos > 0 {
            let id = [body[topic_end], body[topic_end + 1]];
            wire::acknowledge(out, if qos == 1 { 0x40 } else { 0x50 }, id);
            if qos == 2 {
                self.open.push_back(id);
            }
        }
        let number = |at: usize| {
            let bytes: [u8; 8] = payload[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let (n, sent_ns) = (number(0), number(8));
        self.received += 1;
        if n < self.expected {
            self.shared.repeated.set(self.shared.repeated.get() + 1);
            return Ok(());
        }
        if n > self.expected {
            self.shared.reordered.set(self.shared.reordered.get() + 1);
        }
        self.expected = n + 1;
        let now_ns = self.shared.start.elapsed().as_nanos() as u64;
        let _ = self.shared.latency_ns.borrow_mut().record(now_ns.saturating_sub(sent_ns).max(1));
        Ok(())
    }
}

/// A workload under way.
struct Flow {
    options: FlowOptions,
    shared: Rc<Shared>,
    topics: Vec<Rc<Topic>>,
}

// === impl Flow ===

impl Flow {
    fn new(options: FlowOptions) -> Result<Self> {
        let shared = Rc::new(Shared {
            start: Instant::now(),
            latency_ns: RefCell::new(Histogram::new(3)?),
            reordered: Cell::new(0),
            repeated: Cell::new(0),
        });
        let topic = |n| Topic {
            name: format!("bench/{n}/t"),
            sent: Cell::new(0),
            delivered: RefCell::new(vec![0; options.subscribers as usize]),
            publisher: Bell::default(),
        };
        let topics = (0..options.publishers).map(|n| Rc::new(topic(n))).collect();
        Ok(Self { options, shared, topics })
    }

    /// Connects the subscribers and lets them wait.
    async fn receive(&self) -> Result<Vec<JoinHandle<Result<Subscriber>>>> {
        let mut receiving = Vec::new();
        for (n, topic) in self.topics.iter().enumerate() {
            for place in 0..self.options.subscribers as usize {
                let id = format!("bench-s{n}-{place}");
                let filter = Some((topic.name.as_str(), self.options.qos));
                let socket = open(self.options.target.addr, &id, filter).await?;
                let role = Subscriber {
                    options: self.options.clone(),
                    shared: self.shared.clone(),
                    topic: topic.clone(),
                    place,
                    expected: 0,
                    received: 0,
                    open: VecDeque::new(),
                };
                receiving.push(spawn_local(drive(socket, role, Bell::default())));
            }
        }
        Ok(receiving)
    }

    /// Lets the publishers go.
    fn send(&self, sockets: Vec<TcpStream>) -> Vec<JoinHandle<Result<Publisher>>> {
        let publisher = |topic: &Rc<Topic>| Publisher {
            options: self.options.clone(),
            shared: self.shared.clone(),
            topic: topic.clone(),
            payload: vec![0x5A; self.options.size as usize],
            next_id: 1,
            open: 0,
            settled: 0,
        };
        if self.options.rate > 0 {
            for topic in &self.topics {
                spawn_local(metronome(topic.publisher.clone()));
            }
        }
        sockets
            .into_iter()
            .zip(&self.topics)
            .map(|(socket, t)| spawn_local(drive(socket, publisher(t), t.publisher.clone())))
            .collect()
    }

    fn report(&self, received: u64, seconds: f64, cpu_us: f64, own_us: f64) -> Report {
        let o = &self.options;
        let expected = o.messages * u64::from(o.publishers) * u64::from(o.subscribers);
        let repeated = self.shared.repeated.get();
        Report {
            workload: format!(
                "flow {}x{} qos {} size {} window {} rate {}",
                o.publishers, o.subscribers, o.qos, o.size, o.window, o.rate
            ),
            figures: Figures {
                delivered: received,
                lost: expected.saturating_sub(received - repeated),
                repeated,
                gaps: self.shared.reordered.get(),
                seconds,
                messages_per_s: received as f64 / seconds,
                broker_cpu_us_per_message: cpu_us / received as f64,
                own_cpu_us_per_message: own_us / received as f64,
                broker_rss_anon_kib: process::rss_anon_kib(&o.target.pids),
            },
            latency: Some((&*self.shared.latency_ns.borrow()).into()),
        }
    }
}

/// Runs the workload and prints what it cost.
pub(crate) async fn run(options: FlowOptions) -> Result<()> {
    let flow = Flow::new(options)?;
    let receiving = flow.receive().await?;
    let mut sockets = Vec::new();
    for n in 0..flow.topics.len() {
        sockets.push(open(flow.options.target.addr, &format!("bench-p{n}"), None).await?);
    }
    let pids = &flow.options.target.pids;
    let before = (process::cpu_us(pids), process::own_cpu_us());
    let began = Instant::now();
    let sending = flow.send(sockets);
    let finish = async {
        for task in sending {
            task.await??;
        }
        let mut received = 0;
        for task in receiving {
            received += task.await??.received;
        }
        Ok::<_, anyhow::Error>(received)
    };
    let limit = Duration::from_secs(flow.options.limit_s);
    let received = tokio::time::timeout(limit, finish)
        .await
        .context("messages are missing at the limit")??;
    let seconds = began.elapsed().as_secs_f64();
    let cpu_us = process::cpu_us(pids) - before.0;
    let own_us = process::own_cpu_us() - before.1;
    let report = flow.report(received, seconds, cpu_us, own_us);
    report.write(flow.options.target.json.as_deref())?;
    ensure!(report.figures.lost == 0 && report.figures.gaps == 0, "messages were lost");
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
