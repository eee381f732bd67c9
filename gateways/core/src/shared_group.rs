//! A shared subscription on the live path: each message goes to one member (MQTT 5 §4.8.2).
//!
//! This is the half of design R10 that needs no queue: QoS 0, and members granted no more. What is published with
//! QoS ≥ 1 reaches the others by the group's queue.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::message::{LiveMessage, Subscriber};
use crate::route_table::{Destination, SubscriptionOptions};

/// The members of a group with one filter.
pub struct SharedGroup {
    name: Box<str>,
    members: RefCell<Vec<Destination>>,
    next: Cell<usize>,
}

// === impl SharedGroup ===

impl SharedGroup {
    /// A group without members.
    fn new(name: &str) -> Rc<Self> {
        Rc::new(Self { name: name.into(), members: RefCell::default(), next: Cell::new(0) })
    }

    /// Adds a member, or changes what it asked for; true when it is new.
    fn join(&self, subscriber: &Rc<dyn Subscriber>, o: SubscriptionOptions) -> bool {
        let destination = Destination {
            subscriber: subscriber.clone(),
            qos: o.qos,
            no_local: false,
            retain_as_published: o.retain_as_published,
            durable: o.durable,
            identifiers: (o.identifier != 0).then_some(o.identifier).into_iter().collect(),
        };
        let mut members = self.members.borrow_mut();
        match members.iter_mut().find(|m| Rc::ptr_eq(&m.subscriber, subscriber)) {
            Some(known) => {
                *known = destination;
                false
            }
            None => {
                members.push(destination);
                true
            }
        }
    }

    /// Removes a member; false when it is none.
    fn leave(&self, subscriber: &Rc<dyn Subscriber>) -> bool {
        let mut members = self.members.borrow_mut();
        let at = members.iter().position(|m| Rc::ptr_eq(&m.subscriber, subscriber));
        at.map(|at| members.remove(at)).is_some()
    }

    /// Gives `message` to the next member that has room for it, or to the next one if none has; returns the member if it
    /// must be woken.
    pub(crate) fn deliver(&self, message: &LiveMessage<'_>) -> Option<Rc<dyn Subscriber>> {
        let members = self.members.borrow();
        let count = members.len();
        let first = self.next.get();
        let by_queue = message.qos > 0 && members.iter().any(|m| m.durable);
        if by_queue {
            return None;
        }
        let turn = (0..count).map(|n| (first + n) % count);
        let at = turn.clone().find(|at| members[*at].subscriber.has_room(message));
        let at = at.or_else(|| turn.clone().next())?;
        self.next.set(at + 1);
        let member = &members[at];
        member.subscriber.deliver(message, member).then(|| member.subscriber.clone())
    }
}

/// The groups with one filter; none of them is empty.
#[derive(Default)]
pub(crate) struct SharedGroups {
    groups: Vec<Rc<SharedGroup>>,
}

// === impl SharedGroups ===

impl SharedGroups {
    pub(crate) fn groups(&self) -> &[Rc<SharedGroup>] {
        &self.groups
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Every group has members whose messages of QoS ≥ 1 come by a queue.
    pub(crate) fn by_queue(&self) -> bool {
        self.groups.iter().all(|group| group.members.borrow().iter().any(|m| m.durable))
    }

    /// Adds a member to the group `name`; true when it is new.
    pub(crate) fn join(
        &mut self,
        name: &str,
        who: &Rc<dyn Subscriber>,
        options: SubscriptionOptions,
    ) -> bool {
        if let Some(group) = self.groups.iter().find(|g| *g.name == *name) {
            return group.join(who, options);
        }
        let group = SharedGroup::new(name);
        self.groups.push(group.clone());
        group.join(who, options)
    }

    /// Removes a member of the group `name`; false when it is none.
    pub(crate) fn leave(&mut self, name: &str, who: &Rc<dyn Subscriber>) -> bool {
        let left = self.groups.iter().find(|g| *g.name == *name).is_some_and(|g| g.leave(who));
        self.groups.retain(|g| !g.members.borrow().is_empty());
        left
    }
}

/// Group and filter of a shared subscription; None for any other filter.
pub(crate) fn split(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix("$share/")?.split_once('/')
}
