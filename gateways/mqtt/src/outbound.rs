//! Messages to one client: QoS, packet ids, the send window, what waits behind it and topic aliases (design G3, R8).

use std::collections::VecDeque;

use fluxmq_client::contract::Delivery;

use crate::send_window::{SendWindow, Stage};
use crate::settings::Settings;

/// An encoded PUBLISH whose packet id is not yet given.
pub(crate) struct Pending {
    pub(crate) frame: Box<[u8]>,
    /// Where the two bytes of the packet id stand.
    pub(crate) id_at: usize,
    pub(crate) qos: u8,
    pub(crate) expiry: Option<Expiry>,
}

/// When a message that waits expires.
#[derive(Clone, Copy)]
pub(crate) struct Expiry {
    /// Unix ms.
    pub(crate) at_ms: u64,
    /// Where the four bytes of the Message Expiry Interval stand; 0 where the client is not told.
    pub(crate) field_at: usize,
}

/// The outgoing state of a connection; made at the first message of QoS ≥ 1 or the first alias.
#[derive(Default)]
pub(crate) struct Outbound {
    pub(crate) window: SendWindow,
    pub(crate) aliases: TopicAliases,
    /// Retained messages of a session that came before the SUBACK of their subscription, and what came behind them.
    pub(crate) held: Vec<Delivery>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
}

/// Topics the client knows by a number, in the order of the numbers. None is ever given to another topic: what waits
/// behind the window may use them as well as what overtakes it.
#[derive(Default)]
pub(crate) struct TopicAliases {
    topics: Vec<Box<str>>,
}

// === impl TopicAliases ===

impl TopicAliases {
    /// The alias of `topic`, and whether the client knows it. None when all `max` are taken.
    pub(crate) fn find(&self, topic: &str, max: u16) -> Option<(u16, bool)> {
        let known = self.topics.iter().position(|t| **t == *topic);
        let at = known.unwrap_or(self.topics.len());
        let alias = u16::try_from(at + 1).ok().filter(|a| *a <= max)?;
        Some((alias, known.is_some()))
    }

    /// The client is told the next alias.
    pub(crate) fn tell(&mut self, topic: &str) {
        self.topics.push(topic.into());
    }
}

// === impl Pending ===

impl Pending {
    /// Puts in the time that is left; false when there is none (MQTT-3.3.2-5, -6).
    fn count_down(&mut self, now_ms: u64) -> bool {
        let Some(Expiry { at_ms, field_at }) = self.expiry else { return true };
        let left_ms = at_ms.saturating_sub(now_ms);
        if field_at > 0 {
            let left_s = u32::try_from(left_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
            self.frame[field_at..field_at + 4].copy_from_slice(&left_s.to_be_bytes());
        }
        left_ms > 0
    }
}

// === impl Outbound ===

impl Outbound {
    /// Whether a message may go out at once: the window has room and nothing waits before it.
    pub(crate) fn may_send(&self, window: u16) -> bool {
        self.pending.is_empty() && self.window.open() < usize::from(window)
    }

    /// Puts a message behind the others; false when the limits of R8 are reached.
    pub(crate) fn wait(&mut self, pending: Pending, settings: &Settings) -> bool {
        let len = pending.frame.len();
        if self.pending.len() >= settings.pending_max as usize
            || !Settings::has_room(self.pending_bytes, len, settings.pending_bytes_max)
        {
            return false;
        }
        self.pending_bytes += len;
        self.pending.push_back(pending);
        true
    }

    /// Something waits behind the window.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Moves what the window has room for into `out`; returns how many had expired and are gone.
    pub(crate) fn release(&mut self, window: u16, now_ms: u64, out: &mut Vec<u8>) -> u64 {
        let mut expired = 0;
        while self.window.open() < usize::from(window)
            && let Some(first) = self.pending.front_mut()
        {
            if first.count_down(now_ms) {
                let Some(number) = self.window.take_number() else { break };
                let at = out.len() + first.id_at;
                out.extend_from_slice(&first.frame);
                let id = crate::send_window::packet_id(number).to_be_bytes();
                out[at..at + 2].copy_from_slice(&id);
                self.window.sent(number, first_stage(first.qos));
            } else {
                expired += 1;
            }
            self.pending_bytes -= first.frame.len();
            self.pending.pop_front();
        }
        expired
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
        Pending { frame: vec![byte, 0, 0, byte].into(), id_at: 1, qos: 1, expiry: None }
    }

    #[test]
    fn what_waits_goes_out_in_order_when_the_window_opens() {
        let (mut outbound, mut out) = (Outbound::default(), Vec::new());
        let settings = Settings::default();
        assert!(outbound.may_send(2));
        for byte in 1..=4 {
            assert!(outbound.wait(pending(byte), &settings));
        }
        assert!(!outbound.may_send(9), "nothing overtakes what waits");
        outbound.release(2, 0, &mut out);
        assert_eq!(out, [1, 0, 1, 1, 2, 0, 2, 2]);
        outbound.window.set(1, Stage::Settled);
        out.clear();
        outbound.release(2, 0, &mut out);
        assert_eq!(out, [3, 0, 3, 3]);
        assert_eq!(outbound.pending_bytes, 4);
    }

    #[test]
    fn what_expired_behind_the_window_is_gone_and_the_rest_counts_down() {
        let (mut outbound, mut out) = (Outbound::default(), Vec::new());
        let expiring = |at_ms, field_at| Pending {
            frame: vec![0; 7].into(),
            id_at: 0,
            qos: 1,
            expiry: Some(Expiry { at_ms, field_at }),
        };
        for pending in [expiring(1_000, 3), expiring(9_001, 3), expiring(9_000, 0)] {
            assert!(outbound.wait(pending, &Settings::default()));
        }
        assert_eq!(outbound.release(9, 1_000, &mut out), 1);
        assert_eq!(out, [0, 1, 0, 0, 0, 0, 9, 0, 2, 0, 0, 0, 0, 0]);
        assert_eq!(outbound.pending_bytes, 0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let settings = Settings::default();
        let mut outbound = Outbound::default();
        for _ in 0..settings.pending_max {
            assert!(outbound.wait(pending(1), &settings));
        }
        assert!(!outbound.wait(pending(1), &settings));
        let mut outbound = Outbound::default();
        let large = Pending { frame: vec![0; 1024 * 1024].into(), ..pending(1) };
        assert!(outbound.wait(large, &settings));
        assert!(!outbound.wait(pending(1), &settings));
    }

    #[test]
    fn the_first_topics_get_the_aliases() {
        let mut aliases = TopicAliases::default();
        assert_eq!(aliases.find("a", 0), None);
        assert_eq!(aliases.find("a", 1), Some((1, false)));
        aliases.tell("a");
        assert_eq!(aliases.find("a", 1), Some((1, true)));
        assert_eq!(aliases.find("b", 1), None);
        assert_eq!(aliases.find("b", 2), Some((2, false)));
    }
}
