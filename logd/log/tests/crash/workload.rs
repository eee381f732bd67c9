//! A random owner of a log, and the model of what it asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use logd_log::io::SimulatedIo;
use logd_log::{
    AppendError, Callback, CompactError, Disk, DiskConfig, Entry, EntryKind, FatalError, Hooks,
    Keep, Liveness, Log, LogId, OpenError, OpenOptions, Priority, Recovered, Vote,
};

use crate::reader::{self, View};

/// One thing asked of the log, entry by entry.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Entry { index: u64, term: u64, payload: Bytes },
    Truncate { from: u64 },
    Purge { upto: LogId },
    Vote(Vote),
}

/// What the log would be after some of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Model {
    pub(crate) entries: BTreeMap<u64, (u64, Bytes)>,
    pub(crate) purged: (u64, u64),
    pub(crate) vote: Option<(u64, Option<u64>, bool)>,
}

impl Model {
    pub(crate) fn apply(&mut self, asked: &Asked) {
        match asked {
            Asked::Entry { index, term, payload } => {
                self.entries.insert(*index, (*term, payload.clone()));
            }
            Asked::Truncate { from } => {
                self.entries.split_off(from);
            }
            Asked::Purge { upto } => {
                self.purged = (upto.index + 1, upto.term);
                if self.entries.keys().next_back().is_none_or(|last| *last <= upto.index) {
                    self.entries.clear();
                }
                self.entries = self.entries.split_off(&(upto.index + 1));
            }
            Asked::Vote(vote) => self.vote = Some((vote.term, vote.voted_for, vote.committed)),
        }
    }

    /// Whether a disk says just this, above the purge floor.
    pub(crate) fn is(&self, view: &View) -> bool {
        let above = view.entries.range(view.purged.0..);
        self.purged == view.purged
            && self.vote == view.vote
            && self.entries.len() == above.clone().count()
            && self.entries.iter().zip(above).all(|((i, (term, payload)), (j, (t, bytes)))| {
                i == j && term == t && payload[..] == bytes[..]
            })
    }

    /// The model of what a disk says.
    pub(crate) fn of(view: &View) -> Self {
        let above = view.entries.range(view.purged.0..);
        let entries =
            above.map(|(i, (t, bytes))| (*i, (*t, Bytes::copy_from_slice(bytes)))).collect();
        Self { entries, purged: view.purged, vote: view.vote }
    }
}

/// Counts what was completed; remembers whether the disk failed.
#[derive(Default)]
pub(crate) struct Acknowledged {
    upto: AtomicU64,
    /// Purges that were completed before something that was asked earlier: on a full disk they do not wait.
    ahead: Mutex<BTreeSet<u64>>,
    failed: AtomicBool,
}

impl Acknowledged {
    fn catch_up(&self) {
        let mut ahead = self.ahead.lock().unwrap();
        while ahead.remove(&(self.upto.load(Ordering::Relaxed) + 1)) {
            self.upto.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Told(Arc<Acknowledged>);

impl Hooks for Told {
    fn fatal(&self, _: &FatalError) {
        self.0.failed.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) * below) >> 31
}

pub(crate) fn shard_dir() -> PathBuf {
    PathBuf::from("/data/shard-3")
}

/// Another shard in the same rounds; it only appends.
#[derive(Clone)]
pub(crate) struct Neighbour {
    log: Log,
    acknowledged: Arc<AtomicU64>,
}

impl Neighbour {
    fn payload(index: u64) -> Vec<u8> {
        index.to_le_bytes().repeat(usize::try_from(index % 50).unwrap())
    }

    fn append(&self) {
        let index = self.log.last().map_or(0, |last| last.index + 1);
        let payload = Self::payload(index).into();
        let entry = Entry { index, term: 1, leader_node: None, kind: EntryKind::Normal, payload };
        let acknowledged = Arc::clone(&self.acknowledged);
        let done: Callback = Box::new(move |result| {
            if result.is_ok() {
                acknowledged.store(index + 1, Ordering::Relaxed);
            }
        });
        // A full or failed disk refuses; that is looked at in the other shard.
        let _ = self.log.append(vec![entry], Priority::Normal, done);
    }

    /// Its entries are there, as far as they were acknowledged, and are what they were.
    pub(crate) fn check(io: &SimulatedIo, acknowledged: u64, what: &str) {
        let files = io.files();
        let there =
            files.iter().any(|(path, _)| path.starts_with("/data/shard-5/log") && is_segment(path));
        if acknowledged == 0 && !there {
            return;
        }
        let view = reader::read(&files, Path::new("/data/shard-5"));
        let view = view.unwrap_or_else(|error| panic!("{what}: neighbour: {error}"));
        assert!(view.next >= acknowledged, "{what}: neighbour has {} of {acknowledged}", view.next);
        for (index, (_, payload)) in view.entries {
            assert!(payload == Self::payload(index), "{what}: neighbour's {index}");
        }
    }
}

pub(crate) fn view_of(io: &SimulatedIo) -> Result<View, String> {
    reader::read(&io.files(), &shard_dir())
}

fn config() -> DiskConfig {
    DiskConfig {
        segment_bytes_first: 16 * 1024,
        segment_bytes_max: 32 * 1024,
        low_water_bytes: Some(16 * 1024),
        node_id: Some(1),
        cluster_id: Some(7),
        ..DiskConfig::default()
    }
}

/// Opens the disk as the daemon does.
pub(crate) fn open(
    io: &SimulatedIo,
) -> Result<(Disk, Log, Recovered, Arc<Acknowledged>), OpenError> {
    let told = Arc::new(Acknowledged::default());
    let hooks = Arc::new(Told(Arc::clone(&told)));
    let disk = Disk::manual(Arc::new(io.clone()), "/data", config(), hooks);
    let disk = disk.map_err(|error| match error {
        logd_log::StartError::Damaged(damage) => OpenError::Damaged(damage),
        other => panic!("{other}"),
    })?;
    let (log, recovered) = disk.open_shard(3, OpenOptions::default())?;
    Ok((disk, log, recovered, told))
}

/// Entries that are live at a time.
const PINNED: usize = 12;

/// Which entries are live.
struct Pinned(Vec<u64>);

impl Liveness for Pinned {
    fn references(&self, entries: RangeInclusive<u64>) -> u64 {
        self.0.iter().filter(|index| entries.contains(index)).count() as u64
    }

    fn live(&self, entries: RangeInclusive<u64>) -> Vec<(u64, u64)> {
        let live = self.0.iter().filter(|index| entries.contains(index));
        live.map(|index| (*index, 1)).collect()
    }

    fn parts(&self, _: &[u8]) -> u64 {
        1
    }
}

impl Keep for Pinned {
    fn wanted(&mut self, entries: RangeInclusive<u64>) -> Vec<u64> {
        self.0.iter().copied().filter(|index| entries.contains(index)).collect()
    }

    fn keep(&mut self, _: u64, payload: &Bytes) -> Bytes {
        payload.clone()
    }
}

pub(crate) struct Run {
    pub(crate) io: SimulatedIo,
    pub(crate) disk: Disk,
    pub(crate) log: Log,
    pub(crate) asked: Vec<Asked>,
    /// (operations of the disk, asked, acknowledged) after each step.
    pub(crate) history: Vec<(u64, usize, usize)>,
    /// (operations of the disk, acknowledged by the neighbour) after each step.
    pub(crate) neighbour_history: Vec<(u64, u64)>,
    neighbour: Neighbour,
    /// (operations of the disk when it returned, index, term, state)
    pub(crate) snapshots: Vec<(u64, u64, u64, Vec<u8>)>,
    /// Indexes that stay live, from the operation on at which their commit was acknowledged.
    pub(crate) pinned: Vec<(u64, u64, Bytes)>,
    pub(crate) refused: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Compactions that made one segment of several.
    pub(crate) merged: u64,
    told: Arc<Acknowledged>,
    model: Model,
    committed: Option<u64>,
    term: u64,
    rng: u64,
}

impl Run {
    pub(crate) fn new(io: SimulatedIo, seed: u64) -> Result<Self, OpenError> {
        let (disk, log, _, told) = open(&io)?;
        let neighbour = disk.open_shard(5, OpenOptions::default())?.0;
        let neighbour = Neighbour { log: neighbour, acknowledged: Arc::default() };
        let view = view_of(&io).expect("what was opened can be read");
        let model = Model::of(&view);
        let newest = model.entries.values().map(|e| e.0).max().unwrap_or(0);
        let term = newest.max(model.vote.map_or(0, |v| v.0)).max(model.purged.1);
        let committed = log.committed().unwrap().map(|id| id.index);
        Ok(Self {
            io,
            disk,
            log,
            asked: Vec::new(),
            history: Vec::new(),
            neighbour_history: Vec::new(),
            neighbour,
            snapshots: Vec::new(),
            pinned: Vec::new(),
            refused: 0,
            counts: BTreeMap::new(),
            merged: 0,
            told,
            model,
            committed,
            term,
            rng: seed.wrapping_mul(0x9e37_79b9) + 1,
        })
    }

    pub(crate) fn failed(&self) -> bool {
        self.told.failed.load(Ordering::Relaxed)
    }

    fn acknowledged(&self) -> usize {
        usize::try_from(self.told.upto.load(Ordering::Relaxed)).unwrap()
    }

    /// Completes what was asked up to now, in order.
    fn done(&self) -> Callback {
        let (told, upto) = (Arc::clone(&self.told), self.asked.len() as u64);
        Box::new(move |result| {
            if result.is_ok() {
                assert!(told.upto.swap(upto, Ordering::Relaxed) <= upto, "out of order");
                told.catch_up();
            }
        })
    }

    /// Completes the purge that was asked last.
    fn purged(&self) -> Callback {
        let (told, upto) = (Arc::clone(&self.told), self.asked.len() as u64);
        Box::new(move |result| {
            if result.is_ok() {
                told.ahead.lock().unwrap().insert(upto);
                told.catch_up();
            }
        })
    }

    fn ask(&mut self, asked: Asked) {
        self.model.apply(&asked);
        self.asked.push(asked);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn step(&mut self) {
        if random(&mut self.rng, 4) == 0 {
            self.neighbour.append();
        }
        match random(&mut self.rng, 100) {
            0..34 => self.append(),
            34..72 => {
                self.disk.run_round();
            }
            72..76 => self.vote(),
            76..79 => self.truncate(),
            79..87 => self.commit(),
            87..91 => self.purge(),
            91..93 => self.reclaim(),
            93..97 => self.compact(),
            97..99 => self.snapshot(),
            _ => self.install(),
        }
        let ops = self.io.ops();
        self.history.push((ops, self.asked.len(), self.acknowledged()));
        self.neighbour_history.push((ops, self.neighbour.acknowledged.load(Ordering::Relaxed)));
    }

    fn next(&self) -> u64 {
        self.log.last().map_or(0, |id| id.index + 1)
    }

    fn append(&mut self) {
        let priority =
            if random(&mut self.rng, 8) == 0 { Priority::Freeing } else { Priority::Normal };
        let many = 1 + random(&mut self.rng, 6);
        let entries: Vec<Entry> = (self.next()..self.next() + many)
            .map(|index| {
                let len = match random(&mut self.rng, 60) {
                    0 => 20_000,
                    1..6 => 5_000,
                    _ => random(&mut self.rng, 500),
                };
                let fill = u8::try_from(random(&mut self.rng, 256)).unwrap();
                let mut payload = vec![fill; usize::try_from(len).unwrap()];
                payload.extend_from_slice(&(self.asked.len() as u64 + index).to_le_bytes());
                Entry {
                    index,
                    term: self.term,
                    leader_node: (fill % 2 == 0).then_some(9),
                    kind: EntryKind::Normal,
                    payload: payload.into(),
                }
            })
            .collect();
        let before = self.asked.len();
        for entry in &entries {
            let Entry { index, term, payload, .. } = entry.clone();
            self.asked.push(Asked::Entry { index, term, payload });
        }
        match self.log.append(entries, priority, self.done()) {
            Ok(()) => {
                let new = self.asked[before..].to_vec();
                new.iter().for_each(|asked| self.model.apply(asked));
                self.count("append");
            }
            Err(AppendError::Full { .. }) => {
                self.asked.truncate(before);
                self.refused += 1;
            }
            Err(AppendError::Failed(_)) => self.asked.truncate(before),
            Err(other) => panic!("{other}"),
        }
    }

    fn vote(&mut self) {
        self.term += 1;
        let voted_for = Some(random(&mut self.rng, 3));
        let vote = Vote { term: self.term, voted_for, committed: self.term.is_multiple_of(2) };
        self.ask(Asked::Vote(vote));
        self.log.save_vote(vote, self.done());
        self.count("vote");
    }

    fn truncate(&mut self) {
        let low =
            self.committed.map_or(0, |c| c + 1).max(self.log.purged().map_or(0, |p| p.index + 1));
        if low >= self.next() {
            return;
        }
        self.vote();
        let span = self.next() - low;
        let from = low + random(&mut self.rng, span);
        self.ask(Asked::Truncate { from });
        self.log.truncate_after(from.checked_sub(1), self.done());
        self.count("truncate");
    }

    /// Commits what is durable, never less than before.
    fn commit(&mut self) {
        if self.acknowledged() < self.asked.len() || self.next() == 0 || self.failed() {
            return;
        }
        let low = self.committed.map_or(0, |c| c + 1);
        let span = (self.next() + 1).saturating_sub(low).max(1);
        let committed = low + random(&mut self.rng, span);
        let committed = committed.min(self.next() - 1);
        self.log.save_committed(Some(committed));
        if self.committed.is_none_or(|before| committed > before) {
            for index in (low..=committed).filter(|index| index % 13 == 0) {
                if let Some((_, payload)) = self.model.entries.get(&index) {
                    self.pinned.push((self.io.ops(), index, payload.clone()));
                }
            }
        }
        self.committed = Some(committed);
        self.count("commit");
    }

    fn purge(&mut self) {
        let Some(committed) = self.committed else { return };
        let keep = random(&mut self.rng, 30);
        let Some(upto) = self.log.log_id(committed.saturating_sub(keep)).unwrap() else { return };
        if self.log.purged().is_some_and(|p| p.index >= upto.index) {
            return;
        }
        self.ask(Asked::Purge { upto });
        self.log.purge(upto, self.purged());
        self.count("purge");
    }

    fn reclaim(&mut self) {
        let pinned = self.live();
        let reclaimed = self.log.reclaim(&|range| pinned.references(range) > 0);
        assert!(!reclaimed.failed || self.failed());
        if reclaimed.segments > 0 {
            self.count("unlink");
        }
        if reclaimed.recycled > 0 {
            self.count("recycle");
        }
    }

    /// The pinned last are live.
    fn live(&self) -> Pinned {
        let mut live: Vec<u64> = self.pinned.iter().rev().take(PINNED).map(|p| p.1).collect();
        live.sort_unstable();
        live.dedup();
        Pinned(live)
    }

    fn compact(&mut self) {
        let mut pinned = self.live();
        for run in self.log.sparse(&pinned).expect("nothing is damaged") {
            match self.log.compact(run, &mut pinned, None) {
                Ok(done) if done.segments > 0 => {
                    self.count("compact");
                    self.merged += u64::from(done.segments > 1);
                }
                Ok(_) => {}
                Err(CompactError::Full) => self.refused += 1,
                Err(error) => assert!(self.failed(), "{error}"),
            }
        }
    }

    /// What the neighbour had acknowledged at an operation.
    pub(crate) fn neighbour_at(&self, ops: u64) -> u64 {
        let after = self.neighbour_history.partition_point(|step| step.0 <= ops);
        after.checked_sub(1).map_or(0, |i| self.neighbour_history[i].1)
    }

    /// The messages that were live at an operation.
    pub(crate) fn pinned_at(&self, ops: u64) -> impl Iterator<Item = &(u64, u64, Bytes)> {
        let known = self.pinned.iter().filter(|pin| pin.0 <= ops).count();
        self.pinned[known.saturating_sub(PINNED)..known].iter()
    }

    fn write_snapshot(&mut self, last: LogId) -> bool {
        // A function of the id: two lives may write the same one.
        let len = (last.index * 37 + last.term) % 3000;
        let state: Vec<u8> =
            (0..len).map(|i| u8::try_from((i + last.index) % 251).unwrap()).collect();
        let store = self.log.snapshots();
        let known = self.snapshots.iter().any(|s| (s.1, s.2) == (last.index, last.term));
        let written = store.begin(last, Bytes::from_static(b"meta")).and_then(|mut writer| {
            state.chunks(700).try_for_each(|chunk| writer.write(chunk))?;
            writer.commit()
        });
        if written.is_err() {
            return false;
        }
        if !known {
            self.snapshots.push((self.io.ops(), last.index, last.term, state));
        }
        self.count("snapshot");
        store.delete_older(last).is_ok()
    }

    fn snapshot(&mut self) {
        let Some(last) = self.committed.and_then(|c| self.log.log_id(c).unwrap()) else { return };
        if self.snapshots.last().is_none_or(|s| (s.1, s.2) < (last.index, last.term)) {
            self.write_snapshot(last);
        }
    }

    /// A snapshot from a leader far ahead: the log starts again behind it.
    fn install(&mut self) {
        if random(&mut self.rng, 6) != 0 || self.failed() {
            return;
        }
        let index = self.next() + random(&mut self.rng, 20);
        let last = LogId { term: self.term.max(1), leader_node: None, index };
        if self.snapshots.last().is_some_and(|s| (s.1, s.2) >= (last.index, last.term))
            || !self.write_snapshot(last)
        {
            return;
        }
        self.term = last.term;
        self.ask(Asked::Purge { upto: last });
        self.log.purge(last, self.purged());
        self.committed = Some(last.index);
        self.log.save_committed(Some(last.index));
        self.count("install");
    }
}

/// Whether the path is of the shard's log proper.
pub(crate) fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "seg")
}
