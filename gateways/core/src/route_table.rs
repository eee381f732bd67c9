//! The route table of one routing thread and one vhost (design §5): which live subscribers of this
//! gateway, which shards and which other gateways a topic goes to.
//!
//! It knows nothing of connections or protocols: a subscriber is an object that takes a message.
//! Matching follows MQTT (Q8): levels split at `/`, `+` one level, `#` the rest, and a leading
//! wildcard never matches a topic that begins with `$`.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use fluxmq_client::contract::{Class, Source};
use fluxmq_names::filter_matches;

use crate::filter_trie::FilterTrie;
use crate::message::Subscriber;
use crate::shared_group::{self, SharedGroup, SharedGroups};

/// How many changed filters are remembered, so that a cached route can be kept when none of them
/// touches its topic.
const RECENT_CHANGES_MAX: usize = 32;

/// What a subscription asked for and was granted (MQTT 5 §3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Highest QoS the subscriber gets, 0–2.
    pub qos: u8,
    /// Its own publishes are not sent back.
    pub no_local: bool,
    /// The retain flag is passed on as published.
    pub retain_as_published: bool,
    /// Subscription identifier, 0 = none.
    pub identifier: u32,
    /// Granted QoS ≥ 1 on a persistent session: QoS ≥ 1 reaches it by its inbox, not here (R7).
    pub durable: bool,
}

/// One live subscription in a leaf.
struct Subscription {
    subscriber: Rc<dyn Subscriber>,
    options: SubscriptionOptions,
}

/// All that is subscribed with one filter.
#[derive(Default)]
pub(crate) struct Leaf {
    live: Vec<Subscription>,
    /// Shards that hold persistent sessions or queues with this filter, ascending, and whether QoS 0 is for them too.
    shards: Vec<(u32, bool)>,
    /// Other gateways with live subscribers, ascending.
    gateways: Vec<OtherGateway>,
    /// Shared subscriptions with this filter; none is empty. Behind a box: most filters have none.
    shared: Option<Box<SharedGroups>>,
}

impl Leaf {
    fn is_empty(&self) -> bool {
        self.live.is_empty()
            && self.shards.is_empty()
            && self.gateways.is_empty()
            && self.shared.is_none()
    }

    /// Changes the shared subscriptions, if there are any.
    fn change_shared<R: Default>(&mut self, change: impl FnOnce(&mut SharedGroups) -> R) -> R {
        let Some(shared) = &mut self.shared else { return R::default() };
        let result = change(shared);
        if shared.is_empty() {
            self.shared = None;
        }
        result
    }

    /// What this gateway announces of the filter (R1); of shared subscriptions it announces each.
    fn class(&self) -> Class {
        match &self.live[..] {
            [] => Class::Gone,
            live if live.iter().all(|s| s.options.durable) => Class::Zero,
            _ => Class::All,
        }
    }
}

/// Another gateway with live subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherGateway {
    /// Its epoch.
    pub epoch: u64,
    /// It wants QoS 0 alone: what is published with more reaches its sessions by their inboxes.
    pub zero: bool,
}

/// A live subscriber of a topic, all its matching subscriptions taken together.
pub struct Destination {
    /// Who takes the message.
    pub subscriber: Rc<dyn Subscriber>,
    /// Highest QoS granted among the matching subscriptions.
    pub qos: u8,
    /// All of them exclude the subscriber's own publishes.
    pub no_local: bool,
    /// One of them passes the retain flag on.
    pub retain_as_published: bool,
    /// One of them is durable: only QoS 0 goes out live.
    pub durable: bool,
    /// Subscription identifiers of all of them, in no particular order.
    pub identifiers: Vec<u32>,
}

/// Where a topic goes.
#[derive(Default)]
pub struct Destinations {
    /// Live subscribers on this thread, each once.
    pub live: Vec<Destination>,
    /// Shards with persistent sessions or queues that match, ascending, each once.
    pub shards: Vec<u32>,
    /// Of those, the ones with bound queues: QoS 0 is for them too.
    pub every: Vec<u32>,
    /// Other gateways with subscribers that match, ascending, each once.
    pub gateways: Vec<OtherGateway>,
    /// Shared subscriptions: one member of each gets the message.
    pub shared: Vec<Rc<SharedGroup>>,
}

impl Destinations {
    /// Nobody at all subscribes to the topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_live() && self.shards.is_empty() && self.gateways.is_empty()
    }

    /// Somebody on this thread subscribes to the topic, or somebody anywhere shares it.
    #[must_use]
    pub fn has_live(&self) -> bool {
        !self.live.is_empty() || !self.shared.is_empty()
    }
}

/// Filters of one vhost and who stands behind each.
#[derive(Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, Leaf>,
    wild: FilterTrie,
    generation: u64,
    /// The filters behind the last generations, newest last.
    recent: VecDeque<Box<str>>,
}

// === impl RouteTable ===

impl RouteTable {
    /// Counts changes; a route resolved at the same generation is still right.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Adds or replaces the subscription of `subscriber` for `filter`, which may be shared (`$share/…`); true when it is new.
    pub fn subscribe(
        &mut self,
        filter: &str,
        subscriber: &Rc<dyn Subscriber>,
        options: SubscriptionOptions,
    ) -> bool {
        if let Some((group, filter)) = shared_group::split(filter) {
            self.touch(filter);
            let shared = self.leaf(filter).shared.get_or_insert_default();
            return shared.join((group, filter), subscriber, options);
        }
        self.touch(filter);
        let live = &mut self.leaf(filter).live;
        match live.iter_mut().find(|s| Rc::ptr_eq(&s.subscriber, subscriber)) {
            Some(known) => {
                known.options = options;
                false
            }
            None => {
                live.push(Subscription { subscriber: subscriber.clone(), options });
                true
            }
        }
    }

    /// Removes a subscription; false when there was none.
    pub fn unsubscribe(&mut self, filter: &str, subscriber: &Rc<dyn Subscriber>) -> bool {
        if let Some((group, filter)) = shared_group::split(filter) {
            self.touch(filter);
            return self.change(filter, |leaf| {
                leaf.change_shared(|shared| shared.leave(group, subscriber))
            });
        }
        self.touch(filter);
        self.change(filter, |leaf| {
            let at = leaf.live.iter().position(|s| Rc::ptr_eq(&s.subscriber, subscriber));
            at.map(|at| leaf.live.swap_remove(at)).is_some()
        })
    }

    /// Notes what `shard` wants of the messages of `filter`.
    pub fn set_shard(&mut self, filter: &str, shard: u32, class: Class) {
        self.touch(filter);
        if class == Class::Gone {
            self.change(filter, |leaf| leaf.shards.retain(|(s, _)| *s != shard));
            return;
        }
        let shards = &mut self.leaf(filter).shards;
        let entry = (shard, class == Class::Every);
        match shards.binary_search_by_key(&shard, |(s, _)| *s) {
            Ok(at) => shards[at] = entry,
            Err(at) => shards.insert(at, entry),
        }
    }

    /// Notes who of the gateway `epoch` subscribes with `filter`, which may be shared.
    pub fn set_gateway(&mut self, filter: &str, epoch: u64, class: Class) {
        if let Some((group, filter)) = shared_group::split(filter) {
            return self.set_shared(filter, group, epoch, class);
        }
        self.touch(filter);
        if class == Class::Gone {
            self.change(filter, |leaf| leaf.gateways.retain(|g| g.epoch != epoch));
            return;
        }
        let gateways = &mut self.leaf(filter).gateways;
        let gateway = OtherGateway { epoch, zero: class == Class::Zero };
        match gateways.binary_search_by_key(&epoch, |g| g.epoch) {
            Ok(at) => gateways[at] = gateway,
            Err(at) => gateways.insert(at, gateway),
        }
    }

    fn set_shared(&mut self, filter: &str, group: &str, epoch: u64, class: Class) {
        self.touch(filter);
        if class == Class::Gone {
            return self.change(filter, |leaf| {
                leaf.change_shared(|shared| shared.forget_gateway(Some(group), epoch));
            });
        }
        let shared = self.leaf(filter).shared.get_or_insert_default();
        shared.set_gateway((group, filter), OtherGateway { epoch, zero: class == Class::Zero });
    }

    /// Forgets everything of a shard or of another gateway.
    pub fn forget(&mut self, source: Source) {
        let forget = |leaf: &mut Leaf| match source {
            Source::Shard(shard) => leaf.shards.retain(|(s, _)| *s != shard),
            Source::Gateway(epoch) => {
                leaf.gateways.retain(|g| g.epoch != epoch);
                leaf.change_shared(|shared| shared.forget_gateway(None, epoch));
            }
        };
        self.exact.retain(|_, leaf| {
            forget(leaf);
            !leaf.is_empty()
        });
        self.wild.retain(&|leaf| {
            forget(leaf);
            !leaf.is_empty()
        });
        // Any cached route may have led there.
        self.generation += RECENT_CHANGES_MAX as u64 + 1;
        self.recent.clear();
    }

    /// Who subscribes live with `filter`, which may be shared.
    #[must_use]
    pub fn class(&self, filter: &str) -> Class {
        let shared = shared_group::split(filter);
        let filter = shared.map_or(filter, |(_, filter)| filter);
        let leaf = if is_wild(filter) { self.wild.get(filter) } else { self.exact.get(filter) };
        match (leaf, shared) {
            (None, _) => Class::Gone,
            (Some(leaf), None) => leaf.class(),
            (Some(leaf), Some((group, _))) => {
                leaf.shared.as_ref().map_or(Class::Gone, |shared| shared.class(group))
            }
        }
    }

    /// All filters with live subscribers, and who they are.
    #[must_use]
    pub fn live_filters(&self) -> Vec<(String, Class)> {
        let mut all = Vec::new();
        let mut add = |filter: String, leaf: &Leaf| {
            all.extend(leaf.shared.iter().flat_map(|shared| shared.announced(&filter)));
            all.push((filter, leaf.class()));
        };
        self.exact.iter().for_each(|(filter, leaf)| add(filter.to_string(), leaf));
        self.wild.for_each(&mut add);
        all.retain(|(_, class)| *class != Class::Gone);
        all
    }

    /// Everybody who gets a message on `topic`.
    #[must_use]
    pub fn resolve(&self, topic: &str) -> Destinations {
        let mut to = Destinations::default();
        if let Some(leaf) = self.exact.get(topic) {
            collect(leaf, &mut to);
        }
        self.wild.for_each_match(topic, &mut |leaf| collect(leaf, &mut to));
        to.shards.sort_unstable();
        to.shards.dedup();
        to.every.sort_unstable();
        to.every.dedup();
        // Of one gateway, whoever wants more comes first and stays.
        to.gateways.sort_unstable_by_key(|g| (g.epoch, g.zero));
        to.gateways.dedup_by_key(|g| g.epoch);
        to
    }

    /// Whether a route for `topic`, resolved at `generation`, is still right now.
    #[must_use]
    pub fn still_valid(&self, topic: &str, generation: u64) -> bool {
        let behind = self.generation - generation;
        let Ok(behind) = usize::try_from(behind) else {
            return false;
        };
        behind <= self.recent.len()
            && self.recent.iter().rev().take(behind).all(|f| !filter_matches(f, topic))
    }

    fn leaf(&mut self, filter: &str) -> &mut Leaf {
        if is_wild(filter) {
            self.wild.entry(filter)
        } else {
            // Two look-ups where it is new: no allocation where it is known.
            if !self.exact.contains_key(filter) {
                self.exact.insert(filter.into(), Leaf::default());
            }
            self.exact.get_mut(filter).expect("inserted above")
        }
    }

    fn change<R: Default>(&mut self, filter: &str, change: impl FnOnce(&mut Leaf) -> R) -> R {
        if is_wild(filter) {
            return self.wild.change(filter, change, Leaf::is_empty);
        }
        let Some(leaf) = self.exact.get_mut(filter) else {
            return R::default();
        };
        let result = change(leaf);
        if leaf.is_empty() {
            self.exact.remove(filter);
        }
        result
    }

    fn touch(&mut self, filter: &str) {
        self.generation += 1;
        if self.recent.len() == RECENT_CHANGES_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(filter.into());
    }
}

fn is_wild(filter: &str) -> bool {
    filter.bytes().any(|b| b == b'+' || b == b'#')
}

fn collect(leaf: &Leaf, to: &mut Destinations) {
    to.shards.extend(leaf.shards.iter().map(|(shard, _)| *shard));
    to.every.extend(leaf.shards.iter().filter(|(_, every)| *every).map(|(shard, _)| *shard));
    to.gateways.extend_from_slice(&leaf.gateways);
    to.shared.extend(leaf.shared.iter().flat_map(|all| all.groups().iter().cloned()));
    // The scan for repeats stays out of the way of a large leaf met first.
    let known = to.live.len();
    for Subscription { subscriber, options: o } in &leaf.live {
        let same = to.live[..known].iter_mut().find(|d| Rc::ptr_eq(&d.subscriber, subscriber));
        let identifier = (o.identifier != 0).then_some(o.identifier);
        match same {
            Some(d) => {
                d.qos = d.qos.max(o.qos);
                d.no_local &= o.no_local;
                d.retain_as_published |= o.retain_as_published;
                d.durable |= o.durable;
                d.identifiers.extend(identifier);
            }
            None => to.live.push(Destination {
                subscriber: subscriber.clone(),
                qos: o.qos,
                no_local: o.no_local,
                retain_as_published: o.retain_as_published,
                durable: o.durable,
                identifiers: identifier.into_iter().collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
