//! What the leader reads of the state.

use std::ops::RangeInclusive;

use crate::broker::Broker;
use crate::order::{DeliveryCursor, Owed};
use crate::retained::{RetainedLimits, RetainedPage};
use crate::session::Session;
use crate::state::OwedWill;

// === impl Broker ===

impl Broker {
    /// How much the shard retains.
    #[must_use]
    pub fn retained_limits(&self) -> RetainedLimits {
        self.state.retained_limits
    }

    /// Bytes of the messages that are retained.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.state.retained.bytes()
    }

    /// Publishes that were refused because the shard retains no more.
    #[must_use]
    pub fn retained_refused(&self) -> u64 {
        self.state.retained_refused
    }

    /// A session.
    #[must_use]
    pub fn session(&self, id: u64) -> Option<&Session> {
        self.state.sessions.get(id)
    }

    /// The session of a client.
    #[must_use]
    pub fn session_of(&self, vhost: &str, client_id: &str) -> Option<u64> {
        self.index.clients.get(&(vhost.into(), client_id.into())).copied()
    }

    /// Sessions of the shard.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.state.sessions.len()
    }

    /// The only sequence that is taken of a producer's stream: below it everything was executed (Q1).
    #[must_use]
    pub fn next_sequence(&self, epoch: u64, stream: u32) -> u64 {
        let producer = self.state.producers.get(&epoch).and_then(|streams| streams.get(&stream));
        producer.map_or(1, |producer| producer.next)
    }

    /// The inboxes a session has intervals over.
    pub fn inboxes_of(&self, id: u64) -> impl Iterator<Item = u64> {
        let intervals = self.state.sessions.get(id).map(|s| s.intervals.values());
        intervals.into_iter().flatten().map(|i| i.inbox)
    }

    /// Appends up to `max` messages the session is owed next and has not settled; moves `cursor` on.
    /// Looks at no more than `max` + 1,000 messages.
    pub fn owed_from(&self, id: u64, cursor: &mut DeliveryCursor, max: usize, out: &mut Vec<Owed>) {
        let Some(session) = self.state.sessions.get(id) else {
            return;
        };
        cursor.catch_up(session);
        let mut found = 0;
        for _ in 0..max + 1_000 {
            if found == max {
                return;
            }
            let Some(owed) = cursor.next(session, &self.state.inboxes) else {
                return;
            };
            if !session.is_settled(owed.number) {
                found += 1;
                out.push(owed);
            }
        }
    }

    /// Filters of persistent sessions with granted QoS ≥ 1 (R1).
    pub fn filters(&self) -> impl Iterator<Item = (&str, &str)> {
        let open = self.state.inboxes.iter().filter(|(_, i)| i.open > 0);
        open.map(|(_, i)| (&*i.vhost, &*i.filter))
    }

    /// Up to `max` retained messages whose topics match and come behind `after`, in the store's order. A page
    /// may hold fewer and still say that there is more: it looks at no more than 10,000 topics.
    #[must_use]
    pub fn retained_matching(
        &self,
        vhost: &str,
        filter: &str,
        after: &str,
        max: usize,
    ) -> RetainedPage {
        self.state.retained.page((vhost, filter), after, max, self.state.now_ms)
    }

    /// Retained messages of the shard.
    #[must_use]
    pub fn retained(&self) -> usize {
        self.state.retained.len()
    }

    /// Wills that are to be published, by id.
    pub fn owed_wills(&self) -> impl Iterator<Item = (u64, &OwedWill)> {
        self.state.owed.iter().map(|(id, owed)| (*id, owed))
    }

    /// When the next TICK is due, Unix ms; now when work was cut off.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        if self.is_unfinished() || !self.index.advancing.is_empty() {
            return Some(self.state.now_ms);
        }
        self.index.due.first().map(|(ms, _)| *ms)
    }

    /// Whether anything in the state refers to one of these entries: their segment must stay (S9).
    #[must_use]
    pub fn is_live(&self, entries: RangeInclusive<u64>) -> bool {
        self.index.live.any(entries)
    }

    /// References to these entries: a segment's liveness (S9).
    #[must_use]
    pub fn references_to(&self, entries: RangeInclusive<u64>) -> u64 {
        self.index.live.references(entries)
    }

    /// How many of these entries something refers to: exact to 256 entries at each end, and quick.
    #[must_use]
    pub fn live_about(&self, entries: RangeInclusive<u64>) -> u64 {
        self.index.live.used(entries)
    }

    /// Those of these entries that something refers to, in order, each with how often.
    pub fn live_within(&self, entries: RangeInclusive<u64>) -> impl Iterator<Item = (u64, u64)> {
        self.index.live.counts(entries)
    }

    /// The entries that something in the state refers to, in order: what a node that gets this state by snapshot needs
    /// of the log (S10).
    pub fn live_entries(&self) -> impl Iterator<Item = u64> {
        self.index.live.entries()
    }

    /// References to messages in all.
    #[must_use]
    pub fn live_references(&self) -> u64 {
        self.index.live.total()
    }

    /// Ended sessions whose publish numbers other shards are to forget: FORGET_KEYS there, then
    /// KEYS_FORGOTTEN here (G2).
    pub fn ended_publishers(&self) -> impl Iterator<Item = u64> {
        self.state.ended_publishers.iter().copied()
    }

    /// Whether a gateway epoch has ended here.
    #[must_use]
    pub fn gateway_has_ended(&self, epoch: u64) -> bool {
        self.state.has_ended(epoch)
    }

    /// Registered gateways (meta): name, epoch, address.
    pub fn gateways(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.state.gateways.iter().map(|(name, (epoch, address))| (&**name, *epoch, &**address))
    }
}
