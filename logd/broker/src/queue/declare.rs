//! Queues come and go, are bound to topics and purged.

use fluxmq_names::{ErrorCode, validate_filter, validate_queue_name};

use super::blocks::Blocks;
use super::{Group, Queue, Work};
use crate::broker::Broker;
use crate::effect::Effect;
use crate::index::Due;
use crate::limits::{BINDINGS_MAX, LEVELS_MAX, QUEUES_MAX};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{Arguments, Overflow, Retention};

/// The group every work queue has.
pub(crate) const DEFAULT_GROUP: &str = "default";

/// Arguments that make no sense together.
fn are_valid(name: &str, a: &Arguments<'_>) -> bool {
    let dead_letter = a.dead_letter.is_empty() || validate_queue_name(a.dead_letter).is_ok();
    dead_letter
        && a.dead_letter != name
        && a.levels <= LEVELS_MAX
        && (a.overflow != Overflow::DeadLetter || !a.dead_letter.is_empty())
        && (a.max_age_ms == 0 || a.retention == Retention::Policy)
}

// === impl Broker ===

impl Broker {
    /// The queue with a name.
    #[must_use]
    pub fn queue_of(&self, vhost: &str, name: &str) -> Option<u64> {
        self.index.queues.get(&(vhost.into(), name.into())).copied()
    }

    /// Works on a queue, then does what follows: dead letters, what is let go, when it is due next.
    pub(super) fn work_on<T>(
        &mut self,
        id: u64,
        run: impl FnOnce(&mut Queue, &mut Work) -> T,
    ) -> Option<T> {
        let queue = self.state.queues.get_mut(id)?;
        let mut work = Work { now_ms: self.state.now_ms, left: self.left, ..Work::default() };
        let result = run(queue, &mut work);
        if work.changed {
            queue.catch_up(&mut work);
            let behind = queue.is_behind();
            self.note_behind(id, behind);
        }
        self.spend(work.steps);
        self.reindex(id);
        // Dead letters are referred to from elsewhere before they are let go here.
        self.bury(id, &work.died);
        self.index.live.release_all(work.released);
        if work.returned {
            self.effects.push(Effect::QueueReturned { queue: id });
        }
        Some(result)
    }

    /// Goes on with what step limits cut off.
    pub(crate) fn queue_goes_on(&mut self, id: u64) {
        self.work_on(id, |_, work| work.changed = true);
    }

    /// Enters what is looked up of a queue, after a restart.
    pub(crate) fn index_queue(index: &mut crate::index::Index, id: u64, queue: &Queue) {
        index.queues.insert((queue.vhost.clone(), queue.name.clone()), id);
        for filter in &queue.bindings {
            index.bindings.insert(&queue.vhost, filter, id);
        }
        for (group, g) in &queue.groups {
            let members = g.members.iter().map(|(token, m)| (m.gateway, id, *group, *token));
            index.members.extend(members);
            for (token, member) in &g.members {
                index.own(member, (id, *group, *token));
            }
        }
        if !queue.moving.is_empty() {
            index.moving.insert(id);
        }
        if queue.is_behind() && !cfg!(planted = "restart_forgets_work_left") {
            index.behind.insert(id);
        }
        let times = (queue.next_due(), queue.next_expiry());
        if times != (None, None) {
            index.queue_times.insert(id, times);
        }
        index.due.extend(times.0.map(|ms| (ms, Due::Queue(id))));
        index.expiring.extend(times.1.map(|ms| (ms, id)));
    }

    /// Changes what has no consequences.
    pub(super) fn change_queue(&mut self, id: u64, change: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self.state.queues.get_mut(id) {
            change(queue);
        }
    }

    /// Notes when the queue is due, what it owes and whether it has work left.
    pub(super) fn reindex(&mut self, id: u64) {
        let queue = self.state.queues.get(id);
        let times = queue.map_or((None, None), |q| (q.next_due(), q.next_expiry()));
        let known = self.index.queue_times.get(&id).copied().unwrap_or_default();
        if known != times {
            if let Some(ms) = known.0 {
                self.index.due.remove(&(ms, Due::Queue(id)));
            }
            if let Some(ms) = known.1 {
                self.index.expiring.remove(&(ms, id));
            }
            self.index.queue_times.insert(id, times);
            if times == (None, None) {
                self.index.queue_times.remove(&id);
            }
            self.index.due.extend(times.0.map(|ms| (ms, Due::Queue(id))));
            self.index.expiring.extend(times.1.map(|ms| (ms, id)));
        }
    }

    fn note_behind(&mut self, id: u64, behind: bool) {
        if behind {
            self.index.behind.insert(id);
        } else {
            self.index.behind.remove(&id);
        }
    }

    pub(super) fn declare(
        &mut self,
        position: u64,
        (vhost, name): (&str, &str),
        arguments: &Arguments<'_>,
        passive: bool,
    ) -> Outcome {
        if let Some(queue) = self.queue_of(vhost, name) {
            let found = self.state.queues.get(queue);
            let difference = found.map_or(0, |q| q.arguments().difference(arguments));
            if difference != 0 && !passive {
                return Outcome::Error { code: ErrorCode::AlreadyExists, detail: difference };
            }
            self.touch(queue);
            return Outcome::Declared { queue, fresh: false };
        }
        if passive {
            return Outcome::refused(ErrorCode::NotFound);
        }
        if validate_queue_name(name).is_err() || !are_valid(name, arguments) {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        if self.state.queues.len() >= QUEUES_MAX {
            return Outcome::refused(ErrorCode::LimitExceeded);
        }
        let mut queue = Queue {
            vhost: vhost.into(),
            name: name.into(),
            arguments: Arguments { dead_letter: "", ..*arguments },
            dead_letter: arguments.dead_letter.into(),
            blocks: Blocks::new(Queue::sized(arguments)),
            touched_ms: self.state.now_ms,
            review: u64::MAX,
            ..Queue::default()
        };
        if arguments.retention == Retention::Acked {
            let sharing = arguments.sharing;
            let group = Group { name: DEFAULT_GROUP.into(), sharing, ..Group::default() };
            queue.groups.insert(position, group);
        }
        self.index.queues.insert((vhost.into(), name.into()), position);
        self.state.queues.insert(position, queue);
        self.reindex(position);
        self.effects.push(Effect::QueueChanged { queue: position });
        Outcome::Declared { queue: position, fresh: true }
    }

    pub(super) fn delete_queue(&mut self, id: u64, if_empty: bool, if_unused: bool) -> Outcome {
        let Some(queue) = self.state.queues.get(id) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        let held = queue.live + queue.scheduled.len() as u64;
        let used = queue.groups.values().any(|g| !g.members.is_empty());
        if if_empty && held > 0 || if_unused && used {
            return Outcome::Error { code: ErrorCode::InUse, detail: held };
        }
        self.remove_queue(id);
        Outcome::Number(held)
    }

    /// The queue is gone at once; its messages are let go as the steps go.
    pub(super) fn remove_queue(&mut self, id: u64) {
        let Some(queue) = self.state.queues.remove(id) else { return };
        let queue = std::sync::Arc::unwrap_or_clone(queue);
        self.spend(8 + queue.bindings.len() as u32);
        self.index.queues.remove(&(queue.vhost.clone(), queue.name.clone()));
        for filter in &queue.bindings {
            self.unbind_index(id, &queue.vhost, filter);
        }
        for (group, g) in &queue.groups {
            for (token, member) in &g.members {
                self.index.members.remove(&(member.gateway, id, *group, *token));
                self.index.disown(member, (id, *group, *token));
            }
        }
        self.index.moving.remove(&id);
        if queue.last_move > 0 {
            // Messages were taken from it under keys, here or elsewhere.
            self.state.keys.forget(self.state.shard.0, id);
            self.note_ended_publisher(id);
        }
        self.reindex(id);
        self.note_behind(id, false);
        self.effects.push(Effect::QueueChanged { queue: id });
        self.state.deleted.push_back(queue);
        self.clear_deleted();
    }

    /// Goes on with the messages of deleted queues.
    pub(crate) fn clear_deleted(&mut self) {
        while self.left > 0
            && let Some(queue) = self.state.deleted.front_mut()
        {
            let mut work = Work { now_ms: self.state.now_ms, left: self.left, ..Work::default() };
            let empty = queue.clear(&mut work);
            self.spend(work.steps + 1);
            self.index.live.release_all(work.released);
            if empty {
                self.state.deleted.pop_front();
            }
        }
    }

    pub(super) fn purge(&mut self, id: u64) -> Outcome {
        let purged = self.work_on(id, |q, work| {
            let (purged, tail) = (q.live, q.tail());
            q.touched_ms = work.now_ms;
            q.raise_floor(tail, work);
            purged
        });
        match purged {
            Some(purged) => Outcome::Number(purged),
            None => Outcome::refused(ErrorCode::NotFound),
        }
    }

    pub(super) fn bind(&mut self, id: u64, filter: &str, bound: bool) -> Outcome {
        if validate_filter(filter).is_err() {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        let Some(queue) = self.state.queues.get_mut(id) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        let vhost = queue.vhost.clone();
        if !bound {
            if queue.bindings.remove(filter) {
                self.unbind_index(id, &vhost, filter);
            }
            return Outcome::Done;
        }
        if queue.bindings.len() >= BINDINGS_MAX {
            return Outcome::refused(ErrorCode::LimitExceeded);
        }
        if queue.bindings.insert(filter.into()) {
            self.index.bindings.insert(&vhost, filter, id);
            self.effects.push(Effect::BindingsChanged { vhost, filter: filter.into() });
        }
        Outcome::Done
    }

    fn unbind_index(&mut self, id: u64, vhost: &str, filter: &str) {
        self.index.bindings.remove(vhost, filter, id);
        let (vhost, filter) = (vhost.into(), filter.into());
        self.effects.push(Effect::BindingsChanged { vhost, filter });
    }

    pub(super) fn touch(&mut self, id: u64) {
        let now_ms = self.state.now_ms;
        self.change_queue(id, |q| q.touched_ms = now_ms);
        self.reindex(id);
    }
}

// === impl Queue ===

impl Queue {
    /// Lets go of what a deleted queue refers to; true when nothing is left.
    fn clear(&mut self, work: &mut Work) -> bool {
        let tail = self.tail();
        self.groups.clear();
        self.raise_floor(tail, work);
        self.catch_up(work);
        while work.left > 0
            && let Some((_, scheduled)) = self.scheduled.pop_first()
        {
            work.released.push(scheduled.item.position);
            work.spend(1);
        }
        while work.left > 0
            && let Some((_, moving)) = self.moving.pop_first()
        {
            work.released.push(moving.position);
            work.spend(1);
        }
        while work.left > 0
            && (self.ids.pop_front().is_some()
                | self.id_times.pop_first().is_some()
                | self.keys.pop_first().is_some()
                | self.key_offsets.pop_first().is_some()
                | self.producers.pop_first().is_some())
        {
            work.spend(1);
        }
        self.base.offset == tail && work.left > 0
    }
}
