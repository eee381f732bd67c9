//! The end of a shard's log as the I/O thread sees it: writes records, rolls segments, writes votes.
//!
//! Every call of `write_next` leaves at most one record in the active file that is not synced; `sync` and `publish`
//! follow before the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::batch::{self, Body, RECORD_HEADER, RecordFields, RecordKind, encoded_len};
use crate::commit::Engine;
use crate::entry::{Entry, LogId, Vote};
use crate::error::FatalError;
use crate::format::{self, SEGMENT_HEADER, SegmentHeader};
use crate::hooks::{Callback, Completion};
use crate::io::File;
use crate::limits;
use crate::offset_index::{OffsetIndex, Point, Summary};
use crate::reserve::{self, Spare, is_full};
use crate::segment::Segment;
use crate::shard::{Op, Shard, State};
use crate::vote::VoteFiles;

/// Room for a record of truncation or purge, bytes.
const CONTROL: u64 = (RECORD_HEADER + format::FLOOR) as u64;
/// Room kept for the seal of a segment, bytes.
const SEAL: u64 = RECORD_HEADER as u64;

/// The write side of one shard.
pub(crate) struct Writer {
    pub(crate) active: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
    /// Where the next record goes.
    pub(crate) at: u64,
    /// The active segment has its seal (found so by recovery).
    pub(crate) sealed: bool,
    pub(crate) sequence: u64,
    pub(crate) previous_crc: u32,
    /// The purge floor that records so far say.
    pub(crate) purged: Option<LogId>,
    /// Index that comes next on disk.
    pub(crate) next: u64,
    /// Term of the last entry on disk, 0 if none.
    pub(crate) term: u64,
    pub(crate) votes: VoteFiles,
    /// Callbacks of the unit that is being written.
    pub(crate) in_flight: Vec<Callback>,
}

/// Why a write did not happen.
pub(crate) enum Refused {
    Fatal(FatalError),
    NoSpace,
}

/// What was written and is to be synced.
pub(crate) struct Unit {
    what: Written,
    /// Operation of the last entry written.
    op: u64,
    bytes: u64,
    /// It went before what waits for space.
    overtook: bool,
}

impl Unit {
    pub(crate) fn overtook(&self) -> bool {
        self.overtook
    }
}

enum Written {
    Vote,
    Entries { points: Vec<Point>, queued: u64, last: LogId },
    Truncate { from: u64 },
    Purge { upto: LogId },
}

/// What is next in a shard's queue.
enum Next {
    Entries { entries: Vec<Entry>, done: Vec<Callback>, op: u64 },
    DoesNotFit,
    Vote(Vote, Callback),
    Truncate(u64, Callback),
    Purge(LogId, Callback),
}

pub(crate) fn fatal(op: &'static str, file: &Path, error: &io::Error) -> Refused {
    Refused::Fatal(FatalError { op, file: file.to_owned(), error: error.to_string() })
}

impl Writer {
    /// Writes the next unit of the queue before operation `limit`; flushes on the way complete at once.
    pub(crate) fn write_next(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        limit: u64,
        completions: &mut Vec<Completion>,
    ) -> Result<Option<Unit>, Refused> {
        loop {
            let room = self.room();
            let next = {
                let mut state = shard.state.lock();
                while matches!(state.ops.front(), Some((op, Op::Flush { .. })) if *op < limit) {
                    if let Some((_, Op::Flush { done })) = state.ops.pop_front() {
                        completions.push(Completion::new(shard.id, done, Ok(())));
                    }
                }
                next_unit(&mut state, limit, room, self.active.range())
            };
            let unit = match next {
                None => return Ok(None),
                Some(Next::DoesNotFit) => {
                    let needed = first_entry_bytes(&shard.state.lock());
                    match self.roll(engine, shard, needed) {
                        Ok(()) => continue,
                        Err(Refused::NoSpace) => {}
                        Err(fatal) => return Err(fatal),
                    }
                    shard.reserve.fail();
                    // A purge frees space, and there is room for it: it goes before what waits for that space.
                    let purge = take_purge(&mut shard.state.lock(), limit, room, self.next);
                    let Some((upto, done)) = purge else { return Err(Refused::NoSpace) };
                    self.in_flight = vec![done];
                    let unit = self.write_purge(engine, shard, upto)?;
                    Unit { overtook: true, ..unit }
                }
                Some(Next::Entries { entries, done, op }) => {
                    self.in_flight = done;
                    self.write_entries(engine, shard, entries, op)?
                }
                Some(Next::Vote(vote, done)) => {
                    self.in_flight = vec![done];
                    let written = self.votes.write(vote);
                    written.map_err(|e| fatal("write", self.votes.path(), &e))?;
                    Unit { what: Written::Vote, op: 0, bytes: 64, overtook: false }
                }
                Some(Next::Truncate(from, done)) => {
                    self.in_flight = vec![done];
                    let kind = RecordKind::TruncateAfter;
                    let span = (from, from, 0);
                    let bytes = self.write_record(engine, shard, kind, span, Vec::new())?;
                    Unit { what: Written::Truncate { from }, op: 0, bytes, overtook: false }
                }
                Some(Next::Purge(upto, done)) => {
                    self.in_flight = vec![done];
                    self.write_purge(engine, shard, upto)?
                }
            };
            return Ok(Some(unit));
        }
    }

    /// Bytes that a record may have here.
    fn room(&self) -> u64 {
        if self.sealed { 0 } else { self.active.header.capacity.saturating_sub(self.at + SEAL) }
    }

    fn write_purge(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        upto: LogId,
    ) -> Result<Unit, Refused> {
        let body = vec![Bytes::copy_from_slice(&format::encode_floor(Some(upto)))];
        let span = (upto.index, upto.index, 0);
        let bytes = self.write_record(engine, shard, RecordKind::Committed, span, body)?;
        Ok(Unit { what: Written::Purge { upto }, op: 0, bytes, overtook: false })
    }

    fn write_entries(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        entries: Vec<Entry>,
        op: u64,
    ) -> Result<Unit, Refused> {
        let record = u32::try_from(self.at).expect("segments are below 4 GiB");
        let mut points = Vec::with_capacity(entries.len());
        let mut body = Body::new();
        let mut payload_bytes = 0;
        for entry in &entries {
            let offset = u32::try_from(RECORD_HEADER + body.len()).expect("records are bounded");
            points.push(Point { index: entry.index, position: record + offset, record });
            payload_bytes += entry.payload.len() as u64;
            body.push(entry);
        }
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            unreachable!("a unit of entries has at least one");
        };
        let queued = entries.iter().map(|e| encoded_len(e) as u64).sum();
        let count = u32::try_from(entries.len()).expect("records are bounded");
        let last = last.log_id();
        let span = (first.index, last.index, count);
        let bytes = self.write_record(engine, shard, RecordKind::Entries, span, body.finish())?;
        engine.counters.entries.fetch_add(u64::from(count), Ordering::Relaxed);
        engine.counters.payload_bytes.fetch_add(payload_bytes, Ordering::Relaxed);
        Ok(Unit { what: Written::Entries { points, queued, last }, op, bytes, overtook: false })
    }

    /// Writes one record at the end; the caller has made sure that it fits.
    fn write_record(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        kind: RecordKind,
        (first, last, count): (u64, u64, u32),
        body: Vec<Bytes>,
    ) -> Result<u64, Refused> {
        let committed_next = shard.state.lock().committed_next;
        let fields = RecordFields {
            kind,
            sequence: self.sequence,
            first,
            last,
            previous_crc: self.previous_crc,
            count,
            committed_next,
        };
        let record = batch::encode(fields, body, self.active.header.seed());
        let total = u64::from(record.total);
        assert!(self.at + total <= self.active.header.capacity, "a record beyond its segment");
        let pieces: Vec<&[u8]> = record.pieces.iter().map(|piece| &piece[..]).collect();
        self.file
            .write_at(&pieces, self.at)
            .map_err(|error| fatal("write", &self.active.path, &error))?;
        self.at += total;
        self.sequence += 1;
        self.previous_crc = record.crc;
        engine.counters.records.fetch_add(1, Ordering::Relaxed);
        engine.counters.bytes.fetch_add(total, Ordering::Relaxed);
        Ok(total)
    }

    /// Makes a unit durable.
    pub(crate) fn sync(&self, engine: &Engine, unit: &Unit) -> Result<(), Refused> {
        engine.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if matches!(unit.what, Written::Vote) {
            return self.votes.sync().map_err(|e| fatal("sync", self.votes.path(), &e));
        }
        // A fault planted to prove that the crash test finds it (design §12).
        if cfg!(planted = "skip_sync") {
            return Ok(());
        }
        self.sync_active()
    }

    fn sync_active(&self) -> Result<(), Refused> {
        self.file.sync_data().map_err(|e| fatal("sync", &self.active.path, &e))
    }

    /// Shows a synced unit to readers and finishes its operations.
    pub(crate) fn publish(
        &mut self,
        engine: &Engine,
        shard: &Shard,
        unit: Unit,
        completions: &mut Vec<Completion>,
    ) -> u64 {
        let Unit { what, op, bytes, .. } = unit;
        match what {
            Written::Vote => {}
            Written::Entries { points, queued, last } => {
                let mut index = self.active.index.write();
                points.into_iter().for_each(|point| index.push(point));
                drop(index);
                self.next = last.index + 1;
                self.term = last.term;
                let mut state = shard.state.lock();
                state.written(op, last.index);
                state.queued_bytes = state.queued_bytes.saturating_sub(queued);
                drop(state);
                engine.dequeued(queued);
            }
            Written::Truncate { from } => {
                let state = shard.state.lock();
                let segments = state.segments.clone();
                let before = from.checked_sub(1).and_then(|index| state.log_id(index));
                drop(state);
                self.next = self.next.min(from);
                self.term = before.map_or(0, |id| id.term);
                segments.iter().for_each(|segment| segment.truncate(from));
                self.active.lowest_truncation.fetch_min(from, Ordering::Relaxed);
            }
            Written::Purge { upto } => {
                self.purged = Some(upto);
                self.next = self.next.max(upto.index + 1);
                shard.state.lock().purged_durable = Some(upto);
            }
        }
        let mut state = shard.state.lock();
        state.bytes_appended += bytes;
        state.active_left = self.room();
        drop(state);
        let done = std::mem::take(&mut self.in_flight);
        completions.extend(done.into_iter().map(|done| Completion::new(shard.id, done, Ok(()))));
        self.make_ahead(engine, shard);
        bytes
    }

    /// Asks for the next segment once the active one is half used.
    fn make_ahead(&self, engine: &Engine, shard: &Shard) {
        if self.at * 2 >= self.active.header.capacity && shard.reserve.claim() {
            engine.make_reserve(shard, self.active.header.capacity);
        }
    }

    /// Seals the active segment and begins the next one, which has room for a record of `needed` bytes.
    fn roll(&mut self, engine: &Engine, shard: &Shard, needed: u64) -> Result<(), Refused> {
        let needed = needed + SEGMENT_HEADER as u64 + 2 * SEAL + reserve::MARGIN;
        let spare = match shard.reserve.take(needed) {
            Some(spare) => spare,
            None => self.make_now(engine, shard, needed)?,
        };
        if !self.sealed {
            let span = (self.next, self.next, 0);
            self.write_record(engine, shard, RecordKind::Seal, span, Vec::new())?;
            self.sync_active()?;
            self.sealed = true;
        }
        let summary = Summary {
            index: self.active.index.read().clone(),
            next_sequence: self.sequence,
            last_crc: self.previous_crc,
            lowest_truncation: self.active.lowest_truncation.load(Ordering::Relaxed),
            end: u32::try_from(self.at).expect("segments are below 4 GiB"),
        };
        engine.write_index(
            self.active.path.with_extension("idx"),
            self.active.header.salt,
            summary,
        );
        self.begin(engine, shard, spare)
    }

    fn make_now(&self, engine: &Engine, shard: &Shard, needed: u64) -> Result<Spare, Refused> {
        let capacity = engine.next_capacity(self.active.header.capacity);
        let capacity = capacity.max(needed.next_multiple_of(SEGMENT_HEADER as u64));
        // Filling the disk to the brim to find out would hurt everybody else on it.
        if engine.refresh_free().free < capacity {
            return Err(Refused::NoSpace);
        }
        reserve::make_spare(&*engine.io, &shard.log_dir(), capacity).map_err(|error| {
            if is_full(&error) {
                return Refused::NoSpace;
            }
            fatal("create", &shard.log_dir(), &error)
        })
    }

    fn begin(&mut self, engine: &Engine, shard: &Shard, spare: Spare) -> Result<(), Refused> {
        let state = shard.state.lock();
        let header = SegmentHeader {
            shard: shard.id,
            node: engine.node.node,
            salt: engine.io.random().max(1),
            base_index: self.next,
            base_term: self.term,
            created_us: engine.io.now_us(),
            capacity: spare.capacity,
            previous_salt: self.active.header.salt,
            first_sequence: self.sequence,
            previous_crc: self.previous_crc,
            committed_next: state.committed_next,
            purged: self.purged,
            recycled: spare.recycled,
        };
        drop(state);
        let (file, segment) = publish_segment(engine, &shard.log_dir(), spare, header)?;
        let segment = Arc::new(segment);
        self.active = Arc::clone(&segment);
        self.file = file;
        self.at = SEGMENT_HEADER as u64;
        self.sealed = false;
        let mut state = shard.state.lock();
        state.segments.push(segment);
        state.active_left = self.room();
        Ok(())
    }
}

/// Gives a zero-filled file its header and its name, durably and in that order.
pub(crate) fn publish_segment(
    engine: &Engine,
    log_dir: &Path,
    spare: Spare,
    header: SegmentHeader,
) -> Result<(Arc<dyn File>, Segment), Refused> {
    let path: PathBuf = log_dir.join(format::segment_name(header.base_index, header.salt));
    let Spare { file, path: temporary, .. } = spare;
    file.write_at(&[&header.encode()], 0).map_err(|e| fatal("write", &temporary, &e))?;
    file.sync_data().map_err(|e| fatal("sync", &temporary, &e))?;
    engine.io.rename(&temporary, &path).map_err(|e| fatal("rename", &temporary, &e))?;
    engine.io.sync_dir(log_dir).map_err(|e| fatal("sync", log_dir, &e))?;
    let map = file.map().map_err(|e| fatal("map", &path, &e))?;
    let index = OffsetIndex::new(header.base_index);
    Ok((file, Segment::new(header, path, map, index)))
}

fn first_entry_bytes(state: &State) -> u64 {
    match state.ops.front() {
        Some((_, Op::Append { entries, .. })) => {
            let first = entries.as_slice().first().map_or(0, encoded_len);
            (RECORD_HEADER + first + 8) as u64
        }
        _ => CONTROL,
    }
}

/// Takes a purge of entries that are all on disk out of the queue, if it fits; not past a truncation, before which what
/// is on disk may be void.
fn take_purge(state: &mut State, limit: u64, room: u64, next: u64) -> Option<(LogId, Callback)> {
    let mut ahead = state.ops.iter().take_while(|(op, what)| {
        room >= CONTROL && *op < limit && !matches!(what, Op::Truncate { .. })
    });
    let at =
        ahead.position(|(_, what)| matches!(what, Op::Purge { upto, .. } if upto.index < next))?;
    match state.ops.remove(at) {
        Some((_, Op::Purge { upto, done })) => Some((upto, done)),
        _ => None,
    }
}

/// Takes the next unit off the queue; entries of several appends together, as far as they fit and continue each other.
fn next_unit(
    state: &mut State,
    limit: u64,
    room: u64,
    active: std::ops::Range<u64>,
) -> Option<Next> {
    match state.ops.front()? {
        (op, _) if *op >= limit => return None,
        (_, Op::Append { .. }) => {}
        (_, Op::Truncate { .. } | Op::Purge { .. }) if room < CONTROL => {
            return Some(Next::DoesNotFit);
        }
        _ => {
            return Some(match state.ops.pop_front()?.1 {
                Op::Vote { vote, done } => Next::Vote(vote, done),
                Op::Truncate { from, done } => Next::Truncate(from, done),
                Op::Purge { upto, done } => Next::Purge(upto, done),
                Op::Append { .. } | Op::Flush { .. } => unreachable!("handled before"),
            });
        }
    }
    let record_max = usize::try_from(room).unwrap_or(usize::MAX).min(limits::RECORD_MAX);
    let mut taken: Vec<Entry> = Vec::new();
    let mut finished = Vec::new();
    let mut last_op = 0;
    let mut bytes = 0;
    'ops: while let Some((op, Op::Append { entries, .. })) = state.ops.front_mut() {
        if *op >= limit {
            break;
        }
        while let Some(entry) = entries.as_slice().first() {
            let continues = match taken.last() {
                Some(last) => entry.index == last.index + 1,
                // After a purge beyond the end the log continues behind a gap: in a new segment.
                None => active.is_empty() || entry.index == active.end,
            };
            let sum = bytes + encoded_len(entry);
            let fits = RECORD_HEADER + sum + 8 <= record_max
                && (taken.is_empty() || sum <= limits::RECORD_TARGET);
            if !continues || !fits {
                break 'ops;
            }
            bytes = sum;
            last_op = *op;
            taken.extend(entries.next());
        }
        if let Some((_, Op::Append { done, .. })) = state.ops.pop_front() {
            finished.push(done);
        }
    }
    if taken.is_empty() {
        return Some(Next::DoesNotFit);
    }
    Some(Next::Entries { entries: taken, done: finished, op: last_op })
}
