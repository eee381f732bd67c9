//! What a session settled: its cursor moves on, and inboxes are trimmed behind it (Q0, S9, G3).

use fluxmq_names::ErrorCode;

use crate::broker::Broker;
use crate::effect::Effect;
use crate::limits::{INFLIGHT_IN_MAX, LOOK_STEPS, QOS2_SPREAD_MAX, RECEIVED_MAX};
use crate::order::DeliveryCursor;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Settled;

// === impl Broker ===

impl Broker {
    pub(crate) fn settle(&mut self, id: u64, ranges: &[Settled]) -> Outcome {
        let end = |r: &Settled| r.first.saturating_add(r.count.into());
        let received: u64 = ranges.iter().filter(|r| r.received).map(|r| u64::from(r.count)).sum();
        if received > RECEIVED_MAX {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        self.spend(received as u32 + ranges.len() as u32);
        let cursor = self.state.sessions.get(id).map_or(0, |s| s.cursor);
        // Settled ranges that begin at the cursor need no look ahead: it stops at the end by itself.
        let looks_ahead = ranges.iter().any(|r| r.received || r.first > cursor);
        let asked = ranges.iter().filter(|_| looks_ahead);
        let known = self.existing(id, asked.map(|r| (r.first, end(r))));
        let Some(session) = self.state.sessions.get_mut(id) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        for range in ranges {
            let end = end(range).min(session.sent_upto).min(known);
            if range.received {
                let first = range.first.max(session.cursor);
                let fresh: Vec<_> = (first..end).filter(|n| !session.is_settled(*n)).collect();
                session.received.extend(fresh);
            } else {
                session.settle(range.first, end);
            }
        }
        self.advance(id);
        Outcome::Done
    }

    pub(crate) fn drop_numbers(&mut self, id: u64, ranges: &[(u64, u32)]) {
        let end = |(first, count): &(u64, u32)| first.saturating_add((*count).into());
        let known = self.existing(id, ranges.iter().map(|r| (r.0, end(r))));
        let Some(session) = self.state.sessions.get_mut(id) else { return };
        for range in ranges {
            session.settle(range.0, end(range).min(known));
        }
        self.advance(id);
    }

    /// Settles everything below `number` but what may be in flight (R8, G3).
    pub(crate) fn trim(&mut self, id: u64, number: u64) {
        let Some(session) = self.state.sessions.get(id) else { return };
        let spared = session.in_flight_end();
        let known = self.existing(id, [(spared, number)].into_iter());
        if let Some(session) = self.state.sessions.get_mut(id) {
            session.settle(spared, number.min(known));
        }
        self.advance(id);
    }

    /// The number behind the last message that exists, as far as `ranges` ask: what is not there cannot
    /// be settled, because a message that comes later has that number.
    fn existing(&mut self, id: u64, ranges: impl Iterator<Item = (u64, u64)>) -> u64 {
        let Some(session) = self.state.sessions.get(id) else { return 0 };
        let Some(wanted) = ranges.map(|(_, end)| end).filter(|e| *e > session.cursor).max() else {
            return u64::MAX;
        };
        // Where the last look ended: each message is walked over once, not at each settlement above the cursor.
        let mut walk = match self.index.looked.remove(&id) {
            Some(mut walk) => {
                walk.catch_up(session);
                walk
            }
            None => DeliveryCursor::at_start(session),
        };
        // Half of the steps are for moving the cursor. What is remembered counts as if it were walked again: how far
        // a command may go must not depend on it.
        let cost = session.walk_cost();
        let most = u64::from(self.left / 2 / cost);
        let cursor = session.cursor;
        while walk.number < wanted && walk.number - cursor < most {
            if walk.next(session, &self.state.inboxes).is_none() {
                break;
            }
        }
        let known = walk.number.min(wanted);
        let steps = known - cursor;
        if walk.number > cursor {
            self.index.looked.insert(id, walk);
        }
        self.spend(steps.min(most) as u32 * cost);
        // Further ahead than a command may look: the cursor has much settled to walk over first. What the
        // gateway says it sent must do.
        if steps < most { known } else { u64::MAX }
    }

    /// Moves the cursor over what is settled, at most a bounded number of messages at once.
    pub(crate) fn advance(&mut self, id: u64) {
        let Some(session) = self.state.sessions.get(id) else {
            return;
        };
        let ready = |s: &crate::session::Session| {
            s.settled.first_key_value().filter(|(first, _)| **first <= s.cursor).map(|(_, e)| *e)
        };
        let Some(end) = ready(session) else {
            self.index.advancing.remove(&id);
            return;
        };
        let mut walk = DeliveryCursor::at_start(session);
        // Half of the steps are for letting go of what it passes.
        let (cost, most) = (session.walk_cost(), self.left / 2);
        let mut spent = session.intervals.len() as u32;
        let mut at_end = false;
        while walk.number < end && spent + cost <= most {
            if walk.next(session, &self.state.inboxes).is_none() {
                at_end = true;
                break;
            }
            spent += cost;
        }
        let number = walk.number;
        self.spend(spent);
        let Some(session) = self.state.sessions.get_mut(id) else {
            return;
        };
        session.cursor = number;
        let rest = session.settled.pop_first().map(|(_, end)| end).filter(|e| *e > number);
        let more = rest.filter(|_| !at_end);
        if let Some(end) = more {
            session.settled.insert(number, end);
        }
        session.received = session.received.split_off(&number);
        let moves = walk.store(session);
        session.own = session.own.split_off(&session.position);
        if self.index.looked.get(&id).is_some_and(|walk| walk.number <= number) {
            self.index.looked.remove(&id);
        }
        let position = session.position;
        session.zeros.retain(|z| z.to > position);
        let closed: Vec<_> =
            session.intervals.iter().filter(|(_, i)| i.to != u64::MAX).map(|(id, _)| *id).collect();
        for (inbox_id, old, new) in moves {
            if let Some(inbox) = self.state.inboxes.get_mut(inbox_id) {
                inbox.unmark(old);
                inbox.mark(new);
            }
            self.trim_inbox(inbox_id);
        }
        closed.into_iter().for_each(|interval| self.drop_interval_if_drained(id, interval));
        if more.is_some() {
            self.index.advancing.insert(id);
            self.effects.push(Effect::More);
        } else {
            self.index.advancing.remove(&id);
        }
    }

    /// Nothing is owed to the session.
    pub(crate) fn is_drained(&self, id: u64) -> bool {
        let Some(session) = self.state.sessions.get(id) else {
            return true;
        };
        DeliveryCursor::at_start(session).next(session, &self.state.inboxes).is_none()
    }

    /// Numbers below `number` were sent on this connection.
    pub(crate) fn note_sent(&mut self, id: u64, number: u64) {
        if let Some(session) = self.state.sessions.get_mut(id) {
            session.sent_upto = session.sent_upto.max(number);
        }
    }

    /// Nobody knows how far a connection got that was cut off: of what there is, the whole window may have been sent.
    pub(crate) fn note_cut_off(&mut self, id: u64) {
        let Some(session) = self.state.sessions.get(id) else { return };
        let (cursor, end) = (session.cursor, session.window_end());
        let steps = (end - cursor).saturating_mul(session.walk_cost().into());
        let there = match steps <= u64::from(LOOK_STEPS) {
            true => self.existing(id, std::iter::once((cursor, end))),
            false => u64::MAX,
        };
        self.note_sent(id, end.min(there));
    }

    /// A QoS 2 packet id of the session gets a publish number; a known id keeps its own (G2).
    pub(crate) fn open_id(&mut self, id: u64, packet_id: u16) -> Outcome {
        let Some(session) = self.state.sessions.get_mut(id) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        if let Some(&number) = session.open_ids.get(&packet_id) {
            let lowest_open = session.lowest_open();
            return Outcome::Opened { number, fresh: false, lowest_open };
        }
        // One id that stays open while others come and go must not make every taker remember more (G2).
        let spread = session.next_publish - session.lowest_open();
        if session.open_ids.len() >= INFLIGHT_IN_MAX || spread >= QOS2_SPREAD_MAX {
            return Outcome::refused(ErrorCode::LimitExceeded);
        }
        let number = session.next_publish;
        session.next_publish += 1;
        session.open_ids.insert(packet_id, number);
        Outcome::Opened { number, fresh: true, lowest_open: session.lowest_open() }
    }

    pub(crate) fn close_id(&mut self, id: u64, packet_id: u16) -> Outcome {
        let known =
            self.state.sessions.get_mut(id).and_then(|s| s.open_ids.remove(&packet_id)).is_some();
        if known { Outcome::Done } else { Outcome::refused(ErrorCode::NotFound) }
    }
}
