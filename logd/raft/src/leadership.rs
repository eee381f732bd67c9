//! Who leads, as this node sees it.

use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use crate::group::{ELECTION_MIN_MS, Group};
use crate::network::Link;
use crate::peer::Question;

/// Between two looks at whether a majority still answers, and at the clocks.
const LOOK: Duration = Duration::from_millis(250);

impl Group {
    /// Follows openraft until the group stops. This node is said to lead only after a majority said so and all that was
    /// committed before is applied: from then on its state may be acted upon (S7). It is said to lead no more when no
    /// majority answered within an election timeout: others may have elected another. While its clock is off it leads
    /// nothing: it hands over and does not stand for election.
    pub(crate) async fn follow(self, leader: watch::Sender<Option<u64>>, others: Vec<Link>) {
        let mut seen = self.raft.server_metrics();
        loop {
            let current = seen.borrow_watched().current_leader;
            let ours = current == Some(self.node());
            let was_off = self.clocks.is_off();
            if was_off && !ours {
                // Nobody tells a follower the time unless it asks.
                let asked = others.iter().map(|link| link.ask(&Question::Clock, LOOK));
                futures_util::future::join_all(asked).await;
            }
            let off = self.clocks.look();
            if off != was_off {
                tracing::warn!(shard = %self.shard, off, "this node's clock against the voters'");
                self.raft.runtime_config().elect(!off);
            }
            let mut now = current;
            if ours && off {
                now = None;
                if let Some(other) = self.clocks.middle() {
                    self.hand_over(other).await;
                }
            } else if ours && *leader.borrow() == current {
                now = current.filter(|_| self.has_majority());
            } else if ours {
                leader.send_if_modified(|known| known.take().is_some());
                // What the others' clocks show is known from the same answers.
                let confirmed = self.confirm().await.is_ok();
                now = current.filter(|_| confirmed && !self.clocks.look());
            }
            leader.send_if_modified(|known| std::mem::replace(known, now) != now);
            // A follower whose clock is right has nothing to look at until something changes.
            let changed = seen.changed();
            let gone = match ours || off {
                true => matches!(tokio::time::timeout(LOOK, changed).await, Ok(Err(_))),
                false => changed.await.is_err(),
            };
            if gone {
                return;
            }
        }
    }

    fn has_majority(&self) -> bool {
        let lease = Duration::from_millis(ELECTION_MIN_MS);
        let metrics = self.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        acked.is_some_and(|at| at.elapsed() <= lease)
    }
}
