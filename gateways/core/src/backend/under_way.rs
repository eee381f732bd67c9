//! Retained publishes that their shard has not answered: whoever subscribes meanwhile can neither be reached by them, for
//! they are routed already, nor read them (R9).

use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_client::contract::{Change, Class};
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
}
