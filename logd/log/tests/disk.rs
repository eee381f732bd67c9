//! The I/O thread on the real file system: rounds, callbacks, slices and segments that go.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};

use bytes::Bytes;
use logd_log::io::{DiskIo, Fault, Io, MemoryIo, SimulatedIo};
use logd_log::{
    AbortOnFatal, AppendError, Callback, Completion, Disk, DiskConfig, Entry, EntryKind,
    FatalError, Hooks, Log, LogId, OpenOptions, Priority, SnapshotError, Vote, WriteError,
};

fn entry(index: u64, len: usize) -> Entry {
    let payload = Bytes::from(vec![u8::try_from(index % 256).unwrap(); len]);
    Entry { index, term: 1, leader_node: None, kind: EntryKind::Normal, payload }
}

/// A callback and what waits for it.
fn waiter() -> (Callback, impl FnOnce() -> Result<(), WriteError>) {
    let (tell, told) = mpsc::channel();
    // Nobody has to wait.
    (Box::new(move |result| drop(tell.send(result))), move || told.recv().unwrap())
}

fn append(log: &Log, range: Range<u64>, len: usize) {
    let (done, wait) = waiter();
    log.append(range.map(|i| entry(i, len)).collect(), Priority::Normal, done).unwrap();
    wait().unwrap();
}

fn small() -> DiskConfig {
    DiskConfig {
        segment_bytes_first: 64 * 1024,
        segment_bytes_max: 64 * 1024,
        low_water_bytes: Some(0),
        ..DiskConfig::default()
    }
}

#[test]
fn threads_share_rounds_and_everything_is_there_afterwards() {
    let temporary = tempfile::tempdir().unwrap();
    let start = || Disk::start(Arc::new(DiskIo), temporary.path(), small(), Arc::new(AbortOnFatal));
    let disk = start().unwrap();
    let logs: Vec<Log> =
        (0..3).map(|shard| disk.open_shard(shard, OpenOptions::default()).unwrap().0).collect();
    std::thread::scope(|scope| {
        for log in &logs {
            scope.spawn(|| (0..300).step_by(3).for_each(|i| append(log, i..i + 3, 400)));
        }
    });
    let stats = disk.stats();
    assert_eq!((stats.entries, stats.payload_bytes), (900, 360_000));
    let node = disk.node_id();
    drop((logs, disk));
    let disk = start().unwrap();
    assert_eq!((disk.node_id(), disk.shards().unwrap()), (node, vec![0, 1, 2]));
    for shard in 0..3 {
        let (log, recovered) = disk.open_shard(shard, OpenOptions::default()).unwrap();
        assert_eq!((recovered.entries, recovered.torn_bytes), (300, 0));
        let read = log.read_entries(0..300, usize::MAX).unwrap();
        assert_eq!(read, (0..300).map(|i| entry(i, 400)).collect::<Vec<_>>());
    }
}

/// Readers on other threads see every entry below the committed index, whole, while it moves from the batch buffer into
/// its segment and segments are rolled under them.
#[test]
fn readers_never_see_a_half_written_log() {
    let temporary = tempfile::tempdir().unwrap();
    let disk =
        Disk::start(Arc::new(DiskIo), temporary.path(), small(), Arc::new(AbortOnFatal)).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let committed = AtomicU64::new(0);
    /// Lets the readers go when the writer is done, or dead.
    struct Stop<'a>(&'a AtomicU64);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(1, Ordering::Release);
        }
    }
    let stop = AtomicU64::new(0);
    const LAST: u64 = 2_000;
    std::thread::scope(|scope| {
        for offset in [0, 1, 7] {
            let (log, committed, stop) = (&log, &committed, &stop);
            scope.spawn(move || {
                loop {
                    let upto = committed.load(Ordering::Acquire);
                    for index in [upto, upto.saturating_sub(offset), upto / 2, offset] {
                        if index < upto {
                            let payload = log.entry(index).unwrap().expect("it is committed");
                            assert_eq!(payload, entry(index, 300).payload);
                        }
                    }
                    let read = log.read_entries(upto.saturating_sub(20)..upto, usize::MAX).unwrap();
                    let first = upto.saturating_sub(20);
                    assert_eq!(read.len() as u64, upto - first);
                    read.iter().zip(first..).for_each(|(e, i)| assert_eq!(*e, entry(i, 300)));
                    if stop.load(Ordering::Acquire) == 1 {
                        return;
                    }
                }
            });
        }
        let _stop = Stop(&stop);
        for index in 0..LAST {
            let (done, wait) = waiter();
            log.append(vec![entry(index, 300)], Priority::Normal, done).unwrap();
            log.save_committed(Some(index));
            committed.store(index + 1, Ordering::Release);
            if index % 8 == 0 {
                wait().unwrap();
            }
        }
    });
    assert!(log.size().segments > 5);
}

#[test]
fn a_slice_outlives_its_log_and_pins_its_segment() {
    let temporary = tempfile::tempdir().unwrap();
    let disk =
        Disk::start(Arc::new(DiskIo), temporary.path(), small(), Arc::new(AbortOnFatal)).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    (0..300).for_each(|i| append(&log, i..i + 1, 1000));
    log.save_committed(Some(299));
    let (done, wait) = waiter();
    log.purge(LogId { term: 1, leader_node: None, index: 290 }, done);
    wait().unwrap();
    let slice = log.entry(1).unwrap().unwrap();
    let reclaimed = log.reclaim(&|_| false);
    assert_eq!(reclaimed.pinned_segments, 1);
    assert!(reclaimed.segments >= 2 && !reclaimed.failed);
    drop(slice);
    let reclaimed = log.reclaim(&|_| false);
    assert_eq!((reclaimed.segments, reclaimed.pinned_segments), (1, 0));
    let slice = log.entry(295).unwrap().unwrap();
    drop((log, disk));
    drop(temporary);
    assert_eq!(slice, entry(295, 1000).payload);
}

#[test]
fn a_first_start_is_small() {
    let temporary = tempfile::tempdir().unwrap();
    let config = DiskConfig::default();
    let disk =
        Disk::start(Arc::new(DiskIo), temporary.path(), config, Arc::new(AbortOnFatal)).unwrap();
    let mut bytes = 0;
    for shard in 0..5 {
        let (log, _) = disk.open_shard(shard, OpenOptions::default()).unwrap();
        bytes += log.size().bytes;
    }
    assert_eq!(bytes, 5 * 1024 * 1024);
}

/// Records what it is told; batchers that join a round are tested with it.
#[derive(Default)]
struct Recorder {
    rounds: AtomicU64,
    batches: std::sync::Mutex<Vec<usize>>,
    fatal: AtomicU64,
}

impl Hooks for Recorder {
    fn round_started(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    fn completed(&self, completions: Vec<Completion>) {
        self.batches.lock().unwrap().push(completions.len());
        completions.into_iter().for_each(Completion::run);
    }

    fn fatal(&self, _: &FatalError) {
        self.fatal.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_round_serves_all_shards_with_one_record_each() {
    let hooks = Arc::new(Recorder::default());
    let io = Arc::new(MemoryIo::default());
    let disk = Disk::manual(io, "/data", small(), Arc::clone(&hooks) as Arc<dyn Hooks>).unwrap();
    let logs: Vec<Log> =
        (0..4).map(|shard| disk.open_shard(shard, OpenOptions::default()).unwrap().0).collect();
    for log in &logs {
        for i in 0..10 {
            log.append(vec![entry(i, 50)], Priority::Normal, Box::new(|r| r.unwrap())).unwrap();
        }
    }
    assert!(disk.run_round());
    assert_eq!(*hooks.batches.lock().unwrap(), [40]);
    let stats = disk.stats();
    assert_eq!((stats.rounds, stats.records, stats.syncs, stats.entries), (1, 4, 4, 40));
}

#[test]
fn a_vote_is_written_before_what_follows_it() {
    let io = Arc::new(SimulatedIo::new(1));
    let hooks = Arc::new(Recorder::default());
    let disk = Disk::manual(Arc::clone(&io) as Arc<dyn Io>, "/data", small(), hooks).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |what| -> Callback {
        let order = Arc::clone(&order);
        Box::new(move |result: Result<(), WriteError>| {
            order.lock().unwrap().push((what, result.is_ok()))
        })
    };
    log.append(vec![entry(0, 5)], Priority::Normal, note("before")).unwrap();
    log.save_vote(Vote { term: 2, voted_for: Some(1), committed: false }, note("vote"));
    log.append(vec![entry(1, 5)], Priority::Normal, note("after")).unwrap();
    log.flush(note("flush"));
    io.fail(Path::new("/data/shard-0/vote-0"), Fault::Sync).unwrap();
    disk.run_round();
    let expected = [("before", true), ("vote", false), ("after", false), ("flush", false)];
    assert_eq!(*order.lock().unwrap(), expected);
    let refused = log.append(vec![entry(2, 5)], Priority::Normal, note("never"));
    assert_eq!(refused, Err(AppendError::Failed(WriteError::DiskFailed)));
}

#[test]
fn a_full_disk_takes_settlements_for_a_while_and_producers_again_later() {
    let io = Arc::new(SimulatedIo::new(1));
    let hooks = Arc::new(Recorder::default());
    let config = DiskConfig { low_water_bytes: Some(50_000), ..small() };
    let disk = Disk::manual(
        Arc::clone(&io) as Arc<dyn Io>,
        "/data",
        config,
        Arc::clone(&hooks) as Arc<dyn Hooks>,
    )
    .unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    io.set_capacity(300_000);
    let mut index = 0;
    let mut put = |priority| {
        let result = log.append(vec![entry(index, 1000)], priority, Box::new(|r| r.unwrap()));
        index += u64::from(result.is_ok());
        disk.run_round();
        result
    };
    assert!(!log.space().full);
    while put(Priority::Normal).is_ok() {}
    assert!(log.space().full);
    assert!(matches!(log.admit(1000, Priority::Normal), Err(AppendError::Full { .. })));
    let settlements = (0..1000).take_while(|_| put(Priority::Freeing).is_ok()).count();
    assert!((20..200).contains(&settlements), "{settlements}");
    assert_eq!(hooks.fatal.load(Ordering::Relaxed), 0);
    log.save_committed(log.last().map(|l| l.index));
    let upto = log.last().unwrap();
    log.purge(upto, Box::new(|r| r.unwrap()));
    disk.run_round();
    assert!(log.reclaim(&|_| false).segments > 0);
    assert!(!log.space().full);
    assert!(put(Priority::Normal).is_ok());
}

/// Somebody else takes the room between the promise and the round: what was taken waits, alone, and is written when there
/// is room again; a purge that frees some does not wait behind it.
#[test]
fn what_finds_no_room_for_its_segment_waits_for_it() {
    let io = Arc::new(SimulatedIo::new(1));
    let hooks = Arc::new(Recorder::default());
    let config =
        DiskConfig { segment_bytes_first: 16 * 1024, segment_bytes_max: 16 * 1024, ..small() };
    let disk = Disk::manual(
        Arc::clone(&io) as Arc<dyn Io>,
        "/data",
        config,
        Arc::clone(&hooks) as Arc<dyn Hooks>,
    )
    .unwrap();
    let (one, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let (two, _) = disk.open_shard(1, OpenOptions::default()).unwrap();
    for index in 0..30 {
        one.append(vec![entry(index, 1000)], Priority::Normal, Box::new(|r| r.unwrap())).unwrap();
        disk.run_round();
    }
    let done = Arc::new(AtomicU64::new(0));
    let count = || -> Callback {
        let done = Arc::clone(&done);
        Box::new(move |result| {
            result.unwrap();
            done.fetch_add(1, Ordering::Relaxed);
        })
    };
    one.append(vec![entry(30, 100_000)], Priority::Normal, count()).unwrap();
    io.set_capacity(io.used());
    disk.run_round();
    for priority in [Priority::Normal, Priority::Freeing] {
        let refused = one.append(vec![entry(31, 1)], priority, Box::new(|_| ()));
        assert!(matches!(refused, Err(AppendError::Full { .. })), "{refused:?}");
        assert!(matches!(one.admit(1, priority), Err(AppendError::Full { .. })));
    }
    one.append(vec![entry(31, 1)], Priority::Decided, count()).unwrap();
    one.flush(count());
    // The others go on, in the room they have.
    two.append(vec![entry(0, 100)], Priority::Freeing, Box::new(|r| r.unwrap())).unwrap();
    disk.run_round();
    assert_eq!((two.size().segments, done.load(Ordering::Relaxed)), (1, 0));
    one.save_committed(Some(29));
    one.purge(LogId { term: 1, leader_node: None, index: 28 }, count());
    disk.run_round();
    assert_eq!(done.load(Ordering::Relaxed), 1, "the purge alone");
    assert!(one.reclaim(&|_| false).segments > 0);
    disk.run_round();
    assert_eq!(done.load(Ordering::Relaxed), 1, "not enough by far");
    io.set_capacity(1 << 30);
    disk.run_round();
    assert_eq!((done.load(Ordering::Relaxed), hooks.fatal.load(Ordering::Relaxed)), (4, 0));
    assert_eq!(one.read_entries(30..40, usize::MAX).unwrap(), [entry(30, 100_000), entry(31, 1)]);
    one.append(vec![entry(32, 1)], Priority::Normal, count()).unwrap();
    disk.run_round();
    drop((one, two, disk));
    let disk = Disk::manual(Arc::clone(&io) as Arc<dyn Io>, "/data", small(), hooks).unwrap();
    let (one, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    assert_eq!(one.read_entries(30..32, usize::MAX).unwrap(), [entry(30, 100_000), entry(31, 1)]);
}

/// Under load a round waits for its time; volume, a vote, a truncation or a flush ends the wait. The time is an hour here:
/// a wait that does not end would be noticed.
#[test]
fn urgency_and_volume_end_the_wait() {
    let config = DiskConfig {
        commit_interval_us: 3_600_000_000,
        commit_bytes: 10_000,
        low_water_bytes: Some(0),
        ..DiskConfig::default()
    };
    let io = Arc::new(MemoryIo::default());
    let disk = Disk::start(io, "/data", config, Arc::new(AbortOnFatal)).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    append(&log, 0..1, 10);
    let queue = |index, len| {
        let (done, wait) = waiter();
        log.append(vec![entry(index, len)], Priority::Normal, done).unwrap();
        wait
    };
    let waiting = queue(1, 10);
    let (done, wait) = waiter();
    log.flush(done);
    assert_eq!((waiting(), wait()), (Ok(()), Ok(())));
    let waiting = queue(2, 10);
    let (done, wait) = waiter();
    log.save_vote(Vote { term: 1, voted_for: None, committed: false }, done);
    assert_eq!((waiting(), wait()), (Ok(()), Ok(())));
    let waiting = queue(3, 10);
    let (done, wait) = waiter();
    log.truncate_after(Some(2), done);
    assert_eq!((waiting(), wait()), (Ok(()), Ok(())));
    let (first, second) = (queue(3, 6_000), queue(4, 6_000));
    assert_eq!((first(), second()), (Ok(()), Ok(())));
    let waiting = queue(5, 10);
    let pending = disk.pending_bytes();
    pending.add(10_000);
    assert_eq!(waiting(), Ok(()));
    pending.sub(10_000);
}

#[test]
fn what_may_wait_for_the_disk_is_bounded() {
    let config = DiskConfig { queue_bytes_max: 10_000, ..small() };
    let io = Arc::new(MemoryIo::default());
    let hooks = Arc::new(Recorder::default());
    let disk = Disk::manual(io, "/data", config, hooks).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let put = |index| log.append(vec![entry(index, 6_000)], Priority::Normal, Box::new(drop));
    put(0).unwrap();
    assert!(!log.queue_takes(6_000));
    assert!(matches!(put(1), Err(AppendError::Backlog { .. })));
    disk.run_round();
    put(1).unwrap();
}

#[test]
fn space_that_others_free_is_noticed() {
    let io = Arc::new(SimulatedIo::new(1));
    let config = DiskConfig { low_water_bytes: Some(50_000), ..small() };
    let hooks = Arc::new(Recorder::default());
    io.set_capacity(100_000);
    let disk = Disk::manual(Arc::clone(&io) as Arc<dyn Io>, "/data", config, hooks).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let mut index = 0;
    let mut put = || {
        let result = log.append(vec![entry(index, 1000)], Priority::Freeing, Box::new(|_| ()));
        index += u64::from(result.is_ok());
        disk.run_round();
        result
    };
    assert!(log.admit(1000, Priority::Normal).is_err());
    // Beyond half of the segment the next one cannot be made.
    while put().is_ok() {}
    assert!(log.admit(1000, Priority::Freeing).is_err());
    io.set_capacity(1_000_000);
    assert!(log.admit(1000, Priority::Normal).is_ok());
    assert!(put().is_ok());
}

/// A callback that panics takes the I/O thread with it: the owner is told, and nothing is taken any more.
#[test]
fn a_panic_on_the_io_thread_is_fatal() {
    struct Tell(std::sync::Mutex<mpsc::Sender<()>>);
    impl Hooks for Tell {
        fn fatal(&self, _: &FatalError) {
            self.0.lock().unwrap().send(()).unwrap();
        }
    }
    let (tell, told) = mpsc::channel();
    let hooks = Arc::new(Tell(std::sync::Mutex::new(tell)));
    let disk = Disk::start(Arc::new(MemoryIo::default()), "/data", small(), hooks).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    log.append(vec![entry(0, 1)], Priority::Normal, Box::new(|_| panic!("planted"))).unwrap();
    told.recv().unwrap();
    let refused = log.append(vec![entry(1, 1)], Priority::Normal, Box::new(|_| ()));
    assert_eq!(refused, Err(AppendError::Failed(WriteError::DiskFailed)));
}

/// A batcher that holds bytes is given the chance to join the round it is woken by.
#[test]
fn what_batchers_hold_joins_the_round() {
    struct Joining {
        log: std::sync::Mutex<Option<(Log, logd_log::PendingBytes)>>,
        met: Barrier,
    }
    impl Hooks for Joining {
        fn round_started(&self) {
            if let Some((log, pending)) = self.log.lock().unwrap().take() {
                let next = log.last().map_or(0, |l| l.index + 1);
                log.append(vec![entry(next, 10)], Priority::Normal, Box::new(|r| r.unwrap()))
                    .unwrap();
                pending.sub(10);
            }
        }
        fn completed(&self, completions: Vec<Completion>) {
            completions.into_iter().for_each(Completion::run);
            self.met.wait();
        }
    }
    let hooks = Arc::new(Joining { log: std::sync::Mutex::default(), met: Barrier::new(2) });
    let disk = Disk::start(
        Arc::new(MemoryIo::default()),
        "/data",
        small(),
        Arc::clone(&hooks) as Arc<dyn Hooks>,
    )
    .unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let pending = disk.pending_bytes();
    *hooks.log.lock().unwrap() = Some((log.clone(), pending.clone()));
    pending.add(10);
    hooks.met.wait();
    assert_eq!((log.last().map(|l| l.index), pending.held()), (Some(0), 0));
    assert_eq!(disk.stats().rounds, 1);
}

const LAST: LogId = LogId { term: 1, leader_node: None, index: 5 };

/// What arrives from another node is completed before Raft hears of it, so that a full disk is no error of Raft's.
#[test]
fn a_complete_snapshot_is_published_without_room() {
    let io = Arc::new(SimulatedIo::new(1));
    io.set_capacity(4 << 20);
    let disk = Disk::start(io.clone(), "/data", small(), Arc::new(AbortOnFatal)).unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let ballast = Path::new("/data/ballast");
    let fill = || io.create_zeroed(ballast, io.free_space(ballast).unwrap().free).map(drop);
    let store = log.snapshots();
    let mut writer = store.begin(LAST, Bytes::from_static(b"meta")).unwrap();
    writer.write(&[7; 100_000]).unwrap();
    fill().unwrap();
    let full = writer.complete();
    assert!(matches!(&full, Err(SnapshotError::Io(e)) if e.kind() == ErrorKind::StorageFull));
    io.remove_file(ballast).unwrap();
    writer.complete().unwrap();
    fill().unwrap();
    assert_eq!(writer.commit().unwrap().state_bytes, 100_000);
    assert_eq!(store.read(LAST).unwrap().mapped(100_000).unwrap(), vec![7; 100_000]);
}

#[test]
fn a_mapped_state_is_checked() {
    let temporary = tempfile::tempdir().unwrap();
    let disk = Disk::start(Arc::new(DiskIo), temporary.path(), small(), Arc::new(AbortOnFatal));
    let disk = disk.unwrap();
    let (log, _) = disk.open_shard(0, OpenOptions::default()).unwrap();
    let store = log.snapshots();
    let mut writer = store.begin(LAST, Bytes::new()).unwrap();
    writer.write(&vec![7; 2_500_000]).unwrap();
    writer.commit().unwrap();
    let mapped = |bytes| store.read(LAST).unwrap().mapped(bytes);
    for bytes in [0, 1, 1 << 20, 2_500_000] {
        assert_eq!(mapped(bytes).unwrap(), vec![7; usize::try_from(bytes).unwrap()]);
    }
    assert!(mapped(2_500_001).is_err(), "there is no more");
    let snap = temporary.path().join("shard-0/snap");
    let dir = std::fs::read_dir(snap).unwrap().next().unwrap().unwrap().path();
    let mut state = std::fs::read(dir.join("state")).unwrap();
    state[2_000_000] ^= 1;
    std::fs::write(dir.join("state"), state).unwrap();
    assert!(mapped(1 << 20).is_ok(), "the first block is whole");
    assert!(matches!(mapped(2_500_000), Err(SnapshotError::Damaged(_))));
}
