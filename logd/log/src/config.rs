//! Settings of a data directory and of a shard in it.

use crate::limits;

/// Settings of one data directory and its I/O thread.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// Under load a commit round begins at the earliest this long after the last began, µs (default 300; 0 = at once).
    pub commit_interval_us: u64,
    /// Waiting bytes, in the queue and in batchers, that begin a round before that (default 128 KiB).
    pub commit_bytes: u64,
    /// How long a round that has begun waits for what batchers still hold to arrive, µs (default 100).
    pub join_us: u64,
    /// Bytes that may wait in the queue of one shard before `append` refuses (default 256 MiB).
    pub queue_bytes_max: u64,
    /// Capacity of a shard's first segment, bytes (default 1 MiB, minimum [`limits::SEGMENT_MIN`]).
    pub segment_bytes_first: u64,
    /// Capacity up to which segments double, bytes (default 64 MiB).
    pub segment_bytes_max: u64,
    /// Free space below which producers are held back, bytes; `None` = min(5 % of the disk, 256 MiB).
    pub low_water_bytes: Option<u64>,
    /// Identity this node must have; `None` takes what the directory says, or a random one in a new directory.
    pub node_id: Option<u64>,
    /// Cluster this node must belong to; `None` as above.
    pub cluster_id: Option<u128>,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            commit_interval_us: 300,
            commit_bytes: 128 * 1024,
            join_us: 100,
            queue_bytes_max: 256 * 1024 * 1024,
            segment_bytes_first: 1024 * 1024,
            segment_bytes_max: 64 * 1024 * 1024,
            low_water_bytes: None,
            node_id: None,
            cluster_id: None,
        }
    }
}

impl DiskConfig {
    /// The segment sizes within what the format allows.
    pub(crate) fn clamped(mut self) -> Self {
        self.segment_bytes_max =
            self.segment_bytes_max.clamp(limits::SEGMENT_MIN, limits::SEGMENT_MAX);
        self.segment_bytes_first =
            self.segment_bytes_first.clamp(limits::SEGMENT_MIN, self.segment_bytes_max);
        self
    }
}

/// How to open a shard.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Cut the log at damage that is not a torn tail instead of refusing (S4). What is behind it is lost; the operator
    /// has to ask for it by name.
    pub accept_damage: bool,
}
