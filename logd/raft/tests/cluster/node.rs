//! A voter on a simulated disk, driven on the one thread of the simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fluxmq_names::ShardId;
use logd_broker::{Applied, Broker};
use logd_log::io::{Crash, SimulatedIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{
    Compaction, Encoding, Formation, Group, GroupError, GroupOptions, Observer, Voters,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::network::Network;
use crate::random::Random;

pub(crate) const NODES: [u64; 3] = [1, 2, 3];
const SHARD: ShardId = ShardId(0);
/// Unix ms at which simulations begin.
const EPOCH_MS: u64 = 1_700_000_000_000;

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {}
}

/// What nodes of a cluster have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) network: Network,
    pub(crate) compaction: Compaction,
    pub(crate) begun: Instant,
    /// Longest time between two commit rounds, ms.
    pub(crate) round_ms: u64,
    /// How far a node's clock is ahead, ms.
    pub(crate) ahead_ms: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Common {
    pub(crate) fn new(network: Network, compaction: Compaction, round_ms: u64) -> Self {
        let ahead_ms = Arc::default();
        Self { network, compaction, begun: Instant::now(), round_ms, ahead_ms }
    }
}

impl Common {
    /// What a right clock shows.
    pub(crate) fn now_ms(&self) -> u64 {
        EPOCH_MS + self.begun.elapsed().as_millis() as u64
    }
}

/// Small snapshots often, made at once.
pub(crate) fn compaction(margin: u64, absent: Duration) -> Compaction {
    let log_bytes = 48 * 1024;
    Compaction { log_bytes, margin, absent, encoding: Encoding::Inline, ..Compaction::default() }
}

/// A running voter.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) group: Group,
    pub(crate) io: SimulatedIo,
    common: Common,
    start: u64,
    dead: Arc<AtomicBool>,
}

// === impl Node ===

impl Node {
    pub(crate) async fn start(
        id: u64,
        start: u64,
        io: SimulatedIo,
        formation: Formation,
        common: &Common,
        mut random: Random,
    ) -> Result<Self, GroupError> {
        let config = DiskConfig {
            commit_interval_us: 0,
            segment_bytes_first: 32 * 1024,
            segment_bytes_max: 64 * 1024,
            low_water_bytes: Some(0),
            ..DiskConfig::default()
        };
        let disk = Disk::manual(Arc::new(io.clone()), "/data", config, Arc::new(AbortOnFatal));
        let disk = disk.expect("the data directory opens");
        let (log, recovered) = disk.open_shard(0, OpenOptions::default()).expect("the log opens");
        tracing::debug!(id, ?recovered, "log opened");
        let addresses: BTreeMap<_, _> =
            NODES.iter().map(|id| (*id, format!("node-{id}"))).collect();
        let peers = common.network.wire(start);
        let mut options =
            GroupOptions::with_voters(SHARD, id, Voters { addresses, peers, formation });
        let clocks = common.clone();
        options.clock = Arc::new(move || {
            clocks.now_ms() + clocks.ahead_ms.lock().get(&id).copied().unwrap_or_default()
        });
        options.seed = random.next();
        options.compaction = common.compaction;
        let dead = Arc::new(AtomicBool::new(false));
        tokio::spawn(rounds(disk, common.round_ms, random, dead.clone()));
        let group = Group::start(options, log, Box::new(Nobody)).await;
        if group.is_err() {
            dead.store(true, Ordering::Relaxed);
        }
        let group = group?;
        common.network.attach(id, start, group.clone());
        Ok(Self { id, group, io, common: common.clone(), start, dead })
    }

    /// The power goes: what is left is the disk.
    pub(crate) fn crash(self, crash: Crash) -> SimulatedIo {
        let disk = self.io.crash(crash);
        self.end();
        disk
    }

    /// Off the network at once; its tasks end when they notice, on a disk that nobody sees any more.
    pub(crate) fn end(self) {
        self.common.network.detach(self.id);
        let (group, dead) = (self.group, self.dead);
        tokio::spawn(async move {
            group.stop().await;
            dead.store(true, Ordering::Relaxed);
        });
    }

    /// Its number of starts.
    pub(crate) fn starts(&self) -> u64 {
        self.start
    }
}

/// The I/O thread of a disk, on the one thread there is.
async fn rounds(disk: Disk, round_ms: u64, mut random: Random, dead: Arc<AtomicBool>) {
    while !dead.load(Ordering::Relaxed) {
        tokio::time::sleep(random.millis(1, round_ms)).await;
        disk.run_round();
    }
    disk.close();
}
