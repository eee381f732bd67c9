//! Reads a segment record by record, and judges what stands where no valid record does (S4).

use std::ops::Range;

use bytes::Bytes;

use crate::batch::{EntryHeader, RECORD_HEADER, RecordHeader, RecordKind};
use crate::format::{SEGMENT_HEADER, u32_at, u64_at};
use crate::io::Map;
use crate::limits;
use crate::offset_index::Point;

/// Bytes searched at once.
const WINDOW: u64 = 1024 * 1024;

/// A valid record.
pub(crate) struct Scanned {
    pub(crate) header: RecordHeader,
    /// Header, body, padding.
    pub(crate) bytes: Bytes,
    /// Where it starts.
    pub(crate) at: u64,
}

/// Why a scan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// After a seal.
    Sealed,
    /// No valid record here: the end, a torn tail, or damage; see [`judge`].
    Invalid,
    /// A valid record that cannot be here.
    Wrong(&'static str),
}

/// Reads the records of one segment in order.
pub(crate) struct Scan<'a> {
    map: &'a dyn Map,
    seed: u32,
    pub(crate) at: u64,
    /// What the next record must carry.
    pub(crate) sequence: u64,
    pub(crate) previous_crc: u32,
    sealed: bool,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(map: &'a dyn Map, seed: u32, sequence: u64, previous_crc: u32) -> Self {
        Self { map, seed, at: SEGMENT_HEADER as u64, sequence, previous_crc, sealed: false }
    }

    pub(crate) fn next(&mut self) -> Result<Scanned, End> {
        if self.sealed {
            return Err(End::Sealed);
        }
        let header = header_at(self.map, self.at, self.seed).ok_or(End::Invalid)?;
        let bytes = self.map.slice(self.at, header.total as usize).ok_or(End::Invalid)?;
        if !header.matches(&bytes, self.seed) {
            return Err(End::Invalid);
        }
        if header.sequence != self.sequence {
            return Err(End::Wrong("record out of sequence"));
        }
        if header.previous_crc != self.previous_crc {
            return Err(End::Wrong("record does not follow the one before it"));
        }
        let at = self.at;
        let end = at + u64::from(header.total);
        if header.kind != RecordKind::Seal && end + RECORD_HEADER as u64 > self.map.size() {
            return Err(End::Wrong("no room is left for the seal"));
        }
        self.at = end;
        self.sequence += 1;
        self.previous_crc = header.crc;
        self.sealed = header.kind == RecordKind::Seal;
        Ok(Scanned { header, bytes, at })
    }
}

impl Scan<'_> {
    /// The header of what comes next, if it looks like a record.
    pub(crate) fn peek(&self) -> Option<RecordHeader> {
        header_at(self.map, self.at, self.seed)
    }
}

fn header_at(map: &dyn Map, at: u64, seed: u32) -> Option<RecordHeader> {
    let mut bytes = [0; RECORD_HEADER];
    map.read_at(&mut bytes, at).then(|| RecordHeader::decode(&bytes, seed)).flatten()
}

impl Scanned {
    /// Its entries; `None` if they are not what the header says.
    pub(crate) fn entries(&self) -> Option<Vec<(EntryHeader, Point)>> {
        let header = &self.header;
        let record = u32::try_from(self.at).ok()?;
        let count = header.last.checked_sub(header.first)?.checked_add(1)?;
        if count != u64::from(header.count) || header.last > limits::INDEX_MAX {
            return None;
        }
        let mut entries = Vec::with_capacity(header.count.min(header.total / 28) as usize);
        let mut at = RECORD_HEADER;
        for index in header.first..=header.last {
            let entry = EntryHeader::decode(self.bytes.get(at..)?)?;
            let point = Point { index, position: record + u32::try_from(at).ok()?, record };
            at = at.checked_add(entry.size + entry.len)?;
            if entry.id.index != index || at > self.bytes.len() {
                return None;
            }
            entries.push((entry, point));
        }
        // Only padding may be left.
        (self.bytes.len() - at < 8).then_some(entries)
    }
}

/// What stands from `from` to the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Zeroes.
    Clean,
    /// What is left of the one record that was being written; up to `end`.
    Torn { end: u64 },
    /// Something that was durable is damaged.
    Damage(&'static str),
}

/// What a tail is judged by.
pub(crate) struct Expected {
    pub(crate) seed: u32,
    pub(crate) sequence: u64,
    pub(crate) previous_crc: u32,
    /// What stands behind the end is an earlier life of the file, not zeroes.
    pub(crate) recycled: bool,
}

/// Judges a tail: it is torn only if no later record is in it and, in a file that was zero-filled, it is no longer than
/// one record (the write rule keeps at most one record unsynced).
pub(crate) fn judge(map: &dyn Map, from: u64, expected: &Expected) -> Tail {
    let header = header_at(map, from, expected.seed);
    let span = header.map_or(limits::RECORD_MAX as u64, |h| u64::from(h.total));
    let (end, tail) = if expected.recycled {
        let torn = match header {
            Some(_) => span.min(map.size() - from),
            None if looks_torn(map, from, expected) => RECORD_HEADER as u64,
            None => 0,
        };
        let tail = if torn > 0 { Tail::Torn { end: from + torn } } else { Tail::Clean };
        (map.size(), tail)
    } else {
        let end = match last_nonzero(map, from) {
            Err(()) => return Tail::Damage("the segment cannot be read"),
            Ok(None) => return Tail::Clean,
            Ok(Some(end)) => end,
        };
        if end - from > span {
            return Tail::Damage("more than one record is unreadable");
        }
        (end, Tail::Torn { end })
    };
    // A valid header suffices: a record behind this one is only written when this one was durable.
    if later_record(map, from..end, expected) {
        return Tail::Damage("an unreadable record with a valid one behind it");
    }
    tail
}

/// Whether some valid header of a later record begins in a range.
fn later_record(map: &dyn Map, range: Range<u64>, expected: &Expected) -> bool {
    let mut at = range.start;
    let mut window = Bytes::new();
    let mut window_start = at;
    while at < range.end {
        let offset = usize::try_from(at - window_start).unwrap_or(usize::MAX);
        let Some(magic) = window.get(offset..offset.saturating_add(3)) else {
            let len = usize::try_from(WINDOW.min(map.size() - at)).unwrap_or(0);
            match map.slice(at, len) {
                Some(bytes) if bytes.len() >= 3 => (window, window_start) = (bytes, at),
                _ => break,
            }
            continue;
        };
        let later = |header: RecordHeader| header.sequence > expected.sequence;
        if magic == b"LGB" && header_at(map, at, expected.seed).is_some_and(later) {
            return true;
        }
        at += 8;
    }
    false
}

/// Whether something like the header of the record that is due stands here: two of its three marks do. In a recycled
/// file there is no other sign that it was begun.
fn looks_torn(map: &dyn Map, at: u64, expected: &Expected) -> bool {
    let mut bytes = [0; RECORD_HEADER];
    if !map.read_at(&mut bytes, at) {
        return false;
    }
    let marks = [
        &bytes[..3] == b"LGB",
        u64_at(&bytes, 16) == expected.sequence,
        u32_at(&bytes, 40) == expected.previous_crc,
    ];
    marks.iter().filter(|mark| **mark).count() >= 2
}

/// End of the last byte that is not zero.
fn last_nonzero(map: &dyn Map, from: u64) -> Result<Option<u64>, ()> {
    let mut end = map.size();
    while end > from {
        let start = end.saturating_sub(WINDOW).max(from);
        let len = usize::try_from(end - start).map_err(|_| ())?;
        let bytes = map.slice(start, len).ok_or(())?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte != 0) {
            return Ok(Some(start + at as u64 + 1));
        }
        end = start;
    }
    Ok(None)
}
