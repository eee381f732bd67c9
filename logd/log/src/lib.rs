//! The segmented log of one node: what `logd` keeps on disk (design S1–S5, S9, S10; layout in `docs/formats/log.md`).
//!
//! A [`Disk`] is one data directory with one I/O thread; it holds one [`Log`] per shard. A log is at once the Raft log
//! and the message log of its shard: a payload is written once and read back as a slice of the mapped segment.
//!
//! What it does not do: it knows no Raft, no queue and no runtime. It is synchronous; callers hand in entries and a
//! callback, and are told when they are durable. It never repairs on doubt: damage other than a torn tail is reported
//! with file and offset and nothing is cut (S4).
//!
//! Invariants:
//! - at most one record per file is written and not yet synced, so only the last record can be torn;
//! - what is appended is readable when `append` returns; its callback runs after the sync;
//! - a vote is durable before anything that was queued after it is written;
//! - a mapped file is never truncated, punched or reused, only unlinked;
//! - of a segment and the compacted one that replaces it recovery keeps exactly one.

pub mod config;
pub mod entry;
pub mod error;
pub mod io;
pub mod limits;

mod batch;
mod commit;
mod compacted;
mod compaction;
mod crashsafe;
mod disk;
mod format;
mod hooks;
mod log;
mod mmap;
mod node;
mod offset_index;
mod recovery;
mod reserve;
mod retention;
mod scan;
mod segment;
mod shard;
mod snapshot;
mod vote;
mod writer;

pub use crate::compaction::{CompactedRun, Keep, Liveness, SparseRun};
pub use crate::config::{DiskConfig, OpenOptions};
pub use crate::disk::{Disk, DiskStats, PendingBytes};
pub use crate::entry::{Entry, EntryKind, LogId, Priority, Vote};
pub use crate::error::{
    AppendError, CompactError, Damage, FatalError, OpenError, ReadError, SnapshotError, StartError,
    WriteError,
};
pub use crate::hooks::{AbortOnFatal, Callback, Completion, Hooks};
pub use crate::log::{Log, LogSize};
pub use crate::recovery::Recovered;
pub use crate::reserve::Space;
pub use crate::retention::Reclaimed;
pub use crate::snapshot::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter};
