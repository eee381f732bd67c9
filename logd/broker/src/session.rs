//! An MQTT session: what it is subscribed to, what it is owed, and how far it got (design Q0, G1–G4).

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_names::filter_matches;

use crate::inbox::Place;
use fluxmq_commands::command::WITH_MORE;
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

/// A subscription with QoS 0 and an identifier: messages that come by an inbox carry it along when the
/// filter matches their topic and the position lies inside (Q0). Nothing is owed because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ZeroInterval {
    pub(crate) from: u64,
    /// Closed at this position; `u64::MAX` while it is open.
    pub(crate) to: u64,
    pub(crate) identifier: u32,
    pub(crate) filter: Box<str>,
}

/// Retained messages that a SUBSCRIBE asked for, on their way into the session's list (R9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The filter that was subscribed.
    pub filter: Box<str>,
    /// Its options; the QoS is what was granted, 1 or 2.
    pub options: u8,
    /// Its subscription identifier, 0 = none.
    pub identifier: u32,
    /// Position of the SUBSCRIBE: what this shard retained later came by the inbox.
    pub since: u64,
    /// By shard: the topic that was looked at last; None = nothing more comes from it.
    pub shards: BTreeMap<u32, Option<Box<str>>>,
}

/// The interval over a session's private list, in its `intervals`.
pub(crate) const LIST_INTERVAL: u64 = 0;

/// A subscription as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// MQTT 5 options byte, QoS as granted.
    pub options: u8,
    /// Subscription identifier, 0 = none.
    pub identifier: u32,
    /// The interval it opened; 0 with QoS 0, which is never owed.
    pub(crate) interval: u64,
    /// What its gateway keeps with it.
    pub more: Box<str>,
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
    pub(crate) zeros: Vec<ZeroInterval>,
    /// Replays of retained messages that are not done, by id.
    pub replays: BTreeMap<u64, Replay>,
    pub(crate) last_replay: u64,
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

    /// Identifiers of the QoS 0 subscriptions that match a message of its inboxes (Q0): to be added to
    /// those of what it is owed, except for what was copied into its list.
    pub fn identifiers_of_zero<'a>(
        &'a self,
        position: u64,
        topic: &'a str,
    ) -> impl Iterator<Item = u32> + 'a {
        let inside = move |z: &&ZeroInterval| z.from < position && position < z.to;
        let matching =
            self.zeros.iter().filter(inside).filter(|z| filter_matches(&z.filter, topic));
        matching.map(|z| z.identifier)
    }

    /// Steps that looking for its next message costs: each interval is looked at.
    pub(crate) fn walk_cost(&self) -> u32 {
        1 + self.intervals.len() as u32 / 8
    }

    /// Whether number `n` is settled above the cursor.
    pub(crate) fn is_settled(&self, n: u64) -> bool {
        n < self.cursor || self.settled.range(..=n).next_back().is_some_and(|(_, end)| n < *end)
    }

    /// The number behind the first window of unsettled ones: nothing from there on is in flight (G3).
    pub(crate) fn window_end(&self) -> u64 {
        let mut end = self.cursor + u64::from(self.window);
        for (first, behind) in &self.settled {
            if *first >= end {
                break;
            }
            end += behind - first;
        }
        end
    }

    /// The number behind those that may be in flight: of a session without a connection those that were sent, else
    /// the whole window may be.
    pub(crate) fn in_flight_end(&self) -> u64 {
        let window = self.window_end();
        let sent = self.sent_upto.max(self.cursor);
        if self.owner.is_some() { window } else { window.min(sent) }
    }

    /// Unsettled numbers below `n`.
    pub(crate) fn unsettled_below(&self, n: u64) -> u64 {
        let inside = |(first, end): (&u64, &u64)| n.min(*end).saturating_sub(*first);
        n.saturating_sub(self.cursor) - self.settled.iter().map(inside).sum::<u64>()
    }

    /// The number behind `count` unsettled ones from `n` on.
    pub(crate) fn behind(&self, n: u64, count: u64) -> u64 {
        let mut end = n + count;
        for (first, behind) in self.settled.range(..) {
            if *first >= end {
                break;
            }
            end += behind - (*first).max(n).min(*behind);
        }
        end
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
            let more = if s.more.is_empty() { 0 } else { WITH_MORE };
            out.put_u8(s.options | more);
            out.put_u32(s.identifier);
            out.put_u64(s.interval);
            if more != 0 {
                out.put_str(&s.more);
            }
        }
        out.put_u32(self.intervals.len() as u32);
        for (id, i) in &self.intervals {
            out.put_u64(*id);
            i.save(out);
        }
        out.put_u32(self.zeros.len() as u32);
        for zero in &self.zeros {
            out.put_u64(zero.from);
            out.put_u64(zero.to);
            out.put_u32(zero.identifier);
            out.put_str(&zero.filter);
        }
        out.put_u64(self.last_replay);
        out.put_u32(self.replays.len() as u32);
        for (id, replay) in &self.replays {
            out.put_u64(*id);
            replay.save(out);
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
            let more = if options & WITH_MORE != 0 { r.str()?.into() } else { Box::default() };
            let options = options & !WITH_MORE;
            s.subscriptions.insert(filter, Subscription { options, identifier, interval, more });
        }
        for _ in 0..r.u32()? {
            let id = r.u64()?;
            s.intervals.insert(id, Interval::load(r)?);
        }
        for _ in 0..r.u32()? {
            let (from, to, identifier) = (r.u64()?, r.u64()?, r.u32()?);
            s.zeros.push(ZeroInterval { from, to, identifier, filter: r.str()?.into() });
        }
        s.last_replay = r.u64()?;
        for _ in 0..r.u32()? {
            s.replays.insert(r.u64()?, Replay::load(r)?);
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

impl Interval {
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        out.put_u64(self.inbox);
        self.at.save(out);
        out.put_u64(self.to);
        out.put_u8(self.options);
        out.put_u32(self.identifier);
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            inbox: r.u64()?,
            at: Place::load(r)?,
            to: r.u64()?,
            options: r.u8()?,
            identifier: r.u32()?,
        })
    }
}

impl Replay {
    /// Moves the cursor of a shard to a topic; false when it is there or beyond.
    pub(crate) fn moves_to(&mut self, shard: u32, topic: &str) -> bool {
        let beyond = match self.shards.get(&shard) {
            None => true,
            Some(None) => false,
            Some(Some(after)) => after.split('/').lt(topic.split('/')),
        };
        if beyond {
            self.shards.insert(shard, Some(topic.into()));
        }
        beyond
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.put_str(&self.filter);
        out.put_u8(self.options);
        out.put_u32(self.identifier);
        out.put_u64(self.since);
        out.put_u32(self.shards.len() as u32);
        for (shard, after) in &self.shards {
            out.put_u32(*shard);
            out.put_u8(after.is_some().into());
            out.put_str(after.as_deref().unwrap_or(""));
        }
    }

    fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (filter, options, identifier) = (r.str()?.into(), r.u8()?, r.u32()?);
        let since = r.u64()?;
        let mut shards = BTreeMap::new();
        for _ in 0..r.u32()? {
            let (shard, more, after) = (r.u32()?, r.u8()? != 0, r.str()?);
            shards.insert(shard, more.then(|| after.into()));
        }
        Ok(Self { filter, options, identifier, since, shards })
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
        s.settle(40, 50);
        s.window = 15;
        s.cursor = 5;
        // 5 to 9, 30 to 39.
        assert_eq!(s.window_end(), 40);
        assert_eq!(
            (s.unsettled_below(5), s.unsettled_below(35), s.unsettled_below(60)),
            (0, 10, 25)
        );
        assert_eq!(
            (s.behind(5, 5), s.behind(5, 6), s.behind(35, 6), s.behind(60, 6)),
            (10, 31, 51, 66)
        );
        s.sent_upto = 7;
        assert_eq!(s.in_flight_end(), 7);
        s.owner = Some((1, 1));
        assert_eq!(s.in_flight_end(), 40);
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
        let subscription =
            |more: &str| Subscription { options: 1, identifier: 2, interval: 3, more: more.into() };
        s.subscriptions.insert("a".into(), subscription(""));
        s.subscriptions.insert("$queue/q".into(), subscription("ack=manual"));
        let interval =
            Interval { inbox: 1, at: Place::default(), to: u64::MAX, options: 1, identifier: 2 };
        s.intervals.insert(3, interval);
        s.zeros.push(ZeroInterval { from: 1, to: 9, identifier: 5, filter: "a/#".into() });
        let replay = Replay {
            filter: "a".into(),
            options: 2,
            identifier: 3,
            since: 4,
            shards: BTreeMap::from([(0, None), (1, Some("x".into()))]),
        };
        s.replays.insert(2, replay);
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
