//! Records: what one write puts into a segment.
//!
//! Header of 64 bytes, 8-aligned in the file: `magic "LGB" + kind u8 · total length u32 (multiple of 8) · crc u32 ·
//! header crc u32 · sequence u64 · first index u64 · last index u64 · previous crc u32 · count u32 · committed next u64
//! · reserved u64`. The header crc covers bytes 0..8 and 16..64, the crc bytes 12.. to the end; both start from the seed
//! of the segment's salt, so what an earlier life of the file left behind is never valid.
//!
//! Entry: `length u32 · kind u8 · flags u8 (1 = leader) · 0 u16 · term u64 · index u64 · [leader u64] · crc u32 (of the
//! payload) · payload`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::entry::{Entry, EntryKind, LogId};
use crate::format::{Put, u32_at, u64_at};
use crate::limits;

/// Bytes of a record header.
pub(crate) const RECORD_HEADER: usize = 64;
/// Bytes of an entry header without a leader.
pub(crate) const ENTRY_HEADER: usize = 28;
/// Bytes of an entry header with a leader.
pub(crate) const ENTRY_HEADER_LEADER: usize = 36;
const MAGIC: &[u8; 3] = b"LGB";
const FLAG_LEADER: u8 = 1;
/// Payloads from this size on are written from where they lie instead of being copied.
const COPY_MAX: usize = 8 * 1024;

/// Kind of a record; the values are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// Entries `first..=last`.
    Entries = 1,
    /// Entries from `first` on are void.
    TruncateAfter = 2,
    /// Body: the purge floor.
    Committed = 3,
    /// The segment ends here.
    Seal = 4,
    /// In a compacted segment: entries in ascending order, any of them missing.
    Copies = 5,
    /// In a compacted segment: where its records are, and what it replaces.
    Table = 6,
}

/// A decoded record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    /// Header, body and padding, bytes.
    pub(crate) total: u32,
    pub(crate) crc: u32,
    pub(crate) sequence: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) previous_crc: u32,
    pub(crate) count: u32,
    pub(crate) committed_next: u64,
}

impl RecordHeader {
    /// Decodes and checks a header; `None` if it is none. The length is trusted after this, the body is not.
    pub(crate) fn decode(bytes: &[u8; RECORD_HEADER], seed: u32) -> Option<Self> {
        if &bytes[..3] != MAGIC || u32_at(bytes, 12) != header_crc(bytes, seed) {
            return None;
        }
        let kind = match bytes[3] {
            1 => RecordKind::Entries,
            2 => RecordKind::TruncateAfter,
            3 => RecordKind::Committed,
            4 => RecordKind::Seal,
            5 => RecordKind::Copies,
            6 => RecordKind::Table,
            _ => return None,
        };
        let total = u32_at(bytes, 4);
        if (total as usize) < RECORD_HEADER
            || total as usize > limits::RECORD_MAX
            || !total.is_multiple_of(8)
        {
            return None;
        }
        Some(Self {
            kind,
            total,
            crc: u32_at(bytes, 8),
            sequence: u64_at(bytes, 16),
            first: u64_at(bytes, 24),
            last: u64_at(bytes, 32),
            previous_crc: u32_at(bytes, 40),
            count: u32_at(bytes, 44),
            committed_next: u64_at(bytes, 48),
        })
    }

    /// Whether a whole record (header, body, padding) is what was written.
    pub(crate) fn matches(&self, record: &[u8], seed: u32) -> bool {
        record.len() == self.total as usize && self.crc == record_crc(&record[12..], seed)
    }
}

fn header_crc(bytes: &[u8; RECORD_HEADER], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&bytes[..8]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

fn record_crc(rest: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(rest);
    hasher.finalize()
}

/// What the next record of a shard says about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordFields {
    pub(crate) kind: RecordKind,
    pub(crate) sequence: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) previous_crc: u32,
    pub(crate) count: u32,
    pub(crate) committed_next: u64,
}

/// A record ready to be written, in pieces.
pub(crate) struct Record {
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) total: u32,
    pub(crate) crc: u32,
}

/// Encodes a record around a body.
pub(crate) fn encode(fields: RecordFields, body: Vec<Bytes>, seed: u32) -> Record {
    let len: usize = body.iter().map(Bytes::len).sum();
    let padding = len.next_multiple_of(8) - len;
    let total = u32::try_from(RECORD_HEADER + len + padding).expect("bodies are bounded");
    assert!(total as usize <= limits::RECORD_MAX, "a record above its limit");
    let mut header = [0; RECORD_HEADER];
    let mut put = Put { bytes: &mut header, at: 0 };
    put.slice(MAGIC);
    put.slice(&[fields.kind as u8]);
    put.u32(total);
    put.u64(0);
    put.u64(fields.sequence);
    put.u64(fields.first);
    put.u64(fields.last);
    put.u32(fields.previous_crc);
    put.u32(fields.count);
    put.u64(fields.committed_next);
    let own = header_crc(&header, seed);
    header[12..16].copy_from_slice(&own.to_le_bytes());

    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&header[12..]);
    for piece in &body {
        hasher.update(piece);
    }
    hasher.update(&[0; 8][..padding]);
    let crc = hasher.finalize();
    header[8..12].copy_from_slice(&crc.to_le_bytes());

    let mut pieces = Vec::with_capacity(body.len() + 2);
    pieces.push(Bytes::copy_from_slice(&header));
    pieces.extend(body);
    if padding > 0 {
        pieces.push(Bytes::from_static(&[0; 8]).slice(..padding));
    }
    Record { pieces, total, crc }
}

/// The body of an `Entries` record, being gathered.
pub(crate) struct Body {
    pieces: Vec<Bytes>,
    open: BytesMut,
    len: usize,
}

impl Body {
    pub(crate) fn new() -> Self {
        Self { pieces: Vec::new(), open: BytesMut::new(), len: 0 }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, entry: &Entry) {
        let payload = &entry.payload;
        self.open.reserve(
            ENTRY_HEADER_LEADER + if payload.len() < COPY_MAX { payload.len() } else { 0 },
        );
        self.open
            .put_u32_le(u32::try_from(payload.len()).expect("append checked the payload's limit"));
        self.open.put_u8(entry.kind as u8);
        self.open.put_u8(if entry.leader_node.is_some() { FLAG_LEADER } else { 0 });
        self.open.put_u16_le(0);
        self.open.put_u64_le(entry.term);
        self.open.put_u64_le(entry.index);
        if let Some(leader) = entry.leader_node {
            self.open.put_u64_le(leader);
        }
        self.open.put_u32_le(crc32fast::hash(payload));
        if payload.len() < COPY_MAX {
            self.open.put_slice(payload);
        } else {
            self.pieces.push(self.open.split().freeze());
            self.pieces.push(payload.clone());
        }
        self.len += encoded_len(entry);
    }

    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.pieces.push(self.open.freeze());
        }
        self.pieces
    }
}

/// Bytes of an entry in a body.
pub(crate) fn encoded_len(entry: &Entry) -> usize {
    let header = if entry.leader_node.is_some() { ENTRY_HEADER_LEADER } else { ENTRY_HEADER };
    header + entry.payload.len()
}

/// A decoded entry header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub(crate) id: LogId,
    pub(crate) kind: EntryKind,
    /// Bytes of the header itself.
    pub(crate) size: usize,
    /// Bytes of the payload.
    pub(crate) len: usize,
    /// Checksum of the payload.
    pub(crate) crc: u32,
}

impl EntryHeader {
    /// Decodes from the front of `bytes`; `None` if it cannot be one. The payload is neither bounded by `bytes` nor checked.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < ENTRY_HEADER {
            return None;
        }
        let len = u32_at(bytes, 0) as usize;
        let kind = match bytes[4] {
            1 => EntryKind::Blank,
            2 => EntryKind::Normal,
            3 => EntryKind::Membership,
            _ => return None,
        };
        let flags = bytes[5];
        if len > limits::ENTRY_PAYLOAD_MAX || flags & !FLAG_LEADER != 0 || bytes[6..8] != [0, 0] {
            return None;
        }
        let has_leader = flags & FLAG_LEADER != 0;
        let size = if has_leader { ENTRY_HEADER_LEADER } else { ENTRY_HEADER };
        if bytes.len() < size {
            return None;
        }
        let leader_node = has_leader.then(|| u64_at(bytes, 24));
        let id = LogId { term: u64_at(bytes, 8), leader_node, index: u64_at(bytes, 16) };
        Some(Self { id, kind, size, len, crc: u32_at(bytes, size - 4) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &'static [u8], seed: u32) -> Vec<u8> {
        let mut body = Body::new();
        body.push(&Entry {
            index: 9,
            term: 2,
            leader_node: None,
            kind: EntryKind::Normal,
            payload: Bytes::from_static(payload),
        });
        let fields = RecordFields {
            kind: RecordKind::Entries,
            sequence: 4,
            first: 9,
            last: 9,
            previous_crc: 1,
            count: 1,
            committed_next: 8,
        };
        encode(fields, body.finish(), seed).pieces.concat()
    }

    fn valid(bytes: &[u8], seed: u32) -> bool {
        let mut header = [0; RECORD_HEADER];
        header.copy_from_slice(&bytes[..RECORD_HEADER]);
        RecordHeader::decode(&header, seed).is_some_and(|h| h.matches(bytes, seed))
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = record(b"seventeen letters", 77);
        assert_eq!(bytes.len() % 8, 0);
        assert!(valid(&bytes, 77));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!valid(&flipped, 77), "bit {bit}");
        }
    }

    #[test]
    fn a_record_of_another_salt_and_zeroes_are_not_valid() {
        assert!(!valid(&record(b"x", 77), 78));
        assert!(!valid(&[0; 96], 0));
    }

    #[test]
    fn entry_header_round_trip() {
        for leader_node in [None, Some(6)] {
            let mut body = Body::new();
            let entry = Entry {
                index: 3,
                term: 8,
                leader_node,
                kind: EntryKind::Membership,
                payload: Bytes::from(vec![5; 9000]),
            };
            body.push(&entry);
            let bytes = body.finish().concat();
            let header = EntryHeader::decode(&bytes).unwrap();
            assert_eq!((header.id, header.kind, header.len), (entry.log_id(), entry.kind, 9000));
            assert_eq!(bytes.len(), encoded_len(&entry));
            assert_eq!(crc32fast::hash(&bytes[header.size..]), header.crc);
        }
        assert_eq!(EntryHeader::decode(&[0; 64]), None);
    }
}
