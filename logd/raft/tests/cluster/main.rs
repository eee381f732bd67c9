//! Three voters in one process, on one thread, under a paused clock, on simulated disks and a simulated network: seeded,
//! so that what is found is found again.
//!
//! `RAFT_SEEDS` sets how many seeds are run (default 10), `RAFT_SEED` the first (default 1); `RAFT_VERBOSE=1` prints
//! what happened in each.

mod client;
mod cluster;
mod network;
mod node;
mod random;
mod scenarios;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::{Client, History, Shared};
use crate::cluster::Cluster;
use crate::random::Random;

/// Things that happen in a run.
const DISTURBANCES: u64 = 14;
/// Gateways that publish.
const PUBLISHERS: u32 = 3;

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    events: Vec<String>,
    logs: Vec<String>,
    frames: (u64, u64),
    sent: usize,
    acknowledged: usize,
    confirmed: u64,
    hash: u64,
}

/// Runs on one thread whose clock jumps to the next thing that is due.
pub(crate) fn simulate<T>(run: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().expect("a runtime").block_on(run)
}

async fn publishing(mut client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        client.publish().await;
        tokio::time::sleep(client.random.millis(0, 60)).await;
    }
}

async fn settling(mut client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(client.random.millis(200, 1_500)).await;
        client.settle().await;
    }
}

async fn reading(mut client: Client, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(client.random.millis(100, 800)).await;
        client.read().await;
    }
}

async fn run(seed: u64) -> Outcome {
    let mut random = Random(seed);
    let mut cluster = Cluster::form(random.fork()).await;
    let history: Shared = Arc::new(parking_lot::Mutex::new(History::default()));
    let client =
        |stream: u32, random: Random| Client::new(stream, &cluster, history.clone(), random);
    client(100, random.fork()).subscribe().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for stream in 1..=PUBLISHERS {
        tasks.push(tokio::spawn(publishing(client(stream, random.fork()), stop.clone())));
    }
    tasks.push(tokio::spawn(settling(client(50, random.fork()), stop.clone())));
    tasks.push(tokio::spawn(reading(client(60, random.fork()), stop.clone())));
    for _ in 0..DISTURBANCES {
        tokio::time::sleep(random.millis(100, 3_000)).await;
        cluster.disturb().await;
    }
    cluster.recover().await;
    tokio::time::sleep(random.millis(0, 2_000)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        // A gateway whose task panicked has said why; one that cannot finish shows that nobody serves it.
        let done = tokio::time::timeout(std::time::Duration::from_secs(60), task).await;
        done.expect("a healed cluster serves everybody").expect("the gateway saw nothing wrong");
    }
    cluster.agree().await;
    let hash = cluster.check(&history);
    let (sent, acknowledged, confirmed) = {
        let known = history.lock();
        (known.sent.len(), known.acknowledged.len(), known.confirmed)
    };
    let frames = cluster.network.frames();
    let (events, logs) = (cluster.events.clone(), cluster.logs());
    for node in cluster.nodes.into_values() {
        node.group.stop().await;
    }
    Outcome { events, logs, frames, sent, acknowledged, confirmed, hash }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_acknowledged_is_lost() {
    let (first, count) = (setting("RAFT_SEED", 1), setting("RAFT_SEEDS", 10));
    let verbose = setting("RAFT_VERBOSE", 0) > 0;
    let (mut failed, mut acknowledged, mut confirmed, mut transfers) = (Vec::new(), 0, 0, 0);
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| simulate(run(seed))));
        let Ok(outcome) = outcome else {
            println!("seed {seed} FAILED");
            failed.push(seed);
            continue;
        };
        acknowledged += outcome.acknowledged;
        confirmed += outcome.confirmed;
        transfers += outcome.frames.1;
        println!(
            "seed {seed}: sent {} acknowledged {} confirmed reads {} frames {} transfers {} hash {:016x}",
            outcome.sent,
            outcome.acknowledged,
            outcome.confirmed,
            outcome.frames.0,
            outcome.frames.1,
            outcome.hash
        );
        if verbose {
            outcome.events.iter().chain(&outcome.logs).for_each(|line| println!("  {line}"));
        }
    }
    println!(
        "{count} seeds, {acknowledged} acknowledged, {confirmed} confirmed reads, {transfers} transfers, failed {failed:?}"
    );
    assert!(failed.is_empty(), "seeds {failed:?}");
    assert!(acknowledged > 100 * count as usize, "the workload gets through");
    assert!(count < 10 || transfers > 0, "some voter needs a snapshot");
}

/// The same seed does the same: else nothing that a seed finds could be looked at again.
#[test]
fn a_seed_does_the_same_twice() {
    let seed = setting("RAFT_SEED", 4);
    assert_eq!(simulate(run(seed)), simulate(run(seed)));
}
