//! Names and the segment header, version 1. Little-endian throughout; `docs/formats/log.md` is the reference.

use crate::entry::LogId;
use crate::limits;

/// Version of the data directory, of segments, votes and snapshots.
pub(crate) const VERSION: u16 = 1;
/// Bytes of a segment header; records start behind it.
pub(crate) const SEGMENT_HEADER: usize = 4096;
/// CRC-32 (IEEE 802.3), the only polynomial of version 1.
pub(crate) const POLYNOMIAL_IEEE: u32 = 1;
const MAGIC: &[u8; 8] = b"LOGDSEG1";
/// Flag of a segment whose file was one before.
const RECYCLED: u16 = 1;

/// The start of a segment file. It is synced before the file gets its name, and carries the floors as they were then,
/// so that an older segment can go without taking them along.
///
/// `magic 8 · version u16 · flags u16 · polynomial u32 · shard u64 · node u64 · salt u64 · base index u64 · base term u64
/// · created µs u64 · capacity u64 · previous salt u64 · first sequence u64 · previous crc u32 · 0 u32 · committed next
/// u64 · purged next u64 · purged term u64 · purged leader u64 · purged flags u64 · 0 … · crc u32 at 4092`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) shard: u64,
    pub(crate) node: u64,
    /// Random per incarnation of the file; seeds the checksums of its records.
    pub(crate) salt: u64,
    /// Index that comes next when the segment is begun.
    pub(crate) base_index: u64,
    /// Term of the entry before, 0 if none.
    pub(crate) base_term: u64,
    pub(crate) created_us: u64,
    /// Length of the file, bytes.
    pub(crate) capacity: u64,
    /// Salt of the segment before, 0 for the first.
    pub(crate) previous_salt: u64,
    /// Sequence of its first record.
    pub(crate) first_sequence: u64,
    /// Checksum of the record before it.
    pub(crate) previous_crc: u32,
    /// Committed index + 1.
    pub(crate) committed_next: u64,
    pub(crate) purged: Option<LogId>,
    /// The file was a segment before: behind the last record stands what it held then, not zeroes.
    pub(crate) recycled: bool,
}

/// Why a segment header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Invalid(&'static str),
    Newer(u16),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.slice(MAGIC);
        put.u16(VERSION);
        put.u16(if self.recycled { RECYCLED } else { 0 });
        put.u32(POLYNOMIAL_IEEE);
        put.u64(self.shard);
        put.u64(self.node);
        put.u64(self.salt);
        put.u64(self.base_index);
        put.u64(self.base_term);
        put.u64(self.created_us);
        put.u64(self.capacity);
        put.u64(self.previous_salt);
        put.u64(self.first_sequence);
        put.u32(self.previous_crc);
        put.u32(0);
        put.u64(self.committed_next);
        put.slice(&encode_floor(self.purged));
        let crc = crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]);
        bytes[SEGMENT_HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Result<Self, HeaderError> {
        if &bytes[..8] != MAGIC {
            return Err(HeaderError::Invalid("not a segment"));
        }
        if u32_at(bytes, SEGMENT_HEADER - 4) != crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]) {
            return Err(HeaderError::Invalid("segment header checksum"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        if u32_at(bytes, 12) != POLYNOMIAL_IEEE {
            return Err(HeaderError::Invalid("unknown checksum polynomial"));
        }
        let header = Self {
            shard: u64_at(bytes, 16),
            node: u64_at(bytes, 24),
            salt: u64_at(bytes, 32),
            base_index: u64_at(bytes, 40),
            base_term: u64_at(bytes, 48),
            created_us: u64_at(bytes, 56),
            capacity: u64_at(bytes, 64),
            previous_salt: u64_at(bytes, 72),
            first_sequence: u64_at(bytes, 80),
            previous_crc: u32_at(bytes, 88),
            committed_next: u64_at(bytes, 96),
            purged: decode_floor(&bytes[104..136]),
            recycled: u16::from_le_bytes([bytes[10], bytes[11]]) & RECYCLED != 0,
        };
        if header.salt == 0 || header.capacity < SEGMENT_HEADER as u64 {
            return Err(HeaderError::Invalid("segment header fields"));
        }
        if header.capacity > limits::SEGMENT_MAX {
            return Err(HeaderError::Invalid("segment too large"));
        }
        let floor = header.purged.map_or(0, |id| id.index);
        if header.base_index.max(floor) > limits::INDEX_MAX
            || header.first_sequence > limits::SEQUENCE_MAX
        {
            return Err(HeaderError::Invalid("segment header out of range"));
        }
        Ok(header)
    }

    /// What its records' checksums start from.
    pub(crate) fn seed(&self) -> u32 {
        seed(self.salt)
    }
}

/// Bytes of an encoded purge floor.
pub(crate) const FLOOR: usize = 32;

/// `next u64 (index + 1, 0 = none) · term u64 · leader u64 · flags u64 (1 = has a leader)`.
pub(crate) fn encode_floor(floor: Option<LogId>) -> [u8; FLOOR] {
    let mut bytes = [0; FLOOR];
    if let Some(id) = floor {
        bytes[..8].copy_from_slice(&(id.index + 1).to_le_bytes());
        bytes[8..16].copy_from_slice(&id.term.to_le_bytes());
        bytes[16..24].copy_from_slice(&id.leader_node.unwrap_or(0).to_le_bytes());
        bytes[24..].copy_from_slice(&u64::from(id.leader_node.is_some()).to_le_bytes());
    }
    bytes
}

/// The inverse; `bytes` has [`FLOOR`] bytes.
pub(crate) fn decode_floor(bytes: &[u8]) -> Option<LogId> {
    let next = u64_at(bytes, 0);
    let index = next.checked_sub(1)?;
    let leader_node = (u64_at(bytes, 24) & 1 == 1).then(|| u64_at(bytes, 16));
    Some(LogId { term: u64_at(bytes, 8), leader_node, index })
}

/// Seed of all checksums under a salt.
pub(crate) fn seed(salt: u64) -> u32 {
    crc32fast::hash(&salt.to_le_bytes())
}

/// Name of a segment file.
pub(crate) fn segment_name(base_index: u64, salt: u64) -> String {
    format!("{base_index:020}-{salt:016x}.seg")
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// Writes fields one after the other into a buffer that has room for them.
pub(crate) struct Put<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) at: usize,
}

impl Put<'_> {
    pub(crate) fn slice(&mut self, value: &[u8]) {
        self.bytes[self.at..self.at + value.len()].copy_from_slice(value);
        self.at += value.len();
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            shard: 3,
            node: 7,
            salt: 0xfeed,
            base_index: 42,
            base_term: 5,
            created_us: 1,
            capacity: 1 << 20,
            previous_salt: 9,
            first_sequence: 11,
            previous_crc: 0xabcd,
            committed_next: 40,
            purged: Some(LogId { term: 4, leader_node: Some(2), index: 30 }),
            recycled: true,
        }
    }

    #[test]
    fn header_round_trip() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn any_flipped_bit_of_the_header_is_refused() {
        let bytes = header().encode();
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(SegmentHeader::decode(&[0; SEGMENT_HEADER]).is_err());
    }
}
