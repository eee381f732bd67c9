//! Which segments may go.

/// What a call of `reclaim` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Segments removed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments with nothing live in them that could not go because a slice of them is out.
    pub pinned_segments: u64,
}
