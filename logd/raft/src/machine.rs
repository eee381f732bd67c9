//! openraft's state machine around the [`Broker`] of a shard.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_commands::wire::{Reader, Write};
use futures_util::{Stream, StreamExt};
use logd_broker::{Applied, Broker, Snapshot};
use logd_log::{Log, SnapshotStore};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;

use crate::membership;
use crate::type_config::{
    LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, from_log, to_log,
};

/// Bytes of a snapshot written at once.
const CHUNK: usize = 256 * 1024;

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>;

/// Told of every entry that was applied, on the runtime of the group, with the state behind it.
pub trait Observer: Send + Sync + 'static {
    /// An entry was applied.
    fn applied(&self, broker: &Broker, index: u64, applied: &Applied);
}

/// What the state machine and its group share.
pub(crate) struct Shared {
    pub(crate) broker: Mutex<Broker>,
    pub(crate) observer: Box<dyn Observer>,
}

/// The state machine.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    snapshots: SnapshotStore,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// Ends the process when apply panics: a state that is half changed must not be used (S11).
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

// === impl Machine ===

impl Machine {
    /// The state machine at the newest snapshot of the log's shard, or empty.
    pub(crate) fn open(log: &Log, broker: Broker, observer: Box<dyn Observer>) -> io::Result<Self> {
        let snapshots = log.snapshots();
        let shared = Arc::new(Shared { broker: Mutex::new(broker), observer });
        let membership = StoredMembership::default();
        let mut machine = Self { shared, snapshots, last: None, membership };
        if let Some((meta, state)) = machine.newest()? {
            machine.install(&meta, &state)?;
        }
        Ok(machine)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    fn install(&mut self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        *self.shared.broker.lock() = Broker::restore(state).map_err(other)?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    fn newest(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let Some(info) = self.snapshots.latest().map_err(other)? else { return Ok(None) };
        let mut reader = self.snapshots.read(info.last).map_err(other)?;
        let meta = decode_meta(info.last, &reader.info().meta)?;
        let mut state = Vec::new();
        while let Some(block) = reader.next_block().map_err(other)? {
            state.extend_from_slice(&block);
        }
        Ok(Some((meta, state.into())))
    }

    fn apply_one(&mut self, index: u64, payload: &[u8]) -> io::Result<Applied> {
        let guard = AbortOnPanic;
        let mut broker = self.shared.broker.lock();
        let applied = broker.apply(index, payload).map_err(|error| {
            tracing::error!(%error, "an entry cannot be applied: this node stops");
            other(error)
        })?;
        self.shared.observer.applied(&broker, index, &applied);
        drop(guard);
        Ok(applied)
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let mut outcomes = Vec::new();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(m) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), m);
                }
                EntryPayload::Normal(Payload(bytes)) => {
                    outcomes = self.apply_one(entry.log_id.index, &bytes)?.outcomes;
                }
            }
            self.last = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            snapshot: Some(self.shared.broker.lock().snapshot()),
            snapshots: self.snapshots.clone(),
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Bytes,
    ) -> Result<(), io::Error> {
        write(&self.snapshots, meta, &snapshot)?;
        self.install(meta, &snapshot)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        Ok(self.newest()?.map(|(meta, snapshot)| RaftSnapshot { meta, snapshot }))
    }
}

/// Encodes a snapshot on a thread of its own, while apply goes on (S10).
pub(crate) struct Builder {
    snapshot: Option<Snapshot>,
    snapshots: SnapshotStore,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let snapshot = self.snapshot.take().ok_or(io::ErrorKind::AlreadyExists)?;
        let (snapshots, meta) = (self.snapshots.clone(), self.meta.clone());
        let work = move || {
            let state = snapshot.encode();
            write(&snapshots, &meta, &state)?;
            Ok::<_, io::Error>(RaftSnapshot { meta, snapshot: state.into() })
        };
        tokio::task::spawn_blocking(work).await.map_err(other)?
    }
}

fn write(snapshots: &SnapshotStore, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
    let Some(last) = meta.last_log_id.as_ref().map(to_log) else { return Ok(()) };
    let mut writer = snapshots.begin(last, encode_meta(meta).into()).map_err(other)?;
    for chunk in state.chunks(CHUNK) {
        writer.write(chunk).map_err(other)?;
    }
    writer.commit().map_err(other)?;
    snapshots.delete_older(last).map_err(other)?;
    Ok(())
}

/// The membership, and the entry it comes from: `present u8, term u64, index u64, membership`.
fn encode_meta(meta: &SnapshotMeta) -> Vec<u8> {
    let mut out = Vec::new();
    let from = meta.last_membership.log_id().as_ref().map(to_log);
    out.put_u8(from.is_some().into());
    out.put_u64(from.map_or(0, |id| id.term));
    out.put_u64(from.map_or(0, |id| id.index));
    out.extend_from_slice(&membership::encode(meta.last_membership.membership()));
    out
}

fn decode_meta(last: logd_log::LogId, bytes: &[u8]) -> io::Result<SnapshotMeta> {
    let mut r = Reader(bytes);
    let present = r.u8().map_err(other)? != 0;
    let (term, index) = (r.u64().map_err(other)?, r.u64().map_err(other)?);
    let from = present.then(|| LogId::new_term_index(term, index));
    let membership = membership::decode(r.0)?;
    Ok(SnapshotMeta {
        last_log_id: Some(from_log(last)),
        last_membership: StoredMembership::new(from, membership),
    })
}
