//! Read-only maps of segment files: the one module with `unsafe`.
//!
//! Nothing is ever stored through a map: stores would dirty whole folios (1 MiB written per 4 KiB appended, measured)
//! and turn a full disk into SIGBUS. A mapped file is never truncated, punched or reused while its map lives, only
//! unlinked (storage.md §2).

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

use crate::io::Map;

/// A map of a whole file.
pub(crate) struct DiskMap {
    map: Arc<Mmap>,
}

/// Keeps the map alive for the slices made from it.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl DiskMap {
    /// Maps the file as long as it is now.
    #[allow(unsafe_code)]
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the file lies in our locked data directory and never shrinks while mapped: segments are made at
        // full length, never truncated, punched or reused, only unlinked. Bytes that a `pwrite` may still change are
        // those of records not yet synced, which are never handed out as slices (entries are served from their batch
        // buffers until then); the header copies made there are checked by value afterwards. The state of a snapshot is
        // mapped when it is complete: nothing writes to it any more, it is only unlinked.
        let map = unsafe { MmapOptions::new().map(file)? };
        Ok(Self { map: Arc::new(map) })
    }
}

impl Map for DiskMap {
    fn size(&self) -> u64 {
        self.map.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> bool {
        let Some(source) = range(offset, buffer.len()).and_then(|r| self.map.get(r)) else {
            return false;
        };
        buffer.copy_from_slice(source);
        true
    }

    fn slice(&self, offset: u64, len: usize) -> Option<Bytes> {
        let range = range(offset, len)?;
        if range.end > self.map.len() {
            return None;
        }
        Some(Bytes::from_owner(Owner(Arc::clone(&self.map))).slice(range))
    }

    fn slices_out(&self) -> bool {
        Arc::strong_count(&self.map) > 1
    }
}

fn range(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(len)?)
}
