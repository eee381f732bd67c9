//! "Do I still lead?", asked of a majority once for all that wait (S11).

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::RaftError;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::batcher::SubmitError;
use crate::group::RaftNode;
use crate::propose::leader_of;

/// A leader that cannot ask a majority for this long does not lead.
const PATIENCE: Duration = Duration::from_secs(2);

type Asker = oneshot::Sender<Result<(), SubmitError>>;

#[derive(Default)]
struct Waiting {
    askers: Vec<Asker>,
    asking: bool,
}

/// Who waits for the next answer.
#[derive(Clone, Default)]
pub(crate) struct Confirmations(Arc<Mutex<Waiting>>);

// === impl Confirmations ===

impl Confirmations {
    /// True when this node led the group at some moment after the call, and all that was committed before is applied.
    pub(crate) async fn ask(&self, raft: &RaftNode) -> Result<(), SubmitError> {
        let (tx, rx) = oneshot::channel();
        let first = {
            let mut waiting = self.0.lock();
            waiting.askers.push(tx);
            !mem::replace(&mut waiting.asking, true)
        };
        if first {
            tokio::spawn(self.clone().rounds(raft.clone()));
        }
        rx.await.unwrap_or(Err(SubmitError::Stopped))
    }

    /// A round answers those who asked before it began; whoever asks meanwhile waits for the next.
    async fn rounds(self, raft: RaftNode) {
        loop {
            let askers = {
                let mut waiting = self.0.lock();
                if waiting.askers.is_empty() {
                    waiting.asking = false;
                    return;
                }
                mem::take(&mut waiting.askers)
            };
            let asked = raft.ensure_linearizable(ReadPolicy::ReadIndex);
            let answer = match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(RaftError::Fatal(_))) => Err(SubmitError::Stopped),
                _ => Err(SubmitError::NotLeader { leader: leader_of(&raft) }),
            };
            askers.into_iter().for_each(|asker| drop(asker.send(answer.clone())));
        }
    }
}
