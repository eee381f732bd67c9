//! What is known in memory of one shard's log, and what waits to be written.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::batch::encoded_len;
use crate::compacted::Compacted;
use crate::entry::{Entry, LogId, Vote};
use crate::error::{Damage, WriteError};
use crate::hooks::{Callback, Completion};
use crate::reserve::Reserve;
use crate::retention::Doomed;
use crate::segment::Segment;
use crate::writer::Writer;

/// One shard: the lock of `state` is short, that of `writer` is held by the I/O thread through a write. Where both are
/// taken, `writer` comes first.
pub(crate) struct Shard {
    pub(crate) id: u64,
    pub(crate) dir: PathBuf,
    pub(crate) state: Mutex<State>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) reserve: Reserve,
    /// Held by who unlinks or compacts; before the other two.
    pub(crate) retention: Mutex<()>,
}

/// An operation that waits for the I/O thread.
pub(crate) enum Op {
    Append { entries: vec::IntoIter<Entry>, done: Callback },
    Vote { vote: Vote, done: Callback },
    Truncate { from: u64, done: Callback },
    Purge { upto: LogId, done: Callback },
    Flush { done: Callback },
}

/// An entry that is not yet in its segment; served from here.
struct Waiting {
    op: u64,
    entry: Entry,
}

/// The first entry of a run of entries of one term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TermStart {
    index: u64,
    term: u64,
    leader_node: Option<u64>,
}

/// The log as its owner sees it: what was queued counts.
#[derive(Default)]
pub(crate) struct State {
    /// In the order of their records; the last is active.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// By first index; no two hold the same entry.
    pub(crate) compacted: Vec<Arc<Compacted>>,
    /// Files that no reader finds any more.
    pub(crate) doomed: Vec<Doomed>,
    waiting: VecDeque<Waiting>,
    /// Entries from here on are in `waiting`.
    waiting_first: u64,
    pub(crate) next: u64,
    purged: Option<LogId>,
    /// The purge floor that a record on disk says.
    pub(crate) purged_durable: Option<LogId>,
    pub(crate) committed_next: u64,
    pub(crate) vote: Option<Vote>,
    terms: VecDeque<TermStart>,
    pub(crate) ops: VecDeque<(u64, Op)>,
    pub(crate) next_op: u64,
    pub(crate) queued_bytes: u64,
    /// Bytes left in the active segment for records.
    pub(crate) active_left: u64,
    pub(crate) bytes_appended: u64,
    pub(crate) failed: Option<WriteError>,
    /// No segment could be made for what is queued: it waits for space, and nothing but what was decided elsewhere comes in.
    pub(crate) stuck: bool,
    /// Its last handle is gone; it goes when nothing is queued.
    pub(crate) abandoned: bool,
}

impl State {
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// First index above the purge floor.
    pub(crate) fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    pub(crate) fn push_op(&mut self, op: Op) {
        self.ops.push_back((self.next_op, op));
        self.next_op += 1;
    }

    /// Makes entries readable that are about to be queued as the next operation.
    pub(crate) fn extend(&mut self, entries: &[Entry]) {
        if self.waiting.is_empty() {
            self.waiting_first = self.next;
        }
        for entry in entries {
            self.note_term(entry.log_id());
            self.waiting.push_back(Waiting { op: self.next_op, entry: entry.clone() });
            self.next = entry.index + 1;
        }
    }

    /// Notes an entry that is in a segment already, on recovery.
    pub(crate) fn recovered(&mut self, id: LogId) {
        self.note_term(id);
        self.next = id.index + 1;
        self.waiting_first = self.next;
    }

    /// Continues at `next`, on recovery, behind entries of which nothing more has to be known.
    pub(crate) fn restart_at(&mut self, next: u64) {
        self.terms.clear();
        self.next = next;
        self.waiting_first = next;
    }

    fn note_term(&mut self, id: LogId) {
        let same = |last: &TermStart| (last.term, last.leader_node) == (id.term, id.leader_node);
        if !self.terms.back().is_some_and(same) {
            let LogId { index, term, leader_node } = id;
            self.terms.push_back(TermStart { index, term, leader_node });
        }
    }

    /// Drops the entries from `from` on, for readers.
    pub(crate) fn truncate(&mut self, from: u64) {
        if from >= self.next {
            return;
        }
        while self.waiting.back().is_some_and(|w| w.entry.index >= from) {
            self.waiting.pop_back();
        }
        self.waiting_first = self.waiting_first.min(from);
        self.next = from;
        while self.terms.back().is_some_and(|t| t.index >= from) {
            self.terms.pop_back();
        }
    }

    /// Moves the purge floor; never back.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if upto.index < self.first() {
            return;
        }
        self.purged = Some(upto);
        let first = upto.index + 1;
        while self.terms.len() > 1 && self.terms[1].index <= first {
            self.terms.pop_front();
        }
        if self.next <= first {
            self.next = first;
            self.waiting_first = first;
            self.waiting.clear();
            self.terms.clear();
        }
    }

    /// Identity of an entry above the floor, or of the last purged one.
    pub(crate) fn log_id(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.purged.filter(|id| id.index == index) {
            return Some(purged);
        }
        if index < self.first() || index >= self.next {
            return None;
        }
        let after = self.terms.partition_point(|t| t.index <= index);
        let start = self.terms.get(after.checked_sub(1)?)?;
        Some(LogId { term: start.term, leader_node: start.leader_node, index })
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.log_id(self.next.checked_sub(1)?)
    }

    /// The entries of an operation up to one index are in their segment.
    pub(crate) fn written(&mut self, op: u64, last_index: u64) {
        while self.waiting.front().is_some_and(|w| (w.op, w.entry.index) <= (op, last_index)) {
            self.waiting.pop_front();
        }
        self.waiting_first = self.waiting.front().map_or(self.next, |w| w.entry.index);
    }

    fn waiting_at(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.waiting.front()?.entry.index)?;
        self.waiting.get(usize::try_from(at).ok()?).map(|w| &w.entry)
    }

    /// The first entry, of those up to and with `index`, from which on they take no more than `bytes` of segments.
    pub(crate) fn within(&self, index: u64, mut bytes: u64) -> u64 {
        let after = self.segments.partition_point(|s| s.range().start <= index);
        for segment in self.segments[..after].iter().rev() {
            match segment.index.read().within(index, bytes) {
                (_, Some(left)) => bytes = left,
                (first, None) => return first,
            }
        }
        self.segments.first().map_or(index, |segment| segment.range().start.min(index))
    }

    /// The compacted segment that may hold a copy of an entry.
    fn compacted_of(&self, index: u64) -> Option<Arc<Compacted>> {
        let after = self.compacted.partition_point(|copies| copies.header.first <= index);
        let copies = self.compacted.get(after.checked_sub(1)?)?;
        (index <= copies.header.last).then(|| Arc::clone(copies))
    }

    /// The segment that holds an entry; the later one where a truncation left two that could.
    fn segment_of(&self, index: u64) -> Option<Arc<Segment>> {
        // Empty segments share their position with a neighbour, so the search is linear from the end for those only.
        let after = self.segments.partition_point(|s| s.range().start <= index);
        self.segments[..after].iter().rev().find(|s| !s.range().is_empty()).cloned()
    }
}

/// Where an entry is that consumers may see.
enum Visible {
    No,
    Waiting(Entry),
    In(Option<Arc<Compacted>>, Option<Arc<Segment>>),
}

impl Shard {
    /// Where the segments are.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// One payload, wherever it is.
    pub(crate) fn payload(&self, index: u64) -> Result<Option<Bytes>, Damage> {
        Ok(self.committed_entry(index)?.map(|entry| entry.payload))
    }

    /// One committed entry, wherever it is.
    pub(crate) fn committed_entry(&self, index: u64) -> Result<Option<Entry>, Damage> {
        let (copies, segment) = match self.visible(index) {
            Visible::Waiting(entry) => return Ok(Some(entry)),
            Visible::In(copies, segment) => (copies, segment),
            Visible::No => return Ok(None),
        };
        let copied = copies.map(|copies| copies.entry(index)).transpose()?.flatten();
        if copied.is_some() {
            return Ok(copied);
        }
        Ok(segment.map(|segment| segment.entry(index)).transpose()?.flatten())
    }

    fn visible(&self, index: u64) -> Visible {
        let state = self.state.lock();
        if index >= state.committed_next.min(state.next) {
            return Visible::No;
        }
        if index >= state.waiting_first {
            return state.waiting_at(index).cloned().map_or(Visible::No, Visible::Waiting);
        }
        Visible::In(state.compacted_of(index), state.segment_of(index))
    }

    /// Entries above the purge floor, from segments and then from what waits.
    pub(crate) fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, Damage> {
        let mut out = Vec::new();
        let mut budget = bytes_max;
        loop {
            let from = out.last().map_or(range.start, |e: &Entry| e.index + 1);
            let (segment, end) = {
                let state = self.state.lock();
                let from = from.max(state.first());
                let end = range.end.min(state.next);
                if from >= end {
                    return Ok(out);
                }
                if from >= state.waiting_first {
                    for index in from..end {
                        let Some(entry) = state.waiting_at(index) else {
                            break;
                        };
                        let bytes = encoded_len(entry);
                        if bytes > budget && !out.is_empty() {
                            break;
                        }
                        budget = budget.saturating_sub(bytes);
                        out.push(entry.clone());
                    }
                    return Ok(out);
                }
                (state.segment_of(from).map(|s| (s, from)), end.min(state.waiting_first))
            };
            let Some((segment, from)) = segment else {
                return Ok(out);
            };
            let before = out.len();
            let more = segment.read(from..end, &mut budget, &mut out)?;
            if !more || out.len() == before {
                return Ok(out);
            }
        }
    }

    /// Fails all that is queued and all that comes.
    pub(crate) fn fail(&self, error: &WriteError, completions: &mut Vec<Completion>) -> u64 {
        let mut state = self.state.lock();
        state.failed.get_or_insert_with(|| error.clone());
        let bytes = std::mem::take(&mut state.queued_bytes);
        for (_, op) in state.ops.drain(..) {
            let (Op::Append { done, .. }
            | Op::Vote { done, .. }
            | Op::Truncate { done, .. }
            | Op::Purge { done, .. }
            | Op::Flush { done }) = op;
            completions.push(Completion::new(self.id, done, Err(error.clone())));
        }
        bytes
    }
}
