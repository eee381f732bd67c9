//! Producers that are faster than the pass that frees space wait for it (S9): the log takes no more disk than what is live
//! twice and four segments, or what the pace of passes allows. What frees space goes on meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use logd_broker::Broker;
use tokio::time::Instant;

use crate::group::Group;

/// Segments that may lie beside what is live.
const SEGMENTS: u64 = 4;
/// Bytes of them for the heads of copies and for index files.
const SLACK: u64 = 128 * 1024;

/// How far the passes came.
#[derive(Default)]
pub(crate) struct Progress {
    passes: AtomicU64,
    /// What lies below was looked at by the last pass: what it left is live, or cannot go now.
    covered: AtomicU64,
    held_us: AtomicU64,
}

/// Whether producers wait, for who proposes.
#[derive(Default)]
pub(crate) struct Hold {
    /// First index of the active segment, its bytes with those of the next one, and the number of passes when it was
    /// looked at last.
    seen: Option<(u64, u64, u64)>,
    since: Option<Instant>,
    /// The number of passes when the patience ended.
    gave_up: Option<u64>,
}

// === impl Progress ===

impl Progress {
    /// A pass has done all it could up to `covered`.
    pub(crate) fn passed(&self, covered: u64) {
        self.covered.fetch_max(covered, Ordering::Relaxed);
        self.passes.fetch_add(1, Ordering::Release);
    }
}

// === impl Hold ===

impl Hold {
    /// Whether producers wait now. Looks at the segments only when one is new, or soon will be, or a pass has ended; waits
    /// for one pass no longer than the patience of the group.
    pub(crate) fn is_on(&mut self, group: &Group) -> bool {
        let progress = &group.shared.pace.progress;
        let passes = progress.passes.load(Ordering::Acquire);
        let (base, open) = group.log.active();
        let seen = (base, open, passes);
        if self.seen != Some(seen) {
            let passed = self.seen.is_some_and(|(_, _, before)| before != passes);
            self.seen = Some(seen);
            if passed || self.since.is_none() {
                self.end(progress);
                let ahead = self.gave_up != Some(passes) && group.is_ahead(open);
                self.since = ahead.then(Instant::now);
            }
        }
        if self.since.is_some_and(|since| since.elapsed() >= group.compaction.hold_max) {
            self.end(progress);
            self.gave_up = Some(passes);
        }
        self.since.is_some()
    }

    fn end(&mut self, progress: &Progress) {
        if let Some(since) = self.since.take() {
            let held = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            progress.held_us.fetch_add(held, Ordering::Relaxed);
        }
    }

    /// When the patience ends, if producers wait.
    pub(crate) fn until(&self, group: &Group) -> Option<Instant> {
        self.since.map(|since| since + group.compaction.hold_max)
    }
}

impl Group {
    /// How long producers waited for space to be freed since the start, all in all.
    #[must_use]
    pub fn held(&self) -> Duration {
        Duration::from_micros(self.shared.pace.progress.held_us.load(Ordering::Relaxed))
    }

    /// Whether sealed segments pile up, beside the `open` bytes that are written now and next, in which little is live and
    /// that no pass has seen yet.
    fn is_ahead(&self, open: u64) -> bool {
        let segments = SEGMENTS * self.log.segment_bytes();
        let paced = self.distance().saturating_mul(2).saturating_add(self.compaction.margin_bytes);
        let most = segments.max(paced.saturating_add(segments / 2)).saturating_sub(SLACK);
        let covered = self.shared.pace.progress.covered.load(Ordering::Relaxed);
        let sealed = self.log.sealed_beyond(covered);
        if sealed.iter().map(|(_, bytes)| bytes).sum::<u64>() + open <= most {
            return false;
        }
        let goes = |broker: &Broker, entries: &std::ops::RangeInclusive<u64>| {
            broker.live_about(entries.clone()) * 2 < entries.end() - entries.start() + 1
        };
        let freed: u64 = self.with_state(|broker| {
            let freed = sealed.iter().filter(|(entries, _)| goes(broker, entries));
            freed.map(|(_, bytes)| bytes).sum()
        });
        freed + open > most
    }
}
