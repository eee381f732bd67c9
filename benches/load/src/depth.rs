//! Queues that are deep, many, or settled in no order: memory of the whole `logd`, restart, drain, bytes on disk. It
//! starts `logd` itself, because it restarts it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fluxmq_client::{Client, Consumer, Message, Publisher, QueueOptions};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::meter::Meter;
use crate::options::{DepthOptions, DepthWork, Target};
use crate::process;

/// Messages that are published and not confirmed.
const UNCONFIRMED: usize = 32_768;
/// Publishes to a topic that are on their way at once.
const AT_ONCE: usize = 256;
/// Messages a consumer may hold: the most a group allows.
const HELD_MAX: u32 = 50_000;

/// `logd` under way, ended with the value.
struct Logd {
    child: Child,
    addr: SocketAddr,
    /// From its start to "ready".
    ready: Duration,
}

impl Drop for Logd {
    fn drop(&mut self) {
        // As an operator ends it.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

// === impl Logd ===

impl Logd {
    fn start(options: &DepthOptions, admin: Option<SocketAddr>) -> Result<Self> {
        let (addr, began) = (free_addr()?, Instant::now());
        let mut child = Command::new(&options.logd)
            .arg("--data-dir")
            .arg(&options.data_dir)
            .args(["--grpc", &addr.to_string(), "--shards", &options.shards.to_string()])
            .args(["--admin", &admin.map_or("off".into(), |admin| admin.to_string())])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", options.logd.display()))?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.starts_with("ready in "));
        let logd = Self { child, addr, ready: began.elapsed() };
        ensure!(ready, "logd ended before it was ready");
        Ok(logd)
    }

    async fn client(&self) -> Result<Client> {
        Ok(Client::connect([format!("http://{}", self.addr)]).await?)
    }

    fn rss_anon_kib(&self) -> u64 {
        process::rss_anon_kib(&[self.child.id()])
    }

    fn cpu_us(&self) -> f64 {
        process::cpu_us(&[self.child.id()])
    }
}

fn rate(count: u64, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

fn queue(number: u32) -> String {
    format!("depth-{number}")
}

async fn declared(client: &Client, queues: u32) -> Result<Vec<Publisher>> {
    let mut publishers = Vec::new();
    for number in 0..queues {
        client.declare(&queue(number), &QueueOptions::work()).await?;
        publishers.push(client.publisher(&queue(number)).await?);
    }
    Ok(publishers)
}

/// Publishes message after message to the queues in turn; all are confirmed.
async fn fill(publishers: &[Publisher], options: &DepthOptions) -> Result<()> {
    let mut open = VecDeque::new();
    let mut payload = vec![0x5A; options.size as usize];
    for number in 0..options.messages {
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let publisher = &publishers[number as usize % publishers.len()];
        open.push_back(publisher.publish(Message::new(payload.clone())).await?);
        if open.len() == UNCONFIRMED
            && let Some(oldest) = open.pop_front()
        {
            oldest.stored().await?;
        }
    }
    for receipt in open {
        receipt.stored().await?;
    }
    Ok(())
}

/// Takes and acknowledges what is in a queue, in order; each number is the last one of it and `step`.
async fn drain(mut consumer: Consumer, first: u64, step: u64, count: u64) -> Result<()> {
    for at in 0..count {
        let delivery = match consumer.try_next()? {
            Some(delivery) => delivery,
            None => consumer.next().await?,
        };
        let payload = delivery.message().payload();
        let number = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        ensure!(number == Some(first + at * step), "message {at} is {number:?}");
        consumer.ack(delivery.offset());
    }
    consumer.settled().await?;
    Ok(())
}

/// Fills, restarts, drains: `--queues` 1 is a deep queue, more are filled in turn.
async fn deep(options: &DepthOptions) -> Result<Value> {
    let queues = options.queues;
    let logd = Logd::start(options, None)?;
    let client = logd.client().await?;
    let publishers = declared(&client, queues).await?;
    let (rss_empty, began, cpu_us) = (logd.rss_anon_kib(), Instant::now(), logd.cpu_us());
    fill(&publishers, options).await?;
    let fill_per_s = rate(options.messages, began);
    let fill_us = (logd.cpu_us() - cpu_us) / options.messages as f64;
    let rss_full = logd.rss_anon_kib();
    drop((publishers, client, logd));

    let began = Instant::now();
    let logd = Logd::start(options, None)?;
    let client = logd.client().await?;
    let prefetch = (HELD_MAX / queues).clamp(100, 10_000);
    let mut first = client.consumer(&queue(0)).prefetch(prefetch).open().await?;
    let delivery = first.next().await?;
    let first_delivery = began.elapsed();
    ensure!(delivery.offset() == 0, "the first message is {}", delivery.offset());
    let rss_restarted = logd.rss_anon_kib();
    drop(first);

    let (began, cpu_us) = (Instant::now(), logd.cpu_us());
    let mut draining = JoinSet::new();
    for number in 0..queues {
        let consumer = client.consumer(&queue(number)).prefetch(prefetch).open().await?;
        let (first, step) = (u64::from(number), u64::from(queues));
        let count = (options.messages - first).div_ceil(step);
        draining.spawn_local(drain(consumer, first, step, count));
    }
    let mut rss_peak = rss_restarted;
    let mut beats = tokio::time::interval(Duration::from_millis(100));
    while !draining.is_empty() {
        tokio::select! {
            done = draining.join_next() => done.context("nobody drains")???,
            _ = beats.tick() => rss_peak = rss_peak.max(logd.rss_anon_kib()),
        }
    }
    Ok(json!({
        "work": "deep", "messages": options.messages, "queues": queues, "size": options.size,
        "fill_per_s": fill_per_s, "fill_cpu_us": fill_us,
        "rss_anon_empty_kib": rss_empty, "rss_anon_full_kib": rss_full,
        "restart_ready_ms": logd.ready.as_millis() as u64,
        "restart_first_delivery_ms": first_delivery.as_millis() as u64,
        "rss_anon_restarted_kib": rss_restarted, "rss_anon_drain_peak_kib": rss_peak,
        "drain_per_s": rate(options.messages, began),
        "drain_cpu_us": (logd.cpu_us() - cpu_us) / options.messages as f64,
        "rss_anon_drained_kib": logd.rss_anon_kib(),
    }))
}

/// Settles one at random of all that are held, again and again.
async fn random(options: &DepthOptions) -> Result<Value> {
    let logd = Logd::start(options, None)?;
    let client = logd.client().await?;
    let publishers = declared(&client, 1).await?;
    fill(&publishers, options).await?;
    let rss_full = logd.rss_anon_kib();
    let mut consumer = client.consumer(&queue(0)).prefetch(HELD_MAX).open().await?;
    let (mut held, mut seen, mut settled, mut rss_peak) = (Vec::new(), 0, 0, rss_full);
    // SplitMix64's constant: a sequence that repeats with every run.
    let mut state = 1_u64;
    let (began, cpu_us) = (Instant::now(), logd.cpu_us());
    while settled < options.messages {
        while seen < options.messages && held.len() < HELD_MAX as usize {
            let delivery = match consumer.try_next()? {
                Some(delivery) => delivery,
                None if held.len() * 2 < HELD_MAX as usize => consumer.next().await?,
                None => break,
            };
            held.push(delivery.offset());
            seen += 1;
        }
        // A thousand at once, none the neighbour of another but by chance.
        for _ in 0..1_000.min(held.len()) {
            state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
            let offset = held.swap_remove((state >> 33) as usize % held.len());
            consumer.ack(offset);
            settled += 1;
        }
        rss_peak = rss_peak.max(logd.rss_anon_kib());
        tokio::task::yield_now().await;
    }
    consumer.settled().await?;
    let settled_per_s = rate(settled, began);
    ensure!(client.queue(&queue(0)).await?.messages == 0, "the queue is not empty");
    Ok(json!({
        "work": "random", "messages": options.messages, "size": options.size, "held_at_most": HELD_MAX,
        "rss_anon_full_kib": rss_full, "rss_anon_peak_kib": rss_peak,
        "rss_anon_end_kib": logd.rss_anon_kib(), "settled_per_s": settled_per_s,
        "cpu_us": (logd.cpu_us() - cpu_us) / settled as f64,
    }))
}

/// Queues bound to one topic, which is published to: what is written for each shard that has one of them.
async fn bound(options: &DepthOptions) -> Result<Value> {
    let admin = free_addr()?;
    let logd = Logd::start(options, Some(admin))?;
    let client = logd.client().await?;
    for number in 0..options.queues {
        client.declare(&queue(number), &QueueOptions::work()).await?;
        client.bind(&queue(number), "depth/topic").await?;
    }
    let (addrs, pids) = (vec![logd.addr], vec![logd.child.id()]);
    let meter = Meter::start(&Target { addrs, pids, metrics: Some(admin), json: None });
    let began = Instant::now();
    let mut publishing = JoinSet::new();
    for _ in 0..options.messages {
        if publishing.len() == AT_ONCE {
            publishing.join_next().await.context("nobody publishes")???;
        }
        let (client, payload) = (client.clone(), vec![0x5A_u8; options.size as usize]);
        publishing
            .spawn_local(async move { client.publish_to_topic("depth/topic", payload).await });
    }
    while let Some(done) = publishing.join_next().await {
        done??;
    }
    let per_s = rate(options.messages, began);
    let used = meter.read();
    let grew = |name: &str| used.metrics.get(name).copied().unwrap_or(0.0);
    let mut deep = 0;
    for number in 0..options.queues {
        deep += u64::from(client.queue(&queue(number)).await?.messages == options.messages);
    }
    ensure!(deep == u64::from(options.queues), "{deep} queues have all messages");
    let payload = (options.messages * u64::from(options.size) * u64::from(options.shards)) as f64;
    Ok(json!({
        "work": "bound", "queues": options.queues, "messages": options.messages, "size": options.size,
        "shards_with_a_destination": options.shards, "published_per_s": per_s,
        "written_per_payload": grew("fluxmq_log_written_bytes_total") / payload,
        "entries_per_payload": grew("fluxmq_log_payload_bytes_total") / payload,
        "cpu_us": used.cpu_us / options.messages as f64,
        "rss_anon_growth_kib": used.rss_anon_growth_kib,
    }))
}

/// Runs the workload and prints what it found.
pub(crate) async fn run(options: DepthOptions) -> Result<()> {
    let work = async {
        match options.work {
            DepthWork::Deep => deep(&options).await,
            DepthWork::Random => random(&options).await,
            DepthWork::Bound => bound(&options).await,
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(options.limit_s), work).await;
    let text = serde_json::to_string_pretty(&found.context("not over at --limit-s")??)?;
    println!("{text}");
    options.json.map_or(Ok(()), |path| Ok(std::fs::write(path, text)?))
}
