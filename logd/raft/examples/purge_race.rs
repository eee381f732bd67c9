//! openraft #2116: does a purge, or an installed snapshot, overtake a queued apply and kill the core?
//!
//! Three voters over memory on two worker threads, a state machine that is slower than the log, snapshots without
//! state, and one follower after the other cut off until it has to be brought back by a snapshot. Prints what happened
//! and fails when a core died. `ENTRIES` (default 4,000,000), `MODE=ours` (snapshots and purges triggered as
//! `logd-raft` does, default), `tight` (the same without a margin) or `policy` (openraft's own policy, nothing kept),
//! `EVERY` entries a snapshot (default 2,000), `APPLY_NS` spent on an entry (default 3,000).
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::type_config::alias::{
    EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};
use openraft::{
    Config, EntryPayload, OptionalSend, Raft, RaftLogReader, RaftNetworkFactory,
    RaftSnapshotBuilder, SnapshotPolicy,
};
use parking_lot::Mutex;

openraft::declare_raft_types!(
    /// Entries that carry a number.
    Types: D = u64, R = (), LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>
);

type Meta = SnapshotMetaOf<Types>;
type Snapshot = SnapshotOf<Types, ()>;
type Node = Raft<Types, Machine>;

// === the log ===

#[derive(Default)]
struct LogInner {
    vote: Option<VoteOf<Types>>,
    committed: Option<LogIdOf<Types>>,
    purged: Option<LogIdOf<Types>>,
    entries: BTreeMap<u64, EntryOf<Types>>,
}

#[derive(Clone, Default)]
struct MemoryLog(Arc<Mutex<LogInner>>);

impl RaftLogReader<Types> for MemoryLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<EntryOf<Types>>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n + 1,
            Bound::Unbounded => 0,
        };
        let log = self.0.lock();
        Ok(log
            .entries
            .range(start..)
            .take_while(|(i, _)| range.contains(i))
            .map(|(_, e)| e.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types>>, io::Error> {
        Ok(self.0.lock().vote)
    }
}

impl RaftLogStorage<Types> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let log = self.0.lock();
        let last = log.entries.values().next_back().map(|e| e.log_id);
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: last.or(log.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> Result<(), io::Error> {
        self.0.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.0.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Types>>, io::Error> {
        Ok(self.0.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.lock().entries.extend(entries.into_iter().map(|e| (e.log_id.index, e)));
        done.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> Result<(), io::Error> {
        self.0.lock().entries.split_off(&last.map_or(0, |id| id.index + 1));
        Ok(())
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> Result<(), io::Error> {
        let mut log = self.0.lock();
        log.entries = log.entries.split_off(&(upto.index + 1));
        log.purged = Some(upto);
        Ok(())
    }
}

// === the state machine ===

#[derive(Default)]
struct State {
    last: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    snapshot: Option<Meta>,
}

#[derive(Clone)]
struct Machine {
    state: Arc<Mutex<State>>,
    apply_ns: u64,
    applied: Arc<AtomicU64>,
    installed: Arc<AtomicU64>,
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        let state = self.state.lock();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_nanos(self.apply_ns) {
                std::hint::spin_loop();
            }
            // From time to time much slower: the queue in front of apply fills.
            if entry.log_id.index % 10_000 == 0 {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            let mut state = self.state.lock();
            let follows = state.last.is_none_or(|last| last.index + 1 == entry.log_id.index);
            assert!(follows, "{} is applied behind {:?}", entry.log_id, state.last);
            state.last = Some(entry.log_id);
            if let EntryPayload::Membership(m) = entry.payload {
                state.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), m);
            }
            drop(state);
            self.applied.fetch_add(1, Relaxed);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, (): ()) -> Result<(), io::Error> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.installed.fetch_add(1, Relaxed);
        let mut state = self.state.lock();
        state.last = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.state.lock().snapshot.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut state = self.state.lock();
        let meta = Meta { last_log_id: state.last, last_membership: state.membership.clone() };
        state.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

// === the network ===

#[derive(Default)]
struct Wires {
    nodes: Mutex<BTreeMap<u64, Node>>,
    cut: AtomicU64,
    sent_snapshots: AtomicU64,
}

#[derive(Clone)]
struct Net {
    wires: Arc<Wires>,
    from: u64,
    to: u64,
}

impl Net {
    fn peer(&self) -> Result<Node, Unreachable<Types>> {
        let cut = self.wires.cut.load(Relaxed);
        let gone = || Unreachable::new(&io::Error::from(io::ErrorKind::NotConnected));
        if cut == self.from || cut == self.to {
            return Err(gone());
        }
        self.wires.nodes.lock().get(&self.to).cloned().ok_or_else(gone)
    }
}

fn remote(error: impl std::error::Error + 'static) -> Unreachable<Types> {
    Unreachable::new(&error)
}

impl RaftNetworkFactory<Types> for Net {
    type Network = Self;

    async fn new_client(&mut self, to: u64, _: &BasicNode) -> Self {
        Self { to, ..self.clone() }
    }
}

impl RaftNetworkV2<Types> for Net {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Ok(self.peer()?.append_entries(request).await.map_err(remote)?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.peer()?.vote(request).await.map_err(remote)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: Snapshot,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        self.wires.sent_snapshots.fetch_add(1, Relaxed);
        Ok(self.peer()?.install_full_snapshot(vote, snapshot).await.map_err(remote)?)
    }
}

// === the run ===

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Snapshots and purges as `logd-raft` makes them, every `every` applied entries.
async fn compact(node: Node, every: u64, margin: u64) {
    let mut next = every;
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let Some(applied) = node.metrics().borrow_watched().last_applied.map(|id| id.index) else {
            continue;
        };
        if applied < next {
            continue;
        }
        next = applied + every;
        if node.trigger().snapshot().await.is_err() {
            return;
        }
        let built = node.wait(Some(Duration::from_secs(20)));
        let built = built.metrics(|m| m.snapshot.is_some_and(|s| s.index >= applied), "snapshot");
        if built.await.is_ok() {
            let _ = node.trigger().purge_log(applied.saturating_sub(margin)).await;
        }
    }
}

async fn write(nodes: &[Node], entries: u64) {
    let mut written = 0;
    while written < entries {
        let Some(leader) = nodes.iter().find(|n| n.is_leader()).cloned() else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let batch: Vec<u64> = (written..entries.min(written + 256)).collect();
        let Ok(mut results) = leader.client_write_many(batch).await else { continue };
        while let Some(result) = results.next().await {
            written += u64::from(matches!(result, Ok(Ok(_))));
        }
    }
}

/// Cuts off one node after the other, until it is done.
async fn cut_links(wires: Arc<Wires>, done: Arc<AtomicBool>) {
    for id in (1..=3).cycle() {
        if done.load(Relaxed) {
            break;
        }
        wires.cut.store(id, Relaxed);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        wires.cut.store(0, Relaxed);
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    wires.cut.store(0, Relaxed);
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let entries = setting("ENTRIES", 4_000_000);
    let every = setting("EVERY", 2_000);
    let apply_ns = setting("APPLY_NS", 3_000);
    let mode = std::env::var("MODE").unwrap_or_else(|_| "ours".into());
    let policy = match mode.as_str() {
        "policy" => SnapshotPolicy::LogsSinceLast(every),
        _ => SnapshotPolicy::Never,
    };
    let keep = if mode == "policy" { 0 } else { u64::MAX / 2 };
    let config = Config {
        heartbeat_interval: 100,
        election_timeout_min: 1_000,
        election_timeout_max: 2_000,
        snapshot_policy: policy,
        max_in_snapshot_log_to_keep: keep,
        install_snapshot_timeout: 2_000,
        ..Config::default()
    };
    let config = Arc::new(config.validate().expect("valid"));
    let wires = Arc::new(Wires::default());
    let installed = Arc::new(AtomicU64::new(0));
    let applied = Arc::new(AtomicU64::new(0));
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let net = Net { wires: wires.clone(), from: id, to: 0 };
        let (applied, installed) = (applied.clone(), installed.clone());
        let machine = Machine { state: Arc::default(), apply_ns, applied, installed };
        let node = Raft::new(id, config.clone(), net, MemoryLog::default(), machine);
        let node = node.await.expect("starts");
        wires.nodes.lock().insert(id, node.clone());
        nodes.push(node);
    }
    let members: BTreeMap<_, _> = (1..=3).map(|id| (id, BasicNode::new(id))).collect();
    nodes[0].initialize(members).await.expect("initialized");
    if mode != "policy" {
        let margin = if mode == "tight" { 0 } else { 1_000 };
        nodes.iter().for_each(|n| drop(tokio::spawn(compact(n.clone(), every, margin))));
    }
    let done = Arc::new(AtomicBool::new(false));
    tokio::spawn(cut_links(wires.clone(), done.clone()));
    let begun = Instant::now();
    write(&nodes, entries).await;
    done.store(true, Relaxed);
    wires.cut.store(0, Relaxed);
    let last = nodes.iter().filter_map(|n| n.metrics().borrow_watched().last_applied).max();
    let mut dead = 0;
    for node in &nodes {
        let wait = node.wait(Some(Duration::from_secs(60)));
        let caught_up = wait.metrics(|m| m.last_applied >= last, "caught up").await.is_ok();
        let running = node.metrics().borrow_watched().running_state.clone();
        dead += u64::from(running.is_err());
        println!("node {} running {running:?} caught up {caught_up}", node.node_id());
    }
    println!(
        "mode {mode} entries {entries} snapshot every {every} apply {apply_ns} ns: {:.1} s, applied {} on three nodes, \
         snapshots sent {} installed {}, dead cores {dead}",
        begun.elapsed().as_secs_f64(),
        applied.load(Relaxed),
        wires.sent_snapshots.load(Relaxed),
        installed.load(Relaxed),
    );
    assert_eq!(dead, 0, "a core died");
}
