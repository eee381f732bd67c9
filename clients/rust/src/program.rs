//! For programs that use the log directly: queues, streams, transactions, topics (`docs/clients.md`).
//!
//! ```no_run
//! # async fn example() -> Result<(), fluxmq_client::ClientError> {
//! use fluxmq_client::{Client, Message, QueueOptions};
//! let client = Client::connect(["http://127.0.0.1:7400"]).await?;
//! client.declare("orders", &QueueOptions::work()).await?;
//! let orders = client.publisher("orders").await?;
//! orders.publish(Message::new("one")).await?.stored().await?;
//! let mut consumer = client.consumer("orders").prefetch(100).open().await?;
//! let delivery = consumer.next().await?;
//! consumer.ack(delivery.offset());
//! # Ok(())
//! # }
//! ```
//!
//! A client is a link with an epoch. When the link is lost it is made again, to the first address that answers;
//! what was not answered is said again and taken once, and consumers keep what they hold.

mod admin;
mod consumer;
mod driver;
mod error;
mod message;
mod publisher;
mod reader;
mod transaction;

use std::sync::Arc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::{Kind, ShardId, place};
use fluxmq_proto::v1::QueueInfo;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::contract::{LookAtQueues, Request};
use crate::transport::Tls;
pub use admin::{Group, QueueOptions};
pub use consumer::{Consumer, ConsumerBuilder, Delivery};
use driver::{Answer, Shared};
pub use error::ClientError;
pub use message::{Message, Received};
pub use publisher::{Publisher, Receipt, Stored};
pub use reader::{Item, Reader};
pub use transaction::Transaction;

/// How a client connects.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Addresses such as `http://127.0.0.1:7400`; the first that answers is used, also after a link was lost.
    pub urls: Vec<String>,
    /// TLS for addresses that begin with `https://`.
    pub tls: Option<Tls>,
    /// Its name among all gateways and programs; a second one of that name ends the first. Empty: one that
    /// nobody has.
    pub name: String,
    /// Virtual host of its queues and topics.
    pub vhost: String,
    /// Messages it may have published and not know stored; at most 32,768, because a shard remembers the outcomes.
    pub unconfirmed_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            urls: vec!["http://127.0.0.1:7400".into()],
            tls: None,
            name: String::new(),
            vhost: "/".into(),
            unconfirmed_max: 32_768,
        }
    }
}

/// A connection to the log. Clones share it; it ends with the last one, and with it what its consumers hold.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Ends the link when the last clone is gone.
    _task: Arc<Task>,
}

struct Task {
    shared: Arc<Shared>,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.shared.close(ClientError::Closed);
        self.handle.abort();
    }
}

/// A queue that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: u32,
    pub(crate) queue: u64,
}

// === impl Client ===

impl Client {
    /// Connects to the first of `urls` that answers.
    ///
    /// # Errors
    /// None answers.
    pub async fn connect<U: Into<String>>(
        urls: impl IntoIterator<Item = U>,
    ) -> Result<Self, ClientError> {
        let urls = urls.into_iter().map(Into::into).collect();
        Self::connect_with(ClientOptions { urls, ..ClientOptions::default() }).await
    }

    /// Connects as `options` say. Must run on a tokio runtime; a task there keeps the link.
    ///
    /// # Errors
    /// None of the addresses answers, or the server takes no more programs.
    pub async fn connect_with(mut options: ClientOptions) -> Result<Self, ClientError> {
        if options.name.is_empty() {
            use std::hash::BuildHasher;
            let random =
                std::collections::hash_map::RandomState::new().hash_one(std::process::id());
            options.name = format!("program-{random:016x}");
        }
        options.unconfirmed_max = options.unconfirmed_max.clamp(1, 32_768);
        let (shared, from) = Shared::join(options).await?;
        let handle = tokio::spawn(driver::run(shared.clone(), from));
        let task = Task { shared: shared.clone(), handle };
        Ok(Self { shared, _task: Arc::new(task) })
    }

    /// Its epoch: what it says is taken once under it. It changes only when the client was away for more than five
    /// minutes, and then what was under way ends with [`ClientError::EpochEnded`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.state.lock().epoch
    }

    /// How many data shards there are.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.shared.state.lock().shards
    }

    /// Leaves: everything that was published is answered first, then the epoch ends and what consumers hold goes
    /// to others.
    pub async fn close(self) {
        self.shared.all_answered().await;
        self.shared.leave();
    }

    fn shard_of(&self, queue: &str) -> ShardId {
        place(Kind::Queue, &self.shared.options.vhost, queue, self.shards())
    }

    /// Says a command and waits for its outcome.
    async fn command(&self, shard: u32, command: &Command<'_>) -> Result<Outcome, ClientError> {
        let outcome = self.shared.submit(shard, command, &[]).await?;
        match outcome {
            Outcome::Error { code, detail } => Err(ClientError::refused(code, detail)),
            outcome => Ok(outcome),
        }
    }

    async fn ask(&self, question: impl FnOnce(u64) -> Request) -> Result<Answer, ClientError> {
        let (tx, rx) = oneshot::channel();
        self.shared.ask(question, tx)?;
        rx.await.map_err(|_| self.shared.why_closed())?
    }

    async fn find(&self, name: &str) -> Result<(Place, QueueInfo), ClientError> {
        let shard = self.shard_of(name).0;
        let (vhost, name) = (self.shared.options.vhost.clone(), name.to_owned());
        let look = |id| {
            let (after, max) = (String::new(), 1);
            Request::LookAtQueues(LookAtQueues { id, shard, vhost, name, after, max })
        };
        let Answer::Queues(mut queues, _) = self.ask(look).await? else {
            return Err(ClientError::Closed);
        };
        let info = queues.pop().ok_or(ClientError::NotFound)?;
        Ok((Place { shard, queue: info.queue }, info))
    }
}
