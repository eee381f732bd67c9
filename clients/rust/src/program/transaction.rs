//! Messages and settlements together (Q7).

use std::collections::BTreeMap;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{QueueCommand, Settlement, Verdict};
use fluxmq_names::ErrorCode;

use super::consumer::Consumer;
use super::{Client, ClientError, Message, Publisher};

/// Messages and settlements that are done together. What is in one shard is one step: all of it or nothing. What is
/// in several is not: all messages are stored before the first settlement is made, so that a crash in between
/// repeats and never loses; no more is promised.
pub struct Transaction<'c> {
    client: Client,
    messages: BTreeMap<u32, Vec<(u64, Message)>>,
    acks: Vec<(&'c Consumer, Vec<u64>)>,
}

// === impl Transaction ===

impl<'c> Transaction<'c> {
    /// A message that is stored with the others.
    pub fn publish(&mut self, to: &Publisher, message: impl Into<Message>) {
        let place = to.place();
        self.messages.entry(place.shard).or_default().push((place.queue, message.into()));
    }

    /// A message that a consumer is done with.
    pub fn ack(&mut self, consumer: &'c Consumer, offset: u64) {
        match self.acks.iter_mut().find(|(c, _)| std::ptr::eq(*c, consumer)) {
            Some((_, offsets)) => offsets.push(offset),
            None => self.acks.push((consumer, vec![offset])),
        }
    }

    /// Does it all; at most 1,000 messages and settlements in a shard.
    ///
    /// # Errors
    /// Nothing was done in the shard that refused: a queue is gone or full, or a consumer does not hold a message
    /// any more (`StaleEpoch`).
    pub async fn commit(self) -> Result<(), ClientError> {
        let mut settles: BTreeMap<u32, Vec<QueueCommand<'static>>> = BTreeMap::new();
        for (consumer, offsets) in &self.acks {
            let (place, group, token) = consumer.of();
            let verdict =
                |first: &u64| Settlement { verdict: Verdict::Ack, first: *first, count: 1 };
            let verdicts = offsets.iter().map(verdict).collect();
            let settle = QueueCommand::Settle { queue: place.queue, group, token, verdicts };
            settles.entry(place.shard).or_default().push(settle);
        }
        let together = self.messages.len() == 1 && self.messages.keys().eq(settles.keys());
        for (shard, messages) in &self.messages {
            let settles = if together { settles.remove(shard) } else { None };
            self.step(*shard, messages, settles.unwrap_or_default()).await?;
        }
        for (shard, settles) in settles {
            self.step(shard, &[], settles).await?;
        }
        for (consumer, offsets) in &self.acks {
            consumer.let_go(offsets);
        }
        self.client.shared.wake.notify_one();
        Ok(())
    }

    async fn step(
        &self,
        shard: u32,
        messages: &[(u64, Message)],
        settles: Vec<QueueCommand<'static>>,
    ) -> Result<(), ClientError> {
        let queues: Vec<[u8; 8]> = messages.iter().map(|(queue, _)| queue.to_le_bytes()).collect();
        let count = u16::try_from(messages.len() + settles.len());
        let count = count.map_err(|_| ClientError::refused(ErrorCode::InvalidArgument, 0))?;
        let head = Command::Queue(QueueCommand::Transaction { count });
        let mut commands = vec![(head, Vec::new())];
        for ((_, message), queue) in messages.iter().zip(&queues) {
            let mut body = message.head();
            body.extend_from_slice(&message.payload);
            commands.push((message.enqueue(queue), body));
        }
        commands.extend(settles.into_iter().map(|s| (Command::Queue(s), Vec::new())));
        let outcomes = self.client.shared.post_together(shard, &commands)?;
        let mut first = None;
        for outcome in outcomes {
            let outcome = outcome.await.map_err(|_| self.client.shared.why_closed())??;
            if let Outcome::Error { code, detail } = outcome {
                first.get_or_insert(ClientError::refused(code, detail));
            }
        }
        first.map_or(Ok(()), Err)
    }
}

// === impl Client ===

impl Client {
    /// Begins to gather a transaction.
    #[must_use]
    pub fn transaction<'c>(&self) -> Transaction<'c> {
        Transaction { client: self.clone(), messages: BTreeMap::new(), acks: Vec::new() }
    }
}
