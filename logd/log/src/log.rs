//! The log of one shard, as its owner uses it.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::{ENTRY_HEADER_LEADER, RECORD_HEADER, encoded_len};
use crate::commit::Engine;
use crate::compaction::{self, CompactedRun, Keep, Liveness, SparseRun};
use crate::entry::{Entry, LogId, Priority, Vote};
use crate::error::{AppendError, CompactError, ReadError, WriteError};
use crate::hooks::{Callback, Completion};
use crate::limits;
use crate::reserve::{self, Room, Space};
use crate::retention::{self, Reclaimed};
use crate::shard::{Op, Shard, State};
use crate::snapshot::SnapshotStore;

/// The log of one shard. Clones are handles to the same log; all methods may be called from any thread.
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

struct Handle {
    engine: Arc<Engine>,
    shard: Arc<Shard>,
}

/// Headers of the entries of one append, more or less, bytes.
const QUEUE_SLACK: u64 = 64 * 1024;

/// What a log occupies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Segment files, compacted ones and the prepared one included, and those that only wait for a slice to come back.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Log {
    pub(crate) fn new(engine: Arc<Engine>, shard: Arc<Shard>) -> Self {
        Self { handle: Arc::new(Handle { engine, shard }) }
    }

    /// The shard.
    pub fn shard(&self) -> u64 {
        self.handle.shard.id
    }

    // === writing ===

    /// Queues entries that continue the log; readable when this returns, `done` runs when they are synced (or failed).
    /// On an error nothing was taken and `done` is dropped without being called.
    pub fn append(
        &self,
        entries: Vec<Entry>,
        priority: Priority,
        done: Callback,
    ) -> Result<(), AppendError> {
        if entries.is_empty() {
            self.flush(done);
            return Ok(());
        }
        let Handle { engine, shard } = &*self.handle;
        let bytes: u64 = entries.iter().map(|e| encoded_len(e) as u64).sum();
        let need = bytes + RECORD_HEADER as u64 + 8;
        let room = self.room_for(need, priority);
        let mut state = shard.state.lock();
        check(engine, &state, &entries, bytes)?;
        Room { queued: state.queued_bytes, ..room }.admit(need, priority)?;
        state.extend(&entries);
        state.queued_bytes += bytes;
        state.push_op(Op::Append { entries: entries.into_iter(), done });
        drop(state);
        engine.enqueued(bytes, false);
        Ok(())
    }

    /// Queues a vote; everything queued later is written after it is durable. Ends the wait of the round.
    pub fn save_vote(&self, vote: Vote, done: Callback) {
        self.queue(true, done, |state, done| {
            state.vote = Some(vote);
            Op::Vote { vote, done }
        });
    }

    /// The last vote given to `save_vote`, also if not yet durable; after opening, the durable one.
    pub fn read_vote(&self) -> Option<Vote> {
        self.handle.shard.state.lock().vote
    }

    /// Notes the committed index (`None`: nothing); written along with the next record, never on its own. External
    /// readers see entries up to it.
    pub fn save_committed(&self, index: Option<u64>) {
        let next = index.map_or(0, |index| index.saturating_add(1).min(limits::INDEX_MAX + 1));
        self.handle.shard.state.lock().committed_next = next;
    }

    /// The last noted committed entry that the log (or its purge floor) still knows.
    pub fn committed(&self) -> Result<Option<LogId>, ReadError> {
        let state = self.handle.shard.state.lock();
        let next = state.committed_next.min(state.next).max(state.first());
        Ok(next.checked_sub(1).and_then(|index| state.log_id(index)))
    }

    /// Removes the suffix behind `index` (`None`: everything above the purge floor), at once for readers. Ends the wait.
    pub fn truncate_after(&self, index: Option<u64>, done: Callback) {
        self.queue(true, done, |state, done| {
            let from = index.map_or(0, |index| index.saturating_add(1)).max(state.first());
            if from >= state.next {
                return Op::Flush { done };
            }
            state.truncate(from);
            Op::Truncate { from, done }
        });
    }

    /// Moves the Raft floor up to and including `upto`; deletes no bytes. `upto` may lie beyond the end (an installed
    /// snapshot): the log is then empty and continues behind it. A floor below the present one changes nothing.
    pub fn purge(&self, upto: LogId, done: Callback) {
        self.queue(false, done, |state, done| {
            if upto.index < state.first() || upto.index > limits::INDEX_MAX {
                return Op::Flush { done };
            }
            state.purge(upto);
            Op::Purge { upto, done }
        });
    }

    /// `done` runs when all that was queued before is durable. Ends the wait.
    pub fn flush(&self, done: Callback) {
        self.queue(true, done, |_, done| Op::Flush { done });
    }

    fn queue(&self, urgent: bool, done: Callback, op: impl FnOnce(&mut State, Callback) -> Op) {
        let Handle { engine, shard } = &*self.handle;
        let mut state = shard.state.lock();
        if let Some(error) = refusal(engine, &state) {
            drop(state);
            engine.hooks.completed(vec![Completion::new(shard.id, done, Err(error))]);
            return;
        }
        let op = op(&mut state, done);
        state.push_op(op);
        drop(state);
        engine.enqueued(0, urgent);
    }

    // === reading ===

    /// The last purged entry.
    pub fn purged(&self) -> Option<LogId> {
        self.handle.shard.state.lock().purged()
    }

    /// The first entry above the purge floor.
    pub fn first(&self) -> Result<Option<LogId>, ReadError> {
        let state = self.handle.shard.state.lock();
        Ok(state.log_id(state.first()))
    }

    /// The last entry; the last purged one if there is none above it.
    pub fn last(&self) -> Option<LogId> {
        self.handle.shard.state.lock().last()
    }

    /// For Raft: entries of `range` above the purge floor, synced or not, as far as they exist; stops before they
    /// exceed `bytes_max` (payloads and entry headers), but returns at least one.
    pub fn read_entries(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        Ok(self.handle.shard.read(range, bytes_max)?)
    }

    /// For Raft: identity of one entry above the purge floor, or of the last purged one.
    pub fn log_id(&self, index: u64) -> Result<Option<LogId>, ReadError> {
        Ok(self.handle.shard.state.lock().log_id(index))
    }

    /// For consumers: the payload of an entry at or below the committed index, purged by Raft or not. `None` if it is
    /// not visible or not here any more.
    pub fn entry(&self, index: u64) -> Result<Option<Bytes>, ReadError> {
        Ok(self.handle.shard.payload(index)?)
    }

    /// As [`Self::entry`], with its identity: what a snapshot's transfer ships of the live entries.
    pub fn committed_entry(&self, index: u64) -> Result<Option<Entry>, ReadError> {
        Ok(self.handle.shard.committed_entry(index)?)
    }

    /// The first entry, of those up to and with `index`, from which on they take about `bytes` of the log: exact to 16 KiB
    /// and an entry. What is not yet written counts nothing.
    pub fn first_within(&self, index: u64, bytes: u64) -> u64 {
        self.handle.shard.state.lock().within(index, bytes)
    }

    // === space ===

    /// Unlinks sealed segments that Raft has purged (durably), in which nothing is live and of which no slice is out.
    /// `live` answers whether anything in a range of indexes is still needed.
    pub fn reclaim(&self, live: &dyn Fn(RangeInclusive<u64>) -> bool) -> Reclaimed {
        retention::reclaim(&self.handle.engine, &self.handle.shard, live)
    }

    /// Neighbouring segments of which less than half is live, oldest first: what is worth a [`Self::compact`]. Segments
    /// with a slice out are left alone. Reads the live entries of segments that changed: not on a runtime.
    pub fn sparse(&self, liveness: &dyn Liveness) -> Result<Vec<SparseRun>, ReadError> {
        Ok(compaction::sparse(&self.handle.engine, &self.handle.shard, liveness)?)
    }

    /// Replaces the segments of a run by one with copies of what is live, at `bytes_per_second` at most (`None`: as fast as
    /// it goes). Blocks: on a thread of its own. After an error but a failed disk nothing has changed.
    pub fn compact(
        &self,
        run: SparseRun,
        keep: &mut dyn Keep,
        bytes_per_second: Option<u64>,
    ) -> Result<CompactedRun, CompactError> {
        compaction::compact(&self.handle.engine, &self.handle.shard, run, keep, bytes_per_second)
    }

    /// Room left; asks the file system.
    pub fn space(&self) -> Space {
        let room = self.fresh_room();
        let full = room.admit(0, Priority::Normal).is_err();
        Space { free: room.space.free, low_water: room.low_water, full }
    }

    /// Whether the queue has room for entries of so many bytes; if not, `append` says [`AppendError::Backlog`].
    pub fn queue_takes(&self, payload_bytes: u64) -> bool {
        let waiting = self.handle.shard.state.lock().queued_bytes;
        waiting == 0
            || waiting + payload_bytes + QUEUE_SLACK <= self.handle.engine.config.queue_bytes_max
    }

    /// Would an entry of this payload be taken now?
    pub fn admit(&self, payload_bytes: u64, priority: Priority) -> Result<(), AppendError> {
        let around = (ENTRY_HEADER_LEADER + RECORD_HEADER + 8) as u64;
        let need = payload_bytes.saturating_add(around);
        self.room_for(need, priority).admit(need, priority)
    }

    /// The room as it is known, looked at anew before something is refused: others may have freed space.
    fn room_for(&self, need: u64, priority: Priority) -> Room {
        let room = self.room();
        if room.admit(need, priority).is_ok() { room } else { self.fresh_room() }
    }

    fn fresh_room(&self) -> Room {
        self.handle.engine.refresh_free();
        let room = self.room();
        let wanted = room.next_capacity.saturating_mul(2).saturating_add(room.low_water);
        if room.reserve_failed && room.space.free >= wanted {
            self.handle.shard.reserve.retry();
            return self.room();
        }
        room
    }

    fn room(&self) -> Room {
        let Handle { engine, shard } = &*self.handle;
        let space = engine.free_space();
        let reserve = shard.reserve.capacity();
        let state = shard.state.lock();
        let previous = state.segments.last().map_or(0, |s| s.header.capacity);
        Room {
            space,
            low_water: reserve::low_water(&engine.config, space),
            next_capacity: engine.next_capacity(previous),
            active_left: state.active_left,
            reserve,
            reserve_failed: shard.reserve.has_failed(),
            queued: state.queued_bytes,
            stuck: state.stuck,
        }
    }

    /// Bytes and number of the segments on disk.
    pub fn size(&self) -> LogSize {
        let shard = &self.handle.shard;
        let reserve = shard.reserve.capacity();
        let state = shard.state.lock();
        let mut bytes: u64 = state.segments.iter().map(|s| s.header.capacity).sum();
        bytes += state.compacted.iter().map(|c| c.header.len).sum::<u64>();
        bytes += state.doomed.iter().map(|d| d.bytes).sum::<u64>();
        let files = state.segments.len() + state.compacted.len() + state.doomed.len();
        let segments = files as u64 + u64::from(reserve > 0);
        LogSize { segments, bytes: bytes + reserve }
    }

    /// Bytes appended to this log since it was opened, records included (the trigger of snapshots counts these).
    pub fn bytes_appended(&self) -> u64 {
        self.handle.shard.state.lock().bytes_appended
    }

    /// First index of the active segment, and its bytes with those of the next one where that is ready or soon made (an
    /// eighth before half of the active one is used).
    pub fn active(&self) -> (u64, u64) {
        let Handle { engine, shard } = &*self.handle;
        let state = shard.state.lock();
        let Some(active) = state.segments.last() else { return (0, 0) };
        let (base, bytes, left) =
            (active.header.base_index, active.header.capacity, state.active_left);
        drop(state);
        let soon = if left < bytes / 8 * 5 { engine.next_capacity(bytes) } else { 0 };
        (base, bytes + soon.max(shard.reserve.capacity()))
    }

    /// Entries and bytes of each sealed segment that reaches beyond `index`, oldest first.
    pub fn sealed_beyond(&self, index: u64) -> Vec<(RangeInclusive<u64>, u64)> {
        let state = self.handle.shard.state.lock();
        let sealed = state.segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
        let beyond = sealed.iter().rev().take_while(|s| s.range().end > index.saturating_add(1));
        let some = beyond.filter(|s| !s.range().is_empty());
        let mut found: Vec<_> =
            some.map(|s| (s.range().start..=s.range().end - 1, s.header.capacity)).collect();
        found.reverse();
        found
    }

    /// Bytes of its largest segments, but for one of a larger entry.
    pub fn segment_bytes(&self) -> u64 {
        self.handle.engine.config.segment_bytes_max
    }

    /// The snapshots of this shard.
    pub fn snapshots(&self) -> SnapshotStore {
        SnapshotStore::new(Arc::clone(&self.handle.engine.io), self.handle.shard.dir.join("snap"))
    }
}

/// Nothing can be queued any more.
fn refusal(engine: &Engine, state: &State) -> Option<WriteError> {
    let disk = || engine.has_failed().then_some(WriteError::DiskFailed);
    let closed = || engine.is_closed().then_some(WriteError::Closed);
    state.failed.clone().or_else(disk).or_else(closed)
}

fn check(engine: &Engine, state: &State, entries: &[Entry], bytes: u64) -> Result<(), AppendError> {
    if let Some(error) = refusal(engine, state) {
        return Err(error.into());
    }
    for (expected, entry) in (state.next..).zip(entries) {
        if entry.index != expected || entry.index > limits::INDEX_MAX {
            return Err(AppendError::Gap { expected, got: entry.index });
        }
        if entry.payload.len() > limits::ENTRY_PAYLOAD_MAX {
            return Err(AppendError::TooLarge(entry.payload.len()));
        }
    }
    let waiting = state.queued_bytes;
    if waiting > 0 && waiting + bytes > engine.config.queue_bytes_max {
        return Err(AppendError::Backlog { waiting });
    }
    Ok(())
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut shards = self.engine.shards.lock();
        let mut state = self.shard.state.lock();
        state.abandoned = true;
        let idle = state.ops.is_empty();
        drop(state);
        if idle {
            shards.retain(|open| !Arc::ptr_eq(open, &self.shard));
        }
    }
}
