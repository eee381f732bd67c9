//! Liveness: how many things in the state point at each entry of the log (S9). An entry that nobody
//! points at may go with its segment.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use fluxmq_names::Position;

/// References by entry index. Derived from the rest of the state: not part of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    entries: BTreeMap<u64, u64>,
    total: u64,
}

// === impl Live ===

impl Live {
    /// `n` more references to the entry of `position`.
    pub(crate) fn add(&mut self, position: u64, n: u64) {
        if n > 0 {
            *self.entries.entry(Position(position).index()).or_default() += n;
            self.total += n;
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
        self.entries.range(entries).next().is_some()
    }

    /// References in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    fn take(&mut self, run: Option<(u64, u64)>) {
        let Some((index, n)) = run else { return };
        let left = self.entries.get_mut(&index).expect("released no more often than added");
        assert!(*left >= n, "released no more often than added");
        *left -= n;
        self.total -= n;
        if *left == 0 {
            self.entries.remove(&index);
        }
    }
}
