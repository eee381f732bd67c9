//! Files in memory: the same log with nothing behind it (`--data-dir memory`).

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{DirEntry, File, FreeSpace, Io, Lock, Map};

/// Files in memory, gone with the last handle. There is no limit of its own: the log's retention bounds it.
#[derive(Clone)]
pub struct MemoryIo {
    tree: Arc<Mutex<Tree>>,
    capacity: u64,
}

#[derive(Default)]
struct Tree {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Arc<RwLock<Vec<u8>>>>,
    locks: BTreeSet<PathBuf>,
}

impl Default for MemoryIo {
    fn default() -> Self {
        Self::new(u64::MAX)
    }
}

impl MemoryIo {
    /// `capacity` is what `free_space` counts down from, bytes.
    pub fn new(capacity: u64) -> Self {
        Self { tree: Arc::default(), capacity }
    }
}

pub(super) fn not_found() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file or directory")
}

pub(super) fn exists() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "file exists")
}

fn full() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, "no space left")
}

impl Tree {
    /// The root and everything above it exist; below, a directory must have been made.
    fn is_dir(&self, path: &Path) -> bool {
        self.dirs.contains(path)
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            None => Ok(()),
            Some(p) if p.as_os_str().is_empty() || p == Path::new("/") || self.is_dir(p) => Ok(()),
            Some(_) => Err(not_found()),
        }
    }

    fn used(&self) -> u64 {
        self.files.values().map(|f| f.read().len() as u64).sum()
    }
}

impl Io for MemoryIo {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.parent_exists(path)?;
        if tree.files.contains_key(path) {
            return Err(exists());
        }
        tree.dirs.insert(path.to_owned());
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.create_zeroed(path, 0)
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        let mut tree = self.tree.lock();
        tree.parent_exists(path)?;
        if tree.files.contains_key(path) || tree.is_dir(path) {
            return Err(exists());
        }
        if self.capacity != u64::MAX && self.capacity.saturating_sub(tree.used()) < len {
            return Err(full());
        }
        let len = usize::try_from(len).map_err(|_| full())?;
        let data = Arc::new(RwLock::new(vec![0; len]));
        tree.files.insert(path.to_owned(), Arc::clone(&data));
        Ok(Arc::new(MemoryFile { data }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let data = self.tree.lock().files.get(path).cloned().ok_or_else(not_found)?;
        Ok(Arc::new(MemoryFile { data }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.parent_exists(to)?;
        if let Some(file) = tree.files.remove(from) {
            tree.files.insert(to.to_owned(), file);
            return Ok(());
        }
        if !tree.is_dir(from) {
            return Err(not_found());
        }
        if tree.is_dir(to) || tree.files.contains_key(to) {
            return Err(exists());
        }
        let moved = |path: &PathBuf| path.strip_prefix(from).ok().map(|rest| join(to, rest));
        let dirs: Vec<_> = tree.dirs.iter().filter_map(|p| Some((p.clone(), moved(p)?))).collect();
        for (old, new) in dirs {
            tree.dirs.remove(&old);
            tree.dirs.insert(new);
        }
        let files: Vec<_> =
            tree.files.keys().filter_map(|p| Some((p.clone(), moved(p)?))).collect();
        for (old, new) in files {
            if let Some(file) = tree.files.remove(&old) {
                tree.files.insert(new, file);
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.tree.lock().files.remove(path).map(|_| ()).ok_or_else(not_found)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "directory not empty"));
        }
        self.tree.lock().dirs.remove(path);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.tree.lock().is_dir(path) { Ok(()) } else { Err(not_found()) }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let tree = self.tree.lock();
        if !tree.is_dir(path) {
            return Err(not_found());
        }
        let name = |p: &PathBuf, is_dir| {
            let name = p.file_name()?.to_str()?.to_owned();
            (p.parent() == Some(path)).then_some(DirEntry { name, is_dir })
        };
        let mut names: Vec<DirEntry> = tree.dirs.iter().filter_map(|p| name(p, true)).collect();
        names.extend(tree.files.keys().filter_map(|p| name(p, false)));
        names.sort();
        Ok(names)
    }

    fn free_space(&self, _: &Path) -> io::Result<FreeSpace> {
        if self.capacity == u64::MAX {
            return Ok(FreeSpace { free: u64::MAX, total: u64::MAX });
        }
        let used = self.tree.lock().used();
        Ok(FreeSpace { free: self.capacity.saturating_sub(used), total: self.capacity })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let mut tree = self.tree.lock();
        tree.parent_exists(path)?;
        if !tree.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        tree.files.entry(path.to_owned()).or_default();
        Ok(Box::new(MemoryLock { tree: Arc::clone(&self.tree), path: path.to_owned() }))
    }

    fn random(&self) -> u64 {
        // The standard library's hasher is keyed by the system's randomness, anew each time.
        RandomState::new().build_hasher().finish()
    }

    fn now_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

struct MemoryLock {
    tree: Arc<Mutex<Tree>>,
    path: PathBuf,
}

impl Lock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.tree.lock().locks.remove(&self.path);
    }
}

struct MemoryFile {
    data: Arc<RwLock<Vec<u8>>>,
}

impl File for MemoryFile {
    fn write_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut data = self.data.write();
        let mut at = usize::try_from(offset).map_err(|_| full())?;
        for buffer in buffers {
            let end = at.checked_add(buffer.len()).ok_or_else(full)?;
            if end > data.len() {
                data.resize(end, 0);
            }
            data[at..end].copy_from_slice(buffer);
            at = end;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.data.read().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let data = self.data.read();
        let rest = usize::try_from(offset).ok().and_then(|at| data.get(at..)).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        let size = self.len()?;
        Ok(Arc::new(MemoryMap { data: Arc::clone(&self.data), size }))
    }
}

/// A map of a file in memory; slices are copies.
struct MemoryMap {
    data: Arc<RwLock<Vec<u8>>>,
    size: u64,
}

impl Map for MemoryMap {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> bool {
        let Some(end) = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size)
        else {
            return false;
        };
        let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(end)) else {
            return false;
        };
        self.data.read().get(start..end).map(|source| buffer.copy_from_slice(source)).is_some()
    }

    fn slice(&self, offset: u64, len: usize) -> Option<Bytes> {
        let end = offset.checked_add(len as u64).filter(|end| *end <= self.size)?;
        let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        self.data.read().get(start..end).map(Bytes::copy_from_slice)
    }

    fn slices_out(&self) -> bool {
        false
    }
}
