//! A queue: its messages, who is to have them, what becomes of them (design §4, Q1–Q8; `docs/queues.md`).
//!
//! Offsets count messages from 0. Everything below the *floor* is gone for everybody, `dead` has those above it
//! that are. What is gone counts no longer at once; the references to the log are let go up to the *base*,
//! in steps (S11). A queue knows nothing of other queues: what is to become a dead letter is handed out in
//! [`Work`].

mod append;
mod blocks;
mod bury;
mod command;
mod declare;
mod give;
mod group;
mod members;
mod reads;
mod settle;
mod snapshot;
mod timers;
mod transaction;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub(crate) use append::Incoming;
use blocks::{BLOCK, Blocks, Item, Place};
pub(crate) use group::Group;
pub use group::Member;
pub use reads::{
    GroupCursor, GroupStats, GroupView, LOOK_MAX as LOOKED_BEYOND, QueueMessage, QueueStats, Wants,
};
pub(crate) use transaction::Transaction;

use fluxmq_commands::command::queue::{Arguments, DeadLetter, DeadReason, Recipient, Retention};

/// A message whose time has not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scheduled {
    item: Item,
    key: Box<[u8]>,
}

/// What is to take a message that leaves its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovesTo {
    /// The dead-letter queue, in another shard (Q6): why, and where from.
    DeadLetterQueue(DeadLetter),
    /// The list of a session (R10).
    Session(Recipient),
}

/// A message that something of another shard is to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Where its message is.
    pub position: u64,
    /// Who is to have it.
    pub to: MovesTo,
    /// Priority it had.
    pub priority: u8,
    pub(crate) size: u32,
}

/// What happened to messages of a queue since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Expired.
    pub expired: u64,
    /// Pushed out by newer ones, or too old.
    pub overflowed: u64,
    /// Rejected by a consumer.
    pub rejected: u64,
    /// Returned too often.
    pub delivery_limited: u64,
    /// Replaced by a newer one of the same key.
    pub compacted: u64,
    /// Of those, handed to the dead-letter queue.
    pub dead_lettered: u64,
    /// Dropped because they had died in too many queues.
    pub cycled: u64,
    /// Repeats that were not taken.
    pub repeats: u64,
}

/// A queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    pub(crate) vhost: Box<str>,
    pub(crate) name: Box<str>,
    /// Without the dead-letter queue, which stands beside it.
    arguments: Arguments<'static>,
    dead_letter: Box<str>,
    pub(crate) bindings: BTreeSet<Box<str>>,
    blocks: Blocks,
    /// All below is gone.
    floor: u64,
    /// All below is let go.
    base: Place,
    /// Gone above the floor, and below it until the base has passed: by block, a bit each.
    dead: BTreeMap<u64, u128>,
    /// Messages that are not gone, without scheduled ones.
    live: u64,
    /// Their bytes, and of those not let go yet; counted where bytes are limited.
    bytes: u64,
    pub(crate) groups: BTreeMap<u64, Group>,
    /// By due time and position.
    scheduled: BTreeMap<(u64, u64), Scheduled>,
    /// When each comes, by position; follows from them.
    scheduled_at: BTreeMap<u64, u64>,
    pub(crate) moving: BTreeMap<u64, Moving>,
    last_move: u64,
    /// When message ids came, oldest first; and when each came last.
    ids: VecDeque<(u64, Box<str>)>,
    id_times: BTreeMap<Box<str>, u64>,
    producers: BTreeMap<Box<str>, u64>,
    /// Newest offset of each key, where the queue is compacted; and keys by that offset.
    keys: BTreeMap<Box<[u8]>, u64>,
    key_offsets: BTreeMap<u64, Box<[u8]>>,
    /// Blocks from this one on may hold what every group has settled, since a group left or began again;
    /// `u64::MAX` = they do not.
    review: u64,
    touched_ms: u64,
    counters: Counters,
    /// Blocks by their lowest expiry; follows from the blocks.
    expiring: BTreeSet<(u64, u64)>,
}

/// What work on a queue leads to outside of it.
#[derive(Debug, Default)]
pub(crate) struct Work {
    now_ms: u64,
    /// Steps that may still be done.
    left: u32,
    steps: u32,
    /// Positions the queue refers to no longer.
    released: Vec<u64>,
    /// Messages that died.
    died: Vec<Died>,
    /// Something came to be given again.
    returned: bool,
    /// Something was settled or is gone.
    changed: bool,
}

/// Steps that burying a message takes at most, with what it pushes out of the dead-letter queue.
const BURY_STEPS: u32 = 20;

/// A message that died in a queue.
#[derive(Clone, Copy, Debug)]
struct Died {
    item: Item,
    offset: u64,
    reason: DeadReason,
    count: u32,
}

// === impl Work ===

impl Work {
    /// Whether steps are left for `more` messages that may die, and for burying those that did.
    fn may_bury(&self, more: usize) -> bool {
        self.left > (self.died.len() + more) as u32 * BURY_STEPS
    }

    fn spend(&mut self, steps: u32) {
        self.left = self.left.saturating_sub(steps);
        self.steps = self.steps.saturating_add(steps);
    }
}

/// The bits of `first..end` in a block.
fn mask(block: u64, first: u64, end: u64) -> u128 {
    let start = block * BLOCK;
    let from = first.saturating_sub(start).min(BLOCK);
    let to = end.saturating_sub(start).min(BLOCK);
    if from >= to {
        return 0;
    }
    let ones = |n: u64| if n >= BLOCK { u128::MAX } else { (1 << n) - 1 };
    ones(to) & !ones(from)
}

/// How many of `first..end` are set in one of the maps.
fn count(maps: &[&BTreeMap<u64, u128>], first: u64, end: u64, work: &mut Work) -> u64 {
    if first >= end {
        return 0;
    }
    let blocks = first / BLOCK..=(end - 1) / BLOCK;
    let mut total = 0;
    let mut seen = 0;
    for (n, map) in maps.iter().enumerate() {
        for (block, bits) in map.range(blocks.clone()) {
            let earlier = maps[..n].iter().filter_map(|m| m.get(block)).fold(0, |all, b| all | b);
            total += (bits & !earlier & mask(*block, first, end)).count_ones();
            seen += 1;
        }
    }
    work.spend(seen / 16);
    total.into()
}

fn bit(map: &BTreeMap<u64, u128>, offset: u64) -> bool {
    map.get(&(offset / BLOCK)).is_some_and(|bits| bits >> (offset % BLOCK) & 1 == 1)
}

// === impl Queue ===

impl Queue {
    /// The offset of the next message.
    pub(crate) fn tail(&self) -> u64 {
        self.blocks.tail()
    }

    /// Arguments it was declared with.
    pub(crate) fn arguments(&self) -> Arguments<'_> {
        Arguments { dead_letter: &self.dead_letter, ..self.arguments }
    }

    /// It belongs to a shared subscription.
    pub(crate) fn is_hidden(&self) -> bool {
        self.arguments.hidden
    }

    /// Whether messages keep their sizes: bytes are limited here, or maybe where its dead letters go.
    fn sized(arguments: &Arguments<'_>) -> bool {
        arguments.max_bytes > 0 || !arguments.dead_letter.is_empty()
    }

    /// Whether the message with this offset is there.
    fn is_live(&self, offset: u64) -> bool {
        (self.floor..self.tail()).contains(&offset) && !bit(&self.dead, offset)
    }

    /// All below `to` is gone.
    fn raise_floor(&mut self, to: u64, work: &mut Work) {
        let to = to.min(self.tail());
        if to > self.floor {
            let gone = to - self.floor - count(&[&self.dead], self.floor, to, work);
            self.live -= gone;
            self.floor = to;
            work.changed = true;
        }
        self.skip_dead(work);
    }

    /// The floor stands at a message that is there, or at the end.
    fn skip_dead(&mut self, work: &mut Work) {
        while let Some(bits) = self.dead.get(&(self.floor / BLOCK)) {
            let ones = (bits >> (self.floor % BLOCK)).trailing_ones();
            if ones == 0 {
                break;
            }
            self.floor += u64::from(ones);
            work.spend(1);
        }
        let floor = self.floor;
        for group in self.groups.values_mut().filter(|g| g.cursor < floor) {
            group.cursor = floor;
            work.spend(1);
        }
    }

    /// These messages of a block, all there until now, are gone; hands each to `gone`.
    fn kill(&mut self, block: u64, bits: u128, work: &mut Work, mut gone: impl FnMut(u64, Item)) {
        if bits == 0 {
            return;
        }
        work.changed = true;
        let first = block * BLOCK + u64::from(bits.trailing_zeros());
        let mut place = self.blocks.at(first, self.base);
        let end = block * BLOCK + BLOCK - u64::from(bits.leading_zeros());
        work.spend(4 + (end - block * BLOCK) as u32 / 8);
        while place.offset < end {
            let offset = place.offset;
            let Some(item) = self.blocks.next(&mut place) else { break };
            if bits >> (offset % BLOCK) & 1 == 1 {
                work.released.push(item.position);
                self.bytes -= u64::from(item.size);
                gone(offset, item);
                for group in self.groups.values_mut() {
                    group.forget(offset);
                }
            }
        }
        self.live -= u64::from(bits.count_ones());
        let dead = self.dead.entry(block).or_default();
        *dead |= bits;
        // The base reads what it passes, but whole blocks of the dead.
        if *dead == u128::MAX && block > self.base.offset / BLOCK {
            let lowest = self.blocks.get(block).map_or(0, |b| b.min_expiry);
            self.expiring.remove(&(lowest, block));
            self.blocks.hollow(block);
        }
    }

    /// Lets go of what lies below the floor, as far as the steps go.
    fn catch_up(&mut self, work: &mut Work) {
        work.spend(self.groups.len() as u32 / 8);
        for group in self.groups.values_mut() {
            group.advance(&self.dead, self.floor, work);
        }
        self.bury_settled(0, 0, work);
        self.review(work);
        while self.base.offset < self.floor && work.left > 0 {
            let offset = self.base.offset;
            let block = offset / BLOCK;
            if offset.is_multiple_of(BLOCK) && self.dead.get(&block) == Some(&u128::MAX) {
                self.base = Place::start(block + 1);
                self.pop_blocks();
                work.spend(1);
                continue;
            }
            let Some(item) = self.blocks.next(&mut self.base) else { break };
            if !bit(&self.dead, offset) {
                work.released.push(item.position);
                self.bytes -= u64::from(item.size);
            }
            work.spend(1);
            if self.base.offset.is_multiple_of(BLOCK) {
                self.pop_blocks();
            }
        }
    }

    /// Looks for what every group has settled, as far as the steps go.
    fn review(&mut self, work: &mut Work) {
        while self.review != u64::MAX && work.left > 0 {
            let slowest = self.groups.values().min_by_key(|g| g.cursor);
            let next = slowest.and_then(|g| g.settled.range(self.review..).next());
            work.spend(4);
            match next.map(|(block, _)| *block) {
                Some(block) => {
                    self.review = block + 1;
                    self.bury_settled(block * BLOCK, (block + 1) * BLOCK, work);
                }
                None => self.review = u64::MAX,
            }
        }
    }

    fn pop_blocks(&mut self) {
        let block = self.base.offset / BLOCK;
        for number in self.blocks.first()..block {
            if let Some(gone) = self.blocks.get(number).filter(|b| b.min_expiry > 0) {
                self.expiring.remove(&(gone.min_expiry, number));
            }
            self.dead.remove(&number);
        }
        self.blocks.pop_below(self.base.offset);
        while let Some((&offset, _)) = self.key_offsets.first_key_value()
            && offset < self.base.offset
        {
            if let Some((_, key)) = self.key_offsets.pop_first() {
                self.keys.remove(&key);
            }
        }
    }

    /// Something is left to be done by [`Self::catch_up`].
    pub(crate) fn is_behind(&self) -> bool {
        self.base.offset < self.floor
            || self.review != u64::MAX
            || self.groups.values().any(|g| g.can_advance(&self.dead, self.floor))
    }

    /// The message at `offset`.
    fn item(&self, offset: u64) -> Option<Item> {
        self.blocks.next(&mut self.blocks.at(offset, self.base))
    }

    /// The oldest message is pushed out.
    fn drop_head(&mut self, work: &mut Work) {
        let Some(item) = self.item(self.floor) else { return };
        let offset = self.floor;
        work.spend(4);
        self.counters.overflowed += 1;
        if self.arguments.overflow == fluxmq_commands::command::queue::Overflow::DeadLetter {
            work.died.push(Died { item, offset, reason: DeadReason::Overflow, count: 0 });
        }
        self.raise_floor(offset + 1, work);
        self.catch_up(work);
    }

    /// What every group has settled is gone, in a work queue: all below the lowest cursor, and above it what
    /// was settled one by one in `first..end`.
    fn bury_settled(&mut self, first: u64, end: u64, work: &mut Work) {
        if self.arguments.retention != Retention::Acked {
            return;
        }
        let Some(slowest) = self.groups.values().min_by_key(|g| g.cursor) else { return };
        let cursor = slowest.cursor;
        let candidates: Vec<u64> = match first.max(cursor) {
            from if from < end => {
                slowest.settled.range(from / BLOCK..=(end - 1) / BLOCK).map(|(b, _)| *b).collect()
            }
            _ => Vec::new(),
        };
        self.raise_floor(cursor, work);
        for block in candidates {
            let asked = mask(block, first.max(self.floor), end);
            let settled = self.groups.values().fold(asked, |all, g| all & g.bits(block));
            let dead = self.dead.get(&block).copied().unwrap_or_default();
            self.kill(block, settled & !dead, work, |_, _| {});
            work.spend(self.groups.len() as u32 / 8);
        }
        self.skip_dead(work);
    }

    /// Positions it refers to, one by one.
    pub(crate) fn positions(&self) -> impl Iterator<Item = u64> {
        let mut place = self.base;
        let items = std::iter::from_fn(move || {
            let offset = place.offset;
            self.blocks.next(&mut place).map(|item| (offset, item))
        });
        let items = items.filter(|(offset, _)| !bit(&self.dead, *offset)).map(|(_, i)| i.position);
        let scheduled = self.scheduled.values().map(|s| s.item.position);
        items.chain(scheduled).chain(self.moving.values().map(|m| m.position))
    }
}
