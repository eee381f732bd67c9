//! Effects of apply, on their way to the owner task.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fluxmq_names::ShardId;
use logd_broker::{Applied, Broker, Effect};
use logd_raft::Observer;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::status::Counts;

/// Effects of all groups, in the order they were applied.
#[derive(Clone, Default)]
pub(crate) struct Effects {
    queue: Arc<Mutex<Vec<(ShardId, Effect)>>>,
    pub(crate) came: Arc<Notify>,
    pub(crate) counts: Arc<Counts>,
}

// === impl Effects ===

impl Effects {
    /// An observer that queues the effects of `shard`.
    pub(crate) fn of(&self, shard: ShardId) -> Box<dyn Observer> {
        Box::new(Sink { shard, effects: self.clone() })
    }

    /// All that came since.
    pub(crate) fn take(&self) -> Vec<(ShardId, Effect)> {
        std::mem::take(&mut self.queue.lock())
    }
}

struct Sink {
    shard: ShardId,
    effects: Effects,
}

impl Observer for Sink {
    fn applied(&self, _: &Broker, _: u64, applied: &Applied) {
        let commands = applied.outcomes.len() as u64;
        self.effects.counts.commands.fetch_add(commands, Ordering::Relaxed);
        if !applied.effects.is_empty() {
            let mut queue = self.effects.queue.lock();
            queue.extend(applied.effects.iter().map(|e| (self.shard, e.clone())));
            drop(queue);
            self.effects.came.notify_one();
        }
    }
}
