//! openraft's state machine around the [`Broker`] of a shard.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxmq_commands::wire::{Reader, Write};
use futures_util::{Stream, StreamExt};
use logd_broker::{Applied, Broker, Snapshot};
use logd_log::{Log, SnapshotError, SnapshotReader, SnapshotStore};
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

/// Bytes of a snapshot written at once.
const CHUNK: usize = 256 * 1024;
/// Bytes of a snapshot written in a second beside the log (S10).
const BYTES_PER_SECOND: u64 = 128 * 1024 * 1024;
/// How soon a snapshot that found the disk full is written again.
const FULL_RETRY: Duration = Duration::from_secs(1);

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, State>;

/// A snapshot's state, as openraft hands it around.
pub(crate) struct State {
    pub(crate) bytes: Bytes,
    /// It came from another voter and lies on disk already, to be published.
    pub(crate) arrived: Option<Arrived>,
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
            machine.restore(&snapshot.meta, &snapshot.snapshot.bytes)?;
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
        let mut reader = self.snapshots.read(info.last).map_err(other)?;
        let (meta, received) = decode_meta(info.last, &reader.info().meta)?;
        let state_bytes = received.map_or(info.state_bytes, |received| received.state_bytes);
        let bytes = read_state(&mut reader, state_bytes)?;
        let snapshot = State { bytes, arrived: None };
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
        match state.arrived {
            Some(arrived) => {
                let info = arrived.writer.commit().map_err(other)?;
                let (_, received) = decode_meta(info.last, &info.meta)?;
                if let Some(received) = received {
                    self.settle(meta, received).await?;
                }
                self.snapshots.delete_older(info.last).map_err(other)?;
            }
            None => write(&self.snapshots, meta, &state.bytes, None)?,
        }
        self.restore(meta, &state.bytes)
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
    async fn store(&self, state: &Bytes) -> io::Result<()> {
        let (snapshots, meta, state) = (self.snapshots.clone(), self.meta.clone(), state.clone());
        match self.encoding {
            Encoding::Inline => write(&snapshots, &meta, &state, None),
            Encoding::Thread => {
                let work = move || write(&snapshots, &meta, &state, Some(BYTES_PER_SECOND));
                tokio::task::spawn_blocking(work).await.map_err(other)?
            }
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = State;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let snapshot = self.snapshot.take().ok_or(io::ErrorKind::AlreadyExists)?;
        let before = self.shared.pace.state_bytes.load(Ordering::Relaxed);
        let about = usize::try_from(before + before / 8).unwrap_or_default();
        let encode = move || snapshot.encode_about(about);
        let state = Bytes::from(match self.encoding {
            Encoding::Inline => encode(),
            Encoding::Thread => tokio::task::spawn_blocking(encode).await.map_err(other)?,
        });
        self.shared.pace.state_bytes.store(state.len() as u64, Ordering::Relaxed);
        // An error would end the core, and with it what frees space: a full disk is waited for.
        while let Err(error) = self.store(&state).await {
            match is_full(&error) {
                true => tokio::time::sleep(FULL_RETRY).await,
                false => return Err(error),
            }
        }
        let snapshot = State { bytes: state, arrived: None };
        Ok(RaftSnapshot { meta: self.meta.clone(), snapshot })
    }
}

fn read_state(reader: &mut SnapshotReader, state_bytes: u64) -> io::Result<Bytes> {
    let mut state = Vec::with_capacity(usize::try_from(state_bytes).unwrap_or_default());
    while (state.len() as u64) < state_bytes {
        let block = reader.next_block().map_err(other)?;
        let block = block.ok_or(io::ErrorKind::UnexpectedEof)?;
        let left = usize::try_from(state_bytes - state.len() as u64).unwrap_or(usize::MAX);
        state.extend_from_slice(&block[..block.len().min(left)]);
    }
    Ok(state.into())
}

/// Writes and publishes a snapshot; `pace` is in bytes a second, on a thread that may sleep.
fn write(
    snapshots: &SnapshotStore,
    meta: &SnapshotMeta,
    state: &[u8],
    pace: Option<u64>,
) -> io::Result<()> {
    let Some(last) = meta.last_log_id.as_ref().map(to_log) else { return Ok(()) };
    let mut writer = snapshots.begin(last, encode_meta(meta, None).into()).map_err(kept)?;
    let begun = Instant::now();
    for (n, chunk) in state.chunks(CHUNK).enumerate() {
        writer.write(chunk).map_err(kept)?;
        if let Some(pace) = pace {
            let due = Duration::from_micros((n * CHUNK) as u64 * 1_000_000 / pace);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    writer.commit().map_err(kept)?;
    snapshots.delete_older(last).map_err(kept)?;
    Ok(())
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
