//! What can go wrong, one enum per operation.

use std::io;
use std::path::PathBuf;

use crate::entry::LogId;

/// Bytes that are not what was written, and are not a torn tail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damage in {} at byte {offset}: {what}", file.display())]
pub struct Damage {
    /// The damaged file.
    pub file: PathBuf,
    /// Where in it, bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// A data directory cannot be used. Each message is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process holds it.
    #[error("data directory {} is in use by another process", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds something that is not ours.
    #[error("{} is not a data directory: it is not empty and has no node/NODE file; choose an empty one", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// It belongs to another node or cluster.
    #[error("data directory {} belongs to {what} {found}, not {expected}", dir.display())]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// "node" or "cluster".
        what: &'static str,
        /// What it says.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// A newer program wrote it.
    #[error("data directory {} has format {found}, this program reads up to {supported}; use a newer version", dir.display())]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: u16,
        /// The highest format known here.
        supported: u16,
    },
    /// Its identity file is unreadable.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The operating system refused.
    #[error("data directory {}: {error}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A shard's log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// S4: this replica stops until it is restored.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The shard is open already.
    #[error("shard {0} is open already")]
    AlreadyOpen(u64),
    /// A newer program wrote it.
    #[error("{} has format {found}, this program reads up to {supported}", file.display())]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u16,
        /// The highest format known here.
        supported: u16,
    },
    /// The operating system refused.
    #[error("shard {shard}: {error}")]
    Io {
        /// The shard.
        shard: u64,
        /// Why.
        error: io::Error,
    },
}

/// A compaction did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// No room for the copy. Retry after space was freed.
    #[error("no room for a compacted segment")]
    Full,
    /// S4: what was to be copied is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A write or a sync failed; the owner of the disk was told.
    #[error("the disk has failed")]
    DiskFailed,
    /// The disk is being closed.
    #[error("the log is closed")]
    Closed,
}

/// An append was refused; nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room: free space is below the mark, or no further segment could be made. Retry after space was freed.
    #[error("log is full: {free} bytes free, {low_water} reserved")]
    Full {
        /// Free bytes of the file system when last asked.
        free: u64,
        /// The low-water mark, bytes.
        low_water: u64,
    },
    /// Too much is waiting for the disk.
    #[error("{waiting} bytes wait for the disk")]
    Backlog {
        /// Bytes queued.
        waiting: u64,
    },
    /// The indexes do not continue the log.
    #[error("entry {got} does not continue the log at {expected}")]
    Gap {
        /// The index that comes next.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// A payload above [`crate::limits::ENTRY_PAYLOAD_MAX`].
    #[error("payload of {0} bytes is too large")]
    TooLarge(usize),
    /// The disk has failed.
    #[error(transparent)]
    Failed(#[from] WriteError),
}

/// An accepted operation did not become durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The disk failed before; see the fatal error.
    #[error("the disk has failed")]
    DiskFailed,
    /// The disk was closed first.
    #[error("the log is closed")]
    Closed,
}

/// Entries could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Bytes are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// A write or sync failed for good; the process must end.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{op} of {} failed: {error}", file.display())]
pub struct FatalError {
    /// "write", "sync", "rename" …
    pub op: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What the system said.
    pub error: String,
}

/// A snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Its bytes are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// State or meta above the limits.
    #[error("snapshot of {0} bytes is too large")]
    TooLarge(u64),
    /// There is no such snapshot.
    #[error("no snapshot at {0:?}")]
    Missing(LogId),
    /// The operating system refused.
    #[error("snapshot: {0}")]
    Io(#[from] io::Error),
}
