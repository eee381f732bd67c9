//! The state of a simulated disk: what is written, what of it is durable, and what a crash leaves.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use bytes::Bytes;

/// What a disk writes in one piece.
const SECTOR: usize = 512;
pub(super) const ROOT: u64 = 0;

/// What a crash leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Nothing.
    Lost,
    /// Everything, as when only the process dies.
    Kept,
    /// Of each sector some version since its sync, of each directory the changes up to some point.
    Torn {
        /// Decides which.
        seed: u64,
    },
    /// As `Torn`, and the changes of a directory survive each on its own, in any combination.
    Reordered {
        /// Decides which.
        seed: u64,
    },
}

/// A change of the disk.
#[derive(Debug, Clone)]
pub(super) enum Op {
    MakeDir {
        parent: u64,
        name: String,
        dir: u64,
    },
    Create {
        dir: u64,
        name: String,
        file: u64,
    },
    Write {
        file: u64,
        offset: usize,
        bytes: Bytes,
    },
    Zero {
        file: u64,
        len: usize,
    },
    Sync {
        file: u64,
    },
    /// A sync that failed: what it was for is lost, and the next one will say it is fine (errors are told once).
    Lose {
        file: u64,
    },
    Rename {
        dir: u64,
        from: String,
        to: String,
    },
    Remove {
        dir: u64,
        name: String,
    },
    SyncDir {
        dir: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Dir(u64),
}

#[derive(Clone)]
enum Pending {
    Write { offset: usize, bytes: Bytes },
    Zero { len: usize },
}

#[derive(Clone, Default)]
pub(super) struct FileState {
    pub(super) current: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum DirChange {
    Add(String, Node),
    Remove(String),
    Rename(String, String),
}

#[derive(Clone, Default)]
pub(super) struct Dir {
    pub(super) current: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<DirChange>,
}

/// A disk. Cloning it is cheap: contents are shared until written.
#[derive(Clone)]
pub(super) struct World {
    pub(super) files: BTreeMap<u64, FileState>,
    pub(super) dirs: BTreeMap<u64, Dir>,
    pub(super) next_id: u64,
    pub(super) ops: u64,
    pub(super) random: u64,
}

pub(super) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn put(image: &mut Arc<Vec<u8>>, offset: usize, bytes: &[u8]) {
    let image = Arc::make_mut(image);
    let end = offset + bytes.len();
    if end > image.len() {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}

impl Pending {
    fn apply(&self, image: &mut Arc<Vec<u8>>) {
        match self {
            Self::Write { offset, bytes } => put(image, *offset, bytes),
            Self::Zero { len } => put(image, 0, &vec![0; *len]),
        }
    }

    fn range(&self) -> std::ops::Range<usize> {
        match self {
            Self::Write { offset, bytes } => *offset..offset + bytes.len(),
            Self::Zero { len } => 0..*len,
        }
    }

    /// Writes only what lies in one sector.
    fn apply_sector(&self, image: &mut Arc<Vec<u8>>, sector: usize) {
        let range = self.range();
        let (start, end) = (range.start.max(sector * SECTOR), range.end.min((sector + 1) * SECTOR));
        if start >= end {
            return;
        }
        match self {
            Self::Write { offset, bytes } => {
                put(image, start, &bytes[start - offset..end - offset])
            }
            Self::Zero { .. } => put(image, start, &vec![0; end - start]),
        }
    }
}

fn change(names: &mut BTreeMap<String, Node>, change: &DirChange) {
    match change {
        DirChange::Add(name, node) => {
            names.insert(name.clone(), *node);
        }
        DirChange::Remove(name) => {
            names.remove(name);
        }
        DirChange::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

impl Dir {
    fn record(&mut self, made: DirChange) {
        change(&mut self.current, &made);
        self.pending.push(made);
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let dirs = BTreeMap::from([(ROOT, Dir::default())]);
        Self { files: BTreeMap::new(), dirs, next_id: 1, ops: 0, random: seed }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        self.ops += 1;
        match op {
            Op::MakeDir { parent, name, dir } => {
                self.next_id = self.next_id.max(dir + 1);
                self.dirs.insert(*dir, Dir::default());
                self.dir(*parent, |d| d.record(DirChange::Add(name.clone(), Node::Dir(*dir))));
            }
            Op::Create { dir, name, file } => {
                self.next_id = self.next_id.max(file + 1);
                self.files.insert(*file, FileState::default());
                self.dir(*dir, |d| d.record(DirChange::Add(name.clone(), Node::File(*file))));
            }
            Op::Write { file, offset, bytes } => {
                self.pend(*file, Pending::Write { offset: *offset, bytes: bytes.clone() });
            }
            Op::Zero { file, len } => self.pend(*file, Pending::Zero { len: *len }),
            Op::Sync { file } => {
                if let Some(state) = self.files.get_mut(file) {
                    state.durable = Arc::clone(&state.current);
                    state.pending.clear();
                }
            }
            Op::Lose { file } => {
                if let Some(state) = self.files.get_mut(file) {
                    state.pending.clear();
                }
            }
            Op::Rename { dir, from, to } => {
                self.dir(*dir, |d| d.record(DirChange::Rename(from.clone(), to.clone())));
            }
            Op::Remove { dir, name } => {
                self.dir(*dir, |d| d.record(DirChange::Remove(name.clone())));
            }
            Op::SyncDir { dir } => self.dir(*dir, |d| {
                d.durable = d.current.clone();
                d.pending.clear();
            }),
        }
    }

    fn pend(&mut self, file: u64, pending: Pending) {
        if let Some(state) = self.files.get_mut(&file) {
            pending.apply(&mut state.current);
            state.pending.push(pending);
        }
    }

    fn dir(&mut self, id: u64, with: impl FnOnce(&mut Dir)) {
        if let Some(dir) = self.dirs.get_mut(&id) {
            with(dir);
        }
    }

    /// What stands at a path.
    pub(super) fn find(&self, path: &Path) -> Option<Node> {
        let mut node = Node::Dir(ROOT);
        for component in path.components() {
            if let Component::Normal(name) = component {
                let Node::Dir(dir) = node else { return None };
                node = *self.dirs.get(&dir)?.current.get(name.to_str()?)?;
            }
        }
        Some(node)
    }

    /// Bytes of the files that have a name.
    pub(super) fn used(&self) -> u64 {
        let nodes = self.dirs.values().flat_map(|dir| dir.current.values());
        let files = nodes.filter_map(|node| match node {
            Node::File(file) => self.files.get(file),
            Node::Dir(_) => None,
        });
        files.map(|file| file.current.len() as u64).sum()
    }

    pub(super) fn flip(&mut self, file: u64, offset: usize, bit: u8) {
        if let Some(state) = self.files.get_mut(&file) {
            for image in [&mut state.current, &mut state.durable] {
                if let Some(byte) = Arc::make_mut(image).get_mut(offset) {
                    *byte ^= 1 << bit;
                }
            }
        }
    }

    /// The disk as it is found after a crash.
    pub(super) fn crashed(&self, crash: Crash) -> Self {
        let mut world = self.clone();
        let mut random = match crash {
            Crash::Torn { seed } | Crash::Reordered { seed } => seed,
            Crash::Lost | Crash::Kept => 0,
        };
        for state in world.files.values_mut() {
            let image = match crash {
                Crash::Lost => Arc::clone(&state.durable),
                Crash::Kept => Arc::clone(&state.current),
                Crash::Torn { .. } | Crash::Reordered { .. } => state.torn(&mut random),
            };
            *state = FileState { current: Arc::clone(&image), durable: image, pending: Vec::new() };
        }
        for dir in world.dirs.values_mut() {
            let total = dir.pending.len() as u64;
            let kept = splitmix(&mut random) % (total + 1);
            for (i, made) in (0..).zip(&dir.pending) {
                let survives = match crash {
                    Crash::Lost => false,
                    Crash::Kept => true,
                    Crash::Torn { .. } => i < kept,
                    Crash::Reordered { .. } => splitmix(&mut random).is_multiple_of(2),
                };
                if survives {
                    change(&mut dir.durable, made);
                }
            }
            dir.current = dir.durable.clone();
            dir.pending.clear();
        }
        world.random ^= splitmix(&mut random);
        world
    }
}

impl FileState {
    /// Some version of each sector that was written since the sync.
    fn torn(&self, random: &mut u64) -> Arc<Vec<u8>> {
        let mut image = Arc::clone(&self.durable);
        let end = self.pending.iter().map(|p| p.range().end).max().unwrap_or(0);
        for sector in 0..end.div_ceil(SECTOR) {
            let touches = |p: &&Pending| {
                let range = p.range();
                range.start < (sector + 1) * SECTOR && range.end > sector * SECTOR
            };
            let writes: Vec<&Pending> = self.pending.iter().filter(touches).collect();
            let version = splitmix(random) % (writes.len() as u64 + 1);
            for (_, write) in (0..version).zip(writes) {
                write.apply_sector(&mut image, sector);
            }
        }
        image
    }
}
