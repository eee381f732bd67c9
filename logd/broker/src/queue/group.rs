//! A consumer group: how far it is, what it has settled, what was returned, who is in it.

use std::collections::{BTreeMap, BTreeSet};

use super::blocks::BLOCK;
use super::{Work, bit, mask};
use fluxmq_commands::command::queue::Sharing;

/// A member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Gateway epoch it came by; 0 when it stays until it leaves, n + 1 as long as a session of shard n lasts.
    pub gateway: u64,
    /// The gateway's name for the consumer.
    pub consumer: u64,
    /// Higher is preferred.
    pub priority: u8,
}

/// Epochs of gateways are positions: no entry has the index 0.
const EPOCH_MIN: u64 = 1 << 20;

// === impl Member ===

impl Member {
    /// The first gateway epoch there can be.
    pub(crate) const EPOCH_MIN: u64 = EPOCH_MIN;

    /// Stands in for the gateway of a member that belongs to a session of a shard.
    pub(crate) fn owned_by(shard: u8) -> u64 {
        u64::from(shard) + 1
    }

    /// The shard and the session it belongs to.
    pub(crate) fn owner(&self) -> Option<(u32, u64)> {
        let owned = self.gateway > 0 && self.gateway < EPOCH_MIN;
        owned.then(|| (self.gateway as u32 - 1, self.consumer))
    }
}

/// A consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: Box<str>,
    pub(crate) sharing: Sharing,
    /// All below is settled.
    pub(crate) cursor: u64,
    /// Settled at or above the cursor: by block, a bit each.
    pub(crate) settled: BTreeMap<u64, u128>,
    /// How often what is to be given again was returned.
    pub(crate) counts: BTreeMap<u64, u32>,
    /// When what is in `counts` may be given again, if later, Unix ms; and the same by time.
    pub(crate) waiting: BTreeMap<u64, u64>,
    pub(crate) waiting_until: BTreeSet<(u64, u64)>,
    /// By token: the position of the command with which they came.
    pub(crate) members: BTreeMap<u64, Member>,
    /// The one that gets everything, where there is one.
    pub(crate) active: Option<u64>,
    /// Fencing token of the active member (Q4).
    pub(crate) epoch: u64,
}

// === impl Group ===

impl Group {
    /// What is settled of a block.
    pub(crate) fn bits(&self, block: u64) -> u128 {
        let below = mask(block, 0, self.cursor);
        below | self.settled.get(&block).copied().unwrap_or_default()
    }

    pub(crate) fn is_settled(&self, offset: u64) -> bool {
        offset < self.cursor || bit(&self.settled, offset)
    }

    /// Nothing is known of `offset` but that it is settled or gone.
    pub(crate) fn forget(&mut self, offset: u64) {
        if self.counts.remove(&offset).is_some()
            && let Some(until) = self.waiting.remove(&offset)
        {
            self.waiting_until.remove(&(until, offset));
        }
    }

    /// `offset` is to be given again, not before `until_ms`.
    pub(crate) fn give_again(&mut self, offset: u64, count: u32, until_ms: u64) {
        self.forget(offset);
        self.counts.insert(offset, count);
        if until_ms > 0 {
            self.waiting.insert(offset, until_ms);
            self.waiting_until.insert((until_ms, offset));
        }
    }

    /// Forgets what is known of offsets below the cursor, as far as the steps go. Until then it does no harm.
    fn tidy(&mut self, work: &mut Work) {
        let block = self.cursor / BLOCK;
        while work.left > 0
            && let Some(first) = self.settled.first_entry()
            && *first.key() < block
        {
            first.remove();
            work.spend(1);
        }
        while work.left > 0
            && let Some((&offset, _)) = self.counts.first_key_value()
            && offset < self.cursor
        {
            self.forget(offset);
            work.spend(1);
        }
    }

    fn is_untidy(&self) -> bool {
        let block = self.settled.first_key_value().is_some_and(|(b, _)| *b < self.cursor / BLOCK);
        block || self.counts.first_key_value().is_some_and(|(offset, _)| *offset < self.cursor)
    }

    /// Begins again at `to`.
    pub(crate) fn seek(&mut self, to: u64) {
        self.cursor = to;
        self.settled.clear();
        self.counts.clear();
        self.waiting.clear();
        self.waiting_until.clear();
    }

    /// How far the cursor can go at once: what is settled or gone in its block.
    fn ahead(&self, dead: &BTreeMap<u64, u128>) -> u64 {
        let at = |map: &BTreeMap<u64, u128>| map.get(&(self.cursor / BLOCK)).copied();
        let bits = at(&self.settled).unwrap_or_default() | at(dead).unwrap_or_default();
        (bits >> (self.cursor % BLOCK)).trailing_ones().into()
    }

    pub(crate) fn can_advance(&self, dead: &BTreeMap<u64, u128>, floor: u64) -> bool {
        self.cursor < floor || self.ahead(dead) > 0 || self.is_untidy()
    }

    /// Moves the cursor over what is settled or gone, as far as the steps go.
    pub(crate) fn advance(&mut self, dead: &BTreeMap<u64, u128>, floor: u64, work: &mut Work) {
        self.cursor = self.cursor.max(floor);
        while work.left > 0 {
            let ahead = self.ahead(dead);
            if ahead == 0 {
                break;
            }
            self.cursor += ahead;
            work.spend(1);
        }
        self.tidy(work);
    }
}
