//! Receives a snapshot (S10). State and live entries gather in one snapshot on disk that is published as a whole; only
//! then are the live entries copied into the log, each at its index, and the log is purged up to the snapshot. A crash
//! in between is made good at the next start, from the snapshot, before Raft looks at the log.
//!
//! Between live entries stand empty ones in place of the dead, or, where many are dead, a purge and a new segment:
//! none of it is ever replicated or applied, because all of it lies below the purge floor.

use std::io;

use bytes::{Bytes, BytesMut};
use logd_log::{Entry, EntryKind, Log, LogId, Priority, SnapshotReader, SnapshotWriter};
use tokio::sync::oneshot;

use crate::machine::{Received, decode_meta, encode_meta};
use crate::peer;
use crate::type_config::SnapshotMeta;

/// Dead entries between two live ones that are written as empty ones.
const FILL_MAX: u64 = 4_096;
/// Bytes appended to the log at once.
const APPEND_BYTES: usize = 4 * 1024 * 1024;

/// A snapshot that arrives.
pub(crate) struct Arrival {
    pub(crate) transfer: u64,
    /// Live entries at and below this index are here already.
    pub(crate) above: u64,
    meta: SnapshotMeta,
    writer: SnapshotWriter,
    state: BytesMut,
    state_bytes: u64,
    live_bytes: u64,
}

/// All of a snapshot is on disk, not published.
pub(crate) struct Arrived {
    pub(crate) writer: SnapshotWriter,
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

// === impl Arrival ===

impl Arrival {
    /// `meta` as the sender stores it; live entries at and below `above` are here.
    pub(crate) fn begin(
        log: &Log,
        transfer: u64,
        last: LogId,
        meta: &[u8],
        state_bytes: u64,
        above: u64,
    ) -> io::Result<Self> {
        let (meta, _) = decode_meta(last, meta)?;
        let stored = encode_meta(&meta, Some(Received { state_bytes, above }));
        let writer = log.snapshots().begin(last, stored.into()).map_err(other)?;
        let state = BytesMut::new();
        Ok(Self { transfer, above, meta, writer, state, state_bytes, live_bytes: 0 })
    }

    /// State from `at` on; a chunk that was taken before is taken again.
    pub(crate) fn take_state(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let have = self.state.len() as u64;
        if repeated(at, bytes.len(), have)? {
            return Ok(());
        }
        if have + bytes.len() as u64 > self.state_bytes || self.live_bytes > 0 {
            return Err(broken("more state than was announced"));
        }
        self.writer.write(bytes).map_err(other)?;
        self.state.extend_from_slice(bytes);
        Ok(())
    }

    /// Live entries, `at` bytes behind the state.
    pub(crate) fn take_live(&mut self, at: u64, bytes: &Bytes) -> io::Result<()> {
        if repeated(at, bytes.len(), self.live_bytes)? {
            return Ok(());
        }
        if self.state.len() as u64 != self.state_bytes {
            return Err(broken("live entries before the state is whole"));
        }
        peer::entries(bytes).map_err(other)?;
        self.writer.write(bytes).map_err(other)?;
        self.live_bytes += bytes.len() as u64;
        Ok(())
    }

    /// The state, and what is on disk. A full disk is an answer to the sender here; Raft's core would end for it.
    pub(crate) fn end(mut self) -> io::Result<(SnapshotMeta, Bytes, Arrived)> {
        if self.state.len() as u64 != self.state_bytes {
            return Err(broken("less state than was announced"));
        }
        self.writer.complete().map_err(other)?;
        Ok((self.meta, self.state.freeze(), Arrived { writer: self.writer }))
    }
}

fn repeated(at: u64, len: usize, have: u64) -> io::Result<bool> {
    if at == have {
        return Ok(false);
    }
    let inside = at.checked_add(len as u64).is_some_and(|end| end <= have);
    if inside { Ok(true) } else { Err(broken("a chunk is missing")) }
}

// === into the log ===

/// Copies the live entries of a received snapshot into the log, as far as they are not there, and purges the log up to
/// the snapshot's last entry. Repeating it changes nothing.
pub(crate) async fn settle(
    log: &Log,
    mut snapshot: SnapshotReader,
    received: Received,
) -> io::Result<()> {
    let last = snapshot.info().last;
    if log.purged().is_some_and(|purged| purged.index >= last.index) {
        return Ok(());
    }
    // A fault planted to prove that the simulation finds it (design §12).
    if cfg!(planted = "lose_live_entries") {
        return durable(|done| log.purge(last, done)).await;
    }
    log.save_committed(Some(last.index));
    if log.log_id(last.index).map_err(other)? != Some(last) {
        // What is behind `above` may be of another leader; all of it that counts comes from the snapshot.
        if log.last().is_some_and(|id| id.index > received.above) {
            durable(|done| log.truncate_after(Some(received.above), done)).await?;
        }
        copy(log, &mut snapshot, received.state_bytes, last).await?;
    }
    durable(|done| log.purge(last, done)).await
}

async fn copy(
    log: &Log,
    snapshot: &mut SnapshotReader,
    mut skip: u64,
    last: LogId,
) -> io::Result<()> {
    let mut filler = Filler { log, entries: Vec::new(), bytes: 0 };
    let mut rest = BytesMut::new();
    while let Some(block) = snapshot.next_block().map_err(other)? {
        let skipped = skip.min(block.len() as u64);
        skip -= skipped;
        rest.extend_from_slice(&block[usize::try_from(skipped).unwrap_or(usize::MAX)..]);
        let mut whole = rest.split().freeze();
        while let Some((entry, len)) = peer::entry(&whole).map_err(other)? {
            if entry.index > last.index {
                return Err(broken("a live entry behind its snapshot"));
            }
            filler.put(entry).await?;
            whole = whole.slice(len..);
        }
        rest = BytesMut::from(&whole[..]);
    }
    if !rest.is_empty() {
        return Err(broken("a live entry ends too early"));
    }
    filler.flush().await
}

/// Appends entries with gaps between them.
struct Filler<'a> {
    log: &'a Log,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Filler<'_> {
    fn last(&self) -> Option<LogId> {
        self.entries.last().map(Entry::log_id).or_else(|| self.log.last())
    }

    async fn put(&mut self, entry: Entry) -> io::Result<()> {
        let before = self.last();
        let next = before.map_or(0, |id| id.index + 1);
        if entry.index < next {
            return Ok(());
        }
        let term = before.map_or(0, |id| id.term);
        if entry.index - next > FILL_MAX {
            self.flush().await?;
            let floor = LogId { term, leader_node: None, index: entry.index - 1 };
            durable(|done| self.log.purge(floor, done)).await?;
        } else {
            let dead = (next..entry.index).map(|index| Entry {
                index,
                term,
                leader_node: None,
                kind: EntryKind::Blank,
                payload: Bytes::new(),
            });
            self.entries.extend(dead);
        }
        self.bytes += entry.payload.len();
        self.entries.push(entry);
        if self.bytes >= APPEND_BYTES || self.entries.len() as u64 >= FILL_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let entries = std::mem::take(&mut self.entries);
        self.bytes = 0;
        let (tx, rx) = oneshot::channel();
        let done = Box::new(move |result| drop(tx.send(result)));
        self.log.append(entries, Priority::Decided, done).map_err(other)?;
        rx.await.map_err(other)?.map_err(other)
    }
}

async fn durable(start: impl FnOnce(logd_log::Callback)) -> io::Result<()> {
    let (tx, rx) = oneshot::channel();
    start(Box::new(move |result| drop(tx.send(result))));
    rx.await.map_err(other)?.map_err(other)
}
