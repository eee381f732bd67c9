//! A data directory: its identity, its lock, its shards and its I/O thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use crate::commit::Engine;
use crate::config::{DiskConfig, OpenOptions};
use crate::error::{FatalError, OpenError, StartError, WriteError};
use crate::hooks::Hooks;
use crate::io::Io;
use crate::log::Log;
use crate::node;
use crate::recovery::{self, Recovered};

/// An open data directory: identity, lock, and the queue of its I/O thread. Clones are handles; dropping the last one
/// finishes what is queued and ends the thread.
#[derive(Clone)]
pub struct Disk {
    handle: Arc<Handle>,
}

struct Handle {
    engine: Arc<Engine>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Bytes that wait for a commit round: what batchers add here, and what the log itself has queued (S2).
#[derive(Clone)]
pub struct PendingBytes {
    engine: Arc<Engine>,
}

impl PendingBytes {
    /// A batcher took in `bytes` that it will append when the next round begins; may start that round.
    pub fn add(&self, bytes: u64) {
        self.engine.hold(bytes);
    }

    /// A batcher gave up `bytes` that it had added: into an entry about to be appended, or refused. Call it after the
    /// append, so that a round that waits for them sees the entry.
    pub fn sub(&self, bytes: u64) {
        self.engine.release(bytes);
    }

    /// Bytes batchers hold now.
    pub fn held(&self) -> u64 {
        self.engine.held.load(Ordering::Acquire)
    }
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Commit rounds that finished something.
    pub rounds: u64,
    /// Syncs of segment and vote files.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Entries written.
    pub entries: u64,
    /// Bytes of records written.
    pub bytes: u64,
    /// Bytes of payload in them.
    pub payload_bytes: u64,
}

impl Disk {
    /// Opens or makes a data directory and starts its I/O thread.
    pub fn start(
        io: Arc<dyn Io>,
        dir: impl Into<PathBuf>,
        config: DiskConfig,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Self, StartError> {
        let disk = Self::open(io, dir.into(), config, hooks, true)?;
        let rounds = Arc::clone(&disk.handle.engine);
        let jobs = Arc::clone(&disk.handle.engine);
        let spawned = disk.spawn("log-io", move || run_rounds(&rounds)).and_then(|()| {
            disk.spawn("log-fill", move || {
                let _guard = TellOfPanic(&jobs);
                while let Some(job) = jobs.next_job() {
                    jobs.run_job(job);
                }
            })
        });
        match spawned {
            Ok(()) => Ok(disk),
            Err(error) => Err(StartError::Io { dir: disk.handle.engine.dir.clone(), error }),
        }
    }

    /// The same without a thread: rounds happen in [`Disk::run_round`]. For tests and simulation.
    pub fn manual(
        io: Arc<dyn Io>,
        dir: impl Into<PathBuf>,
        config: DiskConfig,
        hooks: Arc<dyn Hooks>,
    ) -> Result<Self, StartError> {
        Self::open(io, dir.into(), config, hooks, false)
    }

    fn open(
        io: Arc<dyn Io>,
        dir: PathBuf,
        config: DiskConfig,
        hooks: Arc<dyn Hooks>,
        background: bool,
    ) -> Result<Self, StartError> {
        let identity = node::open(&*io, &dir, &config)?;
        let engine = Arc::new(Engine::new(io, dir, config, hooks, identity, background));
        Ok(Self { handle: Arc::new(Handle { engine, threads: Mutex::default() }) })
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(body)?;
        self.handle.threads.lock().push(thread);
        Ok(())
    }

    /// Writes and syncs all that is queued, completes it; false if there was nothing. Not to be mixed with a thread.
    pub fn run_round(&self) -> bool {
        self.handle.engine.round()
    }

    /// Opens the log of a shard, making it if it does not exist.
    pub fn open_shard(
        &self,
        shard: u64,
        options: OpenOptions,
    ) -> Result<(Log, Recovered), OpenError> {
        let engine = &self.handle.engine;
        // Rounds of the other shards go on while this one is scanned.
        let mut opening = engine.opening.lock();
        let open = engine.shards.lock().iter().any(|open| open.id == shard);
        if open || opening.contains(&shard) {
            return Err(OpenError::AlreadyOpen(shard));
        }
        opening.push(shard);
        drop(opening);
        let result = recovery::open(engine, shard, options);
        let result = result.map(|(opened, recovered)| (Arc::new(opened), recovered));
        if let Ok((opened, _)) = &result {
            engine.shards.lock().push(Arc::clone(opened));
        }
        engine.opening.lock().retain(|id| *id != shard);
        let (opened, recovered) = result?;
        engine.refresh_free();
        Ok((Log::new(Arc::clone(engine), opened), recovered))
    }

    /// Shards that exist in the directory, open or not, sorted.
    pub fn shards(&self) -> io::Result<Vec<u64>> {
        let names = self.handle.engine.io.list(&self.handle.engine.dir)?;
        let dirs = names.iter().filter(|entry| entry.is_dir);
        let mut ids: Vec<u64> =
            dirs.filter_map(|entry| entry.name.strip_prefix("shard-")?.parse().ok()).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.handle.engine.node.node
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> u128 {
        self.handle.engine.node.cluster
    }

    /// The counter of bytes that wait.
    pub fn pending_bytes(&self) -> PendingBytes {
        PendingBytes { engine: Arc::clone(&self.handle.engine) }
    }

    /// Counters.
    pub fn stats(&self) -> DiskStats {
        let counters = &self.handle.engine.counters;
        DiskStats {
            rounds: counters.rounds.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
            records: counters.records.load(Ordering::Relaxed),
            entries: counters.entries.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            payload_bytes: counters.payload_bytes.load(Ordering::Relaxed),
        }
    }

    /// Finishes what is queued and ends the thread; later operations fail with [`WriteError::Closed`].
    pub fn close(&self) {
        self.handle.close();
    }
}

impl Handle {
    fn close(&self) {
        self.engine.close_queue();
        let threads = std::mem::take(&mut *self.threads.lock());
        for handle in threads {
            // A callback may hold the last handle; a thread cannot wait for itself.
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
        }
        let shards = self.engine.shards.lock().clone();
        // Whoever opens the directory next must be alone with its files.
        shards.iter().for_each(|shard| drop(shard.retention.lock()));
        let mut completions = Vec::new();
        self.engine.fail_all(&shards, &WriteError::Closed, &mut completions);
        if !completions.is_empty() {
            self.engine.hooks.completed(completions);
        }
        self.engine.lock.lock().take();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Tells the owner when a thread of the log panics (in a callback, say): a log that nobody writes must not go on looking
/// alive.
struct TellOfPanic<'a>(&'a Engine);

impl Drop for TellOfPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = "the thread panicked".into();
            self.0.fail(&FatalError { op: "log", file: self.0.dir.clone(), error });
        }
    }
}

/// The I/O thread.
fn run_rounds(engine: &Engine) {
    let _guard = TellOfPanic(engine);
    let mut last_begin = None;
    while engine.wait_for_round(last_begin) {
        last_begin = Some(Instant::now());
        engine.round();
    }
}
