//! Group commit: the engine that all shards of a disk share, and its rounds (design S2).
//!
//! A round takes what is queued in every shard, writes one record per shard, syncs each file, and completes all
//! callbacks together. What arrives meanwhile is the next round. The engine has no thread of its own: `io_thread`
//! drives it on a disk, a test drives it by hand.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::DiskConfig;
use crate::error::{FatalError, WriteError};
use crate::hooks::{Completion, Hooks};
use crate::io::{FreeSpace, Io, Lock};
use crate::node::Node;
use crate::offset_index::Summary;
use crate::reserve;
use crate::shard::Shard;
use crate::writer::Refused;

/// Counters of one disk.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) rounds: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) payload_bytes: AtomicU64,
}

/// What the I/O thread is doing, and why it should stop waiting.
#[derive(Default)]
pub(crate) struct Queue {
    /// Operations queued since the last round began.
    pub(crate) waiting: bool,
    /// One of them ends the wait.
    pub(crate) urgent: bool,
    pub(crate) closed: bool,
    parked: Parked,
    /// Batchers held bytes in a round that they did not join: they wait for something else, do not spin for them.
    held_seen: bool,
    /// What batchers held when a round waited for them in vain; while it is no less, rounds do not wait again.
    stuck_at: u64,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Parked {
    #[default]
    No,
    /// Nothing to do: any operation wakes.
    Idle,
    /// Waiting for the next round to be due: only urgency or volume wakes.
    Paced,
    /// A round waits for batchers to give up what they hold.
    Joining,
}

/// Work that is not on the way of a commit.
pub(crate) enum Job {
    Reserve { shard: Arc<Shard>, previous: u64 },
    Index { path: PathBuf, salt: u64, summary: Summary },
}

/// What the shards of a disk share.
pub(crate) struct Engine {
    pub(crate) io: Arc<dyn Io>,
    pub(crate) dir: PathBuf,
    pub(crate) config: DiskConfig,
    pub(crate) hooks: Arc<dyn Hooks>,
    pub(crate) node: Node,
    pub(crate) counters: Counters,
    pub(crate) shards: Mutex<Vec<Arc<Shard>>>,
    /// Shards that are being recovered.
    pub(crate) opening: Mutex<Vec<u64>>,
    pub(crate) lock: Mutex<Option<Box<dyn Lock>>>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Bytes that batchers hold.
    pub(crate) held: AtomicU64,
    /// Bytes queued in shards.
    pub(crate) queued: AtomicU64,
    failed: AtomicBool,
    /// Something waits for space.
    stuck: AtomicBool,
    free: AtomicU64,
    total: AtomicU64,
    since_free: AtomicU64,
    /// Jobs go to a thread of their own; else they are done at once.
    background: bool,
    jobs: Mutex<Jobs>,
    jobs_wake: Condvar,
}

#[derive(Default)]
struct Jobs {
    list: VecDeque<Job>,
    closed: bool,
}

/// Bytes written between two looks at the free space.
const FREE_EVERY: u64 = 8 * 1024 * 1024;
/// How soon what waits for space is tried again, whoever may have made some.
const STUCK_RETRY: Duration = Duration::from_millis(100);

impl Engine {
    pub(crate) fn new(
        io: Arc<dyn Io>,
        dir: PathBuf,
        config: DiskConfig,
        hooks: Arc<dyn Hooks>,
        (node, lock): (Node, Box<dyn Lock>),
        background: bool,
    ) -> Self {
        let engine = Self {
            io,
            dir,
            config: config.clamped(),
            hooks,
            node,
            counters: Counters::default(),
            shards: Mutex::default(),
            opening: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            queue: Mutex::default(),
            wake: Condvar::new(),
            held: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            free: AtomicU64::new(0),
            total: AtomicU64::new(0),
            since_free: AtomicU64::new(0),
            background,
            jobs: Mutex::default(),
            jobs_wake: Condvar::new(),
        };
        engine.refresh_free();
        engine
    }

    // === the queue ===

    /// Operations of `bytes` were queued in a shard.
    pub(crate) fn enqueued(&self, bytes: u64, urgent: bool) {
        let before = self.queued.fetch_add(bytes, Ordering::AcqRel);
        let crossed = self.crossed(before + self.held.load(Ordering::Acquire), bytes);
        let mut queue = self.queue.lock();
        queue.waiting = true;
        queue.urgent |= urgent;
        queue.held_seen = false;
        let wakes = match queue.parked {
            Parked::No => false,
            Parked::Idle => true,
            Parked::Paced | Parked::Joining => urgent || crossed,
        };
        drop(queue);
        if wakes {
            self.wake.notify_one();
        }
    }

    pub(crate) fn dequeued(&self, bytes: u64) {
        self.queued.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Batchers took in `bytes`.
    pub(crate) fn hold(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Ordering::AcqRel);
        if held == 0 || self.crossed(held + self.queued.load(Ordering::Acquire), bytes) {
            let mut queue = self.queue.lock();
            queue.held_seen = false;
            if queue.parked != Parked::No {
                drop(queue);
                self.wake.notify_one();
            }
        }
    }

    /// Batchers gave up `bytes`.
    pub(crate) fn release(&self, bytes: u64) {
        let held = self.held.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(held >= bytes, "only what was added is given up");
        if held == bytes && self.queue.lock().parked == Parked::Joining {
            self.wake.notify_one();
        }
    }

    fn crossed(&self, before: u64, bytes: u64) -> bool {
        let limit = self.config.commit_bytes;
        before < limit && before + bytes >= limit
    }

    /// Waits until a round is due; false when closed and nothing is left to do.
    pub(crate) fn wait_for_round(&self, last_begin: Option<Instant>) -> bool {
        let interval = Duration::from_micros(self.config.commit_interval_us);
        let mut queue = self.queue.lock();
        loop {
            let held = self.held.load(Ordering::Acquire);
            let work = queue.waiting || (held > 0 && !queue.held_seen);
            if queue.closed {
                return queue.waiting;
            }
            if !work {
                queue.parked = Parked::Idle;
                let stuck = self.stuck.load(Ordering::Acquire);
                match stuck {
                    true => drop(self.wake.wait_for(&mut queue, STUCK_RETRY)),
                    false => self.wake.wait(&mut queue),
                }
                queue.parked = Parked::No;
                if stuck {
                    return true;
                }
                continue;
            }
            let bytes = held + self.queued.load(Ordering::Acquire);
            let due = last_begin.map(|begin| begin + interval);
            let due = due.filter(|due| *due > Instant::now());
            let Some(due) = due.filter(|_| !queue.urgent && bytes < self.config.commit_bytes)
            else {
                return true;
            };
            queue.parked = Parked::Paced;
            self.wake.wait_until(&mut queue, due);
            queue.parked = Parked::No;
        }
    }

    /// Wakes the runtime and gives its batchers a moment to close their entries into this round.
    fn begin_round(&self) {
        self.hooks.round_started();
        let mut queue = self.queue.lock();
        let held = self.held.load(Ordering::Acquire);
        if held < queue.stuck_at {
            queue.stuck_at = 0;
        }
        if self.background && held > 0 && queue.stuck_at == 0 && !queue.urgent {
            let until = Instant::now() + Duration::from_micros(self.config.join_us);
            let mut left = held;
            while left > 0 {
                queue.parked = Parked::Joining;
                let timed_out = self.wake.wait_until(&mut queue, until).timed_out();
                queue.parked = Parked::No;
                left = self.held.load(Ordering::Acquire);
                if timed_out {
                    queue.stuck_at = if left >= held { left } else { 0 };
                    break;
                }
            }
        }
        queue.held_seen = self.held.load(Ordering::Acquire) > 0 && !queue.waiting;
        queue.waiting = false;
        queue.urgent = false;
    }

    /// No round comes after those for what is queued now.
    pub(crate) fn close_queue(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_all();
        self.jobs.lock().closed = true;
        self.jobs_wake.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }

    // === rounds ===

    /// Writes, syncs and completes all that is queued; false if there was nothing.
    pub(crate) fn round(&self) -> bool {
        self.begin_round();
        let shards = self.shards.lock().clone();
        let mut completions = Vec::new();
        if self.has_failed() {
            self.fail_all(&shards, &WriteError::DiskFailed, &mut completions);
        } else if let Err(error) = self.write_all(&shards, &mut completions) {
            self.failed.store(true, Ordering::Release);
            self.hooks.fatal(&error);
            self.fail_all(&shards, &WriteError::DiskFailed, &mut completions);
        }
        let stuck = shards.iter().any(|shard| shard.state.lock().stuck);
        self.stuck.store(stuck, Ordering::Release);
        self.shards.lock().retain(|shard| {
            let state = shard.state.lock();
            !(state.abandoned && state.ops.is_empty())
        });
        if completions.is_empty() {
            return false;
        }
        self.counters.rounds.fetch_add(1, Ordering::Relaxed);
        self.hooks.completed(completions);
        true
    }

    fn write_all(
        &self,
        shards: &[Arc<Shard>],
        completions: &mut Vec<Completion>,
    ) -> Result<(), FatalError> {
        let mut limits: Vec<u64> = shards.iter().map(|s| s.state.lock().next_op).collect();
        loop {
            let mut units = Vec::new();
            for (shard, limit) in shards.iter().zip(&mut limits) {
                let next = shard.writer.lock().write_next(self, shard, *limit, completions);
                let stuck = match next {
                    Ok(Some(unit)) => {
                        let stuck = unit.overtook();
                        units.push((shard, unit));
                        stuck
                    }
                    Ok(None) => false,
                    Err(Refused::NoSpace) => {
                        // Tried again in the rounds to come: nothing else of this one in this round.
                        *limit = 0;
                        true
                    }
                    Err(Refused::Fatal(error)) => return Err(error),
                };
                if *limit > 0 || stuck {
                    shard.state.lock().stuck = stuck;
                }
            }
            if units.is_empty() {
                return Ok(());
            }
            for (shard, unit) in &units {
                let synced = shard.writer.lock().sync(self, unit);
                if let Err(Refused::Fatal(error)) = synced {
                    return Err(error);
                }
            }
            for (shard, unit) in units {
                let bytes = shard.writer.lock().publish(self, shard, unit, completions);
                if self.since_free.fetch_add(bytes, Ordering::Relaxed) + bytes >= FREE_EVERY {
                    self.refresh_free();
                }
            }
        }
    }

    fn fail_shard(&self, shard: &Shard, error: &WriteError, completions: &mut Vec<Completion>) {
        let in_flight = std::mem::take(&mut shard.writer.lock().in_flight);
        let failed = |done| Completion::new(shard.id, done, Err(error.clone()));
        completions.extend(in_flight.into_iter().map(failed));
        let bytes = shard.fail(error, completions);
        self.dequeued(bytes);
    }

    pub(crate) fn fail_all(
        &self,
        shards: &[Arc<Shard>],
        error: &WriteError,
        completions: &mut Vec<Completion>,
    ) {
        for shard in shards {
            self.fail_shard(shard, error, completions);
        }
    }

    /// Something outside a round failed for good.
    pub(crate) fn fail(&self, error: &FatalError) {
        self.failed.store(true, Ordering::Release);
        self.hooks.fatal(error);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    // === space ===

    /// Free space as last seen.
    pub(crate) fn free_space(&self) -> FreeSpace {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        FreeSpace { free: load(&self.free), total: load(&self.total) }
    }

    /// Space was freed: what waits for it is tried at once.
    pub(crate) fn space_freed(&self) {
        if self.stuck.load(Ordering::Acquire) {
            self.enqueued(0, true);
        }
    }

    /// Asks the file system; a failure leaves what was known.
    pub(crate) fn refresh_free(&self) -> FreeSpace {
        self.since_free.store(0, Ordering::Relaxed);
        if let Ok(space) = self.io.free_space(&self.dir) {
            self.free.store(space.free, Ordering::Relaxed);
            self.total.store(space.total, Ordering::Relaxed);
        }
        self.free_space()
    }

    pub(crate) fn next_capacity(&self, previous: u64) -> u64 {
        reserve::next_capacity(&self.config, previous, self.free_space().free)
    }

    // === work beside the rounds ===

    /// Makes the next segment of a shard.
    pub(crate) fn make_reserve(&self, shard: &Shard, previous: u64) {
        let shard = self.shards.lock().iter().find(|s| s.id == shard.id).cloned();
        match shard {
            Some(shard) => self.submit(Job::Reserve { shard, previous }),
            None => debug_assert!(false, "only open shards are written"),
        }
    }

    /// Writes the index file of a sealed segment.
    pub(crate) fn write_index(&self, path: PathBuf, salt: u64, summary: Summary) {
        self.submit(Job::Index { path, salt, summary });
    }

    fn submit(&self, job: Job) {
        if self.background {
            self.jobs.lock().list.push_back(job);
            self.jobs_wake.notify_one();
        } else {
            self.run_job(job);
        }
    }

    /// The next job; waits for one; `None` when closed.
    pub(crate) fn next_job(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if let Some(job) = jobs.list.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            self.jobs_wake.wait(&mut jobs);
        }
    }

    pub(crate) fn run_job(&self, job: Job) {
        match job {
            Job::Reserve { shard, previous } => {
                let dir = shard.log_dir();
                let capacity = self.next_capacity(previous);
                if let Err(error) = shard.reserve.make(&*self.io, &dir, capacity) {
                    let error = error.to_string();
                    self.fail(&FatalError { op: "create", file: dir, error });
                }
                self.refresh_free();
            }
            // Derived and only a help to the next start: a failure costs a scan.
            Job::Index { path, salt, summary } => {
                let _ = summary.write(&*self.io, &path, salt);
            }
        }
    }
}
