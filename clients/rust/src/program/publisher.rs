//! Publishing: to a queue by name, and to topics.

use fluxmq_commands::command::{Command, Publish};
use fluxmq_commands::{Appending, Outcome};
use tokio::sync::oneshot;

use super::driver::Answer;
use super::{Client, ClientError, Message, Place};
use crate::contract::Request;

/// A message in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its offset; 0 for a repeat, and the id to cancel it by for a scheduled one.
    pub offset: u64,
    /// Stored now, a repeat that was not taken, or scheduled.
    pub how: Appending,
}

/// A promise that a message is stored.
pub struct Receipt(oneshot::Receiver<Result<Outcome, ClientError>>);

// === impl Receipt ===

impl Receipt {
    pub(super) fn new(outcome: oneshot::Receiver<Result<Outcome, ClientError>>) -> Self {
        Self(outcome)
    }

    /// Waits until the message is synced on a majority of the shard's voters. It may be dropped: the message is
    /// published all the same.
    ///
    /// # Errors
    /// The queue is gone ([`ClientError::NotFound`]), is full or refuses the message, or the client is closed.
    pub async fn stored(self) -> Result<Stored, ClientError> {
        match self.0.await.map_err(|_| ClientError::Closed)?? {
            Outcome::Appended { offset, how, .. } => Ok(Stored { offset, how }),
            Outcome::Error { code, detail } => Err(ClientError::refused(code, detail)),
            _ => Ok(Stored { offset: 0, how: Appending::Stored }),
        }
    }
}

/// Publishes to one queue, in order. Clones share the order of their client.
#[derive(Clone)]
pub struct Publisher {
    client: Client,
    place: Place,
}

// === impl Publisher ===

impl Publisher {
    /// Publishes a message; waits only while the client has too much unanswered. What was published before the
    /// link was lost is published again over the next one and stored once.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn publish(&self, message: impl Into<Message>) -> Result<Receipt, ClientError> {
        let message = message.into();
        let queue = self.place.queue.to_le_bytes();
        let command = message.enqueue(&queue);
        let head = message.head();
        let parts: [&[u8]; 2] = [&head, &message.payload];
        self.client.shared.post(self.place.shard, &command, &parts).await.map(Receipt::new)
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Waits until everything the client published is answered.
    pub async fn flush(&self) {
        self.client.shared.all_answered().await;
    }
}

// === impl Client ===

impl Client {
    /// A publisher to a queue.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn publisher(&self, queue: &str) -> Result<Publisher, ClientError> {
        let (place, _) = self.find(queue).await?;
        Ok(Publisher { client: self.clone(), place })
    }

    /// Publishes to a topic: to bound queues and persistent sessions, where it is stored before this returns, and to
    /// live subscribers of all gateways, which have it then. An order is kept among messages that are waited for.
    ///
    /// # Errors
    /// Somebody refuses it; others may have it.
    pub async fn publish_to_topic(
        &self,
        topic: &str,
        message: impl Into<Message>,
    ) -> Result<(), ClientError> {
        let message = message.into();
        let publish = Publish {
            qos: 1,
            vhost: &self.shared.options.vhost,
            topic,
            expiry_ms: message.expiry_ms(),
            options: message.options(),
            ..Publish::default()
        };
        let command = Command::Publish(publish);
        let head = message.head();
        let parts: [&[u8]; 2] = [&head, &message.payload];
        let mut receipts = Vec::new();
        for shard in 0..self.shards() {
            receipts.push(self.shared.post(shard, &command, &parts).await?);
        }
        let mut live = Vec::new();
        command.encode(&head, &mut live);
        live.extend_from_slice(&message.payload);
        let send = |id| Request::SendLive { id, command: live.into() };
        match self.ask(send).await? {
            Answer::Taken => {}
            _ => return Err(ClientError::Closed),
        }
        for receipt in receipts {
            Receipt::new(receipt).stored().await?;
        }
        Ok(())
    }
}
