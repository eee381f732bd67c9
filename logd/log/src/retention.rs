//! Which segments may go (S9).

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::commit::Engine;
use crate::segment::Segment;
use crate::shard::Shard;

/// What a call of `reclaim` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments removed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments with nothing live in them that could not go because a slice of them is out.
    pub pinned_segments: u64,
    /// A removal failed; the segment stays until the next call.
    pub failed: bool,
}

/// Unlinks what is purged, dead and not held; the active segment never goes.
pub(crate) fn reclaim(
    engine: &Engine,
    shard: &Shard,
    live: &dyn Fn(RangeInclusive<u64>) -> bool,
) -> Reclaimed {
    let mut done = Reclaimed::default();
    let (sealed, floor) = {
        let state = shard.state.lock();
        let floor = state.purged_durable.map_or(0, |id| id.index + 1);
        let pairs = state.segments.windows(2);
        // With the base of the one behind: were that above the floor, the absence would look like a hole in the log.
        let sealed: Vec<_> = pairs.map(|p| (Arc::clone(&p[0]), p[1].header.base_index)).collect();
        (sealed, floor)
    };
    let mut earlier_stays = false;
    for (segment, next_base) in sealed {
        let range = segment.range();
        let dead = range.is_empty() || (range.end <= floor && !live(range.start..=range.end - 1));
        // A truncation that reaches into an earlier segment must stay as long as that one does.
        let truncates =
            segment.lowest_truncation.load(Ordering::Relaxed) < segment.header.base_index;
        let purged = next_base <= floor && range.end <= floor;
        if !dead || !purged || (truncates && earlier_stays) {
            earlier_stays = true;
            continue;
        }
        if segment.map.slices_out() {
            done.pinned_segments += 1;
            earlier_stays = true;
            continue;
        }
        if remove(engine, shard, &segment) {
            done.segments += 1;
            done.bytes += segment.header.capacity;
        } else {
            done.failed = true;
            earlier_stays = true;
        }
    }
    if done.segments > 0 {
        // Not synced one by one: a name that comes back after a crash is a segment that is dead again.
        done.failed |= engine.io.sync_dir(&shard.log_dir()).is_err();
        engine.refresh_free();
        shard.reserve.retry();
    }
    done
}

fn remove(engine: &Engine, shard: &Shard, segment: &Arc<Segment>) -> bool {
    if engine.io.remove_file(&segment.path).is_err() {
        return false;
    }
    let _ = engine.io.remove_file(&segment.path.with_extension("idx"));
    shard.state.lock().segments.retain(|other| !Arc::ptr_eq(other, segment));
    true
}
