//! One entry of all that queues while the entries before are on their way (S5).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_commands::command::queue::QueueCommand;
use fluxmq_commands::command::{self, Batch, Command};
use fluxmq_commands::{EntryBuilder, Outcome};
use fluxmq_names::ErrorCode;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::options::Clock;

/// Bytes of an entry, unless one command alone is larger (S5).
const ENTRY_BYTES_MAX: usize = 1024 * 1024;
/// Commands of an entry (S11: at most 20,000 estimated steps).
const ENTRY_COMMANDS_MAX: usize = 20_000;

/// Bytes of a batch's head in an entry, at most.
const BATCH_BYTES: usize = 64;
/// Bytes of an entry before its slots, at most.
const FIXED_BYTES: usize = 64;

/// Why a batch has no outcomes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Another node leads the group, or nobody does; nothing was taken.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<u64>,
    },
    /// This node lost its leadership meanwhile; it is not known whether it was taken. Say it again, to the new
    /// leader, under the same sequence.
    #[error("leadership was lost")]
    LeadershipLost,
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
    /// Those of producers that wait for space to be freed; older than all others of their streams.
    held: VecDeque<(CommandBatch, Reply)>,
    held_streams: BTreeSet<(u64, u32)>,
    last_time_ms: u64,
}

/// Batches that wait to become an entry.
#[derive(Clone)]
pub(crate) struct Batcher {
    clock: Clock,
    queue: Arc<Mutex<Queue>>,
    pub(crate) grew: Arc<Notify>,
}

// === impl Batcher ===

impl Batcher {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, queue: Arc::default(), grew: Arc::default() }
    }

    pub(crate) fn push(&self, batch: CommandBatch, reply: Reply) {
        self.queue.lock().batches.push_back((batch, reply));
        self.grew.notify_one();
    }

    /// What the next entry is made of; None when nothing queues. With `hold`, what producers send waits, and with it what
    /// comes behind it in the same stream, for sequences are taken in order.
    pub(crate) fn gather(&self, hold: bool) -> Option<Gathered> {
        let mut queue = self.queue.lock();
        match hold {
            true => queue.hold_producers(),
            false => queue.let_go(),
        }
        let mut gathered = Gathered::default();
        while let Some((batch, _)) = queue.batches.front() {
            let full = gathered.bytes + batch.body.len() > ENTRY_BYTES_MAX
                || gathered.commands + batch.ends.len() > ENTRY_COMMANDS_MAX;
            if full && !gathered.batches.is_empty() {
                break;
            }
            let Some((batch, reply)) = queue.batches.pop_front() else { break };
            gathered.bytes += batch.body.len();
            gathered.commands += batch.ends.len();
            gathered.batches.push((batch, reply));
        }
        if gathered.batches.is_empty() {
            return None;
        }
        // The leader's clock, never going back (S6).
        queue.last_time_ms = queue.last_time_ms.max((self.clock)());
        gathered.time_ms = queue.last_time_ms;
        Some(gathered)
    }
}

// === impl Queue ===

impl Queue {
    fn hold_producers(&mut self) {
        for (batch, reply) in std::mem::take(&mut self.batches) {
            let stream = (batch.head.gateway_epoch, batch.head.stream);
            if !self.held_streams.contains(&stream) && !slots(&batch).any(produces) {
                self.batches.push_back((batch, reply));
                continue;
            }
            // The leader's own commands have no sequence.
            if stream.0 != 0 {
                self.held_streams.insert(stream);
            }
            self.held.push_back((batch, reply));
        }
    }

    fn let_go(&mut self) {
        if !self.held.is_empty() {
            self.held.append(&mut self.batches);
            std::mem::swap(&mut self.held, &mut self.batches);
            self.held_streams.clear();
        }
    }
}

/// Batches that become an entry together.
#[derive(Default)]
pub(crate) struct Gathered {
    batches: Vec<(CommandBatch, Reply)>,
    bytes: usize,
    commands: usize,
    time_ms: u64,
}

// === impl Gathered ===

impl Gathered {
    /// Bytes that the payload will have at most.
    pub(crate) fn payload_bytes(&self) -> u64 {
        (self.bytes + 4 * self.commands + self.batches.len() * BATCH_BYTES + FIXED_BYTES) as u64
    }

    /// The payload, and who waits for it.
    pub(crate) fn close(self) -> (Bytes, Waiting) {
        let mut builder = EntryBuilder::default();
        let mut waiting = Vec::new();
        for (batch, reply) in self.batches {
            builder.push(|out| Command::Batch(batch.head).encode(&[], out));
            builder.push_all(&batch.body, &batch.ends);
            waiting.push((batch.ends.len(), reply));
        }
        (builder.close(self.time_ms), waiting)
    }

    /// On a full disk: what frees space goes on, the rest is refused (S9). In a batch of both, a command that does
    /// nothing takes the sequence of each that is refused, so that those behind it keep theirs.
    pub(crate) fn close_freeing(self) -> Option<(Bytes, Waiting)> {
        let mut builder = EntryBuilder::default();
        let mut waiting: Waiting = Vec::new();
        for (batch, reply) in self.batches {
            let frees: Vec<bool> = slots(&batch).map(frees_space).collect();
            if !frees.contains(&true) {
                reply(Err(SubmitError::DiskFull));
                continue;
            }
            builder.push(|out| Command::Batch(batch.head).encode(&[], out));
            for (slot, frees) in slots(&batch).zip(&frees) {
                builder.push(|out| match frees {
                    true => out.extend_from_slice(slot),
                    false => Command::Tick.encode(&[], out),
                });
            }
            waiting.push((frees.len(), refusing(frees, reply)));
        }
        (!waiting.is_empty()).then(|| (builder.close(self.time_ms), waiting))
    }
}

fn slots(batch: &CommandBatch) -> impl Iterator<Item = &[u8]> {
    let starts = std::iter::once(0).chain(batch.ends.iter().copied());
    let slot = |(start, end): (u32, &u32)| batch.body.get(start as usize..*end as usize);
    starts.zip(&batch.ends).map(move |range| slot(range).unwrap_or_default())
}

/// Brings a message.
fn produces(slot: &[u8]) -> bool {
    match command::decode(slot) {
        Ok((Command::Publish(publish), _)) => !publish.empty,
        Ok((Command::Queue(QueueCommand::Enqueue(_)), _)) => true,
        _ => false,
    }
}

/// Settlements, deletes and ends, and the return of a consumer that is to settle. Without a catch-all: whoever adds a
/// command says on which side it is.
fn frees_space(slot: &[u8]) -> bool {
    let Ok((command, _)) = command::decode(slot) else { return false };
    match command {
        Command::Publish(publish) => publish.empty && publish.store,
        Command::Connect(connect) => connect.will.is_none(),
        Command::Queue(command) => queue_frees_space(&command),
        Command::Tick
        | Command::GatewayEnded { .. }
        | Command::EndGatewaysBefore { .. }
        | Command::OwedDone { .. }
        | Command::Disconnect { .. }
        | Command::Unsubscribe { .. }
        | Command::Settle { .. }
        | Command::Qos2Close { .. }
        | Command::SentUpto { .. }
        | Command::Trim { .. }
        | Command::Drop { .. }
        | Command::ReplayAt { .. }
        | Command::ForgetKeys { .. }
        | Command::KeysForgotten { .. }
        | Command::RetainedLimits { .. }
        // Who settles and deletes must be able to come in.
        | Command::GatewayRegister { .. } => true,
        Command::Batch(_) | Command::Subscribe { .. }
        | Command::Qos2Open { .. } => false,
    }
}

fn queue_frees_space(command: &QueueCommand<'_>) -> bool {
    match command {
        QueueCommand::Delete { .. }
        | QueueCommand::Purge { .. }
        | QueueCommand::Settle { .. }
        | QueueCommand::CancelScheduled { .. }
        | QueueCommand::GroupDelete { .. }
        | QueueCommand::GroupJoin { .. }
        | QueueCommand::GroupLeave { .. }
        | QueueCommand::Expire { .. }
        | QueueCommand::Moved { .. }
        | QueueCommand::Give { .. }
        | QueueCommand::Touch { .. } => true,
        QueueCommand::Declare { .. }
        | QueueCommand::Bind { .. }
        | QueueCommand::Enqueue(_)
        | QueueCommand::GroupCreate { .. }
        | QueueCommand::GroupSeek { .. }
        | QueueCommand::GroupCopy { .. }
        | QueueCommand::Transaction { .. } => false,
    }
}

/// Says of the commands that were replaced that the disk is full.
fn refusing(taken: Vec<bool>, reply: Reply) -> Reply {
    Box::new(move |result| {
        let refuse = |(outcome, taken)| match taken {
            true => outcome,
            false => Outcome::refused(ErrorCode::DiskFull),
        };
        reply(result.map(|outcomes| outcomes.into_iter().zip(taken).map(refuse).collect()));
    })
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

/// Says of publishes that they were done before anybody else has them.
#[cfg(planted = "acknowledge_before_majority")]
pub(crate) fn acknowledge_too_early(payload: &[u8], waiting: Waiting, leads: bool) -> Waiting {
    let Ok(view) = fluxmq_commands::EntryView::read(payload) else { return waiting };
    let publishes = |slot| {
        let command = view.slot(slot).map(command::decode);
        matches!(command, Some(Ok((Command::Publish(_), _))))
    };
    let mut next = 0;
    let early = |(count, reply): (usize, Reply)| {
        // A batch begins with its head.
        let mut commands = next + 1..next + 1 + count as u32;
        next = commands.end;
        if !leads || !commands.all(publishes) {
            return (count, reply);
        }
        reply(Ok(vec![Outcome::Published { matched: 1 }; count]));
        (count, Box::new(|_| ()) as Reply)
    };
    waiting.into_iter().map(early).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fluxmq_commands::command::Publish;

    fn batch(epoch: u64, stream: u32, first_sequence: u64, command: &Command<'_>) -> CommandBatch {
        let mut body = Vec::new();
        command.encode(b"x", &mut body);
        let ends = vec![body.len() as u32];
        let head = Batch {
            gateway_epoch: epoch,
            stream,
            first_sequence,
            count: 1,
            crc: 0,
            confirmed_upto: 0,
        };
        CommandBatch { head, ends, body: body.into() }
    }

    #[test]
    fn held_producers_keep_their_order() {
        let batcher = Batcher::new(Arc::new(|| 1));
        let publish = Command::Publish(Publish { vhost: "/", topic: "a", ..Publish::default() });
        let settle = Command::Settle { session: 1, epoch: 1, sent_upto: 0, ranges: Vec::new() };
        let push = |epoch, stream, sequence, command| {
            batcher.push(batch(epoch, stream, sequence, command), Box::new(drop));
        };
        push(9, 1, 1, &publish);
        push(9, 1, 2, &settle);
        push(9, 2, 1, &settle);
        push(0, 0, 0, &publish);
        push(0, 0, 0, &settle);
        let gather = |hold| {
            let gathered = batcher.gather(hold).map(|g| g.batches).unwrap_or_default();
            let sender = |(batch, _): &(CommandBatch, Reply)| {
                (batch.head.gateway_epoch, batch.head.stream, batch.head.first_sequence)
            };
            gathered.iter().map(sender).collect::<Vec<_>>()
        };
        assert_eq!(gather(true), [(9, 2, 1), (0, 0, 0)]);
        push(9, 1, 3, &settle);
        push(9, 2, 2, &settle);
        assert_eq!(gather(true), [(9, 2, 2)]);
        assert_eq!(gather(true), []);
        push(9, 2, 3, &publish);
        let all = [(9, 1, 1), (9, 1, 2), (0, 0, 0), (9, 1, 3), (9, 2, 3)];
        assert_eq!(gather(false), all);
        assert_eq!(gather(false), []);
    }
}
