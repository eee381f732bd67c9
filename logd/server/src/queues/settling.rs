//! What is said of held messages goes into the log; leases end.

use std::collections::HashMap;

use fluxmq_client::contract::{Event, Settle, Settled};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{QueueCommand, Settlement, Verdict};
use fluxmq_names::ErrorCode;
use logd_broker::limits::VERDICTS_MAX;
use logd_raft::SubmitError;

use super::served::ConsumerKey;
use super::{About, Consumer, GroupKey, Held, Proposal, Queues, Runs, lease_end};

/// Messages in a block: an acknowledgement costs as many units as it touches.
const BLOCK: u32 = 128;
/// A settlement that could not be taken is tried again so much later, ms.
const RETRY_MS: u64 = 1_000;

/// A request that waits for its commands.
struct Request {
    link: u64,
    answer: Settled,
    /// Commands that are still to come back.
    left: u32,
}

/// Requests under way.
#[derive(Default)]
pub(super) struct Settling {
    requests: HashMap<u64, Request>,
    last: u64,
}

// === impl Queues ===

impl Queues {
    /// What a consumer says of messages it holds.
    pub(crate) fn settle(&mut self, (link, epoch): (u64, u64), settle: &Settle) {
        let key = (epoch, settle.token);
        let (token, id) = (settle.token, settle.id);
        let mut answer = Settled { token, id, refused: Vec::new(), error: None };
        let found = self.consumers.get(&key).map(|c| (c.group, c.member));
        let Some((at, member)) = found else {
            answer.error = Some(ErrorCode::NotFound);
            return self.out.push((link, Event::Settled(answer)));
        };
        let Some(served) = self.groups.get_mut(&at) else { return };
        let token = match served.view.sharing {
            fluxmq_commands::command::queue::Sharing::Shared => 0,
            fluxmq_commands::command::queue::Sharing::Keyed => member,
            _ => served.view.epoch,
        };
        let mut taken = Vec::new();
        for verdict in &settle.verdicts {
            let end = verdict.first.saturating_add(verdict.count.into());
            // A fault planted to prove that the tests of queues find it (design §12).
            let anybody = fluxmq_names::planted!("anybody_settles");
            let mine = |lease: &super::served::Lease| anybody || lease.consumer == key;
            let (said, runs) = match verdict.verdict {
                Verdict::AckBelow => (Verdict::Ack, served.take((0, end), mine, None)),
                said => {
                    let others = Some(&mut answer.refused);
                    (said, served.take((verdict.first, end), mine, others))
                }
            };
            taken.extend(runs.into_iter().map(|run| (said, run)));
        }
        if taken.is_empty() {
            return self.out.push((link, Event::Settled(answer)));
        }
        self.settling.last += 1;
        let request = self.settling.last;
        let left = self.propose(at, token, Some(request), &taken);
        // A fault planted to prove that the tests of queues find it (design §12).
        if fluxmq_names::planted!("settled_before_the_log") {
            return self.out.push((link, Event::Settled(answer)));
        }
        self.settling.requests.insert(request, Request { link, answer, left });
    }

    /// The leader itself says the same of some runs.
    pub(super) fn propose_verdicts(
        &mut self,
        at: GroupKey,
        request: Option<u64>,
        verdict: Verdict,
        runs: Runs,
    ) {
        let all: Vec<_> = runs.into_iter().map(|run| (verdict, run)).collect();
        self.propose(at, 0, request, &all);
    }

    /// Proposes verdicts, cut into commands that do not do too much (S11); gives how many those are.
    fn propose(
        &mut self,
        (shard, queue, group): GroupKey,
        token: u64,
        request: Option<u64>,
        all: &[(Verdict, (u64, u32))],
    ) -> u32 {
        let (mut commands, mut returning) = (0, 0);
        let mut units = 0;
        let (mut verdicts, mut runs) = (Vec::new(), Vec::new());
        let mut close = |verdicts: &mut Vec<Settlement>, runs: &mut Vec<(u64, u32)>| {
            if verdicts.is_empty() {
                return;
            }
            let (verdicts, runs) = (std::mem::take(verdicts), std::mem::take(runs));
            let returns = verdicts.iter().any(|v| v.verdict != Verdict::Ack);
            returning += u32::from(returns);
            let settle = QueueCommand::Settle { queue, group, token, verdicts };
            let about = About::Verdicts { group: (shard, queue, group), runs, returns, request };
            self.proposals.push(Proposal { shard, command: Command::Queue(settle), about });
            commands += 1;
        };
        for (verdict, (first, count)) in all {
            let (mut first, mut left) = (*first, *count);
            while left > 0 {
                let ack = *verdict == Verdict::Ack;
                let room = (VERDICTS_MAX as u32).saturating_sub(units);
                let most = if ack { room.saturating_sub(1) * BLOCK } else { room };
                if most == 0 {
                    close(&mut verdicts, &mut runs);
                    units = 0;
                    continue;
                }
                let count = left.min(most);
                verdicts.push(Settlement { verdict: *verdict, first, count });
                runs.push((first, count));
                units += if ack { 1 + count / BLOCK } else { count };
                first += u64::from(count);
                left -= count;
            }
        }
        close(&mut verdicts, &mut runs);
        if let Some(served) = self.groups.get_mut(&(shard, queue, group)) {
            served.returns += returning;
        }
        commands
    }

    pub(super) fn verdicts_done(
        &mut self,
        at: GroupKey,
        runs: &[(u64, u32)],
        request: Option<u64>,
        result: &Result<Outcome, SubmitError>,
        now_ms: u64,
    ) {
        let error = match result {
            Ok(Outcome::Error { code, .. }) => Some(*code),
            Ok(_) => None,
            Err(SubmitError::DiskFull) => Some(ErrorCode::DiskFull),
            Err(_) => Some(ErrorCode::Unavailable),
        };
        if let Some(served) = self.groups.get_mut(&at) {
            match error {
                None => {
                    let held = served.let_go(runs);
                    self.note_let_go(held);
                }
                // The messages are somebody else's: whoever that is gets them.
                Some(ErrorCode::StaleEpoch | ErrorCode::NotFound) => {
                    let held = served.let_go(runs);
                    served.begin_again();
                    self.note_let_go(held);
                }
                // They are returned when they can be.
                Some(_) => {
                    served.keep(runs, now_ms + RETRY_MS);
                    let again = served.holders(runs);
                    for (key, offset) in again {
                        self.note_end(at, key, now_ms + RETRY_MS, offset);
                    }
                }
            }
            self.ready.insert(at);
            self.forget_if_idle(at);
        }
        let Some(number) = request else { return };
        let Some(request) = self.settling.requests.get_mut(&number) else { return };
        request.left = request.left.saturating_sub(1);
        request.answer.error = request.answer.error.or(error);
        if request.left == 0
            && let Some(done) = self.settling.requests.remove(&number)
        {
            self.out.push((done.link, Event::Settled(done.answer)));
        }
    }

    fn note_let_go(&mut self, held: HashMap<ConsumerKey, u32>) {
        for (key, count) in held {
            let Some(consumer) = self.consumers.get_mut(&key) else { continue };
            consumer.held = consumer.held.saturating_sub(count);
            if consumer.held == 0
                && let Some((until_ms, ..)) = consumer.ends.front()
            {
                self.ends.remove(&(*until_ms, key));
                consumer.ends.clear();
            }
        }
    }

    /// A consumer was given messages.
    pub(super) fn note_given(&mut self, key: ConsumerKey, runs: &[(u64, u32)], until_ms: u64) {
        let Some(consumer) = self.consumers.get_mut(&key) else { return };
        for (first, count) in runs {
            consumer.held += count;
            if until_ms < u64::MAX {
                if consumer.ends.is_empty() {
                    self.ends.insert((until_ms, key));
                }
                consumer.ends.push_back((until_ms, *first, *count));
            }
        }
    }

    /// A lease ends earlier than others of its consumer, or its consumer is gone.
    fn note_end(&mut self, at: GroupKey, key: ConsumerKey, until_ms: u64, offset: u64) {
        let Some(consumer) = self.consumers.get_mut(&key) else {
            self.orphans.insert((until_ms, at, offset));
            return;
        };
        if let Some((first_ms, ..)) = consumer.ends.front() {
            self.ends.remove(&(*first_ms, key));
        }
        consumer.ends.push_front((until_ms, offset, 1));
        self.ends.insert((until_ms, key));
    }

    /// A consumer keeps what it holds of a stretch for another lease.
    pub(crate) fn extend(
        &mut self,
        epoch: u64,
        token: u64,
        (first, count): (u64, u32),
        now_ms: u64,
    ) {
        let key = (epoch, token);
        let Some(Consumer { group, lease_ms, .. }) = self.consumers.get(&key) else { return };
        let (at, until_ms) = (*group, lease_end(now_ms, *lease_ms));
        let Some(served) = self.groups.get_mut(&at) else { return };
        let extended = served.extend(key, (first, first.saturating_add(count.into())), until_ms);
        let Some(consumer) = self.consumers.get_mut(&key).filter(|_| extended > 0) else { return };
        if until_ms < u64::MAX {
            if consumer.ends.is_empty() {
                self.ends.insert((until_ms, key));
            }
            consumer.ends.push_back((until_ms, first, count));
        }
    }

    /// What consumers held that are gone, and could not be returned, is returned.
    pub(super) fn return_orphans(&mut self, now_ms: u64) {
        while let Some((ms, at, offset)) = self.orphans.first().copied()
            && ms <= now_ms
        {
            self.orphans.remove(&(ms, at, offset));
            let Some(served) = self.groups.get_mut(&at) else { continue };
            let runs = served.take((offset, offset + 1), |lease| lease.until_ms <= now_ms, None);
            self.propose_verdicts(at, None, Verdict::Return, runs);
        }
    }

    /// Leases that ran out are returned.
    pub(super) fn end_leases(&mut self, now_ms: u64) {
        while let Some((until_ms, key)) = self.ends.first().copied().filter(|(ms, _)| *ms <= now_ms)
        {
            self.ends.remove(&(until_ms, key));
            let Some(consumer) = self.consumers.get_mut(&key) else { continue };
            let at = consumer.group;
            let mut ended = Vec::new();
            let Some(served) = self.groups.get_mut(&at) else { continue };
            while let Some((_, first, count)) =
                consumer.ends.pop_front_if(|(until_ms, ..)| *until_ms <= now_ms)
            {
                ended.extend(served.take_ended(key, (first, first + u64::from(count)), now_ms));
            }
            if let Some((next_ms, ..)) = consumer.ends.front() {
                self.ends.insert((*next_ms, key));
            }
            // A fault planted to prove that the tests of queues find it (design §12).
            let planted = fluxmq_names::planted!("lease_end_not_counted");
            let verdict = if planted { Verdict::Release } else { Verdict::Return };
            self.propose_verdicts(at, None, verdict, ended);
        }
    }

    /// What is settled within commands of a link that are about to be proposed: held by it, or refused as a
    /// whole. Gives what is to be let go when they are done.
    pub(crate) fn take_for_commands(
        &mut self,
        epoch: u64,
        shard: u32,
        settles: &[(u64, u64, Vec<Settlement>)],
    ) -> Result<Held, ErrorCode> {
        let mut taken = Held::new();
        let mut stale = false;
        for (queue, group, verdicts) in settles {
            let at = (shard, *queue, *group);
            let Some(served) = self.groups.get_mut(&at) else {
                stale = true;
                break;
            };
            for v in verdicts {
                let end = v.first.saturating_add(v.count.into());
                let mut refused = Vec::new();
                let mine = |lease: &super::served::Lease| lease.consumer.0 == epoch;
                let runs = served.take((v.first, end), mine, Some(&mut refused));
                stale |= !refused.is_empty() || v.verdict == Verdict::AckBelow;
                taken.push((at, runs));
            }
        }
        if !stale {
            return Ok(taken);
        }
        for (at, runs) in &taken {
            if let Some(served) = self.groups.get_mut(at) {
                served.keep(runs, u64::MAX);
            }
        }
        Err(ErrorCode::StaleEpoch)
    }
}
