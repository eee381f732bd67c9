//! Room for what comes (S9): the segment that is ready before it is needed, and who may still append.
//!
//! A segment that nobody needs any more is kept for it, or else one is zero-filled when the active one is half used. That one segment is the reserve: producers are
//! refused as soon as the file system falls below its low-water mark or no further segment could be made; settlements
//! and deletes go on in what is left.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::config::DiskConfig;
use crate::entry::Priority;
use crate::error::AppendError;
use crate::format::SEGMENT_HEADER;
use crate::io::{File, FreeSpace, Io};

/// Room in a segment that appends leave to records of truncation, purge and seal, bytes.
pub(crate) const MARGIN: u64 = 2048;

/// Room of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free bytes of the file system.
    pub free: u64,
    /// Below this, producers are refused.
    pub low_water: u64,
    /// `append` with [`Priority::Normal`] is refused now.
    pub full: bool,
}

/// A file of full length without a header of its own yet: zero-filled, or a segment that nobody needs any more.
pub(crate) struct Spare {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    pub(crate) capacity: u64,
    pub(crate) recycled: bool,
}

/// State of the segment that is made ahead.
enum Ahead {
    None,
    Making,
    Ready(Spare),
    /// The disk was full; not tried again before space was freed.
    Failed,
}

/// The segment made ahead for one shard.
pub(crate) struct Reserve {
    ahead: Mutex<Ahead>,
    made: Condvar,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { ahead: Mutex::new(Ahead::None), made: Condvar::new() }
    }
}

impl Reserve {
    /// True once: the caller makes the segment now.
    pub(crate) fn claim(&self) -> bool {
        let mut ahead = self.ahead.lock();
        let free = matches!(*ahead, Ahead::None);
        if free {
            *ahead = Ahead::Making;
        }
        free
    }

    /// Whether a segment that nobody needs may become the next one.
    pub(crate) fn wants(&self) -> bool {
        matches!(*self.ahead.lock(), Ahead::None | Ahead::Failed)
    }

    /// Takes one in; gives it back if another is there by now.
    pub(crate) fn recycle(&self, spare: Spare) -> Option<Spare> {
        let mut ahead = self.ahead.lock();
        if matches!(*ahead, Ahead::None | Ahead::Failed) {
            *ahead = Ahead::Ready(spare);
            return None;
        }
        Some(spare)
    }

    /// Makes what was claimed. Only a full disk is tolerated.
    pub(crate) fn make(&self, io: &dyn Io, log_dir: &Path, capacity: u64) -> io::Result<()> {
        let made = make_spare(io, log_dir, capacity);
        let (state, result) = match made {
            Ok(spare) => (Ahead::Ready(spare), Ok(())),
            Err(error) if is_full(&error) => (Ahead::Failed, Ok(())),
            Err(error) => (Ahead::Failed, Err(error)),
        };
        *self.ahead.lock() = state;
        self.made.notify_all();
        result
    }

    /// The segment made ahead if it has at least `needed` bytes; waits for one that is being made.
    pub(crate) fn take(&self, needed: u64) -> Option<Spare> {
        let mut ahead = self.ahead.lock();
        while matches!(*ahead, Ahead::Making) {
            self.made.wait(&mut ahead);
        }
        match std::mem::replace(&mut *ahead, Ahead::None) {
            Ahead::Ready(spare) if spare.capacity >= needed => Some(spare),
            other => {
                *ahead = other;
                None
            }
        }
    }

    /// Its capacity, 0 if there is none.
    pub(crate) fn capacity(&self) -> u64 {
        match &*self.ahead.lock() {
            Ahead::Ready(spare) => spare.capacity,
            _ => 0,
        }
    }

    /// None could be made when it was needed.
    pub(crate) fn fail(&self) {
        let mut ahead = self.ahead.lock();
        if matches!(*ahead, Ahead::None) {
            *ahead = Ahead::Failed;
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        matches!(*self.ahead.lock(), Ahead::Failed)
    }

    /// Space was freed: the next half-used segment tries again.
    pub(crate) fn retry(&self) {
        let mut ahead = self.ahead.lock();
        if matches!(*ahead, Ahead::Failed) {
            *ahead = Ahead::None;
        }
    }
}

/// Makes a zero-filled file under a name that recovery removes.
pub(crate) fn make_spare(io: &dyn Io, log_dir: &Path, capacity: u64) -> io::Result<Spare> {
    let path = log_dir.join(format!("{:016x}.new", io.random()));
    let file = io.create_zeroed(&path, capacity)?;
    Ok(Spare { file, path, capacity, recycled: false })
}

/// The disk is full, or a quota is.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Capacity of the segment after one of `previous` bytes: doubling up to the maximum, smaller on a small disk.
pub(crate) fn next_capacity(config: &DiskConfig, previous: u64, free: u64) -> u64 {
    let wanted =
        previous.saturating_mul(2).clamp(config.segment_bytes_first, config.segment_bytes_max);
    let affordable = (free / 16).next_power_of_two().max(config.segment_bytes_first);
    wanted.min(affordable)
}

/// The low-water mark, bytes.
pub(crate) fn low_water(config: &DiskConfig, space: FreeSpace) -> u64 {
    config.low_water_bytes.unwrap_or_else(|| (space.total / 20).min(256 * 1024 * 1024))
}

/// What an append has to fit into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) space: FreeSpace,
    pub(crate) low_water: u64,
    /// Bytes of the next segment that would have to be made.
    pub(crate) next_capacity: u64,
    pub(crate) active_left: u64,
    pub(crate) reserve: u64,
    pub(crate) reserve_failed: bool,
    /// What is queued waits for space.
    pub(crate) stuck: bool,
    /// Bytes queued and not yet written.
    pub(crate) queued: u64,
}

impl Room {
    /// Whether `need` more bytes of records may come.
    pub(crate) fn admit(&self, need: u64, priority: Priority) -> Result<(), AppendError> {
        if priority == Priority::Decided {
            return Ok(());
        }
        let coming = self.queued.saturating_add(need);
        let growth = self.low_water.saturating_add(coming).saturating_add(self.next_capacity);
        let may_grow = !self.reserve_failed && self.space.free >= growth;
        let reserved = self.reserve.saturating_sub(SEGMENT_HEADER as u64);
        let fits = |room: u64| coming.saturating_add(MARGIN) <= room;
        let frees = priority == Priority::Freeing;
        let admitted =
            !self.stuck && (may_grow || (frees && (fits(self.active_left) || fits(reserved))));
        if admitted {
            Ok(())
        } else {
            Err(AppendError::Full { free: self.space.free, low_water: self.low_water })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_are_refused_first() {
        let room = Room {
            space: FreeSpace { free: 100_000, total: 1_000_000 },
            low_water: 50_000,
            next_capacity: 40_000,
            active_left: 20_000,
            reserve: 0,
            reserve_failed: false,
            stuck: false,
            queued: 0,
        };
        assert!(room.admit(1_000, Priority::Normal).is_ok());
        assert!(room.admit(11_000, Priority::Normal).is_err());
        assert!(room.admit(11_000, Priority::Freeing).is_ok());
        assert!(room.admit(19_000, Priority::Freeing).is_err());
        let failed = Room { reserve_failed: true, ..room };
        assert!(failed.admit(1, Priority::Normal).is_err());
        assert!(failed.admit(1, Priority::Freeing).is_ok());
        let stuck = Room { stuck: true, ..room };
        assert!(stuck.admit(1, Priority::Freeing).is_err());
        assert!(stuck.admit(1 << 30, Priority::Decided).is_ok());
    }

    #[test]
    fn segments_double_and_stay_small_on_a_small_disk() {
        let config = DiskConfig::default();
        let mib = 1024 * 1024;
        assert_eq!(next_capacity(&config, mib, u64::MAX >> 1), 2 * mib);
        assert_eq!(next_capacity(&config, 64 * mib, u64::MAX >> 1), 64 * mib);
        assert_eq!(next_capacity(&config, 64 * mib, 100 * mib), 8 * mib);
        assert_eq!(next_capacity(&config, 64 * mib, 0), mib);
    }
}
