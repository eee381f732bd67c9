//! An MQTT session: what it is subscribed to, what it is owed, and how far it got (design Q0, G1–G4).

use std::collections::{BTreeMap, BTreeSet};

use crate::inbox::Place;
use fluxmq_commands::wire::{Reader, WireError, Write};

/// A stretch of an inbox that the session is owed, with the options it was subscribed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) inbox: u64,
    /// Where the session's cursor stands in the inbox.
    pub(crate) at: Place,
    /// Closed at this position; `u64::MAX` while it is open.
    pub(crate) to: u64,
    /// MQTT 5 options byte.
    pub(crate) options: u8,
    pub(crate) identifier: u32,
}

/// A subscription as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// MQTT 5 options byte, QoS as granted.
    pub options: u8,
    /// Subscription identifier, 0 = none.
    pub identifier: u32,
    /// The interval it opened; 0 with QoS 0, which is never owed.
    pub(crate) interval: u64,
}

/// The will of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredWill {
    /// QoS it is published with.
    pub qos: u8,
    /// Published as retained.
    pub retain: bool,
    /// Will delay interval.
    pub delay_s: u32,
    /// Message expiry from its publication, 0 = none.
    pub expiry_s: u32,
    /// Where to.
    pub topic: Box<str>,
    /// The CONNECT that carries the message.
    pub position: u64,
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Virtual host.
    pub vhost: Box<str>,
    /// Client identifier.
    pub client_id: Box<str>,
    /// Fences earlier owners: the position of the newest CONNECT.
    pub epoch: u64,
    /// Gateway epoch and token of the connection, while there is one.
    pub owner: Option<(u64, u64)>,
    /// Session expiry interval; `NEVER`.
    pub expiry_s: u32,
    /// When the session ends, while it is detached; 0 = never.
    pub(crate) ends_ms: u64,
    /// When the will is due, while the session is detached; 0 = it is not.
    pub(crate) will_ms: u64,
    /// Largest outgoing window since the cursor last reached the end (G3).
    pub window: u16,
    /// Filters.
    pub subscriptions: BTreeMap<Box<str>, Subscription>,
    /// By id: the order they were opened in.
    pub(crate) intervals: BTreeMap<u64, Interval>,
    pub(crate) next_interval: u64,
    /// The number of the oldest message that is not settled; all below are.
    pub cursor: u64,
    /// All owed below this position are settled.
    pub(crate) position: u64,
    /// Settled numbers above the cursor: first → behind the last.
    pub(crate) settled: BTreeMap<u64, u64>,
    /// Numbers whose PUBREC came.
    pub(crate) received: BTreeSet<u64>,
    /// Positions of its own publishes under no local: settled by the leader, never sent.
    pub(crate) own: BTreeSet<u64>,
    /// Numbers below may have been sent.
    pub sent_upto: u64,
    /// Open QoS 2 packet ids and their publish numbers (G2).
    pub(crate) open_ids: BTreeMap<u16, u64>,
    pub(crate) next_publish: u64,
    /// The will.
    pub will: Option<StoredWill>,
}

// === impl Session ===

impl Session {
    /// The lowest publish number that is open; everything below is closed (G2).
    #[must_use]
    pub fn lowest_open(&self) -> u64 {
        self.open_ids.values().min().copied().unwrap_or(self.next_publish)
    }

    /// Whether number `n` is settled above the cursor.
    pub(crate) fn is_settled(&self, n: u64) -> bool {
        n < self.cursor || self.settled.range(..=n).next_back().is_some_and(|(_, end)| n < *end)
    }

    /// Notes that `first..end` is settled.
    pub(crate) fn settle(&mut self, first: u64, end: u64) {
        let (mut first, mut end) = (first.max(self.cursor), end);
        if first >= end {
            return;
        }
        // Everything that touches or overlaps becomes one range.
        while let Some((&f, &e)) = self.settled.range(..=end).next_back() {
            if e < first {
                break;
            }
            first = first.min(f);
            end = end.max(e);
            self.settled.remove(&f);
        }
        self.settled.insert(first, end);
        let gone: Vec<_> = self.received.range(first..end).copied().collect();
        for number in gone {
            self.received.remove(&number);
        }
    }
}

// --- snapshot ---

impl Session {
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.put_str(&self.vhost);
        out.put_str(&self.client_id);
        out.put_u64(self.epoch);
        out.put_u8(self.owner.is_some().into());
        let (gateway, token) = self.owner.unwrap_or_default();
        for n in [gateway, token, self.ends_ms, self.will_ms] {
            out.put_u64(n);
        }
        out.put_u32(self.expiry_s);
        out.put_u16(self.window);
        for n in [self.cursor, self.position, self.sent_upto, self.next_interval, self.next_publish]
        {
            out.put_u64(n);
        }
        out.put_u32(self.subscriptions.len() as u32);
        for (filter, s) in &self.subscriptions {
            out.put_str(filter);
            out.put_u8(s.options);
            out.put_u32(s.identifier);
            out.put_u64(s.interval);
        }
        out.put_u32(self.intervals.len() as u32);
        for (id, i) in &self.intervals {
            out.put_u64(*id);
            out.put_u64(i.inbox);
            i.at.save(out);
            out.put_u64(i.to);
            out.put_u8(i.options);
            out.put_u32(i.identifier);
        }
        let pairs = |out: &mut Vec<u8>, pairs: &mut dyn Iterator<Item = (u64, u64)>| {
            let all: Vec<_> = pairs.collect();
            out.put_u32(all.len() as u32);
            for (a, b) in all {
                out.put_u64(a);
                out.put_u64(b);
            }
        };
        pairs(out, &mut self.settled.iter().map(|(a, b)| (*a, *b)));
        pairs(out, &mut self.received.iter().map(|a| (*a, 0)));
        pairs(out, &mut self.own.iter().map(|a| (*a, 0)));
        pairs(out, &mut self.open_ids.iter().map(|(id, n)| (u64::from(*id), *n)));
        out.put_u8(self.will.is_some().into());
        self.will.iter().for_each(|w| w.save(out));
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut s = Self { vhost: r.str()?.into(), client_id: r.str()?.into(), ..Self::default() };
        s.epoch = r.u64()?;
        let attached = r.u8()? != 0;
        let owner = (r.u64()?, r.u64()?);
        s.owner = attached.then_some(owner);
        (s.ends_ms, s.will_ms) = (r.u64()?, r.u64()?);
        (s.expiry_s, s.window) = (r.u32()?, r.u16()?);
        (s.cursor, s.position, s.sent_upto) = (r.u64()?, r.u64()?, r.u64()?);
        (s.next_interval, s.next_publish) = (r.u64()?, r.u64()?);
        for _ in 0..r.u32()? {
            let filter = r.str()?.into();
            let (options, identifier, interval) = (r.u8()?, r.u32()?, r.u64()?);
            s.subscriptions.insert(filter, Subscription { options, identifier, interval });
        }
        for _ in 0..r.u32()? {
            let id = r.u64()?;
            let interval = Interval {
                inbox: r.u64()?,
                at: Place::load(r)?,
                to: r.u64()?,
                options: r.u8()?,
                identifier: r.u32()?,
            };
            s.intervals.insert(id, interval);
        }
        let pairs = |r: &mut Reader<'_>| -> Result<Vec<(u64, u64)>, WireError> {
            (0..r.u32()?).map(|_| Ok((r.u64()?, r.u64()?))).collect()
        };
        s.settled = pairs(r)?.into_iter().collect();
        s.received = pairs(r)?.into_iter().map(|(a, _)| a).collect();
        s.own = pairs(r)?.into_iter().map(|(a, _)| a).collect();
        s.open_ids = pairs(r)?.into_iter().map(|(id, n)| (id as u16, n)).collect();
        s.will = if r.u8()? != 0 { Some(StoredWill::load(r)?) } else { None };
        Ok(s)
    }
}

impl StoredWill {
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.put_u8(self.qos);
        out.put_u8(self.retain.into());
        out.put_u32(self.delay_s);
        out.put_u32(self.expiry_s);
        out.put_str(&self.topic);
        out.put_u64(self.position);
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            qos: r.u8()?,
            retain: r.u8()? != 0,
            delay_s: r.u32()?,
            expiry_s: r.u32()?,
            topic: r.str()?.into(),
            position: r.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_ranges_join() {
        let mut s = Session { cursor: 10, ..Session::default() };
        s.received.extend([12, 15, 40]);
        for (first, end) in [(20, 30), (12, 14), (0, 5), (14, 20), (50, 50), (8, 12)] {
            s.settle(first, end);
        }
        assert_eq!(s.settled, BTreeMap::from([(10, 30)]));
        assert_eq!(s.received, BTreeSet::from([40]));
        assert!(s.is_settled(9) && s.is_settled(29) && !s.is_settled(30));
    }

    #[test]
    fn a_session_comes_back() {
        let mut s = Session {
            vhost: "/".into(),
            client_id: "c".into(),
            owner: Some((1, 2)),
            will: Some(StoredWill {
                qos: 1,
                retain: true,
                delay_s: 2,
                expiry_s: 3,
                topic: "w".into(),
                position: 4,
            }),
            ..Session::default()
        };
        s.subscriptions.insert("a".into(), Subscription { options: 1, identifier: 2, interval: 3 });
        let interval =
            Interval { inbox: 1, at: Place::default(), to: u64::MAX, options: 1, identifier: 2 };
        s.intervals.insert(3, interval);
        s.settle(5, 9);
        s.open_ids.insert(3, 4);
        let mut bytes = Vec::new();
        s.save(&mut bytes);
        assert_eq!(Session::load(&mut Reader(&bytes)), Ok(s));
        for cut in 0..bytes.len() {
            assert!(Session::load(&mut Reader(&bytes[..cut])).is_err());
        }
    }
}
