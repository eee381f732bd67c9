//! [`Group`]: the Raft group of one shard on this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Batch, Command};
use fluxmq_names::ShardId;
use logd_broker::Broker;
use logd_log::Log;
use openraft::errors::{InitializeError, RaftError};
use openraft::impls::BasicNode;
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::sync::{oneshot, watch};

use crate::batcher::{Batcher, CommandBatch, Reply, SubmitError};
use crate::clocks::Clocks;
use crate::confirm::Confirmations;
use crate::inbound::Inbound;
use crate::log_store::LogStore;
use crate::machine::{Machine, Observer, Shared};
use crate::network::Network;
use crate::options::{Compaction, Formation, GroupOptions, Members, Voters};
use crate::type_config::{Runtime, TypeConfig};

/// Shortest and longest election timeout, ms (S11).
pub(crate) const ELECTION_MIN_MS: u64 = 1_000;
pub(crate) const ELECTION_MAX_MS: u64 = 2_000;
/// Between two heartbeats, ms (S11).
const HEARTBEAT_MS: u64 = 250;

/// openraft's handle.
pub(crate) type RaftNode = Raft<TypeConfig, Machine>;

/// A group cannot start or has stopped.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard}: {why}")]
pub struct GroupError {
    /// The shard.
    pub shard: ShardId,
    /// What is wrong.
    pub why: String,
}

/// A Raft group; clones are handles.
#[derive(Clone)]
pub struct Group {
    pub(crate) shard: ShardId,
    node: u64,
    pub(crate) raft: RaftNode,
    pub(crate) log: Log,
    pub(crate) shared: Arc<Shared>,
    pub(crate) batcher: Batcher,
    pub(crate) compaction: Compaction,
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) clocks: Arc<Clocks>,
    pub(crate) confirmations: Confirmations,
    leader: watch::Receiver<Option<u64>>,
    /// Of a group of one, where nothing follows the leader: who watches it waits and is not told that it is over.
    _leads: Option<Arc<watch::Sender<Option<u64>>>>,
}

// === impl Group ===

impl Group {
    /// Starts this node's voter of a group. The only voter leads, and has applied all that was committed, when this
    /// returns; one of several returns at once, and whoever cares follows [`Self::watch_leader`]. Must run on the
    /// runtime the group is to live on.
    ///
    /// # Errors
    /// The log or the snapshot cannot be read, the log of an existing group is empty, or Raft does not start.
    pub async fn start(
        options: GroupOptions,
        log: Log,
        observer: Box<dyn Observer>,
    ) -> Result<Self, GroupError> {
        let shard = options.shard;
        let failed = |why: String| GroupError { shard, why };
        let GroupOptions { node, members, clock, seed, compaction, .. } = options;
        let config = config(shard, &members).map_err(failed)?;
        let machine = Machine::open(&log, Broker::new(shard), observer, compaction.encoding);
        let machine = machine.await.map_err(|e| failed(format!("snapshot: {e}")))?;
        let shared = machine.shared();
        let store = LogStore { log: log.clone(), node };
        let (peers, voters) = match &members {
            Members::Alone => (None, 1),
            Members::Voters(voters) => (Some(voters.peers.clone()), voters.addresses.len()),
        };
        let clocks = Arc::new(Clocks::new(clock.clone(), voters));
        let (to, shared_too) = (log.clone(), shared.clone());
        let network = Network {
            shard,
            node,
            peers,
            log: to,
            shared: shared_too,
            seed,
            clocks: clocks.clone(),
        };
        let others = network.links(&members);
        let raft = Raft::new(node, config, network, store, machine);
        let raft = Runtime::scope(seed, raft).await.map_err(|e| failed(e.to_string()))?;
        let (leads, leader) = watch::channel(None);
        let mut group = Self {
            shard,
            node,
            raft,
            log,
            shared,
            batcher: Batcher::new(clock),
            compaction,
            inbound: Arc::new(Inbound::new()),
            clocks,
            confirmations: Confirmations::default(),
            leader,
            _leads: None,
        };
        match members {
            Members::Alone => group.lead_alone(leads).await.map_err(failed)?,
            Members::Voters(voters) => {
                group.join(voters).await.map_err(failed)?;
                tokio::spawn(group.clone().follow(leads, others));
            }
        }
        tokio::spawn(group.clone().propose());
        tokio::spawn(group.clone().watch());
        Ok(group)
    }

    async fn lead_alone(&mut self, leads: watch::Sender<Option<u64>>) -> Result<(), String> {
        let node = self.node;
        let initialized = self.raft.is_initialized().await.map_err(|e| e.to_string())?;
        if initialized {
            // Nobody else votes: there is nothing to wait an election timeout for.
            self.raft.trigger().elect(false).await.map_err(|e| e.to_string())?;
        } else {
            let members = BTreeMap::from([(node, BasicNode::new("local"))]);
            self.raft.initialize(members).await.map_err(|e| e.to_string())?;
        }
        self.raft.wait(None).current_leader(node, "lead alone").await.map_err(|e| e.to_string())?;
        // The first entry of this term is applied behind everything that was committed before.
        self.confirm().await.map_err(|e| e.to_string())?;
        leads.send_replace(Some(node));
        // Nobody else can lead: there is nothing to follow.
        self._leads = Some(Arc::new(leads));
        Ok(())
    }

    /// Every voter of a new group writes the same first entry; who comes late learns it from the others.
    async fn join(&self, voters: Voters) -> Result<(), String> {
        let node = self.node;
        if !voters.addresses.contains_key(&node) {
            return Err(format!("node {node} is not among the voters"));
        }
        if self.raft.is_initialized().await.map_err(|e| e.to_string())? {
            return Ok(());
        }
        if voters.formation == Formation::Existing {
            return Err(format!(
                "node {node} has no log of this group: it lost what it acknowledged and must not vote under its old name"
            ));
        }
        let members: BTreeMap<_, _> =
            voters.addresses.into_iter().map(|(id, addr)| (id, BasicNode::new(addr))).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Proposes commands; `reply` gets their outcomes when the entry is applied.
    pub fn submit(&self, batch: CommandBatch, reply: Reply) {
        self.batcher.push(batch, reply);
    }

    /// Proposes one command of the leader itself and waits for its outcome.
    ///
    /// # Errors
    /// As [`SubmitError`] says.
    pub async fn lead(&self, command: &Command<'_>) -> Result<Outcome, SubmitError> {
        self.lead_message(command, &[]).await
    }

    /// As [`Self::lead`], for a command that carries a message.
    ///
    /// # Errors
    /// As [`SubmitError`] says.
    pub async fn lead_message(
        &self,
        command: &Command<'_>,
        message: &[u8],
    ) -> Result<Outcome, SubmitError> {
        let (tx, rx) = oneshot::channel();
        let batch = leader_batch(command, message);
        self.submit(batch, Box::new(move |result| drop(tx.send(result))));
        let outcomes = rx.await.map_err(|_| SubmitError::Stopped)??;
        outcomes.into_iter().next().ok_or(SubmitError::Stopped)
    }

    /// Proposes one command of the leader itself; `reply` gets its outcome, on the group's runtime.
    pub fn lead_then(
        &self,
        command: &Command<'_>,
        reply: impl FnOnce(Result<Outcome, SubmitError>) + Send + 'static,
    ) {
        let first =
            |outcomes: Vec<Outcome>| outcomes.into_iter().next().ok_or(SubmitError::Stopped);
        let batch = leader_batch(command, &[]);
        self.submit(batch, Box::new(move |result| reply(result.and_then(first))));
    }

    /// Reads the applied state. Short: apply waits meanwhile.
    pub fn with_state<T>(&self, read: impl FnOnce(&Broker) -> T) -> T {
        read(&self.shared.broker.lock())
    }

    /// The log of the group, for message payloads.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Returns when this node led at some moment after the call and has applied all that was committed before it: what
    /// its state says was true then. One question to a majority serves all that wait (S11).
    ///
    /// # Errors
    /// It does not lead, or no majority answers within two seconds.
    pub async fn confirm(&self) -> Result<(), SubmitError> {
        self.confirmations.ask(&self.raft).await
    }

    /// Who leads, as far as this node knows; itself only after a majority said so and all that was committed before
    /// is applied, and only while a majority answers. It may have lost it a moment ago: a right that is given without
    /// a commit needs [`Self::confirm`].
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        *self.leader.borrow()
    }

    /// Changes of [`Self::leader`].
    #[must_use]
    pub fn watch_leader(&self) -> watch::Receiver<Option<u64>> {
        self.leader.clone()
    }

    /// Asks another voter to lead; this one stops leading when it does. Nothing is said about whether it does.
    pub async fn hand_over(&self, to: u64) {
        let _ = self.raft.trigger().transfer_leader(to).await;
    }

    /// Stops the group.
    pub async fn stop(&self) {
        let _ = self.raft.shutdown().await;
    }
}

fn config(shard: ShardId, members: &Members) -> Result<Arc<Config>, String> {
    let several = matches!(members, Members::Voters(_));
    let config = Config {
        cluster_name: format!("shard-{shard}"),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        max_payload_entries: 64,
        // Snapshots and purging are ours (openraft #2116).
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX / 2,
        // A voter that cannot win disturbs nobody; one that led before its restart asks the others first.
        enable_pre_vote: Some(several),
        enable_leader_restore: Some(!several),
        ..Config::default()
    };
    Ok(Arc::new(config.validate().map_err(|e| e.to_string())?))
}

/// A batch of one command of the leader's own.
fn leader_batch(command: &Command<'_>, message: &[u8]) -> CommandBatch {
    let mut body = Vec::new();
    command.encode(message, &mut body);
    let ends = vec![u32::try_from(body.len()).unwrap_or(u32::MAX)];
    let head = Batch {
        gateway_epoch: 0,
        stream: 0,
        first_sequence: 0,
        count: 1,
        crc: 0,
        confirmed_upto: 0,
    };
    CommandBatch { head, ends, body: body.into() }
}
