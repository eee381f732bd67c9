//! What a group is told at its start.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fluxmq_names::ShardId;

use crate::transport::Peers;

/// Tells Unix time, ms.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a group is.
#[derive(Clone)]
pub struct GroupOptions {
    /// The shard, or meta.
    pub shard: ShardId,
    /// This node.
    pub node: u64,
    /// Who votes.
    pub members: Members,
    /// The clock that entries are stamped with.
    pub clock: Clock,
    /// Seed of election timeouts and of the numbers of transfers.
    pub seed: u64,
    /// When it makes snapshots and purges.
    pub compaction: Compaction,
}

/// The voters of a group.
#[derive(Clone)]
pub enum Members {
    /// This node alone: it leads at once.
    Alone,
    /// Several; this node is among them.
    Voters(Voters),
}

/// The voters of a group of several.
#[derive(Clone)]
pub struct Voters {
    /// Address of each voter, this node included; the transport knows what they mean.
    pub addresses: BTreeMap<u64, String>,
    /// The way to the others.
    pub peers: Arc<dyn Peers>,
    /// Whether the group is new.
    pub formation: Formation,
}

/// What an empty log means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formation {
    /// The group is being formed: every voter is started so, with the same addresses, the first time.
    New,
    /// The group exists: an empty log means that this node lost what it had acknowledged, and it does not start.
    Existing,
}

/// Bounds of snapshots (S10).
#[derive(Clone, Copy, Debug)]
pub struct Compaction {
    /// Log bytes behind a snapshot before the next is made (default 32 MiB), unless eight times the bytes of the
    /// state are more.
    pub log_bytes: u64,
    /// Entries that stay behind what is applied when the log is purged (openraft #2116; default 1,000), unless they
    /// take more than `margin_bytes`.
    pub margin: u64,
    /// Bytes of log that stay so (default 8 MiB); eight entries stay however large they are.
    pub margin_bytes: u64,
    /// A leader keeps the log for a voter that answered within this time (default 60 s); later it gets a snapshot.
    pub absent: Duration,
    /// How long producers that outran a pass wait for it (default 1 s).
    pub hold_max: Duration,
    /// Where snapshots are encoded.
    pub encoding: Encoding,
}

/// Where snapshots are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// On a thread of its own, written at a bounded rate.
    Thread,
    /// On the runtime, at once: for simulation, which has one thread.
    Inline,
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            log_bytes: 32 * 1024 * 1024,
            margin: 1_000,
            margin_bytes: 8 * 1024 * 1024,
            absent: Duration::from_secs(60),
            hold_max: Duration::from_secs(1),
            encoding: Encoding::Thread,
        }
    }
}

// === impl GroupOptions ===

impl GroupOptions {
    /// A group of one voter.
    #[must_use]
    pub fn alone(shard: ShardId, node: u64) -> Self {
        let seed = RandomState::new().build_hasher().finish();
        let compaction = Compaction::default();
        Self { shard, node, members: Members::Alone, clock: Arc::new(unix_ms), seed, compaction }
    }

    /// A group of several voters.
    #[must_use]
    pub fn with_voters(shard: ShardId, node: u64, voters: Voters) -> Self {
        Self { members: Members::Voters(voters), ..Self::alone(shard, node) }
    }
}

impl fmt::Debug for GroupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = match &self.members {
            Members::Alone => None,
            Members::Voters(voters) => Some(&voters.addresses),
        };
        f.debug_struct("GroupOptions")
            .field("shard", &self.shard)
            .field("node", &self.node)
            .field("voters", &addresses)
            .finish_non_exhaustive()
    }
}

/// The machine's clock.
fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
