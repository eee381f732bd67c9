//! Room for what comes (S9).

/// Room of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free bytes of the file system.
    pub free: u64,
    /// Below this, producers are refused.
    pub low_water: u64,
    /// `append` with [`crate::Priority::Normal`] is refused now.
    pub full: bool,
}
