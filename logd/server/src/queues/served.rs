//! A group that has consumers: who holds which message, and where the leader is with what it gives (Q2).
//! Volatile: a new leader begins again with what is presented to it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use fluxmq_client::contract::append_offset;
use logd_broker::{GroupCursor, GroupView, QueueMessage};

/// A consumer: epoch of its gateway or program, and its token there.
pub(super) type ConsumerKey = (u64, u64);

/// A message that a consumer holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) consumer: ConsumerKey,
    /// It ends then, on the clock since boot, ms.
    pub(super) until_ms: u64,
    /// What is said of it is on its way into the log.
    settling: bool,
    /// Hash of its key, in a keyed group.
    key: u64,
}

/// A message of a keyed group that waits for its member.
#[derive(Clone, Copy)]
pub(super) struct Parked {
    pub(super) message: QueueMessage,
    /// Hash of its key.
    pub(super) key: u64,
}

/// A group that is served.
pub(super) struct Served {
    pub(super) view: GroupView,
    /// Consumers, who has waited longest first.
    pub(super) order: VecDeque<ConsumerKey>,
    pub(super) cursor: GroupCursor,
    /// Returned messages up to here were given.
    pub(super) returned_after: Option<u64>,
    /// No returned ones are left to give.
    pub(super) returned_done: bool,
    /// Proposals under way that give messages back: meanwhile nothing is given, or what lies behind them would
    /// go first.
    pub(super) returns: u32,
    leases: BTreeMap<u64, Lease>,
    /// Who holds messages of a key, and how many.
    owners: HashMap<u64, (ConsumerKey, u32)>,
    /// Messages that wait for their member, by member; and their offsets.
    parked: BTreeMap<u64, VecDeque<Parked>>,
    parked_offsets: HashSet<u64>,
}

fn offsets(runs: &[(u64, u32)]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|(first, count)| *first..first.saturating_add(u64::from(*count)))
}

// === impl Served ===

impl Served {
    pub(super) fn new(view: GroupView) -> Self {
        Self {
            view,
            order: VecDeque::new(),
            cursor: GroupCursor::default(),
            returned_after: None,
            returned_done: false,
            returns: 0,
            leases: BTreeMap::new(),
            owners: HashMap::new(),
            parked: BTreeMap::new(),
            parked_offsets: HashSet::new(),
        }
    }

    /// Begins again: everything that is open and not held is given once more.
    pub(super) fn begin_again(&mut self) {
        self.cursor = GroupCursor::default();
        self.look_at_returned();
        self.parked.clear();
        self.parked_offsets.clear();
    }

    /// There are returned messages to give.
    pub(super) fn look_at_returned(&mut self) {
        self.returned_after = None;
        self.returned_done = false;
    }

    /// Messages that are held.
    pub(super) fn leased(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn is_leased(&self, offset: u64) -> bool {
        self.leases.contains_key(&offset)
    }

    /// Whether a message is held, or waits for its member.
    pub(super) fn is_taken(&self, offset: u64) -> bool {
        self.is_leased(offset) || self.parked_offsets.contains(&offset)
    }

    /// Messages of keyed groups that wait for their member.
    pub(super) fn parked(&self) -> usize {
        self.parked_offsets.len()
    }

    /// Members with messages that wait.
    pub(super) fn parked_members(&self) -> Vec<u64> {
        self.parked.keys().copied().collect()
    }

    /// The message that waits longest for a member.
    pub(super) fn first_parked(&self, member: u64) -> Option<Parked> {
        self.parked.get(&member)?.front().copied()
    }

    /// A message waits for its member.
    pub(super) fn park(&mut self, member: u64, parked: Parked) {
        self.parked_offsets.insert(parked.message.offset);
        self.parked.entry(member).or_default().push_back(parked);
    }

    /// The one that waited longest waits no more.
    pub(super) fn unpark(&mut self, member: u64) {
        let Some(waiting) = self.parked.get_mut(&member) else { return };
        if let Some(parked) = waiting.pop_front() {
            self.parked_offsets.remove(&parked.message.offset);
        }
        if waiting.is_empty() {
            self.parked.remove(&member);
        }
    }

    /// Whether somebody else holds messages of a key.
    pub(super) fn is_owned_by_another(&self, key: u64, consumer: ConsumerKey) -> bool {
        self.owners.get(&key).is_some_and(|(owner, _)| *owner != consumer)
    }

    pub(super) fn hold(&mut self, consumer: ConsumerKey, offset: u64, until_ms: u64, key: u64) {
        self.leases.insert(offset, Lease { consumer, until_ms, settling: false, key });
        if key != 0 {
            self.owners.entry(key).or_insert((consumer, 0)).1 += 1;
        }
    }

    /// What `mine` says of the messages held in `first..end` that nobody has said anything of yet; they are
    /// marked. What lies between goes to `others`.
    pub(super) fn take(
        &mut self,
        (first, end): (u64, u64),
        mine: impl Fn(&Lease) -> bool,
        mut others: Option<&mut Vec<(u64, u32)>>,
    ) -> Vec<(u64, u32)> {
        let mut runs = Vec::new();
        let mut next = first;
        let mut gap = |from: u64, to: u64| {
            let count = u32::try_from(to - from).unwrap_or(u32::MAX);
            if let Some(others) = others.as_mut().filter(|_| count > 0) {
                others.push((from, count));
            }
        };
        if first < end {
            for (offset, lease) in self.leases.range_mut(first..end) {
                if lease.settling || !mine(lease) {
                    continue;
                }
                lease.settling = true;
                append_offset(&mut runs, *offset);
                gap(next, *offset);
                next = offset + 1;
            }
            gap(next, end);
        }
        runs
    }

    /// What was said of these is in the log; gives how many each consumer held.
    pub(super) fn let_go(&mut self, runs: &[(u64, u32)]) -> HashMap<ConsumerKey, u32> {
        let mut held = HashMap::new();
        for offset in offsets(runs) {
            let Some(lease) = self.leases.remove(&offset) else { continue };
            *held.entry(lease.consumer).or_default() += 1;
            if let Some((_, count)) = self.owners.get_mut(&lease.key) {
                *count -= 1;
                if *count == 0 {
                    self.owners.remove(&lease.key);
                }
            }
        }
        held
    }

    /// What was said of these did not get into the log: they are held as before, until `until_ms`.
    pub(super) fn keep(&mut self, runs: &[(u64, u32)], until_ms: u64) {
        for offset in offsets(runs) {
            if let Some(lease) = self.leases.get_mut(&offset) {
                lease.settling = false;
                lease.until_ms = lease.until_ms.min(until_ms);
            }
        }
    }

    /// Who holds each of these.
    pub(super) fn holders(&self, runs: &[(u64, u32)]) -> Vec<(ConsumerKey, u64)> {
        let held = |offset| self.leases.get(&offset).map(|lease| (lease.consumer, offset));
        offsets(runs).filter_map(held).collect()
    }

    /// All that is held, as runs.
    pub(super) fn held_runs(&self) -> Vec<(u64, u32)> {
        let mut runs = Vec::new();
        self.leases.keys().for_each(|offset| append_offset(&mut runs, *offset));
        runs
    }

    /// What `consumer` holds of these beyond `now_ms`; marked, for it is to be returned.
    pub(super) fn take_ended(
        &mut self,
        consumer: ConsumerKey,
        (first, end): (u64, u64),
        now_ms: u64,
    ) -> Vec<(u64, u32)> {
        let ended = |lease: &Lease| lease.consumer == consumer && lease.until_ms <= now_ms;
        self.take((first, end), ended, None)
    }

    /// A consumer keeps these until `until_ms`; gives how many it holds.
    pub(super) fn extend(
        &mut self,
        consumer: ConsumerKey,
        (first, end): (u64, u64),
        until_ms: u64,
    ) -> u32 {
        let mut extended = 0;
        if first < end {
            let held = self.leases.range_mut(first..end).map(|(_, lease)| lease);
            for lease in held.filter(|l| l.consumer == consumer && !l.settling) {
                lease.until_ms = until_ms;
                extended += 1;
            }
        }
        extended
    }
}
