//! The lease: whether this gateway may route by the table it has (R2, R3).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use fluxmq_client::boot_ms;

/// Requests that are remembered.
const ASKED_MAX: usize = 16;

/// A lease that counts from the sending of its request.
#[derive(Default)]
pub(super) struct Lease {
    until_ms: Cell<u64>,
    asked: RefCell<VecDeque<(u64, u64)>>,
    next_nonce: Cell<u64>,
}

// === impl Lease ===

impl Lease {
    /// Whether it holds now. Without end it costs no look at the clock.
    pub(super) fn holds(&self) -> bool {
        let until = self.until_ms.get();
        until == u64::MAX || boot_ms() < until
    }

    /// Whether it has no end: the hub is part of this process.
    pub(super) fn is_endless(&self) -> bool {
        self.until_ms.get() == u64::MAX
    }

    /// It was given for `lease_ms` from `asked_ms` on; 0 = without end.
    pub(super) fn given(&self, asked_ms: u64, lease_ms: u32) {
        let until = if lease_ms == 0 { u64::MAX } else { asked_ms + u64::from(lease_ms) };
        self.until_ms.set(self.until_ms.get().max(until));
    }

    /// A number for a request that is sent now.
    pub(super) fn ask(&self) -> u64 {
        let nonce = self.next_nonce.replace(self.next_nonce.get() + 1);
        let mut asked = self.asked.borrow_mut();
        if asked.len() == ASKED_MAX {
            asked.pop_front();
        }
        asked.push_back((nonce, boot_ms()));
        nonce
    }

    /// The request `nonce` was granted.
    pub(super) fn renewed(&self, nonce: u64, lease_ms: u32) {
        let asked = self.asked.borrow().iter().find(|(n, _)| *n == nonce).copied();
        if let Some((_, asked_ms)) = asked {
            self.given(asked_ms, lease_ms);
        }
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.until_ms.set(0);
    }
}
