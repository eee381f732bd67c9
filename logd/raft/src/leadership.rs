//! Who leads, as this node sees it.

use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use crate::confirm::Confirmations;
use crate::group::{ELECTION_MIN_MS, RaftNode};

/// Between two looks at whether a majority still answers.
const LOOK: Duration = Duration::from_millis(250);

/// Follows openraft until the group stops. This node is said to lead only after a majority said so and all that was
/// committed before is applied: from then on its state may be acted upon (S7). It is said to lead no more when no
/// majority answered within an election timeout: others may have elected another.
pub(crate) async fn follow(
    raft: RaftNode,
    confirmations: Confirmations,
    node: u64,
    leader: watch::Sender<Option<u64>>,
) {
    let mut seen = raft.server_metrics();
    loop {
        let current = seen.borrow_watched().current_leader;
        let known = *leader.borrow();
        if current != Some(node) {
            leader.send_if_modified(|known| std::mem::replace(known, current) != current);
            if seen.changed().await.is_err() {
                return;
            }
        } else if known != Some(node) {
            leader.send_if_modified(|known| known.take().is_some());
            match confirmations.ask(&raft).await {
                Ok(()) => drop(leader.send_replace(current)),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        } else {
            match tokio::time::timeout(LOOK, seen.changed()).await {
                Ok(Err(_)) => return,
                Err(_) if !has_majority(&raft) => drop(leader.send_replace(None)),
                _ => {}
            }
        }
    }
}

fn has_majority(raft: &RaftNode) -> bool {
    let lease = Duration::from_millis(ELECTION_MIN_MS);
    let metrics = raft.data_metrics();
    let acked = metrics.borrow_watched().last_quorum_acked;
    acked.is_some_and(|at| at.elapsed() <= lease)
}
