//! What attached sessions are sent: everything they are owed, under the credit their gateway gave (Q3).
//! Volatile: a new leader starts again from the state.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use fluxmq_client::contract::{self, Subscribed};
use fluxmq_commands::command::{self, Command, Publish};
use logd_broker::{DeliveryCursor, Owed, Session};
use logd_raft::Group;

use crate::core::{lead, now_ms};
use crate::entries::Entries;
use crate::replay::PAGE;
use crate::windows::Windows;

/// Messages handed to one session before the next has its turn.
const TURN: usize = 256;

/// A session with a connection.
struct Attached {
    gateway: u64,
    token: u64,
    cursor: DeliveryCursor,
    /// Messages that may still be sent.
    credit: u32,
    /// Numbers below were sent on an earlier connection.
    sent_before: u64,
    /// Numbers below are with this connection already.
    from: u64,
    /// Inboxes it has intervals over.
    inboxes: Vec<u64>,
    /// Retained messages are to be copied into its list, as soon as it has room (R9).
    replays: bool,
    /// It has or had QoS 0 subscriptions whose identifiers messages from its inboxes carry along (Q0).
    zeros: bool,
}

/// Shard and id of a session.
pub(crate) type SessionKey = (u32, u64);

/// A session to be delivered, by whom it is asked for.
pub(crate) struct Wanted {
    pub(crate) shard: u32,
    pub(crate) session: u64,
    pub(crate) epoch: u64,
    /// Numbers below are with the connection already.
    pub(crate) from: u64,
}

/// All attached sessions of this node.
#[derive(Default)]
pub(crate) struct Delivery {
    sessions: HashMap<SessionKey, Attached>,
    tokens: HashMap<(u64, u64), SessionKey>,
    /// Attached sessions by shard and inbox.
    readers: HashMap<(u32, u64), Vec<u64>>,
    /// Sessions that may have something to get.
    ready: HashSet<SessionKey>,
    events: BTreeMap<u64, Vec<contract::Delivery>>,
    /// Sessions that have room for retained messages, and for how many.
    replays: Vec<(SessionKey, usize)>,
    /// Who waits for room on the link of his gateway.
    blocked: HashMap<u64, Vec<SessionKey>>,
}

// === impl Delivery ===

impl Delivery {
    /// Begins to deliver to a connection; None when it does not own the session (any more).
    pub(crate) fn open(
        &mut self,
        shards: &[Group],
        gateway: u64,
        token: u64,
        wanted: &Wanted,
    ) -> Option<Vec<Subscribed>> {
        let &Wanted { shard, session, epoch, from } = wanted;
        let key = (shard, session);
        let group = shards.get(shard as usize)?;
        let (attached, subscriptions) = group.with_state(|broker| {
            // A fault planted to prove that the chaos harness finds it (design §12).
            let current = |e: u64| e == epoch || fluxmq_names::planted!("delivery_to_an_old_epoch");
            let state = broker.session(session).filter(|s| current(s.epoch))?;
            let attached = Attached {
                gateway,
                token,
                cursor: DeliveryCursor::at_start(state),
                credit: 0,
                sent_before: state.sent_upto,
                from,
                inboxes: broker.inboxes_of(session).collect(),
                replays: !state.replays.is_empty(),
                zeros: has_zeros(state),
            };
            let subscriptions = state.subscriptions.iter().map(|(filter, s)| Subscribed {
                filter: filter.to_string(),
                options: s.options,
                identifier: s.identifier,
                more: s.more.to_string(),
            });
            Some((attached, subscriptions.collect()))
        })?;
        // Only who owns the session takes it from who had it; a token has one session.
        self.detach(key);
        self.close(gateway, token);
        for inbox in &attached.inboxes {
            self.readers.entry((shard, *inbox)).or_default().push(session);
        }
        self.tokens.insert((gateway, token), key);
        self.sessions.insert(key, attached);
        self.ready.insert(key);
        Some(subscriptions)
    }

    pub(crate) fn close(&mut self, gateway: u64, token: u64) {
        if let Some(key) = self.tokens.get(&(gateway, token)).copied() {
            self.detach(key);
        }
    }

    pub(crate) fn credit(&mut self, gateway: u64, token: u64, count: u32) {
        let Some(key) = self.tokens.get(&(gateway, token)) else { return };
        if let Some(attached) = self.sessions.get_mut(key) {
            attached.credit = attached.credit.saturating_add(count);
            self.ready.insert(*key);
        }
    }

    /// A link takes deliveries again.
    pub(crate) fn unblock(&mut self, gateway: u64) {
        self.ready.extend(self.blocked.remove(&gateway).into_iter().flatten());
    }

    pub(crate) fn forget_gateway(&mut self, gateway: u64) {
        self.blocked.remove(&gateway);
        let keys: Vec<_> =
            self.sessions.iter().filter(|(_, a)| a.gateway == gateway).map(|(k, _)| *k).collect();
        keys.into_iter().for_each(|key| self.detach(key));
    }

    pub(crate) fn inbox_grew(&mut self, shard: u32, inbox: u64) {
        for session in self.readers.get(&(shard, inbox)).into_iter().flatten() {
            self.ready.insert((shard, *session));
        }
    }

    /// The intervals of a session changed.
    pub(crate) fn session_changed(&mut self, shards: &[Group], shard: u32, session: u64) {
        let key = (shard, session);
        let Some(attached) = self.sessions.get_mut(&key) else { return };
        let Some(group) = shards.get(shard as usize) else { return };
        let (inboxes, zeros): (Vec<u64>, _) = group.with_state(|b| {
            (b.inboxes_of(session).collect(), b.session(session).is_some_and(has_zeros))
        });
        attached.zeros |= zeros;
        let old = std::mem::replace(&mut attached.inboxes, inboxes.clone());
        old.iter().for_each(|inbox| self.stop_reading(shard, *inbox, session));
        for inbox in inboxes {
            self.readers.entry((shard, inbox)).or_default().push(session);
        }
        self.ready.insert(key);
    }

    pub(crate) fn session_ended(&mut self, shard: u32, session: u64) {
        self.detach((shard, session));
    }

    /// A session waits for retained messages: it says so when it has room, if it is attached.
    pub(crate) fn replay_wanted(&mut self, key: SessionKey) {
        if let Some(attached) = self.sessions.get_mut(&key) {
            attached.replays = true;
            self.ready.insert(key);
        }
    }

    /// Sessions that have room for retained messages, and for how many.
    pub(crate) fn take_replays(&mut self) -> Vec<(SessionKey, usize)> {
        std::mem::take(&mut self.replays)
    }

    /// Deliveries that were made, by gateway.
    pub(crate) fn take_deliveries(&mut self) -> BTreeMap<u64, Vec<contract::Delivery>> {
        std::mem::take(&mut self.events)
    }

    /// Whether a session goes on at once.
    pub(crate) fn goes_on(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Gives every ready session what its credit allows.
    pub(crate) fn deliver(
        &mut self,
        shards: &[Group],
        windows: &mut Windows,
        entries: &mut Entries,
    ) {
        let mut owed = Vec::new();
        let ready: Vec<_> = self.ready.drain().collect();
        for key in ready {
            let Some(group) = shards.get(key.0 as usize) else { continue };
            if let Some(attached) = self.sessions.get_mut(&key)
                && attached.credit > 0
                && std::mem::take(&mut attached.replays)
            {
                self.replays.push((key, (attached.credit as usize).min(PAGE)));
            }
            while let Some(attached) = self.sessions.get_mut(&key) {
                let max = (attached.credit as usize).min(TURN);
                if max == 0 {
                    break;
                }
                if !windows.has_room(attached.gateway) {
                    self.blocked.entry(attached.gateway).or_default().push(key);
                    break;
                }
                owed.clear();
                let before = attached.cursor.number;
                group.with_state(|b| b.owed_from(key.1, &mut attached.cursor, max, &mut owed));
                if owed.is_empty() {
                    // What was trimmed is walked over in pieces; others have their turn in between.
                    if attached.cursor.number > before {
                        self.ready.insert(key);
                    }
                    break;
                }
                self.send(group, key, &mut owed, (&mut *windows, &mut *entries));
            }
        }
    }

    fn send(
        &mut self,
        group: &Group,
        key: SessionKey,
        owed: &mut Vec<Owed>,
        (windows, entries): (&mut Windows, &mut Entries),
    ) {
        let now = now_ms();
        let mut dropped = Vec::new();
        for mut message in owed.drain(..) {
            let known = |a: &Attached| message.number < a.from;
            if self.sessions.get(&key).is_some_and(known) {
                continue;
            }
            let command = entries.read(group, message.position);
            let Some(attached) = self.sessions.get_mut(&key) else { return };
            let publish = command.as_ref().and_then(|bytes| match command::decode(bytes) {
                Ok((Command::Publish(publish), _)) => Some(publish),
                _ => None,
            });
            // A QoS 2 handshake that has begun is finished (MQTT-4.3.3-7).
            let begun = message.qos == 2 && message.number < attached.sent_before;
            let expired = |p: &Publish<'_>| !begun && p.expiry_ms.is_some_and(|ms| ms <= now);
            let gone = publish.as_ref().is_none_or(expired);
            if message.own || (gone && !message.received) {
                dropped.push((message.number, 1));
                continue;
            }
            if let Some(publish) = &publish {
                add_identifiers(group, key.1, attached.zeros, publish, &mut message);
            }
            attached.credit -= 1;
            windows.spend(attached.gateway, command.as_ref().map_or(0, Bytes::len));
            self.events.entry(attached.gateway).or_default().push(contract::Delivery {
                token: attached.token,
                number: message.number,
                qos: message.qos,
                retain: message.retain,
                dup: message.number < attached.sent_before,
                release: message.received,
                identifiers: message.identifiers,
                command: command.unwrap_or_default(),
            });
        }
        if !dropped.is_empty() {
            drop(lead(group, Command::Drop { session: key.1, ranges: dropped }));
        }
    }

    fn detach(&mut self, key: SessionKey) {
        let Some(attached) = self.sessions.remove(&key) else { return };
        self.tokens.remove(&(attached.gateway, attached.token));
        attached.inboxes.iter().for_each(|inbox| self.stop_reading(key.0, *inbox, key.1));
    }

    fn stop_reading(&mut self, shard: u32, inbox: u64, session: u64) {
        if let Some(readers) = self.readers.get_mut(&(shard, inbox)) {
            readers.retain(|s| *s != session);
            if readers.is_empty() {
                self.readers.remove(&(shard, inbox));
            }
        }
    }
}

/// Whether a session has QoS 0 subscriptions with identifiers.
fn has_zeros(session: &Session) -> bool {
    session.subscriptions.values().any(|s| s.options & 3 == 0 && s.identifier != 0)
}

/// Adds the subscription identifiers that the intervals do not know: a message of the list brings its own, one of
/// an inbox has those of the QoS 0 subscriptions that match it.
fn add_identifiers(
    group: &Group,
    session: u64,
    zeros: bool,
    publish: &Publish<'_>,
    message: &mut Owed,
) {
    if let Some(list) = &publish.list {
        message.identifiers.extend(list.identifiers());
    } else if zeros {
        group.with_state(|b| {
            let state = b.session(session);
            let more = state.map(|s| s.identifiers_of_zero(message.position, publish.topic));
            message.identifiers.extend(more.into_iter().flatten());
        });
    }
}
