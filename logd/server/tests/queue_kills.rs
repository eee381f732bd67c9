//! A work queue under load, its `logd` killed again and again: nothing that was acknowledged is lost, everything is
//! settled once by the queue's record, and the dead-letter queue has what reached its limit and nothing else.
//!
//! `QUEUE_KILLS` sets how many kills (default 3), `QUEUE_SEED` the seed.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fluxmq_client::{Client, ClientError, Consumer, QueueInfo, QueueOptions, Start};
use tokio::runtime::Runtime;

const PRODUCERS: u64 = 4;
const CONSUMERS: u64 = 4;
const PREFETCH: u32 = 500;
const LIMIT: u32 = 5;
/// Published and not answered, or held, when it is killed.
const IN_FLIGHT: u64 = 2_000;
const BACKLOG: u64 = 20_000;
const LEASE: Duration = Duration::from_millis(1_000);

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// What everybody knows, by text of the message.
#[derive(Default)]
struct Ledger {
    /// Stored, as its receipt said.
    stored: Mutex<BTreeMap<String, u64>>,
    /// Settlements that were said to be in the log.
    settled: Mutex<BTreeMap<String, u32>>,
    /// Settlements that were refused, or whose answer was lost.
    uncertain: Mutex<BTreeMap<String, u32>>,
    /// Published and not answered; held by consumers.
    unanswered: AtomicU64,
    held: AtomicU64,
    waiting: AtomicU64,
    refused: AtomicU64,
    stop_producers: AtomicBool,
    stop_consumers: AtomicBool,
}

// === impl Ledger ===

impl Ledger {
    /// Messages in the queue when it was looked at last.
    fn backlog(&self) -> u64 {
        self.waiting.load(SeqCst)
    }
}

/// A `logd`, killed when it goes out of scope.
struct Logd(Child);

impl Drop for Logd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_logd(dir: &Path, port: u16) -> Logd {
    let mut child = Command::new(env!("CARGO_BIN_EXE_logd"))
        .args(["--grpc", &format!("127.0.0.1:{port}")])
        .env("FLUXMQ_ADMIN_LISTEN", "off")
        .env("FLUXMQ_NODE_DATA_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.starts_with("ready in "));
    assert!(ready, "it ended before it was ready");
    Logd(child)
}

async fn produce(client: Client, producer: u64, ledger: Arc<Ledger>) {
    let publisher = client.publisher("work").await.unwrap();
    let mut n = 0;
    let mut waiting = tokio::task::JoinSet::new();
    while !ledger.stop_producers.load(SeqCst) {
        // Consumers keep up more or less: what matters is in flight, not waiting.
        if ledger.backlog() > BACKLOG {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        n += 1;
        let text = format!("{producer}-{n}{}", if n % 50 == 0 { "-poison" } else { "" });
        ledger.unanswered.fetch_add(1, SeqCst);
        let receipt = publisher.publish(text.clone()).await.unwrap();
        let ledger = ledger.clone();
        waiting.spawn(async move {
            let stored = receipt.stored().await.unwrap();
            ledger.unanswered.fetch_sub(1, SeqCst);
            assert!(ledger.stored.lock().unwrap().insert(text, stored.offset).is_none());
        });
        if waiting.len() > 1_000 {
            waiting.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
}

/// Consumes until it dies, or all is over; true = it died.
async fn consume(url: String, random: &mut Random, ledger: &Ledger) -> bool {
    // It may be dead just now; the one who waits for load gives up when it does not come back.
    let client = loop {
        match Client::connect([url.clone()]).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let open = client.consumer("work").prefetch(PREFETCH).lease(LEASE).open().await;
    let mut consumer = open.unwrap();
    let mut batches = 10 + random.below(100);
    loop {
        let wait = tokio::time::timeout(Duration::from_millis(100), consumer.next()).await;
        let Ok(first) = wait else {
            if ledger.stop_consumers.load(SeqCst) {
                return false;
            }
            continue;
        };
        settle_batch(&mut consumer, first.unwrap(), random, ledger).await;
        batches = batches.saturating_sub(1_u64);
        if batches == 0 && !ledger.stop_producers.load(SeqCst) {
            // It dies with what it holds.
            std::mem::forget(consumer);
            std::mem::forget(client);
            return true;
        }
    }
}

/// Settles what is here in one way or another, and notes what came of it.
async fn settle_batch(
    consumer: &mut Consumer,
    first: fluxmq_client::Delivery,
    random: &mut Random,
    ledger: &Ledger,
) {
    let mut acked = BTreeMap::new();
    let mut next = Some(first);
    let mut count = 0;
    let slow = random.below(40) == 0;
    while let Some(delivery) = next {
        let text = String::from_utf8(delivery.message().payload().to_vec()).unwrap();
        count += 1;
        let poison = text.ends_with("poison");
        match random.below(100) {
            _ if poison => consumer.nack(delivery.offset()),
            0..=4 => consumer.nack(delivery.offset()),
            _ => drop(acked.insert(delivery.offset(), text)),
        }
        next = if count < 200 { consumer.try_next().unwrap() } else { None };
    }
    ledger.held.fetch_add(count, SeqCst);
    if slow {
        // It stops past its lease.
        tokio::time::sleep(LEASE * 2).await;
    }
    acked.keys().for_each(|offset| consumer.ack(*offset));
    let refused = match consumer.settled().await {
        Ok(()) => Vec::new(),
        Err(ClientError::NotHeld(refused)) => refused,
        Err(other) => panic!("{other}"),
    };
    let is_refused = |offset: u64| {
        refused.iter().any(|(first, n)| (*first..first + u64::from(*n)).contains(&offset))
    };
    for (offset, text) in acked {
        let to = if is_refused(offset) {
            ledger.refused.fetch_add(1, SeqCst);
            &ledger.uncertain
        } else {
            &ledger.settled
        };
        *to.lock().unwrap().entry(text).or_default() += 1;
    }
    ledger.held.fetch_sub(count, SeqCst);
}

/// Begins to publish and to consume.
fn start_load(
    runtime: &Runtime,
    url: &str,
    seed: u64,
    ledger: &Arc<Ledger>,
) -> (Vec<tokio::task::JoinHandle<()>>, Vec<std::thread::JoinHandle<u64>>) {
    let producer = |n| {
        let (url, ledger) = (url.to_owned(), ledger.clone());
        runtime.spawn(async move {
            produce(Client::connect([url]).await.unwrap(), n, ledger).await;
        })
    };
    let consumer = |n| {
        let (url, ledger) = (url.to_owned(), ledger.clone());
        std::thread::spawn(move || {
            let mut random = Random(seed * 1_000 + n);
            let mut deaths = 0;
            loop {
                // A program of its own each time: when its runtime goes, so does its link, without a word.
                let mut own = tokio::runtime::Builder::new_current_thread();
                let own = own.enable_all().build().unwrap();
                let died = own.block_on(consume(url.clone(), &mut random, &ledger));
                own.shutdown_background();
                if !died {
                    return deaths;
                }
                deaths += 1;
            }
        })
    };
    ((0..PRODUCERS).map(producer).collect(), (0..CONSUMERS).map(consumer).collect())
}

/// Waits until it is under load: more was settled since the last kill, and much is in flight. Gives how many
/// publishes are unanswered and how many messages are held.
fn wait_for_load(runtime: &Runtime, client: &Client, ledger: &Ledger, pause: u64) -> (u64, u64) {
    let before = ledger.settled.lock().unwrap().len();
    let due = Instant::now() + Duration::from_secs(60);
    loop {
        let info = runtime.block_on(client.queue("work")).unwrap();
        ledger.waiting.store(info.messages, SeqCst);
        let held = info.groups[0].leased;
        let unanswered = ledger.unanswered.load(SeqCst);
        let settled = ledger.settled.lock().unwrap().len();
        let went_on = settled >= before + 1_000;
        assert!(
            Instant::now() < due,
            "nothing goes on: {unanswered} unanswered, {} settled since, backlog {}, {info:?}",
            settled - before,
            ledger.backlog()
        );
        if went_on && unanswered > 0 && unanswered + held >= IN_FLIGHT {
            return (unanswered, held);
        }
        std::thread::sleep(Duration::from_millis(pause));
    }
}

/// Waits until everything is settled or dead.
async fn drained(client: &Client) -> QueueInfo {
    let due = Instant::now() + Duration::from_secs(120);
    loop {
        let info = client.queue("work").await.unwrap();
        if info.messages == 0 && info.moving == 0 {
            return info;
        }
        assert!(Instant::now() < due, "not everything is settled in the end: {info:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What died; each for the one reason there is.
async fn dead_letters(client: &Client) -> BTreeSet<String> {
    let mut dead = BTreeSet::new();
    let mut reader = client.reader("dead", Start::First).await.unwrap();
    while let Some(item) = reader.next_or_end().await.unwrap() {
        let text = String::from_utf8(item.message.payload().to_vec()).unwrap();
        let letter = item.message.dead.unwrap();
        assert_eq!((letter.reason as u8, letter.count), (4, LIMIT), "{text}");
        assert!(dead.insert(text), "dead twice");
    }
    dead
}

fn judge(ledger: &Ledger, dead: &BTreeSet<String>, work: &QueueInfo) {
    let stored = ledger.stored.lock().unwrap();
    let settled = ledger.settled.lock().unwrap();
    let uncertain = ledger.uncertain.lock().unwrap();
    let known =
        |t: &&String| settled.contains_key(*t) || dead.contains(*t) || uncertain.contains_key(*t);
    let missing: Vec<_> = stored.keys().filter(|t| !known(t)).collect();
    let twice = settled.values().filter(|n| **n > 1).count();
    let both = settled.keys().filter(|t| dead.contains(*t)).count();
    let poison = stored.keys().filter(|t| t.ends_with("poison"));
    let alive = poison.filter(|t| !dead.contains(*t)).count();
    eprintln!(
        "stored {}, settled {}, dead {} (of them poison {}), late settlements refused {}; missing {}, settled twice \
         {twice}, settled and dead {both}, poison not dead {alive}; queue: next {}, messages {}",
        stored.len(),
        settled.len(),
        dead.len(),
        dead.iter().filter(|t| t.ends_with("poison")).count(),
        ledger.refused.load(SeqCst),
        missing.len(),
        work.next,
        work.messages,
    );
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!((twice, both, alive), (0, 0, 0));
    assert_eq!(work.next, stored.len() as u64, "each was stored once");
    let limited = work.counters.as_ref().map(|c| c.delivery_limited);
    assert_eq!(limited, Some(dead.len() as u64));
    let offsets: BTreeSet<_> = stored.values().collect();
    assert_eq!(offsets.len(), stored.len(), "no offset twice");
}

#[test]
fn killed_under_load_a_queue_loses_nothing_and_settles_once() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let kills = number("QUEUE_KILLS").unwrap_or(3);
    let seed = number("QUEUE_SEED").unwrap_or(1);
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let mut logd = start_logd(dir.path(), port);
    let ledger = Arc::new(Ledger::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let client = runtime.block_on(async {
        let client = Client::connect([url.clone()]).await.unwrap();
        client.declare("dead", &QueueOptions::work()).await.unwrap();
        let options = QueueOptions::work().delivery_limit(LIMIT).dead_letter("dead");
        client.declare("work", &options).await.unwrap();
        client
    });
    let (producers, consumers) = start_load(&runtime, &url, seed, &ledger);
    let mut random = Random(seed);
    for kill in 0..kills {
        let (unanswered, held) = wait_for_load(&runtime, &client, &ledger, random.below(20));
        logd.0.kill().unwrap();
        logd.0.wait().unwrap();
        println!("kill {kill}: {unanswered} publishes unanswered, {held} messages held");
        logd = start_logd(dir.path(), port);
    }
    ledger.stop_producers.store(true, SeqCst);
    let work = runtime.block_on(async {
        for producer in producers {
            producer.await.unwrap();
        }
        drained(&client).await
    });
    ledger.stop_consumers.store(true, SeqCst);
    let deaths: u64 = consumers.into_iter().map(|c| c.join().unwrap()).sum();
    let dead = runtime.block_on(dead_letters(&client));
    eprintln!("seed {seed}: {kills} kills, {deaths} consumers died");
    judge(&ledger, &dead, &work);
}
