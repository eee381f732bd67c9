//! What opening found.

/// What opening a shard found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Entries between the purge floor and the end.
    pub entries: u64,
    /// Bytes of a torn tail that were zeroed.
    pub torn_bytes: u64,
    /// Bytes from the first damage on that were given up because `accept_damage` was set.
    pub damaged_bytes: u64,
    /// Segments found.
    pub segments: u64,
    /// Bytes scanned.
    pub scanned_bytes: u64,
    /// The shard is new.
    pub created: bool,
}
