//! The log over memory: entries of a hundred messages, appended in a round of their own, and read back.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use logd_log::io::MemoryIo;
use logd_log::{AbortOnFatal, Disk, DiskConfig, Entry, EntryKind, Log, OpenOptions, Priority};

use crate::PAYLOAD;

/// Messages in an entry.
const BATCH: usize = 100;
/// Entries before a log starts anew.
const ENTRIES: u64 = 500;

/// An empty log, its disk and the payload of every entry.
fn empty() -> (Disk, Log, Bytes) {
    let config = DiskConfig { commit_interval_us: 0, ..DiskConfig::default() };
    let io = Arc::new(MemoryIo::default());
    let disk = Disk::manual(io, "/log", config, Arc::new(AbortOnFatal)).expect("memory has room");
    let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("the directory is new");
    (disk, log, Bytes::from(PAYLOAD.repeat(BATCH)))
}

fn append_one((disk, log, payload): &(Disk, Log, Bytes)) {
    let index = log.last().map_or(0, |l| l.index + 1);
    let (payload, kind) = (payload.clone(), EntryKind::Normal);
    let entry = Entry { index, term: 1, leader_node: None, kind, payload };
    log.append(vec![entry], Priority::Normal, Box::new(|_| {})).expect("the queue is empty");
    assert!(disk.run_round());
}

pub(crate) fn append() -> Box<dyn FnMut()> {
    let mut under_way = empty();
    Box::new(move || {
        if under_way.1.last().is_some_and(|l| l.index == ENTRIES) {
            under_way = empty();
        }
        append_one(&under_way);
    })
}

pub(crate) fn read() -> Box<dyn FnMut()> {
    let filled = empty();
    (0..ENTRIES).for_each(|_| append_one(&filled));
    let mut at = 0;
    Box::new(move || {
        let read = filled.1.read_entries(black_box(at..at + 1), usize::MAX);
        assert_eq!(read.expect("it was appended").len(), 1);
        at = (at + 1) % ENTRIES;
    })
}
