//! What happens to queues with time: scheduled messages, expiry, age, queues that nobody uses.

use fluxmq_names::ErrorCode;

use super::blocks::BLOCK;
use super::{Died, Member, Queue, Work, bit};
use crate::broker::Broker;
use crate::effect::Effect;
use crate::limits::SPARED_MAX;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::DeadReason;

/// A message that expired while a consumer has it is looked at again so much later, ms.
const SPARED_MS: u64 = 1_000;

/// The stretches as first and end, in order, none touching the next.
fn joined(stretches: &[(u64, u32)]) -> Vec<(u64, u64)> {
    let ends =
        stretches.iter().map(|(first, count)| (*first, first.saturating_add((*count).into())));
    let mut all: Vec<(u64, u64)> = ends.collect();
    all.sort_unstable();
    all.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1;
        kept.1 = if touches { kept.1.max(next.1) } else { kept.1 };
        touches
    });
    all
}

fn is_in(stretches: &[(u64, u64)], offset: u64) -> bool {
    let behind = stretches.partition_point(|(first, _)| *first <= offset);
    behind.checked_sub(1).is_some_and(|at| offset < stretches[at].1)
}

// === impl Queue ===

impl Queue {
    /// When the next TICK does something here, Unix ms.
    pub(super) fn next_due(&self) -> Option<u64> {
        let scheduled = self.scheduled.first_key_value().map(|((ms, _), _)| *ms);
        let age_ms = self.arguments.max_age_ms;
        let oldest =
            self.blocks.get(self.floor / BLOCK).filter(|_| age_ms > 0 && self.floor < self.tail());
        let age = oldest.map(|b| b.last_ms.saturating_add(age_ms));
        let expires_ms = self.arguments.expires_ms;
        let unused = (expires_ms > 0 && !self.has_members())
            .then(|| self.touched_ms.saturating_add(expires_ms));
        [scheduled, age, unused].into_iter().flatten().min()
    }

    /// When the next message may have expired, Unix ms.
    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.expiring.first().map(|(ms, _)| *ms)
    }

    pub(super) fn has_members(&self) -> bool {
        self.groups.values().any(|g| !g.members.is_empty())
    }

    /// Nobody used it for as long as it was to live.
    fn is_abandoned(&self, now_ms: u64) -> bool {
        let expires_ms = self.arguments.expires_ms;
        expires_ms > 0
            && !self.has_members()
            && self.touched_ms.saturating_add(expires_ms) <= now_ms
    }

    /// Appends scheduled messages whose time has come, lets go of blocks that are too old. Returns how many
    /// came.
    fn tick(&mut self, work: &mut Work) -> u32 {
        let mut came = 0;
        while work.may_bury(1)
            && let Some(first) = self.scheduled.first_entry()
            && first.key().0 <= work.now_ms
        {
            let scheduled = first.remove();
            self.scheduled_at.remove(&scheduled.item.position);
            self.append(scheduled.item, &scheduled.key, work);
            came += 1;
        }
        let age_ms = self.arguments.max_age_ms;
        while work.left > 0
            && age_ms > 0
            && self.floor < self.tail()
            && let Some(block) = self.blocks.get(self.floor / BLOCK)
            && block.last_ms.saturating_add(age_ms) <= work.now_ms
        {
            let end = (self.floor / BLOCK + 1) * BLOCK;
            let before = self.live;
            self.raise_floor(end, work);
            self.counters.overflowed += before - self.live;
            work.spend(1);
        }
        came
    }

    /// Expires messages but those in `spared`, which consumers have; block by block.
    fn expire(&mut self, spared: &[(u64, u64)], work: &mut Work) -> u64 {
        let mut expired = 0;
        while work.may_bury(BLOCK as usize)
            && let Some(&(ms, block)) = self.expiring.first()
            && ms <= work.now_ms
        {
            self.expiring.pop_first();
            let (bits, lowest) = self.expired_in(block, spared, work);
            let mut died = Vec::new();
            self.kill(block, bits, work, |offset, item| {
                died.push(Died { item, offset, reason: DeadReason::Expired, count: 0 });
            });
            expired += died.len() as u64;
            self.counters.expired += died.len() as u64;
            work.died.append(&mut died);
            self.blocks.set_min_expiry(block, lowest);
            if lowest > 0 {
                self.expiring.insert((lowest, block));
            }
        }
        self.skip_dead(work);
        expired
    }

    /// The messages of a block that have expired, and the lowest expiry of the others; 0 = none.
    fn expired_in(&self, block: u64, spared: &[(u64, u64)], work: &mut Work) -> (u128, u64) {
        let end = self.tail().min((block + 1) * BLOCK);
        let first = self.floor.max(self.base.offset).max(block * BLOCK);
        let mut place = self.blocks.at(first, self.base);
        let (mut bits, mut lowest) = (0, u64::MAX);
        work.spend(BLOCK as u32 / 4);
        while place.offset < end {
            let offset = place.offset;
            let Some(item) = self.blocks.next(&mut place) else { break };
            if item.expiry_ms == 0 || bit(&self.dead, offset) {
                continue;
            }
            if item.expiry_ms > work.now_ms {
                lowest = lowest.min(item.expiry_ms);
            } else if is_in(spared, offset) {
                lowest = lowest.min(work.now_ms + SPARED_MS);
            } else {
                bits |= 1 << (offset % BLOCK);
            }
        }
        (bits, if lowest == u64::MAX { 0 } else { lowest })
    }

    fn cancel(&mut self, ids: &[u64], work: &mut Work) -> u64 {
        let mut cancelled = 0;
        for id in ids {
            work.spend(1);
            let Some(ms) = self.scheduled_at.remove(id) else { continue };
            self.scheduled.remove(&(ms, *id));
            work.released.push(*id);
            cancelled += 1;
        }
        cancelled
    }
}

// === impl Broker ===

impl Broker {
    /// A queue is due; its time was taken out of the index.
    pub(crate) fn queue_due(&mut self, id: u64) {
        let now_ms = self.state.now_ms;
        if let Some((tick_ms, _)) = self.index.queue_times.get_mut(&id) {
            *tick_ms = None;
        }
        if self.state.queues.get(id).is_some_and(|q| q.is_abandoned(now_ms)) {
            self.remove_queue(id);
            return;
        }
        let came = self.work_on(id, |q, work| q.tick(work));
        if came.is_some_and(|came| came > 0) {
            self.note_growth(id);
        }
    }

    pub(super) fn expire(&mut self, id: u64, spared: &[(u64, u32)]) -> Outcome {
        if spared.len() > SPARED_MAX {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        self.spend(spared.len() as u32);
        let spared = joined(spared);
        match self.work_on(id, |q, work| q.expire(&spared, work)) {
            Some(expired) => Outcome::Number(expired),
            None => Outcome::refused(ErrorCode::NotFound),
        }
    }

    pub(super) fn cancel(&mut self, id: u64, ids: &[u64]) -> Outcome {
        match self.work_on(id, |q, work| q.cancel(ids, work)) {
            Some(cancelled) => Outcome::Number(cancelled),
            None => Outcome::refused(ErrorCode::NotFound),
        }
    }

    /// A session of `shard` has ended: its memberships are taken from it as the steps go.
    pub(crate) fn end_memberships(&mut self, shard: u32, session: u64) {
        if self.index.owned_by(shard, session).is_some() {
            self.state.left_sessions.insert((shard, session));
            self.leave_ended_sessions();
        }
    }

    /// Goes on with memberships of sessions that have ended.
    pub(crate) fn leave_ended_sessions(&mut self) {
        while self.left > 0
            && let Some((shard, session)) = self.state.left_sessions.first().copied()
        {
            self.spend(8);
            match self.index.owned_by(shard, session) {
                Some((queue, group, token)) => {
                    let position = self.at;
                    self.leave_group(position, (queue, group), token);
                }
                None => drop(self.state.left_sessions.pop_first()),
            }
        }
    }

    /// Takes members of ended gateways out of their groups, as far as the steps go; true when none is left.
    pub(crate) fn leave_ended_members(&mut self) -> bool {
        while self.left > 0 {
            let epochs = (Member::EPOCH_MIN, 0, 0, 0);
            let first = self.index.members.range(epochs..).next().copied();
            let below = first.filter(|(gateway, ..)| *gateway < self.state.ended_before);
            let next = || {
                let ended = *self.index.detaching.first()?;
                let range = (ended, 0, 0, 0)..=(ended, u64::MAX, u64::MAX, u64::MAX);
                self.index.members.range(range).next().copied()
            };
            let Some((_, queue, group, token)) = below.or_else(next) else { return true };
            self.spend(8);
            // The epoch of who comes after it: new, and above all before.
            let position = self.at;
            self.leave_group(position, (queue, group), token);
        }
        self.effects.push(Effect::More);
        false
    }
}
