//! Opening, closing and reopening a log on memory: what is there afterwards, and what is refused.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use logd_log::io::{Io, MemoryIo};
use logd_log::{
    AppendError, Callback, Disk, DiskConfig, Entry, EntryKind, FatalError, Hooks, Log, LogId,
    OpenError, OpenOptions, Priority, Recovered, StartError, Vote, WriteError,
};

struct Quiet;

impl Hooks for Quiet {
    fn fatal(&self, error: &FatalError) {
        panic!("{error}");
    }
}

fn config() -> DiskConfig {
    DiskConfig {
        segment_bytes_first: 16 * 1024,
        segment_bytes_max: 64 * 1024,
        low_water_bytes: Some(0),
        node_id: Some(1),
        cluster_id: Some(7),
        ..DiskConfig::default()
    }
}

fn open(io: &MemoryIo) -> (Disk, Log, Recovered) {
    let disk = Disk::manual(Arc::new(io.clone()), "/data", config(), Arc::new(Quiet)).unwrap();
    let (log, recovered) = disk.open_shard(3, OpenOptions::default()).unwrap();
    (disk, log, recovered)
}

fn reopen(io: &MemoryIo, disk: Disk, log: Log) -> (Disk, Log, Recovered) {
    drop(log);
    drop(disk);
    open(io)
}

fn nothing() -> Callback {
    Box::new(|result| result.unwrap())
}

fn entry(index: u64, term: u64, len: usize) -> Entry {
    let payload = Bytes::from(vec![u8::try_from((index * 7 + term) % 251).unwrap(); len]);
    Entry { index, term, leader_node: None, kind: EntryKind::Normal, payload }
}

fn append(disk: &Disk, log: &Log, range: std::ops::Range<u64>, term: u64, len: usize) {
    for index in range {
        log.append(vec![entry(index, term, len)], Priority::Normal, nothing()).unwrap();
        disk.run_round();
    }
}

fn id(index: u64, term: u64) -> LogId {
    LogId { term, leader_node: None, index }
}

fn segment_files(io: &MemoryIo) -> Vec<String> {
    let names = io.list(Path::new("/data/shard-3/log")).unwrap();
    names.into_iter().map(|e| e.name).filter(|n| n.ends_with(".seg")).collect()
}

#[test]
fn entries_come_back_across_segments() {
    let io = MemoryIo::default();
    let (disk, log, recovered) = open(&io);
    assert!(recovered.created);
    append(&disk, &log, 0..100, 1, 1500);
    assert!(segment_files(&io).len() > 2);
    let (_disk, log, recovered) = reopen(&io, disk, log);
    assert_eq!((recovered.entries, recovered.torn_bytes, recovered.created), (100, 0, false));
    assert_eq!((log.first().unwrap(), log.last()), (Some(id(0, 1)), Some(id(99, 1))));
    let read = log.read_entries(0..200, usize::MAX).unwrap();
    assert_eq!(read, (0..100).map(|i| entry(i, 1, 1500)).collect::<Vec<_>>());
    let some = log.read_entries(10..90, 4000).unwrap();
    assert_eq!(some.iter().map(|e| e.index).collect::<Vec<_>>(), [10, 11]);
    assert_eq!(log.read_entries(10..90, 1).unwrap().len(), 1);
}

#[test]
fn an_append_is_readable_before_it_is_durable() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    let done = Arc::new(Mutex::new(Vec::new()));
    for index in 0..3 {
        let done = Arc::clone(&done);
        let callback: Callback = Box::new(move |_| done.lock().unwrap().push(index));
        log.append(vec![entry(index, 1, 10)], Priority::Normal, callback).unwrap();
    }
    assert_eq!(log.read_entries(0..9, usize::MAX).unwrap().len(), 3);
    assert!(done.lock().unwrap().is_empty());
    assert_eq!(log.entry(1).unwrap(), None, "not committed, so not for consumers");
    log.save_committed(Some(1));
    assert_eq!(log.entry(1).unwrap(), Some(entry(1, 1, 10).payload));
    assert_eq!(log.entry(2).unwrap(), None);
    assert!(disk.run_round());
    assert_eq!(*done.lock().unwrap(), [0, 1, 2]);
    assert_eq!(disk.stats().records, 1, "one record for what waited");
    assert!(!disk.run_round());
    assert_eq!(log.entry(1).unwrap(), Some(entry(1, 1, 10).payload));
}

#[test]
fn a_gap_is_refused_and_nothing_taken() {
    let io = MemoryIo::default();
    let (_disk, log, _) = open(&io);
    let gap = log.append(vec![entry(1, 1, 1)], Priority::Normal, nothing());
    assert_eq!(gap, Err(AppendError::Gap { expected: 0, got: 1 }));
    assert_eq!(log.last(), None);
}

#[test]
fn truncation_reaches_back_across_segments_and_holds() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..50, 1, 1500);
    let before = segment_files(&io).len();
    log.truncate_after(Some(9), nothing());
    log.append(vec![entry(10, 2, 33), entry(11, 2, 0)], Priority::Normal, nothing()).unwrap();
    assert_eq!(log.last(), Some(id(11, 2)));
    disk.run_round();
    let expected: Vec<Entry> =
        (0..10).map(|i| entry(i, 1, 1500)).chain([entry(10, 2, 33), entry(11, 2, 0)]).collect();
    assert_eq!(log.read_entries(0..99, usize::MAX).unwrap(), expected);
    assert_eq!(segment_files(&io).len(), before);
    let (disk, log, _) = reopen(&io, disk, log);
    assert_eq!(log.read_entries(0..99, usize::MAX).unwrap(), expected);
    append(&disk, &log, 12..60, 3, 900);
    let (_disk, log, _) = reopen(&io, disk, log);
    assert_eq!(log.read_entries(0..12, usize::MAX).unwrap(), expected);
    assert_eq!(log.log_id(12).unwrap(), Some(id(12, 3)));
    assert_eq!(log.last(), Some(id(59, 3)));
}

#[test]
fn what_was_queued_is_truncated_too() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    log.append((0..5).map(|i| entry(i, 1, 9)).collect(), Priority::Normal, nothing()).unwrap();
    log.truncate_after(Some(1), nothing());
    log.append(vec![entry(2, 2, 9)], Priority::Normal, nothing()).unwrap();
    log.truncate_after(None, nothing());
    log.append(vec![entry(0, 3, 9)], Priority::Normal, nothing()).unwrap();
    let expected = vec![entry(0, 3, 9)];
    assert_eq!(log.read_entries(0..9, usize::MAX).unwrap(), expected);
    disk.run_round();
    assert_eq!(log.read_entries(0..9, usize::MAX).unwrap(), expected);
    let (_disk, log, _) = reopen(&io, disk, log);
    assert_eq!(log.read_entries(0..9, usize::MAX).unwrap(), expected);
}

#[test]
fn purge_keeps_the_bytes_until_they_are_dead() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..60, 4, 1500);
    log.save_committed(Some(59));
    log.purge(id(40, 4), nothing());
    assert_eq!((log.purged(), log.first().unwrap()), (Some(id(40, 4)), Some(id(41, 4))));
    assert_eq!(log.reclaim(&|_| false).segments, 0, "the floor is not durable yet");
    disk.run_round();
    assert_eq!(log.entry(5).unwrap(), Some(entry(5, 4, 1500).payload), "still a message");
    let live = |range: std::ops::RangeInclusive<u64>| range.contains(&20);
    let files = segment_files(&io).len();
    let reclaimed = log.reclaim(&live);
    assert!(reclaimed.segments > 0 && !reclaimed.failed);
    assert_eq!(segment_files(&io).len() as u64, files as u64 - reclaimed.segments);
    assert_eq!(log.entry(5).unwrap(), None);
    assert_eq!(log.entry(20).unwrap(), Some(entry(20, 4, 1500).payload));
    append(&disk, &log, 60..61, 4, 10);
    let (_disk, log, recovered) = reopen(&io, disk, log);
    assert_eq!((log.purged(), log.last()), (Some(id(40, 4)), Some(id(60, 4))));
    assert_eq!(recovered.entries, 20);
    assert_eq!(log.committed().unwrap(), Some(id(59, 4)));
    assert_eq!(log.entry(20).unwrap(), Some(entry(20, 4, 1500).payload));
    assert_eq!(log.entry(5).unwrap(), None);
}

#[test]
fn a_purge_beyond_the_end_leaves_a_gap_that_holds() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..5, 1, 10);
    log.purge(id(99, 6), nothing());
    assert_eq!((log.last(), log.first().unwrap()), (Some(id(99, 6)), None));
    disk.run_round();
    let (disk, log, _) = reopen(&io, disk, log);
    assert_eq!((log.last(), log.purged()), (Some(id(99, 6)), Some(id(99, 6))));
    append(&disk, &log, 100..103, 6, 10);
    let (_disk, log, recovered) = reopen(&io, disk, log);
    assert_eq!((recovered.entries, log.last()), (3, Some(id(102, 6))));
    assert_eq!(log.read_entries(0..200, usize::MAX).unwrap().len(), 3);
}

#[test]
fn votes_alternate_and_come_back() {
    let io = MemoryIo::default();
    let (mut disk, mut log, _) = open(&io);
    assert_eq!(log.read_vote(), None);
    for term in 1..6 {
        let vote = Vote { term, voted_for: Some(term * 2), committed: term % 2 == 0 };
        log.save_vote(vote, nothing());
        disk.run_round();
        (disk, log, _) = reopen(&io, disk, log);
        assert_eq!(log.read_vote(), Some(vote));
    }
}

fn flip(io: &MemoryIo, path: &str, at: u64) {
    let file = io.open(Path::new(path)).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    file.write_at(&[&[byte[0] ^ 4]], at).unwrap();
}

fn refused(io: &MemoryIo) -> OpenError {
    let disk = Disk::manual(Arc::new(io.clone()), "/data", config(), Arc::new(Quiet)).unwrap();
    match disk.open_shard(3, OpenOptions::default()) {
        Ok((_, recovered)) => panic!("opened: {recovered:?}"),
        Err(error) => error,
    }
}

#[test]
fn an_unreadable_vote_slot_refuses_to_start() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    log.save_vote(Vote { term: 5, voted_for: Some(1), committed: false }, nothing());
    disk.run_round();
    drop((disk, log));
    flip(&io, "/data/shard-3/vote-0", 33);
    assert!(matches!(refused(&io), OpenError::Damaged(damage) if damage.file.ends_with("vote-0")));
}

#[test]
fn damage_before_the_last_record_stops_the_shard_and_a_flag_cuts_it() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..8, 1, 200);
    drop((disk, log));
    let path = format!("/data/shard-3/log/{}", segment_files(&io)[0]);
    let record = 64 + 28 + 200 + 4;
    flip(&io, &path, 4096 + 5 * record + 100);
    let OpenError::Damaged(damage) = refused(&io) else { panic!("not damage") };
    assert_eq!((damage.file.to_str(), damage.offset), (Some(&*path), 4096 + 5 * record));
    let disk = Disk::manual(Arc::new(io.clone()), "/data", config(), Arc::new(Quiet)).unwrap();
    let (log, recovered) = disk.open_shard(3, OpenOptions { accept_damage: true }).unwrap();
    assert!(recovered.damaged_bytes > 0);
    assert_eq!(log.last(), Some(id(4, 1)));
    append(&disk, &log, 5..9, 2, 10);
    let (_disk, log, recovered) = reopen(&io, disk, log);
    assert_eq!((recovered.damaged_bytes, log.last()), (0, Some(id(8, 2))));
}

#[test]
fn a_torn_last_record_is_cut_and_counted() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..8, 1, 200);
    drop((disk, log));
    let path = format!("/data/shard-3/log/{}", segment_files(&io)[0]);
    flip(&io, &path, 4096 + 7 * 296 + 100);
    let (disk, log, recovered) = open(&io);
    assert_eq!(log.last(), Some(id(6, 1)));
    assert!(recovered.torn_bytes > 200 && recovered.torn_bytes <= 296);
    append(&disk, &log, 7..9, 2, 10);
    let (_disk, log, recovered) = reopen(&io, disk, log);
    assert_eq!((recovered.torn_bytes, log.last()), (0, Some(id(8, 2))));
}

#[test]
fn a_missing_segment_stops_the_shard() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..60, 1, 1500);
    drop((disk, log));
    let files = segment_files(&io);
    io.remove_file(Path::new(&format!("/data/shard-3/log/{}", files[1]))).unwrap();
    assert!(matches!(refused(&io), OpenError::Damaged(_)));
}

#[test]
fn a_segment_of_another_shard_stops_the_shard_and_a_flag_sets_it_aside() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..30, 1, 1500);
    drop((disk, log));
    let dir = Path::new("/data/shard-3/log");
    let name = segment_files(&io).remove(1);
    let file = io.open(&dir.join(&name)).unwrap();
    let mut header = vec![0; 4096];
    file.read_at(&mut header, 0).unwrap();
    header[16] = 4;
    let crc = crc32fast::hash(&header[..4092]);
    header[4092..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&[&header], 0).unwrap();
    assert!(matches!(refused(&io), OpenError::Damaged(damage) if damage.file.ends_with(&name)));
    let disk = Disk::manual(Arc::new(io.clone()), "/data", config(), Arc::new(Quiet)).unwrap();
    let (log, recovered) = disk.open_shard(3, OpenOptions { accept_damage: true }).unwrap();
    assert!(recovered.damaged_bytes > 0 && recovered.entries > 0);
    assert!(log.last().is_some_and(|last| last.index < 29));
    let aside = io.list(dir).unwrap().into_iter().filter(|e| e.name.ends_with(".damaged"));
    assert!(aside.count() >= 1);
}

#[test]
fn bytes_of_an_earlier_life_of_a_file_never_come_back() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..8, 1, 200);
    drop((disk, log));
    // The same records under a header with another salt, as recycling would leave them.
    let dir = Path::new("/data/shard-3/log");
    let name = segment_files(&io).remove(0);
    let file = io.open(&dir.join(&name)).unwrap();
    let mut header = vec![0; 4096];
    file.read_at(&mut header, 0).unwrap();
    header[32] ^= 0xff;
    let crc = crc32fast::hash(&header[..4092]);
    header[4092..].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&[&header], 0).unwrap();
    let (_disk, log, recovered) = open(&io);
    assert_eq!((recovered.entries, log.last()), (0, None));
}

/// After a crash a removed segment may be gone and one removed before it be back. What it had truncated stays void.
#[test]
fn a_truncation_holds_when_its_segment_is_gone_before_what_it_voided() {
    let io = MemoryIo::default();
    let config = || DiskConfig { segment_bytes_max: 16 * 1024, ..config() };
    let start = || Disk::manual(Arc::new(io.clone()), "/data", config(), Arc::new(Quiet)).unwrap();
    let disk = start();
    let (log, _) = disk.open_shard(3, OpenOptions::default()).unwrap();
    append(&disk, &log, 0..30, 1, 1500);
    let before = segment_files(&io);
    let truncating = before.last().unwrap();
    log.truncate_after(Some(9), nothing());
    append(&disk, &log, 10..100, 2, 1500);
    log.save_committed(Some(99));
    log.purge(id(98, 2), nothing());
    disk.run_round();
    append(&disk, &log, 100..101, 2, 10);
    drop((disk, log));
    let dir = Path::new("/data/shard-3/log");
    io.remove_file(&dir.join(truncating)).unwrap();
    // What was truncated and then written into the removed segment is dead; from the next one on all is there.
    let bases = segment_files(&io).into_iter().filter(|name| !before.contains(name));
    let base = bases.map(|name| name[..20].parse::<u64>().unwrap()).min().unwrap();
    assert!((11..20).contains(&base));
    let (_disk, log, _) = open(&io);
    log.save_committed(Some(100));
    for index in (0..10).chain(base..100) {
        let term = if index < 10 { 1 } else { 2 };
        let payload = log.entry(index).unwrap();
        assert!(payload == Some(entry(index, term, 1500).payload), "{index}");
    }
}

#[test]
fn an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    append(&disk, &log, 0..2, 1, 100);
    append(&disk, &log, 2..3, 1, 16 * 1024 * 1024);
    append(&disk, &log, 3..5, 1, 100);
    let (_disk, log, _) = reopen(&io, disk, log);
    assert_eq!(log.read_entries(2..3, 1).unwrap(), vec![entry(2, 1, 16 * 1024 * 1024)]);
    assert_eq!(log.last(), Some(id(4, 1)));
    let over = entry(5, 1, logd_log::limits::ENTRY_PAYLOAD_MAX + 1);
    let refused = log.append(vec![over], Priority::Normal, nothing());
    assert!(matches!(refused, Err(AppendError::TooLarge(_))));
}

#[test]
fn a_directory_says_in_one_line_why_it_cannot_be_used() {
    let io = MemoryIo::default();
    let start =
        |config| Disk::manual(Arc::new(io.clone()), "/data", config, Arc::new(Quiet)).map(|_| ());
    let (disk, log, _) = open(&io);
    assert!(matches!(start(config()), Err(StartError::Locked { .. })));
    drop((disk, log));
    assert!(start(config()).is_ok());
    let other = start(DiskConfig { node_id: Some(2), ..config() });
    assert!(matches!(other, Err(StartError::OtherNode { what: "node", .. })));
    let path = Path::new("/data/node/NODE");
    let mut bytes = vec![0; 64];
    io.open(path).unwrap().read_at(&mut bytes, 0).unwrap();
    bytes[8] = 9;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    io.open(path).unwrap().write_at(&[&bytes], 0).unwrap();
    let newer = start(config()).unwrap_err();
    assert_eq!(
        newer.to_string(),
        "data directory /data has format 9, this program reads up to 1; use a newer version"
    );
    io.create_dir(Path::new("/home")).unwrap();
    io.create(Path::new("/home/diary")).unwrap();
    let foreign = Disk::manual(Arc::new(io.clone()), "/home", config(), Arc::new(Quiet));
    assert!(matches!(foreign.map(|_| ()), Err(StartError::Foreign { .. })));
}

#[test]
fn a_closed_disk_refuses() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    let result = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&result);
    log.append(
        vec![entry(0, 1, 1)],
        Priority::Normal,
        Box::new(move |r| *slot.lock().unwrap() = Some(r)),
    )
    .unwrap();
    disk.close();
    assert_eq!(*result.lock().unwrap(), Some(Err(WriteError::Closed)));
    let refused = log.append(vec![entry(1, 1, 1)], Priority::Normal, nothing());
    assert_eq!(refused, Err(AppendError::Failed(WriteError::Closed)));
}

#[test]
fn snapshots_survive_and_are_checked() {
    let io = MemoryIo::default();
    let (disk, log, _) = open(&io);
    let store = log.snapshots();
    assert_eq!(store.latest().unwrap(), None);
    let state: Vec<u8> = (0..2_500_000_u32).map(|i| u8::try_from(i % 253).unwrap()).collect();
    for (index, term) in [(5, 1), (9, 2)] {
        let mut writer = store.begin(id(index, term), Bytes::from_static(b"members")).unwrap();
        state.chunks(300_000).for_each(|chunk| writer.write(chunk).unwrap());
        writer.commit().unwrap();
    }
    drop(store.begin(id(11, 2), Bytes::new()).unwrap());
    let (_disk, log, _) = reopen(&io, disk, log);
    let store = log.snapshots();
    let info = store.latest().unwrap().unwrap();
    assert_eq!(
        (info.last, info.state_bytes, &info.meta[..]),
        (id(9, 2), 2_500_000, &b"members"[..])
    );
    let mut reader = store.read(id(9, 2)).unwrap();
    let mut read = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        read.extend_from_slice(&block);
    }
    assert!(read == state);
    assert_eq!(store.delete_older(id(9, 2)).unwrap(), 1);
    assert!(store.read(id(5, 1)).is_err());
    let name = io.list(Path::new("/data/shard-3/snap")).unwrap().remove(0).name;
    flip(&io, &format!("/data/shard-3/snap/{name}/state"), 2_000_000);
    let mut reader = store.read(id(9, 2)).unwrap();
    assert!(reader.block(0).is_ok());
    assert!(reader.block(1).is_err());
}
