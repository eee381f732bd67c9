//! An inbox: the positions of all messages that matched one filter, shared by every session that has it
//! (design §4). Delta-coded in blocks of 128; trimmed from its head as the sessions' cursors move on (S9).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::limits::BLOCK_MESSAGES;
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

/// Up to 128 positions: variable length deltas, times four, plus flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Block {
    count: u16,
    last: u64,
    bytes: Vec<u8>,
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

    /// Appends a message; its position is above all before.
    pub(crate) fn append(&mut self, item: Item) {
        if self.blocks.back().is_none_or(|b| b.count >= BLOCK_MESSAGES) {
            self.blocks.push_back(Arc::default());
        }
        let block = Arc::make_mut(self.blocks.back_mut().expect("pushed above"));
        let delta = item.position - block.last;
        let flags = u64::from(item.qos == 2) | u64::from(item.retain) << 1;
        // A position of 64 bits loses its two top bits here: entry indexes stay below 2^42.
        block.bytes.put_var(delta << 2 | flags);
        block.count += 1;
        block.last = item.position;
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
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.put_str(&self.vhost);
        out.put_str(&self.filter);
        out.put_u64(self.first_block);
        self.head.save(out);
        out.put_u32(self.blocks.len() as u32);
        for block in &self.blocks {
            out.put_u16(block.count);
            out.put_u64(block.last);
            out.put_u32(block.bytes.len() as u32);
            out.extend_from_slice(&block.bytes);
        }
    }

    /// `open` and the marks follow from the sessions' intervals.
    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut inbox = Self::new(r.str()?, r.str()?);
        inbox.first_block = r.u64()?;
        inbox.head = Place::load(r)?;
        for _ in 0..r.u32()? {
            let (count, last, len) = (r.u16()?, r.u64()?, r.u32()?);
            let bytes = r.take(len as usize)?.to_vec();
            inbox.blocks.push_back(Arc::new(Block { count, last, bytes }));
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
            inbox.append(item(n * 1_048_577));
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
    fn a_million_messages_take_few_bytes() {
        let mut inbox = Inbox::new("/", "a");
        let place = inbox.end();
        inbox.mark(place);
        for n in 0..1_000_000u64 {
            inbox.append(item((n / 100 + 1) << 20 | (n % 100)));
        }
        assert!(inbox.memory() < 4_000_000, "{} bytes", inbox.memory());
    }
}
