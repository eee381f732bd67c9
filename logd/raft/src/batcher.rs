//! One entry of all that queues while the entries before are on their way (S5).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fluxmq_commands::command::{Batch, Command};
use fluxmq_commands::{EntryBuilder, Outcome};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes of an entry, unless one command alone is larger (S5).
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Commands of an entry (S11: at most 20,000 estimated steps).
const ENTRY_COMMANDS_MAX: usize = 20_000;

/// Why a batch has no outcomes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Another node leads the group; nothing was taken.
    #[error("not the leader")]
    NotLeader,
    /// No room on disk; nothing was taken.
    #[error("disk is full")]
    DiskFull,
    /// The group is gone; it is not known what was taken.
    #[error("the group has stopped")]
    Stopped,
}

/// Commands of one producer, as it framed them.
#[derive(Clone, Debug)]
pub struct CommandBatch {
    /// The head; `count` is the number of `ends`. Gateway epoch 0 for the leader's own commands.
    pub head: Batch,
    /// Where each command ends in `body`.
    pub ends: Vec<u32>,
    /// The commands, encoded.
    pub body: Bytes,
}

/// Takes the outcomes of a batch, in its order. Called on the group's runtime.
pub type Reply = Box<dyn FnOnce(Result<Vec<Outcome>, SubmitError>) + Send>;

/// Who waits for an entry: number of commands and reply of each batch, in order.
pub(crate) type Waiting = Vec<(usize, Reply)>;

#[derive(Default)]
struct Queue {
    batches: VecDeque<(CommandBatch, Reply)>,
    last_time_ms: u64,
}

/// Batches that wait to become an entry.
#[derive(Clone, Default)]
pub(crate) struct Batcher {
    queue: Arc<Mutex<Queue>>,
    pub(crate) grew: Arc<Notify>,
}

// === impl Batcher ===

impl Batcher {
    pub(crate) fn push(&self, batch: CommandBatch, reply: Reply) {
        self.queue.lock().batches.push_back((batch, reply));
        self.grew.notify_one();
    }

    /// The payload of the next entry and who waits for it; None when nothing queues.
    pub(crate) fn close(&self) -> Option<(Bytes, Waiting)> {
        let mut queue = self.queue.lock();
        let mut builder = EntryBuilder::default();
        let mut waiting = Vec::new();
        while let Some((batch, _)) = queue.batches.front() {
            let full = builder.bytes() + batch.body.len() > ENTRY_BYTES_MAX
                || builder.len() + batch.ends.len() > ENTRY_COMMANDS_MAX;
            if full && !builder.is_empty() {
                break;
            }
            let Some((batch, reply)) = queue.batches.pop_front() else { break };
            builder.push(|out| Command::Batch(batch.head).encode(&[], out));
            builder.push_all(&batch.body, &batch.ends);
            waiting.push((batch.ends.len(), reply));
        }
        if builder.is_empty() {
            return None;
        }
        // The leader's clock, never going back (S6).
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        queue.last_time_ms = queue.last_time_ms.max(now_ms);
        Some((builder.close(queue.last_time_ms), waiting))
    }
}

/// Gives each batch its outcomes.
pub(crate) fn answer(waiting: Waiting, result: Result<Vec<(u32, Outcome)>, SubmitError>) {
    match result {
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter().map(|(_, outcome)| outcome);
            for (count, reply) in waiting {
                reply(Ok(outcomes.by_ref().take(count).collect()));
            }
        }
        Err(error) => waiting.into_iter().for_each(|(_, reply)| reply(Err(error.clone()))),
    }
}
