//! CONNECT, DISCONNECT and the end of sessions (G1, G4).

use std::sync::Arc;

use fluxmq_names::ErrorCode;

use crate::broker::Broker;
use crate::effect::Effect;
use crate::limits::{ENDED_PUBLISHERS_MAX, SESSIONS_MAX, WINDOW_MAX};
use crate::session::{Session, StoredWill};
use crate::state::OwedWill;
use crate::subscribe::SHARED;
use fluxmq_commands::command::{Connect, NEVER};
use fluxmq_commands::{Connected, Outcome};

// === impl Broker ===

impl Broker {
    pub(crate) fn connect(
        &mut self,
        gateway: u64,
        position: u64,
        connect: &Connect<'_>,
    ) -> Outcome {
        let key = (connect.vhost.into(), connect.client_id.into());
        let known = self.index.clients.get(&key).copied();
        if known.is_none() && self.state.sessions.len() >= SESSIONS_MAX {
            return Outcome::refused(ErrorCode::LimitExceeded);
        }
        let mut previous = (0, 0);
        let mut kept = None;
        if let Some(id) = known {
            previous = self.take_away(id, connect.clean_start);
            // A session that cannot outlive its connection has nothing to go on with.
            let durable = self.state.sessions.get(id).is_some_and(|s| s.expiry_s > 0);
            if connect.clean_start || !durable {
                self.end_session(id);
            } else {
                kept = Some(id);
            }
        }
        let id = kept.unwrap_or(position);
        if kept.is_none() {
            let session = Session {
                vhost: key.0.clone(),
                client_id: key.1.clone(),
                position,
                ..Session::default()
            };
            self.index.add_session(id, &session);
            self.state.sessions.insert(id, session);
        }
        if connect.will.is_some() {
            self.index.live.add(position, 1);
        }
        let at_end = self.is_drained(id);
        let mut connected = Connected {
            session: id,
            epoch: position,
            present: kept.is_some(),
            ..Connected::default()
        };
        self.change_session(id, |s| {
            if fluxmq_names::planted!("forget_packet_ids_on_takeover") {
                s.open_ids.clear();
            }
            s.epoch = position;
            s.owner = Some((gateway, connect.token));
            s.expiry_s = connect.expiry_s;
            (s.ends_ms, s.will_ms) = (0, 0);
            let window = connect.window.clamp(1, WINDOW_MAX);
            s.window = if at_end { window } else { s.window.max(window) };
            s.will = connect.will.map(|w| StoredWill {
                qos: w.qos,
                retain: w.retain,
                delay_s: w.delay_s,
                expiry_s: w.expiry_s,
                topic: w.topic.into(),
                position,
            });
            connected.sent_upto = s.sent_upto;
        });
        connected.previous = previous;
        self.effects.push(Effect::SessionChanged { session: id });
        Outcome::Connected(connected)
    }

    /// Takes the session from its connection; settles what becomes of that one's will. Returns the
    /// gateway epoch and token, zeros when it was detached.
    fn take_away(&mut self, id: u64, clean_start: bool) -> (u64, u64) {
        let Some(session) = self.state.sessions.get(id) else {
            return (0, 0);
        };
        let owner = session.owner;
        // The will of a connection that is cut off goes out unless its delay has not passed and the
        // session goes on (MQTT-3.1.3-9).
        let delayed = session.will.as_ref().is_some_and(|w| w.delay_s > 0);
        let cancelled = !clean_start
            && (owner.is_none() || delayed)
            && !cfg!(planted = "will_after_resumption");
        if cancelled {
            self.drop_will(id)
        } else {
            self.owe_will(id)
        }
        if let Some((gateway_epoch, token)) = owner {
            self.note_cut_off(id);
            self.effects.push(Effect::SessionTaken { session: id, gateway_epoch, token });
        }
        owner.unwrap_or_default()
    }

    pub(crate) fn disconnect(
        &mut self,
        id: u64,
        publish_will: bool,
        expiry_s: Option<u32>,
        sent_upto: u64,
    ) {
        self.note_sent(id, sent_upto);
        if !publish_will {
            self.drop_will(id);
        }
        if let Some(expiry_s) = expiry_s {
            self.change_session(id, |s| s.expiry_s = expiry_s);
        }
        self.detach(id);
    }

    /// The connection of the session is gone.
    pub(crate) fn detach(&mut self, id: u64) {
        let now_ms = self.state.now_ms;
        let Some(session) = self.state.sessions.get(id) else {
            return;
        };
        let (expiry_s, will) = (session.expiry_s, session.will.as_ref().map(|w| w.delay_s));
        if expiry_s == 0 {
            self.owe_will(id);
            self.end_session(id);
            return;
        }
        match will {
            Some(0) => self.owe_will(id),
            Some(delay_s) => {
                let due_ms = now_ms + u64::from(delay_s.min(expiry_s)) * 1_000;
                self.change_session(id, |s| s.will_ms = due_ms);
            }
            None => {}
        }
        self.change_session(id, |s| {
            s.owner = None;
            s.ends_ms = if expiry_s == NEVER { 0 } else { now_ms + u64::from(expiry_s) * 1_000 };
        });
        self.effects.push(Effect::SessionChanged { session: id });
    }

    /// Ends a session: nothing is owed to it any more. Its will must be settled before. It is gone at once;
    /// its intervals follow as the steps go.
    pub(crate) fn end_session(&mut self, id: u64) {
        self.spend(4);
        self.drop_will(id);
        let Some(session) = self.state.sessions.remove(id) else { return };
        self.index.remove_session(id, &session);
        self.index.advancing.remove(&id);
        self.index.looked.remove(&id);
        self.state.keys.forget(self.state.shard.0, id);
        self.end_memberships(self.state.shard.0, id);
        let shares = session.subscriptions.keys().any(|filter| filter.starts_with(SHARED));
        if session.next_publish > 0 || shares {
            self.note_ended_publisher(id);
        }
        let intervals: Vec<_> = Arc::unwrap_or_clone(session).intervals.into_values().collect();
        if !intervals.is_empty() {
            self.state.left_intervals.push_back(intervals);
            self.leave_intervals();
        }
        self.effects.push(Effect::SessionEnded { session: id });
    }

    /// Other shards are to forget what they took from a session or queue that has ended (G2).
    pub(crate) fn note_ended_publisher(&mut self, id: u64) {
        self.state.ended_publishers.insert(id);
        if self.state.ended_publishers.len() > ENDED_PUBLISHERS_MAX {
            self.state.ended_publishers.pop_first();
        }
    }

    /// Goes on with the intervals of sessions that have ended.
    pub(crate) fn leave_intervals(&mut self) {
        while self.left > 0
            && let Some(intervals) = self.state.left_intervals.front_mut()
        {
            match intervals.pop() {
                Some(interval) => {
                    self.spend(4);
                    self.leave_interval(&interval);
                }
                None => drop(self.state.left_intervals.pop_front()),
            }
        }
    }

    /// The will is to be published (G4): it stands among what is owed until an entry says it was done.
    pub(crate) fn owe_will(&mut self, id: u64) {
        let mut taken = None;
        self.change_session(id, |s| {
            s.will_ms = 0;
            taken = s.will.take().map(|will| (s.vhost.clone(), will));
        });
        if let Some((vhost, will)) = taken {
            let owed = will.position;
            let due_ms = self.state.now_ms;
            self.state.owed.insert(owed, OwedWill { vhost, will, due_ms });
            self.effects.push(Effect::WillOwed { id: owed });
        }
    }

    /// The will is not to be published.
    fn drop_will(&mut self, id: u64) {
        let mut dropped = None;
        self.change_session(id, |s| {
            s.will_ms = 0;
            dropped = s.will.take();
        });
        dropped.iter().for_each(|w| self.index.live.release(w.position));
    }

    pub(crate) fn owed_done(&mut self, id: u64) {
        if let Some(done) = self.state.owed.remove(&id) {
            self.index.live.release(done.will.position);
        }
    }

    /// Changes a session and what is looked up of it.
    pub(crate) fn change_session(&mut self, id: u64, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.state.sessions.get_mut(id) else {
            return;
        };
        self.index.remove_session(id, session);
        change(session);
        self.index.add_session(id, session);
    }

    /// Runs `work` when `epoch` is the session's and `gateway` owns it (S8).
    pub(crate) fn owned(
        &mut self,
        id: u64,
        epoch: u64,
        gateway: u64,
        work: impl FnOnce(&mut Self) -> Outcome,
    ) -> Outcome {
        let Some(session) = self.state.sessions.get(id) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        let newest = session.epoch;
        let current = newest == epoch && session.owner.is_some_and(|(owner, _)| owner == gateway);
        if !current && !fluxmq_names::planted!("stale_epoch_accepted") {
            return Outcome::Error { code: ErrorCode::StaleEpoch, detail: newest };
        }
        work(self)
    }
}
