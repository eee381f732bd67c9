//! An inbox: the positions of all messages that matched one filter, shared by every session that has it
//! (design §4). Delta-coded in blocks of 128; trimmed from its head as the sessions' cursors move on (S9).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::limits::BLOCK_MESSAGES;
use crate::pages::Pages;
use fluxmq_commands::wire::{Reader, WireError, Write};

/// A message in an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) position: u64,
    /// As published, 1 or 2.
    pub(crate) qos: u8,
    /// Retain flag as published.
    pub(crate) retain: bool,
}

/// Messages, and bytes of them as published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages.
    pub messages: u64,
    /// Bytes: payload, properties and what the broker notes.
    pub bytes: u64,
}

impl std::ops::Add for Backlog {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let bytes = self.bytes.saturating_add(other.bytes);
        Self { messages: self.messages.saturating_add(other.messages), bytes }
    }
}

impl std::ops::Sub for Backlog {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let bytes = self.bytes.saturating_sub(other.bytes);
        Self { messages: self.messages.saturating_sub(other.messages), bytes }
    }
}

/// Up to 128 positions: variable length deltas, times four, plus flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    count: u16,
    last: u64,
    bytes: Vec<u8>,
    /// All of the inbox up to the end of this block, since it was made (R8).
    total: Backlog,
}

/// A place between two messages of an inbox. Survives appends and trimming of what lies before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the block since the inbox was made.
    pub(crate) block: u64,
    /// Bytes of it that lie before.
    byte: u32,
    /// The position before; 0 at the start of a block.
    before: u64,
}

/// Positions that matched one filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inbox {
    pub(crate) vhost: Box<str>,
    pub(crate) filter: Box<str>,
    /// Open intervals; without one nothing is appended.
    pub(crate) open: u32,
    /// Number of the first block in `blocks`.
    first_block: u64,
    blocks: VecDeque<Arc<Block>>,
    /// All that lay before the first block.
    before: Backlog,
    /// Everything before was let go.
    head: Place,
    /// How many intervals stand at a place, by block and byte; and the position before that place.
    marks: BTreeMap<(u64, u32), (u32, u64)>,
}

// === impl Inbox ===

impl Inbox {
    pub(crate) fn new(vhost: &str, filter: &str) -> Self {
        Self { vhost: vhost.into(), filter: filter.into(), ..Self::default() }
    }

    /// The list of one session: no filter leads to it.
    pub(crate) fn is_private(&self) -> bool {
        self.filter.is_empty()
    }

    /// Appends a message of `size` bytes; its position is above all before.
    pub(crate) fn append(&mut self, item: Item, size: u32) {
        let total = self.total();
        if self.blocks.back().is_none_or(|b| b.count >= BLOCK_MESSAGES) {
            self.blocks.push_back(Arc::new(Block { total, ..Block::default() }));
        }
        let block = Arc::make_mut(self.blocks.back_mut().expect("pushed above"));
        let delta = item.position - block.last;
        let flags = u64::from(item.qos == 2) | u64::from(item.retain) << 1;
        // A position of 64 bits loses its two top bits here: entry indexes stay below 2^42.
        block.bytes.put_var(delta << 2 | flags);
        block.count += 1;
        block.last = item.position;
        block.total = total + Backlog { messages: 1, bytes: size.into() };
    }

    /// All that was ever appended.
    fn total(&self) -> Backlog {
        self.blocks.back().map_or(self.before, |b| b.total)
    }

    /// All before the block with index `at`.
    fn total_before(&self, at: usize) -> Backlog {
        at.checked_sub(1).and_then(|at| self.blocks.get(at)).map_or(self.before, |b| b.total)
    }

    /// All before `n` messages of the block with index `at`; bytes within a block are taken to be alike.
    fn total_at(&self, at: usize, n: u64) -> Backlog {
        let before = self.total_before(at);
        let Some(block) = self.blocks.get(at) else { return before };
        let bytes = (block.total - before).bytes.saturating_mul(n) / u64::from(block.count.max(1));
        before + Backlog { messages: n, bytes }
    }

    fn total_to(&self, place: Place) -> Backlog {
        let at = place.block.saturating_sub(self.first_block);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let held = self.blocks.get(at).filter(|_| place.block >= self.first_block);
        let n = held.map_or(0, |b| positions(b).iter().filter(|p| **p <= place.before).count());
        self.total_at(at, n as u64)
    }

    /// What lies between a place and a position: how many messages exactly, their bytes within a block's average.
    pub(crate) fn between(&self, place: Place, to: u64) -> Backlog {
        let end = if to == u64::MAX {
            self.total()
        } else {
            let at = self.blocks.partition_point(|b| b.last < to);
            let inside = self.blocks.get(at).map(|b| positions(b));
            let n = inside.map_or(0, |all| all.iter().filter(|p| **p < to).count());
            self.total_at(at, n as u64)
        };
        end - self.total_to(place)
    }

    /// How many messages behind a place hold `bytes` or more, up to the end of a block.
    pub(crate) fn messages_of(&self, place: Place, bytes: u64) -> u64 {
        let start = self.total_to(place);
        let at = self.blocks.partition_point(|b| (b.total - start).bytes < bytes);
        let upto = self.blocks.get(at).map_or(self.total(), |b| b.total);
        (upto - start).messages
    }

    /// The place behind the newest message.
    pub(crate) fn end(&self) -> Place {
        match self.blocks.back() {
            None => Place { block: self.first_block, byte: 0, before: 0 },
            Some(block) => Place {
                block: self.first_block + self.blocks.len() as u64 - 1,
                byte: block.bytes.len() as u32,
                before: block.last,
            },
        }
    }

    /// The message behind `place`, which moves on past it; None at the end. A place at the end of a full
    /// block stays there until the next block begins.
    pub(crate) fn next(&self, place: &mut Place) -> Option<Item> {
        loop {
            let at = place.block.checked_sub(self.first_block)?;
            let block = self.blocks.get(usize::try_from(at).ok()?)?;
            let mut reader = Reader(block.bytes.get(place.byte as usize..)?);
            if reader.is_empty() {
                if at + 1 >= self.blocks.len() as u64 {
                    return None;
                }
                *place = Place { block: place.block + 1, byte: 0, before: 0 };
                continue;
            }
            let coded = reader.var().ok()?;
            let position = place.before + (coded >> 2);
            place.byte = (block.bytes.len() - reader.0.len()) as u32;
            place.before = position;
            let qos = 1 + (coded & 1) as u8;
            return Some(Item { position, qos, retain: coded & 2 != 0 });
        }
    }

    /// Notes that an interval stands at `place`.
    pub(crate) fn mark(&mut self, place: Place) {
        self.marks.entry((place.block, place.byte)).or_insert((0, place.before)).0 += 1;
    }

    /// An interval that stood at `place` stands there no more.
    pub(crate) fn unmark(&mut self, place: Place) {
        if let Some((count, _)) = self.marks.get_mut(&(place.block, place.byte)) {
            *count -= 1;
            if *count == 0 {
                self.marks.remove(&(place.block, place.byte));
            }
        }
    }

    /// No interval is left: nothing in it is owed to anybody.
    pub(crate) fn is_forsaken(&self) -> bool {
        self.marks.is_empty()
    }

    /// Something lies before the place of the slowest session that was not let go yet.
    pub(crate) fn needs_trimming(&self) -> bool {
        let first = self.marks.first_key_value();
        first.is_some_and(|(place, _)| (self.head.block, self.head.byte) < *place)
    }

    /// Lets go of up to `max` messages that nobody is owed: all before the slowest session. Hands each
    /// position to `released`; returns how many those were.
    pub(crate) fn trim(&mut self, max: u32, mut released: impl FnMut(u64)) -> u32 {
        let mut count = 0;
        while count < max && self.needs_trimming() {
            let mut head = self.head;
            let Some(item) = self.next(&mut head) else { break };
            released(item.position);
            self.head = head;
            count += 1;
        }
        while self.first_block < self.head.block && self.blocks.len() > 1 {
            self.before = self.total_before(1);
            self.blocks.pop_front();
            self.first_block += 1;
        }
        count
    }

    /// Lets go of the first block of a forsaken inbox; false when nothing is left.
    pub(crate) fn discard_block(&mut self, mut released: impl FnMut(u64)) -> bool {
        let Some(block) = self.blocks.front() else {
            return false;
        };
        let skip = if self.head.block == self.first_block { self.head.before } else { 0 };
        positions(block).into_iter().filter(|p| *p > skip).for_each(&mut released);
        self.before = self.total_before(1);
        self.blocks.pop_front();
        self.first_block += 1;
        !self.blocks.is_empty()
    }

    /// Every position in it that may be owed.
    pub(crate) fn positions(&self) -> impl Iterator<Item = u64> {
        let mut head = self.head;
        std::iter::from_fn(move || self.next(&mut head).map(|item| item.position))
    }

    /// Messages in its blocks.
    pub(crate) fn len(&self) -> usize {
        self.blocks.iter().map(|b| usize::from(b.count)).sum()
    }

    /// Bytes of memory its blocks take, without the allocator's overhead.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.blocks.iter().map(|b| b.bytes.capacity() + size_of::<Block>() + 16).sum()
    }
}

fn positions(block: &Block) -> Vec<u64> {
    let mut reader = Reader(&block.bytes);
    let mut before = 0;
    let mut all = Vec::with_capacity(block.count.into());
    while let Ok(coded) = reader.var() {
        before += coded >> 2;
        all.push(before);
    }
    all
}

// --- snapshot ---

impl Place {
    /// Whether it lies before `other` in the same inbox.
    pub(crate) fn is_before(self, other: Self) -> bool {
        (self.block, self.byte) < (other.block, other.byte)
    }

    pub(crate) fn save(self, out: &mut Vec<u8>) {
        out.put_u64(self.block);
        out.put_u32(self.byte);
        out.put_u64(self.before);
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { block: r.u64()?, byte: r.u32()?, before: r.u64()? })
    }
}

impl Inbox {
    pub(crate) fn save(&self, pages: &mut Pages<'_>) {
        let out = &mut pages.page;
        out.put_str(&self.vhost);
        out.put_str(&self.filter);
        out.put_u64(self.first_block);
        self.head.save(out);
        out.put_u64(self.before.messages);
        out.put_u64(self.before.bytes);
        out.put_u32(self.blocks.len() as u32);
        for block in &self.blocks {
            let out = &mut pages.page;
            out.put_u16(block.count);
            out.put_u64(block.last);
            out.put_u64(block.total.bytes);
            out.put_u32(block.bytes.len() as u32);
            out.extend_from_slice(&block.bytes);
            pages.turn();
        }
    }

    /// `open` and the marks follow from the sessions' intervals.
    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut inbox = Self::new(r.str()?, r.str()?);
        inbox.first_block = r.u64()?;
        inbox.head = Place::load(r)?;
        inbox.before = Backlog { messages: r.u64()?, bytes: r.u64()? };
        let mut messages = inbox.before.messages;
        for _ in 0..r.u32()? {
            let (count, last, total, len) = (r.u16()?, r.u64()?, r.u64()?, r.u32()?);
            let bytes = r.take(len as usize)?.to_vec();
            messages = messages.saturating_add(count.into());
            let total = Backlog { messages, bytes: total };
            inbox.blocks.push_back(Arc::new(Block { count, last, bytes, total }));
        }
        Ok(inbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: u64) -> Item {
        Item { position: n, qos: 1 + (n % 2) as u8, retain: n.is_multiple_of(3) }
    }

    #[test]
    fn what_is_appended_is_read_in_order_from_any_place() {
        let mut inbox = Inbox::new("/", "a");
        let start = inbox.end();
        inbox.mark(start);
        let mut late = start;
        for n in 1..=1_000u64 {
            inbox.append(item(n * 1_048_577), 10);
            if n == 300 {
                late = inbox.end();
                inbox.mark(late);
            }
        }
        for (mut place, first) in [(start, 1), (late, 301)] {
            for n in first..=1_000 {
                assert_eq!(inbox.next(&mut place), Some(item(n * 1_048_577)));
            }
            assert_eq!(inbox.next(&mut place), None);
            assert_eq!(inbox.next(&mut place), None);
        }
        inbox.unmark(start);
        let mut dropped = Vec::new();
        assert_eq!(inbox.trim(290, |position| dropped.push(position)), 290, "as many as it may");
        assert!(inbox.needs_trimming());
        assert_eq!(
            inbox.trim(290, |position| dropped.push(position)),
            10,
            "what lies before the mark"
        );
        assert!(!inbox.needs_trimming());
        let mut place = late;
        assert_eq!(inbox.next(&mut place), Some(item(301 * 1_048_577)));
        inbox.unmark(late);
        assert_eq!(inbox.positions().count(), 700);
        assert!(inbox.is_forsaken());
        while inbox.discard_block(|position| dropped.push(position)) {}
        assert_eq!(dropped, (1..=1_000).map(|n| n * 1_048_577).collect::<Vec<u64>>());
    }

    #[test]
    fn what_lies_between_is_counted_also_when_the_head_is_gone() {
        let mut inbox = Inbox::new("/", "a");
        let start = inbox.end();
        inbox.mark(start);
        let mut places = vec![start];
        for n in 1..=1_000u64 {
            inbox.append(item(n << 20), if n <= 500 { 10 } else { 100 });
            places.push(inbox.end());
        }
        let to = |n: u64| if n == 1_000 { u64::MAX } else { (n + 1) << 20 };
        for (from, upto) in [(0, 1_000), (0, 0), (1, 999), (127, 129), (128, 128), (300, 640)] {
            let got = inbox.between(places[from], to(upto));
            assert_eq!(got.messages, upto - from as u64, "{from} to {upto}");
        }
        assert_eq!(inbox.between(start, u64::MAX).bytes, 55_000);
        assert_eq!(inbox.between(places[200], u64::MAX).bytes, 53_000);
        assert_eq!(inbox.messages_of(start, 1), 128);
        assert_eq!(inbox.messages_of(start, 1_281), 256);
        assert_eq!(inbox.messages_of(start, 1_000_000), 1_000);
        let before = inbox.between(places[700], u64::MAX);
        inbox.mark(places[700]);
        inbox.unmark(start);
        inbox.trim(10_000, |_| {});
        assert_eq!(inbox.between(places[700], u64::MAX), before);
        let bytes = crate::pages::whole(|pages| inbox.save(pages));
        let loaded = Inbox::load(&mut Reader(&bytes)).expect("saved above");
        assert_eq!(loaded.between(places[700], u64::MAX), before);
        assert_eq!(before, Backlog { messages: 300, bytes: 30_000 });
    }

    #[test]
    fn a_million_messages_take_few_bytes() {
        let mut inbox = Inbox::new("/", "a");
        let place = inbox.end();
        inbox.mark(place);
        for n in 0..1_000_000u64 {
            inbox.append(item((n / 100 + 1) << 20 | (n % 100)), 10);
        }
        assert!(inbox.memory() < 4_000_000, "{} bytes", inbox.memory());
    }
}
