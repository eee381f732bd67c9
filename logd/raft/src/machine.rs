//! openraft's state machine around the [`Broker`] of a shard.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxmq_commands::wire::{Reader, Write};
use futures_util::{Stream, StreamExt};
use logd_broker::{Applied, Broker, Sink, Snapshot};
use logd_log::{Log, SnapshotError, SnapshotStore};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;

use crate::arrival::{self, Arrived};
use crate::compact::Pace;
use crate::membership;
use crate::options::Encoding;
use crate::type_config::{
    LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig, from_log, to_log,
};

/// Bytes of a snapshot written in a second beside the log (S10).
const BYTES_PER_SECOND: u64 = 128 * 1024 * 1024;
/// How soon a snapshot that found the disk full is written again.
const FULL_RETRY: Duration = Duration::from_secs(1);

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, State>;

/// A snapshot's state, as openraft hands it around.
pub(crate) enum State {
    /// It is kept on a disk: of this node, but in tests.
    Kept { snapshots: SnapshotStore, last: Option<logd_log::LogId> },
    /// It came from another voter and lies on disk already, to be published.
    Arrived { bytes: Bytes, arrived: Arrived },
}

/// What is stored with a snapshot that came from another voter: live entries stand behind its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes of the state.
    pub(crate) state_bytes: u64,
    /// Live entries at and below this index were in the log before.
    pub(crate) above: u64,
}

/// Told of every entry that was applied, on the runtime of the group, with the state behind it.
pub trait Observer: Send + Sync + 'static {
    /// An entry was applied.
    fn applied(&self, broker: &Broker, index: u64, applied: &Applied);
}

/// What the state machine and its group share.
pub(crate) struct Shared {
    pub(crate) broker: Mutex<Broker>,
    pub(crate) pace: Pace,
    pub(crate) observer: Box<dyn Observer>,
}

/// The state machine.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    log: Log,
    snapshots: SnapshotStore,
    encoding: Encoding,
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

/// Keeps what the system said.
fn kept(error: SnapshotError) -> io::Error {
    match error {
        SnapshotError::Io(error) => error,
        error => other(error),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

// === impl State ===

impl State {
    /// The state as bytes, those of a file for one that is kept.
    pub(crate) fn bytes(&self) -> io::Result<Bytes> {
        match self {
            Self::Arrived { bytes, .. } => Ok(bytes.clone()),
            // Nothing was ever applied.
            Self::Kept { last: None, .. } => Ok(Broker::default().snapshot().encode().into()),
            Self::Kept { snapshots, last: Some(last) } => {
                let reader = snapshots.read(*last).map_err(other)?;
                let (_, received) = decode_meta(*last, &reader.info().meta)?;
                let bytes = received.map_or(reader.info().state_bytes, |r| r.state_bytes);
                reader.mapped(bytes).map_err(other)
            }
        }
    }
}

// === impl Machine ===

impl Machine {
    /// The state machine at the newest snapshot of the log's shard, or empty.
    pub(crate) async fn open(
        log: &Log,
        broker: Broker,
        observer: Box<dyn Observer>,
        encoding: Encoding,
    ) -> io::Result<Self> {
        let snapshots = log.snapshots();
        let shared =
            Arc::new(Shared { broker: Mutex::new(broker), pace: Pace::default(), observer });
        let membership = StoredMembership::default();
        let log = log.clone();
        let mut machine = Self { shared, log, snapshots, encoding, last: None, membership };
        if let Some((snapshot, received)) = machine.newest()? {
            if let Some(received) = received {
                machine.settle(&snapshot.meta, received).await?;
            }
            machine.restore(&snapshot.meta, &snapshot.snapshot.bytes()?)?;
        }
        Ok(machine)
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    fn restore(&mut self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        *self.shared.broker.lock() = Broker::restore(state).map_err(other)?;
        self.shared.pace.state_bytes.store(state.len() as u64, Ordering::Relaxed);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    /// What a received snapshot's state refers to gets into the log.
    async fn settle(&self, meta: &SnapshotMeta, received: Received) -> io::Result<()> {
        let Some(last) = meta.last_log_id.as_ref().map(to_log) else { return Ok(()) };
        let reader = self.snapshots.read(last).map_err(other)?;
        arrival::settle(&self.log, reader, received).await
    }

    fn newest(&self) -> io::Result<Option<(RaftSnapshot, Option<Received>)>> {
        let Some(info) = self.snapshots.latest().map_err(other)? else { return Ok(None) };
        let (meta, received) = decode_meta(info.last, &info.meta)?;
        let snapshot = State::Kept { snapshots: self.snapshots.clone(), last: Some(info.last) };
        Ok(Some((RaftSnapshot { meta, snapshot }, received)))
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
    type SnapshotData = State;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut count = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            count += 1;
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
        self.shared.pace.applied(count, self.log.bytes_appended());
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            snapshot: Some(self.shared.broker.lock().snapshot()),
            snapshots: self.snapshots.clone(),
            shared: self.shared.clone(),
            encoding: self.encoding,
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        state: State,
    ) -> Result<(), io::Error> {
        let bytes = state.bytes()?;
        match state {
            State::Arrived { arrived, .. } => {
                let info = arrived.writer.commit().map_err(other)?;
                let (_, received) = decode_meta(info.last, &info.meta)?;
                if let Some(received) = received {
                    self.settle(meta, received).await?;
                }
                self.snapshots.delete_older(info.last).map_err(other)?;
            }
            State::Kept { .. } => {
                write(&self.snapshots, meta, None, |sink| sink(&bytes))?;
            }
        }
        self.restore(meta, &bytes)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        Ok(self.newest()?.map(|(snapshot, _)| snapshot))
    }
}

/// Encodes a snapshot on a thread of its own, while apply goes on (S10).
pub(crate) struct Builder {
    snapshot: Option<Snapshot>,
    snapshots: SnapshotStore,
    shared: Arc<Shared>,
    encoding: Encoding,
    meta: SnapshotMeta,
}

impl Builder {
    /// Returns the bytes of the state.
    async fn store(&self, snapshot: &Arc<Snapshot>) -> io::Result<u64> {
        let (snapshots, meta, snapshot) =
            (self.snapshots.clone(), self.meta.clone(), Arc::clone(snapshot));
        let rate = (self.encoding == Encoding::Thread).then_some(BYTES_PER_SECOND);
        let work = move || write(&snapshots, &meta, rate, |sink| snapshot.encode_into(sink));
        match self.encoding {
            Encoding::Inline => work(),
            Encoding::Thread => tokio::task::spawn_blocking(work).await.map_err(other)?,
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = State;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let snapshot = Arc::new(self.snapshot.take().ok_or(io::ErrorKind::AlreadyExists)?);
        // An error would end the core, and with it what frees space: a full disk is waited for.
        let bytes = loop {
            match self.store(&snapshot).await {
                Err(error) if is_full(&error) => tokio::time::sleep(FULL_RETRY).await,
                written => break written?,
            }
        };
        self.shared.pace.state_bytes.store(bytes, Ordering::Relaxed);
        let last = self.meta.last_log_id.as_ref().map(to_log);
        let snapshot = State::Kept { snapshots: self.snapshots.clone(), last };
        Ok(RaftSnapshot { meta: self.meta.clone(), snapshot })
    }
}

/// Writes what `encode` hands over as a snapshot and publishes it; `rate` is in bytes a second, on a thread that may
/// sleep. Returns the bytes of the state.
fn write(
    snapshots: &SnapshotStore,
    meta: &SnapshotMeta,
    rate: Option<u64>,
    encode: impl FnOnce(&mut Sink<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let Some(last) = meta.last_log_id.as_ref().map(to_log) else { return Ok(0) };
    let mut writer = snapshots.begin(last, encode_meta(meta, None).into()).map_err(kept)?;
    let (begun, mut written) = (Instant::now(), 0);
    encode(&mut |page| {
        writer.write(page).map_err(kept)?;
        written += page.len() as u64;
        if let Some(rate) = rate {
            let due = Duration::from_micros(written * 1_000_000 / rate);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        Ok(())
    })?;
    writer.commit().map_err(kept)?;
    snapshots.delete_older(last).map_err(kept)?;
    Ok(written)
}

/// Bits of the first byte of a meta.
const FROM_ENTRY: u8 = 1;
const RECEIVED: u8 = 2;

/// The membership, and the entry it comes from: `bits u8, term u64, index u64`, if received `state bytes u64, above u64`,
/// `membership`.
pub(crate) fn encode_meta(meta: &SnapshotMeta, received: Option<Received>) -> Vec<u8> {
    let mut out = Vec::new();
    let from = meta.last_membership.log_id().as_ref().map(to_log);
    let bits = [(from.is_some(), FROM_ENTRY), (received.is_some(), RECEIVED)];
    out.put_u8(bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum());
    out.put_u64(from.map_or(0, |id| id.term));
    out.put_u64(from.map_or(0, |id| id.index));
    if let Some(Received { state_bytes, above }) = received {
        out.put_u64(state_bytes);
        out.put_u64(above);
    }
    out.extend_from_slice(&membership::encode(meta.last_membership.membership()));
    out
}

pub(crate) fn decode_meta(
    last: logd_log::LogId,
    bytes: &[u8],
) -> io::Result<(SnapshotMeta, Option<Received>)> {
    let mut r = Reader(bytes);
    let bits = r.u8().map_err(other)?;
    let (term, index) = (r.u64().map_err(other)?, r.u64().map_err(other)?);
    let from = (bits & FROM_ENTRY != 0).then(|| LogId::new_term_index(term, index));
    let mut received = None;
    if bits & RECEIVED != 0 {
        let (state_bytes, above) = (r.u64().map_err(other)?, r.u64().map_err(other)?);
        received = Some(Received { state_bytes, above });
    }
    let membership = membership::decode(r.0)?;
    let meta = SnapshotMeta {
        last_log_id: Some(from_log(last)),
        last_membership: StoredMembership::new(from, membership),
    };
    Ok((meta, received))
}
