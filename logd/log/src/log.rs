//! The log of one shard.
use std::ops::{Range, RangeInclusive};

use bytes::Bytes;

use crate::*;

/// The log of one shard. Clones are handles to the same log; all methods may be called from any thread.
#[derive(Clone)]
pub struct Log {}

#[allow(unused_variables)]
impl Log {
    /// The shard.
    pub fn shard(&self) -> u64 {
        unimplemented!()
    }
    /// Queues entries that continue the log; readable when this returns, `done` runs when they are synced (or failed).
    /// On an error nothing was taken and `done` is dropped without being called.
    pub fn append(
        &self,
        entries: Vec<Entry>,
        priority: Priority,
        done: Callback,
    ) -> Result<(), AppendError> {
        unimplemented!()
    }
    /// Queues a vote; everything queued later is written after it is durable. Ends the wait of the round.
    pub fn save_vote(&self, vote: Vote, done: Callback) {
        unimplemented!()
    }
    /// The last vote given to `save_vote`, also if not yet durable; after opening, the durable one.
    pub fn read_vote(&self) -> Option<Vote> {
        unimplemented!()
    }
    /// Notes the committed index (`None`: nothing); written along with the next record, never on its own. External
    /// readers see entries up to it.
    pub fn save_committed(&self, index: Option<u64>) {
        unimplemented!()
    }
    /// The last noted committed entry that the log (or its purge floor) still knows.
    pub fn committed(&self) -> Result<Option<LogId>, ReadError> {
        unimplemented!()
    }
    /// Removes the suffix behind `index` (`None`: everything above the purge floor), at once for readers. Ends the wait.
    pub fn truncate_after(&self, index: Option<u64>, done: Callback) {
        unimplemented!()
    }
    /// Moves the Raft floor up to and including `upto`; deletes no bytes. `upto` may lie beyond the end (an installed
    /// snapshot): the log is then empty and continues behind it.
    pub fn purge(&self, upto: LogId, done: Callback) {
        unimplemented!()
    }
    /// `done` runs when all that was queued before is durable. Ends the wait.
    pub fn flush(&self, done: Callback) {
        unimplemented!()
    }
    /// The last purged entry.
    pub fn purged(&self) -> Option<LogId> {
        unimplemented!()
    }
    /// The first entry above the purge floor.
    pub fn first(&self) -> Result<Option<LogId>, ReadError> {
        unimplemented!()
    }
    /// The last entry; the last purged one if there is none above it.
    pub fn last(&self) -> Option<LogId> {
        unimplemented!()
    }
    /// For Raft: entries of `range` above the purge floor, synced or not, as far as they exist; stops before the
    /// payloads exceed `bytes_max`, but returns at least one.
    pub fn read_entries(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        unimplemented!()
    }
    /// For Raft: identity of one entry above the purge floor, or of the last purged one.
    pub fn log_id(&self, index: u64) -> Result<Option<LogId>, ReadError> {
        unimplemented!()
    }
    /// For consumers: the payload of an entry at or below the committed index, purged by Raft or not. `None` if it is
    /// not visible or not here any more.
    pub fn entry(&self, index: u64) -> Result<Option<Bytes>, ReadError> {
        unimplemented!()
    }
    /// Unlinks sealed segments that Raft has purged (durably), in which nothing is live and of which no slice is out.
    /// `live` answers whether anything in a range of indexes is still needed.
    pub fn reclaim(&self, live: &dyn Fn(RangeInclusive<u64>) -> bool) -> Reclaimed {
        unimplemented!()
    }
    /// Room left.
    pub fn space(&self) -> Space {
        unimplemented!()
    }
    /// Would an entry of this payload be taken now?
    pub fn admit(&self, payload_bytes: u64, priority: Priority) -> Result<(), AppendError> {
        unimplemented!()
    }
    /// Bytes and number of the segments on disk.
    pub fn size(&self) -> LogSize {
        unimplemented!()
    }
    /// Bytes appended to this log since it was opened, records included (the trigger of snapshots counts these).
    pub fn bytes_appended(&self) -> u64 {
        unimplemented!()
    }
    /// The snapshots of this shard.
    pub fn snapshots(&self) -> SnapshotStore {
        unimplemented!()
    }
}

/// What a log occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Segment files, the prepared one included.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}
