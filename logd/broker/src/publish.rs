//! PUBLISH: into the inboxes that match, and into the retained store (R5, R9).

use std::sync::Arc;

use fluxmq_names::ErrorCode;

use crate::broker::Broker;
use crate::effect::Effect;
use crate::inbox::{Inbox, Item};
use crate::index::Due;
use crate::limits::RETAINED_MAX;
use crate::producer::Taking;
use crate::queue::Incoming;
use crate::retained::{self, Retained};
use crate::session::{Interval, LIST_INTERVAL};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Progress, Publish, ToList};

/// MQTT 5 options byte: no local, retain as published.
const NO_LOCAL: u8 = 4;
const RETAIN_AS_PUBLISHED: u8 = 8;

// === impl Broker ===

impl Broker {
    pub(crate) fn publish(&mut self, position: u64, publish: &Publish<'_>) -> Outcome {
        if let Some(list) = &publish.list {
            return self.append_to_list(position, publish, list);
        }
        if let Some(key) = publish.key {
            match self.state.keys.look(key, publish.lowest_open) {
                Taking::Fresh => {}
                Taking::Repeat => {
                    self.state.keys.take(key, publish.lowest_open);
                    return Outcome::Published { matched: 1 };
                }
                Taking::Full => return Outcome::refused(ErrorCode::LimitExceeded),
                Taking::Far => return Outcome::refused(ErrorCode::InvalidArgument),
            }
        }
        // Everything that may refuse it comes first: a refusal changes nothing.
        let mut matching = std::mem::take(&mut self.matching);
        let mut bound = std::mem::take(&mut self.bound);
        let outcome = match self.destinations(publish, &mut matching, &mut bound) {
            Err(refusal) => refusal,
            Ok(()) if !self.may_retain(publish) => {
                self.state.retained_refused += 1;
                Outcome::refused(ErrorCode::LimitExceeded)
            }
            Ok(()) => {
                if let Some(key) = publish.key {
                    self.state.keys.take(key, publish.lowest_open);
                }
                let stored = publish.store && self.retain(position, publish);
                self.append(position, publish, &matching);
                self.index.live.add(position, u64::from(stored) + matching.len() as u64);
                if !bound.is_empty() {
                    self.take_into(&bound, &self.incoming(position, publish));
                }
                let matched = matching.len() + bound.len() + usize::from(publish.store);
                Outcome::Published { matched: matched as u32 }
            }
        };
        (self.matching, self.bound) = (matching, bound);
        outcome
    }

    fn incoming<'a>(&self, position: u64, publish: &Publish<'a>) -> Incoming<'a> {
        let (now_ms, size) = (self.state.now_ms, self.size);
        let (expiry_ms, options) = (publish.expiry_ms, publish.options);
        Incoming { now_ms, position, size, expiry_ms, options }
    }

    /// Finds the inboxes and queues a publish goes to.
    ///
    /// # Errors
    /// The refusal: there are too many, one of the queues does not take it.
    fn destinations(
        &self,
        publish: &Publish<'_>,
        matching: &mut Vec<u64>,
        bound: &mut Vec<u64>,
    ) -> Result<(), Outcome> {
        matching.clear();
        let (vhost, topic) = (publish.vhost, publish.topic);
        let fits = (publish.qos == 0 || self.index.filters.matching(vhost, topic, matching))
            && self.index.bindings.matching(vhost, topic, bound);
        if !fits {
            return Err(Outcome::refused(ErrorCode::LimitExceeded));
        }
        bound.dedup();
        if publish.qos == 0 {
            // To a shared subscription QoS 0 goes live (R10).
            let hidden = |id: &u64| self.state.queues.get(*id).is_some_and(|q| q.is_hidden());
            bound.retain(|id| !hidden(id));
        }
        if !self.fits_into_a_command(bound) {
            return Err(Outcome::refused(ErrorCode::LimitExceeded));
        }
        let message = self.incoming(0, publish);
        let refusal = bound.iter().find_map(|id| {
            let code = self.state.queues.get(*id)?.refusal(&message)?;
            Some(Outcome::Error { code, detail: *id })
        });
        refusal.map_or(Ok(()), Err)
    }

    /// Copies a message into the list of one session (Q0); done once, as the replay's cursor or the key says.
    fn append_to_list(
        &mut self,
        position: u64,
        publish: &Publish<'_>,
        list: &ToList<'_>,
    ) -> Outcome {
        if let Some(key) = publish.key {
            match self.state.keys.look(key, publish.lowest_open) {
                Taking::Fresh => {}
                Taking::Repeat => return Outcome::Done,
                Taking::Full => return Outcome::refused(ErrorCode::LimitExceeded),
                Taking::Far => return Outcome::refused(ErrorCode::InvalidArgument),
            }
        }
        let own_shard = list.shard == self.state.shard.0;
        let Some(session) = self.state.sessions.get_mut(list.session) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        if list.replay != 0 {
            let Some(replay) = session.replays.get_mut(&list.replay) else {
                return Outcome::refused(ErrorCode::NotFound);
            };
            if !replay.moves_to(list.shard, publish.topic) {
                return Outcome::Done;
            }
            // What was retained after the SUBSCRIBE came by the inbox already.
            if own_shard && list.source >= replay.since {
                return Outcome::Done;
            }
        }
        if let Some(key) = publish.key {
            self.state.keys.take(key, publish.lowest_open);
        }
        let inbox = match session.intervals.get(&LIST_INTERVAL) {
            Some(interval) => interval.inbox,
            None => {
                self.state.next_inbox += 1;
                let (id, mut inbox) = (self.state.next_inbox, Inbox::new(&session.vhost, ""));
                let at = inbox.end();
                inbox.mark(at);
                inbox.open = 1;
                self.state.inboxes.insert(id, inbox);
                // QoS and flags are those of the message.
                let options = 2 | RETAIN_AS_PUBLISHED;
                let all = Interval { inbox: id, at, to: u64::MAX, options, identifier: 0 };
                session.intervals.insert(LIST_INTERVAL, all);
                self.effects.push(Effect::SessionChanged { session: list.session });
                id
            }
        };
        self.append(position, publish, &[inbox]);
        self.index.live.add(position, 1);
        Outcome::Done
    }

    /// A replay has looked at a shard up to a topic, or is done.
    pub(crate) fn replay_at(
        &mut self,
        session: u64,
        (replay, shard): (u64, u32),
        after: &str,
        progress: Progress,
    ) {
        let Some(session) = self.state.sessions.get_mut(session) else { return };
        if progress == Progress::Done {
            session.replays.remove(&replay);
        } else if let Some(replay) = session.replays.get_mut(&replay) {
            if progress == Progress::ShardDone {
                replay.shards.insert(shard, None);
            } else {
                replay.moves_to(shard, after);
            }
        }
    }

    /// Appends to the inboxes.
    fn append(&mut self, position: u64, publish: &Publish<'_>, matching: &[u64]) {
        let item = Item { position, qos: publish.qos.max(1), retain: publish.retain };
        self.spend(matching.len() as u32 + 1);
        for id in matching {
            if let Some(inbox) = self.state.inboxes.get_mut(*id) {
                inbox.append(item, self.size);
                let grew = Effect::InboxGrew { inbox: *id };
                if self.effects.last() != Some(&grew) {
                    self.effects.push(grew);
                }
            }
        }
        if let Some((shard, session)) = publish.publisher
            && shard == self.state.shard.0
        {
            self.note_own(session, position, matching);
        }
    }

    /// A session's own publish is not sent back when every subscription it matches says no local.
    fn note_own(&mut self, session: u64, position: u64, matching: &[u64]) {
        let Some(s) = self.state.sessions.get(session) else {
            return;
        };
        let open = s.intervals.values().filter(|i| i.to == u64::MAX);
        let mut options =
            open.filter(|i| matching.binary_search(&i.inbox).is_ok()).map(|i| i.options).peekable();
        if options.peek().is_some()
            && options.all(|o| o & NO_LOCAL != 0)
            && let Some(s) = self.state.sessions.get_mut(session)
        {
            s.own.insert(position);
        }
    }

    /// Whether there is room for what `publish` wants to be retained. What replaces or deletes always may.
    fn may_retain(&self, publish: &Publish<'_>) -> bool {
        if !publish.store || publish.empty {
            return true;
        }
        let (store, limits) = (&self.state.retained, self.state.retained_limits);
        let room = (store.len() as u64) < limits.messages.min(RETAINED_MAX)
            && store.bytes() + u64::from(self.size) <= limits.bytes;
        room || store.get(&retained::key(publish.vhost, publish.topic)).is_some()
    }

    /// Replaces the retained message of the topic; false when the publish deletes it.
    fn retain(&mut self, position: u64, publish: &Publish<'_>) -> bool {
        let key = retained::key(publish.vhost, publish.topic);
        self.forget_retained(&key);
        if publish.empty {
            return false;
        }
        let expiry_ms = publish.expiry_ms;
        if let Some(ms) = expiry_ms {
            self.index.due.insert((ms, Due::Retained(key.clone())));
        }
        let size = self.size;
        self.state.retained.insert(key, Retained { position, qos: publish.qos, expiry_ms, size });
        true
    }

    /// Removes the retained message of a topic.
    pub(crate) fn forget_retained(&mut self, key: &Arc<str>) {
        let Some(old) = self.state.retained.remove(key) else {
            return;
        };
        self.index.live.release(old.position);
        if let Some(ms) = old.expiry_ms {
            self.index.due.remove(&(ms, Due::Retained(key.clone())));
        }
    }
}
