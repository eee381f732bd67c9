//! A shared subscription on the live path: each message goes to one member (MQTT 5 §4.8.2), of all gateways.
//!
//! This is the half of design R10 that needs no queue: QoS 0, and members granted no more. What is published with
//! QoS ≥ 1 reaches the others by the group's queue. Who publishes chooses: itself or another gateway, in turn; each
//! then one of its own members, in turn.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fluxmq_client::contract::Class;
use fluxmq_names::hash64;

use crate::message::{LiveMessage, Subscriber};
use crate::route_table::{Destination, Destinations, OtherGateway, SubscriptionOptions};

/// Groups that another gateway is told of with one message; it serves no more of them.
pub const GROUPS_MAX: usize = 500;

/// What a shared subscription begins with.
const PREFIX: &str = "$share/";

/// The members of a group with one filter.
pub struct SharedGroup {
    name: Box<str>,
    /// What gateways call it among themselves.
    id: u64,
    members: RefCell<Vec<Destination>>,
    /// Other gateways with members; `zero`: some of theirs get QoS ≥ 1 by the group's queue.
    gateways: RefCell<Vec<OtherGateway>>,
    /// Whose turn it is: of the members here, and of the gateways.
    next: Cell<usize>,
    next_gateway: Cell<usize>,
}

// === impl SharedGroup ===

impl SharedGroup {
    /// A group without members.
    fn new(name: &str, filter: &str) -> Rc<Self> {
        Rc::new(Self {
            name: name.into(),
            id: hash64(format!("{name}/{filter}").as_bytes()),
            members: RefCell::default(),
            gateways: RefCell::default(),
            next: Cell::new(0),
            next_gateway: Cell::new(0),
        })
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

    fn is_empty(&self) -> bool {
        self.members.borrow().is_empty() && self.gateways.borrow().is_empty()
    }

    /// What this gateway announces of its members (R1).
    fn class(&self) -> Class {
        let members = self.members.borrow();
        match &members[..] {
            [] => Class::Gone,
            members if members.iter().any(|m| m.durable) => Class::Zero,
            _ => Class::All,
        }
    }

    /// Who is to give a message to a member: `Some(0)` this gateway, another by its epoch. None: the group's queue.
    /// `take` picks one of so many.
    fn choose(&self, qos: u8, take: impl FnOnce(usize) -> usize) -> Option<u64> {
        let (class, gateways) = (self.class(), self.gateways.borrow());
        if qos > 0 && (class == Class::Zero || gateways.iter().any(|g| g.zero)) {
            return None;
        }
        let here = usize::from(class != Class::Gone);
        // A group of nobody is not in the table.
        let at = take((here + gateways.len()).max(1));
        if at < here { Some(0) } else { gateways.get(at - here).map(|g| g.epoch) }
    }

    /// Gives `message` to the next member that has room for it, or to the next one if none has; returns the member if it
    /// must be woken.
    pub(crate) fn deliver(&self, message: &LiveMessage<'_>) -> Option<Rc<dyn Subscriber>> {
        let members = self.members.borrow();
        let count = members.len();
        let first = self.next.get();
        let turn = (0..count).map(|n| (first + n) % count);
        let at = turn.clone().find(|at| members[*at].subscriber.has_room(message));
        let at = at.or_else(|| turn.clone().next())?;
        self.next.set(at + 1);
        let member = &members[at];
        member.subscriber.deliver(message, member).then(|| member.subscriber.clone())
    }
}

/// Who serves the shared subscriptions of one message.
#[derive(Default)]
pub struct Chosen {
    /// Those that this gateway does not serve: which of the message's destinations, and by whom; None by a queue.
    elsewhere: Vec<(usize, Option<u64>, u64)>,
}

// === impl Chosen ===

impl Chosen {
    fn of(to: &Destinations, mut choose: impl FnMut(&SharedGroup) -> Option<u64>) -> Self {
        let chosen = to.shared.iter().enumerate().map(|(at, group)| (at, choose(group), group.id));
        Self { elsewhere: chosen.filter(|(_, by, _)| *by != Some(0)).collect() }
    }

    /// For a message that this gateway routes: each gateway in turn.
    #[must_use]
    pub fn in_turn(to: &Destinations, qos: u8) -> Self {
        Self::of(to, |group| {
            group.choose(qos, |count| {
                let turn = group.next_gateway.get() % count;
                group.next_gateway.set(turn + 1);
                turn
            })
        })
    }

    /// For a message that all gateways got, this one, `own`, among them: they agree by its bytes.
    #[must_use]
    pub fn by_all(to: &Destinations, qos: u8, own: u64, message: &[u8]) -> Self {
        let seed = hash64(message);
        Self::of(to, |group| {
            let chosen = group.choose(qos, |_| 0)?;
            let gateways = group.gateways.borrow();
            let here = (chosen == 0).then_some(own);
            let all = gateways.iter().map(|g| g.epoch).chain(here);
            let weight = |epoch: &u64| {
                let parts = [seed, group.id, *epoch].map(u64::to_le_bytes);
                (hash64(parts.as_flattened()), *epoch)
            };
            all.max_by_key(weight).map(|epoch| if epoch == own { 0 } else { epoch })
        })
    }

    /// For a message of another gateway, which has chosen.
    #[must_use]
    pub fn by_sender(to: &Destinations, groups: &[u64]) -> Self {
        Self::of(to, |group| groups.contains(&group.id).then_some(0))
    }

    /// Whether this gateway serves the group at this place of the destinations.
    pub(crate) fn is_here(&self, at: usize) -> bool {
        !self.elsewhere.iter().any(|(elsewhere, ..)| *elsewhere == at)
    }

    /// The gateways that are to serve some, ascending, each once.
    #[must_use]
    pub fn gateways(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.elsewhere.iter().filter_map(|(_, by, _)| *by).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What the gateway `epoch` is told to serve (`Publish::groups`).
    #[must_use]
    pub fn groups_of(&self, epoch: u64) -> Vec<u8> {
        let its = self.elsewhere.iter().filter(|(_, by, _)| *by == Some(epoch)).take(GROUPS_MAX);
        its.flat_map(|(_, _, id)| id.to_le_bytes()).collect()
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

    /// What this gateway announces of the group `name`.
    pub(crate) fn class(&self, name: &str) -> Class {
        self.find(name).map_or(Class::Gone, |group| group.class())
    }

    /// Groups with members here, as filters.
    pub(crate) fn announced(&self, filter: &str) -> impl Iterator<Item = (String, Class)> {
        let all =
            self.groups.iter().map(move |g| (format!("{PREFIX}{}/{filter}", g.name), g.class()));
        all.filter(|(_, class)| *class != Class::Gone)
    }

    fn find(&self, name: &str) -> Option<&Rc<SharedGroup>> {
        self.groups.iter().find(|g| *g.name == *name)
    }

    fn find_or_make(&mut self, name: &str, filter: &str) -> &SharedGroup {
        let at = self.groups.iter().position(|g| *g.name == *name).unwrap_or_else(|| {
            self.groups.push(SharedGroup::new(name, filter));
            self.groups.len() - 1
        });
        &self.groups[at]
    }

    /// Adds a member to a group; true when it is new.
    pub(crate) fn join(
        &mut self,
        (name, filter): (&str, &str),
        who: &Rc<dyn Subscriber>,
        options: SubscriptionOptions,
    ) -> bool {
        self.find_or_make(name, filter).join(who, options)
    }

    /// Removes a member of the group `name`; false when it is none.
    pub(crate) fn leave(&mut self, name: &str, who: &Rc<dyn Subscriber>) -> bool {
        let left = self.find(name).is_some_and(|g| g.leave(who));
        self.groups.retain(|g| !g.is_empty());
        left
    }

    /// Another gateway has members.
    pub(crate) fn set_gateway(&mut self, (name, filter): (&str, &str), gateway: OtherGateway) {
        let mut gateways = self.find_or_make(name, filter).gateways.borrow_mut();
        gateways.retain(|g| g.epoch != gateway.epoch);
        gateways.push(gateway);
    }

    /// Another gateway has no members any more, of a group or of any.
    pub(crate) fn forget_gateway(&mut self, name: Option<&str>, epoch: u64) {
        for group in self.groups.iter().filter(|g| name.is_none_or(|name| *g.name == *name)) {
            group.gateways.borrow_mut().retain(|g| g.epoch != epoch);
        }
        self.groups.retain(|g| !g.is_empty());
    }
}

/// Group and filter of a shared subscription; None for any other filter.
pub(crate) fn split(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix(PREFIX)?.split_once('/')
}
