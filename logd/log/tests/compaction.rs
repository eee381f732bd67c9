//! Compaction on the real file system and on memory: what stays, what goes, and when (S9).

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use logd_log::io::{DiskIo, Io, MemoryIo, SimulatedIo};
use logd_log::{
    AbortOnFatal, CompactError, CompactedRun, Disk, DiskConfig, Entry, EntryKind, Keep, Liveness,
    Log, LogId, OpenOptions, Priority,
};

const SEGMENT: u64 = 64 * 1024;

fn config() -> DiskConfig {
    DiskConfig {
        segment_bytes_first: SEGMENT,
        segment_bytes_max: SEGMENT,
        low_water_bytes: Some(0),
        ..DiskConfig::default()
    }
}

fn open(io: Arc<dyn Io>, dir: &Path) -> (Disk, Log) {
    let disk = Disk::manual(io, dir, config(), Arc::new(AbortOnFatal)).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    (disk, log)
}

fn payload(index: u64, len: usize) -> Bytes {
    vec![u8::try_from(index % 251).unwrap(); len].into()
}

/// Appends, commits and purges all but the last two entries of `count` more.
fn flow(disk: &Disk, log: &Log, count: u64, len: usize) {
    for _ in 0..count {
        let index = log.last().map_or(0, |id| id.index + 1);
        let payload = payload(index, len);
        let entry = Entry { index, term: 1, leader_node: None, kind: EntryKind::Normal, payload };
        log.append(vec![entry], Priority::Normal, Box::new(|r| r.unwrap())).unwrap();
        disk.run_round();
    }
    let index = log.last().unwrap().index;
    log.save_committed(Some(index));
    let upto = LogId { term: 1, leader_node: None, index: index - 2 };
    log.purge(upto, Box::new(|r| r.unwrap()));
    disk.run_round();
}

/// Live entries, each all of a payload or the first bytes of it.
#[derive(Clone, Default)]
struct Live {
    entries: BTreeSet<u64>,
    keeps: Option<usize>,
}

impl Liveness for Live {
    fn references(&self, entries: RangeInclusive<u64>) -> u64 {
        self.entries.range(entries).count() as u64
    }

    fn live(&self, entries: RangeInclusive<u64>) -> Vec<(u64, u64)> {
        self.entries.range(entries).map(|index| (*index, 1)).collect()
    }

    fn parts(&self, payload: &[u8]) -> u64 {
        self.keeps.map_or(1, |keeps| (payload.len() / keeps) as u64)
    }
}

impl Keep for Live {
    fn wanted(&mut self, entries: RangeInclusive<u64>) -> Vec<u64> {
        self.entries.range(entries).copied().collect()
    }

    fn keep(&mut self, _: u64, payload: &Bytes) -> Bytes {
        payload.slice(..self.keeps.unwrap_or(payload.len()).min(payload.len()))
    }
}

/// What the daemon does after a snapshot.
fn pass(log: &Log, live: &Live) -> Vec<CompactedRun> {
    log.reclaim(&|entries| live.references(entries) > 0);
    let runs = log.sparse(live).unwrap();
    runs.into_iter().map(|run| log.compact(run, &mut live.clone(), None).unwrap()).collect()
}

fn names(dir: &Path, extension: &str) -> usize {
    let files = std::fs::read_dir(dir.join("shard-0/log")).unwrap();
    files.filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == extension)).count()
}

#[test]
fn one_forgotten_message_pins_itself_and_nothing_more() {
    let (disk, log) = open(Arc::new(MemoryIo::new(1 << 30)), Path::new("/data"));
    let live = Live { entries: BTreeSet::from([7]), keeps: None };
    for _ in 0..60 {
        flow(&disk, &log, 20, 4096);
        pass(&log, &live);
        let size = log.size();
        assert!(size.bytes <= 4 * SEGMENT + 2 * 4096, "{size:?}");
        assert_eq!(log.entry(7).unwrap().unwrap(), payload(7, 4096));
        assert_eq!(log.entry(8).unwrap(), None, "the dead are gone");
    }
    assert_eq!(log.committed_entry(7).unwrap().map(|e| e.term), Some(1));
    log.reclaim(&|_| false);
    assert!(log.size().bytes <= 3 * SEGMENT, "nothing is left behind");
    assert_eq!(log.entry(7).unwrap(), None);
}

/// One of eight entries stays alive for ever: what lies on disk is at most twice that, and nothing is copied much more
/// often than it doubles.
#[test]
fn what_is_live_is_copied_a_few_times_only() {
    let (disk, log) = open(Arc::new(MemoryIo::new(1 << 30)), Path::new("/data"));
    let mut live = Live::default();
    let (mut copied, mut kept) = (0, 0);
    for _ in 0..400 {
        let from = log.last().map_or(0, |id| id.index + 1);
        flow(&disk, &log, 16, 3000);
        let new = (from..from + 16).filter(|index| index % 8 == 0);
        new.for_each(|index| {
            live.entries.insert(index);
            kept += 3000;
        });
        copied += pass(&log, &live).iter().map(|run| run.bytes_after).sum::<u64>();
        let bytes = log.size().bytes;
        assert!(bytes <= 4 * SEGMENT + 2 * kept, "{bytes} on disk, {kept} live");
    }
    for index in &live.entries {
        assert_eq!(log.entry(*index).unwrap().unwrap(), payload(*index, 3000), "{index}");
    }
    assert!(copied < 6 * kept, "{copied} copied for {kept}");
}

#[test]
fn parts_of_entries_that_died_are_left_out() {
    let io = Arc::new(MemoryIo::new(1 << 30));
    let (disk, log) = open(io.clone(), Path::new("/data"));
    flow(&disk, &log, 100, 3000);
    let live = Live { entries: (0..100).collect(), keeps: Some(100) };
    let runs = pass(&log, &live);
    assert!(runs.iter().map(|run| run.segments).sum::<u64>() >= 4, "{runs:?}");
    assert_eq!(log.entry(3).unwrap().unwrap(), payload(3, 100));
    assert_eq!(log.entry(99).unwrap().unwrap(), payload(99, 3000), "not yet purged");
    drop((log, disk));
    let (_disk, log) = open(io, Path::new("/data"));
    log.save_committed(Some(99));
    assert_eq!(log.entry(3).unwrap().unwrap(), payload(3, 100));
    assert!(log.sparse(&live).unwrap().is_empty(), "there is nothing more to gain");
}

#[test]
fn a_segment_that_somebody_reads_goes_when_the_slice_does() {
    let temporary = tempfile::tempdir().unwrap();
    let (disk, log) = open(Arc::new(DiskIo), temporary.path());
    flow(&disk, &log, 100, 3000);
    let mut live = Live { entries: BTreeSet::from([5, 30, 31]), keeps: None };
    log.reclaim(&|entries| live.references(entries) > 0);
    let slice = log.entry(5).unwrap().unwrap();
    let runs = log.sparse(&live).unwrap();
    assert!(runs.iter().all(|run| run.ranges().all(|range| !range.contains(&5))), "it is in use");
    drop(slice);
    let mut runs = log.sparse(&live).unwrap();
    let run = runs.remove(0);
    assert!(run.ranges().any(|range| range.contains(&5)));
    // Somebody begins to read when it is chosen already.
    let slice = log.entry(5).unwrap().unwrap();
    let before = names(temporary.path(), "seg");
    let done = log.compact(run, &mut live, None).unwrap();
    assert_eq!((done.pinned_segments, names(temporary.path(), "cmp")), (1, 1));
    let left = before - usize::try_from(done.segments).unwrap() + 1;
    assert_eq!(names(temporary.path(), "seg"), left, "all but the one that is read are gone");
    assert_eq!(slice, payload(5, 3000));
    assert_eq!(log.entry(5).unwrap().unwrap(), slice, "now from the copy");
    let whole = log.size().bytes;
    drop(slice);
    assert_eq!(log.reclaim(&|entries| live.references(entries) > 0).segments, 1);
    assert_eq!((names(temporary.path(), "seg"), log.size().bytes), (left - 1, whole - SEGMENT));
    let slice = log.entry(30).unwrap().unwrap();
    live.entries.clear();
    assert_eq!(log.reclaim(&|_| false).pinned_segments, 1, "a copy is read as well");
    drop((log, disk));
    let (_disk, log) = open(Arc::new(DiskIo), temporary.path());
    log.save_committed(Some(99));
    assert_eq!((slice, log.entry(30).unwrap().unwrap()), (payload(30, 3000), payload(30, 3000)));
}

/// A segment that nobody needs becomes the next one; not while somebody reads it.
#[test]
fn what_is_read_is_not_written_over() {
    let temporary = tempfile::tempdir().unwrap();
    let (disk, log) = open(Arc::new(DiskIo), temporary.path());
    let mut slices = Vec::new();
    let mut recycled = 0;
    for round in 0..30 {
        // A little less than a segment: the next one is not always ready when one comes free.
        let first = log.last().map_or(0, |id| id.index + 1);
        flow(&disk, &log, 9, 3000);
        slices.push((first, log.entry(first).unwrap().unwrap()));
        if round % 3 == 2 {
            slices.remove(0);
            slices.remove(0);
        }
        let done = log.reclaim(&|_| false);
        recycled += done.recycled;
        for (index, slice) in &slices {
            assert_eq!(*slice, payload(*index, 3000), "{index} in round {round}");
        }
    }
    assert!(recycled > 3, "{recycled} segments were used again");
    let last = log.last().unwrap().index;
    drop((log, disk));
    let (_disk, log) = open(Arc::new(DiskIo), temporary.path());
    assert_eq!(log.last().unwrap().index, last, "old records are not taken for new ones");
}

#[test]
fn without_room_for_the_copy_nothing_changes() {
    let io = Arc::new(SimulatedIo::new(3));
    let (disk, log) = open(io.clone(), Path::new("/data"));
    flow(&disk, &log, 100, 3000);
    let mut live = Live { entries: (0..100).step_by(4).collect(), keeps: None };
    let before = log.size();
    for room in [0, 5_000, 30_000] {
        let run = log.sparse(&live).unwrap().remove(0);
        io.set_capacity(io.used() + room);
        assert_eq!(log.compact(run, &mut live, None), Err(CompactError::Full));
        assert_eq!(log.size(), before);
    }
    io.set_capacity(1 << 30);
    let run = log.sparse(&live).unwrap().remove(0);
    assert!(log.compact(run, &mut live, None).unwrap().segments > 0);
    assert_eq!(log.entry(4).unwrap().unwrap(), payload(4, 3000));
}
