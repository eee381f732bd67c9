//! The real file system.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock, statvfs};

use super::{DirEntry, File, FreeSpace, Io, Lock, Map};
use crate::mmap::DiskMap;

/// Bytes of zeroes written at once.
const ZERO_CHUNK: usize = 256 * 1024;
/// Zeroes written between two syncs of a fill, so that it never holds a commit up for long.
const ZERO_SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// Files on the disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskIo;

impl Io for DiskIo {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile { file: create_new(path)? }))
    }

    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<Arc<dyn File>> {
        let file = create_new(path)?;
        if let Err(error) = write_zeroes(&file, len) {
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Arc::new(DiskFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A name that is not UTF-8 is not ours; it is listed so that a foreign directory is seen as such.
            let name = entry.file_name().to_string_lossy().into_owned();
            names.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
        }
        names.sort();
        Ok(names)
    }

    fn free_space(&self, path: &Path) -> io::Result<FreeSpace> {
        let stat = statvfs(path)?;
        Ok(FreeSpace {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(DiskLock { _file: file }))
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .expect("/dev/urandom is readable on Linux");
        u64::from_le_bytes(bytes)
    }

    fn now_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

fn create_new(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

fn write_zeroes(file: &fs::File, len: u64) -> io::Result<()> {
    let zeroes = vec![0; ZERO_CHUNK];
    let mut offset = 0;
    let mut unsynced = 0;
    while offset < len {
        let n = usize::try_from(len - offset).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
        file.write_all_at(&zeroes[..n], offset)?;
        offset += n as u64;
        unsynced += n as u64;
        if unsynced >= ZERO_SYNC_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    file.sync_all()
}

struct DiskFile {
    file: fs::File,
}

impl File for DiskFile {
    fn write_at(&self, buffers: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut at = offset;
        // Linux takes at most 1,024 buffers in one call.
        for group in buffers.chunks(1024) {
            at += write_group(&self.file, group, at)?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        Ok(Arc::new(DiskMap::new(&self.file)?))
    }
}

/// One `pwritev`; what it left over, which a regular file hardly ever does, is written piece by piece.
fn write_group(file: &fs::File, buffers: &[&[u8]], offset: u64) -> io::Result<u64> {
    let total: usize = buffers.iter().map(|b| b.len()).sum();
    let slices: Vec<io::IoSlice<'_>> = buffers.iter().map(|b| io::IoSlice::new(b)).collect();
    let mut written = loop {
        match rustix::io::pwritev(file, &slices, offset) {
            Ok(n) => break n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut start = 0;
    for buffer in buffers {
        let end = start + buffer.len();
        if written < end {
            let skip = written - start;
            file.write_all_at(&buffer[skip..], offset + written as u64)?;
            written = end;
        }
        start = end;
    }
    Ok(total as u64)
}

struct DiskLock {
    _file: fs::File,
}

impl Lock for DiskLock {}
