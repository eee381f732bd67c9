//! Retained publishes that their shard has not answered: whoever subscribes meanwhile can neither be reached by them, for
//! they are routed already, nor read them (R9). A version of the routes is acknowledged when those
//! that match it are answered: who waits for it reads them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use fluxmq_client::contract::{Change, Class, Delta};
use fluxmq_names::filter_matches;

use super::Waiter;

/// A retained publish.
pub struct RetainedPublish {
    /// Its virtual host.
    pub vhost: Box<str>,
    /// Its topic.
    pub topic: Box<str>,
    /// 0 to 2.
    pub qos: u8,
    /// The PUBLISH command with its message.
    pub command: Bytes,
    /// Epochs of the gateways it went to.
    pub gateways: Vec<u64>,
    /// Makes who waits until a further gateway has it.
    pub waiter: Box<dyn Fn() -> Waiter>,
}

/// Those that are under way, in the order they came.
#[derive(Default)]
pub(super) struct UnderWay {
    last: u64,
    all: BTreeMap<u64, RetainedPublish>,
}

// === impl UnderWay ===

impl UnderWay {
    /// One begins; its number.
    pub(super) fn begin(&mut self, publish: RetainedPublish) -> u64 {
        self.last += 1;
        self.all.insert(self.last, publish);
        self.last
    }

    /// Its shard has answered.
    pub(super) fn end(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// Those that the gateway `epoch` is to get because of what it announced, and who waits for that.
    pub(super) fn new_to(&mut self, epoch: u64, changes: &[Change]) -> Vec<(Bytes, Waiter)> {
        let mut wanted = Vec::new();
        for publish in self.all.values_mut().filter(|p| !p.gateways.contains(&epoch)) {
            let matches = |c: &&Change| {
                let class = c.class == Class::All || (c.class == Class::Zero && publish.qos == 0);
                class && *c.vhost == *publish.vhost && filter_matches(&c.filter, &publish.topic)
            };
            // A fault planted to prove that the chaos harness finds it (design §12).
            if changes.iter().any(|c| matches(&c))
                && !fluxmq_names::planted!("retained_under_way_forgotten")
            {
                publish.gateways.push(epoch);
                wanted.push((publish.command.clone(), (publish.waiter)()));
            }
        }
        wanted
    }

    /// Those that match what others announce.
    pub(super) fn matching_deltas(&self, deltas: &[Delta]) -> BTreeSet<u64> {
        let changes = || deltas.iter().flat_map(|d| &d.changes).filter(|c| c.class != Class::Gone);
        let matches = |p: &RetainedPublish| {
            changes().any(|c| *c.vhost == *p.vhost && filter_matches(&c.filter, &p.topic))
        };
        self.all.iter().filter(|(_, p)| matches(p)).map(|(number, _)| *number).collect()
    }

    /// The newest of each topic that matches.
    pub(super) fn matching(&self, vhost: &str, filter: &str) -> Vec<Bytes> {
        let ours = self.all.values().filter(|p| *p.vhost == *vhost);
        let newest: BTreeMap<_, _> = ours
            .filter(|p| filter_matches(filter, &p.topic))
            .map(|p| (&p.topic, &p.command))
            .collect();
        newest.into_values().cloned().collect()
    }
}

/// Versions that are to be acknowledged, oldest first, and what each waits for.
#[derive(Default)]
pub(super) struct HeldAcks {
    held: VecDeque<HeldAck>,
}

struct HeldAck {
    version: u64,
    publishes: BTreeSet<u64>,
    /// It waited when the clock ticked last.
    late: bool,
}

// === impl HeldAcks ===

impl HeldAcks {
    pub(super) fn clear(&mut self) {
        self.held.clear();
    }

    pub(super) fn push(&mut self, version: u64, publishes: BTreeSet<u64>) {
        self.held.push_back(HeldAck { version, publishes, late: false });
    }

    /// A retained publish is answered.
    pub(super) fn answered(&mut self, number: u64) {
        for ack in &mut self.held {
            ack.publishes.remove(&number);
        }
    }

    /// About once a second: whoever waits for a version does so for two ticks at most, whatever a shard does; a gateway
    /// that is behind for longer would lose its lease (R2).
    pub(super) fn tick(&mut self) {
        for ack in &mut self.held {
            if std::mem::replace(&mut ack.late, true) {
                ack.publishes.clear();
            }
        }
    }

    /// The newest version that may be acknowledged, and with it all before.
    pub(super) fn take(&mut self) -> Option<u64> {
        let mut newest = None;
        while self.held.front().is_some_and(|ack| ack.publishes.is_empty()) {
            newest = self.held.pop_front().map(|ack| ack.version);
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(
        topic: &str,
        qos: u8,
        gateways: Vec<u64>,
        command: &'static [u8],
    ) -> RetainedPublish {
        RetainedPublish {
            vhost: "/".into(),
            topic: topic.into(),
            qos,
            command: Bytes::from_static(command),
            gateways,
            waiter: Box::new(|| Box::new(|_| {})),
        }
    }

    fn change(filter: &str, class: Class) -> Vec<Change> {
        vec![Change { vhost: "/".into(), filter: filter.into(), class }]
    }

    #[test]
    fn who_is_new_gets_what_is_under_way_once() {
        let mut under_way = UnderWay::default();
        let first = under_way.begin(publish("a/b", 1, vec![7], b"first"));
        under_way.begin(publish("a/b", 1, vec![], b"second"));
        under_way.begin(publish("c", 1, vec![], b"other"));
        let commands = |all: Vec<(Bytes, Waiter)>| -> Vec<Bytes> {
            all.into_iter().map(|(command, _)| command).collect()
        };
        assert_eq!(commands(under_way.new_to(7, &change("a/+", Class::Zero))).len(), 0);
        assert_eq!(commands(under_way.new_to(7, &change("a/+", Class::All))), ["second"]);
        assert_eq!(commands(under_way.new_to(7, &change("#", Class::All))), ["other"]);
        assert_eq!(commands(under_way.new_to(8, &change("a/#", Class::All))), ["first", "second"]);
        assert_eq!(under_way.matching("/", "a/#"), ["second"]);
        assert!(under_way.matching("other", "a/#").is_empty());
        under_way.end(first);
        assert_eq!(commands(under_way.new_to(9, &change("a/#", Class::All))), ["second"]);
    }

    #[test]
    fn versions_wait_for_what_matches_them_in_their_order() {
        use fluxmq_client::contract::Source;
        let mut under_way = UnderWay::default();
        let first = under_way.begin(publish("a/b", 1, vec![7], b""));
        let delta = |filter: &str, class| Delta {
            source: Source::Shard(0),
            full: false,
            changes: change(filter, class),
        };
        let matching = |d: Delta| under_way.matching_deltas(&[d]);
        assert_eq!(matching(delta("a/+", Class::Zero)), BTreeSet::from([first]));
        assert!(
            matching(delta("a/+", Class::Gone)).is_empty()
                && matching(delta("c", Class::All)).is_empty()
        );
        let mut acks = HeldAcks::default();
        acks.push(1, BTreeSet::new());
        acks.push(2, BTreeSet::from([first]));
        acks.push(3, BTreeSet::new());
        assert_eq!((acks.take(), acks.take()), (Some(1), None));
        acks.answered(first);
        assert_eq!(acks.take(), Some(3));
        acks.push(4, BTreeSet::from([9]));
        acks.tick();
        assert_eq!(acks.take(), None);
        acks.tick();
        assert_eq!(acks.take(), Some(4), "not for ever");
    }
}
