//! Consumers of queues: who is given which message, and what becomes of it (Q2, Q3, Q4; `docs/queues.md`).
//!
//! Leases are the leader's: nothing here is replicated but settlements, which it proposes once it has checked
//! that the consumer holds what it speaks of. A lease that ends is proposed as *returned*.

mod giving;
mod moves;
mod reading;
mod served;
mod settling;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use fluxmq_client::contract::{Consume, Event, QueueDelivery};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{QueueCommand, Sharing};
use fluxmq_names::ErrorCode;
use logd_broker::Broker;
use logd_raft::{Group, SubmitError};

pub(crate) use giving::Means;
pub(crate) use moves::{Moves, move_all};
pub(crate) use reading::Reads;
use served::{ConsumerKey, Served};
use settling::Settling;

/// How long what a consumer holds is kept for it when its link is lost, or after a restart, ms: as long as a
/// gateway keeps its lease, and 10 %.
const HOLD_MS: u64 = 6_600;
/// Consumers of one group.
const CONSUMERS_MAX: usize = 1_024;
/// Messages of a group that consumers may hold; beyond it nothing is given (half of what may be returned).
const LEASES_MAX: usize = 50_000;

/// Shard, queue and group.
pub(crate) type GroupKey = (u32, u64, u64);

/// Offsets: the first, and how many.
pub(crate) type Runs = Vec<(u64, u32)>;

/// Messages of groups that commands on their way settle.
pub(crate) type Held = Vec<(GroupKey, Runs)>;

/// A consumer.
struct Consumer {
    group: GroupKey,
    /// None while its link is lost.
    link: Option<u64>,
    /// Its membership, or 0.
    member: u64,
    /// Messages it may still be given.
    credit: u32,
    lease_ms: u32,
    /// Messages it holds.
    held: u32,
    /// Leases in the order they end: when, first offset, how many. Some may be settled by now.
    ends: VecDeque<(u64, u64, u32)>,
}

/// A command to be proposed, and what it was about.
pub(crate) struct Proposal {
    /// Shard it is for.
    pub(crate) shard: u32,
    /// The command.
    pub(crate) command: Command<'static>,
    /// What follows from its outcome.
    pub(crate) about: About,
}

/// What a proposed command was about.
pub(crate) enum About {
    /// What was said of held messages, whether some of them come back, and the request it belongs to.
    Verdicts { group: GroupKey, runs: Runs, returns: bool, request: Option<u64> },
    /// A member that left.
    Leaving,
    /// Messages of a shard expired.
    Expiry { shard: u32 },
}

/// All consumers of this node.
#[derive(Default)]
pub(crate) struct Queues {
    consumers: HashMap<ConsumerKey, Consumer>,
    groups: BTreeMap<GroupKey, Served>,
    /// Groups that may have something to give.
    ready: HashSet<GroupKey>,
    /// Groups that wait for room on a link.
    blocked: HashMap<u64, HashSet<GroupKey>>,
    /// When the first lease of each consumer ends.
    ends: BTreeSet<(u64, ConsumerKey)>,
    /// Messages of consumers that are gone, which could not be returned, and when that is tried again.
    orphans: BTreeSet<(u64, GroupKey, u64)>,
    /// When returned messages may be given again, Unix ms.
    returning: BTreeSet<(u64, GroupKey)>,
    deliveries: BTreeMap<u64, Vec<QueueDelivery>>,
    out: Vec<(u64, Event)>,
    proposals: Vec<Proposal>,
    settling: Settling,
    /// Parties without a link, and until when what they hold is kept for them.
    away: BTreeMap<u64, u64>,
    /// Parties that may come back and say what they hold: before that nothing is given.
    unpresented: BTreeMap<u64, u64>,
    /// By shard: what lies before it may have been given by an earlier leader.
    began: Vec<u64>,
    /// Shards with an expiry under way.
    expiring: HashSet<u32>,
}

// === impl Queues ===

impl Queues {
    /// Begins to lead: `registered` are gateways and programs that may have consumers.
    pub(crate) fn new(
        shards: &[Group],
        registered: impl Iterator<Item = u64>,
        now_ms: u64,
    ) -> Self {
        let began = shards.iter().map(|g| g.with_state(|b| (b.applied() + 1) << 20)).collect();
        let unpresented = registered.map(|epoch| (epoch, now_ms + HOLD_MS)).collect();
        Self { began, unpresented, ..Self::default() }
    }

    pub(crate) fn take_out(&mut self) -> Vec<(u64, Event)> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn take_deliveries(&mut self) -> BTreeMap<u64, Vec<QueueDelivery>> {
        std::mem::take(&mut self.deliveries)
    }

    pub(crate) fn take_proposals(&mut self) -> Vec<Proposal> {
        std::mem::take(&mut self.proposals)
    }

    /// Consumers attached to a group, and messages they hold.
    pub(crate) fn counts(&self, group: GroupKey) -> (u64, u64) {
        self.groups.get(&group).map_or((0, 0), |s| (s.order.len() as u64, s.leased() as u64))
    }

    // === consumers come and go ===

    /// A consumer, new or again.
    pub(crate) fn consume(
        &mut self,
        shards: &[Group],
        (link, epoch): (u64, u64),
        consume: &Consume,
        now_ms: u64,
    ) {
        let (key, token) = ((epoch, consume.token), consume.token);
        let at = (consume.shard, consume.queue, consume.group);
        let error = self.attach(shards, (key, link), at, consume, now_ms).err();
        self.out.push((link, Event::Consuming { token, error }));
        if error.is_none() {
            self.say_who_is_active(at, Some(key));
        }
    }

    fn attach(
        &mut self,
        shards: &[Group],
        (key, link): (ConsumerKey, u64),
        at: GroupKey,
        consume: &Consume,
        now_ms: u64,
    ) -> Result<(), ErrorCode> {
        let group = shards.get(at.0 as usize).ok_or(ErrorCode::NotFound)?;
        let is_member = |b: &Broker, sharing| {
            sharing == Sharing::Shared || b.has_member(at.1, at.2, consume.member)
        };
        let view = group
            .with_state(|b| b.group_view(at.1, at.2).filter(|view| is_member(b, view.sharing)));
        let view = view.ok_or(ErrorCode::NotFound)?;
        if self.consumers.get(&key).is_some_and(|c| c.group != at) {
            self.end_consumer(key);
        }
        let served = self.groups.entry(at).or_insert_with(|| Served::new(view));
        let known = self.consumers.contains_key(&key);
        if !known && served.order.len() >= CONSUMERS_MAX {
            return Err(ErrorCode::LimitExceeded);
        }
        let (member, lease_ms) = (consume.member, consume.lease_ms);
        let consumer = self.consumers.entry(key).or_insert_with(|| Consumer {
            group: at,
            link: None,
            member,
            credit: 0,
            lease_ms,
            held: 0,
            ends: VecDeque::new(),
        });
        (consumer.link, consumer.credit, consumer.lease_ms) = (Some(link), 0, lease_ms);
        if !known {
            served.order.push_back(key);
        }
        self.present(group, key, &consume.held, now_ms);
        self.ready.insert(at);
        Ok(())
    }

    /// A consumer says what it holds of an earlier link. What it was given and does not hold got lost on the way.
    fn present(&mut self, group: &Group, key: ConsumerKey, held: &[(u64, u32)], now_ms: u64) {
        let Some(consumer) = self.consumers.get(&key) else { return };
        let at = consumer.group;
        let Some(served) = self.groups.get_mut(&at) else { return };
        let is_held = |offset: u64| {
            held.iter().any(|(first, count)| offset >= *first && offset - first < u64::from(*count))
        };
        let mut lost = Vec::new();
        if consumer.held > 0 {
            let mine = served.take((0, u64::MAX), |lease| lease.consumer == key, None);
            for offset in mine.iter().flat_map(|(first, n)| *first..*first + u64::from(*n)) {
                if is_held(offset) {
                    served.keep(&[(offset, 1)], u64::MAX);
                } else {
                    lost.push((offset, 1));
                }
            }
        }
        let until_ms = lease_end(now_ms, consumer.lease_ms);
        let mut taken = Vec::new();
        for (first, count) in held {
            for offset in *first..first.saturating_add((*count).into()) {
                if served.leased() >= LEASES_MAX {
                    break;
                }
                let open = || group.with_state(|b| b.is_open(at.1, at.2, offset));
                // A fault planted to prove that the tests of queues find it (design §12).
                if fluxmq_names::planted!("presented_leases_forgotten") {
                    break;
                }
                if !served.is_leased(offset) && open() {
                    served.hold(key, offset, until_ms, 0);
                    taken.push((offset, 1));
                }
            }
        }
        self.note_given(key, &taken, until_ms);
        if !lost.is_empty() {
            use fluxmq_commands::command::queue::Verdict;
            self.propose_verdicts(at, None, Verdict::Release, lost);
        }
    }

    /// A party has named all its consumers.
    pub(crate) fn presented(&mut self, epoch: u64) {
        self.away.remove(&epoch);
        if self.unpresented.remove(&epoch).is_some() && self.unpresented.is_empty() {
            self.ready.extend(self.groups.keys());
        }
    }

    /// Whether a party may hold messages of which nobody has heard since the start.
    pub(crate) fn is_unpresented(&self, epoch: u64) -> bool {
        self.unpresented.contains_key(&epoch)
    }

    /// A consumer takes no more and gives back what it has.
    pub(crate) fn close(&mut self, epoch: u64, token: u64) {
        self.end_consumer((epoch, token));
    }

    pub(crate) fn credit(&mut self, epoch: u64, token: u64, count: u32) {
        if let Some(consumer) = self.consumers.get_mut(&(epoch, token)) {
            consumer.credit = consumer.credit.saturating_add(count).min(LEASES_MAX as u32);
            self.ready.insert(consumer.group);
        }
    }

    /// A link takes deliveries again.
    pub(crate) fn unblock(&mut self, link: u64) {
        self.ready.extend(self.blocked.remove(&link).into_iter().flatten());
    }

    /// A link is gone; its party may come back.
    pub(crate) fn link_lost(&mut self, link: u64, epoch: u64, now_ms: u64) {
        self.blocked.remove(&link);
        self.deliveries.remove(&link);
        let mut any = false;
        for consumer in self.consumers.values_mut().filter(|c| c.link == Some(link)) {
            (consumer.link, consumer.credit) = (None, 0);
            any = true;
        }
        if any {
            self.away.insert(epoch, now_ms + HOLD_MS);
        }
    }

    /// A gateway or program is gone for good, or stayed away too long: what it held is for others.
    pub(crate) fn party_gone(&mut self, epoch: u64) {
        self.away.remove(&epoch);
        self.presented(epoch);
        let gone: Vec<_> =
            self.consumers.keys().filter(|(party, _)| *party == epoch).copied().collect();
        gone.into_iter().for_each(|key| self.end_consumer(key));
    }

    fn end_consumer(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.consumers.remove(&key) else { return };
        if let Some((until_ms, ..)) = consumer.ends.front() {
            self.ends.remove(&(*until_ms, key));
        }
        let at = consumer.group;
        if let Some(served) = self.groups.get_mut(&at) {
            served.order.retain(|other| *other != key);
            // A fault planted to prove that the chaos harness finds it (design §12).
            let forgotten = fluxmq_names::planted!("leases_of_the_dead_kept");
            let runs = match consumer.held {
                _ if forgotten => Vec::new(),
                0 => Vec::new(),
                _ => served.take((0, u64::MAX), |lease| lease.consumer == key, None),
            };
            self.propose_verdicts(at, None, fluxmq_commands::command::queue::Verdict::Return, runs);
        }
        if consumer.member != 0 {
            let (shard, queue, group) = at;
            let leave = QueueCommand::GroupLeave { queue, group, token: consumer.member };
            let command = Command::Queue(leave);
            self.proposals.push(Proposal { shard, command, about: About::Leaving });
        }
        self.forget_if_idle(at);
    }

    /// A group without consumers of which nobody holds anything is not served.
    fn forget_if_idle(&mut self, at: GroupKey) {
        if self.groups.get(&at).is_some_and(|s| s.order.is_empty() && s.leased() == 0) {
            self.groups.remove(&at);
            self.ready.remove(&at);
        }
    }

    // === effects ===

    /// Messages came, or may be given again.
    pub(crate) fn queue_grew(&mut self, shard: u32, queue: u64, returned: bool) {
        let range = (shard, queue, 0)..=(shard, queue, u64::MAX);
        for (at, served) in self.groups.range_mut(range) {
            if returned {
                served.look_at_returned();
            }
            self.ready.insert(*at);
        }
    }

    /// A queue is there or gone.
    pub(crate) fn queue_changed(&mut self, shards: &[Group], shard: u32, queue: u64) {
        let range = (shard, queue, 0)..=(shard, queue, u64::MAX);
        let groups: Vec<_> = self.groups.range(range).map(|(at, _)| *at).collect();
        groups.into_iter().for_each(|at| self.group_changed(shards, at));
    }

    /// A group moved or is gone, or its members changed.
    pub(crate) fn group_changed(&mut self, shards: &[Group], at: GroupKey) {
        let Some(served) = self.groups.get_mut(&at) else { return };
        let Some(group) = shards.get(at.0 as usize) else { return };
        let Some(view) = group.with_state(|b| b.group_view(at.1, at.2)) else {
            return self.group_gone(at);
        };
        let changed = (view.active, view.epoch) != (served.view.active, served.view.epoch);
        served.view = view;
        served.begin_again();
        let members = view.sharing != Sharing::Shared;
        let left: Vec<_> = served.order.iter().copied().collect();
        for key in left.into_iter().filter(|_| members) {
            let Some(consumer) = self.consumers.get(&key) else { continue };
            let (member, link) = (consumer.member, consumer.link);
            if !group.with_state(|b| b.has_member(at.1, at.2, member)) {
                self.end_with(key, link, ErrorCode::StaleEpoch);
            }
        }
        if changed && members {
            self.fence(at);
            self.say_who_is_active(at, None);
        }
        self.ready.insert(at);
    }

    fn group_gone(&mut self, at: GroupKey) {
        let Some(served) = self.groups.remove(&at) else { return };
        for key in served.order {
            let link = self.consumers.get(&key).and_then(|c| c.link);
            self.end_with(key, link, ErrorCode::NotFound);
        }
        self.ready.remove(&at);
    }

    fn end_with(&mut self, key: ConsumerKey, link: Option<u64>, code: ErrorCode) {
        self.end_consumer(key);
        if let Some(link) = link {
            self.out.push((link, Event::ConsumerEnded { token: key.1, code }));
        }
    }

    /// What those hold who are not active any more is for who is.
    fn fence(&mut self, at: GroupKey) {
        let Some(served) = self.groups.get_mut(&at) else { return };
        let Some(active) = served.view.active else { return };
        let consumers = &self.consumers;
        let fenced = |key: &ConsumerKey| consumers.get(key).is_none_or(|c| c.member != active);
        let runs = served.take((0, u64::MAX), |lease| fenced(&lease.consumer), None);
        self.propose_verdicts(at, None, fluxmq_commands::command::queue::Verdict::Return, runs);
    }

    /// Tells one consumer of a group with an active member, or all, who that is.
    fn say_who_is_active(&mut self, at: GroupKey, one: Option<ConsumerKey>) {
        let Some(served) = self.groups.get(&at) else { return };
        let view = served.view;
        if !matches!(view.sharing, Sharing::SingleActive | Sharing::Exclusive) {
            return;
        }
        for key in served.order.iter().filter(|key| one.is_none_or(|one| one == **key)) {
            let Some(Consumer { link: Some(link), member, .. }) = self.consumers.get(key) else {
                continue;
            };
            let (active, epoch) = (view.active == Some(*member), view.epoch);
            self.out.push((*link, Event::Active { token: key.1, active, epoch }));
        }
    }

    // === time ===

    /// When something is to be done, on the clock since boot, ms.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let ends = self.ends.first().map(|(ms, _)| *ms);
        let away = self.away.values().chain(self.unpresented.values()).min().copied();
        let orphans = self.orphans.first().map(|(ms, ..)| *ms);
        ends.into_iter().chain(away).chain(orphans).min()
    }

    /// When returned messages may be given again, Unix ms: a TICK is to be proposed then.
    pub(crate) fn next_return_ms(&self) -> Option<u64> {
        self.returning.first().map(|(ms, _)| *ms)
    }

    /// Shards with messages whose back-off is over.
    pub(crate) fn returning(&mut self, unix_ms: u64) -> Vec<u32> {
        let mut shards = Vec::new();
        while let Some((ms, at)) = self.returning.first().copied().filter(|(ms, _)| *ms <= unix_ms)
        {
            self.returning.remove(&(ms, at));
            if let Some(served) = self.groups.get_mut(&at) {
                served.look_at_returned();
                self.ready.insert(at);
                shards.push(at.0);
            }
        }
        shards
    }

    /// Ends what has run out.
    pub(crate) fn on_time(&mut self, now_ms: u64) {
        let over: Vec<u64> =
            self.away.iter().filter(|(_, ms)| **ms <= now_ms).map(|(epoch, _)| *epoch).collect();
        over.into_iter().for_each(|epoch| self.party_gone(epoch));
        let late: Vec<u64> =
            self.unpresented.iter().filter(|(_, ms)| **ms <= now_ms).map(|(e, _)| *e).collect();
        late.into_iter().for_each(|epoch| self.presented(epoch));
        self.end_leases(now_ms);
        self.return_orphans(now_ms);
    }

    /// The command that expires messages of a shard, sparing what consumers hold.
    pub(crate) fn expire(&mut self, shard: u32, queue: u64) {
        if !self.expiring.insert(shard) {
            return;
        }
        let range = (shard, queue, 0)..=(shard, queue, u64::MAX);
        let mut spared: Vec<(u64, u32)> =
            self.groups.range(range).flat_map(|(_, served)| served.held_runs()).collect();
        spared.truncate(logd_broker::limits::SPARED_MAX);
        let command = Command::Queue(QueueCommand::Expire { queue, spared });
        self.proposals.push(Proposal { shard, command, about: About::Expiry { shard } });
    }

    /// What a proposal led to.
    pub(crate) fn proposed(
        &mut self,
        about: About,
        result: Result<Outcome, SubmitError>,
        now_ms: u64,
    ) {
        match about {
            About::Verdicts { group, runs, returns, request } => {
                self.verdicts_done(group, &runs, request, &result, now_ms);
                if let Some(served) = self.groups.get_mut(&group).filter(|_| returns) {
                    // The effect may have come while they were held still.
                    served.look_at_returned();
                    served.returns = served.returns.saturating_sub(1);
                }
            }
            About::Expiry { shard } => drop(self.expiring.remove(&shard)),
            // Who does not lead any more leaves it to who does.
            About::Leaving => {}
        }
    }
}

/// When a lease ends that is given now.
fn lease_end(now_ms: u64, lease_ms: u32) -> u64 {
    if lease_ms == 0 { u64::MAX } else { now_ms + u64::from(lease_ms) }
}
