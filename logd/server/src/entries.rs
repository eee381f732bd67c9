//! Commands where they lie in the log.

use bytes::Bytes;
use fluxmq_commands::{slot_of, time_of};
use fluxmq_names::Position;
use logd_raft::Group;

/// The command at a position.
pub(crate) fn read_command(group: &Group, position: u64) -> Option<Bytes> {
    let position = Position(position);
    let entry = group.log().entry(position.index()).ok().flatten()?;
    slot_of(&entry, position.slot())
}

/// Reads commands; keeps the entry it read last, because neighbours mostly lie in it.
#[derive(Default)]
pub(crate) struct Entries {
    last: Option<(u32, u64, Bytes)>,
}

// === impl Entries ===

impl Entries {
    /// The command at `position` of a shard.
    pub(crate) fn read(&mut self, group: &Group, position: u64) -> Option<Bytes> {
        let position = Position(position);
        slot_of(self.entry(group, position.index())?, position.slot())
    }

    /// When the entry of `position` was stored, Unix ms.
    pub(crate) fn time_ms(&mut self, group: &Group, position: u64) -> Option<u64> {
        time_of(self.entry(group, Position(position).index())?)
    }

    fn entry(&mut self, group: &Group, index: u64) -> Option<&Bytes> {
        let shard = group.shard().0;
        let cached = self.last.as_ref().is_some_and(|(s, i, _)| *s == shard && *i == index);
        if !cached {
            let entry = group.log().entry(index).ok().flatten()?;
            self.last = Some((shard, index, entry));
        }
        self.last.as_ref().map(|(.., entry)| entry)
    }
}
