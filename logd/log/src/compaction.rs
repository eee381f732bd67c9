//! Compaction: segments of which less than half is live are merged into one that holds copies of it (S9).
//!
//! Only what Raft has purged is touched, never the active segment. The copy is written, synced and renamed before
//! anything of the old is unlinked; readers that have a slice of the old keep it. The work happens on the thread that
//! calls, at a bounded rate; it must be neither the I/O thread nor a runtime.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::commit::Engine;
use crate::compacted::{Compacted, CompactedWriter};
use crate::entry::Entry;
use crate::error::{CompactError, Damage, FatalError};
use crate::reserve::is_full;
use crate::retention::{self, Doomed, Look, Reclaimed, purged_segments};
use crate::segment::Segment;
use crate::shard::Shard;

/// Entries read at once from a segment, bytes.
const READ_BYTES: usize = 1024 * 1024;
/// Entries of a segment whose liveness is asked for at once.
const WINDOW: u64 = 8 * 1024;
/// Bytes copied between two looks at the rate.
const PACE_BYTES: u64 = 256 * 1024;

/// What the owner of the entries knows of them. Asked on the thread that compacts, outside all locks of the log.
pub trait Liveness {
    /// References to entries of a range, in all.
    fn references(&self, entries: RangeInclusive<u64>) -> u64;
    /// The live entries of a range in ascending order, each with the references to it.
    fn live(&self, entries: RangeInclusive<u64>) -> Vec<(u64, u64)>;
    /// Parts of an entry that may be referred to one by one, all about as large.
    fn parts(&self, payload: &[u8]) -> u64;
}

/// What the owner of the entries keeps of them.
pub trait Keep {
    /// The live entries of a range, in ascending order.
    fn wanted(&mut self, entries: RangeInclusive<u64>) -> Vec<u64>;
    /// What of the payload of a live entry is needed: all of it, or a form of it that the owner understands.
    fn keep(&mut self, index: u64, payload: &Bytes) -> Bytes;
}

/// Neighbouring segments that are worth merging.
pub struct SparseRun {
    sources: Vec<Source>,
    bytes: u64,
    estimate: u64,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactedRun {
    /// Segments that were replaced.
    pub segments: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Bytes of what replaces them.
    pub bytes_after: u64,
    /// Segments that were replaced but are still on disk because a slice of them is out.
    pub pinned_segments: u64,
}

#[derive(Clone)]
enum Source {
    Segment(Arc<Segment>),
    Compacted(Arc<Compacted>),
}

/// A source and what of it is live.
struct Weighed {
    source: Source,
    estimate: u64,
    sparse: bool,
}

// === impl SparseRun ===

impl SparseRun {
    /// The entries that its segments hold.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.sources.iter().map(Source::range)
    }

    /// Bytes of its segments.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

// === impl Source ===

impl Source {
    fn range(&self) -> RangeInclusive<u64> {
        match self {
            Self::Segment(segment) => {
                let range = segment.range();
                range.start..=range.end.saturating_sub(1)
            }
            Self::Compacted(copies) => copies.header.first..=copies.header.last,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Segment(segment) => segment.header.capacity,
            Self::Compacted(copies) => copies.header.len,
        }
    }

    fn salt(&self) -> u64 {
        match self {
            Self::Segment(segment) => segment.header.salt,
            Self::Compacted(copies) => copies.header.salt,
        }
    }

    fn look(&self) -> &Look {
        match self {
            Self::Segment(segment) => &segment.look,
            Self::Compacted(copies) => &copies.look,
        }
    }

    /// Entries whose liveness is asked for at once; all of copies, which are read record by record.
    fn window(&self) -> u64 {
        match self {
            Self::Segment(_) => WINDOW,
            Self::Compacted(_) => u64::MAX,
        }
    }

    fn doomed(&self) -> Doomed {
        match self {
            Self::Segment(segment) => segment.doomed(),
            Self::Compacted(copies) => copies.doomed(),
        }
    }

    /// Hands over the entries among `live`, which ascends.
    fn each(
        &self,
        live: &[u64],
        visit: &mut dyn FnMut(Entry) -> Result<(), CompactError>,
    ) -> Result<(), CompactError> {
        match self {
            Self::Segment(segment) => {
                for run in live.chunk_by(|a, b| a + 1 == *b) {
                    let (mut from, end) = (run[0], run[0] + run.len() as u64);
                    while from < end {
                        let (mut budget, mut out) = (READ_BYTES, Vec::new());
                        segment.read(from..end, &mut budget, &mut out)?;
                        let Some(last) = out.last() else { break };
                        from = last.index + 1;
                        out.into_iter().try_for_each(&mut *visit)?;
                    }
                }
            }
            Self::Compacted(copies) => {
                for record in 0..copies.records() {
                    for entry in copies.entries(record)? {
                        if live.binary_search(&entry.index).is_ok() {
                            visit(entry)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Finds what is worth merging, oldest first. Reads the headers of live entries of segments that changed.
pub(crate) fn sparse(
    engine: &Engine,
    shard: &Shard,
    liveness: &dyn Liveness,
) -> Result<Vec<SparseRun>, Damage> {
    let most = engine.config.segment_bytes_max;
    let mut runs = Vec::new();
    let mut open: Vec<Weighed> = Vec::new();
    for source in sources(shard) {
        let Some(source) = source else {
            close(&mut open, most, &mut runs);
            continue;
        };
        match weigh(source, liveness)? {
            Some(weighed) if weighed.sparse || is_small(&weighed, most) => {
                let sum: u64 = open.iter().map(|w| w.estimate).sum();
                if sum + weighed.estimate > most {
                    close(&mut open, most, &mut runs);
                }
                open.push(weighed);
            }
            // Nothing lives in it: it is unlinked, not copied.
            None => {}
            Some(_) => close(&mut open, most, &mut runs),
        }
    }
    close(&mut open, most, &mut runs);
    Ok(runs)
}

/// What may be merged, in the order of indexes; `None` stands for what may not and lies in between.
fn sources(shard: &Shard) -> Vec<Option<Source>> {
    let state = shard.state.lock();
    let purged = purged_segments(&state, |_| true);
    let first = state.segments.first().map(Arc::as_ptr);
    let may = |s: &Arc<Segment>| {
        // A truncation that reaches into an earlier segment stays as long as any of those.
        let truncates = s.lowest_truncation.load(Ordering::Relaxed) < s.header.base_index;
        purged.iter().any(|p| Arc::ptr_eq(p, s))
            && (!truncates || first == Some(Arc::as_ptr(s)))
            && !s.map.slices_out()
    };
    let segments = state.segments.iter().filter(|s| !s.range().is_empty());
    let mut all: Vec<(u64, Option<Source>)> = segments
        .map(|s| (s.range().start, may(s).then(|| Source::Segment(Arc::clone(s)))))
        .collect();
    all.extend(state.compacted.iter().map(|copies| {
        let free = !copies.map.slices_out();
        (copies.header.first, free.then(|| Source::Compacted(Arc::clone(copies))))
    }));
    drop(state);
    all.sort_by_key(|(first, _)| *first);
    all.into_iter().map(|(_, source)| source).collect()
}

/// A compacted segment that may be merged with its neighbours.
fn is_small(weighed: &Weighed, most: u64) -> bool {
    matches!(weighed.source, Source::Compacted(_)) && weighed.source.bytes() < most / 2
}

/// `None` if nothing in it is live.
fn weigh(source: Source, liveness: &dyn Liveness) -> Result<Option<Weighed>, Damage> {
    let references = liveness.references(source.range());
    if references == 0 {
        return Ok(None);
    }
    let bytes = source.bytes();
    if !source.look().is_due(references) {
        return Ok(Some(Weighed { source, estimate: bytes, sparse: false }));
    }
    let estimate = estimate(&source, liveness)?;
    let sparse = estimate * 2 < bytes.saturating_sub(OVERHEAD);
    Ok(Some(Weighed { source, estimate, sparse }))
}

/// Bytes of what is live in it, about. Asks for the live entries of a window at a time: a segment may have a million.
fn estimate(source: &Source, liveness: &dyn Liveness) -> Result<u64, Damage> {
    let (mut first, last) = source.range().into_inner();
    let mut bytes = 0;
    while first <= last {
        let window = first..=last.min(first.saturating_add(source.window() - 1));
        first = window.end() + 1;
        let live = liveness.live(window);
        let indexes: Vec<u64> = live.iter().map(|(index, _)| *index).collect();
        let mut counts = live.iter().peekable();
        let weighing = source.each(&indexes, &mut |entry| {
            while counts.next_if(|(index, _)| *index < entry.index).is_some() {}
            let references = counts.peek().map_or(0, |(_, n)| *n);
            let parts = liveness.parts(&entry.payload).max(1);
            bytes += entry.payload.len() as u64 * references.min(parts) / parts;
            Ok(())
        });
        if let Err(CompactError::Damaged(damage)) = weighing {
            return Err(damage);
        }
    }
    Ok(bytes)
}

/// Bytes of a compacted segment that are none of an entry, about: its header and its table.
const OVERHEAD: u64 = 8 * 1024;

/// Ends a run. Small neighbours join it only where they are no larger than twice the rest behind them, so that what is
/// copied again and again doubles in between.
fn close(open: &mut Vec<Weighed>, most: u64, runs: &mut Vec<SparseRun>) {
    let mut all = std::mem::take(open);
    let (Some(first), Some(last)) =
        (all.iter().position(|w| w.sparse), all.iter().rposition(|w| w.sparse))
    else {
        return;
    };
    let mut estimate: u64 = all[first..=last].iter().map(|w| w.estimate).sum();
    let mut from = first;
    while let Some(before) = from.checked_sub(1).map(|at| &all[at]) {
        if before.estimate > estimate * 2 + OVERHEAD || before.estimate + estimate > most {
            break;
        }
        estimate += before.estimate;
        from -= 1;
    }
    let sources: Vec<Source> = all.drain(from..=last).map(|w| w.source).collect();
    let bytes = sources.iter().map(Source::bytes).sum();
    // Found again if it is not merged now.
    sources.iter().for_each(|source| source.look().reset());
    runs.push(SparseRun { sources, bytes, estimate });
}

/// Merges a run.
pub(crate) fn compact(
    engine: &Engine,
    shard: &Shard,
    run: SparseRun,
    keep: &mut dyn Keep,
    bytes_per_second: Option<u64>,
) -> Result<CompactedRun, CompactError> {
    let _guard = shard.retention.lock();
    if engine.is_closed() {
        return Err(CompactError::Closed);
    }
    let space = engine.refresh_free();
    if space.free < run.estimate + run.estimate / 4 + OVERHEAD {
        return Err(CompactError::Full);
    }
    let begun = CompactedWriter::begin(&*engine.io, &shard.log_dir());
    let mut writer = begun.map_err(|error| failed(engine, shard, &error))?;
    let temporary = writer.path.clone();
    let mut pace = Pace { begun: Instant::now(), bytes_per_second, seen: 0 };
    let copied = copy(engine, shard, &run.sources, &mut writer, keep, &mut pace);
    let result = copied.and_then(|taken| match writer.is_empty() {
        // All of it died meanwhile: it is unlinked, not copied.
        true => Ok(CompactedRun::default()),
        false => swap(engine, shard, writer, &run.sources[..taken]),
    });
    if !result.as_ref().is_ok_and(|done| done.segments > 0) {
        // Left behind it is removed when the shard is opened.
        let _ = engine.io.remove_file(&temporary);
    }
    engine.refresh_free();
    shard.reserve.retry();
    engine.space_freed();
    result
}

/// Copies source by source until the copy is as large as a segment; returns how many.
fn copy(
    engine: &Engine,
    shard: &Shard,
    sources: &[Source],
    writer: &mut CompactedWriter,
    keep: &mut dyn Keep,
    pace: &mut Pace,
) -> Result<usize, CompactError> {
    for (n, source) in sources.iter().enumerate() {
        if n > 0 && writer.bytes() >= engine.config.segment_bytes_max {
            return Ok(n);
        }
        let live = keep.wanted(source.range());
        source.each(&live, &mut |mut entry| {
            // A fault planted to prove that the crash test finds it (design §12).
            if cfg!(planted = "compaction_drops_an_entry") && entry.index.is_multiple_of(13) {
                return Ok(());
            }
            entry.payload = keep.keep(entry.index, &entry.payload);
            if !writer.fits(&entry) {
                return Err(CompactError::Full);
            }
            writer.push(&entry).map_err(|error| failed(engine, shard, &error))?;
            pace.wait(engine, writer.bytes())
        })?;
    }
    Ok(sources.len())
}

/// Publishes the copy, shows it to readers instead of its sources, and unlinks those.
fn swap(
    engine: &Engine,
    shard: &Shard,
    writer: CompactedWriter,
    sources: &[Source],
) -> Result<CompactedRun, CompactError> {
    let failed = |error: io::Error| failed(engine, shard, &error);
    let log_dir = shard.log_dir();
    let first = sources.iter().map(|s| *s.range().start()).min().unwrap_or(0);
    let last = sources.iter().map(|s| *s.range().end()).max().unwrap_or(first);
    let salts: Vec<u64> = sources.iter().map(Source::salt).collect();
    let identity = (shard.id, engine.node.node);
    let io = &*engine.io;
    let done = writer.finish(io, identity, (first, last), &salts).map_err(failed)?;
    let (temporary, place) = done;
    // A fault planted to prove that the crash test finds it (design §12).
    if cfg!(planted = "unlink_before_rename") {
        sources.iter().for_each(|source| drop(io.remove_file(&source.doomed().path)));
        io.sync_dir(&log_dir).map_err(failed)?;
    }
    io.rename(&temporary, &place).map_err(failed)?;
    io.sync_dir(&log_dir).map_err(failed)?;
    let copies = Compacted::open(io, &place, shard.id).map_err(failed)?;
    let copies = Arc::new(copies?);
    let mut state = shard.state.lock();
    state.segments.retain(|s| !sources.iter().any(|x| x.is_segment(s)));
    state.compacted.retain(|c| !sources.iter().any(|x| x.is_compacted(c)));
    let at = state.compacted.partition_point(|c| c.header.first < first);
    state.compacted.insert(at, Arc::clone(&copies));
    drop(state);
    let mut doomed = retention::take_doomed(shard);
    doomed.extend(sources.iter().map(Source::doomed));
    let mut removed = Reclaimed::default();
    let spare = retention::remove(engine, shard, doomed, &mut removed);
    // The copies may be merged again: what they replaced must not come back then.
    io.sync_dir(&log_dir).map_err(failed)?;
    retention::recycle(engine, shard, spare, &mut removed);
    Ok(CompactedRun {
        segments: sources.len() as u64,
        bytes_before: sources.iter().map(Source::bytes).sum(),
        bytes_after: copies.header.len,
        pinned_segments: removed.pinned_segments,
    })
}

impl Source {
    fn is_segment(&self, other: &Arc<Segment>) -> bool {
        matches!(self, Self::Segment(segment) if Arc::ptr_eq(segment, other))
    }

    fn is_compacted(&self, other: &Arc<Compacted>) -> bool {
        matches!(self, Self::Compacted(copies) if Arc::ptr_eq(copies, other))
    }
}

/// A full disk is tolerated: nothing has changed. Anything else ends the disk, as a failed write of the log does.
fn failed(engine: &Engine, shard: &Shard, error: &io::Error) -> CompactError {
    if is_full(error) {
        return CompactError::Full;
    }
    engine.fail(&FatalError { op: "compact", file: shard.log_dir(), error: error.to_string() });
    CompactError::DiskFailed
}

/// Keeps the copying below a rate, and ends it when the disk is closed.
struct Pace {
    begun: Instant,
    bytes_per_second: Option<u64>,
    /// Bytes when it was looked at last.
    seen: u64,
}

impl Pace {
    fn wait(&mut self, engine: &Engine, bytes: u64) -> Result<(), CompactError> {
        if bytes < self.seen + PACE_BYTES {
            return Ok(());
        }
        self.seen = bytes;
        if engine.is_closed() {
            return Err(CompactError::Closed);
        }
        if let Some(rate) = self.bytes_per_second {
            let due = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1));
            thread::sleep(due.saturating_sub(self.begun.elapsed()));
        }
        Ok(())
    }
}
