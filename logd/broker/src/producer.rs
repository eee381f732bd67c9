//! Producers: commands come in sequence, each outcome is recorded until it is confirmed (Q1), and what
//! carries a key is taken once (G2, S7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits::{KEYS_MAX, OUTCOMES_MAX, OWED_KEYS_MAX};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Key;
use fluxmq_commands::wire::{Reader, WireError, Write};

/// One stream of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    /// The only sequence that is taken.
    pub(crate) next: u64,
    /// Outcomes of the sequences before `next`, the last one last.
    recorded: VecDeque<Outcome>,
}

impl Default for Producer {
    fn default() -> Self {
        Self { next: 1, recorded: VecDeque::new() }
    }
}

// === impl Producer ===

impl Producer {
    /// The gateway has seen the outcomes up to `sequence`.
    pub(crate) fn confirm(&mut self, sequence: u64) {
        let first = self.next - self.recorded.len() as u64;
        let seen = sequence.saturating_add(1).saturating_sub(first).min(self.recorded.len() as u64);
        self.recorded.drain(..seen as usize);
    }

    /// The outcome of an earlier sequence; None when it was confirmed.
    pub(crate) fn recorded(&self, sequence: u64) -> Option<&Outcome> {
        let back = self.next.checked_sub(sequence)?;
        let at = (self.recorded.len() as u64).checked_sub(back)?;
        self.recorded.get(at as usize)
    }

    /// Nothing of it was ever taken.
    pub(crate) fn is_new(&self) -> bool {
        self.next == 1
    }

    /// Whether another outcome may be recorded.
    pub(crate) fn is_full(&self) -> bool {
        self.recorded.len() >= OUTCOMES_MAX
    }

    /// Records the outcome of the next sequence.
    pub(crate) fn record(&mut self, outcome: Outcome) {
        self.recorded.push_back(outcome);
        self.next += 1;
    }

    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.put_u64(self.next);
        out.put_u32(self.recorded.len() as u32);
        self.recorded.iter().for_each(|o| o.encode(out));
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let next = r.u64()?;
        let recorded = (0..r.u32()?).map(|_| Outcome::read(r)).collect::<Result<_, _>>()?;
        Ok(Self { next, recorded })
    }
}

/// Publish numbers of one session that were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// All below are closed.
    lowest_open: u64,
    numbers: BTreeSet<u64>,
}

/// What was taken under keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    sessions: BTreeMap<(u32, u64), Taken>,
    /// Owed effects of shards, oldest first, and the same as a set.
    owed: VecDeque<(u32, u64)>,
    owed_set: BTreeSet<(u32, u64)>,
}

/// Whether a key was taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    Fresh,
    Repeat,
    /// No room for another source.
    Full,
}

// === impl Keys ===

impl Keys {
    /// Takes `key`; `lowest_open` closes the publish numbers below it.
    pub(crate) fn take(&mut self, key: Key, lowest_open: Option<u64>) -> Taking {
        let source = (key.shard, key.id);
        let Some(lowest_open) = lowest_open else {
            return self.take_owed(source);
        };
        if !self.sessions.contains_key(&source) && self.sessions.len() >= KEYS_MAX {
            return Taking::Full;
        }
        let taken = self.sessions.entry(source).or_default();
        if lowest_open > taken.lowest_open {
            taken.lowest_open = lowest_open;
            taken.numbers = taken.numbers.split_off(&lowest_open);
        }
        let repeat = key.n < taken.lowest_open || !taken.numbers.insert(key.n);
        if repeat && !cfg!(planted = "take_a_key_twice") {
            return Taking::Repeat;
        }
        Taking::Fresh
    }

    fn take_owed(&mut self, source: (u32, u64)) -> Taking {
        if !self.owed_set.insert(source) {
            return Taking::Repeat;
        }
        self.owed.push_back(source);
        if self.owed.len() > OWED_KEYS_MAX
            && let Some(oldest) = self.owed.pop_front()
        {
            self.owed_set.remove(&oldest);
        }
        Taking::Fresh
    }

    /// The session is gone: nothing of it comes again.
    pub(crate) fn forget(&mut self, shard: u32, session: u64) {
        self.sessions.remove(&(shard, session));
    }

    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.put_u32(self.sessions.len() as u32);
        for ((shard, id), taken) in &self.sessions {
            out.put_u32(*shard);
            out.put_u64(*id);
            out.put_u64(taken.lowest_open);
            out.put_u32(taken.numbers.len() as u32);
            taken.numbers.iter().for_each(|n| out.put_u64(*n));
        }
        out.put_u32(self.owed.len() as u32);
        for (shard, id) in &self.owed {
            out.put_u32(*shard);
            out.put_u64(*id);
        }
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut keys = Self::default();
        for _ in 0..r.u32()? {
            let source = (r.u32()?, r.u64()?);
            let lowest_open = r.u64()?;
            let numbers = (0..r.u32()?).map(|_| r.u64()).collect::<Result<_, _>>()?;
            keys.sessions.insert(source, Taken { lowest_open, numbers });
        }
        for _ in 0..r.u32()? {
            let source = (r.u32()?, r.u64()?);
            keys.owed.push_back(source);
            keys.owed_set.insert(source);
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_kept_until_they_are_confirmed() {
        let mut producer = Producer::default();
        for n in 1..=10 {
            assert_eq!(producer.next, n);
            producer.record(Outcome::Published { matched: n as u32 });
        }
        producer.confirm(4);
        assert_eq!(producer.recorded(4), None);
        assert_eq!(producer.recorded(5), Some(&Outcome::Published { matched: 5 }));
        assert_eq!(producer.recorded(10), Some(&Outcome::Published { matched: 10 }));
        assert_eq!(producer.recorded(11), None);
        producer.confirm(3);
        producer.confirm(99);
        assert_eq!(producer.recorded(10), None);
        assert_eq!(producer.next, 11);
    }

    #[test]
    fn a_key_is_taken_once_also_when_it_is_closed() {
        let mut keys = Keys::default();
        let key = |n| Key { shard: 1, id: 2, n };
        assert_eq!(keys.take(key(5), Some(3)), Taking::Fresh);
        assert_eq!(keys.take(key(5), Some(3)), Taking::Repeat);
        assert_eq!(keys.take(key(6), Some(6)), Taking::Fresh);
        assert_eq!(keys.take(key(5), Some(5)), Taking::Repeat, "closed, and the floor stays");
        assert_eq!(keys.take(key(0), None), Taking::Fresh, "an owed effect is another thing");
        assert_eq!(keys.take(key(0), None), Taking::Repeat);
        let mut bytes = Vec::new();
        keys.save(&mut bytes);
        assert_eq!(Keys::load(&mut Reader(&bytes)), Ok(keys));
    }
}
