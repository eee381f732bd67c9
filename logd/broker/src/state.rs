//! The replicated state of a shard: what a snapshot holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fluxmq_names::ShardId;

use crate::buckets::Buckets;
use crate::inbox::Inbox;
use crate::pages::Pages;
use crate::producer::{Keys, Producer};
use crate::queue::Queue;
use crate::retained::{RetainedLimits, RetainedStore};
use crate::session::{Interval, Session, StoredWill};
use fluxmq_commands::wire::{Reader, WireError, Write};

/// A will that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedWill {
    /// Virtual host.
    pub vhost: Box<str>,
    /// The will.
    pub will: StoredWill,
    /// When it came to be due, Unix ms: its expiry counts from there.
    pub due_ms: u64,
}

/// Version of the encoding of a snapshot. 5: messages that move to a session (R10), what a gateway keeps with a
/// subscription, limits and sizes of what is retained. 4 is read as well: the first two are marked where they stand.
const VERSION: u16 = 5;
const OLDEST: u16 = 4;

/// Everything that is replicated. Cloning shares sessions and inboxes.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) shard: ShardId,
    /// The newest time an entry brought.
    pub(crate) now_ms: u64,
    /// Index of the last entry applied.
    pub(crate) applied: u64,
    /// Producers by gateway epoch and stream.
    pub(crate) producers: BTreeMap<u64, BTreeMap<u32, Producer>>,
    /// Gateway epochs below this have ended.
    pub(crate) ended_before: u64,
    /// Epochs above that have ended.
    pub(crate) ended: BTreeSet<u64>,
    /// Meta: epoch and address by name.
    pub(crate) gateways: BTreeMap<Box<str>, (u64, Box<str>)>,
    pub(crate) sessions: Buckets<Session>,
    pub(crate) inboxes: Buckets<Inbox>,
    pub(crate) next_inbox: u64,
    pub(crate) queues: Buckets<Queue>,
    /// Deleted queues whose messages are still to be let go.
    pub(crate) deleted: VecDeque<Queue>,
    pub(crate) retained: RetainedStore,
    pub(crate) retained_limits: RetainedLimits,
    /// Publishes that were refused by them.
    pub(crate) retained_refused: u64,
    pub(crate) owed: BTreeMap<u64, OwedWill>,
    pub(crate) keys: Keys,
    /// Forsaken inboxes whose messages are still to be let go.
    pub(crate) discarded: VecDeque<Inbox>,
    /// Intervals of sessions that have ended, still to be left.
    pub(crate) left_intervals: VecDeque<Vec<Interval>>,
    /// Ended sessions whose publish numbers other shards are to forget (G2).
    pub(crate) ended_publishers: BTreeSet<u64>,
    /// Sessions that have ended and still have memberships here, with their shard (R10).
    pub(crate) left_sessions: BTreeSet<(u32, u64)>,
}

// === impl State ===

impl State {
    /// Whether a gateway epoch has ended here.
    pub(crate) fn has_ended(&self, epoch: u64) -> bool {
        epoch < self.ended_before || self.ended.contains(&epoch)
    }

    pub(crate) fn save(&self, pages: &mut Pages<'_>) {
        let out = &mut pages.page;
        out.put_u16(VERSION);
        out.put_u32(self.shard.0);
        for n in [self.now_ms, self.applied, self.ended_before, self.next_inbox] {
            out.put_u64(n);
        }
        out.put_u32(self.ended.len() as u32);
        self.ended.iter().for_each(|e| out.put_u64(*e));
        out.put_u32(self.producers.len() as u32);
        for (epoch, streams) in &self.producers {
            pages.page.put_u64(*epoch);
            pages.page.put_u32(streams.len() as u32);
            for (stream, producer) in streams {
                pages.page.put_u32(*stream);
                producer.save(&mut pages.page);
                pages.turn();
            }
        }
        let out = &mut pages.page;
        out.put_u32(self.gateways.len() as u32);
        for (name, (epoch, address)) in &self.gateways {
            out.put_str(name);
            out.put_u64(*epoch);
            out.put_str(address);
        }
        out.put_u64(self.sessions.len() as u64);
        for (id, session) in self.sessions.iter() {
            pages.page.put_u64(id);
            session.save(&mut pages.page);
            pages.turn();
        }
        pages.page.put_u64(self.inboxes.len() as u64);
        for (id, inbox) in self.inboxes.iter() {
            pages.page.put_u64(id);
            inbox.save(pages);
        }
        pages.page.put_u64(self.queues.len() as u64);
        for (id, queue) in self.queues.iter() {
            pages.page.put_u64(id);
            queue.save(pages);
            pages.turn();
        }
        pages.page.put_u32(self.deleted.len() as u32);
        self.deleted.iter().for_each(|queue| queue.save(pages));
        self.save_messages(pages);
    }

    fn save_messages(&self, pages: &mut Pages<'_>) {
        self.retained.save(pages);
        let out = &mut pages.page;
        let RetainedLimits { messages, bytes } = self.retained_limits;
        [messages, bytes, self.retained_refused].into_iter().for_each(|n| out.put_u64(n));
        out.put_u32(self.owed.len() as u32);
        for (id, owed) in &self.owed {
            out.put_u64(*id);
            out.put_str(&owed.vhost);
            owed.will.save(out);
            out.put_u64(owed.due_ms);
        }
        self.keys.save(out);
        out.put_u32(self.discarded.len() as u32);
        self.discarded.iter().for_each(|inbox| inbox.save(pages));
        let out = &mut pages.page;
        out.put_u32(self.left_intervals.len() as u32);
        for intervals in &self.left_intervals {
            out.put_u32(intervals.len() as u32);
            intervals.iter().for_each(|i| i.save(out));
        }
        out.put_u32(self.ended_publishers.len() as u32);
        self.ended_publishers.iter().for_each(|id| out.put_u64(*id));
        out.put_u32(self.left_sessions.len() as u32);
        for (shard, session) in &self.left_sessions {
            out.put_u32(*shard);
            out.put_u64(*session);
        }
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u16()?;
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(WireError("snapshot of another version"));
        }
        let mut state = Self { shard: ShardId(r.u32()?), ..Self::default() };
        (state.now_ms, state.applied) = (r.u64()?, r.u64()?);
        (state.ended_before, state.next_inbox) = (r.u64()?, r.u64()?);
        state.ended = (0..r.u32()?).map(|_| r.u64()).collect::<Result<_, _>>()?;
        for _ in 0..r.u32()? {
            let epoch = r.u64()?;
            let streams = (0..r.u32()?)
                .map(|_| Ok((r.u32()?, Producer::load(r)?)))
                .collect::<Result<_, WireError>>()?;
            state.producers.insert(epoch, streams);
        }
        for _ in 0..r.u32()? {
            let name = r.str()?.into();
            state.gateways.insert(name, (r.u64()?, r.str()?.into()));
        }
        for _ in 0..r.u64()? {
            state.sessions.insert(r.u64()?, Session::load(r)?);
        }
        for _ in 0..r.u64()? {
            state.inboxes.insert(r.u64()?, Inbox::load(r)?);
        }
        for _ in 0..r.u64()? {
            state.queues.insert(r.u64()?, Queue::load(r)?);
        }
        for _ in 0..r.u32()? {
            state.deleted.push_back(Queue::load(r)?);
        }
        state.load_messages(r, version)?;
        r.end()?;
        Ok(state)
    }

    fn load_messages(&mut self, r: &mut Reader<'_>, version: u16) -> Result<(), WireError> {
        self.retained = RetainedStore::load(r, version)?;
        if version >= 5 {
            self.retained_limits = RetainedLimits { messages: r.u64()?, bytes: r.u64()? };
            self.retained_refused = r.u64()?;
        }
        for _ in 0..r.u32()? {
            let id = r.u64()?;
            let vhost = r.str()?.into();
            let will = StoredWill::load(r)?;
            self.owed.insert(id, OwedWill { vhost, will, due_ms: r.u64()? });
        }
        self.keys = Keys::load(r)?;
        for _ in 0..r.u32()? {
            self.discarded.push_back(Inbox::load(r)?);
        }
        for _ in 0..r.u32()? {
            let intervals = (0..r.u32()?).map(|_| Interval::load(r)).collect::<Result<_, _>>()?;
            self.left_intervals.push_back(intervals);
        }
        self.ended_publishers = (0..r.u32()?).map(|_| r.u64()).collect::<Result<_, _>>()?;
        let left = (0..r.u32()?).map(|_| Ok((r.u32()?, r.u64()?)));
        self.left_sessions = left.collect::<Result<_, WireError>>()?;
        Ok(())
    }
}
