//! Liveness: how many things in the state point at each entry of the log (S9). An entry that nobody
//! points at may go with its segment.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use fluxmq_names::Position;

use crate::inbox::Inbox;
use crate::queue::Queue;
use crate::state::State;

/// Entries whose counts lie in one chunk.
const CHUNK: u64 = 256;
/// The count of an entry that stands among the `large` ones.
const LARGE: u8 = u8::MAX;

/// Counts of neighbouring entries: a byte each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chunk {
    counts: [u8; CHUNK as usize],
    /// Counts that are not 0.
    used: u16,
}

/// References by entry index. Derived from the rest of the state: not part of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    chunks: BTreeMap<u64, Box<Chunk>>,
    /// Counts of 255 and more.
    large: BTreeMap<u64, u64>,
    total: u64,
}

// === impl Live ===

impl Live {
    /// `n` more references to the entry of `position`.
    pub(crate) fn add(&mut self, position: u64, n: u64) {
        if n > 0 {
            let index = Position(position).index();
            self.set(index, self.count(index) + n);
            self.total += n;
        }
    }

    fn count(&self, index: u64) -> u64 {
        let chunk = self.chunks.get(&(index / CHUNK));
        match chunk.map_or(0, |c| c.counts[(index % CHUNK) as usize]) {
            LARGE => self.large.get(&index).copied().unwrap_or_default(),
            count => count.into(),
        }
    }

    fn set(&mut self, index: u64, count: u64) {
        let empty = || Box::new(Chunk { counts: [0; CHUNK as usize], used: 0 });
        let chunk = self.chunks.entry(index / CHUNK).or_insert_with(empty);
        let place = &mut chunk.counts[(index % CHUNK) as usize];
        if *place == LARGE {
            self.large.remove(&index);
        }
        let before = *place;
        *place = u8::try_from(count).unwrap_or(LARGE);
        if *place == LARGE {
            self.large.insert(index, count);
        }
        chunk.used += u16::from(before == 0 && count > 0);
        chunk.used -= u16::from(before > 0 && count == 0);
        if chunk.used == 0 {
            self.chunks.remove(&(index / CHUNK));
        }
    }

    /// One reference to the entry of `position` less.
    pub(crate) fn release(&mut self, position: u64) {
        self.release_all([position]);
    }

    /// One reference less for each; positions in order make it cheap.
    pub(crate) fn release_all(&mut self, positions: impl IntoIterator<Item = u64>) {
        let mut run: Option<(u64, u64)> = None;
        for position in positions {
            let index = Position(position).index();
            match &mut run {
                Some((at, n)) if *at == index => *n += 1,
                _ => {
                    self.take(run);
                    run = Some((index, 1));
                }
            }
        }
        self.take(run);
    }

    /// Whether anything in these entries is referred to.
    pub(crate) fn any(&self, entries: RangeInclusive<u64>) -> bool {
        let (first, last) = (*entries.start(), *entries.end());
        self.chunks.range(first / CHUNK..=last / CHUNK).any(|(number, chunk)| {
            let base = number * CHUNK;
            let from = first.saturating_sub(base).min(CHUNK) as usize;
            let to = (last - base).min(CHUNK - 1) as usize;
            chunk.counts.get(from..=to).is_some_and(|c| c.iter().any(|count| *count > 0))
        })
    }

    /// The entries that are referred to, in order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().flat_map(|(number, chunk)| {
            let used = chunk.counts.iter().enumerate().filter(|(_, count)| **count > 0);
            used.map(move |(at, _)| number * CHUNK + at as u64)
        })
    }

    /// References to these entries.
    pub(crate) fn references(&self, entries: RangeInclusive<u64>) -> u64 {
        self.counts(entries).map(|(_, count)| count).sum()
    }

    /// Those of these entries that are referred to, in order, each with how often.
    pub(crate) fn counts(&self, entries: RangeInclusive<u64>) -> impl Iterator<Item = (u64, u64)> {
        let (first, last) = (*entries.start(), *entries.end());
        self.chunks.range(first / CHUNK..=last / CHUNK).flat_map(move |(number, chunk)| {
            let base = number * CHUNK;
            let from = first.saturating_sub(base).min(CHUNK) as usize;
            let to = (last - base).min(CHUNK - 1) as usize;
            let counts = chunk.counts.get(from..=to).unwrap_or_default();
            let used = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            used.map(move |(at, count)| {
                let index = base + (from + at) as u64;
                let large = || self.large.get(&index).copied().unwrap_or_default();
                (index, if *count == LARGE { large() } else { u64::from(*count) })
            })
        })
    }

    /// How many of these entries are referred to, exact to a chunk at each end.
    pub(crate) fn used(&self, entries: RangeInclusive<u64>) -> u64 {
        let chunks = entries.start() / CHUNK..=entries.end() / CHUNK;
        self.chunks.range(chunks).map(|(_, chunk)| u64::from(chunk.used)).sum()
    }

    /// References in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    fn take(&mut self, run: Option<(u64, u64)>) {
        let Some((index, n)) = run else { return };
        let before = self.count(index);
        assert!(before >= n, "released no more often than added");
        self.set(index, before - n);
        self.total -= n;
    }
}

// === impl State ===

impl State {
    /// Every position that something refers to, as often as it does: what liveness counts.
    pub(crate) fn positions(&self) -> impl Iterator<Item = u64> {
        let queues = self.queues.iter().map(|(_, queue)| queue).chain(&self.deleted);
        let inboxes = self.inboxes.iter().map(|(_, inbox)| inbox).chain(&self.discarded);
        let sessions = self.sessions.iter().filter_map(|(_, session)| session.will.as_ref());
        let wills = sessions.chain(self.owed.values().map(|owed| &owed.will)).map(|w| w.position);
        let retained = self.retained.iter().map(|(_, retained)| retained.position);
        queues
            .flat_map(Queue::positions)
            .chain(inboxes.flat_map(Inbox::positions))
            .chain(wills)
            .chain(retained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_any_size_come_and_go() {
        let mut live = Live::default();
        let at = |index| Position::new(index, 3).0;
        for (index, n) in [(0, 1), (255, 254), (256, 255), (257, 1), (1_000, 10_000)] {
            live.add(at(index), n);
        }
        live.add(at(257), 253);
        live.add(at(257), 1);
        assert!(live.any(0..=0) && live.any(1..=255) && live.any(200..=256) && live.any(256..=256));
        assert!(!live.any(1..=254) && !live.any(258..=999) && !live.any(1_001..=u64::MAX));
        assert_eq!(live.total(), 1 + 254 + 255 + 255 + 10_000);
        let counts = [(255, 254), (256, 255), (257, 255), (1_000, 10_000)];
        assert!(live.counts(1..=u64::MAX).eq(counts) && live.counts(0..=0).eq([(0, 1)]));
        assert!(live.counts(256..=256).eq([(256, 255)]) && live.counts(258..=999).eq([]));
        assert_eq!((live.references(255..=257), live.references(1_001..=5_000)), (764, 0));
        for (index, n) in [(255, 254), (256, 255), (257, 255), (1_000, 10_000)] {
            live.release_all((0..n).map(|_| at(index)));
            assert!(!live.any(index..=index));
        }
        live.release(at(0));
        assert_eq!(live, Live::default());
    }
}
