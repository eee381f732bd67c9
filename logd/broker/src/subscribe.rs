//! SUBSCRIBE and UNSUBSCRIBE open and close intervals (Q0).

use fluxmq_names::validate_filter;

use crate::broker::Broker;
use crate::effect::Effect;
use crate::inbox::Inbox;
use crate::limits::{INBOXES_MAX, INTERVALS_MAX, REPLAYS_MAX, SESSION_QUEUES_MAX};
use crate::session::{Interval, Replay, Subscription, ZeroInterval};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::{MORE_BYTES_MAX, Wanted};

/// MQTT 5 reason codes.
const TOPIC_FILTER_INVALID: u8 = 0x8F;
const QUOTA_EXCEEDED: u8 = 0x97;
const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;

/// What comes by a queue, of which the session only remembers that it consumes it: shared subscriptions (R10)
/// and queues by name.
pub(crate) const SHARED: &str = "$share/";
const QUEUE: &str = "$queue/";

// === impl Broker ===

impl Broker {
    pub(crate) fn subscribe(&mut self, id: u64, position: u64, filters: &[Wanted<'_>]) -> Outcome {
        self.spend(filters.len() as u32);
        let codes = filters.iter().map(|w| self.subscribe_one(id, position, w)).collect();
        self.effects.push(Effect::SessionChanged { session: id });
        Outcome::Subscribed(codes)
    }

    fn subscribe_one(&mut self, id: u64, position: u64, wanted: &Wanted<'_>) -> (u8, bool) {
        let Wanted { options, identifier, filter, .. } = *wanted;
        let Some(session) = self.state.sessions.get(id) else {
            return (QUOTA_EXCEEDED, false);
        };
        if filter.starts_with(SHARED) || filter.starts_with(QUEUE) {
            return self.note_queue(id, wanted);
        }
        if validate_filter(filter).is_err() || options & 3 == 3 {
            return (TOPIC_FILTER_INVALID, false);
        }
        let known = session.subscriptions.get(filter).cloned();
        let same =
            known.as_ref().is_some_and(|k| k.options == options && k.identifier == identifier);
        // Retain handling 0: always, 1: when it is new, 2: never; at QoS 0 they go live (R9).
        let replayed =
            options & 3 > 0 && (options & 0x30 == 0 || options & 0x30 == 0x10 && known.is_none());
        if replayed && session.replays.len() >= REPLAYS_MAX {
            return (QUOTA_EXCEEDED, false);
        }
        if same {
            self.replay(id, replayed, position, wanted);
            return (options & 3, false);
        }
        let full = session.subscriptions.len() >= INTERVALS_MAX && known.is_none()
            || session.intervals.len() + session.zeros.len() >= INTERVALS_MAX
            || self.state.inboxes.len() >= INBOXES_MAX;
        if full {
            return (QUOTA_EXCEEDED, false);
        }
        // What replaces is opened first: the inbox they share must not be forsaken in between.
        let interval =
            if options & 3 > 0 { self.open_interval(id, filter, options, identifier) } else { 0 };
        if let Some(old) = known.as_ref().filter(|k| k.interval > 0) {
            self.close_interval(id, old.interval, position);
        }
        self.close_zero(id, filter, position);
        self.replay(id, replayed, position, wanted);
        if let Some(session) = self.state.sessions.get_mut(id) {
            if options & 3 == 0 && identifier != 0 {
                let filter = filter.into();
                session.zeros.push(ZeroInterval {
                    from: position,
                    to: u64::MAX,
                    identifier,
                    filter,
                });
            }
            let more = Box::default();
            let subscription = Subscription { options, identifier, interval, more };
            session.subscriptions.insert(filter.into(), subscription);
        }
        (options & 3, known.is_none())
    }

    /// Remembers that the session consumes a queue; its gateway does the rest.
    fn note_queue(&mut self, id: u64, wanted: &Wanted<'_>) -> (u8, bool) {
        let Wanted { options, identifier, filter, .. } = *wanted;
        let plain = filter.strip_prefix(SHARED).and_then(|rest| rest.split_once('/'));
        let bad_group = |group: &str| group.is_empty() || group.contains(['+', '#']);
        let is_bad = match plain {
            Some((group, plain)) => bad_group(group) || validate_filter(plain).is_err(),
            None => filter.starts_with(SHARED) || validate_filter(filter).is_err(),
        };
        if is_bad || options & 3 == 3 || wanted.more.len() > MORE_BYTES_MAX {
            return (TOPIC_FILTER_INVALID, false);
        }
        let Some(session) = self.state.sessions.get_mut(id) else { return (QUOTA_EXCEEDED, false) };
        let consumes = |f: &str| f.starts_with(SHARED) || f.starts_with(QUEUE);
        let known = session.subscriptions.contains_key(filter);
        if !known
            && session.subscriptions.keys().filter(|f| consumes(f)).count() >= SESSION_QUEUES_MAX
        {
            return (QUOTA_EXCEEDED, false);
        }
        let more = wanted.more.into();
        let subscription = Subscription { options, identifier, interval: 0, more };
        session.subscriptions.insert(filter.into(), subscription);
        (options & 3, !known)
    }

    /// Starts the replay of the retained messages of a filter over, or ends the one that is under way when
    /// none is `wanted` any more.
    fn replay(&mut self, id: u64, replayed: bool, position: u64, wanted: &Wanted<'_>) {
        let Some(session) = self.state.sessions.get_mut(id) else { return };
        let Wanted { options, identifier, filter, .. } = *wanted;
        if replayed {
            session.replays.retain(|_, r| &*r.filter != filter);
            session.last_replay += 1;
            let replay = Replay {
                filter: filter.into(),
                options,
                identifier,
                since: position,
                shards: std::collections::BTreeMap::new(),
            };
            session.replays.insert(session.last_replay, replay);
            self.effects.push(Effect::ReplayWanted { session: id });
        } else if options & 3 == 0 {
            session.replays.retain(|_, r| &*r.filter != filter);
        }
    }

    /// A subscription with QoS 0 ends at `position`.
    fn close_zero(&mut self, id: u64, filter: &str, position: u64) {
        let drained = self.is_drained(id);
        let Some(session) = self.state.sessions.get_mut(id) else { return };
        for zero in &mut session.zeros {
            if &*zero.filter == filter {
                zero.to = zero.to.min(position);
            }
        }
        if drained {
            session.zeros.retain(|z| z.to == u64::MAX);
        }
    }

    pub(crate) fn unsubscribe(&mut self, id: u64, position: u64, filters: &[&str]) -> Outcome {
        let mut codes = Vec::with_capacity(filters.len());
        self.spend(filters.len() as u32);
        for filter in filters {
            let removed =
                self.state.sessions.get_mut(id).and_then(|s| s.subscriptions.remove(*filter));
            match removed {
                None => codes.push(NO_SUBSCRIPTION_EXISTED),
                Some(subscription) => {
                    codes.push(0);
                    self.close_zero(id, filter, position);
                    if let Some(session) = self.state.sessions.get_mut(id) {
                        session.replays.retain(|_, r| &*r.filter != *filter);
                    }
                    if subscription.interval > 0 {
                        self.close_interval(id, subscription.interval, position);
                    }
                }
            }
        }
        self.effects.push(Effect::SessionChanged { session: id });
        Outcome::Unsubscribed(codes)
    }

    /// Opens an interval at the end of the filter's inbox; returns its id, from 1.
    fn open_interval(&mut self, id: u64, filter: &str, options: u8, identifier: u32) -> u64 {
        let vhost = match self.state.sessions.get(id) {
            Some(session) => session.vhost.clone(),
            None => return 0,
        };
        let inbox_id = match self.index.filters.get(&vhost, filter) {
            Some(inbox) => inbox,
            None => {
                self.state.next_inbox += 1;
                let inbox_id = self.state.next_inbox;
                self.state.inboxes.insert(inbox_id, Inbox::new(&vhost, filter));
                self.index.filters.insert(&vhost, filter, inbox_id);
                self.effects.push(Effect::FilterAdded { vhost, filter: filter.into() });
                inbox_id
            }
        };
        let Some(inbox) = self.state.inboxes.get_mut(inbox_id) else {
            return 0;
        };
        let at = inbox.end();
        inbox.mark(at);
        inbox.open += 1;
        let Some(session) = self.state.sessions.get_mut(id) else {
            return 0;
        };
        session.next_interval += 1;
        let interval = Interval { inbox: inbox_id, at, to: u64::MAX, options, identifier };
        session.intervals.insert(session.next_interval, interval);
        session.next_interval
    }

    /// Closes an interval at `position`; what lies inside is still owed.
    pub(crate) fn close_interval(&mut self, id: u64, interval: u64, position: u64) {
        let Some(session) = self.state.sessions.get_mut(id) else {
            return;
        };
        let Some(closed) = session.intervals.get_mut(&interval) else {
            return;
        };
        let was_open = closed.to == u64::MAX;
        closed.to = closed.to.min(position);
        let inbox_id = closed.inbox;
        if was_open {
            self.close_one_of(inbox_id);
        }
        self.drop_interval_if_drained(id, interval);
    }

    /// One open interval of an inbox less; without any its filter is no longer wanted.
    fn close_one_of(&mut self, inbox_id: u64) {
        let Some(inbox) = self.state.inboxes.get_mut(inbox_id) else { return };
        inbox.open -= 1;
        if inbox.open == 0 && !inbox.is_private() {
            let (vhost, filter) = (inbox.vhost.clone(), inbox.filter.clone());
            self.index.filters.remove(&vhost, &filter, inbox_id);
            self.effects.push(Effect::FilterRemoved { vhost, filter });
        }
    }

    /// An interval of a session that has ended.
    pub(crate) fn leave_interval(&mut self, interval: &Interval) {
        if interval.to == u64::MAX {
            self.close_one_of(interval.inbox);
        }
        if let Some(inbox) = self.state.inboxes.get_mut(interval.inbox) {
            inbox.unmark(interval.at);
        }
        self.trim_inbox(interval.inbox);
    }

    /// Removes a closed interval that holds nothing more.
    pub(crate) fn drop_interval_if_drained(&mut self, id: u64, interval: u64) {
        let Some(session) = self.state.sessions.get(id) else {
            return;
        };
        let Some(i) = session.intervals.get(&interval).filter(|i| i.to != u64::MAX) else {
            return;
        };
        let (inbox_id, at, to, from) = (i.inbox, i.at, i.to, session.position);
        let Some(inbox) = self.state.inboxes.get_mut(inbox_id) else {
            return;
        };
        let mut place = at;
        // What lies below the session's position was passed: at most the last of it is still in front.
        let mut ahead = std::iter::from_fn(|| inbox.next(&mut place));
        let next = ahead.find(|item| item.position >= from.min(to));
        if next.is_some_and(|item| item.position < to) {
            return;
        }
        inbox.unmark(at);
        if let Some(session) = self.state.sessions.get_mut(id) {
            session.intervals.remove(&interval);
        }
        self.trim_inbox(inbox_id);
    }

    /// Lets go of what nobody is owed in an inbox, as far as the steps go; one without intervals goes
    /// altogether.
    pub(crate) fn trim_inbox(&mut self, inbox_id: u64) {
        let Some(inbox) = self.state.inboxes.get_mut(inbox_id) else {
            return;
        };
        if inbox.is_forsaken() {
            self.index.trimming.remove(&inbox_id);
            let Some(inbox) = self.state.inboxes.remove(inbox_id) else { return };
            let inbox = std::sync::Arc::unwrap_or_clone(inbox);
            if inbox.len() > 0 {
                self.state.discarded.push_back(inbox);
            }
            return;
        }
        let mut released = Vec::new();
        let spent = inbox.trim(self.left, |position| released.push(position));
        if inbox.needs_trimming() {
            self.index.trimming.insert(inbox_id);
        } else {
            self.index.trimming.remove(&inbox_id);
        }
        self.index.live.release_all(released);
        self.spend(spent);
    }
}
