//! How far this node's clock is off the clocks of the voters (S7): every answer of a peer says what its clock shows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::options::Clock;

/// A node that is further off the median leads nothing, ms.
const OFF_MAX_MS: i64 = 2_000;
/// An answer that took longer tells nothing, ms.
const ROUND_TRIP_MAX_MS: u64 = 1_000;
/// What is older is not known any more.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// The clocks of the peers, as far as they are known.
pub(crate) struct Clocks {
    clock: Clock,
    voters: usize,
    /// Of each peer: how far it is ahead of us, ms, and when that was seen.
    seen: Mutex<BTreeMap<u64, (i64, Instant)>>,
    off: AtomicBool,
}

// === impl Clocks ===

impl Clocks {
    pub(crate) fn new(clock: Clock, voters: usize) -> Self {
        Self { clock, voters, seen: Mutex::default(), off: AtomicBool::new(false) }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// A peer's clock showed `theirs_ms` between `asked_ms` of ours and now.
    pub(crate) fn note(&self, peer: u64, asked_ms: u64, theirs_ms: u64) {
        let took = self.now_ms().saturating_sub(asked_ms);
        if took <= ROUND_TRIP_MAX_MS {
            let ours = asked_ms.saturating_add(took / 2);
            let ahead = theirs_ms.cast_signed().wrapping_sub(ours.cast_signed());
            self.seen.lock().insert(peer, (ahead, Instant::now()));
        }
    }

    /// Looks anew whether this clock is too far off the median of the voters' clocks. As long as too few are known it is
    /// what it was.
    pub(crate) fn look(&self) -> bool {
        let seen = self.seen.lock();
        let known = seen.values().filter(|(_, at)| at.elapsed() <= KNOWN_FOR);
        let mut ahead: Vec<i64> = known.map(|(ahead, _)| *ahead).chain([0]).collect();
        drop(seen);
        ahead.sort_unstable();
        // Of two in the middle the one that is nearer to ours.
        let middle = [ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]];
        let median = middle.iter().map(|m| m.unsigned_abs()).min().unwrap_or(0);
        if 2 * ahead.len() > self.voters {
            self.off.store(median > OFF_MAX_MS.unsigned_abs(), Ordering::Relaxed);
        }
        self.is_off()
    }

    /// As of the last look.
    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// The peer whose clock is in the middle of those that are known.
    pub(crate) fn middle(&self) -> Option<u64> {
        let seen = self.seen.lock();
        let mut ahead: Vec<_> = seen
            .iter()
            .filter(|(_, (_, at))| at.elapsed() <= KNOWN_FOR)
            .map(|(peer, (ahead, _))| (*ahead, *peer))
            .collect();
        ahead.sort_unstable();
        ahead.get(ahead.len() / 2).map(|(_, peer)| *peer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn only_a_majority_says_that_a_clock_is_off() {
        let clocks = Clocks::new(Arc::new(|| 10_000), 3);
        assert!(!clocks.look());
        clocks.note(2, 10_000, 13_000);
        assert!(!clocks.look(), "one against one");
        clocks.note(3, 10_000, 10_500);
        assert!(!clocks.look(), "the other one is off");
        clocks.note(3, 10_000, 12_500);
        assert!(clocks.look() && clocks.is_off(), "two against one");
        clocks.note(3, 8_000, 10_500);
        assert!(clocks.look(), "an answer that took two seconds tells nothing");
        clocks.note(2, 10_000, 11_000);
        assert!(!clocks.look());
        clocks.note(2, 10_000, 7_000);
        clocks.note(3, 10_000, 0);
        assert!(clocks.look(), "ahead as well as behind");
        assert_eq!(clocks.middle(), Some(2));
    }
}
