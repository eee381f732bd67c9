//! Which numbers of a publisher came: what is lost, doubled and out of order.

use std::collections::BTreeMap;

/// The numbers that came, from 0 on. Holds what is missing below the highest, as ranges.
#[derive(Default)]
pub(crate) struct Tally {
    next: u64,
    /// First missing number to the first one after it that is there.
    missing: BTreeMap<u64, u64>,
}

// === impl Tally ===

impl Tally {
    /// Notes `n`; false when it came before.
    pub(crate) fn take(&mut self, n: u64) -> bool {
        if n >= self.next {
            if n > self.next {
                self.missing.insert(self.next, n);
            }
            self.next = n + 1;
            return true;
        }
        let hole = self.missing.range(..=n).next_back().map(|(start, end)| (*start, *end));
        let Some((start, end)) = hole.filter(|(_, end)| n < *end) else {
            return false;
        };
        self.missing.remove(&start);
        if start < n {
            self.missing.insert(start, n);
        }
        if n + 1 < end {
            self.missing.insert(n + 1, end);
        }
        true
    }

    /// One behind the highest number that came.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn what_comes_twice_is_told_from_what_comes_late() {
        let mut tally = Tally::default();
        let came = [0, 1, 5, 3, 3, 2, 4, 4, 0, 9, 6, 8, 7, 7];
        let fresh: Vec<_> = came.iter().map(|n| tally.take(*n)).collect();
        let twice = [4, 7, 8, 13];
        for (at, fresh) in fresh.into_iter().enumerate() {
            assert_eq!(fresh, !twice.contains(&at), "number {} at {at}", came[at]);
        }
        assert_eq!(tally.next(), 10);
        assert!(tally.missing.is_empty());
    }
}
