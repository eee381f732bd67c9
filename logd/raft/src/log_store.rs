//! openraft's log storage over [`logd_log::Log`]: entries are readable when `append` returns, callbacks
//! run after the sync, votes go through the same queue (openraft `docs/protocol/io_ordering.md`).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::time::Duration;

use bytes::Bytes;
use logd_log::{EntryKind, Log, Priority};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::membership;
use crate::type_config::{
    Entry, LogId, Payload, TypeConfig, Vote, from_log, from_log_vote, to_log, to_log_vote,
};

/// Bytes of payload that replication reads at once.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How soon an append is tried again when too much waits for the disk.
const BACKLOG_RETRY: Duration = Duration::from_millis(20);

/// The log of one group; clones are handles to the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    pub(crate) log: Log,
    /// This node.
    pub(crate) node: u64,
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

pub(crate) fn to_stored(entry: Entry) -> logd_log::Entry {
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(Payload(bytes)) => (EntryKind::Normal, bytes),
        EntryPayload::Membership(m) => (EntryKind::Membership, membership::encode(&m).into()),
    };
    let id = to_log(&entry.log_id);
    logd_log::Entry { index: id.index, term: id.term, leader_node: None, kind, payload }
}

pub(crate) fn from_stored(entry: logd_log::Entry) -> io::Result<Entry> {
    let payload = match entry.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Normal => EntryPayload::Normal(Payload(entry.payload.clone())),
        EntryKind::Membership => EntryPayload::Membership(membership::decode(&entry.payload)?),
    };
    Ok(Entry { log_id: from_log(entry.log_id()), payload })
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(n) => n + 1,
        Bound::Excluded(n) => *n,
        Bound::Unbounded => logd_log::limits::INDEX_MAX,
    };
    start..end
}

// === impl LogStore ===

impl LogStore {
    /// Waits until an operation of the log is durable.
    async fn durable(&self, start: impl FnOnce(&Log, logd_log::Callback)) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        start(&self.log, Box::new(move |result| drop(tx.send(result))));
        rx.await.map_err(other)?.map_err(other)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = self.log.read_entries(range, bytes_max).map_err(other)?;
        entries.into_iter().map(from_stored).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(bounds(&range), usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        // A fault planted to prove that the simulation finds it (design §12).
        if cfg!(planted = "forget_vote") {
            return Ok(None);
        }
        Ok(self.log.read_vote().map(from_log_vote))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        Ok(LogState {
            last_purged_log_id: self.log.purged().map(from_log),
            last_log_id: self.log.last().map(from_log),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = to_log_vote(vote);
        self.durable(|log, done| log.save_vote(vote, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.map(|id| id.index));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.committed().map_err(other)?.map(from_log))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(to_stored).collect();
        let bytes = entries.iter().map(|entry| entry.payload.len() as u64).sum();
        // Only behind a disk that has been full for long: who leads hears nothing meanwhile.
        while !self.log.queue_takes(bytes) {
            tokio::time::sleep(BACKLOG_RETRY).await;
        }
        // A fault planted to prove that the simulation finds it (design §12).
        let follows = self.log.read_vote().is_some_and(|vote| vote.voted_for != Some(self.node));
        if cfg!(planted = "skip_sync_on_followers") && follows {
            callback.io_completed(Ok(()));
            return self.log.append(entries, Priority::Decided, Box::new(drop)).map_err(other);
        }
        let done = Box::new(move |result: Result<(), logd_log::WriteError>| {
            callback.io_completed(result.map_err(other));
        });
        // Room was asked for before the entry was proposed. On a full disk it waits, and is not acknowledged.
        self.log.append(entries, Priority::Decided, done).map_err(other)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.durable(|log, done| log.truncate_after(last.map(|id| id.index), done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.durable(|log, done| log.purge(to_log(&upto), done)).await
    }
}

#[cfg(test)]
mod suite;
