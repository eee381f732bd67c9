//! Bytes of deliveries that may be on their way to each link (T3).

use std::collections::HashMap;

use fluxmq_client::contract;

/// Bytes of deliveries on their way to a link.
const WINDOW_BYTES: i64 = 4 * 1024 * 1024;
/// What a delivery weighs besides its command; the other end counts the same.
const OVERHEAD_BYTES: i64 = contract::DELIVERY_OVERHEAD_BYTES as i64;

/// What links still take.
#[derive(Default)]
pub(crate) struct Windows {
    left: HashMap<u64, i64>,
}

// === impl Windows ===

impl Windows {
    /// Whether a link takes another delivery.
    pub(crate) fn has_room(&self, link: u64) -> bool {
        self.left.get(&link).is_none_or(|left| *left > 0)
    }

    /// A delivery goes out.
    pub(crate) fn spend(&mut self, link: u64, command_bytes: usize) {
        let left = self.left.entry(link).or_insert(WINDOW_BYTES);
        *left -= command_bytes as i64 + OVERHEAD_BYTES;
    }

    /// A link has taken so many bytes; true when it takes more now.
    pub(crate) fn taken(&mut self, link: u64, bytes: u32) -> bool {
        let left = self.left.entry(link).or_insert(WINDOW_BYTES);
        *left = (*left + i64::from(bytes)).min(WINDOW_BYTES);
        *left > 0
    }

    /// The link is gone.
    pub(crate) fn forget(&mut self, link: u64) {
        self.left.remove(&link);
    }
}
