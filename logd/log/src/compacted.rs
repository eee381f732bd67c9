//! A compacted segment: copies of what lives in segments that are mostly dead (S9; layout in `docs/formats/log.md`).
//!
//! It lies outside the chain of segments: all of it is below the purge floor, so Raft never reads it. It is written
//! whole under a name that recovery removes, synced, and renamed; from then on it stands for the segments it names, and
//! recovery removes those it finds beside it. Each record is checked when it is first read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::batch::{
    self, Body, EntryHeader, RECORD_HEADER, RecordFields, RecordHeader, RecordKind, encoded_len,
};
use crate::entry::Entry;
use crate::error::Damage;
use crate::format::{self, Put, SEGMENT_HEADER, VERSION, u32_at, u64_at};
use crate::io::{File, Io, Map};
use crate::limits::{COMPACTED_RECORDS_MAX, COPIES_TARGET, INDEX_MAX, RECORD_MAX, SEGMENT_MAX};
use crate::retention::Look;

const MAGIC: &[u8; 8] = b"LOGDCMP1";
/// Bytes written at once.
const WRITE_BYTES: usize = 256 * 1024;
const POINT: usize = 16;

/// Where a record of copies begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    /// Its first entry.
    index: u64,
    position: u32,
}

/// `magic 8 · version u16 · 0 u16 · polynomial u32 · shard u64 · node u64 · salt u64 · first index u64 · last index u64 ·
/// made µs u64 · length u64 · table position u32 · records u32 · replaced u32 · 0 … · crc u32 at 4092`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompactedHeader {
    pub(crate) shard: u64,
    pub(crate) node: u64,
    pub(crate) salt: u64,
    /// First and last entry that it was made of.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) created_us: u64,
    /// Length of the file, bytes.
    pub(crate) len: u64,
    table: u32,
    records: u32,
    replaced: u32,
}

impl CompactedHeader {
    fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.slice(MAGIC);
        put.u16(VERSION);
        put.u16(0);
        put.u32(format::POLYNOMIAL_IEEE);
        for n in [self.shard, self.node, self.salt, self.first, self.last, self.created_us] {
            put.u64(n);
        }
        put.u64(self.len);
        put.u32(self.table);
        put.u32(self.records);
        put.u32(self.replaced);
        let crc = crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]);
        bytes[SEGMENT_HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Option<Self> {
        let crc = crc32fast::hash(&bytes[..SEGMENT_HEADER - 4]);
        if &bytes[..8] != MAGIC
            || u32_at(bytes, SEGMENT_HEADER - 4) != crc
            || bytes[8..10] != VERSION.to_le_bytes()
            || u32_at(bytes, 12) != format::POLYNOMIAL_IEEE
        {
            return None;
        }
        let header = Self {
            shard: u64_at(bytes, 16),
            node: u64_at(bytes, 24),
            salt: u64_at(bytes, 32),
            first: u64_at(bytes, 40),
            last: u64_at(bytes, 48),
            created_us: u64_at(bytes, 56),
            len: u64_at(bytes, 64),
            table: u32_at(bytes, 72),
            records: u32_at(bytes, 76),
            replaced: u32_at(bytes, 80),
        };
        let bounded = header.first <= header.last
            && header.last <= INDEX_MAX
            && header.len <= SEGMENT_MAX + RECORD_MAX as u64
            && header.records as usize <= COMPACTED_RECORDS_MAX
            && header.replaced as usize <= COMPACTED_RECORDS_MAX;
        bounded.then_some(header)
    }
}

/// A compacted segment as readers see it.
pub(crate) struct Compacted {
    pub(crate) header: CompactedHeader,
    pub(crate) path: PathBuf,
    pub(crate) map: Arc<dyn Map>,
    points: Vec<Point>,
    /// Salts of the segments that it replaces.
    pub(crate) replaces: Vec<u64>,
    /// One bit per record whose checksum was seen to be right.
    verified: Vec<AtomicU64>,
    pub(crate) look: Look,
}

impl Compacted {
    /// Opens one; looks at its header and its table.
    pub(crate) fn open(io: &dyn Io, path: &Path, shard: u64) -> io::Result<Result<Self, Damage>> {
        let file = io.open(path)?;
        let mut bytes = [0; SEGMENT_HEADER];
        let read = file.read_at(&mut bytes, 0)?;
        let damage =
            |at: u64, what: &str| Damage { file: path.to_owned(), offset: at, what: what.into() };
        let header = CompactedHeader::decode(&bytes).filter(|_| read == bytes.len());
        let Some(header) = header else {
            return Ok(Err(damage(0, "header of a compacted segment")));
        };
        if header.shard != shard || header.len != file.len()? {
            return Ok(Err(damage(0, "a compacted segment of another shard or length")));
        }
        let map = file.map()?;
        let table = u64::from(header.table);
        let Some((points, replaces)) = read_table(&*map, &header) else {
            return Ok(Err(damage(table, "table of a compacted segment")));
        };
        let verified = (0..points.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let look = Look::default();
        Ok(Ok(Self { header, path: path.to_owned(), map, points, replaces, verified, look }))
    }

    /// One entry; `None` if it is not in here.
    pub(crate) fn entry(&self, index: u64) -> Result<Option<Entry>, Damage> {
        let after = self.points.partition_point(|point| point.index <= index);
        let Some(record) = after.checked_sub(1) else { return Ok(None) };
        let found = self.entries(record)?.into_iter().find(|entry| entry.index == index);
        Ok(found)
    }

    /// Records of copies.
    pub(crate) fn records(&self) -> usize {
        self.points.len()
    }

    /// The entries of one record.
    pub(crate) fn entries(&self, record: usize) -> Result<Vec<Entry>, Damage> {
        let Some(point) = self.points.get(record) else { return Ok(Vec::new()) };
        let at = u64::from(point.position);
        let damage = |what: &str| Damage { file: self.path.clone(), offset: at, what: what.into() };
        let word = &self.verified[record / 64];
        let known = word.load(Ordering::Relaxed) & 1 << (record % 64) != 0;
        let body = record_at(&*self.map, at, self.header.salt, RecordKind::Copies, known);
        let body = body.ok_or_else(|| damage("a record of copies"))?;
        word.fetch_or(1 << (record % 64), Ordering::Relaxed);
        decode_entries(&body).ok_or_else(|| damage("entries of a record of copies"))
    }

    /// Reads all of it.
    pub(crate) fn verify(&self) -> Result<(), Damage> {
        (0..self.records()).try_for_each(|record| self.entries(record).map(drop))
    }
}

/// The body of the record at a place, checked unless that was done before.
fn record_at(map: &dyn Map, at: u64, salt: u64, kind: RecordKind, known: bool) -> Option<Bytes> {
    let seed = format::seed(salt);
    let mut header = [0; RECORD_HEADER];
    if !map.read_at(&mut header, at) {
        return None;
    }
    let header = RecordHeader::decode(&header, seed).filter(|header| header.kind == kind)?;
    let record = map.slice(at, header.total as usize)?;
    let right = known || header.matches(&record, seed);
    right.then(|| record.slice(RECORD_HEADER..))
}

fn read_table(map: &dyn Map, header: &CompactedHeader) -> Option<(Vec<Point>, Vec<u64>)> {
    let body = record_at(map, header.table.into(), header.salt, RecordKind::Table, false)?;
    let (records, replaced) = (header.records as usize, header.replaced as usize);
    if body.len() < records * POINT + replaced * 8 {
        return None;
    }
    let point = |n: usize| Point {
        index: u64_at(&body, n * POINT),
        position: u32_at(&body, n * POINT + 8),
    };
    let points: Vec<Point> = (0..records).map(point).collect();
    let salts = (0..replaced).map(|n| u64_at(&body, records * POINT + n * 8)).collect();
    points.is_sorted_by_key(|point| point.index).then_some((points, salts))
}

fn decode_entries(body: &Bytes) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    // Only padding may be left.
    while body.len() - at >= batch::ENTRY_HEADER {
        let header = EntryHeader::decode(&body[at..])?;
        let start = at + header.size;
        at = start.checked_add(header.len).filter(|end| *end <= body.len())?;
        if entries.last().is_some_and(|before| before.index >= header.id.index) {
            return None;
        }
        entries.push(Entry {
            index: header.id.index,
            term: header.id.term,
            leader_node: header.id.leader_node,
            kind: header.kind,
            payload: body.slice(start..at),
        });
    }
    Some(entries)
}

/// Writes a compacted segment under a name that recovery removes.
pub(crate) struct CompactedWriter {
    file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    salt: u64,
    /// Where `pending` goes.
    at: u64,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    body: Body,
    body_first: Option<u64>,
    body_last: u64,
    body_count: u32,
    points: Vec<Point>,
    sequence: u64,
}

impl CompactedWriter {
    pub(crate) fn begin(io: &dyn Io, log_dir: &Path) -> io::Result<Self> {
        let path = log_dir.join(format!("{:016x}.new", io.random()));
        let file = io.create(&path)?;
        Ok(Self {
            file,
            path,
            salt: io.random().max(1),
            at: SEGMENT_HEADER as u64,
            pending: Vec::new(),
            pending_bytes: 0,
            body: Body::new(),
            body_first: None,
            body_last: 0,
            body_count: 0,
            points: Vec::new(),
            sequence: 1,
        })
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.at + self.pending_bytes as u64 + self.body.len() as u64
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty() && self.body_first.is_none()
    }

    /// Whether one more entry stays within the largest file.
    pub(crate) fn fits(&self, entry: &Entry) -> bool {
        self.points.len() < COMPACTED_RECORDS_MAX
            && self.bytes() + encoded_len(entry) as u64 + (RECORD_HEADER * 2) as u64 <= SEGMENT_MAX
    }

    /// Adds an entry; its index is above all before.
    pub(crate) fn push(&mut self, entry: &Entry) -> io::Result<()> {
        let whole = self.body.len() + encoded_len(entry) > COPIES_TARGET;
        if whole && self.body_first.is_some() {
            self.end_record()?;
        }
        self.body_first.get_or_insert(entry.index);
        self.body_last = entry.index;
        self.body_count += 1;
        self.body.push(entry);
        Ok(())
    }

    fn end_record(&mut self) -> io::Result<()> {
        let Some(first) = self.body_first.take() else { return Ok(()) };
        let position = self.position();
        self.points.push(Point { index: first, position });
        let body = std::mem::replace(&mut self.body, Body::new()).finish();
        let count = std::mem::take(&mut self.body_count);
        self.record(RecordKind::Copies, (first, self.body_last, count), body)
    }

    fn position(&self) -> u32 {
        u32::try_from(self.at + self.pending_bytes as u64).expect("segments are below 4 GiB")
    }

    fn record(
        &mut self,
        kind: RecordKind,
        (first, last, count): (u64, u64, u32),
        body: Vec<Bytes>,
    ) -> io::Result<()> {
        let sequence = self.sequence;
        self.sequence += 1;
        let fields =
            RecordFields { kind, sequence, first, last, previous_crc: 0, count, committed_next: 0 };
        let record = batch::encode(fields, body, format::seed(self.salt));
        self.pending_bytes += record.total as usize;
        self.pending.extend(record.pieces);
        if self.pending_bytes >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        let pieces: Vec<&[u8]> = self.pending.iter().map(|piece| &piece[..]).collect();
        self.file.write_at(&pieces, self.at)?;
        self.at += self.pending_bytes as u64;
        self.pending_bytes = 0;
        self.pending.clear();
        Ok(())
    }

    /// Completes it, synced; it has no name yet.
    pub(crate) fn finish(
        mut self,
        io: &dyn Io,
        (shard, node): (u64, u64),
        (first, last): (u64, u64),
        replaces: &[u64],
    ) -> io::Result<(PathBuf, PathBuf)> {
        self.end_record()?;
        let mut table = Vec::with_capacity(self.points.len() * POINT + replaces.len() * 8);
        for point in &self.points {
            table.extend_from_slice(&point.index.to_le_bytes());
            table.extend_from_slice(&point.position.to_le_bytes());
            table.extend_from_slice(&[0; 4]);
        }
        replaces.iter().for_each(|salt| table.extend_from_slice(&salt.to_le_bytes()));
        let position = self.position();
        self.record(RecordKind::Table, (first, last, 0), vec![table.into()])?;
        self.write()?;
        let count = |n: usize| u32::try_from(n).expect("bounded by the size of a segment");
        let header = CompactedHeader {
            shard,
            node,
            salt: self.salt,
            first,
            last,
            created_us: io.now_us(),
            len: self.at,
            table: position,
            records: count(self.points.len()),
            replaced: count(replaces.len()),
        };
        self.file.write_at(&[&header.encode()], 0)?;
        // A fault planted to prove that the crash test finds it (design §12).
        if !cfg!(planted = "swap_before_sync") {
            self.file.sync_data()?;
        }
        let name = format!("{first:020}-{:016x}.cmp", self.salt);
        let place = self.path.with_file_name(name);
        Ok((self.path, place))
    }
}
