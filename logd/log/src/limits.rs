//! The bounds of the log. Each is enforced before memory is allocated for what it bounds.

/// Largest payload of one entry, bytes: the largest message (16 MiB) and what surrounds it in its entry.
pub const ENTRY_PAYLOAD_MAX: usize = 16 * 1024 * 1024 + 512 * 1024;
/// Largest record, bytes: one entry of the largest payload and its headers (`docs/formats/log.md`).
pub const RECORD_MAX: usize = 17 * 1024 * 1024;
/// What one record gathers from the queue, bytes, unless its first entry alone is larger.
pub const RECORD_TARGET: usize = 8 * 1024 * 1024;
/// Smallest segment that can be configured, bytes.
pub const SEGMENT_MIN: u64 = 16 * 1024;
/// Largest segment that can be configured, bytes; file positions are `u32`.
pub const SEGMENT_MAX: u64 = 1024 * 1024 * 1024;
/// Largest raft index: a `Position` keeps 44 bits of it (design S5).
pub const INDEX_MAX: u64 = (1 << 44) - 1;
/// Largest sequence of records and of votes that is believed; at a million a second it takes 146,000 years.
pub const SEQUENCE_MAX: u64 = 1 << 62;
/// Distance between two points of the sparse index of a segment, bytes of file.
pub const INDEX_SPACING: u32 = 16 * 1024;
/// Block of a snapshot that has a checksum of its own, and the largest chunk read from one, bytes.
pub const SNAPSHOT_BLOCK: usize = 1024 * 1024;
/// Largest `meta` of a snapshot (membership and the like), bytes.
pub const SNAPSHOT_META_MAX: usize = 1024 * 1024;
/// Largest state of a snapshot, bytes.
pub const SNAPSHOT_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Body of a record of a compacted segment from which on the next one begins, bytes; what reading one entry looks through.
pub const COPIES_TARGET: usize = 16 * 1024;
/// Records of the largest compacted segment, and segments that one replaces.
pub const COMPACTED_RECORDS_MAX: usize = (SEGMENT_MAX as usize) / COPIES_TARGET * 2;
