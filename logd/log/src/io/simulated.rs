//! A disk that crashes, tears, reorders, flips, fails and fills, the same way each time.
//!
//! Nothing is durable but by `sync_data` and `sync_dir`. [`SimulatedIo::crash`] makes the disk that is found after a
//! power cut now; a recorded run can be replayed operation by operation and cut after each ([`Replay`]). One restriction:
//! a rename stays within its directory.

mod world;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use self::world::{Node, Op, World, splitmix};
use super::memory::{exists, not_found};
use super::{DirEntry, File, FreeSpace, Io, Lock, Map};

pub use self::world::Crash;

/// What fails on a file from now on, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Reads and maps.
    Read,
    /// Writes.
    Write,
    /// Syncs; what a failed sync was for is lost.
    Sync,
}

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimulatedIo {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    world: World,
    capacity: u64,
    journal: Option<Vec<Op>>,
    faults: BTreeSet<(u64, Fault)>,
    /// The operation from whose number on the next write or sync fails.
    fail_at: Option<u64>,
    locks: BTreeSet<PathBuf>,
    time_us: u64,
}

/// A recorded run, replayed.
pub struct Replay {
    ops: Vec<Op>,
    at: usize,
    world: World,
}

impl Replay {
    /// Makes the next operation happen; false at the end.
    pub fn step(&mut self) -> bool {
        let Some(op) = self.ops.get(self.at) else {
            return false;
        };
        self.world.apply(op);
        self.at += 1;
        true
    }

    /// Operations that have happened.
    pub fn ops(&self) -> u64 {
        self.at as u64
    }

    /// The disk found if the crash were now.
    pub fn crash(&self, crash: Crash) -> SimulatedIo {
        SimulatedIo::with_world(self.world.crashed(crash))
    }
}

fn eio() -> io::Error {
    io::Error::other("simulated input/output error")
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "simulated full disk")
}

impl SimulatedIo {
    /// An empty disk whose randomness comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with_world(World::new(seed))
    }

    fn with_world(world: World) -> Self {
        let shared = Shared {
            world,
            capacity: 1 << 40,
            journal: None,
            faults: BTreeSet::new(),
            fail_at: None,
            locks: BTreeSet::new(),
            time_us: 0,
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Records all that happens from now on; only on a disk that is still empty.
    pub fn record(&self) {
        let mut shared = self.shared.lock();
        assert_eq!(shared.world.ops, 0, "a recording starts with an empty disk");
        shared.journal = Some(Vec::new());
    }

    /// The recording so far, to be replayed from the start.
    pub fn replay(&self) -> Replay {
        let shared = self.shared.lock();
        let ops = shared.journal.clone().unwrap_or_default();
        Replay { ops, at: 0, world: World::new(0) }
    }

    /// Changes so far: creations, writes, syncs, renames, removals.
    pub fn ops(&self) -> u64 {
        self.shared.lock().world.ops
    }

    /// The disk found if the crash were now; this one goes on as if nothing had been.
    pub fn crash(&self, crash: Crash) -> Self {
        Self::with_world(self.shared.lock().world.crashed(crash))
    }

    /// Bytes that fit in all; the write that goes beyond is done as far as it fits.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.lock().capacity = bytes;
    }

    /// Bytes in files.
    pub fn used(&self) -> u64 {
        self.shared.lock().world.used()
    }

    /// Makes a file fail.
    pub fn fail(&self, path: &Path, fault: Fault) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let file = shared.file_at(path)?;
        shared.faults.insert((file, fault));
        Ok(())
    }

    /// The first write or sync from operation number `op` on fails, and its file for good.
    pub fn fail_at(&self, op: u64) {
        self.shared.lock().fail_at = Some(op);
    }

    /// Flips a bit on the medium.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let file = shared.file_at(path)?;
        let offset = usize::try_from(offset).map_err(|_| eio())?;
        shared.world.flip(file, offset, bit % 8);
        Ok(())
    }

    /// All files with their contents, sorted by path.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(world: &World, dir: u64, path: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
            for (name, node) in world.dirs.get(&dir).iter().flat_map(|d| &d.current) {
                let path = path.join(name);
                match node {
                    Node::Dir(dir) => walk(world, *dir, &path, out),
                    Node::File(file) => {
                        let bytes = world.files.get(file).map(|f| f.current.to_vec());
                        out.push((path, bytes.unwrap_or_default()));
                    }
                }
            }
        }
        let shared = self.shared.lock();
        let mut out = Vec::new();
        walk(&shared.world, world::ROOT, Path::new("/"), &mut out);
        out
    }
}

impl Shared {
    fn perform(&mut self, op: Op) {
        self.world.apply(&op);
        if let Some(journal) = &mut self.journal {
            journal.push(op);
        }
    }

    fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.world.find(path) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(not_found()),
        }
    }

    fn dir_at(&self, path: &Path) -> io::Result<u64> {
        match self.world.find(path) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(not_found()),
        }
    }

    /// The directory and the name of a path.
    fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(not_found)?;
        Ok((self.dir_at(path.parent().unwrap_or(Path::new("/")))?, name.to_owned()))
    }

    fn check(&mut self, file: u64, fault: Fault) -> io::Result<()> {
        if fault != Fault::Read && self.fail_at.is_some_and(|op| self.world.ops >= op) {
            self.fail_at = None;
            self.faults.extend([(file, Fault::Write), (file, Fault::Sync)]);
        }
        if self.faults.contains(&(file, fault)) { Err(eio()) } else { Ok(()) }
    }

    /// How many of the bytes up to `end` fit.
    fn fitting(&self, file: u64, end: u64) -> u64 {
        let len = self.world.files.get(&file).map_or(0, |f| f.current.len() as u64);
        let growth = end.saturating_sub(len);
        let free = self.capacity.saturating_sub(self.world.used());
        end - growth.saturating_sub(free)
    }
}

impl Io for SimulatedIo {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut shared = self.shared.lock();
        match shared.world.find(path) {
            Some(Node::Dir(_)) => return Ok(()),
            Some(Node::File(_)) => return Err(exists()),
            None => {}
        }
        let (parent, name) = shared.place(path)?;
        let dir = shared.world.next_id;
        shared.perform(Op::MakeDir { parent, name, dir });
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut shared = self.shared.lock();
        if shared.world.find(path).is_some() {
            return Err(exists());
        }
        let (dir, name) = shared.place(path)?;
        let file = shared.world.next_id;
        shared.perform(Op::Create { dir, name, file });
        Ok(Arc::new(SimulatedFile { shared: Arc::clone(&self.shared), file }))
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        let handle = self.create(path)?;
        let filled = {
            let mut shared = self.shared.lock();
            let file = shared.file_at(path)?;
            let fits = shared.fitting(file, len);
            let size = usize::try_from(fits).map_err(|_| full())?;
            shared.perform(Op::Zero { file, len: size });
            if fits < len { Err(full()) } else { Ok(()) }
        };
        if let Err(error) = filled.and_then(|()| handle.sync_data()) {
            let _ = self.remove_file(path);
            return Err(error);
        }
        Ok(handle)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.shared.lock().file_at(path)?;
        Ok(Arc::new(SimulatedFile { shared: Arc::clone(&self.shared), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let node = shared.world.find(from).ok_or_else(not_found)?;
        let ((dir, from), (other, name)) = (shared.place(from)?, shared.place(to)?);
        if dir != other {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if let Some(target) = shared.world.find(to)
            && (matches!(target, Node::Dir(_)) || matches!(node, Node::Dir(_)))
        {
            return Err(exists());
        }
        shared.perform(Op::Rename { dir, from, to: name });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut shared = self.shared.lock();
        shared.file_at(path)?;
        let (dir, name) = shared.place(path)?;
        shared.perform(Op::Remove { dir, name });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let id = shared.dir_at(path)?;
        if shared.world.dirs.get(&id).is_some_and(|dir| !dir.current.is_empty()) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = shared.place(path)?;
        shared.perform(Op::Remove { dir, name });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let dir = shared.dir_at(path)?;
        shared.perform(Op::SyncDir { dir });
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let shared = self.shared.lock();
        let dir = shared.dir_at(path)?;
        let names = shared.world.dirs.get(&dir).map(|dir| &dir.current);
        let entry = |(name, node): (&String, &Node)| DirEntry {
            name: name.clone(),
            is_dir: matches!(node, Node::Dir(_)),
        };
        Ok(names.into_iter().flatten().map(entry).collect())
    }

    fn free_space(&self, _: &Path) -> io::Result<FreeSpace> {
        let shared = self.shared.lock();
        let free = shared.capacity.saturating_sub(shared.world.used());
        Ok(FreeSpace { free, total: shared.capacity })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        if self.shared.lock().world.find(path).is_none() {
            self.create(path)?;
        }
        if !self.shared.lock().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimulatedLock { shared: Arc::clone(&self.shared), path: path.to_owned() }))
    }

    fn random(&self) -> u64 {
        splitmix(&mut self.shared.lock().world.random)
    }

    fn now_us(&self) -> u64 {
        let mut shared = self.shared.lock();
        shared.time_us += 1;
        shared.time_us
    }
}

struct SimulatedLock {
    shared: Arc<Mutex<Shared>>,
    path: PathBuf,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.shared.lock().locks.remove(&self.path);
    }
}

struct SimulatedFile {
    shared: Arc<Mutex<Shared>>,
    file: u64,
}

impl SimulatedFile {
    fn read<T>(&self, with: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let mut shared = self.shared.lock();
        shared.check(self.file, Fault::Read)?;
        let file = shared.world.files.get(&self.file).ok_or_else(not_found)?;
        Ok(with(&file.current))
    }
}

impl File for SimulatedFile {
    fn write_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut shared = self.shared.lock();
        shared.check(self.file, Fault::Write)?;
        let mut bytes = buffers.concat();
        let wanted = bytes.len();
        let fits = shared.fitting(self.file, offset + wanted as u64).saturating_sub(offset);
        bytes.truncate(usize::try_from(fits).unwrap_or(usize::MAX));
        let written = bytes.len();
        let offset = usize::try_from(offset).map_err(|_| full())?;
        shared.perform(Op::Write { file: self.file, offset, bytes: Bytes::from(bytes) });
        if written < wanted { Err(full()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let result = shared.check(self.file, Fault::Sync);
        let file = self.file;
        shared.perform(if result.is_ok() { Op::Sync { file } } else { Op::Lose { file } });
        result
    }

    fn len(&self) -> io::Result<u64> {
        self.read(|bytes| bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(|bytes| {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = bytes.get(at..).unwrap_or_default();
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            n
        })
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        let size = self.len()?;
        let file = Self { shared: Arc::clone(&self.shared), file: self.file };
        Ok(Arc::new(SimulatedMap { file, size }))
    }
}

/// A map of a simulated file; slices are copies.
struct SimulatedMap {
    file: SimulatedFile,
    size: u64,
}

impl Map for SimulatedMap {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> bool {
        let inside = offset.checked_add(buffer.len() as u64).is_some_and(|end| end <= self.size);
        inside && self.file.read_at(buffer, offset).is_ok_and(|n| n == buffer.len())
    }

    fn slice(&self, offset: u64, len: usize) -> Option<Bytes> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.size)?;
        let range = usize::try_from(offset).ok()?..usize::try_from(end).ok()?;
        self.file.read(|bytes| bytes.get(range).map(Bytes::copy_from_slice)).ok()?
    }

    fn slices_out(&self) -> bool {
        false
    }
}
