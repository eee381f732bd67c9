//! Turns what queues into entries, a few on their way at once (S5, S11).

use std::sync::Arc;

use logd_log::{AppendError, Priority};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

#[cfg(planted = "acknowledge_before_majority")]
use crate::batcher::acknowledge_too_early;
use crate::batcher::{SubmitError, answer};
use crate::group::{Group, RaftNode};
use crate::hold::Hold;
use crate::type_config::{Payload, TypeConfig};

/// Entries on their way at once (S11).
const IN_FLIGHT_MAX: usize = 4;

/// Who leads, as far as this node knows.
pub(crate) fn leader_of(raft: &RaftNode) -> Option<u64> {
    raft.server_metrics().borrow_watched().current_leader
}

fn refused(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> SubmitError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            SubmitError::NotLeader { leader: to.leader_id }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => SubmitError::LeadershipLost,
        _ => SubmitError::Stopped,
    }
}

impl Group {
    /// Until the group stops.
    pub(crate) async fn propose(self) {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut hold = Hold::default();
        loop {
            match hold.until(&self) {
                None => self.batcher.grew.notified().await,
                Some(until) => {
                    let _ = timeout_at(until, self.batcher.grew.notified()).await;
                }
            }
            loop {
                let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
                let Some(gathered) = self.batcher.gather(hold.is_on(&self)) else { break };
                if self.clocks.is_off() {
                    // Its time must not get into an entry (S7).
                    answer(gathered.close().1, Err(SubmitError::NotLeader { leader: None }));
                    continue;
                }
                let closed = match self.log.admit(gathered.payload_bytes(), Priority::Normal) {
                    Err(AppendError::Full { .. }) => gathered.close_freeing(),
                    _ => Some(gathered.close()),
                };
                let Some((payload, waiting)) = closed else { continue };
                if self.log.admit(payload.len() as u64, Priority::Freeing).is_err() {
                    answer(waiting, Err(SubmitError::DiskFull));
                    continue;
                }
                let raft = self.raft.clone();
                tokio::spawn(async move {
                    // A fault planted to prove that the simulation finds it (design §12).
                    #[cfg(planted = "acknowledge_before_majority")]
                    let waiting = acknowledge_too_early(&payload, waiting, raft.is_leader());
                    let written = raft.client_write(Payload(payload)).await;
                    answer(waiting, written.map(|w| w.data).map_err(refused));
                    drop(permit);
                });
                // Whoever is ready to submit does so before the next entry is closed.
                tokio::task::yield_now().await;
            }
        }
    }
}
