//! The payload of a Raft entry: a batch of commands (design S5; `docs/internals/commands.md`).

use std::cmp::Ordering;
use std::ops::Range;

use bytes::Bytes;
use fluxmq_names::Position;

use crate::wire::{Reader, WireError, Write};

/// The feature level this code applies.
pub const FEATURE_LEVEL: u16 = 1;
/// Bytes before the table of end offsets.
const FIXED: usize = 16;

/// Form of the table of slots, in bytes 10 and 11: `end u32` for each slot, as entries are made.
const DENSE: u16 = 0;
/// `slot u32, end u32` for the slots that are left, in order: what compaction keeps of an entry (S9).
const COMPACT: u16 = 1;

/// Gathers commands into the payload of one entry.
#[derive(Default)]
pub struct EntryBuilder {
    ends: Vec<u32>,
    slots: Vec<u8>,
}

// === impl EntryBuilder ===

impl EntryBuilder {
    /// Appends one command, written by `write`.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.slots);
        self.ends.push(u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
    }

    /// Appends commands that stand behind one another in `body`, ending at `ends`.
    pub fn push_all(&mut self, body: &[u8], ends: &[u32]) {
        let base = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.extend_from_slice(body);
        self.ends.extend(ends.iter().map(|e| base.saturating_add(*e)));
    }

    /// Commands so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Nothing was put in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of the commands so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.slots.len()
    }

    /// The payload, stamped with the leader's clock. The builder is empty again.
    pub fn close(&mut self, time_ms: u64) -> Bytes {
        let mut out = Vec::with_capacity(FIXED + 4 * self.ends.len() + self.slots.len());
        out.put_u64(time_ms);
        out.put_u16(FEATURE_LEVEL);
        out.put_u16(DENSE);
        out.put_u32(u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
        self.ends.drain(..).for_each(|e| out.put_u32(e));
        out.extend_from_slice(&self.slots);
        self.slots.clear();
        out.into()
    }
}

/// A payload, checked once, read where it lies.
#[derive(Clone, Copy, Debug)]
pub struct EntryView<'a> {
    /// The leader's clock, Unix ms.
    pub time_ms: u64,
    /// The feature level the entry was made at.
    pub feature_level: u16,
    ends: &'a [u8],
    slots: &'a [u8],
}

// === impl EntryView ===

impl<'a> EntryView<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// A table that does not fit its slots.
    pub fn read(payload: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader(payload);
        let time_ms = reader.u64()?;
        let feature_level = reader.u16()?;
        if reader.u16()? != DENSE {
            return Err(WireError("what is left of an entry is not applied"));
        }
        let n = reader.u32()?;
        if n > Position::SLOTS_MAX {
            return Err(WireError("more slots than a position can name"));
        }
        let ends = reader.take(n as usize * 4)?;
        let view = Self { time_ms, feature_level, ends, slots: reader.0 };
        let mut last = 0;
        for slot in 0..n {
            let end = view.end(slot);
            if end < last || end as usize > view.slots.len() {
                return Err(WireError("slots overlap or end outside the entry"));
            }
            last = end;
        }
        Ok(view)
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> u32 {
        (self.ends.len() / 4) as u32
    }

    /// There are no slots.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The command in `slot`.
    #[must_use]
    pub fn slot(&self, slot: u32) -> Option<&'a [u8]> {
        if slot >= self.len() {
            return None;
        }
        let start = slot.checked_sub(1).map_or(0, |before| self.end(before));
        self.slots.get(start as usize..self.end(slot) as usize)
    }

    fn end(&self, slot: u32) -> u32 {
        let at = slot as usize * 4;
        self.ends[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
    }
}

/// The command in `slot` of `payload`, sharing its memory. Looks at nothing but this slot, so it suits
/// random access to entries that were applied, and therefore checked, before. Reads what [`compact`] left as well.
#[must_use]
pub fn slot_of(payload: &Bytes, slot: u32) -> Option<Bytes> {
    let table = Table::read(payload)?;
    let at = table.find(payload, slot)?;
    let range = table.range(payload, at)?;
    Some(payload.slice(range))
}

/// The leader's clock when the entry was made, Unix ms; of what [`compact`] left as well.
#[must_use]
pub fn time_of(payload: &[u8]) -> Option<u64> {
    Table::read(payload)?;
    Reader(payload).u64().ok()
}

/// Slots that are in a payload; 0 if it is none.
#[must_use]
pub fn slots_in(payload: &[u8]) -> u32 {
    Table::read(payload).map_or(0, |table| table.n)
}

/// What is left of a payload when only some slots, in ascending order, are still needed. The payload itself if that
/// is no larger, or if it does not have them.
#[must_use]
pub fn compact(payload: &Bytes, slots: &[u32]) -> Bytes {
    let smaller = compacted(payload, slots).filter(|left| left.len() < payload.len());
    smaller.map_or_else(|| payload.clone(), Bytes::from)
}

fn compacted(payload: &[u8], slots: &[u32]) -> Option<Vec<u8>> {
    let table = Table::read(payload)?;
    let mut out = Vec::with_capacity(FIXED + 8 * slots.len());
    out.extend_from_slice(payload.get(..10)?);
    out.put_u16(COMPACT);
    out.put_u32(u32::try_from(slots.len()).ok()?);
    let mut end = 0;
    let mut ranges = Vec::with_capacity(slots.len());
    for slot in slots {
        let range = table.range(payload, table.find(payload, *slot)?)?;
        end += u32::try_from(range.len()).ok()?;
        out.put_u32(*slot);
        out.put_u32(end);
        ranges.push(range);
    }
    for range in ranges {
        out.extend_from_slice(payload.get(range)?);
    }
    Some(out)
}

/// The table of a payload of either form.
struct Table {
    compact: bool,
    n: u32,
}

// === impl Table ===

impl Table {
    fn read(payload: &[u8]) -> Option<Self> {
        let mut fixed = Reader(payload.get(10..FIXED)?);
        let form = fixed.u16().ok()?;
        let n = fixed.u32().ok()?;
        (form <= COMPACT && n <= Position::SLOTS_MAX)
            .then_some(Self { compact: form == COMPACT, n })
    }

    fn width(&self) -> usize {
        if self.compact { 8 } else { 4 }
    }

    /// The last four bytes of the entry at a place of the table are its end, those before, if any, its slot.
    fn field(&self, payload: &[u8], at: u32, from: usize) -> Option<u32> {
        let at = FIXED + at as usize * self.width() + from;
        Some(u32::from_le_bytes(*payload.get(at..)?.first_chunk()?))
    }

    /// Where a slot stands in the table.
    fn find(&self, payload: &[u8], slot: u32) -> Option<u32> {
        if !self.compact {
            return (slot < self.n).then_some(slot);
        }
        let (mut low, mut high) = (0, self.n);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.field(payload, middle, 0)?.cmp(&slot) {
                Ordering::Equal => return Some(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// The bytes of the slot at a place of the table.
    fn range(&self, payload: &[u8], at: u32) -> Option<Range<usize>> {
        let end = |at: u32| Some(self.field(payload, at, self.width() - 4)? as usize);
        let base = FIXED + self.n as usize * self.width();
        let start = base + if at == 0 { 0 } else { end(at - 1)? };
        let end = base + end(at)?;
        (start <= end && end <= payload.len()).then_some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_and_broken_tables_are_refused() {
        let mut builder = EntryBuilder::default();
        builder.push(|out| out.extend_from_slice(b"one"));
        builder.push_all(b"twothree", &[3, 8]);
        let payload = builder.close(77);
        let view = EntryView::read(&payload).expect("made above");
        assert_eq!((view.time_ms, view.len()), (77, 3));
        assert_eq!(view.slot(0), Some(&b"one"[..]));
        assert_eq!(view.slot(1), Some(&b"two"[..]));
        assert_eq!(view.slot(2), Some(&b"three"[..]));
        assert_eq!(view.slot(3), None);
        for slot in 0..4 {
            assert_eq!(slot_of(&payload, slot).as_deref(), view.slot(slot));
        }
        for cut in 0..payload.len() {
            assert!(EntryView::read(&payload[..cut]).is_err(), "cut at {cut}");
        }
        let mut overlapping = payload.to_vec();
        overlapping[16] = 7;
        assert!(EntryView::read(&overlapping).is_err());
    }

    #[test]
    fn what_is_left_of_an_entry_keeps_its_slots() {
        let mut builder = EntryBuilder::default();
        let slot = |n: u32| vec![n as u8; 40 + n as usize];
        (0..100).for_each(|n| builder.push(|out| out.extend_from_slice(&slot(n))));
        let payload = builder.close(77);
        let mut left = compact(&payload, &[3, 4, 50, 99]);
        assert!(EntryView::read(&left).is_err(), "it is not to be applied");
        for kept in [&[3, 4, 50, 99][..], &[4, 99], &[99]] {
            left = compact(&left, kept);
            assert_eq!((slots_in(&left), time_of(&left)), (kept.len() as u32, Some(77)));
            assert_eq!(left.len(), 16 + kept.iter().map(|n| 8 + slot(*n).len()).sum::<usize>());
            for n in 0..101 {
                let want = kept.contains(&n).then(|| slot(n));
                assert_eq!(slot_of(&left, n).as_deref(), want.as_deref(), "slot {n}");
            }
        }
        for cut in 0..left.len() {
            assert_eq!(slot_of(&left.slice(..cut), 99), None, "cut at {cut}");
        }
        assert_eq!(compact(&left, &[3]), left, "what is not there cannot be kept");
        let all: Vec<u32> = (0..100).collect();
        assert_eq!(compact(&payload, &all), payload, "nothing to gain");
        assert_eq!(slots_in(b"no entry"), 0);
    }
}
