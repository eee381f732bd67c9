//! What was sent to a client with QoS ≥ 1 and is not settled (MQTT 5 §4.3, §4.4; design G3).
//!
//! Every message has a number in the session's order; its packet id is 1 + (number mod 32767), so
//! that any gateway and any leader use the same id. Ids from 32768 are for leased deliveries.

use std::collections::VecDeque;

/// Packet ids 1 to 32767 are given by number.
const IDS: u64 = 32_767;

/// The packet id of the message with `number`.
pub(crate) fn packet_id(number: u64) -> u16 {
    u16::try_from(number % IDS + 1).expect("a remainder of 32767")
}

/// How far the handshake of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// QoS 1 sent, PUBACK is to come.
    AwaitPuback,
    /// QoS 2 sent, PUBREC is to come.
    AwaitPubrec,
    /// PUBREC came; the PUBREL goes out when that is committed (persistent sessions).
    Received,
    /// PUBREL sent, PUBCOMP is to come.
    AwaitPubcomp,
    /// Settled, but an older one is not.
    Settled,
}

#[derive(Clone, Copy)]
struct Sent {
    number: u64,
    stage: Stage,
}

/// The unsettled messages of one connection, by number.
#[derive(Default)]
pub(crate) struct SendWindow {
    /// Ascending by number; the first is never `Settled`.
    sent: VecDeque<Sent>,
    /// How many of `sent` are not settled.
    open: usize,
    /// The number of the next message of a transient session.
    next: u64,
}

// === impl SendWindow ===

impl SendWindow {
    /// Messages in flight.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Gives the next number (transient sessions). None while the id is taken by the message one
    /// round of ids before.
    pub(crate) fn take_number(&mut self) -> Option<u64> {
        let number = self.next;
        if self.sent.front().is_some_and(|s| s.number + IDS <= number) {
            return None;
        }
        self.next += 1;
        Some(number)
    }

    /// Notes that `number` was sent. Numbers come in ascending order; a repeat is ignored.
    pub(crate) fn sent(&mut self, number: u64, stage: Stage) {
        if self.sent.back().is_some_and(|s| s.number >= number) {
            return;
        }
        self.next = number + 1;
        self.sent.push_back(Sent { number, stage });
        self.open += 1;
    }

    /// The number and stage behind a packet id, None when it is not in flight.
    pub(crate) fn find(&self, id: u16) -> Option<(u64, Stage)> {
        let at = self.position(id)?;
        let sent = self.sent[at];
        (sent.stage != Stage::Settled).then_some((sent.number, sent.stage))
    }

    /// Moves the message with `id` on to `stage`. `Settled` frees its place.
    pub(crate) fn set(&mut self, id: u16, stage: Stage) {
        let Some(at) = self.position(id) else { return };
        if stage == Stage::Settled && self.sent[at].stage != Stage::Settled {
            self.open -= 1;
        }
        self.sent[at].stage = stage;
        while self.sent.front().is_some_and(|s| s.stage == Stage::Settled) {
            self.sent.pop_front();
        }
    }

    fn position(&self, id: u16) -> Option<usize> {
        let first = self.sent.front()?.number;
        let want = u64::from(id).checked_sub(1).filter(|r| *r < IDS)?;
        let number = first + (want + IDS - first % IDS) % IDS;
        if number == first {
            return Some(0);
        }
        // Without gaps it stands where its distance says; with gaps, before.
        let guess = usize::try_from(number - first).ok()?;
        if self.sent.get(guess).is_some_and(|s| s.number == number) {
            return Some(guess);
        }
        self.sent.binary_search_by_key(&number, |s| s.number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_numbers_and_come_round() {
        assert_eq!(packet_id(0), 1);
        assert_eq!(packet_id(32_766), 32_767);
        assert_eq!(packet_id(32_767), 1);
    }

    #[test]
    fn settled_in_any_order_frees_the_window() {
        let mut window = SendWindow::default();
        for n in 0..100 {
            assert_eq!(window.take_number(), Some(n));
            window.sent(n, Stage::AwaitPuback);
        }
        for n in (0..100).rev() {
            assert_eq!(window.find(packet_id(n)), Some((n, Stage::AwaitPuback)));
            window.set(packet_id(n), Stage::Settled);
            assert_eq!(window.find(packet_id(n)), None, "settled once");
        }
        assert_eq!((window.open(), window.sent.len()), (0, 0));
        window.set(5, Stage::Settled);
        assert_eq!(window.open(), 0, "an id nobody holds changes nothing");
    }

    #[test]
    fn gaps_and_wrapping_ids_are_found() {
        let mut window = SendWindow::default();
        let numbers = [32_700, 32_701, 32_705, 32_766, 32_767, 32_800, 65_000];
        for n in numbers {
            window.sent(n, Stage::AwaitPubrec);
        }
        for n in numbers {
            assert_eq!(window.find(packet_id(n)), Some((n, Stage::AwaitPubrec)));
        }
        assert_eq!(window.find(packet_id(32_702)), None);
        assert_eq!(window.find(0), None);
        assert_eq!(window.find(40_000), None);
    }

    #[test]
    fn a_number_waits_while_its_id_is_taken() {
        let mut window = SendWindow::default();
        for n in 0..32_767 {
            assert_eq!(window.take_number(), Some(n));
            window.sent(n, Stage::AwaitPuback);
            if n > 0 {
                window.set(packet_id(n), Stage::Settled);
            }
        }
        assert_eq!(window.take_number(), None, "number 0 still holds id 1");
        window.set(1, Stage::Settled);
        assert_eq!(window.take_number(), Some(32_767));
    }
}
