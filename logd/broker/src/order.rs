//! The order of what a session is owed (Q0): the union of its intervals by position, each position once,
//! numbered from the cursor.

use std::collections::BTreeMap;

use crate::buckets::Buckets;
use crate::inbox::{Inbox, Item, Place};
use crate::session::Session;

/// A message that a session is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Its rank in the session's order.
    pub number: u64,
    /// Where it is.
    pub position: u64,
    /// min(published, highest granted among the intervals that cover it).
    pub qos: u8,
    /// As published, and one of the intervals passes it on.
    pub retain: bool,
    /// PUBREC came: PUBREL is next, not PUBLISH.
    pub received: bool,
    /// The session's own publish under no local: to be dropped, not sent.
    pub own: bool,
    /// Subscription identifiers of the intervals that cover it.
    pub identifiers: Vec<u32>,
}

/// Where a leader is with the deliveries of a session; volatile, starts at the session's cursor.
#[derive(Clone, Debug, Default)]
pub struct DeliveryCursor {
    /// Number of the next message.
    pub number: u64,
    position: u64,
    places: BTreeMap<u64, Place>,
}

// === impl DeliveryCursor ===

impl DeliveryCursor {
    /// At the session's cursor.
    #[must_use]
    pub fn at_start(session: &Session) -> Self {
        Self {
            number: session.cursor,
            position: session.position,
            places: session.intervals.iter().map(|(id, i)| (*id, i.at)).collect(),
        }
    }

    /// Where delivery stands in an interval. One that was opened since stands at its beginning. The
    /// session's cursor may have passed us: what it settled is skipped, never gone back to.
    fn place(&self, id: u64, settled: Place) -> Place {
        let place = self.places.get(&id).copied().unwrap_or(settled);
        if place.is_before(settled) { settled } else { place }
    }

    /// Skips what the session settled in the meantime.
    pub(crate) fn catch_up(&mut self, session: &Session) {
        if self.number < session.cursor {
            self.number = session.cursor;
            self.position = self.position.max(session.position);
        }
        if self.places.len() > session.intervals.len() {
            self.places.retain(|id, _| session.intervals.contains_key(id));
        }
    }

    /// The next message that is owed, settled ones included.
    pub(crate) fn next(&mut self, session: &Session, inboxes: &Buckets<Inbox>) -> Option<Owed> {
        let mut found: Option<(Item, Owed)> = None;
        let mut moved: Vec<(u64, Place)> = Vec::new();
        for (&id, interval) in &session.intervals {
            let Some(inbox) = inboxes.get(interval.inbox) else {
                continue;
            };
            let mut place = self.place(id, interval.at);
            let Some(item) = next_from(inbox, &mut place, self.position) else {
                continue;
            };
            if item.position >= interval.to {
                continue;
            }
            let best = found.as_ref().map_or(u64::MAX, |(item, _)| item.position);
            if item.position > best {
                continue;
            }
            if item.position < best {
                moved.clear();
                found = Some((item, self.owed(session, item)));
            }
            moved.push((id, place));
            if let Some((_, owed)) = &mut found {
                owed.qos = owed.qos.max((interval.options & 3).min(item.qos));
                owed.retain |= item.retain && interval.options & 8 != 0;
                if interval.identifier != 0 {
                    owed.identifiers.push(interval.identifier);
                }
            }
        }
        let (item, owed) = found?;
        for (id, place) in moved {
            self.places.insert(id, place);
        }
        self.position = item.position + 1;
        self.number += 1;
        Some(owed)
    }

    fn owed(&self, session: &Session, item: Item) -> Owed {
        Owed {
            number: self.number,
            position: item.position,
            qos: 0,
            retain: false,
            received: session.received.contains(&self.number),
            own: session.own.contains(&item.position),
            identifiers: Vec::new(),
        }
    }

    /// Takes over the places and the position, for the cursor kept in the state.
    pub(crate) fn store(self, session: &mut Session) -> Vec<(u64, Place, Place)> {
        let mut moves = Vec::new();
        session.position = self.position;
        for (id, place) in self.places {
            if let Some(interval) = session.intervals.get_mut(&id)
                && interval.at != place
            {
                moves.push((interval.inbox, interval.at, place));
                interval.at = place;
            }
        }
        moves
    }
}

/// The next item at or above `position`; `place` moves to behind it, and past what lies below it.
fn next_from(inbox: &Inbox, place: &mut Place, position: u64) -> Option<Item> {
    loop {
        let item = inbox.next(place)?;
        if item.position >= position {
            return Some(item);
        }
    }
}
