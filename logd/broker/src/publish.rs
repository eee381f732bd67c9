//! PUBLISH: into the inboxes that match, and into the retained store (R5, R9).

use fluxmq_names::ErrorCode;

use crate::broker::Broker;
use crate::effect::Effect;
use crate::inbox::Item;
use crate::index::Due;
use crate::limits::RETAINED_MAX;
use crate::producer::Taking;
use crate::state::Retained;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Publish;

/// MQTT 5 options byte: no local.
const NO_LOCAL: u8 = 4;

// === impl Broker ===

impl Broker {
    pub(crate) fn publish(&mut self, position: u64, publish: &Publish<'_>) -> Outcome {
        if let Some(key) = publish.key {
            match self.state.keys.take(key, publish.lowest_open) {
                Taking::Fresh => {}
                Taking::Repeat => return Outcome::Published { matched: 1 },
                Taking::Full => return Outcome::refused(ErrorCode::LimitExceeded),
            }
        }
        let stored = match publish.store {
            true => match self.retain(position, publish) {
                Ok(refers) => refers,
                Err(code) => return Outcome::refused(code),
            },
            false => 0,
        };
        let mut matched = 0;
        if publish.qos > 0 {
            matched = self.append(position, publish);
        }
        self.index.live.add(position, u64::from(stored) + u64::from(matched));
        Outcome::Published { matched: matched + u32::from(publish.store) }
    }

    /// Appends to every inbox whose filter matches; returns how many those are.
    fn append(&mut self, position: u64, publish: &Publish<'_>) -> u32 {
        let mut matching = std::mem::take(&mut self.matching);
        self.index.filters.matching(publish.vhost, publish.topic, &mut matching);
        let item = Item { position, qos: publish.qos, retain: publish.retain };
        for id in &matching {
            if let Some(inbox) = self.state.inboxes.get_mut(*id) {
                inbox.append(item);
                let grew = Effect::InboxGrew { inbox: *id };
                if self.effects.last() != Some(&grew) {
                    self.effects.push(grew);
                }
            }
        }
        if let Some((shard, session)) = publish.publisher
            && shard == self.state.shard.0
        {
            self.note_own(session, position, &matching);
        }
        let matched = matching.len() as u32;
        self.matching = matching;
        matched
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

    /// Replaces the retained message of the topic; returns the references to `position` that made.
    fn retain(&mut self, position: u64, publish: &Publish<'_>) -> Result<u8, ErrorCode> {
        let key = (publish.vhost.into(), publish.topic.into());
        let full = self.state.retained.len() >= RETAINED_MAX;
        if full && !publish.empty && !self.state.retained.contains_key(&key) {
            return Err(ErrorCode::LimitExceeded);
        }
        self.forget_retained(&key);
        if publish.empty {
            return Ok(0);
        }
        let expiry_ms = publish.expiry_ms;
        if let Some(ms) = expiry_ms {
            self.index.due.insert((ms, Due::Retained(key.0.clone(), key.1.clone())));
        }
        self.state.retained.insert(key, Retained { position, qos: publish.qos, expiry_ms });
        Ok(1)
    }

    /// Removes the retained message of a topic.
    pub(crate) fn forget_retained(&mut self, key: &(Box<str>, Box<str>)) {
        let Some(old) = self.state.retained.remove(key) else {
            return;
        };
        self.index.live.release(old.position);
        if let Some(ms) = old.expiry_ms {
            self.index.due.remove(&(ms, Due::Retained(key.0.clone(), key.1.clone())));
        }
    }
}
