//! What consumers say of messages: settled, returned, rejected (Q2, Q4).

use fluxmq_names::ErrorCode;

use super::append::Ahead;
use super::blocks::BLOCK;
use super::{Died, Queue, Work, bit, count, mask};
use crate::broker::Broker;
use crate::limits::{RETURNED_MAX, VERDICTS_MAX};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{DeadReason, Settlement, Sharing, Verdict};

/// Doublings of the back-off at most: beyond it would not fit.
const BACKOFF_SHIFT_MAX: u32 = 20;

// === impl Queue ===

impl Queue {
    /// Messages of `first..end` that are neither settled by the group nor gone.
    fn open_offsets(&self, group: u64, first: u64, end: u64) -> Vec<u64> {
        let Some(g) = self.groups.get(&group) else { return Vec::new() };
        let range = first.max(g.cursor).max(self.floor)..end.min(self.tail());
        let settled = |offset| g.is_settled(offset) && !cfg!(planted = "settle_a_lease_twice");
        range.filter(|offset| !settled(*offset) && !bit(&self.dead, *offset)).collect()
    }

    /// Settles `first..end` for the group; returns how many were open.
    fn ack(&mut self, group: u64, first: u64, end: u64, work: &mut Work) -> u64 {
        let (floor, end) = (self.floor, end.min(self.tail()));
        let Some(g) = self.groups.get_mut(&group) else { return 0 };
        let first = first.max(g.cursor).max(floor);
        if first >= end {
            return 0;
        }
        work.changed = true;
        let open = end - first - count(&[&g.settled, &self.dead], first, end, work);
        if first == g.cursor {
            g.cursor = end;
        } else {
            for block in first / BLOCK..=(end - 1) / BLOCK {
                *g.settled.entry(block).or_default() |= mask(block, first, end);
                work.spend(1);
            }
        }
        g.advance(&self.dead, floor, work);
        self.bury_settled(first, end, work);
        open
    }

    /// Gives messages back to the group; those that came back too often die.
    fn give_back(&mut self, group: u64, s: &Settlement, work: &mut Work) -> u64 {
        let offsets = self.open_offsets(group, s.first, s.first.saturating_add(s.count.into()));
        work.spend(offsets.len() as u32 * 2);
        let limit = self.arguments.delivery_limit;
        let mut too_often = Vec::new();
        let Some(g) = self.groups.get_mut(&group) else { return 0 };
        for &offset in &offsets {
            let before = g.counts.get(&offset).copied().unwrap_or_default();
            let counted = s.verdict != Verdict::Release && !cfg!(planted = "forget_delivery_count");
            let count = before.saturating_add(counted.into());
            if counted && limit > 0 && count >= limit {
                too_often.push((offset, count));
                continue;
            }
            let mut until_ms = 0;
            if s.verdict == Verdict::ReturnLater && self.arguments.backoff_ms > 0 {
                let pause = u64::from(self.arguments.backoff_ms)
                    << (count.saturating_sub(1)).min(BACKOFF_SHIFT_MAX);
                let longest = match self.arguments.backoff_max_ms {
                    0 => u64::MAX,
                    ms => ms.into(),
                };
                until_ms = work.now_ms + pause.min(longest);
            }
            g.give_again(offset, count, until_ms);
            (work.returned, work.changed) = (true, true);
        }
        for (offset, count) in too_often {
            self.die(group, offset, DeadReason::DeliveryLimit, count, work);
        }
        offsets.len() as u64
    }

    fn reject(&mut self, group: u64, first: u64, end: u64, work: &mut Work) -> u64 {
        let offsets = self.open_offsets(group, first, end);
        for &offset in &offsets {
            let count = self.groups.get(&group).and_then(|g| g.counts.get(&offset).copied());
            self.die(group, offset, DeadReason::Rejected, count.unwrap_or_default(), work);
        }
        offsets.len() as u64
    }

    /// A message is dead for the group.
    fn die(&mut self, group: u64, offset: u64, reason: DeadReason, count: u32, work: &mut Work) {
        let Some(item) = self.item(offset) else { return };
        work.spend(8);
        match reason {
            DeadReason::DeliveryLimit => self.counters.delivery_limited += 1,
            _ => self.counters.rejected += 1,
        }
        work.died.push(Died { item, offset, reason, count });
        self.ack(group, offset, offset + 1, work);
    }

    /// Does what a consumer says; returns of how many open messages it was.
    fn settle(&mut self, group: u64, s: &Settlement, work: &mut Work) -> u64 {
        let end = s.first.saturating_add(s.count.into());
        match s.verdict {
            Verdict::Ack => self.ack(group, s.first, end, work),
            Verdict::AckBelow => self.ack(group, 0, end, work),
            Verdict::Reject => self.reject(group, s.first, end, work),
            Verdict::Return | Verdict::ReturnLater | Verdict::Release => {
                self.give_back(group, s, work)
            }
        }
    }
}

// === impl Broker ===

impl Broker {
    /// Settlements of one consumer: refused as a whole when it may not settle (Q4), else what is settled or
    /// gone already is passed over.
    pub(crate) fn queue_settle(
        &mut self,
        (queue, group): (u64, u64),
        token: Option<u64>,
        verdicts: &[Settlement],
    ) -> Outcome {
        match self.settle_refusal((queue, group), token, verdicts, &mut Ahead::default()) {
            Some(refusal) => refusal,
            None => self.settle_unasked((queue, group), verdicts),
        }
    }

    /// Why settlements are refused; `ahead` is what earlier parts of the transaction returned, and these with
    /// them. Without a token it is the leader that speaks: of messages whose lease has ended.
    pub(super) fn settle_refusal(
        &self,
        (queue, group): (u64, u64),
        token: Option<u64>,
        verdicts: &[Settlement],
        ahead: &mut Ahead,
    ) -> Option<Outcome> {
        // Blocks of acknowledgements, messages of the rest: both cost a step or a few.
        let cost = |s: &Settlement| match s.verdict {
            Verdict::Ack => 1 + u64::from(s.count) / BLOCK,
            Verdict::AckBelow => 1,
            _ => s.count.into(),
        };
        if verdicts.iter().map(cost).sum::<u64>() > VERDICTS_MAX {
            return Some(Outcome::refused(ErrorCode::InvalidArgument));
        }
        let Some(found) = self.state.queues.get(queue).and_then(|q| q.groups.get(&group)) else {
            return Some(Outcome::refused(ErrorCode::NotFound));
        };
        let settles = |v: Verdict| matches!(v, Verdict::Ack | Verdict::AckBelow | Verdict::Reject);
        let returns = verdicts.iter().filter(|s| !settles(s.verdict)).map(|s| u64::from(s.count));
        let returned: u64 = returns.sum();
        if returned > 0 && found.counts.len() as u64 + ahead.returned >= RETURNED_MAX {
            return Some(Outcome::refused(ErrorCode::LimitExceeded));
        }
        ahead.returned += returned;
        let current = token.is_none_or(|token| match found.sharing {
            Sharing::Shared => true,
            Sharing::SingleActive | Sharing::Exclusive => token == found.epoch,
            Sharing::Keyed => found.members.contains_key(&token),
        });
        let refused = !current && !cfg!(planted = "settlement_of_an_old_epoch");
        refused.then_some(Outcome::Error { code: ErrorCode::StaleEpoch, detail: found.epoch })
    }

    /// Settlements that nothing refuses.
    pub(super) fn settle_unasked(
        &mut self,
        (queue, group): (u64, u64),
        verdicts: &[Settlement],
    ) -> Outcome {
        let settled = self.work_on(queue, |q, work| {
            q.touched_ms = work.now_ms;
            verdicts.iter().map(|s| q.settle(group, s, work)).sum()
        });
        Outcome::Number(settled.unwrap_or_default())
    }
}
