//! Producers that outrun what frees space wait for it; settlements do not, nor do producers whose messages live (S9).

mod stream;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Command, Settled};
use logd_log::io::{DirEntry, File, FreeSpace, Io, Lock, MemoryIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{Compaction, Group, GroupOptions};
use parking_lot::{Condvar, Mutex};

use crate::stream::{Nobody, Stream, publish, subscribed, subscribed_to};

const SEGMENT: u64 = 1024 * 1024;
const BODY: usize = 50_000;
/// Messages that fill ten segments.
const MANY: u64 = 10 * SEGMENT / BODY as u64;

/// A disk on which snapshots are not written while its gate is shut.
struct Gated {
    io: MemoryIo,
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gated {
    fn new() -> Arc<Self> {
        let io = MemoryIo::new(64 << 20);
        Arc::new(Self { io, shut: Mutex::new(true), opened: Condvar::new() })
    }

    fn open_gate(&self) {
        *self.shut.lock() = false;
        self.opened.notify_all();
    }
}

/// Opens the gate when a test fails: the thread behind it would wait for ever, and the test for it.
struct Opened(Arc<Gated>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open_gate();
    }
}

impl Io for Gated {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut shut = self.shut.lock();
        while *shut && path.parent().is_some_and(|parent| parent.ends_with("snap")) {
            self.opened.wait(&mut shut);
        }
        self.io.create_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.io.create(path)
    }
    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        self.io.create_zeroed(path, len)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.io.open(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.io.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.io.remove_file(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.io.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.io.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.io.list(path)
    }
    fn free_space(&self, path: &Path) -> io::Result<FreeSpace> {
        self.io.free_space(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.io.lock(path)
    }
    fn random(&self) -> u64 {
        self.io.random()
    }
    fn now_us(&self) -> u64 {
        self.io.now_us()
    }
}

async fn start(io: &Arc<Gated>, hold_max: Duration) -> (Disk, Group) {
    let config = DiskConfig {
        segment_bytes_first: SEGMENT,
        segment_bytes_max: SEGMENT,
        low_water_bytes: Some(0),
        ..DiskConfig::default()
    };
    let disk = Disk::start(io.clone(), "/data", config, Arc::new(AbortOnFatal)).expect("starts");
    let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a shard");
    let log_bytes = SEGMENT / 2;
    let compaction =
        Compaction { log_bytes, margin_bytes: SEGMENT / 8, hold_max, ..Compaction::default() };
    let options = GroupOptions { compaction, ..GroupOptions::alone(fluxmq_names::ShardId(0), 1) };
    let group = Group::start(options, log, Box::new(Nobody)).await.expect("leads");
    (disk, group)
}

async fn stop(disk: Disk, group: Group) {
    group.stop().await;
    drop(group);
    disk.close();
}

/// Far longer than anything here takes: what is held for ever fails.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("nothing is held for ever")
}

/// Publishes, one at a time, to nobody: dead when it is applied. Counts those that are answered.
async fn produce(group: &Group, stream: &mut Stream, count: u64, answered: &Mutex<u64>) {
    for _ in 0..count {
        let outcomes = stream.send(group, &[(publish(), &[7; BODY])]).await.expect("leads");
        assert!(matches!(outcomes[0], Outcome::Published { .. }), "{outcomes:?}");
        *answered.lock() += 1;
    }
}

#[tokio::test]
async fn producers_wait_and_settlements_do_not() {
    let io = Gated::new();
    let (disk, group) = start(&io, Duration::from_secs(3_600)).await;
    let _gate = Opened(io.clone());
    let mut settler = Stream::numbered(2);
    let (session, epoch) = subscribed_to(&group, &mut settler, "other").await;
    let answered = Mutex::new(0);
    let mut producer = Stream::numbered(1);
    let produces = produce(&group, &mut producer, MANY, &answered);
    let watches = async {
        // A publish waits when all who could answer it have had their turn often.
        let mut seen = (0, 0);
        while seen.1 < 20 {
            let ranges = vec![Settled { first: 1, count: 1, received: false }];
            let settle = Command::Settle { session, epoch, sent_upto: 0, ranges };
            settler.send(&group, &[(settle, b"")]).await.expect("settlements go on");
            let now = *answered.lock();
            seen = if now == seen.0 && now > 0 { (now, seen.1 + 1) } else { (now, 0) };
        }
        assert!(seen.0 < MANY, "they outran a pass that did not end");
        let bytes = group.log().size().bytes;
        assert!(bytes <= 4 * SEGMENT, "{bytes} on disk, nothing live");
        assert_eq!(group.held(), Duration::ZERO, "counted at the end");
        io.open_gate();
    };
    in_time(async { tokio::join!(produces, watches) }).await;
    assert_eq!(*answered.lock(), MANY, "it was only late");
    assert!(group.held() > Duration::ZERO);
    stop(disk, group).await;
}

#[tokio::test]
async fn what_lives_holds_nobody_back() {
    let io = Gated::new();
    let (disk, group) = start(&io, Duration::from_secs(3_600)).await;
    let _gate = Opened(io.clone());
    let mut stream = Stream::numbered(1);
    subscribed(&group, &mut stream).await;
    let answered = Mutex::new(0);
    in_time(produce(&group, &mut stream, MANY, &answered)).await;
    assert!(group.log().size().bytes > 8 * SEGMENT);
    assert_eq!(group.held(), Duration::ZERO);
    io.open_gate();
    stop(disk, group).await;
}

#[tokio::test]
async fn patience_ends() {
    let io = Gated::new();
    let (disk, group) = start(&io, Duration::from_millis(1)).await;
    let _gate = Opened(io.clone());
    let answered = Mutex::new(0);
    in_time(produce(&group, &mut Stream::numbered(1), MANY, &answered)).await;
    assert!(group.log().size().bytes > 8 * SEGMENT, "no pass ended");
    assert!(group.held() >= Duration::from_millis(1));
    io.open_gate();
    stop(disk, group).await;
}
