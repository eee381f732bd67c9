//! openraft's own tests of a store, over the log in memory and on the disk of this machine.
//!
//! Some of them begin an empty log at index 1 or later, which Raft never does and our log refuses. [`FromAnywhere`]
//! fills what is missing before and hides it. Others purge what no snapshot holds, which our store takes for a lost
//! snapshot and refuses to start with; here nothing is committed then. Nothing else is changed.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fluxmq_names::ShardId;
use logd_broker::{Applied, Broker};
use logd_log::io::{DiskIo, Io, MemoryIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, OptionalSend, RaftLogReader, StorageError};
use tempfile::TempDir;

use super::LogStore;
use crate::machine::{Machine, Observer};
use crate::options::Encoding;
use crate::type_config::{Entry, LogId, Runtime, TypeConfig, Vote};

/// A store whose log may begin anywhere.
#[derive(Clone)]
struct FromAnywhere {
    store: LogStore,
    first: Arc<AtomicU64>,
}

impl RaftLogReader<TypeConfig> for FromAnywhere {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut entries = self.store.try_get_log_entries(range).await?;
        entries.retain(|e| e.log_id.index >= self.first.load(Ordering::Relaxed));
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.store.read_vote().await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.store.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for FromAnywhere {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        self.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.store.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.store.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let purged = self.store.log.purged().map(|id| id.index);
        Ok(self.store.read_committed().await?.filter(|id| Some(id.index) > purged))
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<_> = entries.into_iter().collect();
        if let (None, Some(first)) = (self.store.log.last(), entries.first()) {
            let first = first.log_id;
            self.first.store(first.index, Ordering::Relaxed);
            let before = |index| Entry {
                log_id: LogId::new_term_index(first.leader_id.term, index),
                payload: EntryPayload::Blank,
            };
            entries = (0..first.index).map(before).chain(entries).collect();
        }
        self.store.append(entries, done).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.store.purge(upto).await
    }
}

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {}
}

/// What a store lives in.
struct Place {
    _disk: Disk,
    _dir: Option<TempDir>,
}

enum Stores {
    InMemory,
    OnDisk,
}

impl StoreBuilder<TypeConfig, FromAnywhere, Machine, Place> for Stores {
    async fn build(&self) -> Result<(Place, FromAnywhere, Machine), StorageError<TypeConfig>> {
        let (io, dir, guard): (Arc<dyn Io>, PathBuf, _) = match self {
            Self::InMemory => (Arc::new(MemoryIo::new(1 << 30)), "/data".into(), None),
            Self::OnDisk => {
                let dir = TempDir::new().expect("a temporary directory");
                (Arc::new(DiskIo), dir.path().join("data"), Some(dir))
            }
        };
        let config = DiskConfig { segment_bytes_first: 64 * 1024, ..DiskConfig::default() };
        let disk = Disk::start(io, dir, config, Arc::new(AbortOnFatal)).expect("a new directory");
        let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a new shard");
        let broker = Broker::new(ShardId(0));
        let machine = Machine::open(&log, broker, Box::new(Nobody), Encoding::Thread).await;
        let machine = machine.expect("nothing to restore");
        let store = FromAnywhere { store: LogStore { log, node: 0 }, first: Arc::default() };
        Ok((Place { _disk: disk, _dir: guard }, store, machine))
    }
}

#[tokio::test]
async fn openrafts_suite_in_memory() {
    Runtime::scope(1, Suite::test_all(Stores::InMemory)).await.expect("all of it");
}

#[tokio::test]
async fn openrafts_suite_on_disk() {
    Runtime::scope(1, Suite::test_all(Stores::OnDisk)).await.expect("all of it");
}
