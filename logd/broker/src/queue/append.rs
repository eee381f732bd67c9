//! Messages come into queues: by name or by topic, once, now or later (Q5).

use std::collections::BTreeMap;

use fluxmq_names::ErrorCode;

use super::blocks::{BLOCK, Item};
use super::{Queue, Scheduled, Work};
use crate::broker::Broker;
use crate::effect::Effect;
use crate::limits::{
    DEDUP_IDS_MAX, KEYS_PER_QUEUE_MAX, PRODUCERS_MAX, SCHEDULED_MAX, STEPS_MAX, TARGETS_MAX,
};
use crate::producer::Taking;
use fluxmq_commands::command::queue::{Enqueue, Options, Overflow};
use fluxmq_commands::{Appending, Outcome};

/// Message ids that are forgotten with each message at most, when their window has passed.
const FORGOTTEN_IDS: usize = 4;

/// A message for a queue.
#[derive(Clone, Copy)]
pub(crate) struct Incoming<'a> {
    pub(crate) now_ms: u64,
    pub(crate) position: u64,
    pub(crate) size: u32,
    pub(crate) expiry_ms: Option<u64>,
    pub(crate) options: Options<'a>,
}

/// What earlier parts of a transaction will have done to a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) returned: u64,
}

// === impl Queue ===

impl Queue {
    /// Why the queue does not take a message, if it does not.
    pub(crate) fn refusal(&self, message: &Incoming<'_>) -> Option<ErrorCode> {
        self.refusal_after(&Ahead::default(), message)
    }

    /// The same when something was appended to it before.
    fn refusal_after(&self, ahead: &Ahead, message: &Incoming<'_>) -> Option<ErrorCode> {
        let (arguments, options) = (&self.arguments, &message.options);
        let size = u64::from(message.size);
        if arguments.max_bytes > 0 && size > arguments.max_bytes {
            return Some(ErrorCode::TooLarge);
        }
        let waiting = self.scheduled.len() as u64 + ahead.messages;
        let bytes = self.bytes + ahead.bytes;
        let full = arguments.max_messages > 0 && self.live + waiting >= arguments.max_messages
            || arguments.max_bytes > 0 && bytes + size > arguments.max_bytes;
        let more = ahead.messages as usize;
        let new = |known: bool, len: usize, max: usize| !known && len + more >= max;
        let refused = full && arguments.overflow == Overflow::Reject
            || options.deliver_at_ms > 0 && self.scheduled.len() + more >= SCHEDULED_MAX
            || arguments.compact
                && new(self.keys.contains_key(options.key), self.keys.len(), KEYS_PER_QUEUE_MAX)
            || options.producer.is_some_and(|(name, _)| {
                new(self.producers.contains_key(name), self.producers.len(), PRODUCERS_MAX)
            })
            || self.ids.len() + more >= DEDUP_IDS_MAX && !self.forgets_an_id(message.now_ms);
        refused.then_some(ErrorCode::LimitExceeded)
    }

    fn forgets_an_id(&self, now_ms: u64) -> bool {
        let window_ms = self.arguments.dedup_window_ms;
        self.ids.front().is_some_and(|(at_ms, _)| at_ms.saturating_add(window_ms) <= now_ms)
    }

    /// Whether the message was taken before.
    fn is_repeat(&self, options: &Options<'_>, now_ms: u64) -> bool {
        let window_ms = self.arguments.dedup_window_ms;
        let came_ms = self.id_times.get(options.message_id).filter(|_| window_ms > 0);
        came_ms.is_some_and(|ms| ms.saturating_add(window_ms) > now_ms)
            || options.producer.is_some_and(|(name, sequence)| {
                self.producers.get(name).is_some_and(|last| sequence <= *last)
            })
    }

    fn note_ids(&mut self, options: &Options<'_>, now_ms: u64) {
        if let Some((name, sequence)) = options.producer {
            self.producers.insert(name.into(), sequence);
        }
        let window_ms = self.arguments.dedup_window_ms;
        if window_ms == 0 {
            return;
        }
        for _ in 0..FORGOTTEN_IDS {
            let passed = |front: &mut (u64, Box<str>)| front.0.saturating_add(window_ms) <= now_ms;
            let Some((at_ms, id)) = self.ids.pop_front_if(passed) else { break };
            if self.id_times.get(&id) == Some(&at_ms) {
                self.id_times.remove(&id);
            }
        }
        if !options.message_id.is_empty() {
            self.id_times.insert(options.message_id.into(), now_ms);
            self.ids.push_back((now_ms, options.message_id.into()));
        }
    }

    /// Takes a message, unless it is a repeat. Returns its offset, or its position when it waits for its time.
    fn take(&mut self, message: &Incoming<'_>, work: &mut Work) -> (Appending, u64) {
        let options = &message.options;
        if self.is_repeat(options, work.now_ms) && !cfg!(planted = "take_a_message_id_twice") {
            self.counters.repeats += 1;
            return (Appending::Repeat, 0);
        }
        self.note_ids(options, work.now_ms);
        let levels = self.arguments.levels;
        let item = Item {
            position: message.position,
            expiry_ms: message.expiry_ms.unwrap_or(0),
            priority: options.priority.min(levels.saturating_sub(1)),
            size: message.size,
            dead: None,
        };
        let key = if self.arguments.compact { options.key } else { &[] };
        if options.deliver_at_ms > work.now_ms {
            let scheduled = Scheduled { item, key: key.into() };
            self.scheduled.insert((options.deliver_at_ms, message.position), scheduled);
            self.scheduled_at.insert(message.position, options.deliver_at_ms);
            return (Appending::Scheduled, message.position);
        }
        (Appending::Stored, self.append(item, key, work))
    }

    /// Appends a message; what is too much then is pushed out.
    pub(super) fn append(&mut self, mut item: Item, key: &[u8], work: &mut Work) -> u64 {
        if !Self::sized(&self.arguments()) {
            item.size = 0;
        }
        let ttl_ms = self.arguments.message_ttl_ms;
        if ttl_ms > 0 {
            let by_ttl = work.now_ms.saturating_add(ttl_ms);
            item.expiry_ms = if item.expiry_ms == 0 { by_ttl } else { item.expiry_ms.min(by_ttl) };
        }
        let block = self.tail() / BLOCK;
        let before = self.blocks.get(block).map_or(0, |b| b.min_expiry);
        let offset = self.blocks.push(&item, work.now_ms);
        let after = self.blocks.get(block).map_or(0, |b| b.min_expiry);
        if before != after {
            self.expiring.remove(&(before, block));
            self.expiring.insert((after, block));
        }
        self.live += 1;
        self.bytes += u64::from(item.size);
        work.spend(2);
        if !key.is_empty() {
            self.replace_key(offset, key, work);
        }
        while self.is_over() && work.may_bury(1) {
            self.drop_head(work);
        }
        offset
    }

    /// Of one key only the newest is kept.
    fn replace_key(&mut self, offset: u64, key: &[u8], work: &mut Work) {
        self.key_offsets.insert(offset, key.into());
        let Some(old) = self.keys.insert(key.into(), offset) else { return };
        self.key_offsets.remove(&old);
        if self.is_live(old) {
            self.counters.compacted += 1;
            self.kill(old / BLOCK, 1 << (old % BLOCK), work, |_, _| {});
            self.skip_dead(work);
        }
    }

    /// It holds more than it may and pushes out what is oldest. Of a single message nothing is left over.
    fn is_over(&self) -> bool {
        let arguments = &self.arguments;
        let over = arguments.max_messages > 0 && self.live > arguments.max_messages
            || arguments.max_bytes > 0 && self.bytes > arguments.max_bytes;
        over && arguments.overflow != Overflow::Reject && self.live > 0
    }
}

// === impl Broker ===

impl Broker {
    /// A message for queues that routing has chosen: it goes to all of them or to none.
    pub(crate) fn enqueue(&mut self, position: u64, enqueue: &Enqueue<'_>, size: u32) -> Outcome {
        match self.enqueue_refusal(enqueue, size, &mut BTreeMap::new()) {
            Some(refusal) => refusal,
            None => self.enqueue_unasked(position, enqueue, size),
        }
    }

    /// Why a message is not taken; `ahead` is what earlier parts of its transaction did, and it with them.
    pub(super) fn enqueue_refusal(
        &self,
        enqueue: &Enqueue<'_>,
        size: u32,
        ahead: &mut BTreeMap<u64, Ahead>,
    ) -> Option<Outcome> {
        let refused = |code, detail| Some(Outcome::Error { code, detail });
        let queues: Vec<u64> = enqueue.queues().collect();
        let sorted = queues.is_sorted_by(|a, b| a < b) && !queues.is_empty();
        if !sorted || queues.len() > TARGETS_MAX || enqueue.dead.is_some() && queues.len() > 1 {
            return refused(ErrorCode::InvalidArgument, 0);
        }
        match enqueue.key.map(|key| self.state.keys.look(key, enqueue.lowest_open)) {
            None | Some(Taking::Fresh) => {}
            // It is in the queues already.
            Some(Taking::Repeat) => return None,
            Some(Taking::Full) => return refused(ErrorCode::LimitExceeded, 0),
            Some(Taking::Far) => return refused(ErrorCode::InvalidArgument, 0),
        }
        if !self.fits_into_a_command(&queues) {
            return refused(ErrorCode::LimitExceeded, 0);
        }
        let (position, now_ms) = (0, self.state.now_ms);
        let (expiry_ms, options) = (enqueue.expiry_ms, enqueue.options);
        let message = Incoming { now_ms, position, size, expiry_ms, options };
        for &id in &queues {
            let before = ahead.entry(id).or_default();
            match self.state.queues.get(id).map(|q| q.refusal_after(before, &message)) {
                None => return refused(ErrorCode::NotFound, id),
                Some(Some(code)) => return refused(code, id),
                Some(None) => {}
            }
            before.messages += 1;
            before.bytes += u64::from(size);
        }
        None
    }

    /// Takes a message that nothing refuses, once.
    pub(super) fn enqueue_unasked(
        &mut self,
        position: u64,
        enqueue: &Enqueue<'_>,
        size: u32,
    ) -> Outcome {
        let queues: Vec<u64> = enqueue.queues().collect();
        let (expiry_ms, options) = (enqueue.expiry_ms, enqueue.options);
        if let Some(key) = enqueue.key {
            let repeat = self.state.keys.look(key, enqueue.lowest_open) == Taking::Repeat;
            self.state.keys.take(key, enqueue.lowest_open);
            if repeat {
                return Outcome::Appended { queues: 0, offset: 0, how: Appending::Repeat };
            }
        }
        if let (Some(dead), &[queue]) = (enqueue.dead, &queues[..]) {
            let (priority, dead) = (options.priority, Some(dead));
            let item = Item { position, size, dead, priority, ..Item::default() };
            let offset = self.append_dead(queue, item);
            return Outcome::Appended { queues: 1, offset, how: Appending::Stored };
        }
        let now_ms = self.state.now_ms;
        self.take_into(&queues, &Incoming { now_ms, position, size, expiry_ms, options })
    }

    /// Whether appending to the queues takes no more than the steps of a command.
    pub(crate) fn fits_into_a_command(&self, queues: &[u64]) -> bool {
        let groups = |id: &u64| self.state.queues.get(*id).map_or(0, |q| q.groups.len());
        let cost: usize = queues.iter().map(|id| 4 + groups(id) / 8).sum();
        queues.len() <= TARGETS_MAX && cost <= STEPS_MAX as usize / 2
    }

    /// Appends a message to queues that are known to take it.
    pub(crate) fn take_into(&mut self, queues: &[u64], message: &Incoming<'_>) -> Outcome {
        let mut taken = 0;
        let mut first = None;
        self.spend(queues.len() as u32);
        for &id in queues {
            // Held until all have it: what one pushes out again must not be let go before.
            self.index.live.add(message.position, 1);
            let taken_by = |q: &mut Queue, work: &mut Work| {
                // Half of the steps are for appending: what is pushed out beyond the rest goes on later.
                work.left = work.left.saturating_sub(STEPS_MAX / 2);
                q.take(message, work)
            };
            let (how, offset) = self.work_on(id, taken_by).unwrap_or((Appending::Repeat, 0));
            if how == Appending::Repeat {
                self.index.live.release(message.position);
            } else {
                taken += 1;
                first = first.or(Some((how, offset)));
            }
            if how == Appending::Stored {
                self.note_growth(id);
            }
        }
        let (how, offset) = first.unwrap_or((Appending::Repeat, 0));
        Outcome::Appended { queues: taken, offset, how }
    }

    pub(super) fn note_growth(&mut self, queue: u64) {
        let grew = Effect::QueueGrew { queue };
        if self.effects.last() != Some(&grew) {
            self.effects.push(grew);
        }
    }
}
