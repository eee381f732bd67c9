//! Putting a log together from its segments, record by record.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::batch::{RECORD_HEADER, RecordKind};
use crate::compacted::Compacted;
use crate::entry::LogId;
use crate::error::Damage;
use crate::format::{self, SegmentHeader};
use crate::io::{File, Map};
use crate::limits;
use crate::offset_index::{OffsetIndex, Summary};
use crate::scan::{End, Expected, Scan, Scanned, Tail, judge};
use crate::segment::Segment;
use crate::shard::State;

/// A segment file with a valid header.
pub(super) struct Found {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) map: Arc<dyn Map>,
}

/// A log being put together.
#[derive(Default)]
pub(super) struct Rebuild {
    pub(super) state: State,
    pub(super) sequence: u64,
    pub(super) previous_crc: u32,
    /// Where the last segment ends.
    pub(super) at: u64,
    pub(super) sealed: bool,
    pub(super) scanned_bytes: u64,
    pub(super) torn_bytes: u64,
}

pub(super) enum ScanError {
    Damage(Damage),
    Io(io::Error),
}

/// The floor that a record sets, if it is one that does.
pub(super) fn purge_of(record: &Scanned) -> Option<LogId> {
    let body = record.bytes.get(RECORD_HEADER..RECORD_HEADER + format::FLOOR)?;
    let floor =
        (record.header.kind == RecordKind::Committed).then(|| format::decode_floor(body))?;
    floor.filter(|id| id.index <= limits::INDEX_MAX)
}

impl Rebuild {
    /// Checks that a segment continues the one before it. A hole is fine only where Raft has purged.
    pub(super) fn join(
        &mut self,
        segment: &Found,
        previous: Option<&Found>,
        floor: u64,
    ) -> Result<(), Damage> {
        let header = &segment.header;
        let damage =
            |what: &str| Damage { file: segment.path.clone(), offset: 0, what: what.into() };
        let adjacent = match previous {
            None => header.previous_salt == 0,
            Some(previous) => header.previous_salt == previous.header.salt,
        };
        if adjacent {
            let first = previous.is_none();
            let continues = header.first_sequence == self.sequence
                && header.previous_crc == self.previous_crc
                && header.base_index
                    == self.state.next.max(header.purged.map_or(0, |id| id.index + 1));
            if !continues && !first {
                return Err(damage("does not continue the segment before it"));
            }
            if previous.is_some() && !self.sealed {
                return Err(damage("the segment before it has no seal"));
            }
        } else if header.base_index > floor {
            return Err(damage("a segment before it is missing"));
        }
        if !adjacent || previous.is_none() {
            // The segment that said so may be among those that are gone: what was at or above the base was void by then.
            self.state.segments.iter().for_each(|earlier| earlier.truncate(header.base_index));
            self.state.restart_at(header.base_index);
        }
        self.sequence = header.first_sequence;
        self.previous_crc = header.previous_crc;
        self.state.committed_next = header.committed_next;
        if let Some(purged) = header.purged {
            self.state.purge(purged);
        }
        Ok(())
    }

    /// Takes a sealed, purged segment as its index file describes it.
    pub(super) fn believe(&mut self, segment: &Found, summary: Summary) {
        let Found { header, path, map, .. } = segment;
        self.truncate(summary.lowest_truncation);
        let next = summary.index.range().end;
        let segment =
            Segment::unverified(header.clone(), path.clone(), Arc::clone(map), summary.index);
        segment.lowest_truncation.store(summary.lowest_truncation, Ordering::Relaxed);
        self.state.segments.push(Arc::new(segment));
        self.state.restart_at(next);
        self.sequence = summary.next_sequence;
        self.previous_crc = summary.last_crc;
        self.at = u64::from(summary.end);
        self.sealed = true;
    }

    /// Reads every record of a segment.
    pub(super) fn scan(&mut self, found: &Found, last: bool) -> Result<(), ScanError> {
        let Found { header, path, map, file } = found;
        let index = OffsetIndex::new(self.state.next.max(header.base_index));
        let segment = Segment::new(header.clone(), path.clone(), Arc::clone(map), index);
        let segment = Arc::new(segment);
        self.state.segments.push(Arc::clone(&segment));
        let mut scan = Scan::new(&**map, header.seed(), self.sequence, self.previous_crc);
        let end = loop {
            // A fault planted to prove that the crash test finds it (design §12).
            let before = (scan.at, scan.sequence, scan.previous_crc);
            match scan.next() {
                Ok(record) => {
                    if cfg!(planted = "drop_last_batch") && last && scan.peek().is_none() {
                        (scan.at, scan.sequence, scan.previous_crc) = before;
                        break End::Invalid;
                    }
                    self.apply(&segment, &record).map_err(ScanError::Damage)?;
                }
                Err(end) => break end,
            }
        };
        (self.at, self.sequence, self.previous_crc) = (scan.at, scan.sequence, scan.previous_crc);
        self.scanned_bytes += scan.at;
        self.sealed = end == End::Sealed;
        let damage = |what| ScanError::Damage(segment.damage(scan.at, what));
        let expected = Expected {
            seed: header.seed(),
            sequence: scan.sequence,
            previous_crc: scan.previous_crc,
            recycled: header.recycled,
        };
        match end {
            End::Sealed => Ok(()),
            End::Wrong(what) => Err(damage(what)),
            End::Invalid if !last => Err(damage("an unreadable record in a sealed segment")),
            End::Invalid => match judge(&**map, scan.at, &expected) {
                Tail::Clean => Ok(()),
                _ if cfg!(planted = "drop_last_batch") => {
                    zero(&**file, scan.at, header.capacity).map_err(ScanError::Io)
                }
                Tail::Damage(what) => Err(damage(what)),
                Tail::Torn { end } => {
                    self.torn_bytes = end - scan.at;
                    zero(&**file, scan.at, end).map_err(ScanError::Io)
                }
            },
        }
    }

    fn apply(&mut self, segment: &Arc<Segment>, record: &Scanned) -> Result<(), Damage> {
        let header = &record.header;
        let damage = |what: &str| segment.damage(record.at, what);
        self.state.committed_next = header.committed_next;
        match header.kind {
            RecordKind::Entries => {
                let entries = record.entries().ok_or_else(|| damage("entries of a record"))?;
                if header.first != self.state.next {
                    return Err(damage("entries do not continue the log"));
                }
                let mut index = segment.index.write();
                if !index.range().is_empty() && index.range().end != header.first {
                    return Err(damage("entries behind a gap"));
                }
                for (entry, point) in entries {
                    index.push(point);
                    self.state.recovered(entry.id);
                }
            }
            RecordKind::TruncateAfter => {
                if header.first < self.state.first() {
                    return Err(damage("a truncation below the purge floor"));
                }
                self.truncate(header.first);
                segment.lowest_truncation.fetch_min(header.first, Ordering::Relaxed);
            }
            RecordKind::Committed => {
                let upto = purge_of(record).ok_or_else(|| damage("purge floor"))?;
                self.state.purge(upto);
            }
            RecordKind::Seal => {}
            RecordKind::Copies | RecordKind::Table => {
                return Err(damage("a record of a compacted segment"));
            }
        }
        Ok(())
    }

    /// Copies stand for all that segments said of their range. A segment that says something of it still was unlinked
    /// and came back with a crash; the one that made a part of it void may be gone for good.
    pub(super) fn stand_back(&mut self, compacted: &[Arc<Compacted>]) {
        for segment in &self.state.segments {
            let range = segment.range();
            let mut copies = compacted.iter().map(|copies| &copies.header);
            let over = copies.find(|c| c.first < range.end && range.start <= c.last);
            over.iter().for_each(|c| segment.truncate(c.first.max(range.start)));
        }
    }

    fn truncate(&mut self, from: u64) {
        self.state.segments.iter().for_each(|segment| segment.truncate(from));
        self.state.truncate(from);
    }
}

pub(super) fn zero(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let zeroes = vec![0; 64 * 1024];
    let mut at = from;
    while at < to {
        let n = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeroes.len());
        file.write_at(&[&zeroes[..n]], at)?;
        at += n as u64;
    }
    file.sync_data()
}
