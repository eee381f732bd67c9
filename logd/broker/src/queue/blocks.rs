//! The messages of a queue: positions and little else, delta-coded in blocks of 128 (S5). The message with
//! offset n is the (n mod 128)-th of block n / 128. About 3 bytes a message, also when a thousand queues
//! interleave: an entry index as difference to the message before, and a slot.

use std::collections::VecDeque;
use std::sync::Arc;

use fluxmq_names::Position;

use crate::pages::Pages;

use fluxmq_commands::command::queue::DeadLetter;
use fluxmq_commands::wire::{Reader, WireError, Write};

/// Messages of a block.
pub(crate) const BLOCK: u64 = 128;

/// A message in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) position: u64,
    /// Absolute, Unix ms; 0 = never.
    pub(crate) expiry_ms: u64,
    pub(crate) priority: u8,
    /// Bytes of its body; kept where the queue counts bytes, else 0 when it is read.
    pub(crate) size: u32,
    pub(crate) dead: Option<DeadLetter>,
}

/// Up to 128 messages. Hollow when they are all gone and something before them is not: then nothing of them is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) count: u8,
    /// Priorities that occur in it, a bit each.
    pub(crate) levels: u32,
    /// Entry index of the last message.
    last: u64,
    /// When the first and the last one came, Unix ms.
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
    /// The lowest expiry in it when it was looked at last; 0 = nothing expires.
    pub(crate) min_expiry: u64,
    bytes: Vec<u8>,
}

/// Where the next message of a block begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    byte: u32,
    index: u64,
}

// === impl Place ===

impl Place {
    /// The first message of a block.
    pub(crate) fn start(block: u64) -> Self {
        Self { offset: block * BLOCK, ..Self::default() }
    }
}

/// Reads a block from a place on.
struct Walk<'a> {
    block: &'a Block,
    place: Place,
    sized: bool,
}

// flags of what a message has besides its position
const EXPIRES: u8 = 1;
const PRIORITY: u8 = 2;
const DEAD: u8 = 4;

fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

// === impl Block ===

impl Block {
    pub(crate) fn is_hollow(&self) -> bool {
        self.bytes.is_empty()
    }

    fn push(&mut self, item: &Item, now_ms: u64, sized: bool) {
        if self.count == 0 {
            self.first_ms = now_ms;
        }
        let at = Position(item.position);
        let more = item.expiry_ms != 0 || item.priority != 0 || item.dead.is_some();
        let delta = zigzag(at.index().wrapping_sub(self.last) as i64);
        self.bytes.put_var(delta << 1 | u64::from(more));
        self.bytes.put_var(at.slot().into());
        if sized {
            self.bytes.put_var(item.size.into());
        }
        if more {
            let bits = [
                (EXPIRES, item.expiry_ms != 0),
                (PRIORITY, item.priority != 0),
                (DEAD, item.dead.is_some()),
            ];
            self.bytes.put_u8(bits.iter().filter(|(_, set)| *set).map(|(bit, _)| bit).sum());
            if item.expiry_ms != 0 {
                self.bytes.put_var(zigzag(item.expiry_ms.wrapping_sub(self.first_ms) as i64));
                let lowest = if self.min_expiry == 0 { u64::MAX } else { self.min_expiry };
                self.min_expiry = lowest.min(item.expiry_ms);
            }
            if item.priority != 0 {
                self.bytes.put_u8(item.priority);
            }
            item.dead.iter().for_each(|dead| dead.encode(&mut self.bytes));
        }
        self.levels |= 1 << item.priority.min(31);
        (self.last, self.last_ms) = (at.index(), now_ms);
        self.count += 1;
        if u64::from(self.count) == BLOCK {
            self.bytes.shrink_to_fit();
        }
    }
}

impl Walk<'_> {
    fn read(&mut self) -> Result<Item, WireError> {
        let bytes = self.block.bytes.get(self.place.byte as usize..);
        let mut r = Reader(bytes.ok_or(WireError("place outside its block"))?);
        let head = r.var()?;
        let index = self.place.index.wrapping_add(unzigzag(head >> 1) as u64);
        let slot = r.var()? as u32;
        let mut item = Item { position: Position::new(index, slot).0, ..Item::default() };
        if self.sized {
            item.size = r.var()? as u32;
        }
        if head & 1 != 0 {
            let flags = r.u8()?;
            if flags & EXPIRES != 0 {
                item.expiry_ms = self.block.first_ms.wrapping_add(unzigzag(r.var()?) as u64);
            }
            if flags & PRIORITY != 0 {
                item.priority = r.u8()?;
            }
            if flags & DEAD != 0 {
                item.dead = Some(DeadLetter::decode(&mut r)?);
            }
        }
        self.place.byte = (self.block.bytes.len() - r.0.len()) as u32;
        self.place.index = index;
        self.place.offset += 1;
        Ok(item)
    }
}

/// All blocks of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks {
    sized: bool,
    first: u64,
    blocks: VecDeque<Arc<Block>>,
}

// === impl Blocks ===

impl Blocks {
    /// Without messages; `sized` = each keeps its size.
    pub(crate) fn new(sized: bool) -> Self {
        Self { sized, ..Self::default() }
    }

    /// The offset of the next message.
    pub(crate) fn tail(&self) -> u64 {
        match self.blocks.back() {
            None => self.first * BLOCK,
            Some(last) => {
                (self.first + self.blocks.len() as u64 - 1) * BLOCK + u64::from(last.count)
            }
        }
    }

    /// Number of the first block that is still there.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn get(&self, block: u64) -> Option<&Block> {
        let at = usize::try_from(block.checked_sub(self.first)?).ok()?;
        self.blocks.get(at).map(|b| &**b)
    }

    /// All, with their numbers.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &Block)> {
        self.blocks.iter().enumerate().map(|(n, b)| (self.first + n as u64, &**b))
    }

    /// Number of the first block for which `wanted` holds; it holds for all behind as well.
    pub(crate) fn partition(&self, wanted: impl Fn(&Block) -> bool) -> u64 {
        self.first + self.blocks.partition_point(|b| !wanted(b)) as u64
    }

    /// Appends a message; returns its offset.
    pub(crate) fn push(&mut self, item: &Item, now_ms: u64) -> u64 {
        let offset = self.tail();
        if offset.is_multiple_of(BLOCK) {
            self.blocks.push_back(Arc::default());
        }
        let last = Arc::make_mut(self.blocks.back_mut().expect("pushed above"));
        last.push(item, now_ms, self.sized);
        offset
    }

    /// Forgets whole blocks below `offset`.
    pub(crate) fn pop_below(&mut self, offset: u64) {
        while (self.first + 1) * BLOCK <= offset && !self.blocks.is_empty() {
            self.blocks.pop_front();
            self.first += 1;
        }
    }

    /// The block was looked at: its lowest expiry is now this.
    pub(crate) fn set_min_expiry(&mut self, block: u64, min_expiry: u64) {
        let at = block.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(block) = at.and_then(|at| self.blocks.get_mut(at)) {
            Arc::make_mut(block).min_expiry = min_expiry;
        }
    }

    /// All messages of a block are gone: of those in a hollow block nothing can be read.
    pub(crate) fn hollow(&mut self, block: u64) {
        let at = block.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(block) = at.and_then(|at| self.blocks.get_mut(at)) {
            let Block { count, last, first_ms, last_ms, .. } = **block;
            *block = Arc::new(Block { count, last, first_ms, last_ms, ..Block::default() });
        }
    }

    /// The message at `place.offset`, which moves on behind it; in a hollow block one without a position. What `place` knows of the inside of its block
    /// makes it quick; at another offset than where it was left it is [`Self::at`] that must make it.
    pub(crate) fn next(&self, place: &mut Place) -> Option<Item> {
        let number = place.offset / BLOCK;
        let block = self.get(number)?;
        if place.offset % BLOCK >= block.count.into() {
            return None;
        }
        if place.offset.is_multiple_of(BLOCK) {
            (place.byte, place.index) = (0, 0);
        }
        if block.is_hollow() {
            *place = Place { offset: place.offset + 1, ..Place::default() };
            return Some(Item::default());
        }
        let mut walk = Walk { block, place: *place, sized: self.sized };
        let item = walk.read().ok()?;
        *place = walk.place;
        Some(item)
    }

    /// The place of `offset`; reads its block up to there, or from `near` when that lies before it inside.
    pub(crate) fn at(&self, offset: u64, near: Place) -> Place {
        let start = offset / BLOCK * BLOCK;
        let inside = near.offset >= start && near.offset <= offset;
        let mut place = if inside { near } else { Place { offset: start, ..Place::default() } };
        while place.offset < offset && self.next(&mut place).is_some() {}
        place.offset = offset;
        place
    }

    pub(crate) fn save(&self, pages: &mut Pages<'_>) {
        pages.page.put_u64(self.first);
        pages.page.put_u32(self.blocks.len() as u32);
        for b in &self.blocks {
            let out = &mut pages.page;
            out.put_u8(b.count);
            for n in [b.last, b.first_ms, b.last_ms, b.min_expiry] {
                out.put_u64(n);
            }
            out.put_u32(b.levels);
            out.put_u32(b.bytes.len() as u32);
            out.extend_from_slice(&b.bytes);
            pages.turn();
        }
    }

    pub(crate) fn load(r: &mut Reader<'_>, sized: bool) -> Result<Self, WireError> {
        let mut all = Self { sized, first: r.u64()?, blocks: VecDeque::new() };
        for _ in 0..r.u32()? {
            let count = r.u8()?;
            let (last, first_ms, last_ms, min_expiry) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
            let levels = r.u32()?;
            let len = r.u32()?;
            let bytes = r.take(len as usize)?.to_vec();
            let block = Block { count, levels, last, first_ms, last_ms, min_expiry, bytes };
            all.blocks.push_back(Arc::new(block));
        }
        Ok(all)
    }

    /// Bytes of memory the blocks take, with 16 for each allocation.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.blocks.iter().map(|b| b.bytes.capacity() + size_of::<Block>() + 16 + 16 + 8).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fluxmq_commands::command::queue::DeadReason;

    #[test]
    fn what_is_appended_is_read_from_any_place() {
        for sized in [false, true] {
            let mut blocks = Blocks::new(sized);
            let item = |n: u64| {
                let queue = n * 1_000_000_007;
                let reason = DeadReason::Rejected;
                let dead = DeadLetter { reason, hops: 1, count: 2, shard: 3, queue, offset: n };
                Item {
                    // Not in order: a scheduled message is older than its neighbours.
                    position: Position::new(1_000_000 + n * 37 % 5_000, (n % 300) as u32).0,
                    expiry_ms: if n.is_multiple_of(5) { 5_000 - n } else { 0 },
                    priority: if n.is_multiple_of(7) { 9 } else { 0 },
                    size: if sized { n as u32 } else { 0 },
                    dead: n.is_multiple_of(11).then_some(dead),
                }
            };
            for n in 0..1_000 {
                assert_eq!(blocks.push(&item(n), 1_000 + n), n);
            }
            let mut place = Place::default();
            for n in 0..1_000 {
                assert_eq!(blocks.next(&mut place), Some(item(n)));
            }
            assert_eq!(blocks.next(&mut place), None);
            blocks.pop_below(300);
            assert_eq!((blocks.first(), blocks.tail()), (2, 1_000));
            let mut near = Place::default();
            for n in [300, 299, 301, 256, 511, 999] {
                near = blocks.at(n, near);
                let mut place = near;
                assert_eq!(blocks.next(&mut place), Some(item(n)), "{n}");
            }
            assert_eq!(blocks.get(2).map(|b| b.min_expiry), Some(5_000 - 380));
            let bytes = crate::pages::whole(|pages| blocks.save(pages));
            assert_eq!(Blocks::load(&mut Reader(&bytes), sized), Ok(blocks));
        }
    }

    #[test]
    fn a_message_takes_four_bytes_also_when_a_thousand_queues_interleave() {
        let mut blocks = Blocks::new(false);
        for n in 0..128_000u64 {
            let position = Position::new(n * 1_000 + 17, 1).0;
            blocks.push(&Item { position, ..Item::default() }, n);
        }
        assert!(blocks.memory() <= 4 * 128_000, "{} bytes", blocks.memory());
    }
}
