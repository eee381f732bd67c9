//! Acknowledgements owed to a publisher, in the order of its publishes (MQTT-4.6.0-2, -3).

use std::collections::VecDeque;

use mqtt_codec::PacketType;

/// Which packet answers a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckKind {
    /// Answers QoS 1.
    Puback,
    /// Answers QoS 2.
    Pubrec,
}

// === impl AckKind ===

impl AckKind {
    pub(crate) fn packet_type(self) -> PacketType {
        match self {
            Self::Puback => PacketType::Puback,
            Self::Pubrec => PacketType::Pubrec,
        }
    }
}

/// An acknowledgement that can go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) kind: AckKind,
    pub(crate) packet_id: u16,
    /// MQTT 5 reason code; ≥ 0x80 means refused.
    pub(crate) reason: u8,
}

struct Owed {
    ack: Ack,
    /// Answers still to come before it may go out.
    waiting: u16,
}

/// Acknowledgements that wait for `logd`. Empty as long as nothing durable is involved.
#[derive(Default)]
pub(crate) struct AckQueue {
    owed: VecDeque<Owed>,
    /// The ticket of the first in `owed`.
    first: u64,
    /// How many of `owed` are PUBACKs.
    qos1: usize,
}

// === impl AckQueue ===

impl AckQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether the acknowledgement of `packet_id` is still to go out.
    pub(crate) fn holds(&self, kind: AckKind, packet_id: u16) -> bool {
        self.owed.iter().any(|o| o.ack.kind == kind && o.ack.packet_id == packet_id)
    }

    /// Publishes of QoS 1 that are not answered.
    pub(crate) fn unanswered_qos1(&self) -> usize {
        self.qos1
    }

    /// Owes `ack`, to go out after `waiting` answers; returns the ticket for them.
    pub(crate) fn push(&mut self, ack: Ack, waiting: u16) -> u64 {
        self.qos1 += usize::from(ack.kind == AckKind::Puback);
        self.owed.push_back(Owed { ack, waiting });
        self.first + self.owed.len() as u64 - 1
    }

    /// `more` answers are to come for `ticket`.
    pub(crate) fn expect(&mut self, ticket: u64, more: u16) {
        let at = ticket.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(owed) = at.and_then(|at| self.owed.get_mut(at)) {
            owed.waiting += more;
        }
    }

    /// The ticket the next acknowledgement gets.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.first + self.owed.len() as u64
    }

    /// One answer for `ticket` came; a refusal wins over success, the first refusal stays.
    pub(crate) fn answer(&mut self, ticket: u64, reason: u8) {
        let at = ticket.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(owed) = at.and_then(|at| self.owed.get_mut(at)) else {
            return;
        };
        owed.waiting = owed.waiting.saturating_sub(1);
        if owed.ack.reason < 0x80 && (reason >= 0x80 || owed.ack.reason == 0x10) {
            // 0x10 (nobody subscribes) holds only while every taker says so.
            owed.ack.reason = reason;
        }
    }

    /// The next acknowledgement that may go out.
    pub(crate) fn pop_ready(&mut self) -> Option<Ack> {
        if self.owed.front()?.waiting > 0 {
            return None;
        }
        self.first += 1;
        let ack = self.owed.pop_front()?.ack;
        self.qos1 -= usize::from(ack.kind == AckKind::Puback);
        Some(ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(packet_id: u16, reason: u8) -> Ack {
        Ack { kind: AckKind::Puback, packet_id, reason }
    }

    #[test]
    fn acknowledgements_keep_the_order_of_the_publishes() {
        let mut queue = AckQueue::default();
        let first = queue.push(ack(1, 0), 2);
        let second = queue.push(ack(2, 0), 1);
        queue.push(ack(3, 0), 0);
        queue.answer(second, 0x97);
        queue.answer(first, 0);
        assert_eq!(queue.pop_ready(), None);
        queue.answer(first, 0);
        assert_eq!(queue.pop_ready(), Some(ack(1, 0)));
        assert_eq!(queue.pop_ready(), Some(ack(2, 0x97)));
        assert_eq!(queue.pop_ready(), Some(ack(3, 0)));
        assert_eq!(queue.pop_ready(), None);
        queue.answer(first, 0x80);
        let later = queue.push(ack(4, 0x10), 1);
        queue.answer(later, 0);
        assert_eq!(queue.pop_ready(), Some(ack(4, 0)), "a taker was found");
    }
}
