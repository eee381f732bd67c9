//! Which segments may go (S9).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::commit::Engine;
use crate::compacted::Compacted;
use crate::io::Map;
use crate::reserve::Spare;
use crate::segment::Segment;
use crate::shard::{Shard, State};

/// What a call of `reclaim` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments removed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments with nothing live in them that could not go because a slice of them is out.
    pub pinned_segments: u64,
    /// Of those removed, how many became the segment that is ready before it is needed (0 or 1).
    pub recycled: u64,
    /// A removal failed; the segment stays until the next call.
    pub failed: bool,
}

/// What was seen of a segment when its entries were weighed last.
#[derive(Default)]
pub(crate) struct Look {
    /// References into it, + 1; 0 = never.
    references: AtomicU64,
    skipped: AtomicU32,
}

impl Look {
    /// Whether it is worth the reading: less is live than when it was looked at last, by a quarter, or by anything for
    /// the sixteenth time.
    pub(crate) fn is_due(&self, references: u64) -> bool {
        let before = self.references.load(Ordering::Relaxed);
        if before == references + 1 {
            return false;
        }
        let fell = before == 0 || references < before - before / 4;
        if !fell && self.skipped.fetch_add(1, Ordering::Relaxed) < 15 {
            return false;
        }
        self.references.store(references + 1, Ordering::Relaxed);
        self.skipped.store(0, Ordering::Relaxed);
        true
    }

    /// As if it had never been looked at.
    pub(crate) fn reset(&self) {
        self.references.store(0, Ordering::Relaxed);
    }
}

/// A file that is to go as soon as no slice of it is out.
pub(crate) struct Doomed {
    pub(crate) path: PathBuf,
    pub(crate) map: Arc<dyn Map>,
    pub(crate) bytes: u64,
}

/// Sealed segments that Raft has purged, durably, and that may go without taking a truncation along that an earlier one
/// still needs: so far as all earlier ones go that `goes` says.
pub(crate) fn purged_segments(
    state: &State,
    mut goes: impl FnMut(&Arc<Segment>) -> bool,
) -> Vec<Arc<Segment>> {
    let floor = state.purged_durable.map_or(0, |id| id.index + 1);
    let mut earlier_stays = false;
    let mut out = Vec::new();
    for pair in state.segments.windows(2) {
        let segment = &pair[0];
        // The base of the one behind: were it above the floor, the absence would look like a hole in the log.
        let purged = pair[1].header.base_index <= floor && segment.range().end <= floor;
        // A truncation that reaches into an earlier segment must stay as long as that one does.
        let truncates =
            segment.lowest_truncation.load(Ordering::Relaxed) < segment.header.base_index;
        if purged && !(truncates && earlier_stays) && goes(segment) {
            out.push(Arc::clone(segment));
        } else {
            earlier_stays = true;
        }
    }
    out
}

/// Unlinks what is purged, dead and not held; the active segment never goes.
pub(crate) fn reclaim(
    engine: &Engine,
    shard: &Shard,
    live: &dyn Fn(RangeInclusive<u64>) -> bool,
) -> Reclaimed {
    let mut done = Reclaimed::default();
    // Whoever compacts holds it, maybe for long, and looks for the dead first.
    let guard = shard.retention.try_lock();
    if guard.is_none() || engine.is_closed() {
        return done;
    }
    let (segments, compacted) = {
        let state = shard.state.lock();
        // Not asked under the lock: `live` takes locks of its own.
        let all: Vec<_> = state.segments.iter().map(|s| (Arc::as_ptr(s), s.range())).collect();
        let compacted = state.compacted.clone();
        drop(state);
        let dead: Vec<_> = all
            .into_iter()
            .filter(|(_, range)| range.is_empty() || !live(range.start..=range.end - 1))
            .map(|(segment, _)| segment)
            .collect();
        let mut pinned = 0;
        let segments = purged_segments(&shard.state.lock(), |segment| {
            let is_dead = dead.contains(&Arc::as_ptr(segment));
            let held = is_dead && is_held(&*segment.map);
            pinned += u64::from(held);
            is_dead && !held
        });
        done.pinned_segments += pinned;
        (segments, compacted)
    };
    let mut doomed = take_doomed(shard);
    for segment in segments {
        shard.state.lock().segments.retain(|other| !Arc::ptr_eq(other, &segment));
        doomed.push(segment.doomed());
    }
    for copies in compacted {
        if !live(copies.header.first..=copies.header.last) {
            shard.state.lock().compacted.retain(|other| !Arc::ptr_eq(other, &copies));
            doomed.push(copies.doomed());
        }
    }
    let spare = remove(engine, shard, doomed, &mut done);
    if done.segments > 0 {
        // Not synced one by one: a name that comes back after a crash is a segment that is dead again.
        let synced = engine.io.sync_dir(&shard.log_dir()).is_ok();
        done.failed |= !synced;
        recycle(engine, shard, spare.filter(|_| synced), &mut done);
        engine.refresh_free();
        shard.reserve.retry();
        engine.space_freed();
    }
    done
}

pub(crate) fn take_doomed(shard: &Shard) -> Vec<Doomed> {
    std::mem::take(&mut shard.state.lock().doomed)
}

/// Unlinks files that nobody finds any more; what cannot go now waits for the next call. One that would do as the next
/// segment is only renamed; it is to be given to [`recycle`] when the directory is synced.
pub(crate) fn remove(
    engine: &Engine,
    shard: &Shard,
    doomed: Vec<Doomed>,
    done: &mut Reclaimed,
) -> Option<(PathBuf, u64)> {
    let mut spare = None;
    for file in doomed {
        let held = is_held(&*file.map);
        let again = spare.is_none() && !held && is_wanted(engine, shard, &file);
        let renamed = again.then(|| rename(engine, &file.path)).flatten();
        if renamed.is_some() || (!held && unlink(engine, &file.path)) {
            done.segments += 1;
            done.bytes += file.bytes;
            spare = spare.or(renamed.map(|path| (path, file.bytes)));
            continue;
        }
        done.pinned_segments += u64::from(held);
        done.failed |= !held;
        shard.state.lock().doomed.push(file);
    }
    spare
}

/// Somebody has a slice of it.
fn is_held(map: &dyn Map) -> bool {
    // Faults planted to prove that a test finds them (design §12).
    let planted = cfg!(planted = "unlink_while_a_slice_is_out")
        || cfg!(planted = "recycle_while_a_slice_is_out");
    !planted && map.slices_out()
}

/// A file of the right size that nobody has mapped but us, so that nobody sees what is written into it.
fn is_wanted(engine: &Engine, shard: &Shard, file: &Doomed) -> bool {
    let active = shard.state.lock().segments.last().map_or(0, |s| s.header.capacity);
    Arc::strong_count(&file.map) == 1
        && file.path.extension().is_some_and(|e| e == "seg")
        && !cfg!(planted = "unlink_while_a_slice_is_out")
        && file.bytes == engine.next_capacity(active)
        && shard.reserve.wants()
}

/// Takes its name from a segment: recovery removes what has the new one.
fn rename(engine: &Engine, path: &Path) -> Option<PathBuf> {
    let spare = path.with_file_name(format!("{:016x}.new", engine.io.random()));
    engine.io.rename(path, &spare).ok()?;
    let _ = engine.io.remove_file(&path.with_extension("idx"));
    Some(spare)
}

/// Keeps a file as the next segment. Its old name is durably gone: with a new header it would look like a second one.
pub(crate) fn recycle(
    engine: &Engine,
    shard: &Shard,
    spare: Option<(PathBuf, u64)>,
    done: &mut Reclaimed,
) {
    let Some((path, capacity)) = spare else { return };
    let Ok(file) = engine.io.open(&path) else { return };
    let left = shard.reserve.recycle(Spare { file, path, capacity, recycled: true });
    done.recycled += u64::from(left.is_none());
    // Left behind it is removed when the shard is opened.
    let _ = left.map(|spare| engine.io.remove_file(&spare.path));
}

fn unlink(engine: &Engine, path: &Path) -> bool {
    let gone = match engine.io.remove_file(path) {
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        Ok(()) => true,
    };
    if gone && path.extension().is_some_and(|e| e == "seg") {
        let _ = engine.io.remove_file(&path.with_extension("idx"));
    }
    gone
}

impl Segment {
    pub(crate) fn doomed(&self) -> Doomed {
        Doomed { path: self.path.clone(), map: Arc::clone(&self.map), bytes: self.header.capacity }
    }
}

impl Compacted {
    pub(crate) fn doomed(&self) -> Doomed {
        Doomed { path: self.path.clone(), map: Arc::clone(&self.map), bytes: self.header.len }
    }
}
