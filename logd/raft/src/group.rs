//! [`Group`]: the Raft group of one shard on this node.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Batch, Command};
use fluxmq_names::ShardId;
use logd_broker::Broker;
use logd_log::{AppendError, Log, Priority};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::impls::BasicNode;
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::sync::{Semaphore, oneshot};

use crate::batcher::{Batcher, CommandBatch, Reply, SubmitError, answer};
use crate::log_store::LogStore;
use crate::machine::{Machine, Observer, Shared};
use crate::network::Alone;
use crate::type_config::{Payload, TypeConfig};

/// Entries on their way at once (S11).
const IN_FLIGHT_MAX: usize = 4;
/// Log bytes behind a snapshot before the next is made (S10).
const SNAPSHOT_LOG_BYTES: u64 = 256 * 1024 * 1024;
/// Entries that stay behind what is applied when the log is purged (openraft #2116).
const PURGE_MARGIN: u64 = 1_000;

/// What a group is.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    /// The shard, or meta.
    pub shard: ShardId,
    /// This node.
    pub node: u64,
}

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
    shard: ShardId,
    raft: Raft<TypeConfig, Machine>,
    log: Log,
    shared: Arc<Shared>,
    batcher: Batcher,
}

// === impl Group ===

impl Group {
    /// Starts the only voter of a group and waits until it leads and has applied all that was
    /// committed. Must run on the runtime the group is to live on.
    ///
    /// # Errors
    /// The log or the snapshot cannot be read, or Raft does not start.
    pub async fn start(
        options: GroupOptions,
        log: Log,
        observer: Box<dyn Observer>,
    ) -> Result<Self, GroupError> {
        let shard = options.shard;
        let failed = |why: String| GroupError { shard, why };
        let config = Config {
            cluster_name: format!("shard-{shard}"),
            heartbeat_interval: 250,
            election_timeout_min: 1_000,
            election_timeout_max: 2_000,
            max_payload_entries: 64,
            // Snapshots and purging are ours (openraft #2116).
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX / 2,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(|e| failed(e.to_string()))?);
        let machine = Machine::open(&log, Broker::new(shard), observer)
            .map_err(|e| failed(format!("snapshot: {e}")))?;
        let shared = machine.shared();
        let store = LogStore(log.clone());
        let raft = Raft::new(options.node, config, Alone, store, machine)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let group = Self { shard, raft, log, shared, batcher: Batcher::default() };
        group.lead_alone(options.node).await.map_err(failed)?;
        tokio::spawn(group.clone().propose());
        tokio::spawn(group.clone().watch());
        Ok(group)
    }

    async fn lead_alone(&self, node: u64) -> Result<(), String> {
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
        self.raft
            .ensure_linearizable(openraft::ReadPolicy::ReadIndex)
            .await
            .map_err(|e| e.to_string())?;
        Ok(())
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
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

    /// Reads the applied state. Short: apply waits meanwhile.
    pub fn with_state<T>(&self, read: impl FnOnce(&Broker) -> T) -> T {
        read(&self.shared.broker.lock())
    }

    /// The log of the group, for message payloads.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The node that leads, as far as this one knows.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Stops the group.
    pub async fn stop(&self) {
        let _ = self.raft.shutdown().await;
    }

    /// Turns what queues into entries, a few on their way at once.
    async fn propose(self) {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        loop {
            self.batcher.grew.notified().await;
            loop {
                let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
                let Some((payload, waiting)) = self.batcher.close() else { break };
                if let Err(AppendError::Full { .. }) =
                    self.log.admit(payload.len() as u64, Priority::Normal)
                {
                    answer(waiting, Err(SubmitError::DiskFull));
                    continue;
                }
                let raft = self.raft.clone();
                tokio::spawn(async move {
                    let written = raft.client_write(Payload(payload)).await;
                    let result = written.map(|w| w.data).map_err(|error| match error {
                        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
                            SubmitError::NotLeader
                        }
                        _ => SubmitError::Stopped,
                    });
                    answer(waiting, result);
                    drop(permit);
                });
                // Whoever is ready to submit does so before the next entry is closed.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Makes snapshots, purges behind them, unlinks what nobody needs; ends the process with the core.
    async fn watch(self) {
        let mut seconds = tokio::time::interval(std::time::Duration::from_secs(1));
        let mut snapshot_at = self.log.bytes_appended();
        loop {
            seconds.tick().await;
            let state = self.raft.metrics().borrow_watched().running_state.clone();
            match state {
                Ok(()) => {}
                Err(Fatal::Stopped) => return,
                Err(error) => {
                    tracing::error!(shard = %self.shard, %error, "the Raft core has ended");
                    std::process::abort();
                }
            }
            let appended = self.log.bytes_appended();
            if appended - snapshot_at >= SNAPSHOT_LOG_BYTES {
                snapshot_at = appended;
                if let Err(error) = self.compact().await {
                    tracing::warn!(shard = %self.shard, %error, "snapshot failed");
                }
            }
        }
    }

    /// Makes a snapshot, purges behind it and unlinks segments in which nothing lives (S9, S10).
    ///
    /// # Errors
    /// The snapshot cannot be written.
    pub async fn compact(&self) -> io::Result<()> {
        let applied = self.with_state(Broker::applied);
        self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
        let wait = self.raft.wait(Some(std::time::Duration::from_secs(60)));
        wait.metrics(|m| m.snapshot.as_ref().is_some_and(|s| s.index >= applied), "snapshot")
            .await
            .map_err(io::Error::other)?;
        let purge = applied.saturating_sub(PURGE_MARGIN);
        if purge > 0 {
            self.raft.trigger().purge_log(purge).await.map_err(io::Error::other)?;
        }
        let broker = self.shared.clone();
        self.log.reclaim(&|entries| broker.broker.lock().is_live(entries));
        Ok(())
    }
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
