//! Numbers that name things.

use std::fmt;

/// Bits of a position that hold the slot.
const SLOT_BITS: u32 = 20;

/// Place of a command, and of the message in it, in its shard: 44 bits of entry index, 20 bits of
/// slot (design S5). Never used outside its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

// === impl Position ===

impl Position {
    /// Slots of an entry at most.
    pub const SLOTS_MAX: u32 = 1 << SLOT_BITS;
    /// Largest entry index.
    pub const INDEX_MAX: u64 = (1 << (64 - SLOT_BITS)) - 1;

    /// The position of `slot` in entry `index`. What is above the limits is cut off; an entry of more
    /// slots is never made and an index of 44 bits lasts for centuries.
    #[must_use]
    pub const fn new(index: u64, slot: u32) -> Self {
        Self((index & Self::INDEX_MAX) << SLOT_BITS | (slot & (Self::SLOTS_MAX - 1)) as u64)
    }

    /// The entry.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 >> SLOT_BITS
    }

    /// The slot in it.
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 & (Self::SLOTS_MAX as u64 - 1)) as u32
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.slot())
    }
}

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident($int:ty),)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

ids! {
    /// A data shard by number, or the meta group.
    ShardId(u32),
    /// One life of a gateway: the position in meta of its registration; 0 is the shard's leader.
    GatewayEpoch(u64),
    /// A session's incarnation: the position of the CONNECT that made it.
    SessionId(u64),
}

// === impl ShardId ===

impl ShardId {
    /// The group that holds gateways, topology and users.
    pub const META: Self = Self(u32::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_keeps_its_parts_and_their_order() {
        let p = Position::new(7, 1_048_575);
        assert_eq!((p.index(), p.slot()), (7, 1_048_575));
        assert!(p < Position::new(8, 0));
        assert_eq!(Position::new(Position::INDEX_MAX, 0).index(), Position::INDEX_MAX);
    }
}
