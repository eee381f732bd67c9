//! The sparse index of a segment: a point every 16 KiB of file, in memory; in an `.idx` file once the segment is sealed.
//!
//! The file is derived from the segment and may be deleted. Pages of 4,096 bytes, each ending in a crc32 (seeded by the
//! segment's salt) of the 4,092 before it; zeroes are never valid. Content: `magic "LOGDIDX1" · version u16 · 0 u16 ·
//! points u32 · salt u64 · first u64 · next u64 · records' next sequence u64 · last crc u32 · 0 u32 · lowest truncation u64 ·
//! end u32 · 0 u32`, then per point `index u64 · position u32 · record u32`.

use std::io;
use std::ops::Range;
use std::path::Path;

use crate::crashsafe;
use crate::format::{Put, VERSION, seed, u32_at, u64_at};
use crate::io::Io;
use crate::limits::{INDEX_MAX, INDEX_SPACING, SEGMENT_MAX, SEQUENCE_MAX};

const MAGIC: &[u8; 8] = b"LOGDIDX1";
const PAGE: usize = 4096;
const PAGE_BODY: usize = PAGE - 4;
const HEAD: usize = 72;
const POINT: usize = 16;
/// Points of the largest segment, with room for one per truncation.
const POINTS_MAX: usize = 1 << 20;
/// Entries of the largest segment.
const ENTRIES_MAX: u64 = SEGMENT_MAX / crate::batch::ENTRY_HEADER as u64;

/// Where an entry starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) index: u64,
    /// Its entry header, in the file.
    pub(crate) position: u32,
    /// The header of its record.
    pub(crate) record: u32,
}

/// Which entries of a segment count, and where some of them are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OffsetIndex {
    points: Vec<Point>,
    first: u64,
    next: u64,
    /// Something was truncated: what comes next needs a point of its own, since void entries lie in between.
    broken: bool,
}

impl OffsetIndex {
    /// An index without entries that expects `first` next.
    pub(crate) fn new(first: u64) -> Self {
        Self { points: Vec::new(), first, next: first, broken: false }
    }

    /// First entry, and the one after the last.
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.next
    }

    /// Adds the entry that comes next, or any one to an empty index.
    pub(crate) fn push(&mut self, point: Point) {
        if self.first == self.next {
            self.first = point.index;
            self.points.clear();
        } else {
            debug_assert_eq!(point.index, self.next, "entries of a segment are contiguous");
        }
        self.next = point.index + 1;
        let far = |last: &Point| point.position - last.position >= INDEX_SPACING;
        if self.broken || self.points.last().is_none_or(far) {
            self.points.push(point);
            self.broken = false;
        }
    }

    /// Drops the entries from `from` on.
    pub(crate) fn truncate(&mut self, from: u64) {
        if from >= self.next {
            return;
        }
        self.broken = true;
        self.points.retain(|point| point.index < from);
        self.first = self.first.min(from);
        self.next = from;
    }

    /// The first entry, of those up to and with `index`, from which on they take no more than `bytes`; and how many bytes are
    /// left when that is the first of the segment. Exact to the distance of points.
    pub(crate) fn within(&self, index: u64, bytes: u64) -> (u64, Option<u64>) {
        let after = self.points.partition_point(|point| point.index <= index);
        let Some(newest) = after.checked_sub(1).map(|at| self.points[at]) else {
            return (self.first, Some(bytes));
        };
        let behind = |point: &Point| u64::from(newest.position - point.position);
        let far = self.points[..after].partition_point(|point| behind(point) > bytes);
        match far {
            0 => (self.first, Some(bytes - behind(&self.points[0]))),
            _ => (self.points[far].index, None),
        }
    }

    /// The point at or before an entry, and the index at which the point after it starts.
    pub(crate) fn locate(&self, index: u64) -> Option<(Point, u64)> {
        if !self.range().contains(&index) {
            return None;
        }
        let after = self.points.partition_point(|point| point.index <= index);
        let point = *self.points.get(after.checked_sub(1)?)?;
        Some((point, self.points.get(after).map_or(u64::MAX, |next| next.index)))
    }
}

/// All that recovery wants to know of a sealed segment without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) index: OffsetIndex,
    /// Sequence of the record after its last.
    pub(crate) next_sequence: u64,
    /// Checksum of its last record.
    pub(crate) last_crc: u32,
    /// Lowest index that a truncation in it made void; `u64::MAX` if there is none.
    pub(crate) lowest_truncation: u64,
    /// End of its last record, bytes.
    pub(crate) end: u32,
}

impl Summary {
    pub(crate) fn encode(&self, salt: u64) -> Vec<u8> {
        let points = &self.index.points;
        let mut content = vec![0; HEAD + points.len() * POINT];
        let mut put = Put { bytes: &mut content, at: 0 };
        put.slice(MAGIC);
        put.u16(VERSION);
        put.u16(0);
        put.u32(u32::try_from(points.len()).expect("one point per 16 KiB of a segment"));
        put.u64(salt);
        put.u64(self.index.first);
        put.u64(self.index.next);
        put.u64(self.next_sequence);
        put.u32(self.last_crc);
        put.u32(0);
        put.u64(self.lowest_truncation);
        put.u32(self.end);
        put.u32(0);
        for point in points {
            put.u64(point.index);
            put.u32(point.position);
            put.u32(point.record);
        }
        let mut pages = Vec::with_capacity(content.len().div_ceil(PAGE_BODY) * PAGE);
        for chunk in content.chunks(PAGE_BODY) {
            let start = pages.len();
            pages.extend_from_slice(chunk);
            pages.resize(start + PAGE_BODY, 0);
            pages.extend_from_slice(&page_crc(&pages[start..], salt).to_le_bytes());
        }
        pages
    }

    /// `None` if it is not the index of this segment, whole.
    pub(crate) fn decode(pages: &[u8], salt: u64) -> Option<Self> {
        if pages.is_empty() || !pages.len().is_multiple_of(PAGE) {
            return None;
        }
        let mut content = Vec::with_capacity(pages.len());
        for page in pages.chunks(PAGE) {
            if u32_at(page, PAGE_BODY) != page_crc(&page[..PAGE_BODY], salt) {
                return None;
            }
            content.extend_from_slice(&page[..PAGE_BODY]);
        }
        let count = u32_at(&content, 12) as usize;
        let whole = count <= POINTS_MAX && HEAD + count * POINT <= content.len();
        if &content[..8] != MAGIC || content[8..10] != VERSION.to_le_bytes() || !whole {
            return None;
        }
        let points: Vec<Point> = content[HEAD..HEAD + count * POINT]
            .chunks(POINT)
            .map(|p| Point { index: u64_at(p, 0), position: u32_at(p, 8), record: u32_at(p, 12) })
            .collect();
        let (first, next) = (u64_at(&content, 24), u64_at(&content, 32));
        let bounded = first <= next && next <= INDEX_MAX + 1 && next - first <= ENTRIES_MAX;
        let next_sequence = u64_at(&content, 40);
        if u64_at(&content, 16) != salt || !bounded || next_sequence > SEQUENCE_MAX {
            return None;
        }
        Some(Self {
            index: OffsetIndex { points, first, next, broken: true },
            next_sequence,
            last_crc: u32_at(&content, 48),
            lowest_truncation: u64_at(&content, 56),
            end: u32_at(&content, 64),
        })
    }

    /// Writes the `.idx` beside its segment.
    pub(crate) fn write(&self, io: &dyn Io, path: &Path, salt: u64) -> io::Result<()> {
        crashsafe::write_file(io, path, &self.encode(salt))
    }

    /// Reads it; `None` if it is not there or not good.
    pub(crate) fn read(io: &dyn Io, path: &Path, salt: u64) -> Option<Self> {
        let bytes = crashsafe::read_file(io, path, POINTS_MAX * POINT * 2).ok()??;
        Self::decode(&bytes, salt)
    }
}

fn page_crc(body: &[u8], salt: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed(salt));
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(entries: u64) -> OffsetIndex {
        let mut index = OffsetIndex::new(10);
        for i in 0..entries {
            let position = 4096 + u32::try_from(i).unwrap() * 100;
            index.push(Point { index: 10 + i, position, record: position - 64 });
        }
        index
    }

    #[test]
    fn locates_the_point_before() {
        let index = filled(1000);
        assert_eq!(index.range(), 10..1010);
        let (point, next) = index.locate(400).unwrap();
        assert!(point.index <= 400 && next > 400);
        assert_eq!((index.locate(9), index.locate(1010)), (None, None));
    }

    #[test]
    fn bytes_behind_an_entry() {
        // An entry every 100 bytes, a point every 164.
        let index = filled(1000);
        assert_eq!(index.within(1009, 1 << 20), (10, Some((1 << 20) - 984 * 100)));
        assert_eq!(index.within(500, 0), (338, None));
        assert_eq!(index.within(500, 16_400), (174, None));
        assert_eq!(index.within(500, 16_399), (338, None));
        assert_eq!(index.within(9, 50), (10, Some(50)));
    }

    #[test]
    fn after_a_truncation_the_next_entry_has_its_own_point() {
        let mut index = filled(20);
        index.truncate(15);
        assert_eq!(index.range(), 10..15);
        let point = Point { index: 15, position: 9000, record: 8936 };
        index.push(point);
        assert_eq!(index.locate(15), Some((point, u64::MAX)));
        assert_eq!(index.locate(14).map(|(_, next)| next), Some(15));
        index.truncate(3);
        assert!(index.range().is_empty());
        index.push(Point { index: 3, ..point });
        assert_eq!(index.range(), 3..4);
    }

    #[test]
    fn summary_round_trip_and_no_flip_passes() {
        let index = OffsetIndex { broken: true, ..filled(3000) };
        let summary =
            Summary { index, next_sequence: 8, last_crc: 7, lowest_truncation: u64::MAX, end: 99 };
        let bytes = summary.encode(5);
        assert_eq!(Summary::decode(&bytes, 5).as_ref(), Some(&summary));
        assert_eq!(Summary::decode(&bytes, 6), None);
        assert_eq!(Summary::decode(&vec![0; PAGE], 5), None);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            assert_eq!(Summary::decode(&flipped, 5), None, "byte {at}");
        }
    }
}
