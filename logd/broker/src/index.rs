//! What follows from the state and makes it quick to use: rebuilt after a snapshot is read, never saved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::filter_index::FilterIndex;
use crate::order::DeliveryCursor;
use crate::queue::Member;
use crate::session::Session;
use crate::space::Live;
use crate::state::State;

/// Something with a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// The session ends.
    End(u64),
    /// Its will is published.
    Will(u64),
    /// A queue has something to do.
    Queue(u64),
    /// A retained message expires: its key in the store.
    Retained(Arc<str>),
}

/// Derived from [`State`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    /// Session by vhost and client id.
    pub(crate) clients: BTreeMap<(Box<str>, Box<str>), u64>,
    /// Attached sessions by gateway epoch.
    pub(crate) attached: BTreeSet<(u64, u64)>,
    pub(crate) filters: FilterIndex,
    pub(crate) due: BTreeSet<(u64, Due)>,
    pub(crate) live: Live,
    /// Sessions whose cursor can move on.
    pub(crate) advancing: BTreeSet<u64>,
    /// How far settlements of sessions have looked ahead of the cursor.
    pub(crate) looked: BTreeMap<u64, DeliveryCursor>,
    /// Inboxes that hold what nobody is owed.
    pub(crate) trimming: BTreeSet<u64>,
    /// Ended gateways that sessions are still attached to, or members of groups still came by.
    pub(crate) detaching: BTreeSet<u64>,
    /// Queue by vhost and name.
    pub(crate) queues: BTreeMap<(Box<str>, Box<str>), u64>,
    /// Filters of bound queues.
    pub(crate) bindings: FilterIndex,
    /// Members of groups: gateway, queue, group, token.
    pub(crate) members: BTreeSet<(u64, u64, u64, u64)>,
    /// Members that belong to sessions: shard, session, queue, group, token.
    owned: BTreeSet<(u32, u64, u64, u64, u64)>,
    /// When each queue is due, and when a message of it may expire.
    pub(crate) queue_times: BTreeMap<u64, (Option<u64>, Option<u64>)>,
    /// Queues by the time a message of theirs may expire.
    pub(crate) expiring: BTreeSet<(u64, u64)>,
    /// Queues that have dead letters for other shards.
    pub(crate) moving: BTreeSet<u64>,
    /// Queues that have work left.
    pub(crate) behind: BTreeSet<u64>,
}

// === impl Index ===

impl Index {
    /// A member that may belong to a session is there.
    pub(crate) fn own(&mut self, member: &Member, (queue, group, token): (u64, u64, u64)) {
        if let Some((shard, session)) = member.owner() {
            self.owned.insert((shard, session, queue, group, token));
        }
    }

    /// It is not any more.
    pub(crate) fn disown(&mut self, member: &Member, (queue, group, token): (u64, u64, u64)) {
        if let Some((shard, session)) = member.owner() {
            self.owned.remove(&(shard, session, queue, group, token));
        }
    }

    /// A membership of a session: queue, group and token.
    pub(crate) fn owned_by(&self, shard: u32, session: u64) -> Option<(u64, u64, u64)> {
        let range = (shard, session, 0, 0, 0)..=(shard, session, u64::MAX, u64::MAX, u64::MAX);
        self.owned.range(range).next().map(|(_, _, queue, group, token)| (*queue, *group, *token))
    }

    /// Builds the index of `state` and completes its inboxes.
    pub(crate) fn build(state: &mut State) -> Self {
        let mut index = Self::default();
        let mut places = Vec::new();
        for (id, session) in state.sessions.iter() {
            index.add_session(id, session);
            for interval in session.intervals.values() {
                places.push((interval.inbox, interval.at, interval.to == u64::MAX));
            }
            if session.settled.first_key_value().is_some_and(|(f, _)| *f <= session.cursor) {
                index.advancing.insert(id);
            }
            if let Some((gateway, _)) = session.owner.filter(|(g, _)| state.ended.contains(g)) {
                index.detaching.insert(gateway);
            }
        }
        for (id, queue) in state.queues.iter() {
            crate::broker::Broker::index_queue(&mut index, id, queue);
            for gateway in queue.groups.values().flat_map(|g| g.members.values().map(|m| m.gateway))
            {
                if state.ended.contains(&gateway) {
                    index.detaching.insert(gateway);
                }
            }
        }
        for interval in state.left_intervals.iter().flatten() {
            places.push((interval.inbox, interval.at, interval.to == u64::MAX));
        }
        for (inbox, place, open) in places {
            if let Some(inbox) = state.inboxes.get_mut(inbox) {
                inbox.mark(place);
                inbox.open += u32::from(open);
            }
        }
        for (id, inbox) in state.inboxes.iter() {
            if inbox.needs_trimming() {
                index.trimming.insert(id);
            }
            if inbox.open > 0 && !inbox.is_private() {
                index.filters.insert(&inbox.vhost, &inbox.filter, id);
            }
        }
        for (key, retained) in state.retained.iter() {
            if let Some(ms) = retained.expiry_ms {
                index.due.insert((ms, Due::Retained(key.clone())));
            }
        }
        state.positions().for_each(|position| index.live.add(position, 1));
        index
    }

    /// Enters what is looked up of a session.
    pub(crate) fn add_session(&mut self, id: u64, session: &Session) {
        self.clients.insert((session.vhost.clone(), session.client_id.clone()), id);
        if let Some((gateway, _)) = session.owner {
            self.attached.insert((gateway, id));
        }
        if session.ends_ms > 0 {
            self.due.insert((session.ends_ms, Due::End(id)));
        }
        if session.will_ms > 0 {
            self.due.insert((session.will_ms, Due::Will(id)));
        }
    }

    /// Takes it out again; the session is as it was when it was entered.
    pub(crate) fn remove_session(&mut self, id: u64, session: &Session) {
        self.clients.remove(&(session.vhost.clone(), session.client_id.clone()));
        if let Some((gateway, _)) = session.owner {
            self.attached.remove(&(gateway, id));
        }
        self.due.remove(&(session.ends_ms, Due::End(id)));
        self.due.remove(&(session.will_ms, Due::Will(id)));
    }
}
