//! Queues and groups: made, changed, looked at.

use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{
    Arguments, Durability, Overflow, QueueCommand, Retention, Sharing, Start,
};
use fluxmq_proto::v1::QueueInfo;

use super::driver::Answer;
use super::{Client, ClientError};
use crate::contract::{LookAtQueues, Request};

/// What a queue is declared with; `docs/queues.md` says what each does. 0 and empty say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueOptions {
    arguments: Arguments<'static>,
    dead_letter: String,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// === impl QueueOptions ===

impl QueueOptions {
    /// A work queue: a message is gone when every group has settled it. It has the group `default`.
    #[must_use]
    pub fn work() -> Self {
        Self::default()
    }

    /// A stream: messages stay as long as age, count and bytes allow.
    #[must_use]
    pub fn stream() -> Self {
        let arguments = Arguments { retention: Retention::Policy, ..Arguments::default() };
        Self { arguments, dead_letter: String::new() }
    }

    fn with(mut self, change: impl FnOnce(&mut Arguments<'static>)) -> Self {
        change(&mut self.arguments);
        self
    }

    /// Messages at most, and what happens to one that is too much.
    #[must_use]
    pub fn max_messages(self, max: u64, overflow: Overflow) -> Self {
        self.with(|a| (a.max_messages, a.overflow) = (max, overflow))
    }

    /// Bytes at most, and what happens to a message that is too much.
    #[must_use]
    pub fn max_bytes(self, max: u64, overflow: Overflow) -> Self {
        self.with(|a| (a.max_bytes, a.overflow) = (max, overflow))
    }

    /// Age at most, of a stream.
    #[must_use]
    pub fn max_age(self, age: Duration) -> Self {
        self.with(|a| a.max_age_ms = ms(age))
    }

    /// Messages expire so long after they came.
    #[must_use]
    pub fn message_ttl(self, ttl: Duration) -> Self {
        self.with(|a| a.message_ttl_ms = ms(ttl))
    }

    /// The queue is deleted when nobody used it for so long.
    #[must_use]
    pub fn expires(self, after: Duration) -> Self {
        self.with(|a| a.expires_ms = ms(after))
    }

    /// A message that was returned so often dies.
    #[must_use]
    pub fn delivery_limit(self, limit: u32) -> Self {
        self.with(|a| a.delivery_limit = limit)
    }

    /// First and longest pause before what is returned later is given again.
    #[must_use]
    pub fn backoff(self, first: Duration, longest: Duration) -> Self {
        let small = |d| u32::try_from(ms(d)).unwrap_or(u32::MAX);
        self.with(|a| (a.backoff_ms, a.backoff_max_ms) = (small(first), small(longest)))
    }

    /// Priorities 0 to `levels` − 1; at most 32.
    #[must_use]
    pub fn levels(self, levels: u8) -> Self {
        self.with(|a| a.levels = levels)
    }

    /// Message ids are remembered so long, and repeats dropped.
    #[must_use]
    pub fn dedup_window(self, window: Duration) -> Self {
        self.with(|a| a.dedup_window_ms = ms(window))
    }

    /// Of the messages of one key only the newest is kept.
    #[must_use]
    pub fn compact(self) -> Self {
        self.with(|a| a.compact = true)
    }

    /// Deleted when the last consumer leaves.
    #[must_use]
    pub fn auto_delete(self) -> Self {
        self.with(|a| a.auto_delete = true)
    }

    /// How the group `default` shares its messages.
    #[must_use]
    pub fn sharing(self, sharing: Sharing) -> Self {
        self.with(|a| a.sharing = sharing)
    }

    /// Where messages go that die: a queue of the same virtual host.
    #[must_use]
    pub fn dead_letter(mut self, queue: &str) -> Self {
        queue.clone_into(&mut self.dead_letter);
        self
    }

    /// Acknowledged in the memory of a majority, not synced.
    #[must_use]
    pub fn replicated(self) -> Self {
        self.with(|a| a.durability = Durability::Replicated)
    }

    fn arguments(&self) -> Arguments<'_> {
        Arguments { dead_letter: &self.dead_letter, ..self.arguments }
    }
}

/// A group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its incarnation.
    pub id: u64,
    /// All below is settled.
    pub cursor: u64,
    /// It did not exist before.
    pub fresh: bool,
}

fn group(outcome: &Outcome) -> Result<Group, ClientError> {
    match *outcome {
        Outcome::Group { group, cursor, fresh } => Ok(Group { id: group, cursor, fresh }),
        _ => Err(ClientError::Closed),
    }
}

fn number(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Number(n) => *n,
        _ => 0,
    }
}

// === impl Client ===

impl Client {
    /// Makes a queue; true = it did not exist.
    ///
    /// # Errors
    /// It exists with other arguments ([`ClientError::Differs`] names them); its name or its arguments are wrong; there
    /// are 100,000 queues in its shard.
    pub async fn declare(&self, name: &str, options: &QueueOptions) -> Result<bool, ClientError> {
        let declare = QueueCommand::Declare {
            vhost: &self.shared.options.vhost,
            name,
            arguments: options.arguments(),
            passive: false,
        };
        let shard = self.shard_of(name).0;
        let outcome = self.command(shard, &Command::Queue(declare)).await;
        match outcome.map_err(ClientError::of_declaration)? {
            Outcome::Declared { fresh, .. } => Ok(fresh),
            _ => Err(ClientError::Closed),
        }
    }

    async fn on_queue<'a>(
        &self,
        name: &str,
        command: impl FnOnce(u64) -> QueueCommand<'a>,
    ) -> Result<Outcome, ClientError> {
        let (place, _) = self.find(name).await?;
        self.command(place.shard, &Command::Queue(command(place.queue))).await
    }

    async fn on_group<'a>(
        &self,
        (name, group): (&str, &str),
        command: impl FnOnce(u64, u64) -> QueueCommand<'a>,
    ) -> Result<Outcome, ClientError> {
        let (place, info) = self.find(name).await?;
        let found = info.groups.iter().find(|g| g.name == group);
        let id = found.ok_or(ClientError::NotFound)?.group;
        self.command(place.shard, &Command::Queue(command(place.queue, id))).await
    }

    /// Deletes a queue; how many messages it had.
    ///
    /// # Errors
    /// `InUse`: it is not empty, or has members, and that was to be so.
    pub async fn delete(
        &self,
        name: &str,
        if_empty: bool,
        if_unused: bool,
    ) -> Result<u64, ClientError> {
        let delete = |queue| QueueCommand::Delete { queue, if_empty, if_unused };
        self.on_queue(name, delete).await.map(|o| number(&o))
    }

    /// Lets go of all messages of a queue; how many those were.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn purge(&self, name: &str) -> Result<u64, ClientError> {
        let purge = |queue| QueueCommand::Purge { queue };
        self.on_queue(name, purge).await.map(|o| number(&o))
    }

    /// Stores what is published to matching topics in the queue; an MQTT topic filter.
    ///
    /// # Errors
    /// There is no such queue, the filter is none, or it is bound to 1,024 already.
    pub async fn bind(&self, name: &str, filter: &str) -> Result<(), ClientError> {
        let bind = |queue| QueueCommand::Bind { queue, filter, bound: true };
        self.on_queue(name, bind).await.map(drop)
    }

    /// No longer.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn unbind(&self, name: &str, filter: &str) -> Result<(), ClientError> {
        let unbind = |queue| QueueCommand::Bind { queue, filter, bound: false };
        self.on_queue(name, unbind).await.map(drop)
    }

    /// Cancels scheduled messages by the ids their receipts gave; how many were still waiting.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn cancel_scheduled(&self, name: &str, ids: &[u64]) -> Result<u64, ClientError> {
        let cancel = |queue| QueueCommand::CancelScheduled { queue, ids: ids.to_vec() };
        self.on_queue(name, cancel).await.map(|o| number(&o))
    }

    /// Makes a group that begins at `start`.
    ///
    /// # Errors
    /// It exists and shares its messages in another way; there are 256 groups.
    pub async fn create_group(
        &self,
        queue: &str,
        name: &str,
        start: Start,
        sharing: Sharing,
    ) -> Result<Group, ClientError> {
        let create = |queue| QueueCommand::GroupCreate { queue, name, start, sharing };
        group(&self.on_queue(queue, create).await?)
    }

    /// Deletes a group.
    ///
    /// # Errors
    /// There is no such queue or group.
    pub async fn delete_group(&self, queue: &str, name: &str) -> Result<(), ClientError> {
        let delete = |queue, group| QueueCommand::GroupDelete { queue, group };
        self.on_group((queue, name), delete).await.map(drop)
    }

    /// A group begins again at `start`; gives the offset.
    ///
    /// # Errors
    /// There is no such queue or group.
    pub async fn seek_group(
        &self,
        queue: &str,
        name: &str,
        start: Start,
    ) -> Result<u64, ClientError> {
        let seek = |queue, group| QueueCommand::GroupSeek { queue, group, start };
        self.on_group((queue, name), seek).await.map(|o| number(&o))
    }

    /// Makes a second group that stands where a first one stands.
    ///
    /// # Errors
    /// There is no such queue or group, or the second one exists.
    pub async fn copy_group(
        &self,
        queue: &str,
        of: &str,
        name: &str,
    ) -> Result<Group, ClientError> {
        let copy = |queue, group| QueueCommand::GroupCopy { queue, group, name };
        group(&self.on_group((queue, of), copy).await?)
    }

    /// How a queue is.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn queue(&self, name: &str) -> Result<QueueInfo, ClientError> {
        self.find(name).await.map(|(_, info)| info)
    }

    /// All queues but hidden ones, by name.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>, ClientError> {
        let mut all: Vec<QueueInfo> = Vec::new();
        for shard in 0..self.shards() {
            let mut after = String::new();
            loop {
                let (vhost, from) = (self.shared.options.vhost.clone(), after.clone());
                let look = |id| {
                    let (name, max) = (String::new(), 1_000);
                    Request::LookAtQueues(LookAtQueues { id, shard, vhost, name, after: from, max })
                };
                let Answer::Queues(queues, more) = self.ask(look).await? else { break };
                after = queues.last().map_or(String::new(), |q| q.name.clone());
                all.extend(queues);
                if !more {
                    break;
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}
