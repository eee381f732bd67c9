//! What the leader reads of queues: what is owed to whom, what is due, how many there are.

use super::blocks::{BLOCK, Item, Place};
use super::{Counters, Group, Member, Moving, Queue, bit};
use crate::broker::Broker;
use fluxmq_commands::command::queue::{Arguments, DeadLetter, Sharing};

/// Messages of lower priorities that wait get every so manieth turn.
const STARVATION_TURN: u32 = 16;
/// Messages looked at beyond those asked for.
pub const LOOK_MAX: usize = 1_000;

/// A message of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueMessage {
    /// Its number in the queue.
    pub offset: u64,
    /// Where its command and body are.
    pub position: u64,
    /// How often it was returned.
    pub count: u32,
    /// Priority.
    pub priority: u8,
    /// Absolute expiry, Unix ms.
    pub expiry_ms: Option<u64>,
    /// Where it died before.
    pub dead: Option<DeadLetter>,
}

/// Where a leader is with what it gives to a group: behind everything it was handed once. Volatile; a new
/// leader starts with a default one, and so does one whose group was moved (`Effect::GroupChanged`). What
/// comes back is read by [`Broker::returned_to_group`].
#[derive(Clone, Debug, Default)]
pub struct GroupCursor {
    /// By priority.
    lanes: Vec<Place>,
    /// Messages since a lower priority had its turn.
    turn: u32,
}

/// How a queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// Virtual host.
    pub vhost: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Messages that are there, taken or not.
    pub messages: u64,
    /// Bytes of their bodies; 0 where the queue does not count them.
    pub bytes: u64,
    /// Messages whose time has not come.
    pub scheduled: u64,
    /// Dead letters on their way to another shard.
    pub moving: u64,
    /// Offset of the oldest message.
    pub first: u64,
    /// Offset of the next one.
    pub next: u64,
    /// What happened so far.
    pub counters: Counters,
    /// Its groups, by id.
    pub groups: Vec<GroupStats>,
}

/// Which messages of a filter are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Those of QoS ≥ 1.
    Acknowledged,
    /// All.
    Every,
}

/// What who gives out a group's messages must know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// How it shares its messages.
    pub sharing: Sharing,
    /// The active member, where there is one.
    pub active: Option<u64>,
    /// Fencing token of the active member.
    pub epoch: u64,
    /// Offset of the next message of the queue.
    pub next: u64,
}

/// How a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Its incarnation.
    pub group: u64,
    /// Name.
    pub name: Box<str>,
    /// How it shares its messages.
    pub sharing: Sharing,
    /// All below is settled.
    pub cursor: u64,
    /// Messages that are not settled.
    pub open: u64,
    /// Of those, returned and not settled since.
    pub returned: u64,
    /// Members.
    pub members: u64,
    /// The active member, where there is one.
    pub active: Option<u64>,
    /// Fencing token of the active member.
    pub epoch: u64,
}

impl QueueMessage {
    fn new(offset: u64, item: &Item, count: u32) -> Self {
        let expiry_ms = (item.expiry_ms > 0).then_some(item.expiry_ms);
        let (position, priority, dead) = (item.position, item.priority, item.dead);
        Self { offset, position, count, priority, expiry_ms, dead }
    }
}

// === impl GroupCursor ===

impl GroupCursor {
    /// The next message of `lane` that is open and was never returned; leaves the lane's place before it.
    fn peek(
        &mut self,
        lane: usize,
        (q, g): (&Queue, &Group),
        (now_ms, budget): (u64, &mut usize),
    ) -> Option<(u64, Item, Place)> {
        let several = self.lanes.len() > 1;
        let from = g.cursor.max(q.floor);
        if self.lanes[lane].offset < from {
            self.lanes[lane] = q.blocks.at(from, self.lanes[lane]);
        }
        while *budget > 0 {
            *budget -= 1;
            let place = self.lanes[lane];
            let block = q.blocks.get(place.offset / BLOCK)?;
            // Whole blocks without this priority are passed over, but not the one that still grows.
            let without = several && block.levels >> lane & 1 == 0;
            if block.is_hollow() || without && u64::from(block.count) == BLOCK {
                self.lanes[lane] = Place::start(place.offset / BLOCK + 1);
                continue;
            }
            let mut next = place;
            let item = q.blocks.next(&mut next)?;
            let offset = place.offset;
            let open = !g.is_settled(offset)
                && !bit(&q.dead, offset)
                && !g.counts.contains_key(&offset)
                && (item.expiry_ms == 0 || item.expiry_ms > now_ms);
            if open && (!several || usize::from(item.priority) == lane) {
                return Some((offset, item, next));
            }
            self.lanes[lane] = next;
        }
        None
    }

    /// The next message by priority; now and then one of the lowest that wait.
    fn next(
        &mut self,
        of: (&Queue, &Group),
        now_ms: u64,
        budget: &mut usize,
    ) -> Option<QueueMessage> {
        let lanes = self.lanes.len();
        let lowest = lanes > 1 && self.turn >= STARVATION_TURN;
        for n in 0..lanes {
            let lane = if lowest { n } else { lanes - 1 - n };
            if let Some((offset, item, next)) = self.peek(lane, of, (now_ms, budget)) {
                self.lanes[lane] = next;
                let waits =
                    !lowest && (0..lane).any(|l| self.peek(l, of, (now_ms, budget)).is_some());
                self.turn = if waits { self.turn + 1 } else { 0 };
                return Some(QueueMessage::new(offset, &item, 0));
            }
        }
        None
    }
}

// === impl Broker ===

impl Broker {
    fn group(&self, queue: u64, group: u64) -> Option<(&Queue, &Group)> {
        let q = self.state.queues.get(queue)?;
        Some((q, q.groups.get(&group)?))
    }

    /// Appends up to `max` messages the group is to have next and was not handed before; moves `cursor` on.
    /// By priority where the queue has several. Looks at a bounded number of messages: true = it stopped for
    /// that or had found `max`, and there may be more.
    pub fn owed_to_group(
        &self,
        queue: u64,
        group: u64,
        cursor: &mut GroupCursor,
        max: usize,
        out: &mut Vec<QueueMessage>,
    ) -> bool {
        let Some(of) = self.group(queue, group) else { return false };
        cursor.lanes.resize(usize::from(of.0.arguments.levels.max(1)), Place::default());
        let mut budget = max + LOOK_MAX;
        for _ in 0..max {
            match cursor.next(of, self.state.now_ms, &mut budget) {
                Some(message) => out.push(message),
                None => return budget == 0,
            }
        }
        true
    }

    /// Appends up to `max` returned messages of the group that may be given again now, behind offset `after`
    /// (None = from the first), lowest first.
    pub fn returned_to_group(
        &self,
        queue: u64,
        group: u64,
        after: Option<u64>,
        max: usize,
        out: &mut Vec<QueueMessage>,
    ) {
        let Some((q, g)) = self.group(queue, group) else { return };
        let now_ms = self.state.now_ms;
        let from = after.map_or(0, |offset| offset.saturating_add(1)).max(q.floor);
        let mut near = q.base;
        let ready = |offset: &u64| g.waiting.get(offset).is_none_or(|until| *until <= now_ms);
        let found = g.counts.range(from..).take(max + LOOK_MAX).filter(|(offset, _)| ready(offset));
        let alive = found.filter(|(offset, _)| !bit(&q.dead, **offset) && !g.is_settled(**offset));
        for (offset, count) in alive.take(max) {
            near = q.blocks.at(*offset, near);
            let mut place = near;
            let item = q.blocks.next(&mut place);
            let item = item.filter(|i| i.expiry_ms == 0 || i.expiry_ms > now_ms);
            out.extend(item.map(|item| QueueMessage::new(*offset, &item, *count)));
        }
    }

    /// What who gives out a group's messages must know of it.
    #[must_use]
    pub fn group_view(&self, queue: u64, group: u64) -> Option<GroupView> {
        let (q, g) = self.group(queue, group)?;
        Some(GroupView { sharing: g.sharing, active: g.active, epoch: g.epoch, next: q.tail() })
    }

    /// Whether a message is there and not settled by the group.
    #[must_use]
    pub fn is_open(&self, queue: u64, group: u64, offset: u64) -> bool {
        self.group(queue, group).is_some_and(|(q, g)| {
            offset < q.tail() && offset >= q.floor && !g.is_settled(offset) && !bit(&q.dead, offset)
        })
    }

    /// Whether a group has a member.
    #[must_use]
    pub fn has_member(&self, queue: u64, group: u64, token: u64) -> bool {
        self.group(queue, group).is_some_and(|(_, g)| g.members.contains_key(&token))
    }

    /// When the next returned message of the group may be given again, Unix ms.
    #[must_use]
    pub fn next_return(&self, queue: u64, group: u64) -> Option<u64> {
        self.group(queue, group)?.1.waiting_until.first().map(|(ms, _)| *ms)
    }

    /// Up to `max` messages that are there, settled by some groups or not, from `offset` on.
    #[must_use]
    pub fn browse(&self, queue: u64, offset: u64, max: usize) -> Vec<QueueMessage> {
        let Some(q) = self.state.queues.get(queue) else { return Vec::new() };
        let mut place = q.blocks.at(offset.max(q.floor), q.base);
        let items = std::iter::from_fn(|| {
            let offset = place.offset;
            q.blocks.next(&mut place).map(|item| (offset, item))
        });
        let items = items.take(max + LOOK_MAX).filter(|(offset, _)| !bit(&q.dead, *offset));
        items.take(max).map(|(offset, item)| QueueMessage::new(offset, &item, 0)).collect()
    }

    /// Offsets of the oldest message of a queue, and of the next one.
    #[must_use]
    pub fn queue_bounds(&self, queue: u64) -> Option<(u64, u64)> {
        self.state.queues.get(queue).map(|q| (q.floor, q.tail()))
    }

    /// Scheduled messages that are to come next: when, Unix ms, and their ids.
    #[must_use]
    pub fn scheduled(&self, queue: u64, max: usize) -> Vec<(u64, u64)> {
        let q = self.state.queues.get(queue);
        q.map_or(Vec::new(), |q| q.scheduled.keys().take(max).copied().collect())
    }

    /// How a queue is.
    #[must_use]
    pub fn queue_stats(&self, queue: u64) -> Option<QueueStats> {
        let q = self.state.queues.get(queue)?;
        let groups = q.groups.iter().map(|(id, g)| GroupStats {
            group: *id,
            name: g.name.clone(),
            sharing: g.sharing,
            cursor: g.cursor,
            open: Self::open_messages(q, g),
            returned: g.counts.len() as u64,
            members: g.members.len() as u64,
            active: g.active,
            epoch: g.epoch,
        });
        Some(QueueStats {
            vhost: q.vhost.clone(),
            name: q.name.clone(),
            messages: q.live,
            bytes: q.bytes,
            scheduled: q.scheduled.len() as u64,
            moving: q.moving.len() as u64,
            first: q.floor,
            next: q.tail(),
            counters: q.counters,
            groups: groups.collect(),
        })
    }

    /// Arguments a queue was declared with.
    #[must_use]
    pub fn queue_arguments(&self, queue: u64) -> Option<Arguments<'_>> {
        self.state.queues.get(queue).map(Queue::arguments)
    }

    /// Queues of the shard: vhost, name, id.
    pub fn queues(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.index.queues.iter().map(|((vhost, name), id)| (&**vhost, &**name, *id))
    }

    /// Queues of a virtual host whose names come behind `after`, by name: name and id.
    pub fn queues_after(&self, vhost: &str, after: &str) -> impl Iterator<Item = (&str, u64)> {
        let start = (Box::<str>::from(vhost), Box::<str>::from(after));
        let bounds = (std::ops::Bound::Excluded(start), std::ops::Bound::Unbounded);
        let found = self.index.queues.range(bounds);
        let vhost: Box<str> = vhost.into();
        let here = found.take_while(move |((of, _), _)| *of == vhost);
        here.map(|((_, name), id)| (&**name, *id))
    }

    /// Filters a queue is bound to.
    pub fn bindings_of(&self, queue: u64) -> impl Iterator<Item = &str> {
        let found = self.state.queues.get(queue).map(|q| q.bindings.iter());
        found.into_iter().flatten().map(|filter| &**filter)
    }

    /// Filters of bound queues (R1): what is published to them, with any QoS, is for this shard.
    pub fn bindings(&self) -> impl Iterator<Item = (&str, &str)> {
        let bound = self
            .state
            .queues
            .iter()
            .flat_map(|(_, q)| q.bindings.iter().map(|filter| (&*q.vhost, &**filter)));
        let all: std::collections::BTreeSet<_> = bound.collect();
        all.into_iter()
    }

    /// Whether messages of a filter are wanted here: None; those of QoS ≥ 1, by persistent sessions or shared
    /// subscriptions; all, by bound queues (R1).
    #[must_use]
    pub fn wanted(&self, vhost: &str, filter: &str) -> Option<Wants> {
        let plain = |id: &u64| self.state.queues.get(*id).is_some_and(|q| !q.is_hidden());
        let bound = self.index.bindings.all(vhost, filter);
        if bound.iter().any(plain) {
            return Some(Wants::Every);
        }
        let any = !bound.is_empty() || self.index.filters.get(vhost, filter).is_some();
        any.then_some(Wants::Acknowledged)
    }

    /// Members of a group by token.
    pub fn members(&self, queue: u64, group: u64) -> impl Iterator<Item = (u64, Member)> {
        let found = self.group(queue, group).map(|(_, g)| g.members.iter());
        found.into_iter().flatten().map(|(token, member)| (*token, *member))
    }

    /// The member of a keyed group that gets the messages of a key: the one with the highest hash of the key
    /// and its token, so that few keys move when members come and go.
    #[must_use]
    pub fn member_for_key(&self, queue: u64, group: u64, key: &[u8]) -> Option<u64> {
        let weight = |token: &u64| {
            let mut bytes = Vec::with_capacity(key.len() + 8);
            bytes.extend_from_slice(&token.to_le_bytes());
            bytes.extend_from_slice(key);
            (fluxmq_names::hash64(&bytes), *token)
        };
        self.members(queue, group).map(|(token, _)| token).max_by_key(weight)
    }

    /// The queue whose messages may expire first and when, Unix ms: QUEUE_EXPIRE is due then.
    #[must_use]
    pub fn next_expiry(&self) -> Option<(u64, u64)> {
        self.index.expiring.first().copied()
    }

    /// Messages that somebody of another shard is to take, oldest first: queue, number, what, and the name of the
    /// dead-letter queue. They are taken under the key (this shard, queue, number); MOVED crosses them off.
    pub fn owed_moves(&self) -> impl Iterator<Item = (u64, u64, &Moving, &str)> {
        let queues =
            self.index.moving.iter().filter_map(|id| Some((*id, self.state.queues.get(*id)?)));
        queues.flat_map(|(id, q)| {
            q.moving.iter().map(move |(n, moving)| (id, *n, moving, &*q.dead_letter))
        })
    }

    /// The lowest move of a queue that is not done: `lowest_open` of its keys.
    #[must_use]
    pub fn lowest_move(&self, queue: u64) -> u64 {
        let q = self.state.queues.get(queue);
        q.map_or(0, |q| q.moving.first_key_value().map_or(q.last_move + 1, |(n, _)| *n))
    }
}
