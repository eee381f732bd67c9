//! The network in one process: it cuts, loses, delays, repeats and reorders frames.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use logd_raft::{Group, NoAnswer, PeerAnswer, PeerCall, Peers};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::random::Random;

/// What befalls frames.
#[derive(Clone, Default)]
pub(crate) struct Weather {
    /// (from, to): nothing passes.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Per cent of frames, and of answers, that are lost.
    pub(crate) lost: u64,
    /// Per cent of frames that come twice.
    pub(crate) repeated: u64,
    /// Longest delay of a frame, ms.
    pub(crate) delay_ms: u64,
}

struct State {
    weather: Weather,
    /// Node, its number of starts, its group.
    nodes: BTreeMap<u64, (u64, Group)>,
    random: Random,
    frames: u64,
    transfers: u64,
}

/// Second byte of the frame that begins a snapshot's transfer.
const BEGIN: u8 = 4;

/// All wires of a cluster.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

/// The network as one start of a node sees it: when the node is restarted, this one is dead.
pub(crate) struct Wire {
    network: Network,
    start: u64,
}

// === impl Network ===

impl Network {
    pub(crate) fn new(random: Random) -> Self {
        let weather = Weather::default();
        Self(Arc::new(Mutex::new(State {
            weather,
            nodes: BTreeMap::new(),
            random,
            frames: 0,
            transfers: 0,
        })))
    }

    pub(crate) fn wire(&self, start: u64) -> Arc<dyn Peers> {
        Arc::new(Wire { network: self.clone(), start })
    }

    pub(crate) fn attach(&self, node: u64, start: u64, group: Group) {
        self.0.lock().nodes.insert(node, (start, group));
    }

    pub(crate) fn detach(&self, node: u64) {
        self.0.lock().nodes.remove(&node);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.0.lock().weather);
    }

    /// Frames that were asked to be sent, and among them those that began a snapshot's transfer.
    pub(crate) fn frames(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.frames, state.transfers)
    }

    /// Waits as long as a frame takes; None when it is lost on the way.
    async fn travel(&self, from: u64, to: u64) -> Option<()> {
        let (delay, lost) = {
            let mut state = self.0.lock();
            let Weather { lost, delay_ms, .. } = state.weather;
            (state.random.millis(0, delay_ms), state.random.chance(lost))
        };
        tokio::time::sleep(delay).await;
        (!lost && !self.0.lock().weather.cut.contains(&(from, to))).then_some(())
    }

    fn group(&self, node: u64) -> Option<(u64, Group)> {
        self.0.lock().nodes.get(&node).cloned()
    }

    fn is_start(&self, node: u64, start: u64) -> bool {
        self.0.lock().nodes.get(&node).is_some_and(|(now, _)| *now == start)
    }

    /// One frame there and its answer back.
    async fn deliver(self, from: u64, start: u64, to: u64, frame: Bytes) -> Option<Bytes> {
        self.travel(from, to).await?;
        if !self.is_start(from, start) {
            return None;
        }
        let (there, group) = self.group(to)?;
        let answer = group.answer(frame).await;
        if !self.is_start(to, there) {
            return None;
        }
        self.travel(to, from).await?;
        Some(answer)
    }
}

impl Peers for Wire {
    fn call(&self, call: PeerCall) -> PeerAnswer {
        let PeerCall { from, to, frame, .. } = call;
        assert_eq!(call.address, format!("node-{to}"));
        let (network, start) = (self.network.clone(), self.start);
        let repeated = {
            let mut state = network.0.lock();
            state.frames += 1;
            state.transfers += u64::from(frame[1] == BEGIN);
            let percent = state.weather.repeated;
            state.random.chance(percent)
        };
        // The receiver goes on with a frame that its sender gave up: a task of its own.
        let (tx, rx) = oneshot::channel();
        let sent = network.clone().deliver(from, start, to, frame.clone());
        tokio::spawn(async move {
            if let Some(answer) = sent.await {
                let _ = tx.send(answer);
            }
        });
        if repeated {
            tokio::spawn(network.clone().deliver(from, start, to, frame));
        }
        Box::pin(async move { rx.await.map_err(|_| NoAnswer { node: to, why: "lost".into() }) })
    }
}
