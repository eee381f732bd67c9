//! One segment file as readers see it: its map, its sparse index, its header.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::batch::{
    ENTRY_HEADER, ENTRY_HEADER_LEADER, EntryHeader, RECORD_HEADER, RecordHeader, RecordKind,
};
use crate::entry::Entry;
use crate::error::Damage;
use crate::format::SegmentHeader;
use crate::io::Map;
use crate::offset_index::{OffsetIndex, Point};
use crate::retention::Look;

/// A segment, active or sealed. Only the I/O thread changes its index.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) map: Arc<dyn Map>,
    pub(crate) index: RwLock<OffsetIndex>,
    /// Lowest index that a truncation record in this segment made void; `u64::MAX` if there is none.
    pub(crate) lowest_truncation: AtomicU64,
    /// One bit per entry whose payload was checked in this process; `None`: all were, by writing or scanning them.
    verified: Option<Verified>,
    pub(crate) look: Look,
}

struct Verified {
    first: u64,
    bits: Vec<AtomicU64>,
}

/// Where an entry lies.
struct Place {
    header: EntryHeader,
    position: u64,
}

impl Segment {
    /// A segment whose bytes this process wrote or has scanned.
    pub(crate) fn new(
        header: SegmentHeader,
        path: PathBuf,
        map: Arc<dyn Map>,
        index: OffsetIndex,
    ) -> Self {
        Self {
            header,
            path,
            map,
            index: RwLock::new(index),
            lowest_truncation: AtomicU64::new(u64::MAX),
            verified: None,
            look: Look::default(),
        }
    }

    /// A segment known from its `.idx` file: each payload is checked when it is first read.
    pub(crate) fn unverified(
        header: SegmentHeader,
        path: PathBuf,
        map: Arc<dyn Map>,
        index: OffsetIndex,
    ) -> Self {
        let range = index.range();
        let words = usize::try_from((range.end - range.start).div_ceil(64)).unwrap_or(0);
        let bits = (0..words).map(|_| AtomicU64::new(0)).collect();
        let verified = Some(Verified { first: range.start, bits });
        Self { verified, ..Self::new(header, path, map, index) }
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.index.read().range()
    }

    pub(crate) fn truncate(&self, from: u64) {
        self.index.write().truncate(from);
    }

    /// One entry; `None` if it is not in this segment.
    pub(crate) fn entry(&self, index: u64) -> Result<Option<Entry>, Damage> {
        self.place(index)?.map(|place| self.read_entry(&place)).transpose()
    }

    fn place(&self, index: u64) -> Result<Option<Place>, Damage> {
        let points = self.index.read();
        let Some((point, next_point)) = points.locate(index) else {
            return Ok(None);
        };
        let mut walk = Walk::new(self, point, next_point);
        loop {
            let place = walk.step()?;
            if place.header.id.index == index {
                return Ok(Some(place));
            }
        }
    }

    /// Appends the entries of `range` to `out` until their bytes would exceed `budget`; false when they would.
    pub(crate) fn read(
        &self,
        range: Range<u64>,
        budget: &mut usize,
        out: &mut Vec<Entry>,
    ) -> Result<bool, Damage> {
        let points = self.index.read();
        let mut index = range.start;
        while index < range.end {
            let Some((point, next_point)) = points.locate(index) else {
                return Ok(true);
            };
            let mut walk = Walk::new(self, point, next_point);
            let end = range.end.min(next_point).min(points.range().end);
            while index < end {
                let place = walk.step()?;
                if place.header.id.index != index {
                    continue;
                }
                let bytes = place.header.size + place.header.len;
                if bytes > *budget && !out.is_empty() {
                    return Ok(false);
                }
                *budget = budget.saturating_sub(bytes);
                out.push(self.read_entry(&place)?);
                index += 1;
            }
        }
        Ok(true)
    }

    fn read_entry(&self, place: &Place) -> Result<Entry, Damage> {
        let id = place.header.id;
        Ok(Entry {
            index: id.index,
            term: id.term,
            leader_node: id.leader_node,
            kind: place.header.kind,
            payload: self.read_payload(place)?,
        })
    }

    fn read_payload(&self, place: &Place) -> Result<Bytes, Damage> {
        let at = place.position + place.header.size as u64;
        let Some(payload) = self.map.slice(at, place.header.len) else {
            return Err(self.damage(at, "the payload is unreadable"));
        };
        if let Some(verified) = &self.verified {
            let ordinal = place.header.id.index.saturating_sub(verified.first);
            let word = usize::try_from(ordinal / 64).ok().and_then(|i| verified.bits.get(i));
            let bit = 1 << (ordinal % 64);
            if word.is_none_or(|w| w.load(Ordering::Relaxed) & bit == 0) {
                if crc32fast::hash(&payload) != place.header.crc {
                    return Err(self.damage(at, "payload checksum"));
                }
                if let Some(word) = word {
                    word.fetch_or(bit, Ordering::Relaxed);
                }
            }
        }
        Ok(payload)
    }

    pub(crate) fn damage(&self, offset: u64, what: &str) -> Damage {
        Damage { file: self.path.clone(), offset, what: what.into() }
    }
}

/// Steps from entry to entry, across records, up to the next point.
struct Walk<'a> {
    segment: &'a Segment,
    seed: u32,
    position: u64,
    /// Index of the entry at `position`, unless a record header is due there.
    index: u64,
    limit: u64,
    record_end: u64,
    record_last: u64,
    in_record: bool,
    start: Point,
}

impl<'a> Walk<'a> {
    fn new(segment: &'a Segment, start: Point, limit: u64) -> Self {
        Self {
            segment,
            seed: segment.header.seed(),
            position: u64::from(start.record),
            index: start.index,
            limit,
            record_end: 0,
            record_last: 0,
            in_record: false,
            start,
        }
    }

    fn step(&mut self) -> Result<Place, Damage> {
        if self.index >= self.limit {
            return Err(self.segment.damage(self.position, "an index point out of order"));
        }
        while !self.in_record {
            self.enter_record()?;
        }
        let mut bytes = [0; ENTRY_HEADER_LEADER];
        let rest = self.record_end.saturating_sub(self.position);
        let n = usize::try_from(rest).unwrap_or(usize::MAX).min(bytes.len());
        if n < ENTRY_HEADER || !self.segment.map.read_at(&mut bytes[..n], self.position) {
            return Err(self.segment.damage(self.position, "an entry outside its record"));
        }
        let header = EntryHeader::decode(&bytes[..n])
            .filter(|h| h.id.index == self.index && (h.size + h.len) as u64 <= rest)
            .ok_or_else(|| self.segment.damage(self.position, "entry header"))?;
        let place = Place { header, position: self.position };
        self.position += (header.size + header.len) as u64;
        if self.index == self.record_last {
            self.position = self.record_end;
            self.in_record = false;
        }
        self.index += 1;
        Ok(place)
    }

    fn enter_record(&mut self) -> Result<(), Damage> {
        let mut bytes = [0; RECORD_HEADER];
        let header = self.segment.map.read_at(&mut bytes, self.position).then_some(bytes);
        let header = header.and_then(|bytes| RecordHeader::decode(&bytes, self.seed));
        let Some(header) = header else {
            return Err(self.segment.damage(self.position, "record header"));
        };
        let end = self.position + u64::from(header.total);
        if header.kind != RecordKind::Entries {
            self.position = end;
            return Ok(());
        }
        self.record_end = end;
        self.record_last = header.last;
        self.in_record = true;
        self.position = if u64::from(self.start.record) == self.position {
            u64::from(self.start.position)
        } else {
            self.position + RECORD_HEADER as u64
        };
        Ok(())
    }
}
