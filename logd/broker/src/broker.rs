//! [`Broker`]: the state machine of one shard. `apply` is a pure function of the entry and the state (S6).

use std::io;
use std::ops::RangeInclusive;

use fluxmq_names::{ErrorCode, Position, ShardId};

use crate::effect::Effect;
use crate::index::Index;
use crate::limits::{STEPS_MAX, STEPS_RESERVE, STREAMS_MAX};
use crate::pages::{Pages, Sink, whole};
use crate::producer::Producer;
use crate::queue::Transaction;
use crate::retained::RetainedLimits;
use crate::state::State;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::QueueCommand;
use fluxmq_commands::command::{self, Batch, Command};
use fluxmq_commands::wire::{Reader, WireError};
use fluxmq_commands::{EntryView, FEATURE_LEVEL};

/// An entry that this code cannot apply: the shard stops on this node, nothing is skipped (S6).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Made by newer code.
    #[error("entry {index} has feature level {level}; this node knows {FEATURE_LEVEL}: upgrade it")]
    NewerFeatureLevel {
        /// The entry.
        index: u64,
        /// What it asks for.
        level: u16,
    },
    /// Not a command this code knows.
    #[error("entry {index} slot {slot}: {why}")]
    Command {
        /// The entry.
        index: u64,
        /// The slot.
        slot: u32,
        /// What is wrong.
        why: WireError,
    },
    /// Not an entry at all.
    #[error("entry {index}: {why}")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong.
        why: WireError,
    },
}

/// What an entry led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Outcome of each slot but batch heads, in order.
    pub outcomes: Vec<(u32, Outcome)>,
    /// Hints for the leader.
    pub effects: Vec<Effect>,
    /// The most steps that one command did (S11); a step is something like 100 ns.
    pub steps: u32,
}

/// The batch that the commands being applied belong to.
struct Sender {
    epoch: u64,
    stream: u32,
    sequence: u64,
    left: u32,
    fenced: bool,
    producer: Producer,
}

/// The state machine of a shard, or of meta.
#[derive(Clone, Debug, Default)]
pub struct Broker {
    pub(crate) state: State,
    pub(crate) index: Index,
    pub(crate) effects: Vec<Effect>,
    /// Steps that the command at hand may still do.
    pub(crate) left: u32,
    /// Steps of the command at hand.
    steps: u32,
    /// Position of the command at hand, and bytes of its body.
    pub(crate) at: u64,
    pub(crate) size: u32,
    /// Why the transaction that begins is refused, and the one whose parts come.
    pub(crate) refusal: Option<Outcome>,
    pub(crate) transaction: Transaction,
    /// Queues that push dead letters into one another within the command at hand.
    pub(crate) chain: u32,
    /// Inboxes that match the publish at hand; kept for its memory.
    pub(crate) matching: Vec<u64>,
    /// Queues that are bound to its topic.
    pub(crate) bound: Vec<u64>,
}

// === impl Broker ===

impl Broker {
    /// An empty shard.
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        Self { state: State { shard, ..State::default() }, ..Self::default() }
    }

    /// Applies the entry at `index`, which is above all before.
    ///
    /// # Errors
    /// The entry is not understood; the broker must not be used any further.
    pub fn apply(&mut self, index: u64, payload: &[u8]) -> Result<Applied, ApplyError> {
        let view = EntryView::read(payload).map_err(|why| ApplyError::Entry { index, why })?;
        if view.feature_level > FEATURE_LEVEL {
            return Err(ApplyError::NewerFeatureLevel { index, level: view.feature_level });
        }
        self.state.now_ms = self.state.now_ms.max(view.time_ms);
        self.state.applied = index;
        let mut applied = Applied::default();
        let mut sender: Option<Sender> = None;
        for slot in 0..view.len() {
            let bytes = view.slot(slot).unwrap_or_default();
            let (command, body) =
                command::decode(bytes).map_err(|why| ApplyError::Command { index, slot, why })?;
            let position = Position::new(index, slot).0;
            if let Command::Batch(batch) = command {
                self.transaction = Transaction::default();
                self.end_batch(sender.take());
                sender = self.begin_batch(&batch);
                continue;
            }
            self.begin_steps();
            self.at = position;
            self.size = u32::try_from(body.len()).unwrap_or(u32::MAX);
            self.look_at_parts(&view, slot, &command);
            let outcome = match &mut sender {
                Some(sender) if sender.left > 0 => self.in_sequence(sender, position, &command),
                _ => self.execute(position, &command),
            };
            applied.outcomes.push((slot, outcome));
            applied.steps = applied.steps.max(self.steps);
        }
        self.end_batch(sender);
        self.transaction = Transaction::default();
        self.begin_steps();
        self.go_on();
        applied.steps = applied.steps.max(self.steps);
        applied.effects = std::mem::take(&mut self.effects);
        Ok(applied)
    }

    fn begin_steps(&mut self) {
        self.left = STEPS_MAX - STEPS_RESERVE;
        self.steps = 0;
    }

    /// Counts steps of the command at hand.
    pub(crate) fn spend(&mut self, steps: u32) {
        self.left = self.left.saturating_sub(steps);
        self.steps = self.steps.saturating_add(steps);
    }

    /// None for the leader's own commands, which have no sequence.
    fn begin_batch(&mut self, batch: &Batch) -> Option<Sender> {
        let (epoch, stream) = (batch.gateway_epoch, batch.stream);
        if epoch == 0 {
            return None;
        }
        let fenced = self.state.has_ended(epoch);
        let mut producer = Producer::default();
        if !fenced {
            let streams = self.state.producers.entry(epoch).or_default();
            producer = streams.remove(&stream).unwrap_or_default();
            producer.confirm(batch.confirmed_upto);
        }
        let (sequence, left) = (batch.first_sequence, batch.count);
        Some(Sender { epoch, stream, sequence, left, fenced, producer })
    }

    fn end_batch(&mut self, sender: Option<Sender>) {
        let Some(sender) = sender.filter(|s| !s.fenced && !self.state.has_ended(s.epoch)) else {
            return;
        };
        // One that was refused from the start must not fill the places of the others.
        if sender.producer.is_new() {
            return;
        }
        let streams = self.state.producers.entry(sender.epoch).or_default();
        streams.insert(sender.stream, sender.producer);
    }

    /// Only the next sequence is executed (Q1).
    fn in_sequence(
        &mut self,
        sender: &mut Sender,
        position: u64,
        command: &Command<'_>,
    ) -> Outcome {
        let sequence = sender.sequence;
        sender.sequence = sequence.saturating_add(1);
        sender.left -= 1;
        let streams = self.state.producers.get(&sender.epoch).map_or(0, |s| s.len());
        let producer = &mut sender.producer;
        if sender.fenced {
            return Outcome::refused(ErrorCode::Fenced);
        }
        if sequence < producer.next {
            let recorded = producer.recorded(sequence).cloned();
            return recorded.unwrap_or(Outcome::refused(ErrorCode::InvalidArgument));
        }
        if sequence > producer.next {
            return Outcome::Error { code: ErrorCode::OutOfSequence, detail: producer.next };
        }
        // All parts of a transaction must find room for their outcomes, or none.
        let parts = match command {
            Command::Queue(QueueCommand::Transaction { count }) => usize::from(*count),
            _ => 0,
        };
        if producer.is_full(parts) || streams >= STREAMS_MAX {
            return Outcome::Error { code: ErrorCode::LimitExceeded, detail: producer.next };
        }
        let outcome = self.execute_for(sender.epoch, position, command);
        sender.producer.record(outcome.clone());
        outcome
    }

    /// What gateways may ask for.
    fn execute_for(&mut self, gateway: u64, position: u64, command: &Command<'_>) -> Outcome {
        if let Some(outcome) = self.part(position, command) {
            return outcome;
        }
        match command {
            Command::Publish(publish) if publish.list.is_none() => self.publish(position, publish),
            Command::Connect(connect) => self.connect(gateway, position, connect),
            Command::Disconnect { session, epoch, publish_will, expiry_s, sent_upto } => self
                .owned(*session, *epoch, gateway, |broker| {
                    broker.disconnect(*session, *publish_will, *expiry_s, *sent_upto);
                    Outcome::Done
                }),
            Command::Subscribe { session, epoch, filters } => {
                self.owned(*session, *epoch, gateway, |b| b.subscribe(*session, position, filters))
            }
            Command::Unsubscribe { session, epoch, filters } => {
                self.owned(*session, *epoch, gateway, |b| {
                    b.unsubscribe(*session, position, filters)
                })
            }
            Command::Settle { session, epoch, sent_upto, ranges } => {
                self.owned(*session, *epoch, gateway, |b| {
                    b.note_sent(*session, *sent_upto);
                    b.settle(*session, ranges)
                })
            }
            Command::Qos2Open { session, epoch, packet_id } => {
                self.owned(*session, *epoch, gateway, |b| b.open_id(*session, *packet_id))
            }
            Command::Qos2Close { session, epoch, packet_id } => {
                self.owned(*session, *epoch, gateway, |b| b.close_id(*session, *packet_id))
            }
            Command::SentUpto { session, epoch, number } => {
                self.owned(*session, *epoch, gateway, |b| {
                    b.note_sent(*session, *number);
                    Outcome::Done
                })
            }
            Command::Queue(command) => self.queue_command(gateway, position, command, self.size),
            // The rest is for leaders.
            _ => Outcome::refused(ErrorCode::Forbidden),
        }
    }

    /// What the leader of the shard asks for.
    fn execute(&mut self, position: u64, command: &Command<'_>) -> Outcome {
        if let Some(outcome) = self.part(position, command) {
            return outcome;
        }
        match command {
            Command::Tick => self.tick(),
            Command::Publish(publish) => return self.publish(position, publish),
            Command::Queue(command) => return self.queue_command(0, position, command, self.size),
            Command::GatewayRegister { name, address } => {
                return self.register_gateway(position, name, address);
            }
            Command::GatewayEnded { epoch } => self.end_gateway(*epoch),
            Command::EndGatewaysBefore { epoch } => self.end_gateways_before(*epoch),
            Command::OwedDone { id } => self.owed_done(*id),
            Command::Trim { session, number } => self.trim(*session, *number),
            Command::Drop { session, ranges } => self.drop_numbers(*session, ranges),
            Command::ReplayAt { session, replay, shard, after, progress } => {
                self.replay_at(*session, (*replay, *shard), after, *progress);
            }
            Command::ForgetKeys { shard, ids } => {
                self.spend(ids.len() as u32);
                for id in ids {
                    self.state.keys.forget(*shard, *id);
                    self.end_memberships(*shard, *id);
                }
            }
            Command::RetainedLimits { messages, bytes } => {
                self.state.retained_limits = RetainedLimits { messages: *messages, bytes: *bytes };
            }
            Command::KeysForgotten { ids } => {
                self.spend(ids.len() as u32);
                for id in ids {
                    self.state.ended_publishers.remove(id);
                }
            }
            _ => return Outcome::refused(ErrorCode::Forbidden),
        }
        Outcome::Done
    }

    /// Index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.state.applied
    }

    /// The newest time an entry brought, Unix ms.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.state.now_ms
    }

    /// The state as it is now, for encoding elsewhere: apply may go on meanwhile (S10).
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state.clone())
    }

    /// A broker with the state of a snapshot.
    ///
    /// # Errors
    /// Bytes that are no snapshot of this version.
    pub fn restore(bytes: &[u8]) -> Result<Self, WireError> {
        let mut state = State::load(&mut Reader(bytes))?;
        let index = Index::build(&mut state);
        Ok(Self { state, index, ..Self::default() })
    }

    /// The same on all replicas that applied the same entries.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        fluxmq_names::hash64(&whole(|pages| self.state.save(pages)))
    }
}

/// A state at one entry.
#[derive(Clone, Debug)]
pub struct Snapshot(State);

// === impl Snapshot ===

impl Snapshot {
    /// Index of the last entry it holds.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.0.applied
    }

    /// The positions in these entries that something refers to, in order, each once. Looks at all that is referred to.
    #[must_use]
    pub fn live_positions(&self, entries: &[RangeInclusive<u64>]) -> Vec<u64> {
        let inside = |position: &u64| {
            let index = Position(*position).index();
            entries.iter().any(|range| range.contains(&index))
        };
        let mut positions: Vec<u64> = self.0.positions().filter(inside).collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    /// The state as bytes, the same for the same state.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        whole(|pages| self.0.save(pages))
    }

    /// The same bytes, in pieces of some 256 KiB: nothing holds all of them.
    ///
    /// # Errors
    /// The first one of `sink`, which gets nothing more then.
    pub fn encode_into(&self, sink: &mut Sink<'_>) -> io::Result<()> {
        let mut sink = |page: &[u8]| sink(page);
        let mut pages = Pages::new(&mut sink);
        self.0.save(&mut pages);
        pages.end()
    }
}
