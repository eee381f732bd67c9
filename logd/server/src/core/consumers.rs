//! Queues in the owner task: what consumers ask, what effects tell, what is proposed for them.

use std::sync::atomic::Ordering::Relaxed;

use fluxmq_client::boot_ms;
use fluxmq_client::contract::{Event, Request};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{QueueCommand, Settlement};
use fluxmq_commands::command::{self, Command};
use fluxmq_names::ErrorCode;
use logd_broker::{Broker, Effect};
use logd_raft::SubmitError;
use tokio::sync::oneshot;

use super::{Core, FrameKey, Incoming, lead, now_ms};
use crate::queues::{About, Held, Means, Proposal, move_all};

// === impl Core ===

impl Core {
    /// What consumers and readers of queues ask.
    pub(super) fn queue_request(&mut self, link: u64, epoch: u64, request: Request) {
        match request {
            Request::Consume(consume) => {
                self.queues.consume(&self.shards, (link, epoch), &consume, boot_ms());
            }
            Request::Presented => self.queues.presented(epoch),
            Request::Settle(settle) => self.queues.settle((link, epoch), &settle),
            Request::Extend { token, first, count } => {
                self.queues.extend(epoch, token, (first, count), boot_ms());
            }
            Request::ReadQueue(read) => {
                let entries = &mut self.entries;
                let answer = self.reads.read(&self.shards, entries, (link, read), boot_ms());
                answer.into_iter().for_each(|(link, event)| self.send(link, event));
            }
            Request::LookAtQueues(look) => {
                let answer = self.queues.look(&self.shards, &look);
                self.send(link, answer);
            }
            Request::SendLive { id, command } => self.send_live(link, id, command),
            _ => {}
        }
    }

    /// A message of a program for live subscribers.
    fn send_live(&mut self, link: u64, id: u64, command: bytes::Bytes) {
        let publish = command::decode(&command);
        if !matches!(publish, Ok((Command::Publish(_), _))) {
            tracing::warn!("a program sends something else than a message to live subscribers");
            return;
        }
        let Some(linked) = self.links.get(&link) else { return };
        let to = linked.to.clone();
        let (taken, by_all) = oneshot::channel();
        self.hub.live(command, taken);
        tokio::spawn(async move {
            if by_all.await.is_ok() {
                to.send(Event::LiveTaken { id });
            }
        });
    }

    pub(super) fn queue_effect(&mut self, shard: u32, effect: &Effect) {
        match *effect {
            Effect::QueueGrew { queue } => {
                self.queues.queue_grew(shard, queue, false);
                self.tell_readers(shard, queue);
            }
            Effect::QueueReturned { queue } => self.queues.queue_grew(shard, queue, true),
            Effect::QueueChanged { queue } => {
                self.queues.queue_changed(&self.shards, shard, queue);
                self.forget_ended(shard);
                self.tell_readers(shard, queue);
            }
            Effect::GroupChanged { queue, group } => {
                self.queues.group_changed(&self.shards, (shard, queue, group));
            }
            Effect::MoveOwed { .. } => self.start_moves(shard),
            _ => {}
        }
    }

    fn tell_readers(&mut self, shard: u32, queue: u64) {
        let answers = self.reads.queue_changed(&self.shards, &mut self.entries, (shard, queue));
        answers.into_iter().for_each(|(link, event)| self.send(link, event));
    }

    /// Goes on with dead letters that were on their way when this node began to lead.
    pub(super) fn start_owed_moves(&mut self) {
        for shard in 0..self.shards.len() {
            if self.shards[shard].with_state(|b| b.owed_moves().next().is_some()) {
                self.start_moves(shard as u32);
            }
        }
    }

    fn start_moves(&mut self, shard: u32) {
        if self.moves.wanted(shard) {
            self.run_moves(shard);
        }
    }

    fn run_moves(&self, shard: u32) {
        let (shards, inbox) = (self.shards.clone(), self.inbox.clone());
        tokio::spawn(async move {
            move_all(shards, shard).await;
            let _ = inbox.send(Incoming::Moved { shard });
        });
    }

    pub(super) fn moved(&mut self, shard: u32) {
        if self.moves.done(shard) {
            self.run_moves(shard);
        }
    }

    /// Gives messages to consumers, says what is to be said, proposes what follows.
    pub(super) fn serve_queues(&mut self) {
        let mut means = Means {
            shards: &self.shards,
            windows: &mut self.windows,
            entries: &mut self.entries,
            now_ms: boot_ms(),
            unix_ms: now_ms(),
        };
        self.queues.give(&mut means);
        // What is answered comes before what is given: a consumer is told first that it is one.
        for (link, event) in self.queues.take_out() {
            self.send(link, event);
        }
        for (link, deliveries) in self.queues.take_deliveries() {
            let counted = &self.effects.counts.queue_deliveries;
            counted.fetch_add(deliveries.len() as u64, Relaxed);
            self.send(link, Event::QueueDeliveries(deliveries));
        }
        for Proposal { shard, command, about } in self.queues.take_proposals() {
            let Some(group) = self.shards.get(shard as usize) else { continue };
            let inbox = self.inbox.clone();
            group.lead_then(&command, move |result| {
                let _ = inbox.send(Incoming::Proposed { about, result });
            });
        }
    }

    /// Commands that settled messages are in the log, or are not.
    pub(super) fn commands_done(&mut self, held: Held, result: &Result<Vec<Outcome>, SubmitError>) {
        let refusal = |outcomes: &Vec<Outcome>| {
            outcomes.iter().find(|o| matches!(o, Outcome::Error { .. })).cloned()
        };
        for (group, runs) in held {
            let result = match result {
                Ok(outcomes) => Ok(refusal(outcomes).unwrap_or(Outcome::Done)),
                Err(error) => Err(error.clone()),
            };
            let about = About::Verdicts { group, runs, returns: false, request: None };
            self.proposed(about, result);
        }
    }

    pub(super) fn proposed(&mut self, about: About, result: Result<Outcome, SubmitError>) {
        self.queues.proposed(about, result, boot_ms());
    }

    /// Ends what has run out, and expires messages.
    pub(super) fn queues_on_time(&mut self) {
        self.queues.on_time(boot_ms());
        let late = self.reads.on_time(boot_ms());
        late.into_iter().for_each(|(link, event)| self.send(link, event));
        let unix_ms = now_ms();
        for shard in self.queues.returning(unix_ms) {
            // The state's clock has to pass the time at which they may be given.
            if let Some(group) = self.shards.get(shard as usize) {
                drop(lead(group, Command::Tick));
            }
        }
        for shard in 0..self.shards.len() {
            let due = self.shards[shard].with_state(Broker::next_expiry);
            if let Some((_, queue)) = due.filter(|(ms, _)| *ms <= unix_ms) {
                self.queues.expire(shard as u32, queue);
            }
        }
    }

    /// Takes what settlements in a frame of commands speak of; the frame is refused when the link's consumers
    /// do not hold it. One that is said again, after its link was lost, holds nothing any more and needs nothing: its
    /// sequence decides what becomes of it (Q1).
    pub(super) fn take_held(
        &mut self,
        frame: FrameKey,
        settles: &[(u64, u64, Vec<Settlement>)],
    ) -> Result<Held, ErrorCode> {
        let (epoch, shard, first_sequence) = frame;
        if settles.is_empty() || self.frames.contains(&frame) {
            return Ok(Vec::new());
        }
        let group = self.shards.get(shard as usize);
        let next = group.map_or(1, |g| g.with_state(|b| b.next_sequence(epoch, shard)));
        if first_sequence < next {
            return Ok(Vec::new());
        }
        // A fault planted to prove that the tests of queues find it (design §12).
        if fluxmq_names::planted!("transactions_settle_anything") {
            return Ok(Vec::new());
        }
        let held = self.queues.take_for_commands(epoch, shard, settles)?;
        if !held.is_empty() {
            self.frames.insert(frame);
        }
        Ok(held)
    }
}

/// Settlements among commands: queue, group and what is said.
pub(super) fn settles_of(command: &Command<'_>) -> Option<(u64, u64, Vec<Settlement>)> {
    match command {
        Command::Queue(QueueCommand::Settle { queue, group, verdicts, .. }) => {
            Some((*queue, *group, verdicts.clone()))
        }
        _ => None,
    }
}
