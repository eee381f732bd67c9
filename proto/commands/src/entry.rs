//! The payload of a Raft entry: a batch of commands (design S5; `docs/internals/commands.md`).

use bytes::Bytes;
use fluxmq_names::Position;

use crate::wire::{Reader, WireError, Write};

/// The feature level this code applies.
pub const FEATURE_LEVEL: u16 = 1;
/// Bytes before the table of end offsets.
const FIXED: usize = 16;

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
        out.put_u16(0);
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
        reader.u16()?;
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
/// random access to entries that were applied, and therefore checked, before.
#[must_use]
pub fn slot_of(payload: &Bytes, slot: u32) -> Option<Bytes> {
    let mut fixed = Reader(payload.get(12..FIXED)?);
    let n = fixed.u32().ok()?;
    let end = |slot: u32| {
        let at = FIXED + slot as usize * 4;
        let bytes = payload.get(at..at + 4)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes) as usize)
    };
    if slot >= n {
        return None;
    }
    let base = FIXED + n as usize * 4;
    let start = if slot == 0 { 0 } else { end(slot - 1)? };
    let end = end(slot)?;
    (start <= end && base + end <= payload.len()).then(|| payload.slice(base + start..base + end))
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
}
