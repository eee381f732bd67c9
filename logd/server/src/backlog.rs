//! The limit on what waits for a session (R8): who is over it is trimmed, oldest first, what may be in flight spared.
//!
//! Looked at when a session gets a connection, and once a second while inboxes grow: all sessions of a shard if they have
//! few enough filters, else as many as a second has room for, in turn.

use std::collections::HashSet;

use fluxmq_commands::command::Command;
use logd_broker::{Backlog, Broker};
use logd_raft::Group;
use tokio::sync::mpsc::UnboundedSender;

use crate::core::Incoming;
use crate::delivery::SessionKey;

/// Between two looks, ms.
const EVERY_MS: u64 = 1_000;
/// Intervals of sessions that are looked at in one go in a shard: 0.1 to 0.3 µs each.
const INTERVALS_MAX: usize = 20_000;
/// Messages trimmed by one command; the next follows when it is applied.
const TRIM_MAX: u64 = 1_000_000;

/// Where the looking is in a shard.
#[derive(Clone, Default)]
struct Look {
    /// An inbox grew since it began.
    grew: bool,
    bucket: usize,
}

/// Looks after the limit.
pub(crate) struct Backlogs {
    limit: Backlog,
    shards: Vec<Look>,
    trimming: HashSet<SessionKey>,
    /// When the next look is due, boot ms; 0 = when something grows.
    due_ms: u64,
}

// === impl Backlogs ===

impl Backlogs {
    pub(crate) fn new(shards: usize, limit: Backlog) -> Self {
        let shards = vec![Look { grew: true, bucket: 0 }; shards];
        Self { limit, shards, trimming: HashSet::new(), due_ms: 1 }
    }

    /// An inbox of a shard grew.
    pub(crate) fn grew(&mut self, shard: u32, now_ms: u64) {
        if let Some(look) = self.shards.get_mut(shard as usize) {
            look.grew = true;
            if self.due_ms == 0 {
                self.due_ms = now_ms + EVERY_MS;
            }
        }
    }

    /// When there is something to do, boot ms.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        (self.due_ms > 0).then_some(self.due_ms)
    }

    /// Trims who is over the limit, if it is time to look.
    pub(crate) fn look(
        &mut self,
        now_ms: u64,
        shards: &[Group],
        owner: &UnboundedSender<Incoming>,
    ) {
        if self.due_ms == 0 || now_ms < self.due_ms {
            return;
        }
        self.due_ms = 0;
        for (number, group) in shards.iter().enumerate() {
            let (limit, look) = (self.limit, &mut self.shards[number]);
            if !look.grew {
                continue;
            }
            let over = group.with_state(|broker| look.go_on(broker, limit));
            if look.grew {
                self.due_ms = now_ms + EVERY_MS;
            }
            over.into_iter().for_each(|id| self.check((number as u32, id), group, owner));
        }
    }

    /// Trims a session if it is over the limit; whoever is being trimmed is looked at again afterwards.
    pub(crate) fn check(
        &mut self,
        key: SessionKey,
        group: &Group,
        owner: &UnboundedSender<Incoming>,
    ) {
        let Some(excess) = group.with_state(|b| b.excess(key.1, self.limit)) else { return };
        if !self.trimming.insert(key) {
            return;
        }
        let few = excess.messages <= TRIM_MAX;
        let number = if few { excess.number } else { excess.number - excess.messages + TRIM_MAX };
        let messages = excess.messages.min(TRIM_MAX);
        let (group, owner) = (group.clone(), owner.clone());
        tokio::spawn(async move {
            let trimmed = group.lead(&Command::Trim { session: key.1, number }).await;
            let messages = if trimmed.is_ok() { messages } else { 0 };
            let _ = owner.send(Incoming::Trimmed { session: key, messages });
        });
    }

    /// A session was trimmed, or could not be.
    pub(crate) fn trimmed(&mut self, key: SessionKey) {
        self.trimming.remove(&key);
    }
}

// === impl Look ===

impl Look {
    /// Looks at as many sessions as there is room for; who is over the limit.
    fn go_on(&mut self, broker: &Broker, limit: Backlog) -> Vec<u64> {
        let (mut over, mut left) = (Vec::new(), INTERVALS_MAX);
        while left > 0 && self.bucket < Broker::SESSION_BUCKETS {
            for (id, intervals) in broker.sessions_of(self.bucket) {
                left = left.saturating_sub(1 + intervals);
                if broker.excess(id, limit).is_some() {
                    over.push(id);
                }
            }
            self.bucket += 1;
        }
        if self.bucket == Broker::SESSION_BUCKETS {
            *self = Self::default();
        }
        over
    }
}
