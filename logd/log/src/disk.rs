//! A data directory.
use std::path::PathBuf;
use std::sync::Arc;

use crate::io::Io;
use crate::{DiskConfig, Hooks, Log, OpenError, OpenOptions, Recovered, StartError};

/// An open data directory: identity, lock, and the queue of its I/O thread. Clones are handles; dropping the last one
/// finishes what is queued and ends the thread.
#[derive(Clone)]
pub struct Disk {}

/// Bytes that wait for a commit round: what batchers add here, and what the log itself has queued (S2).
#[derive(Clone)]
pub struct PendingBytes {}

impl PendingBytes {
    /// A batcher took in `bytes`; may start a round.
    pub fn add(&self, bytes: u64) {
        let _ = bytes;
        unimplemented!()
    }
    /// A batcher gave `bytes` up: into an entry about to be appended, or refused.
    pub fn sub(&self, bytes: u64) {
        let _ = bytes;
        unimplemented!()
    }
    /// Bytes batchers hold now.
    pub fn held(&self) -> u64 {
        unimplemented!()
    }
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Commit rounds.
    pub rounds: u64,
    /// Syncs of segment and vote files.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Entries written.
    pub entries: u64,
    /// Bytes of records written.
    pub bytes: u64,
    /// Bytes of payload in them.
    pub payload_bytes: u64,
}

impl Disk {
    /// Opens or makes a data directory and starts its I/O thread.
    pub fn start(
        io: Arc<dyn Io>,
        dir: impl Into<PathBuf>,
        config: DiskConfig,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Self, StartError> {
        let _ = (io, dir.into(), config, hooks);
        unimplemented!()
    }
    /// The same without a thread: rounds happen in [`Disk::run_round`]. For tests and simulation.
    pub fn manual(
        io: Arc<dyn Io>,
        dir: impl Into<PathBuf>,
        config: DiskConfig,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Self, StartError> {
        let _ = (io, dir.into(), config, hooks);
        unimplemented!()
    }
    /// Writes and syncs all that is queued, completes it; false if there was nothing.
    pub fn run_round(&self) -> bool {
        unimplemented!()
    }
    /// Opens the log of a shard, making it if it does not exist.
    pub fn open_shard(
        &self,
        shard: u64,
        options: OpenOptions,
    ) -> Result<(Log, Recovered), OpenError> {
        let _ = (shard, options);
        unimplemented!()
    }
    /// Shards that exist in the directory, open or not, sorted.
    pub fn shards(&self) -> std::io::Result<Vec<u64>> {
        unimplemented!()
    }
    /// This node's id.
    pub fn node_id(&self) -> u64 {
        unimplemented!()
    }
    /// The cluster's id.
    pub fn cluster_id(&self) -> u128 {
        unimplemented!()
    }
    /// The counter of bytes that wait.
    pub fn pending_bytes(&self) -> PendingBytes {
        unimplemented!()
    }
    /// Counters.
    pub fn stats(&self) -> DiskStats {
        unimplemented!()
    }
    /// Finishes what is queued and ends the thread; later operations fail with `Closed`.
    pub fn close(&self) {
        unimplemented!()
    }
}
