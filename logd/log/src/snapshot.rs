//! Snapshots on disk.
use bytes::Bytes;

use crate::{LogId, SnapshotError};

/// Snapshots of one shard, under `snap/`. Handles are cheap to clone; its calls block on the disk, so make them on a
/// thread of their own, never on the runtime.
#[derive(Clone)]
pub struct SnapshotStore {}

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last entry applied in it.
    pub last: LogId,
    /// Bytes of state.
    pub state_bytes: u64,
    /// What the caller stored along (membership and the like).
    pub meta: Bytes,
}

#[allow(unused_variables)]
impl SnapshotStore {
    /// Begins a snapshot; nothing is visible until `commit`.
    pub fn begin(&self, last: LogId, meta: Bytes) -> Result<SnapshotWriter, SnapshotError> {
        unimplemented!()
    }
    /// The newest complete one.
    pub fn latest(&self) -> Result<Option<SnapshotInfo>, SnapshotError> {
        unimplemented!()
    }
    /// Opens one to read.
    pub fn read(&self, last: LogId) -> Result<SnapshotReader, SnapshotError> {
        unimplemented!()
    }
    /// Removes all snapshots older than `last`; returns how many.
    pub fn delete_older(&self, last: LogId) -> Result<u64, SnapshotError> {
        unimplemented!()
    }
}

/// A snapshot being written; dropped without `commit` it leaves nothing that is ever read.
pub struct SnapshotWriter {}

#[allow(unused_variables)]
impl SnapshotWriter {
    /// Adds a chunk of any size.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        unimplemented!()
    }
    /// Syncs it, publishes it.
    pub fn commit(self) -> Result<SnapshotInfo, SnapshotError> {
        unimplemented!()
    }
}

/// A snapshot being read, block by block, each checked before it is returned.
pub struct SnapshotReader {}

impl SnapshotReader {
    /// What it is.
    pub fn info(&self) -> &SnapshotInfo {
        unimplemented!()
    }
    /// The next block, at most [`crate::limits::SNAPSHOT_BLOCK`] bytes; `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        unimplemented!()
    }
    /// A block by its number, for transfers that resume.
    pub fn block(&mut self, number: u64) -> Result<Option<Bytes>, SnapshotError> {
        unimplemented!()
    }
}
