//! Snapshots on disk: `snap/<index>-<term>/{state,MANIFEST}` (S10).
//!
//! A snapshot is written into a directory of another name, synced, and renamed: what has its name is complete. The
//! manifest carries a checksum per block of 1 MiB, so a block is checked before anything of it is used.
//!
//! `MANIFEST`: `magic "LOGDSNAP" · version u16 · 0 u16 · blocks u32 · floor 32 (as in a segment header: the last entry) ·
//! state bytes u64 · meta bytes u32 · 0 u32 · crc u32 per block · meta · crc u32 of all before`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::crashsafe;
use crate::entry::LogId;
use crate::error::{Damage, SnapshotError};
use crate::format::{FLOOR, Put, VERSION, decode_floor, encode_floor, u32_at, u64_at};
use crate::io::{File, Io};
use crate::limits::{SNAPSHOT_BLOCK, SNAPSHOT_MAX, SNAPSHOT_META_MAX};

const MAGIC: &[u8; 8] = b"LOGDSNAP";
const HEAD: usize = 16 + FLOOR + 16;
/// Largest manifest: checksums of the largest state, and meta.
const MANIFEST_MAX: usize = (SNAPSHOT_MAX as usize / SNAPSHOT_BLOCK) * 4 + SNAPSHOT_META_MAX + 1024;

/// Snapshots of one shard, under `snap/`. Handles are cheap to clone; its calls block on the disk, so make them on a
/// thread of their own, never on the runtime.
#[derive(Clone)]
pub struct SnapshotStore {
    io: Arc<dyn Io>,
    dir: PathBuf,
}

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last entry applied in it.
    pub last: LogId,
    /// Bytes of state.
    pub state_bytes: u64,
    /// What the caller stored along (membership and the like).
    pub meta: Bytes,
}

struct Manifest {
    info: SnapshotInfo,
    crcs: Vec<u32>,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let meta = &self.info.meta;
        let mut bytes = vec![0; HEAD + self.crcs.len() * 4 + meta.len() + 4];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.slice(MAGIC);
        put.u16(VERSION);
        put.u16(0);
        put.u32(u32::try_from(self.crcs.len()).expect("the state is bounded"));
        put.slice(&encode_floor(Some(self.info.last)));
        put.u64(self.info.state_bytes);
        put.u32(u32::try_from(meta.len()).expect("meta is bounded"));
        put.u32(0);
        self.crcs.iter().for_each(|crc| put.u32(*crc));
        put.slice(meta);
        let end = put.at;
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.len().checked_sub(4).filter(|end| *end >= HEAD)?;
        if &bytes[..8] != MAGIC
            || u32_at(bytes, end) != crc32fast::hash(&bytes[..end])
            || bytes[8..10] != VERSION.to_le_bytes()
        {
            return None;
        }
        let blocks = u32_at(bytes, 12) as usize;
        let last = decode_floor(&bytes[16..16 + FLOOR])?;
        let state_bytes = u64_at(bytes, 16 + FLOOR);
        let meta_bytes = u32_at(bytes, 24 + FLOOR) as usize;
        let whole = HEAD.checked_add(blocks.checked_mul(4)?)?.checked_add(meta_bytes)? == end;
        if !whole
            || state_bytes > SNAPSHOT_MAX
            || state_bytes.div_ceil(SNAPSHOT_BLOCK as u64) != blocks as u64
        {
            return None;
        }
        let crcs = bytes[HEAD..HEAD + blocks * 4].chunks(4).map(|c| u32_at(c, 0)).collect();
        let meta = Bytes::copy_from_slice(&bytes[HEAD + blocks * 4..end]);
        Some(Self { info: SnapshotInfo { last, state_bytes, meta }, crcs })
    }
}

fn name(last: LogId) -> String {
    format!("{:020}-{:020}", last.index, last.term)
}

/// Index and term in the name of a complete snapshot.
fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.split_once('-')?;
    Some((index.parse().ok()?, term.parse().ok()?))
}

/// Removes what a crash left half written.
pub(crate) fn remove_unfinished(io: &dyn Io, dir: &Path) -> io::Result<()> {
    for entry in io.list(dir)? {
        if entry.is_dir && entry.name.starts_with("tmp-") {
            remove(io, &dir.join(entry.name))?;
        }
    }
    Ok(())
}

fn remove(io: &dyn Io, dir: &Path) -> io::Result<()> {
    for entry in io.list(dir)? {
        io.remove_file(&dir.join(entry.name))?;
    }
    io.remove_dir(dir)
}

impl SnapshotStore {
    pub(crate) fn new(io: Arc<dyn Io>, dir: PathBuf) -> Self {
        Self { io, dir }
    }

    /// Begins a snapshot; nothing is visible until `commit`.
    pub fn begin(&self, last: LogId, meta: Bytes) -> Result<SnapshotWriter, SnapshotError> {
        if meta.len() > SNAPSHOT_META_MAX {
            return Err(SnapshotError::TooLarge(meta.len() as u64));
        }
        let dir = self.dir.join(format!("tmp-{:016x}", self.io.random()));
        self.io.create_dir(&dir)?;
        let file = self.io.create(&dir.join("state"))?;
        let info = SnapshotInfo { last, state_bytes: 0, meta };
        let manifest = Manifest { info, crcs: Vec::new() };
        Ok(SnapshotWriter {
            store: self.clone(),
            dir,
            file,
            manifest,
            block: crc32fast::Hasher::new(),
            in_block: 0,
            complete: false,
            committed: false,
        })
    }

    /// Names of complete snapshots, oldest first.
    fn names(&self) -> Result<Vec<(u64, u64, String)>, SnapshotError> {
        let entries = self.io.list(&self.dir)?.into_iter().filter(|entry| entry.is_dir);
        let mut names: Vec<_> = entries
            .filter_map(|e| parse_name(&e.name).map(|(index, term)| (index, term, e.name)))
            .collect();
        names.sort();
        Ok(names)
    }

    /// The newest complete one.
    pub fn latest(&self) -> Result<Option<SnapshotInfo>, SnapshotError> {
        match self.names()?.pop() {
            Some((_, _, name)) => Ok(Some(self.manifest(&self.dir.join(name))?.info)),
            None => Ok(None),
        }
    }

    fn manifest(&self, dir: &Path) -> Result<Manifest, SnapshotError> {
        let path = dir.join("MANIFEST");
        let bytes = crashsafe::read_file(&*self.io, &path, MANIFEST_MAX)?;
        let manifest = bytes.as_deref().and_then(Manifest::decode);
        let manifest = manifest.filter(|manifest| dir.ends_with(name(manifest.info.last)));
        let damage = || Damage { file: path, offset: 0, what: "snapshot manifest".into() };
        manifest.ok_or_else(|| damage().into())
    }

    /// Opens one to read.
    pub fn read(&self, last: LogId) -> Result<SnapshotReader, SnapshotError> {
        let dir = self.dir.join(name(last));
        let file = match self.io.open(&dir.join("state")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SnapshotError::Missing(last));
            }
            result => result?,
        };
        let manifest = self.manifest(&dir)?;
        Ok(SnapshotReader { path: dir.join("state"), file, manifest, next: 0 })
    }

    /// Removes all snapshots older than `last`; returns how many.
    pub fn delete_older(&self, last: LogId) -> Result<u64, SnapshotError> {
        let mut removed = 0;
        for (index, term, name) in self.names()? {
            if (index, term) < (last.index, last.term) {
                // Renamed first: one that is half removed must not look complete after a crash.
                let doomed = self.dir.join(format!("tmp-{name}"));
                self.io.rename(&self.dir.join(name), &doomed)?;
                self.io.sync_dir(&self.dir)?;
                remove(&*self.io, &doomed)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// A snapshot being written; dropped without `commit` it leaves nothing that is ever read.
pub struct SnapshotWriter {
    store: SnapshotStore,
    dir: PathBuf,
    file: Arc<dyn File>,
    manifest: Manifest,
    block: crc32fast::Hasher,
    in_block: usize,
    complete: bool,
    committed: bool,
}

impl SnapshotWriter {
    /// Adds a chunk of any size; none behind [`Self::complete`].
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        let at = self.manifest.info.state_bytes;
        let total = at + chunk.len() as u64;
        if total > SNAPSHOT_MAX {
            return Err(SnapshotError::TooLarge(total));
        }
        self.file.write_at(&[chunk], at)?;
        self.manifest.info.state_bytes = total;
        let mut rest = chunk;
        while !rest.is_empty() {
            let n = rest.len().min(SNAPSHOT_BLOCK - self.in_block);
            self.block.update(&rest[..n]);
            self.in_block += n;
            rest = &rest[n..];
            if self.in_block == SNAPSHOT_BLOCK {
                self.end_block();
            }
        }
        Ok(())
    }

    fn end_block(&mut self) {
        self.manifest.crcs.push(std::mem::take(&mut self.block).finalize());
        self.in_block = 0;
    }

    /// Syncs all of it and its manifest: [`Self::commit`] needs no room on the disk then.
    pub fn complete(&mut self) -> Result<(), SnapshotError> {
        if self.complete {
            return Ok(());
        }
        if self.in_block > 0 {
            self.end_block();
        }
        self.file.sync_data()?;
        let manifest = self.manifest.encode();
        crashsafe::write_file(&*self.store.io, &self.dir.join("MANIFEST"), &manifest)?;
        self.complete = true;
        Ok(())
    }

    /// Completes and publishes it. One that is there already under the same index and term stays if it can be read: it
    /// holds the same state.
    pub fn commit(mut self) -> Result<SnapshotInfo, SnapshotError> {
        self.complete()?;
        let SnapshotStore { io, dir } = &self.store;
        let last = self.manifest.info.last;
        let place = dir.join(name(last));
        if self.store.names()?.iter().any(|(_, _, name)| place.ends_with(name)) {
            if let Ok(existing) = self.store.manifest(&place) {
                return Ok(existing.info);
            }
            let doomed = dir.join(format!("tmp-{}", name(last)));
            io.rename(&place, &doomed)?;
            remove(&**io, &doomed)?;
        }
        io.rename(&self.dir, &place)?;
        self.committed = true;
        io.sync_dir(dir)?;
        Ok(self.manifest.info.clone())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.committed {
            // What cannot be removed now is removed when the shard is opened.
            let _ = remove(&*self.store.io, &self.dir);
        }
    }
}

/// A snapshot being read, block by block, each checked before it is returned.
pub struct SnapshotReader {
    path: PathBuf,
    file: Arc<dyn File>,
    manifest: Manifest,
    next: u64,
}

impl SnapshotReader {
    /// What it is.
    pub fn info(&self) -> &SnapshotInfo {
        &self.manifest.info
    }

    /// The first `bytes` of the state, mapped from its file and checked: memory of the file, not of the process.
    pub fn mapped(&self, bytes: u64) -> Result<Bytes, SnapshotError> {
        let damaged =
            |offset| Damage { file: self.path.clone(), offset, what: "snapshot block".into() };
        let len = usize::try_from(bytes).ok().filter(|_| bytes <= self.manifest.info.state_bytes);
        let len = len.ok_or_else(|| damaged(bytes))?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let whole = usize::try_from(self.manifest.info.state_bytes).unwrap_or(len);
        let state = self.file.map()?.slice(0, whole).ok_or_else(|| damaged(0))?;
        let blocks = state[..].chunks(SNAPSHOT_BLOCK).take(len.div_ceil(SNAPSHOT_BLOCK));
        for (n, (block, crc)) in blocks.zip(&self.manifest.crcs).enumerate() {
            if crc32fast::hash(block) != *crc {
                return Err(damaged((n * SNAPSHOT_BLOCK) as u64).into());
            }
        }
        Ok(state.slice(..len))
    }

    /// The next block, at most [`SNAPSHOT_BLOCK`] bytes; `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        let block = self.block(self.next)?;
        self.next += u64::from(block.is_some());
        Ok(block)
    }

    /// A block by its number, for transfers that resume.
    pub fn block(&mut self, number: u64) -> Result<Option<Bytes>, SnapshotError> {
        let Some(crc) = usize::try_from(number).ok().and_then(|n| self.manifest.crcs.get(n)) else {
            return Ok(None);
        };
        let at = number * SNAPSHOT_BLOCK as u64;
        let left = self.manifest.info.state_bytes.saturating_sub(at);
        let mut bytes =
            vec![0; usize::try_from(left).unwrap_or(SNAPSHOT_BLOCK).min(SNAPSHOT_BLOCK)];
        let n = self.file.read_at(&mut bytes, at)?;
        if n != bytes.len() || crc32fast::hash(&bytes) != *crc {
            let what = "snapshot block".into();
            return Err(Damage { file: self.path.clone(), offset: at, what }.into());
        }
        Ok(Some(bytes.into()))
    }
}
