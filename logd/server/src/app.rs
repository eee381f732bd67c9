//! Start and stop.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use fluxmq_client::{Link, LogdLink, link};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::{Position, ShardId};
use fluxmq_process::Settings;
use logd_broker::{Backlog, Broker, RetainedLimits};
use logd_log::io::{DiskIo, Io, MemoryIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{Group, GroupOptions};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::sync::oneshot;
use tonic::transport::Server;

use crate::core::Core;
use crate::effects::Effects;
use crate::grpc_tls::GrpcTls;
use crate::programs::ADDRESS;
use crate::service;
use crate::status::Status;

/// This node's number in a group of one.
const NODE: u64 = 1;
/// Directory number of the meta group's log.
const META_DIR: u64 = u32::MAX as u64;

/// What to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log lives; None keeps it in memory and nothing survives.
    pub data_dir: Option<PathBuf>,
    /// Data shards; fixed when the directory is made.
    pub shards: u32,
    /// Where gateways of other processes connect.
    pub grpc: Vec<Arc<TcpListener>>,
    /// TLS of those; None = none.
    pub grpc_tls: Option<GrpcTls>,
    /// The gateway of this process is the only one there can be: whatever was registered before is gone
    /// (design T2). Else earlier gateways may come back until their lease runs out.
    pub alone: bool,
    /// How the log is written.
    pub disk: DiskConfig,
    /// Bytes a log in memory may take.
    pub memory_bytes_max: u64,
    /// What may wait for one session; beyond it the oldest is dropped.
    pub backlog_max: Backlog,
    /// What each shard retains; a new topic beyond it is refused.
    pub retained_max: RetainedLimits,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self::from(&Settings::default())
    }
}

impl From<&Settings> for Config {
    fn from(settings: &Settings) -> Self {
        let (node, storage) = (&settings.node, &settings.storage);
        let disk = DiskConfig {
            commit_interval_us: storage.commit_interval_us,
            commit_bytes: storage.commit_bytes,
            queue_bytes_max: storage.queue_bytes_max,
            segment_bytes_first: storage.segment_bytes_first,
            segment_bytes_max: storage.segment_bytes_max,
            low_water_bytes: (storage.low_water_bytes > 0).then_some(storage.low_water_bytes),
            ..DiskConfig::default()
        };
        Self {
            data_dir: node.data_dir.path().cloned(),
            shards: node.shards,
            disk,
            memory_bytes_max: storage.memory_bytes_max,
            backlog_max: Backlog {
                messages: storage.session_backlog_messages,
                bytes: storage.session_backlog_bytes,
            },
            retained_max: RetainedLimits {
                messages: storage.retained_messages_max,
                bytes: storage.retained_bytes_max,
            },
            grpc: Vec::new(),
            grpc_tls: None,
            alone: true,
        }
    }
}

/// Why it does not start, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

impl StartError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A running `logd`. Dropping it stops it.
pub struct Running {
    links: Option<UnboundedSender<LogdLink>>,
    status: Status,
    thread: Option<JoinHandle<()>>,
}

// === impl Running ===

impl Running {
    /// A link for a gateway in this process.
    #[must_use]
    pub fn connect(&self) -> Link {
        let (ours, theirs) = link();
        // When the thread is gone the link is closed, which its owner sees at the first use.
        let _ = self.links.as_ref().map(|links| links.send(theirs));
        ours
    }

    /// A look at it, for health and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.links = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Recovers the log and starts the groups on a thread of their own.
///
/// # Errors
/// The directory is locked, foreign, newer or damaged, or has another number of shards.
pub fn start(config: Config) -> Result<Running, StartError> {
    let (started, starting) = std::sync::mpsc::channel();
    let (links, from_owner) = unbounded_channel();
    let links_here = links.downgrade();
    let thread = std::thread::Builder::new().name("logd".into()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(StartError::new(error)))),
        };
        runtime.block_on(run(config, links_here, from_owner, started));
    });
    let thread = Some(thread.map_err(StartError::new)?);
    match starting.recv() {
        Ok(Ok(status)) => Ok(Running { links: Some(links), status, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(StartError::new("the logd thread ended")),
    }
}

type Started = std::sync::mpsc::Sender<Result<Status, StartError>>;

async fn run(
    config: Config,
    accepted: WeakUnboundedSender<LogdLink>,
    links: UnboundedReceiver<LogdLink>,
    started: Started,
) {
    let listeners = config.grpc.clone();
    let server = match service::server(config.grpc_tls.as_ref().map(GrpcTls::config)) {
        Ok(server) => server,
        Err(why) => return drop(started.send(Err(StartError(format!("TLS of gRPC: {why}"))))),
    };
    match open(config).await {
        Err(error) => drop(started.send(Err(error))),
        Ok((disk, core)) => {
            for listener in listeners {
                spawn_service(&server, &listener, &accepted);
            }
            let status = core.status(disk.clone(), Handle::current());
            let _ = started.send(Ok(status));
            let groups = core.groups();
            core.run(links).await;
            for group in &groups {
                group.stop().await;
            }
            drop(groups);
            let (closed, done) = oneshot::channel::<()>();
            tokio::task::spawn_blocking(move || {
                disk.close();
                drop(closed);
            });
            let _ = done.await;
        }
    }
}

fn spawn_service(
    server: &Server,
    listener: &TcpListener,
    accepted: &WeakUnboundedSender<LogdLink>,
) {
    match listener.try_clone() {
        Ok(listener) => {
            drop(tokio::spawn(service::serve(server.clone(), listener, accepted.clone())))
        }
        Err(error) => tracing::error!(%error, "the gRPC listener cannot be used"),
    }
}

async fn open(config: Config) -> Result<(Disk, Core), StartError> {
    let (io, dir): (Arc<dyn Io>, PathBuf) = match config.data_dir {
        Some(dir) => (Arc::new(DiskIo), dir),
        None => (Arc::new(MemoryIo::new(config.memory_bytes_max)), "/memory".into()),
    };
    let disk =
        Disk::start(io, dir, config.disk, Arc::new(AbortOnFatal)).map_err(StartError::new)?;
    let there = disk.shards().map_err(StartError::new)?;
    let data = there.iter().filter(|s| **s != META_DIR).count() as u64;
    if !there.is_empty() && data != u64::from(config.shards) {
        return Err(StartError(format!(
            "the data directory has {data} shards, not {}; the number is fixed when it is made",
            config.shards
        )));
    }
    let effects = Effects::default();
    let meta = open_group(&disk, META_DIR, ShardId::META, &effects).await?;
    let mut shards = Vec::new();
    for shard in 0..config.shards {
        shards.push(open_group(&disk, shard.into(), ShardId(shard), &effects).await?);
    }
    if config.alone {
        end_gateways(&meta, &shards).await?;
    }
    set_retained_limits(&shards, config.retained_max).await;
    Ok((disk, Core::new(meta, shards, effects, config.backlog_max)))
}

/// Has every shard apply the limits of this configuration (S6).
async fn set_retained_limits(shards: &[Group], limits: RetainedLimits) {
    let RetainedLimits { messages, bytes } = limits;
    for group in shards.iter().filter(|g| g.with_state(Broker::retained_limits) != limits) {
        let set = group.lead(&Command::RetainedLimits { messages, bytes }).await;
        if !matches!(set, Ok(Outcome::Done)) {
            tracing::warn!(shard = %group.shard(), ?set, "limits of retained messages stay as they were");
        }
    }
}

/// Ends all gateways there were. Programs may come back: of what they said nobody knows whether it was taken but
/// who goes on under their epochs.
async fn end_gateways(meta: &Group, shards: &[Group]) -> Result<(), StartError> {
    // Epochs are positions in meta: whatever registers from now on is above this.
    let next = Position::new(meta.with_state(Broker::applied) + 1, 0).0;
    let (first_program, gateways) = meta.with_state(|b| {
        let programs = b.gateways().filter(|(.., address)| *address == ADDRESS);
        let first = programs.map(|(_, epoch, _)| epoch).min();
        let gateways = b.gateways().filter(|(.., address)| *address != ADDRESS);
        (first, gateways.map(|(_, epoch, _)| epoch).collect::<Vec<_>>())
    });
    let before = Command::EndGatewaysBefore { epoch: first_program.unwrap_or(next) };
    let one = |epoch: u64| Command::GatewayEnded { epoch };
    let ends: Vec<_> = std::iter::once(before).chain(gateways.into_iter().map(one)).collect();
    // Meta is last: what it does not know any more was ended everywhere.
    for group in shards.iter().chain([meta]) {
        for end in &ends {
            group.lead(end).await.map_err(StartError::new)?;
        }
    }
    Ok(())
}

async fn open_group(
    disk: &Disk,
    dir: u64,
    shard: ShardId,
    effects: &Effects,
) -> Result<Group, StartError> {
    let (log, recovered) = disk.open_shard(dir, OpenOptions::default()).map_err(StartError::new)?;
    if recovered.torn_bytes > 0 {
        tracing::warn!(%shard, bytes = recovered.torn_bytes, "a torn tail was cut");
        effects.counts.torn_tails.fetch_add(1, Ordering::Relaxed);
    }
    tracing::info!(%shard, ?recovered, "log opened");
    let options = GroupOptions::alone(shard, NODE);
    Group::start(options, log, effects.of(shard)).await.map_err(StartError::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each does is shown by tests of the log (`logd/log/tests/disk.rs`).
    #[test]
    fn keys_of_storage_reach_the_disk() {
        let mut settings = Settings::default();
        let storage = &mut settings.storage;
        (storage.commit_interval_us, storage.commit_bytes, storage.queue_bytes_max) = (1, 2, 3);
        (storage.segment_bytes_first, storage.segment_bytes_max) = (4, 5);
        (storage.low_water_bytes, storage.memory_bytes_max) = (6, 7);
        (storage.session_backlog_messages, storage.session_backlog_bytes) = (8, 9);
        let config = Config::from(&settings);
        let disk = &config.disk;
        assert_eq!((disk.commit_interval_us, disk.commit_bytes, disk.queue_bytes_max), (1, 2, 3));
        assert_eq!((disk.segment_bytes_first, disk.segment_bytes_max), (4, 5));
        assert_eq!((disk.low_water_bytes, config.memory_bytes_max), (Some(6), 7));
        assert_eq!((config.backlog_max.messages, config.backlog_max.bytes), (8, 9));
    }
}
