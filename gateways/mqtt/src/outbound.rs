//! Messages to one client: QoS, packet ids, the send window and what waits behind it (design G3, R8).

use std::collections::VecDeque;

use crate::limits::{PENDING_BYTES_MAX, PENDING_MAX};

use crate::send_window::{SendWindow, Stage};

/// An encoded PUBLISH whose packet id is not yet given.
pub(crate) struct Pending {
    pub(crate) frame: Box<[u8]>,
    /// Where the two bytes of the packet id stand.
    pub(crate) id_at: usize,
    pub(crate) qos: u8,
}

/// The outgoing state of a connection; made at the first message of QoS ≥ 1.
#[derive(Default)]
pub(crate) struct Outbound {
    pub(crate) window: SendWindow,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
}

// === impl Outbound ===

impl Outbound {
    /// Whether a message may go out at once: the window has room and nothing waits before it.
    pub(crate) fn may_send(&self, window: u16) -> bool {
        self.pending.is_empty() && self.window.open() < usize::from(window)
    }

    /// Puts a message behind the others; false when the limits of R8 are reached.
    pub(crate) fn wait(&mut self, pending: Pending) -> bool {
        if self.pending.len() >= PENDING_MAX
            || self.pending_bytes + pending.frame.len() > PENDING_BYTES_MAX
        {
            return false;
        }
        self.pending_bytes += pending.frame.len();
        self.pending.push_back(pending);
        true
    }

    /// Something waits behind the window.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Moves what the window has room for into `out`.
    pub(crate) fn release(&mut self, window: u16, out: &mut Vec<u8>) {
        while self.window.open() < usize::from(window)
            && let Some(first) = self.pending.front()
            && let Some(number) = self.window.take_number()
        {
            let at = out.len() + first.id_at;
            out.extend_from_slice(&first.frame);
            let id = crate::send_window::packet_id(number).to_be_bytes();
            out[at..at + 2].copy_from_slice(&id);
            self.window.sent(number, first_stage(first.qos));
            self.pending_bytes -= first.frame.len();
            self.pending.pop_front();
        }
    }
}

/// What a message of `qos` waits for first.
pub(crate) fn first_stage(qos: u8) -> Stage {
    if qos == 2 { Stage::AwaitPubrec } else { Stage::AwaitPuback }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(byte: u8) -> Pending {
        Pending { frame: vec![byte, 0, 0, byte].into(), id_at: 1, qos: 1 }
    }

    #[test]
    fn what_waits_goes_out_in_order_when_the_window_opens() {
        let (mut outbound, mut out) = (Outbound::default(), Vec::new());
        assert!(outbound.may_send(2));
        for byte in 1..=4 {
            assert!(outbound.wait(pending(byte)));
        }
        assert!(!outbound.may_send(9), "nothing overtakes what waits");
        outbound.release(2, &mut out);
        assert_eq!(out, [1, 0, 1, 1, 2, 0, 2, 2]);
        outbound.window.set(1, Stage::Settled);
        out.clear();
        outbound.release(2, &mut out);
        assert_eq!(out, [3, 0, 3, 3]);
        assert_eq!(outbound.pending_bytes, 4);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut outbound = Outbound::default();
        for _ in 0..PENDING_MAX {
            assert!(outbound.wait(pending(1)));
        }
        assert!(!outbound.wait(pending(1)));
        let mut outbound = Outbound::default();
        let large = Pending { frame: vec![0; PENDING_BYTES_MAX].into(), id_at: 0, qos: 1 };
        assert!(outbound.wait(large));
        assert!(!outbound.wait(pending(1)));
    }
}
