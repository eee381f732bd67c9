//! The format on disk, version 1, as checked-in files: what is written today is what was written then, and what was
//! written then can be read today.
//!
//! A deliberate change of format makes a new directory beside this one; `LOGD_GOLDEN_WRITE=1` writes the files.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

#[path = "crash/reader.rs"]
mod reader;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use logd_log::io::{Crash, DiskIo, SimulatedIo};
use logd_log::{
    AbortOnFatal, Callback, Disk, DiskConfig, Entry, EntryKind, Log, LogId, OpenOptions, Priority,
    Vote,
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/log-v1")
}

fn config() -> DiskConfig {
    DiskConfig {
        segment_bytes_first: 16 * 1024,
        segment_bytes_max: 16 * 1024,
        low_water_bytes: Some(0),
        node_id: Some(1),
        cluster_id: Some(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        ..DiskConfig::default()
    }
}

fn done() -> Callback {
    Box::new(|result| result.unwrap())
}

fn entry(index: u64, term: u64) -> Entry {
    let kind = match index % 5 {
        0 => EntryKind::Blank,
        1 => EntryKind::Membership,
        _ => EntryKind::Normal,
    };
    let len = if kind == EntryKind::Blank { 0 } else { index * 37 % 900 };
    let payload: Vec<u8> =
        (0..len).map(|i| u8::try_from((i * 3 + index + term) % 256).unwrap()).collect();
    let leader_node = index.is_multiple_of(4).then_some(term + 100);
    Entry { index, term, leader_node, kind, payload: Bytes::from(payload) }
}

fn id(index: u64, term: u64) -> LogId {
    LogId { term, leader_node: entry(index, term).leader_node, index }
}

/// A short life that uses every kind of record and file.
fn live(disk: &Disk, log: &Log) {
    let append = |range: std::ops::Range<u64>, term| {
        log.append(range.map(|i| entry(i, term)).collect(), Priority::Normal, done()).unwrap();
        disk.run_round();
    };
    log.save_vote(Vote { term: 1, voted_for: Some(2), committed: false }, done());
    append(0..3, 1);
    log.save_vote(Vote { term: 1, voted_for: Some(2), committed: true }, done());
    for start in (3..48).step_by(3) {
        append(start..start + 3, 1);
    }
    log.save_committed(Some(30));
    log.save_vote(Vote { term: 2, voted_for: None, committed: false }, done());
    log.truncate_after(Some(40), done());
    append(41..60, 2);
    let mut writer =
        log.snapshots().begin(id(25, 1), Bytes::from_static(b"voters: 1 2 3")).unwrap();
    writer.write(b"the state, in chunks").unwrap();
    writer.write(b" of any size").unwrap();
    writer.commit().unwrap();
    log.purge(id(25, 1), done());
    append(60..62, 2);
}

fn write() -> Vec<(PathBuf, Vec<u8>)> {
    let io = SimulatedIo::new(1);
    let disk =
        Disk::manual(Arc::new(io.clone()), "/data", config(), Arc::new(AbortOnFatal)).unwrap();
    let (log, _) = disk.open_shard(3, OpenOptions::default()).unwrap();
    live(&disk, &log);
    let files = io.crash(Crash::Kept).files();
    let kept = |path: &Path| !path.ends_with("LOCK") && path.extension().is_none_or(|e| e != "new");
    let files = files.into_iter().filter(|(path, _)| kept(path));
    files.map(|(path, bytes)| (path.strip_prefix("/data").unwrap().to_owned(), bytes)).collect()
}

fn checked_in(dir: &Path, base: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            checked_in(&path, base, out);
        } else {
            out.push((path.strip_prefix(base).unwrap().to_owned(), fs::read(&path).unwrap()));
        }
    }
    out.sort();
}

fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    checked_in(&golden(), &golden(), &mut files);
    files
}

#[test]
fn what_is_written_is_what_was_written() {
    let written = write();
    if std::env::var_os("LOGD_GOLDEN_WRITE").is_some() {
        for (path, bytes) in &written {
            let path = golden().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    let golden = files();
    let names =
        |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&written), names(&golden));
    for ((path, new), (_, old)) in written.iter().zip(&golden) {
        let differs = new.iter().zip(old).position(|(a, b)| a != b);
        assert!(new == old, "{} differs from byte {differs:?}", path.display());
    }
}

fn expected() -> Vec<Entry> {
    (26..41).map(|i| entry(i, 1)).chain((41..62).map(|i| entry(i, 2))).collect()
}

#[test]
fn what_was_written_can_be_read() {
    let temporary = tempfile::tempdir().unwrap();
    for (path, bytes) in files() {
        let path = temporary.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let disk =
        Disk::manual(Arc::new(DiskIo), temporary.path(), config(), Arc::new(AbortOnFatal)).unwrap();
    let (log, recovered) = disk.open_shard(3, OpenOptions::default()).unwrap();
    assert_eq!((recovered.entries, recovered.torn_bytes), (36, 0));
    assert_eq!(log.read_entries(0..100, usize::MAX).unwrap(), expected());
    assert_eq!(log.read_vote(), Some(Vote { term: 2, voted_for: None, committed: false }));
    assert_eq!((log.purged(), log.last()), (Some(id(25, 1)), Some(entry(61, 2).log_id())));
    assert_eq!(log.committed().unwrap().map(|id| id.index), Some(30));
    assert_eq!(log.entry(7).unwrap(), Some(entry(7, 1).payload));
    let store = log.snapshots();
    let info = store.latest().unwrap().unwrap();
    assert_eq!((info.last, &info.meta[..]), (id(25, 1), &b"voters: 1 2 3"[..]));
    let block = store.read(info.last).unwrap().next_block().unwrap().unwrap();
    assert_eq!(&block[..], b"the state, in chunks of any size");
}

#[test]
fn the_independent_reader_agrees() {
    let files: Vec<_> = files().into_iter().map(|(p, b)| (Path::new("/").join(p), b)).collect();
    let view = reader::read(&files, Path::new("/shard-3")).unwrap();
    assert_eq!((view.vote, view.purged, view.next), (Some((2, None, false)), (26, 1), 62));
    assert_eq!(view.committed_next, 31);
    assert_eq!(view.snapshots.len(), 1);
    assert!(view.last_record.is_some());
    let above = view.entries.range(26..);
    for ((index, (term, payload)), entry) in above.zip(expected()) {
        assert_eq!((*index, *term, &payload[..]), (entry.index, entry.term, &entry.payload[..]));
    }
    assert_eq!(view.entries.len(), 62);
}
