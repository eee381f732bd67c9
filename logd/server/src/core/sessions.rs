//! What sessions are owed beside what is published: retained messages (R9), a limit on their backlog (R8), that they are
//! forgotten when they have ended (G2).

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{Core, class_of};
use crate::delivery::SessionKey;
use crate::{ended_publishers, replay};

// === impl Core ===

impl Core {
    /// Begins pages of retained messages for sessions that have room for them.
    pub(super) fn serve_replays(&mut self) {
        for (session, max) in self.delivery.take_replays() {
            self.replays.ask(session, max);
        }
        while let Some((session, max)) = self.replays.next() {
            self.announce_replays(session);
            let (tell, known) = oneshot::channel();
            self.hub.barrier(tell);
            let (shards, inbox) = (self.shards.clone(), self.inbox.clone());
            let counts = self.effects.counts.clone();
            tokio::spawn(replay::serve(shards, session, max, known, counts, inbox));
        }
    }

    /// A retained publish may have gone to others with the same filter and not be there yet: before a replay begins, all
    /// gateways are to look for such (R9).
    fn announce_replays(&mut self, (shard, session): SessionKey) {
        let Some(group) = self.shards.get(shard as usize) else { return };
        let new = group.with_state(|b| {
            let state = b.session(session)?;
            let new = state.replays.values().filter(|r| r.shards.is_empty());
            let filters = new.map(|r| (r.filter.clone(), class_of(b, &state.vhost, &r.filter)));
            Some((state.vhost.clone(), filters.collect::<Vec<_>>()))
        });
        let Some((vhost, filters)) = new else { return };
        for (filter, class) in filters {
            self.hub.shard_changed(shard, &vhost, &filter, class);
        }
    }

    /// Whoever was trimmed may still be over the limit: one command does so much.
    pub(super) fn trimmed(&mut self, session: SessionKey, messages: u64) {
        self.backlogs.trimmed(session);
        self.effects.counts.trimmed.fetch_add(messages, Ordering::Relaxed);
        if messages > 0 {
            tracing::debug!(session = session.1, messages, "a backlog was over its limit");
            self.check_backlog(session);
        }
    }

    pub(super) fn check_backlog(&mut self, session: SessionKey) {
        if let Some(group) = self.shards.get(session.0 as usize) {
            self.backlogs.check(session, group, &self.inbox);
        }
    }

    pub(super) fn replayed(&mut self, session: SessionKey) {
        self.replays.done(session);
        let more = self.shards.get(session.0 as usize).is_some_and(|group| {
            group.with_state(|b| b.session(session.1).is_some_and(|s| !s.replays.is_empty()))
        });
        if more {
            self.delivery.replay_wanted(session);
        }
    }

    /// Has the other shards forget the publish numbers of sessions that have ended in `shard` (G2).
    pub(super) fn forget_ended(&mut self, shard: u32) {
        let Some(group) = self.shards.get(shard as usize) else { return };
        let any = group.with_state(|b| b.ended_publishers().next().is_some());
        if any && self.forgetting.insert(shard) {
            let (shards, inbox) = (self.shards.clone(), self.inbox.clone());
            let counts = self.effects.counts.clone();
            tokio::spawn(ended_publishers::forget(shards, shard, counts, inbox));
        }
    }
}
