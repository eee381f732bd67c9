//! Opening a shard: what is on disk becomes a log, or a reason why not (S4).
//!
//! Segments are chained by salt, sequence and checksum. All that Raft may still read is scanned; of sealed segments
//! below the purge floor the `.idx` file is believed, and payloads are checked when first read.

mod compacted;
mod rebuild;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::rebuild::{Found, Rebuild, ScanError, purge_of, zero};
use crate::batch::RECORD_HEADER;
use crate::commit::Engine;
use crate::config::OpenOptions;
use crate::entry::LogId;
use crate::error::{Damage, OpenError};
use crate::format::{self, HeaderError, SEGMENT_HEADER, SegmentHeader};
use crate::offset_index::Summary;
use crate::reserve::{self, Reserve};
use crate::scan::Scan;
use crate::shard::Shard;
use crate::snapshot;
use crate::vote::VoteFiles;
use crate::writer::{Refused, Writer, publish_segment};

/// What opening a shard found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Entries between the purge floor and the end.
    pub entries: u64,
    /// Bytes of a torn tail that were zeroed.
    pub torn_bytes: u64,
    /// Bytes from the first damage on that were given up because `accept_damage` was set.
    pub damaged_bytes: u64,
    /// Segments found.
    pub segments: u64,
    /// Bytes scanned.
    pub scanned_bytes: u64,
    /// The shard is new.
    pub created: bool,
}

/// Why an attempt to open failed.
enum Stop {
    Damage { segment: usize, damage: Damage },
    Error(OpenError),
}

/// Opens or makes the shard.
pub(crate) fn open(
    engine: &Engine,
    id: u64,
    options: OpenOptions,
) -> Result<(Shard, Recovered), OpenError> {
    let failed = |error| OpenError::Io { shard: id, error };
    let dir = engine.dir.join(format!("shard-{id}"));
    let log_dir = dir.join("log");
    let mut recovered = Recovered::default();
    let io = &*engine.io;
    for path in [&dir, &log_dir, &dir.join("snap")] {
        io.create_dir(path).map_err(failed)?;
    }
    remove_leftovers(engine, &log_dir).map_err(failed)?;
    snapshot::remove_unfinished(io, &dir.join("snap")).map_err(failed)?;
    let (compacted, given_up) = compacted::load(engine, id, &log_dir, options)?;
    recovered.damaged_bytes += given_up;
    if segment_paths(engine, &log_dir).map_err(failed)?.is_empty() {
        create(engine, id, &dir, options)?;
        recovered.created = true;
    }
    let (votes, vote) = VoteFiles::open(io, &dir, id).map_err(failed)??;
    // What a killed process wrote may be in the page cache only; nothing is built on it before it is on disk.
    votes.sync_both().map_err(failed)?;
    io.sync_dir(&log_dir).map_err(failed)?;
    let (found, mut rebuild) = loop {
        match attempt(engine, id, &log_dir) {
            Ok(done) => break done,
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Damage { segment, damage }) => {
                if !options.accept_damage {
                    return Err(damage.into());
                }
                let bytes = cut(engine, id, &log_dir, segment, damage.offset).map_err(failed)?;
                if bytes == 0 {
                    return Err(damage.into());
                }
                recovered.damaged_bytes += bytes;
                if segment_paths(engine, &log_dir).map_err(failed)?.is_empty() {
                    make_first_segment(engine, id, &log_dir)?;
                }
            }
        }
    };
    rebuild.state.vote = vote;
    rebuild.stand_back(&compacted);
    rebuild.state.compacted = compacted;
    recovered.entries = rebuild.state.next - rebuild.state.first();
    recovered.torn_bytes = rebuild.torn_bytes;
    recovered.scanned_bytes = rebuild.scanned_bytes;
    recovered.segments = found.len() as u64;
    let shard = assemble(id, dir, found, rebuild, votes)
        .ok_or_else(|| failed(io::Error::other("no segment to write to")))?;
    Ok((shard, recovered))
}

fn assemble(
    id: u64,
    dir: PathBuf,
    found: Vec<Found>,
    rebuild: Rebuild,
    votes: VoteFiles,
) -> Option<Shard> {
    let Rebuild { mut state, sequence, previous_crc, at, sealed, .. } = rebuild;
    let file = found.into_iter().next_back()?.file;
    let active = Arc::clone(state.segments.last()?);
    let left = active.header.capacity.saturating_sub(at + RECORD_HEADER as u64);
    state.active_left = if sealed { 0 } else { left };
    state.purged_durable = state.purged();
    let writer = Writer {
        active,
        file,
        at,
        sealed,
        sequence,
        previous_crc,
        purged: state.purged(),
        next: state.next,
        term: state.last().map_or(0, |id| id.term),
        votes,
        in_flight: Vec::new(),
    };
    let (state, writer) = (Mutex::new(state), Mutex::new(writer));
    Some(Shard { id, dir, state, writer, reserve: Reserve::default(), retention: Mutex::default() })
}

// === a new shard ===

/// Votes first, the first segment last: a directory with a segment in it is a complete shard.
fn create(engine: &Engine, id: u64, dir: &Path, options: OpenOptions) -> Result<(), OpenError> {
    let failed = |error| OpenError::Io { shard: id, error };
    if VoteFiles::ever_voted(&*engine.io, dir).map_err(failed)? && !options.accept_damage {
        let what = "the shard has voted but has no segment".into();
        return Err(Damage { file: dir.join("log"), offset: 0, what }.into());
    }
    VoteFiles::create(&*engine.io, dir, id).map_err(failed)?;
    engine.io.sync_dir(&engine.dir).map_err(failed)?;
    make_first_segment(engine, id, &dir.join("log"))
}

fn make_first_segment(engine: &Engine, id: u64, log_dir: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::Io { shard: id, error };
    let io = &*engine.io;
    let spare = reserve::make_spare(io, log_dir, engine.config.segment_bytes_first);
    let spare = spare.map_err(failed)?;
    let header = SegmentHeader {
        shard: id,
        node: engine.node.node,
        salt: io.random().max(1),
        base_index: 0,
        base_term: 0,
        created_us: io.now_us(),
        capacity: spare.capacity,
        previous_salt: 0,
        first_sequence: 1,
        previous_crc: 0,
        committed_next: 0,
        purged: None,
        recycled: spare.recycled,
    };
    publish_segment(engine, log_dir, spare, header).map(|_| ()).map_err(|refused| match refused {
        Refused::Fatal(error) => failed(io::Error::other(error.to_string())),
        Refused::NoSpace => failed(io::ErrorKind::StorageFull.into()),
    })
}

// === files ===

/// Files that a crash left half made.
fn remove_leftovers(engine: &Engine, log_dir: &Path) -> io::Result<()> {
    for entry in engine.io.list(log_dir)? {
        if entry.name.ends_with(".new") || entry.name.ends_with(".tmp") {
            engine.io.remove_file(&log_dir.join(entry.name))?;
        }
    }
    Ok(())
}

fn segment_paths(engine: &Engine, log_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let names = engine.io.list(log_dir)?;
    let segments = names.into_iter().filter(|entry| entry.name.ends_with(".seg"));
    Ok(segments.map(|entry| log_dir.join(entry.name)).collect())
}

/// All segments in the order of their records. The position in an error is that in the result, unreadable ones last.
fn find(engine: &Engine, id: u64, log_dir: &Path) -> Result<Vec<Found>, Stop> {
    let failed = |error| Stop::Error(OpenError::Io { shard: id, error });
    let mut found = Vec::new();
    let mut unreadable = None;
    for path in segment_paths(engine, log_dir).map_err(failed)? {
        let file = engine.io.open(&path).map_err(failed)?;
        let mut bytes = [0; SEGMENT_HEADER];
        let n = file.read_at(&mut bytes, 0).map_err(failed)?;
        let damage = |what: &str| Damage { file: path.clone(), offset: 0, what: what.into() };
        let header = match SegmentHeader::decode(&bytes) {
            Err(HeaderError::Newer(found)) => {
                let supported = format::VERSION;
                return Err(Stop::Error(OpenError::Newer { file: path, found, supported }));
            }
            Err(HeaderError::Invalid(what)) => Err(damage(what)),
            Ok(_) if n < SEGMENT_HEADER => Err(damage("shorter than its header")),
            Ok(header) if header.shard != id => Err(damage("segment of another shard")),
            Ok(header) if header.capacity != file.len().map_err(failed)? => {
                Err(damage("not as long as its header says"))
            }
            Ok(header) => Ok(header),
        };
        match header {
            Ok(header) => {
                let map = file.map().map_err(failed)?;
                found.push(Found { header, path, file, map });
            }
            Err(damage) => unreadable = Some(damage),
        }
    }
    found.sort_by_key(|segment| segment.header.first_sequence);
    match unreadable {
        Some(damage) => Err(Stop::Damage { segment: usize::MAX, damage }),
        None => Ok(found),
    }
}

/// Gives up what is at and behind the damage, because the operator said so: later segments are set aside as
/// `.damaged`, the rest of this one is zeroed. Returns the bytes given up.
fn cut(engine: &Engine, id: u64, log_dir: &Path, segment: usize, offset: u64) -> io::Result<u64> {
    let mut readable = Vec::new();
    let mut aside = Vec::new();
    for path in segment_paths(engine, log_dir)? {
        let file = engine.io.open(&path)?;
        let mut bytes = [0; SEGMENT_HEADER];
        file.read_at(&mut bytes, 0)?;
        let len = file.len()?;
        match SegmentHeader::decode(&bytes) {
            Ok(header) if header.capacity == len && header.shard == id => {
                readable.push((header, path, file))
            }
            _ => aside.push((path, len)),
        }
    }
    readable.sort_by_key(|(header, ..)| header.first_sequence);
    let keep = segment.saturating_add(usize::from(offset > 0)).min(readable.len());
    let mut given_up = 0;
    aside.extend(readable.drain(keep..).map(|(header, path, _)| (path, header.capacity)));
    for (path, len) in aside.into_iter().rev() {
        given_up += len;
        engine.io.rename(&path, &path.with_extension("damaged"))?;
    }
    engine.io.sync_dir(log_dir)?;
    if let Some((header, path, file)) = readable.last().filter(|_| offset > 0 && segment < keep) {
        let _ = engine.io.remove_file(&path.with_extension("idx"));
        given_up += header.capacity - offset;
        zero(&**file, offset, header.capacity)?;
    }
    Ok(given_up)
}

// === the log ===

fn attempt(engine: &Engine, id: u64, log_dir: &Path) -> Result<(Vec<Found>, Rebuild), Stop> {
    let found = find(engine, id, log_dir)?;
    let floor = found.last().and_then(floor_of);
    let floor_next = floor.map_or(0, |id| id.index + 1);
    let mut rebuild = Rebuild::default();
    for (i, segment) in found.iter().enumerate() {
        let stop = |damage| Stop::Damage { segment: i, damage };
        let previous = i.checked_sub(1).map(|before| &found[before]);
        rebuild.join(segment, previous, floor_next).map_err(stop)?;
        let last = i + 1 == found.len();
        let path = segment.path.with_extension("idx");
        let summary = (!last).then(|| Summary::read(&*engine.io, &path, segment.header.salt));
        match summary.flatten().filter(|summary| summary.index.range().end <= floor_next) {
            Some(summary) => rebuild.believe(segment, summary),
            None => rebuild.scan(segment, last).map_err(|stop_at| match stop_at {
                ScanError::Damage(damage) => stop(damage),
                ScanError::Io(error) => Stop::Error(OpenError::Io { shard: id, error }),
            })?,
        }
    }
    if let Some(last) = found.last() {
        let synced = last.file.sync_data();
        synced.map_err(|error| Stop::Error(OpenError::Io { shard: id, error }))?;
    }
    let next = rebuild.state.next.max(rebuild.state.first());
    if next > rebuild.state.next {
        rebuild.state.restart_at(next);
    }
    rebuild.state.committed_next = rebuild.state.committed_next.min(next);
    Ok((found, rebuild))
}

/// The purge floor as the newest segment knows it.
fn floor_of(newest: &Found) -> Option<LogId> {
    let header = &newest.header;
    let mut floor = header.purged;
    let mut scan =
        Scan::new(&*newest.map, header.seed(), header.first_sequence, header.previous_crc);
    while let Ok(record) = scan.next() {
        if let Some(purged) = purge_of(&record) {
            floor = floor.filter(|id| id.index > purged.index).or(Some(purged));
        }
    }
    floor
}
