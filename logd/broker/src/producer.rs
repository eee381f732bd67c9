//! Producers: commands come in sequence, each outcome is recorded until it is confirmed (Q1), and what
//! carries a key is taken once (G2, S7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits::{KEYS_MAX, OUTCOMES_MAX, OWED_KEYS_MAX, QOS2_SPREAD_MAX};
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

    /// Whether no other outcome may be recorded, with `more` behind it.
    pub(crate) fn is_full(&self, more: usize) -> bool {
        self.recorded.len() + more >= OUTCOMES_MAX
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

/// Publish numbers of one session that were taken: those of [`QOS2_SPREAD_MAX`] from the lowest open one on
/// as a ring of bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// All below are closed.
    lowest_open: u64,
    bits: [u64; (QOS2_SPREAD_MAX / 64) as usize],
}

// === impl Taken ===

impl Taken {
    fn bit(n: u64) -> (usize, u64) {
        let n = n % QOS2_SPREAD_MAX;
        ((n / 64) as usize, 1 << (n % 64))
    }

    fn has(&self, n: u64) -> bool {
        let (word, bit) = Self::bit(n);
        n < self.lowest_open || self.bits[word] & bit != 0
    }

    /// Closes the numbers below `lowest_open`.
    fn close(&mut self, lowest_open: u64) {
        if lowest_open >= self.lowest_open.saturating_add(QOS2_SPREAD_MAX) {
            self.bits = [0; _];
        } else {
            for n in self.lowest_open..lowest_open {
                let (word, bit) = Self::bit(n);
                self.bits[word] &= !bit;
            }
        }
        self.lowest_open = self.lowest_open.max(lowest_open);
    }
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
    /// Further from the lowest open number than any session may be.
    Far,
}

// === impl Keys ===

impl Keys {
    /// What taking `key` would lead to. `lowest_open` is that of its source; None for owed effects.
    pub(crate) fn look(&self, key: Key, lowest_open: Option<u64>) -> Taking {
        let source = (key.shard, key.id);
        let Some(lowest_open) = lowest_open else {
            let repeat = self.owed_set.contains(&source);
            return if repeat { Taking::Repeat } else { Taking::Fresh };
        };
        let taken = self.sessions.get(&source);
        let floor = taken.map_or(0, |t| t.lowest_open).max(lowest_open);
        if key.n < floor
            || taken.is_some_and(|t| key.n - t.lowest_open < QOS2_SPREAD_MAX && t.has(key.n))
        {
            return if cfg!(planted = "take_a_key_twice") { Taking::Fresh } else { Taking::Repeat };
        }
        match (key.n - floor >= QOS2_SPREAD_MAX, taken) {
            (true, _) => Taking::Far,
            (false, None) if self.sessions.len() >= KEYS_MAX => Taking::Full,
            _ => Taking::Fresh,
        }
    }

    /// Takes a fresh `key`, or closes what is below `lowest_open` again.
    pub(crate) fn take(&mut self, key: Key, lowest_open: Option<u64>) {
        let source = (key.shard, key.id);
        let Some(lowest_open) = lowest_open else { return self.take_owed(source) };
        if !self.sessions.contains_key(&source) && self.sessions.len() >= KEYS_MAX {
            return;
        }
        let taken = self.sessions.entry(source).or_default();
        taken.close(lowest_open);
        if key.n >= taken.lowest_open {
            let (word, bit) = Taken::bit(key.n);
            taken.bits[word] |= bit;
        }
    }

    fn take_owed(&mut self, source: (u32, u64)) {
        if !self.owed_set.insert(source) {
            return;
        }
        self.owed.push_back(source);
        if self.owed.len() > OWED_KEYS_MAX
            && let Some(oldest) = self.owed.pop_front()
        {
            self.owed_set.remove(&oldest);
        }
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
            taken.bits.iter().for_each(|word| out.put_u64(*word));
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
            let mut taken = Taken { lowest_open: r.u64()?, ..Taken::default() };
            for word in &mut taken.bits {
                *word = r.u64()?;
            }
            keys.sessions.insert(source, taken);
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
        let take = |keys: &mut Keys, n, lowest_open| {
            let taking = keys.look(key(n), lowest_open);
            if matches!(taking, Taking::Fresh | Taking::Repeat) {
                keys.take(key(n), lowest_open);
            }
            taking
        };
        assert_eq!(take(&mut keys, 5, Some(3)), Taking::Fresh);
        assert_eq!(take(&mut keys, 5, Some(3)), Taking::Repeat);
        assert_eq!(take(&mut keys, 6, Some(6)), Taking::Fresh);
        assert_eq!(take(&mut keys, 5, Some(5)), Taking::Repeat, "closed, and the floor stays");
        assert_eq!(take(&mut keys, 6 + QOS2_SPREAD_MAX, Some(6)), Taking::Far);
        assert_eq!(take(&mut keys, 5 + QOS2_SPREAD_MAX, Some(6)), Taking::Fresh);
        assert_eq!(take(&mut keys, 5 + QOS2_SPREAD_MAX, Some(7)), Taking::Repeat);
        assert_eq!(
            take(&mut keys, 6 + QOS2_SPREAD_MAX, Some(7)),
            Taking::Fresh,
            "the bit of 6 is free again"
        );
        assert_eq!(take(&mut keys, 9_000, Some(9_000)), Taking::Fresh);
        assert_eq!(take(&mut keys, 9_001, Some(9_000)), Taking::Fresh);
        assert_eq!(take(&mut keys, 9_001, Some(9_000)), Taking::Repeat);
        assert_eq!(take(&mut keys, 0, None), Taking::Fresh, "an owed effect is another thing");
        assert_eq!(take(&mut keys, 0, None), Taking::Repeat);
        let mut bytes = Vec::new();
        keys.save(&mut bytes);
        assert_eq!(Keys::load(&mut Reader(&bytes)), Ok(keys));
    }
}
