//! Snapshots and purging, which are ours and not openraft's (`docs/adr/0001-openraft-pin.md`), and the end of the
//! process when the Raft core has ended.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::group::Group;
use crate::hold::Progress;
use crate::merge;
use crate::options::Encoding;
use logd_broker::Broker;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{Instant, RaftMetrics};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

/// How long a snapshot may take.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a purge may take.
const PURGE_PATIENCE: Duration = Duration::from_secs(5);
/// Entries that stay behind what is applied however large they are.
const MARGIN_MIN: u64 = 8;
/// The log grows by so many times the bytes of the state before the next snapshot: what snapshots write stays small
/// beside what the log does.
const STATE_TIMES: u64 = 8;

/// What an entry weighs besides its bytes: a start applies each that lies behind the snapshot, and that costs some 20 µs however
/// small it is.
const ENTRY_WEIGHT: u64 = 512;

/// When the next pass is due.
#[derive(Default)]
pub(crate) struct Pace {
    /// Weight of the log when it is.
    due_at: AtomicU64,
    /// Entries applied since this node started, those among them that lay behind the snapshot then.
    entries: AtomicU64,
    /// Bytes of the newest snapshot's state.
    pub(crate) state_bytes: AtomicU64,
    grew: Notify,
    /// Held through a pass.
    passing: Mutex<()>,
    pub(crate) progress: Progress,
}

// === impl Pace ===

impl Pace {
    /// So many entries were applied; `appended` bytes are in the log.
    pub(crate) fn applied(&self, entries: u64, appended: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        if self.weight(appended) >= self.due_at.load(Ordering::Relaxed) {
            self.grew.notify_one();
        }
    }

    /// What the log weighs behind the snapshot this node started with, or more: weights are compared.
    fn weight(&self, appended: u64) -> u64 {
        appended + ENTRY_WEIGHT * self.entries.load(Ordering::Relaxed)
    }
}

impl Group {
    /// Until the group stops.
    pub(crate) async fn watch(self) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        let pace = &self.shared.pace;
        let mut seen = pace.weight(self.log.bytes_appended());
        // What lay behind the snapshot at the start counts: else a node that is killed often would never make one.
        self.set_due(0);
        let mut pass: Option<JoinHandle<io::Result<()>>> = None;
        loop {
            tokio::select! {
                _ = seconds.tick() => {}
                () = pace.grew.notified() => {}
                Some(done) = ended(&mut pass) => {
                    pass = None;
                    if let Err(error) = done.map_err(io::Error::other).and_then(|done| done) {
                        tracing::warn!(shard = %self.shard, %error, "snapshot failed");
                    }
                }
            }
            let state = self.raft.metrics().borrow_watched().running_state.clone();
            match state {
                Ok(()) => {}
                Err(Fatal::Stopped) => return,
                Err(error) => {
                    tracing::error!(shard = %self.shard, %error, "the Raft core has ended");
                    std::process::abort();
                }
            }
            let appended = pace.weight(self.log.bytes_appended());
            let due = appended >= pace.due_at.load(Ordering::Relaxed);
            // A full disk does not wait: what was settled since the last snapshot may free segments (S9).
            if pass.is_none() && (due || (appended > seen && self.log.space().full)) {
                seen = appended;
                self.set_due(appended);
                let group = self.clone();
                pass = Some(tokio::spawn(async move { group.compact().await }));
            }
        }
    }

    fn set_due(&self, appended: u64) {
        let pace = &self.shared.pace;
        pace.due_at.store(appended.saturating_add(self.distance()), Ordering::Relaxed);
    }

    /// Weight of the log between two passes.
    pub(crate) fn distance(&self) -> u64 {
        let state = self.shared.pace.state_bytes.load(Ordering::Relaxed);
        self.compaction.log_bytes.max(state.saturating_mul(STATE_TIMES))
    }

    /// Makes a snapshot, purges behind it, unlinks segments in which nothing lives and merges those in which little does
    /// (S9, S10).
    ///
    /// # Errors
    /// The snapshot cannot be written.
    pub async fn compact(&self) -> io::Result<()> {
        let _guard = self.shared.pace.passing.lock().await;
        let applied = self.with_state(Broker::applied);
        self.raft.trigger().snapshot().await.map_err(io::Error::other)?;
        let wait = self.raft.wait(Some(SNAPSHOT_PATIENCE));
        wait.metrics(|m| m.snapshot.as_ref().is_some_and(|s| s.index >= applied), "snapshot")
            .await
            .map_err(io::Error::other)?;
        let covered = self.behind(applied);
        let purge = covered.min(self.needed());
        if purge > self.log.purged().map_or(0, |id| id.index) {
            self.raft.trigger().purge_log(purge).await.map_err(io::Error::other)?;
            // Segments go when the purge is durable; one that replication holds up is found by the next call.
            let wait = self.raft.wait(Some(PURGE_PATIENCE));
            let purged = |m: &RaftMetrics<_>| m.purged.as_ref().is_some_and(|id| id.index >= purge);
            let _ = wait.metrics(purged, "purge").await;
        }
        let (log, shared, shard) = (self.log.clone(), Arc::clone(&self.shared), self.shard);
        match self.compaction.encoding {
            Encoding::Inline => merge::pass(&log, &shared, shard, None),
            Encoding::Thread => {
                let rate = Some(merge::BYTES_PER_SECOND);
                let work = move || merge::pass(&log, &shared, shard, rate);
                tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
            }
        }
        self.shared.pace.progress.passed(covered);
        self.batcher.grew.notify_one();
        Ok(())
    }

    /// Up to where the log may be purged when `applied` is applied: a margin stays, of entries or of bytes, whichever is
    /// less.
    fn behind(&self, applied: u64) -> u64 {
        let by_bytes = self.log.first_within(applied, self.compaction.margin_bytes);
        let margin = self.compaction.margin;
        let by_entries = applied.saturating_sub(margin);
        by_entries.max(by_bytes).min(applied.saturating_sub(margin.min(MARGIN_MIN)))
    }

    /// A leader keeps what a voter that answers does not have yet: no snapshot is sent after a short pause.
    fn needed(&self) -> u64 {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let (Some(matched), Some(heard)) = (&metrics.replication, &metrics.heartbeat) else {
            return u64::MAX;
        };
        let present = |node: &u64| {
            let last = heard.get(node).copied().flatten();
            last.is_some_and(|at| at.elapsed() <= self.compaction.absent)
        };
        let matched = matched.iter().filter(|(node, _)| present(node));
        matched.map(|(_, id)| id.as_ref().map_or(0, |id| id.index)).min().unwrap_or(u64::MAX)
    }
}

/// What a pass came to, when it has ended.
async fn ended(
    pass: &mut Option<JoinHandle<io::Result<()>>>,
) -> Option<Result<io::Result<()>, tokio::task::JoinError>> {
    match pass {
        Some(pass) => Some(pass.await),
        None => std::future::pending().await,
    }
}
