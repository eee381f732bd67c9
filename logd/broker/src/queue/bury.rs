//! Dead letters: into their queue at once when it is here, else moving until it has taken them (Q6).

use super::blocks::Item;
use super::{Died, MovesTo, Moving};
use crate::broker::Broker;
use crate::effect::Effect;
use crate::limits::DEAD_LETTER_HOPS_MAX;
use crate::queue::append::Incoming;
use fluxmq_commands::command::queue::{DeadLetter, DeadReason, Options};

/// Queues that push out dead letters into one another within one command: a longer chain goes on as moves.
const CHAIN_MAX: u32 = 4;

// === impl Broker ===

impl Broker {
    /// What died in a queue goes to its dead-letter queue, or is dropped when it has none.
    pub(super) fn bury(&mut self, queue: u64, died: &[Died]) {
        let Some(source) = self.state.queues.get(queue) else { return };
        if source.dead_letter.is_empty() {
            return;
        }
        let target = self.queue_of(&source.vhost, &source.dead_letter).filter(|t| *t != queue);
        for one in died {
            let hops = one.item.dead.map_or(0, |dead| dead.hops).saturating_add(1);
            if hops > DEAD_LETTER_HOPS_MAX {
                self.change_queue(queue, |q| q.counters.cycled += 1);
                continue;
            }
            let shard = self.state.shard.0;
            let (reason, count, offset) = (one.reason, one.count, one.offset);
            let dead = DeadLetter { reason, hops, count, shard, queue, offset };
            self.change_queue(queue, |q| q.counters.dead_lettered += 1);
            if cfg!(planted = "dead_letter_lost") && reason == DeadReason::Rejected {
                continue;
            }
            // It expired once; in the dead-letter queue only that queue's own time counts.
            let item = Item { expiry_ms: 0, dead: Some(dead), ..one.item };
            self.spend(4);
            match target.filter(|t| self.takes(*t, &item)) {
                Some(target) => drop(self.append_dead(target, item)),
                None => self.start_move(queue, &item, MovesTo::DeadLetterQueue(dead)),
            }
        }
    }

    /// Whether a queue of this shard takes a dead letter now.
    fn takes(&self, target: u64, item: &Item) -> bool {
        let options = Options { priority: item.priority, ..Options::default() };
        let (position, size) = (item.position, item.size);
        let now_ms = self.state.now_ms;
        let message = Incoming { now_ms, position, size, expiry_ms: None, options };
        let refusal = self.state.queues.get(target).map(|q| q.refusal(&message));
        self.chain < CHAIN_MAX && refusal == Some(None)
    }

    /// Appends a dead letter to its queue.
    pub(super) fn append_dead(&mut self, target: u64, item: Item) -> u64 {
        self.index.live.add(item.position, 1);
        self.chain += 1;
        let offset = self.work_on(target, |q, work| {
            let priority = item.priority.min(q.arguments.levels.saturating_sub(1));
            q.append(Item { priority, ..item }, &[], work)
        });
        self.chain -= 1;
        self.note_growth(target);
        offset.unwrap_or_default()
    }

    /// A message leaves its queue for somebody of another shard, who takes it when the leader has seen to it.
    pub(super) fn start_move(&mut self, queue: u64, item: &Item, to: MovesTo) {
        self.index.live.add(item.position, 1);
        let (position, priority, size) = (item.position, item.priority, item.size);
        self.change_queue(queue, |q| {
            q.last_move += 1;
            q.moving.insert(q.last_move, Moving { position, to, priority, size });
        });
        self.index.moving.insert(queue);
        self.effects.push(Effect::MoveOwed { queue });
    }

    /// The target has taken these dead letters, or they are given up.
    pub(super) fn moved(&mut self, queue: u64, numbers: &[u64], dropped: bool) -> u64 {
        let Some(q) = self.state.queues.get_mut(queue) else { return 0 };
        let gone: Vec<_> = numbers.iter().filter_map(|n| q.moving.remove(n)).collect();
        if dropped {
            q.counters.cycled += gone.len() as u64;
        }
        if q.moving.is_empty() {
            self.index.moving.remove(&queue);
        }
        self.spend(numbers.len() as u32);
        self.index.live.release_all(gone.iter().map(|m| m.position));
        gone.len() as u64
    }
}
