//! Groups: made, moved, copied; and who is in them (Q4).

use fluxmq_names::{ErrorCode, validate_queue_name};

use super::blocks::BLOCK;
use super::{Group, Member, Queue, Work, count, mask};
use crate::broker::Broker;
use crate::effect::Effect;
use crate::limits::{GROUPS_MAX, MEMBERS_MAX};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{Sharing, Start};

/// Blocks that are searched for the newest message.
const NEWEST_BLOCKS: usize = 4_000;

// === impl Queue ===

impl Queue {
    /// The newest message that is there, if it is among the last half million.
    fn newest(&self) -> Option<u64> {
        let tail = self.tail();
        let blocks = self.floor / BLOCK..tail.div_ceil(BLOCK);
        blocks.rev().take(NEWEST_BLOCKS).find_map(|block| {
            let dead = self.dead.get(&block).copied().unwrap_or_default();
            let live = mask(block, self.floor, tail) & !dead;
            (live != 0).then(|| block * BLOCK + u64::from(live.ilog2()))
        })
    }

    /// The offset where a group begins.
    fn start(&self, start: Start) -> u64 {
        let tail = self.tail();
        let offset = match start {
            Start::First => self.floor,
            Start::Last => self.newest().unwrap_or(tail),
            Start::Next => tail,
            Start::Offset(offset) => offset,
            Start::Time(ms) => self.blocks.partition(|b| b.last_ms >= ms) * BLOCK,
        };
        offset.clamp(self.floor, tail)
    }
}

// === impl Group ===

impl Group {
    /// The member that gets everything: of those preferred most the one that came first.
    fn elect(&self) -> Option<u64> {
        if !matches!(self.sharing, Sharing::SingleActive | Sharing::Exclusive) {
            return None;
        }
        // Who is active stays so until somebody with a higher priority comes.
        let preferred = |(token, m): &(&u64, &Member)| {
            (m.priority, self.active == Some(**token), std::cmp::Reverse(**token))
        };
        self.members.iter().max_by_key(preferred).map(|(token, _)| *token)
    }

    /// Elects again; true when somebody else is active, with a new epoch.
    fn reelect(&mut self, position: u64) -> bool {
        let active = self.elect();
        let changed = active != self.active;
        if changed {
            self.active = active;
            self.epoch = position;
        }
        changed
    }
}

// === impl Broker ===

impl Broker {
    pub(super) fn create_group(
        &mut self,
        position: u64,
        queue: u64,
        name: &str,
        (start, sharing): (Start, Sharing),
    ) -> Outcome {
        if validate_queue_name(name).is_err() {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        let Some(q) = self.state.queues.get(queue) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        if let Some((id, group)) = q.groups.iter().find(|(_, g)| *g.name == *name) {
            if group.sharing != sharing {
                let detail = group.sharing as u64;
                return Outcome::Error { code: ErrorCode::AlreadyExists, detail };
            }
            return Outcome::Group { group: *id, cursor: group.cursor, fresh: false };
        }
        let cursor = q.start(start);
        let group = Group { name: name.into(), sharing, cursor, ..Group::default() };
        self.add_group(position, queue, group)
    }

    fn add_group(&mut self, position: u64, queue: u64, group: Group) -> Outcome {
        let full = self.state.queues.get(queue).is_some_and(|q| q.groups.len() >= GROUPS_MAX);
        if full {
            return Outcome::refused(ErrorCode::LimitExceeded);
        }
        let cursor = group.cursor;
        self.work_on(queue, |q, work| {
            work.changed = true;
            q.groups.insert(position, group)
        });
        self.effects.push(Effect::GroupChanged { queue, group: position });
        Outcome::Group { group: position, cursor, fresh: true }
    }

    pub(super) fn copy_group(&mut self, position: u64, queue: u64, of: u64, name: &str) -> Outcome {
        let found = self.state.queues.get(queue).and_then(|q| q.groups.get(&of).map(|g| (q, g)));
        let Some((q, group)) = found else { return Outcome::refused(ErrorCode::NotFound) };
        if validate_queue_name(name).is_err() {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        if q.groups.values().any(|g| *g.name == *name) {
            return Outcome::refused(ErrorCode::AlreadyExists);
        }
        let copy = Group {
            name: name.into(),
            members: std::collections::BTreeMap::new(),
            active: None,
            epoch: 0,
            ..group.clone()
        };
        self.spend((copy.settled.len() + copy.counts.len()) as u32 / 20);
        self.add_group(position, queue, copy)
    }

    pub(super) fn delete_group(&mut self, queue: u64, group: u64) -> Outcome {
        let removed = self.work_on(queue, |q, work| {
            work.changed = true;
            q.review = 0;
            q.groups.remove(&group)
        });
        let removed = removed.flatten();
        let Some(removed) = removed else { return Outcome::refused(ErrorCode::NotFound) };
        for (token, member) in removed.members {
            self.index.members.remove(&(member.gateway, queue, group, token));
            self.index.disown(&member, (queue, group, token));
        }
        self.effects.push(Effect::GroupChanged { queue, group });
        Outcome::Done
    }

    /// The group begins again somewhere: all from there on is open, all below is settled.
    pub(super) fn seek_group(&mut self, queue: u64, group: u64, start: Start) -> Outcome {
        let sought = self.work_on(queue, |q, work| {
            work.changed = true;
            let cursor = q.start(start);
            let g = q.groups.get_mut(&group)?;
            work.spend((g.settled.len() + g.counts.len()) as u32 / 20);
            g.seek(cursor);
            q.review = 0;
            Some(cursor)
        });
        self.effects.push(Effect::GroupChanged { queue, group });
        match sought.flatten() {
            Some(cursor) => Outcome::Number(cursor),
            None => Outcome::refused(ErrorCode::NotFound),
        }
    }

    pub(super) fn join_group(
        &mut self,
        position: u64,
        (queue, group): (u64, u64),
        member: Member,
    ) -> Outcome {
        let found = self.state.queues.get_mut(queue).and_then(|q| q.groups.get_mut(&group));
        let Some(g) = found else { return Outcome::refused(ErrorCode::NotFound) };
        let owner = member.owner();
        let again = g.members.iter().find(|(_, m)| owner.is_some() && m.owner() == owner);
        if let Some((token, _)) = again {
            let (token, epoch, active) = (*token, g.epoch, g.active.is_none_or(|a| a == *token));
            return Outcome::Joined { token, epoch, active };
        }
        if g.sharing == Sharing::Exclusive && !g.members.is_empty() {
            return Outcome::refused(ErrorCode::InUse);
        }
        if g.members.len() >= MEMBERS_MAX {
            return Outcome::refused(ErrorCode::LimitExceeded);
        }
        let cost = g.members.len() as u32 / 8;
        g.members.insert(position, member);
        g.reelect(position);
        let active = g.active.is_none_or(|a| a == position);
        let epoch = g.epoch;
        self.index.members.insert((member.gateway, queue, group, position));
        self.index.own(&member, (queue, group, position));
        self.spend(cost);
        self.touch(queue);
        self.effects.push(Effect::GroupChanged { queue, group });
        Outcome::Joined { token: position, epoch, active }
    }

    /// A member leaves; `position` is that of the command, the epoch of who comes after it.
    pub(crate) fn leave_group(
        &mut self,
        position: u64,
        (queue, group): (u64, u64),
        token: u64,
    ) -> bool {
        let found = self.state.queues.get_mut(queue).and_then(|q| q.groups.get_mut(&group));
        let Some(g) = found else { return false };
        let Some(member) = g.members.remove(&token) else { return false };
        g.reelect(position);
        self.index.members.remove(&(member.gateway, queue, group, token));
        self.index.disown(&member, (queue, group, token));
        self.touch(queue);
        self.effects.push(Effect::GroupChanged { queue, group });
        let abandoned = self.state.queues.get(queue).is_some_and(|q| {
            q.arguments.auto_delete && q.groups.values().all(|g| g.members.is_empty())
        });
        if abandoned {
            self.remove_queue(queue);
        }
        true
    }

    /// How many messages of a group are open.
    #[must_use]
    pub(super) fn open_messages(q: &Queue, g: &Group) -> u64 {
        let mut work = Work::default();
        let tail = q.tail();
        let settled = count(&[&g.settled, &q.dead], g.cursor, tail, &mut work);
        tail.saturating_sub(g.cursor) - settled
    }
}
