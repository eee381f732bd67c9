//! Keys of QoS 2 messages and wills that were taken here: a repeat, through whatever gateway, is dropped (G2).

use std::collections::{BTreeSet, HashMap, VecDeque};

use fluxmq_commands::command::Key;

/// Publishers whose keys are kept (`qos2_keys_max`). Beyond it the one that was quiet longest is forgotten.
const PUBLISHERS_MAX: usize = 100_000;

/// What was taken of one publisher.
#[derive(Default)]
struct Taken {
    /// Numbers below are closed: they do not come again.
    lowest_open: u64,
    numbers: BTreeSet<u64>,
}

/// Keys by publisher: shard and id of a session or of an owed will.
#[derive(Default)]
pub(crate) struct Seen {
    publishers: HashMap<(u32, u64), Taken>,
    /// Publishers in the order they came.
    order: VecDeque<(u32, u64)>,
}

// === impl Seen ===

impl Seen {
    /// Takes a key; false when it was taken before. Numbers below `lowest_open` are forgotten.
    pub(crate) fn take(&mut self, key: Key, lowest_open: Option<u64>) -> bool {
        let publisher = (key.shard, key.id);
        if !self.publishers.contains_key(&publisher) {
            if self.order.len() >= PUBLISHERS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.publishers.remove(&oldest);
            }
            self.order.push_back(publisher);
        }
        let taken = self.publishers.entry(publisher).or_default();
        if let Some(lowest) = lowest_open.filter(|lowest| *lowest > taken.lowest_open) {
            taken.lowest_open = lowest;
            taken.numbers = taken.numbers.split_off(&lowest);
        }
        key.n >= taken.lowest_open && taken.numbers.insert(key.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u64, n: u64) -> Key {
        Key { shard: 0, id, n }
    }

    #[test]
    fn a_key_is_taken_once_also_when_it_is_forgotten() {
        let mut seen = Seen::default();
        assert!(seen.take(key(1, 5), Some(5)));
        assert!(!seen.take(key(1, 5), Some(5)));
        assert!(seen.take(key(2, 5), Some(5)), "another publisher");
        assert!(seen.take(key(1, 7), Some(6)));
        assert!(!seen.take(key(1, 5), Some(6)), "closed");
        assert_eq!(seen.publishers[&(0, 1)].numbers.len(), 1);
    }

    #[test]
    fn publishers_are_bounded() {
        let mut seen = Seen::default();
        for id in 0..=PUBLISHERS_MAX as u64 {
            assert!(seen.take(key(id, 0), None));
        }
        assert_eq!(seen.publishers.len(), PUBLISHERS_MAX);
        assert!(!seen.publishers.contains_key(&(0, 0)));
    }
}
