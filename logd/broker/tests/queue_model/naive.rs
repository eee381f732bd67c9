//! The naive model of queues: a list of all messages ever appended, each group a set of what it settled. It
//! shares no code with the broker but the types of commands and outcomes.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_commands::command::Publish;
use fluxmq_commands::command::queue::*;
use fluxmq_commands::{Appending, Outcome};
use fluxmq_names::ErrorCode;
use logd_broker::MovesTo;

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) position: u64,
    pub(crate) expiry_ms: u64,
    pub(crate) priority: u8,
    pub(crate) size: u64,
    pub(crate) dead: Option<DeadLetter>,
    pub(crate) key: Vec<u8>,
    pub(crate) alive: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) sharing: Sharing,
    /// Everything below counts as settled.
    pub(crate) start: u64,
    pub(crate) settled: BTreeSet<u64>,
    /// Returned: how often, and when it may be given again.
    pub(crate) returned: BTreeMap<u64, (u32, u64)>,
    /// Token → gateway and priority.
    pub(crate) members: BTreeMap<u64, (u64, u8)>,
    pub(crate) active: Option<u64>,
    pub(crate) epoch: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) id: u64,
    pub(crate) arguments: Arguments<'static>,
    pub(crate) messages: Vec<Message>,
    pub(crate) groups: BTreeMap<u64, Group>,
    pub(crate) bindings: BTreeSet<String>,
    pub(crate) scheduled: BTreeMap<(u64, u64), Message>,
    pub(crate) moving: BTreeMap<u64, (u64, MovesTo)>,
    pub(crate) last_move: u64,
    pub(crate) ids: BTreeMap<String, u64>,
    pub(crate) producers: BTreeMap<String, u64>,
    pub(crate) touched_ms: u64,
    /// When messages are looked at for expiry, 128 at a time; a spared one puts it off by a second.
    pub(crate) looks: BTreeMap<u64, u64>,
    pub(crate) expired: u64,
    pub(crate) overflowed: u64,
    pub(crate) rejected: u64,
    pub(crate) limited: u64,
    pub(crate) compacted: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) cycled: u64,
    pub(crate) repeats: u64,
}

/// What died in a queue, to be buried.
type Died = Vec<(u64, DeadReason, u32)>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) now_ms: u64,
    pub(crate) queues: BTreeMap<String, Queue>,
    pub(crate) keys: BTreeSet<u64>,
    chain: u32,
    /// The part of a transaction that is done now was looked at before.
    unasked: bool,
}

impl Group {
    fn new(name: &str, sharing: Sharing, start: u64) -> Self {
        Self {
            name: name.into(),
            sharing,
            start,
            settled: BTreeSet::new(),
            returned: BTreeMap::new(),
            members: BTreeMap::new(),
            active: None,
            epoch: 0,
        }
    }

    pub(crate) fn has_settled(&self, offset: u64) -> bool {
        offset < self.start || self.settled.contains(&offset)
    }

    fn join(&mut self, position: u64, member: (u64, u8)) -> Outcome {
        if self.sharing == Sharing::Exclusive && !self.members.is_empty() {
            return Outcome::refused(ErrorCode::InUse);
        }
        self.members.insert(position, member);
        self.elect(position);
        let active = self.active.is_none_or(|a| a == position);
        Outcome::Joined { token: position, epoch: self.epoch, active }
    }

    fn elect(&mut self, position: u64) {
        let mut best: Option<(u64, u8)> = None;
        if matches!(self.sharing, Sharing::SingleActive | Sharing::Exclusive) {
            for (&token, &(_, priority)) in &self.members {
                let better = match best {
                    None => true,
                    Some((_, b)) if priority != b => priority > b,
                    Some(_) => self.active == Some(token),
                };
                if better {
                    best = Some((token, priority));
                }
            }
        }
        let chosen = best.map(|(token, _)| token);
        if chosen != self.active {
            self.active = chosen;
            self.epoch = position;
        }
    }
}

impl Queue {
    fn new(id: u64, arguments: Arguments<'static>, now_ms: u64) -> Self {
        let mut groups = BTreeMap::new();
        if arguments.retention == Retention::Acked {
            groups.insert(id, Group::new("default", arguments.sharing, 0));
        }
        Self {
            id,
            arguments,
            messages: Vec::new(),
            groups,
            bindings: BTreeSet::new(),
            scheduled: BTreeMap::new(),
            moving: BTreeMap::new(),
            last_move: 0,
            ids: BTreeMap::new(),
            producers: BTreeMap::new(),
            touched_ms: now_ms,
            looks: BTreeMap::new(),
            expired: 0,
            overflowed: 0,
            rejected: 0,
            limited: 0,
            compacted: 0,
            dead_lettered: 0,
            cycled: 0,
            repeats: 0,
        }
    }

    pub(crate) fn alive(&self) -> impl Iterator<Item = (u64, &Message)> {
        let all = self.messages.iter().enumerate().map(|(o, m)| (o as u64, m));
        all.filter(|(_, m)| m.alive)
    }

    pub(crate) fn tail(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(crate) fn floor(&self) -> u64 {
        self.alive().next().map_or(self.tail(), |(o, _)| o)
    }

    pub(crate) fn cursor(&self, g: &Group) -> u64 {
        let done = |o: &u64| g.has_settled(*o) || !self.messages[*o as usize].alive;
        (0..self.tail()).find(|o| !done(o)).unwrap_or(self.tail()).max(g.start)
    }

    pub(crate) fn sized(&self) -> bool {
        self.arguments.max_bytes > 0 || !self.arguments.dead_letter.is_empty()
    }

    pub(crate) fn bytes(&self) -> u64 {
        if self.sized() { self.alive().map(|(_, m)| m.size).sum() } else { 0 }
    }

    pub(crate) fn has_members(&self) -> bool {
        self.groups.values().any(|g| !g.members.is_empty())
    }

    fn refuses(&self, size: u64) -> Option<ErrorCode> {
        let a = &self.arguments;
        if a.max_bytes > 0 && size > a.max_bytes {
            return Some(ErrorCode::TooLarge);
        }
        let waiting = self.alive().count() as u64 + self.scheduled.len() as u64;
        let full = a.max_messages > 0 && waiting >= a.max_messages
            || a.max_bytes > 0 && self.bytes() + size > a.max_bytes;
        (full && a.overflow == Overflow::Reject).then_some(ErrorCode::LimitExceeded)
    }

    /// What all groups have settled dies, in a work queue.
    fn bury_settled(&mut self) {
        if self.arguments.retention == Retention::Acked && !self.groups.is_empty() {
            for (offset, message) in self.messages.iter_mut().enumerate() {
                message.alive &= !self.groups.values().all(|g| g.has_settled(offset as u64));
            }
        }
    }

    fn push(&mut self, mut message: Message, now_ms: u64, died: &mut Died) -> u64 {
        let a = self.arguments;
        if a.message_ttl_ms > 0 {
            let by_ttl = now_ms + a.message_ttl_ms;
            let own = if message.expiry_ms == 0 { u64::MAX } else { message.expiry_ms };
            message.expiry_ms = own.min(by_ttl);
        }
        if !self.sized() {
            message.size = 0;
        }
        if !message.key.is_empty() {
            for old in self.messages.iter_mut().filter(|m| m.key == message.key && m.alive) {
                old.alive = false;
                self.compacted += 1;
            }
        }
        if message.expiry_ms > 0 {
            let look = self.looks.entry(self.tail() / 128).or_insert(u64::MAX);
            *look = message.expiry_ms.min(*look);
        }
        self.messages.push(message);
        loop {
            let over = a.max_messages > 0 && self.alive().count() as u64 > a.max_messages
                || a.max_bytes > 0 && self.bytes() > a.max_bytes;
            if !over || a.overflow == Overflow::Reject {
                return self.tail() - 1;
            }
            let oldest = self.floor();
            self.messages[oldest as usize].alive = false;
            self.overflowed += 1;
            if a.overflow == Overflow::DeadLetter {
                died.push((oldest, DeadReason::Overflow, 0));
            }
        }
    }

    fn take(
        &mut self,
        m: Message,
        o: &Options<'_>,
        now_ms: u64,
        died: &mut Died,
    ) -> (Appending, u64) {
        let window_ms = self.arguments.dedup_window_ms;
        let known = |ms: &u64| *ms + window_ms > now_ms;
        let again = window_ms > 0 && self.ids.get(o.message_id).is_some_and(known)
            || o.producer
                .is_some_and(|(name, n)| self.producers.get(name).is_some_and(|l| n <= *l));
        if again {
            self.repeats += 1;
            return (Appending::Repeat, 0);
        }
        if let Some((name, n)) = o.producer {
            self.producers.insert(name.into(), n);
        }
        if window_ms > 0 && !o.message_id.is_empty() {
            self.ids.insert(o.message_id.into(), now_ms);
        }
        let levels = self.arguments.levels;
        let priority = if levels == 0 { 0 } else { o.priority.min(levels - 1) };
        let key = if self.arguments.compact { o.key.to_vec() } else { Vec::new() };
        let message = Message { priority, key, ..m };
        if o.deliver_at_ms > now_ms {
            let position = message.position;
            self.scheduled.insert((o.deliver_at_ms, position), message);
            return (Appending::Scheduled, position);
        }
        (Appending::Stored, self.push(message, now_ms, died))
    }

    fn verdict(&mut self, group: u64, s: &Settlement, now_ms: u64, died: &mut Died) -> u64 {
        let a = self.arguments;
        let end = (s.first + u64::from(s.count)).min(self.tail());
        let first = if s.verdict == Verdict::AckBelow { 0 } else { s.first };
        let mut open = 0;
        for offset in first..end {
            let alive = self.messages[offset as usize].alive;
            let g = self.groups.get_mut(&group).expect("checked");
            if g.has_settled(offset) || !alive {
                // What is gone counts as settled too, should the cursor be asked.
                continue;
            }
            open += 1;
            let count = g.returned.get(&offset).map_or(0, |r| r.0);
            let mut dies = None;
            match s.verdict {
                Verdict::Ack | Verdict::AckBelow => drop(g.settled.insert(offset)),
                Verdict::Reject => dies = Some((DeadReason::Rejected, count)),
                Verdict::Release => drop(g.returned.insert(offset, (count, 0))),
                Verdict::Return | Verdict::ReturnLater => {
                    let count = count + 1;
                    if a.delivery_limit > 0 && count >= a.delivery_limit {
                        dies = Some((DeadReason::DeliveryLimit, count));
                    } else {
                        let later = s.verdict == Verdict::ReturnLater && a.backoff_ms > 0;
                        let mut pause = u64::from(a.backoff_ms) * 2u64.pow(count - 1);
                        if a.backoff_max_ms > 0 {
                            pause = pause.min(a.backoff_max_ms.into());
                        }
                        g.returned.insert(offset, (count, if later { now_ms + pause } else { 0 }));
                    }
                }
            }
            if let Some((reason, count)) = dies {
                g.settled.insert(offset);
                died.push((offset, reason, count));
                match reason {
                    DeadReason::Rejected => self.rejected += 1,
                    _ => self.limited += 1,
                }
            }
            let g = self.groups.get_mut(&group).expect("checked");
            if g.settled.contains(&offset) {
                g.returned.remove(&offset);
            }
        }
        self.bury_settled();
        open
    }

    fn expire(&mut self, spared: &[(u64, u32)], now_ms: u64) -> Died {
        let mut died = Died::new();
        let due: Vec<_> =
            self.looks.iter().filter(|(_, ms)| **ms <= now_ms).map(|(b, _)| *b).collect();
        let mut next = BTreeMap::new();
        for (offset, m) in self.messages.iter_mut().enumerate() {
            let offset = offset as u64;
            if !due.contains(&(offset / 128)) || !m.alive || m.expiry_ms == 0 {
                continue;
            }
            let held = spared.iter().any(|(f, n)| (*f..f + u64::from(*n)).contains(&offset));
            let again = if m.expiry_ms > now_ms { m.expiry_ms } else { now_ms + 1_000 };
            if m.expiry_ms <= now_ms && !held {
                m.alive = false;
                died.push((offset, DeadReason::Expired, 0));
            } else {
                let look = next.entry(offset / 128).or_insert(u64::MAX);
                *look = again.min(*look);
            }
        }
        self.looks.retain(|block, _| !due.contains(block));
        self.looks.extend(next);
        self.expired += died.len() as u64;
        died
    }

    fn start(&self, start: Start) -> u64 {
        let at = match start {
            Start::First => self.floor(),
            Start::Last => self.alive().last().map_or(self.tail(), |(o, _)| o),
            Start::Next => self.tail(),
            Start::Offset(offset) => offset,
            Start::Time(_) => unreachable!("not asked: blocks are no business of the model"),
        };
        at.clamp(self.floor(), self.tail())
    }
}

impl Model {
    fn named(&self, id: u64) -> Option<String> {
        self.queues.iter().find(|(_, q)| q.id == id).map(|(name, _)| name.clone())
    }

    fn bury(&mut self, name: &str, died: Died) {
        let source = self.queues[name].clone();
        let target = source.arguments.dead_letter;
        if target.is_empty() {
            return;
        }
        for (offset, reason, count) in died {
            let m = source.messages[offset as usize].clone();
            let hops = m.dead.map_or(0, |d| d.hops) + 1;
            let q = self.queues.get_mut(name).expect("it died there");
            if hops > 8 {
                q.cycled += 1;
                continue;
            }
            q.dead_lettered += 1;
            let dead = DeadLetter { reason, hops, count, shard: 0, queue: source.id, offset };
            let takes = self.chain < 4
                && target != name
                && self.queues.get(target).is_some_and(|t| t.refuses(m.size).is_none());
            if takes {
                let letter =
                    Message { expiry_ms: 0, dead: Some(dead), key: Vec::new(), alive: true, ..m };
                self.push_dead(target, letter);
            } else {
                let q = self.queues.get_mut(name).expect("it died there");
                q.last_move += 1;
                q.moving.insert(q.last_move, (m.position, MovesTo::DeadLetterQueue(dead)));
            }
        }
    }

    fn push_dead(&mut self, target: &str, mut letter: Message) -> u64 {
        let now_ms = self.now_ms;
        let t = self.queues.get_mut(target).expect("asked before");
        letter.priority = letter.priority.min(t.arguments.levels.saturating_sub(1));
        let mut died = Died::new();
        self.chain += 1;
        let offset = t.push(letter, now_ms, &mut died);
        self.bury(target, died);
        self.chain -= 1;
        offset
    }

    fn take_into(&mut self, names: &[String], m: &Message, o: &Options<'_>) -> Outcome {
        let mut queues = 0;
        let mut first = None;
        for name in names {
            let mut died = Died::new();
            let now_ms = self.now_ms;
            let q = self.queues.get_mut(name).expect("asked before");
            let (how, offset) = q.take(m.clone(), o, now_ms, &mut died);
            self.bury(name, died);
            if how != Appending::Repeat {
                queues += 1;
                first = first.or(Some((how, offset)));
            }
        }
        let (how, offset) = first.unwrap_or((Appending::Repeat, 0));
        Outcome::Appended { queues, offset, how }
    }

    pub(crate) fn publish(&mut self, position: u64, p: &Publish<'_>, size: u64) -> Outcome {
        let matches =
            |q: &Queue| q.bindings.iter().any(|f| fluxmq_names::filter_matches(f, p.topic));
        let mut names: Vec<_> = self
            .queues
            .iter()
            .filter(|(_, q)| matches(q))
            .map(|(n, q)| (q.id, n.clone()))
            .collect();
        names.sort();
        for (id, name) in &names {
            if let Some(code) = self.queues[name].refuses(size) {
                return Outcome::Error { code, detail: *id };
            }
        }
        let names: Vec<_> = names.into_iter().map(|(_, n)| n).collect();
        let m = message(position, p.expiry_ms, size);
        self.take_into(&names, &m, &p.options);
        Outcome::Published { matched: names.len() as u32 }
    }

    /// All parts or none: what each would find if only messages were added before it decides.
    pub(crate) fn transaction(
        &mut self,
        gateway: u64,
        parts: &[(u64, QueueCommand<'static>)],
        size: u64,
    ) -> Vec<Outcome> {
        let mut ahead: BTreeMap<u64, u64> = BTreeMap::new();
        let refusal = parts.iter().find_map(|(_, part)| {
            let mut alone = self.clone();
            let QueueCommand::Enqueue(e) = part else {
                let outcome = alone.apply(gateway, 0, part, size);
                return matches!(outcome, Outcome::Error { .. }).then_some(outcome);
            };
            // What a key says was taken needs no room; what its id or sequence says is only seen later.
            if e.key.is_none_or(|k| !self.keys.contains(&k.n)) {
                for id in e.queues() {
                    let count = ahead.entry(id).or_default();
                    alone.add_ahead(id, *count, size);
                    *count += 1;
                }
            }
            let outcome = alone.enqueue(0, e, size);
            matches!(outcome, Outcome::Error { .. }).then_some(outcome)
        });
        if let Some(refusal) = refusal {
            let mut all = vec![Outcome::refused(ErrorCode::Aborted); parts.len()];
            all.insert(0, refusal);
            return all;
        }
        let mut all = vec![Outcome::Done];
        for (position, part) in parts {
            // Looked at before: a full queue takes it all the same.
            self.unasked = true;
            all.push(self.apply(gateway, *position, part, size));
            self.unasked = false;
        }
        all
    }

    /// So many messages more wait in a queue that refuses what is too much.
    fn add_ahead(&mut self, id: u64, count: u64, size: u64) {
        let Some(name) = self.named(id) else { return };
        let q = self.queues.get_mut(&name).expect("named");
        if q.arguments.overflow == Overflow::Reject {
            for _ in 0..count {
                q.messages.push(message(0, None, size));
            }
        }
    }

    fn enqueue(&mut self, position: u64, e: &Enqueue<'_>, size: u64) -> Outcome {
        let ids: Vec<_> = e.queues().collect();
        if ids.is_empty() || !ids.is_sorted_by(|a, b| a < b) || e.dead.is_some() && ids.len() > 1 {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        if e.key.is_some_and(|k| self.keys.contains(&k.n)) {
            return Outcome::Appended { queues: 0, offset: 0, how: Appending::Repeat };
        }
        let mut names = Vec::new();
        for id in ids {
            let Some(name) = self.named(id) else {
                return Outcome::Error { code: ErrorCode::NotFound, detail: id };
            };
            if let Some(code) = self.queues[&name].refuses(size).filter(|_| !self.unasked) {
                return Outcome::Error { code, detail: id };
            }
            names.push(name);
        }
        self.keys.extend(e.key.map(|k| k.n));
        let m = message(position, e.expiry_ms, size);
        if let Some(dead) = e.dead {
            let letter =
                Message { expiry_ms: 0, dead: Some(dead), priority: e.options.priority, ..m };
            let offset = self.push_dead(&names[0], letter);
            return Outcome::Appended { queues: 1, offset, how: Appending::Stored };
        }
        self.take_into(&names, &m, &e.options)
    }

    /// Who may ask for it was looked at before.
    pub(crate) fn apply(
        &mut self,
        gateway: u64,
        position: u64,
        command: &QueueCommand<'static>,
        size: u64,
    ) -> Outcome {
        let now_ms = self.now_ms;
        let missing = Outcome::refused(ErrorCode::NotFound);
        let id = match command {
            QueueCommand::Declare { name, arguments, passive, .. } => {
                return self.declare(position, name, arguments, *passive);
            }
            QueueCommand::Enqueue(e) => return self.enqueue(position, e, size),
            QueueCommand::Transaction { .. } => unreachable!("done as a whole"),
            QueueCommand::Moved { queue, numbers, dropped } => {
                let Some(name) = self.named(*queue) else { return Outcome::Number(0) };
                let q = self.queues.get_mut(&name).expect("named");
                let gone = numbers.iter().filter(|n| q.moving.remove(n).is_some()).count() as u64;
                q.cycled += if *dropped { gone } else { 0 };
                return Outcome::Number(gone);
            }
            _ => target(command),
        };
        let Some(name) = self.named(id) else { return missing };
        let q = self.queues.get_mut(&name).expect("named");
        match command {
            QueueCommand::Delete { if_empty, if_unused, .. } => {
                let held = q.alive().count() as u64 + q.scheduled.len() as u64;
                if *if_empty && held > 0 || *if_unused && q.has_members() {
                    return Outcome::Error { code: ErrorCode::InUse, detail: held };
                }
                self.queues.remove(&name);
                Outcome::Number(held)
            }
            QueueCommand::Purge { .. } => {
                q.touched_ms = now_ms;
                let purged = q.alive().count() as u64;
                q.messages.iter_mut().for_each(|m| m.alive = false);
                Outcome::Number(purged)
            }
            QueueCommand::Bind { filter, bound, .. } => {
                if *bound {
                    q.bindings.insert((*filter).into());
                } else {
                    q.bindings.remove(*filter);
                }
                Outcome::Done
            }
            QueueCommand::CancelScheduled { ids, .. } => {
                let before = q.scheduled.len();
                q.scheduled.retain(|(_, id), _| !ids.contains(id));
                Outcome::Number((before - q.scheduled.len()) as u64)
            }
            QueueCommand::Touch { .. } => {
                q.touched_ms = now_ms;
                Outcome::Done
            }
            QueueCommand::Give { group, offset, to, .. } => self.give(&name, *group, *offset, *to),
            QueueCommand::Expire { spared, .. } => {
                let died = q.expire(spared, now_ms);
                let expired = died.len() as u64;
                self.bury(&name, died);
                Outcome::Number(expired)
            }
            _ => self.group_command(gateway, position, &name, command),
        }
    }

    fn declare(
        &mut self,
        position: u64,
        name: &str,
        a: &Arguments<'static>,
        passive: bool,
    ) -> Outcome {
        let now_ms = self.now_ms;
        if let Some(q) = self.queues.get_mut(name) {
            let detail = q.arguments.difference(a);
            if detail != 0 && !passive {
                return Outcome::Error { code: ErrorCode::AlreadyExists, detail };
            }
            q.touched_ms = now_ms;
            return Outcome::Declared { queue: q.id, fresh: false };
        }
        if passive {
            return Outcome::refused(ErrorCode::NotFound);
        }
        if a.dead_letter == name
            || a.overflow == Overflow::DeadLetter && a.dead_letter.is_empty()
            || a.max_age_ms > 0 && a.retention == Retention::Acked
        {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        self.queues.insert(name.into(), Queue::new(position, *a, now_ms));
        Outcome::Declared { queue: position, fresh: true }
    }

    fn group_command(
        &mut self,
        gateway: u64,
        position: u64,
        name: &str,
        command: &QueueCommand<'static>,
    ) -> Outcome {
        let (now_ms, missing) = (self.now_ms, Outcome::refused(ErrorCode::NotFound));
        let q = self.queues.get_mut(name).expect("named");
        match command {
            QueueCommand::GroupCreate { name, start, sharing, .. } => {
                if let Some((id, g)) = q.groups.iter().find(|(_, g)| g.name == *name) {
                    if g.sharing != *sharing {
                        let detail = g.sharing as u64;
                        return Outcome::Error { code: ErrorCode::AlreadyExists, detail };
                    }
                    return Outcome::Group { group: *id, cursor: q.cursor(g), fresh: false };
                }
                let cursor = q.start(*start);
                q.groups.insert(position, Group::new(name, *sharing, cursor));
                q.bury_settled();
                Outcome::Group { group: position, cursor, fresh: true }
            }
            QueueCommand::GroupCopy { group, name, .. } => {
                let Some(g) = q.groups.get(group) else { return missing };
                if q.groups.values().any(|g| g.name == *name) {
                    return Outcome::refused(ErrorCode::AlreadyExists);
                }
                let cursor = q.cursor(g);
                let members = BTreeMap::new();
                let copy =
                    Group { name: (*name).into(), members, active: None, epoch: 0, ..g.clone() };
                q.groups.insert(position, copy);
                Outcome::Group { group: position, cursor, fresh: true }
            }
            QueueCommand::GroupDelete { group, .. } => {
                if q.groups.remove(group).is_none() {
                    return missing;
                }
                q.bury_settled();
                Outcome::Done
            }
            QueueCommand::GroupSeek { group, start, .. } => {
                let cursor = q.start(*start);
                let Some(g) = q.groups.get_mut(group) else { return missing };
                g.start = cursor;
                g.settled.clear();
                g.returned.clear();
                q.bury_settled();
                Outcome::Number(cursor)
            }
            QueueCommand::GroupJoin { group, priority, stays, .. } => {
                let Some(g) = q.groups.get_mut(group) else { return missing };
                let of = if *stays == Stays::UntilItLeaves { 0 } else { gateway };
                let joined = g.join(position, (of, *priority));
                if matches!(joined, Outcome::Joined { .. }) {
                    q.touched_ms = now_ms;
                }
                joined
            }
            QueueCommand::GroupLeave { group, token, .. } => {
                if self.leave(position, name, *group, *token) { Outcome::Done } else { missing }
            }
            QueueCommand::Settle { group, token, verdicts, .. } => {
                let leader = gateway == 0 && *token == 0;
                self.settle(name, *group, (*token, leader), verdicts)
            }
            _ => unreachable!("not about groups"),
        }
    }

    fn settle(
        &mut self,
        name: &str,
        group: u64,
        (token, leader): (u64, bool),
        verdicts: &[Settlement],
    ) -> Outcome {
        let now_ms = self.now_ms;
        let q = self.queues.get_mut(name).expect("named");
        let Some(g) = q.groups.get(&group) else { return Outcome::refused(ErrorCode::NotFound) };
        let current = match g.sharing {
            Sharing::Shared => true,
            Sharing::Keyed => g.members.contains_key(&token),
            _ => token == g.epoch,
        };
        if !current && !leader {
            return Outcome::Error { code: ErrorCode::StaleEpoch, detail: g.epoch };
        }
        q.touched_ms = now_ms;
        let mut died = Died::new();
        let all = verdicts.iter().map(|s| q.verdict(group, s, now_ms, &mut died));
        let all = all.sum();
        self.bury(name, died);
        Outcome::Number(all)
    }

    fn give(&mut self, name: &str, group: u64, offset: u64, to: Option<Recipient>) -> Outcome {
        let q = self.queues.get_mut(name).expect("named");
        let Some(g) = q.groups.get(&group) else { return Outcome::refused(ErrorCode::NotFound) };
        if g.sharing != Sharing::Shared {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        let open = q.messages.get(offset as usize).filter(|m| m.alive && !g.has_settled(offset));
        let Some(position) = open.map(|m| m.position) else { return Outcome::Number(0) };
        if let Some(to) = to {
            q.last_move += 1;
            q.moving.insert(q.last_move, (position, MovesTo::Session(to)));
        }
        let ack = Settlement { verdict: Verdict::Ack, first: offset, count: 1 };
        self.settle(name, group, (0, true), &[ack])
    }

    fn leave(&mut self, position: u64, name: &str, group: u64, token: u64) -> bool {
        let now_ms = self.now_ms;
        let q = self.queues.get_mut(name).expect("named");
        let Some(g) = q.groups.get_mut(&group) else { return false };
        if g.members.remove(&token).is_none() {
            return false;
        }
        g.elect(position);
        q.touched_ms = now_ms;
        if q.arguments.auto_delete && !q.has_members() {
            self.queues.remove(name);
        }
        true
    }

    pub(crate) fn end_gateway(&mut self, position: u64, gateway: u64) {
        let mut gone: Vec<_> = Vec::new();
        for (name, q) in &self.queues {
            for (id, g) in &q.groups {
                let of = g.members.iter().filter(|(_, m)| m.0 == gateway);
                gone.extend(of.map(|(token, _)| (q.id, *id, *token, name.clone())));
            }
        }
        gone.sort();
        for (_, group, token, name) in gone {
            if self.queues.contains_key(&name) {
                self.leave(position, &name, group, token);
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        let now_ms = self.now_ms;
        // Queues that are due, by when they came to be due.
        let due = |q: &Queue| {
            let scheduled = q.scheduled.keys().next().map(|(ms, _)| *ms);
            let unused = (q.arguments.expires_ms > 0 && !q.has_members())
                .then(|| q.touched_ms + q.arguments.expires_ms);
            [scheduled, unused].into_iter().flatten().min().filter(|ms| *ms <= now_ms)
        };
        while let Some((_, _, name)) =
            self.queues.iter().filter_map(|(n, q)| Some((due(q)?, q.id, n.clone()))).min()
        {
            let q = self.queues.get_mut(&name).expect("listed");
            let expires_ms = q.arguments.expires_ms;
            if expires_ms > 0 && !q.has_members() && q.touched_ms + expires_ms <= now_ms {
                self.queues.remove(&name);
                continue;
            }
            let mut died = Died::new();
            while let Some(first) = q.scheduled.first_entry().filter(|e| e.key().0 <= now_ms) {
                let message = first.remove();
                q.push(message, now_ms, &mut died);
            }
            self.bury(&name, died);
        }
    }

    /// References to messages that the state must hold.
    pub(crate) fn references(&self) -> u64 {
        let of = |q: &Queue| q.alive().count() + q.scheduled.len() + q.moving.len();
        self.queues.values().map(of).sum::<usize>() as u64
    }
}

/// The queue a command is about.
fn target(command: &QueueCommand<'_>) -> u64 {
    match command {
        QueueCommand::Declare { .. }
        | QueueCommand::Enqueue(_)
        | QueueCommand::Transaction { .. } => 0,
        QueueCommand::Delete { queue, .. }
        | QueueCommand::Purge { queue }
        | QueueCommand::Bind { queue, .. }
        | QueueCommand::Settle { queue, .. }
        | QueueCommand::CancelScheduled { queue, .. }
        | QueueCommand::GroupCreate { queue, .. }
        | QueueCommand::GroupDelete { queue, .. }
        | QueueCommand::GroupSeek { queue, .. }
        | QueueCommand::GroupCopy { queue, .. }
        | QueueCommand::GroupJoin { queue, .. }
        | QueueCommand::GroupLeave { queue, .. }
        | QueueCommand::Expire { queue, .. }
        | QueueCommand::Moved { queue, .. }
        | QueueCommand::Touch { queue }
        | QueueCommand::Give { queue, .. } => *queue,
    }
}

fn message(position: u64, expiry_ms: Option<u64>, size: u64) -> Message {
    let expiry_ms = expiry_ms.unwrap_or(0);
    Message { position, expiry_ms, priority: 0, size, dead: None, key: Vec::new(), alive: true }
}
