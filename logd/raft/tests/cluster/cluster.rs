//! Three voters, what befalls them, and what must hold at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use logd_broker::Broker;
use logd_log::io::{Crash, SimulatedIo};
use logd_raft::{Formation, GroupError};
use tokio::sync::Notify;

use crate::client::{DROP, Groups, KEEP, Message, Shared, message_at, owed};
use crate::network::{Network, Weather};
use crate::node::{Common, NODES, Node, compaction};
use crate::random::Random;

/// How long a healed cluster may take until all of it agrees.
const HEAL: Duration = Duration::from_secs(60);

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) groups: Groups,
    pub(crate) network: Network,
    pub(crate) random: Random,
    /// What happened, for people and for the comparison of two runs.
    pub(crate) events: Vec<String>,
    /// Told of every acknowledgement.
    pub(crate) acknowledged: Arc<Notify>,
    pub(crate) common: Common,
    starts: u64,
    down: BTreeMap<u64, SimulatedIo>,
}

// === impl Cluster ===

impl Cluster {
    /// A new group of three.
    pub(crate) async fn form(mut random: Random) -> Self {
        let network = Network::new(random.fork());
        let compaction = compaction(random.below(40), random.millis(500, 3_000));
        let common = Common::new(network.clone(), compaction, random.between(1, 8));
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            groups: Arc::default(),
            network,
            random,
            events: Vec::new(),
            acknowledged: Arc::default(),
            common,
            starts: 0,
            down: BTreeMap::new(),
        };
        for id in NODES {
            let io = SimulatedIo::new(cluster.random.next());
            cluster.start(id, io, Formation::New).await;
        }
        cluster
    }

    async fn start(&mut self, id: u64, io: SimulatedIo, formation: Formation) {
        let node = self.try_start(id, io, formation).await;
        let node = node.unwrap_or_else(|error| panic!("node {id} starts: {error}"));
        self.groups.lock().insert(id, node.group.clone());
        self.nodes.insert(id, node);
    }

    pub(crate) async fn try_start(
        &mut self,
        id: u64,
        io: SimulatedIo,
        formation: Formation,
    ) -> Result<Node, GroupError> {
        self.starts += 1;
        let random = self.random.fork();
        Node::start(id, self.starts, io, formation, &self.common, random).await
    }

    fn note(&mut self, event: String) {
        let at = self.common.begun.elapsed().as_millis();
        self.events.push(format!("{at:>7} ms  {event}"));
    }

    /// Anybody, rather the one that leads.
    fn victim(&mut self) -> u64 {
        let leader = self.nodes.values().find_map(|n| n.group.leader());
        match leader {
            Some(leader) if self.random.chance(60) => leader,
            _ => NODES[self.random.below(3) as usize],
        }
    }

    pub(crate) fn crash(&mut self, id: u64) {
        let Some(node) = self.nodes.remove(&id) else { return };
        let seed = self.random.next();
        let crash = match self.random.below(4) {
            0 => Crash::Kept,
            1 => Crash::Torn { seed },
            _ => Crash::Lost,
        };
        self.note(format!("node {id} crashes ({crash:?})"));
        self.groups.lock().remove(&id);
        self.down.insert(id, node.crash(crash));
    }

    pub(crate) async fn restart(&mut self, id: u64) {
        let Some(io) = self.down.remove(&id) else { return };
        self.note(format!("node {id} starts"));
        self.start(id, io, Formation::Existing).await;
    }

    fn cut(&mut self, pairs: &[(u64, u64)]) {
        self.note(format!("cut {pairs:?}"));
        self.network.change(|weather| weather.cut.extend(pairs));
    }

    fn isolate(&mut self, id: u64, towards: bool, from: bool) {
        let others = NODES.iter().filter(|n| **n != id);
        let mut pairs: Vec<_> = Vec::new();
        for other in others {
            pairs.extend(towards.then_some((*other, id)));
            pairs.extend(from.then_some((id, *other)));
        }
        self.cut(&pairs);
    }

    pub(crate) fn heal(&mut self) {
        self.note("the network heals".into());
        self.network.change(|weather| *weather = Weather::default());
    }

    /// One of the things that happen.
    pub(crate) async fn disturb(&mut self) {
        let victim = self.victim();
        match self.random.below(12) {
            0 | 1 => self.isolate(victim, true, true),
            2 => {
                let towards = self.random.chance(50);
                self.isolate(victim, towards, !towards);
            }
            3 => self.heal(),
            4 | 5 => {
                self.crash(victim);
                if self.random.chance(60) {
                    let pause = self.random.millis(0, 4_000);
                    tokio::time::sleep(pause).await;
                    self.restart(victim).await;
                }
            }
            6 | 10 => self.power_cut().await,
            7 => {
                let (lost, repeated) = (self.random.below(20), self.random.below(20));
                let delay_ms = self.random.below(250);
                self.note(format!("{lost} % lost, {repeated} % repeated, {delay_ms} ms"));
                self.network.change(|weather| {
                    *weather = Weather { lost, repeated, delay_ms, ..weather.clone() };
                });
            }
            8 => self.compact(victim),
            9 => self.change_sides().await,
            _ => {
                let down: Vec<_> = self.down.keys().copied().collect();
                for id in down {
                    self.restart(id).await;
                }
            }
        }
    }

    /// All crash in the moment of an acknowledgement; the one that led may come back later than the others.
    async fn power_cut(&mut self) {
        let leader = self.nodes.values().find_map(|n| n.group.leader());
        let _ = tokio::time::timeout(Duration::from_secs(2), self.acknowledged.notified()).await;
        NODES.into_iter().for_each(|id| self.crash(id));
        tokio::time::sleep(self.random.millis(0, 500)).await;
        let late = leader.filter(|_| self.random.chance(70));
        for id in NODES.into_iter().filter(|id| Some(*id) != late) {
            self.restart(id).await;
        }
        if let Some(late) = late {
            // The others can elect one of them and go on.
            self.heal();
            tokio::time::sleep(self.random.millis(3_000, 8_000)).await;
            self.restart(late).await;
        }
    }

    fn compact(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id) else { return };
        let group = node.group.clone();
        self.note(format!("node {id} makes a snapshot"));
        tokio::spawn(async move { drop(group.compact().await) });
    }

    /// The leader is cut off, the others elect; then one of them crashes and finds itself with the old leader alone.
    async fn change_sides(&mut self) {
        let Some(old) = self.nodes.values().find_map(|n| n.group.leader()) else { return };
        self.heal();
        self.isolate(old, true, true);
        tokio::time::sleep(self.random.millis(2_500, 6_000)).await;
        let others: Vec<_> = NODES.into_iter().filter(|n| *n != old).collect();
        let turn = self.random.below(2) as usize;
        let (turncoat, left) = (others[turn], others[1 - turn]);
        self.crash(turncoat);
        self.heal();
        self.isolate(left, true, true);
        tokio::time::sleep(self.random.millis(0, 500)).await;
        self.restart(turncoat).await;
        tokio::time::sleep(self.random.millis(1_000, 4_000)).await;
    }

    // === the end ===

    /// Everything is up and connected.
    pub(crate) async fn recover(&mut self) {
        self.heal();
        for id in NODES {
            self.restart(id).await;
        }
    }

    /// All nodes have applied the same, and one of them leads.
    pub(crate) async fn agree(&mut self) {
        let agreed = async {
            loop {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let applied: BTreeSet<_> =
                    self.nodes.values().map(|n| n.group.with_state(Broker::applied)).collect();
                let leaders: BTreeSet<_> = self.nodes.values().map(|n| n.group.leader()).collect();
                if applied.len() == 1 && leaders.len() == 1 && !leaders.contains(&None) {
                    return;
                }
            }
        };
        let agreed = tokio::time::timeout(HEAL, agreed).await;
        self.note("all have applied the same".into());
        let leaders = self.nodes.values().map(|n| (n.id, n.group.leader())).collect::<Vec<_>>();
        assert!(agreed.is_ok(), "a healed cluster agrees within {HEAL:?}; leaders {leaders:?}");
    }

    /// Nothing acknowledged is missing, nothing is there that nobody sent, nothing twice or out of order, and every
    /// node can read every byte of it.
    pub(crate) fn check(&self, history: &Shared) -> u64 {
        let hashes: Vec<_> =
            self.nodes.values().map(|n| n.group.with_state(Broker::state_hash)).collect();
        assert!(hashes.windows(2).all(|w| w[0] == w[1]), "state hashes differ: {hashes:x?}");
        let history = history.lock();
        for node in self.nodes.values() {
            let mut there = BTreeSet::new();
            for (name, (session, _)) in &history.sessions {
                let mut last: BTreeMap<u32, u64> = BTreeMap::new();
                for owed in owed(&node.group, *session) {
                    let message = message_at(&node.group, owed.position).unwrap_or_else(|| {
                        panic!("node {}: {owed:?} is not in the log, or altered", node.id)
                    });
                    assert_eq!(history.sent.get(&message), Some(name), "nobody sent {message:?}");
                    let before = last.insert(message.0, message.1);
                    assert!(before.is_none_or(|n| n < message.1), "{message:?} behind {before:?}");
                    there.insert(message);
                }
            }
            let kept = |m: &&Message| !history.settled.contains(*m);
            let missing: Vec<_> =
                history.acknowledged.iter().filter(kept).filter(|m| !there.contains(m)).collect();
            assert!(
                missing.is_empty(),
                "node {}: acknowledged and missing {}: {missing:?}",
                node.id,
                missing.len()
            );
        }
        let keep = history.sent.iter().filter(|(m, t)| **t == KEEP && history.settled.contains(*m));
        assert_eq!(keep.count(), 0, "only {DROP} is settled");
        hashes[0]
    }

    /// Segments, bytes appended and purge floor of each node.
    pub(crate) fn logs(&self) -> Vec<String> {
        let line = |n: &Node| {
            let (size, purged) = (n.group.log().size(), n.group.log().purged());
            format!("node {} start {}: {size:?}, purged {purged:?}", n.id, n.starts())
        };
        self.nodes.values().map(line).collect()
    }
}
