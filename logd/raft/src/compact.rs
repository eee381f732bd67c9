//! Snapshots and purging, which are ours and not openraft's (`docs/adr/0001-openraft-pin.md`), and the end of the
//! process when the Raft core has ended.

use std::io;
use std::time::Duration;

use crate::group::Group;
use logd_broker::Broker;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{Instant, RaftMetrics};

/// How long a snapshot may take.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a purge may take.
const PURGE_PATIENCE: Duration = Duration::from_secs(5);

impl Group {
    /// Until the group stops.
    pub(crate) async fn watch(self) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
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
            let due = appended - snapshot_at >= self.compaction.log_bytes;
            // A full disk does not wait: what was settled since the last snapshot may free segments (S9).
            if due || (appended > snapshot_at && self.log.space().full) {
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
        let wait = self.raft.wait(Some(SNAPSHOT_PATIENCE));
        wait.metrics(|m| m.snapshot.as_ref().is_some_and(|s| s.index >= applied), "snapshot")
            .await
            .map_err(io::Error::other)?;
        let purge = applied.saturating_sub(self.compaction.margin).min(self.needed());
        if purge > self.log.purged().map_or(0, |id| id.index) {
            self.raft.trigger().purge_log(purge).await.map_err(io::Error::other)?;
            // Segments go when the purge is durable; one that replication holds up is found by the next call.
            let wait = self.raft.wait(Some(PURGE_PATIENCE));
            let purged = |m: &RaftMetrics<_>| m.purged.as_ref().is_some_and(|id| id.index >= purge);
            let _ = wait.metrics(purged, "purge").await;
        }
        let broker = self.shared.clone();
        self.log.reclaim(&|entries| broker.broker.lock().is_live(entries));
        Ok(())
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
