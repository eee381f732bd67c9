//! The seam to the operating system: files, directories, clock and randomness of a data directory.
//!
//! Three implementations pass one contract test (`tests/io_contract.rs`): the disk, memory, and a simulated disk that
//! tears, drops, reorders, flips and fills. A write is durable after `sync_data` of its file; a created, renamed or
//! removed name is durable after `sync_dir` of its directory. Reads see every write at once, synced or not.

mod disk;
mod memory;
mod simulated;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use self::disk::DiskIo;
pub use self::memory::MemoryIo;
pub use self::simulated::{Crash, Fault, Replay, SimulatedIo};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name, without the path.
    pub name: String,
    /// It is a directory.
    pub is_dir: bool,
}

/// Room on the file system that holds a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A file system with a clock and a source of randomness.
pub trait Io: Send + Sync + 'static {
    /// Makes a directory; its parent must exist; fine if it exists already.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file; fails if it exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Makes a file of `len` written zeroes, synced; fails if it exists. A full disk fails cleanly and leaves no file.
    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>>;
    /// Opens a file to read and write.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Renames a file or directory, replacing a file; atomic.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; open descriptors and maps of it stay good.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Room left where `path` is.
    fn free_space(&self, path: &Path) -> io::Result<FreeSpace>;
    /// Takes an exclusive lock on a file, made if absent; `WouldBlock` if another holds it. Dropping it unlocks.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// A random number; never used where it would have to be repeated.
    fn random(&self) -> u64;
    /// Wall clock, µs since 1970; for people, nothing depends on it.
    fn now_us(&self) -> u64;
}

/// An open file.
pub trait File: Send + Sync {
    /// Writes the buffers one after the other at `offset`, all or an error; beyond the end it grows the file.
    fn write_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()>;
    /// Makes what this descriptor wrote durable. After an error it must not be called again.
    fn sync_data(&self) -> io::Result<()>;
    /// Length, bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Maps the file as long as it is now, read-only; later writes within that show through the map.
    fn map(&self) -> io::Result<Arc<dyn Map>>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A read-only view of a file.
pub trait Map: Send + Sync {
    /// Bytes mapped.
    fn size(&self) -> u64;
    /// Copies from `offset`; false if that is outside or unreadable.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> bool;
    /// A slice; it keeps the map alive. `None` if outside or unreadable.
    fn slice(&self, offset: u64, len: usize) -> Option<Bytes>;
    /// Some slice handed out still lives.
    fn slices_out(&self) -> bool;
}

/// A held lock.
pub trait Lock: Send + Sync {}
