//! Frames about queues: who consumes, what is delivered, what is said of it (`docs/internals/contract.md`).

use bytes::Bytes;
use fluxmq_commands::command::queue::{DeadLetter, Settlement};
use fluxmq_names::ErrorCode;

/// Appends an offset to runs of offsets: the first of each, and how many.
pub fn append_offset(runs: &mut Vec<(u64, u32)>, offset: u64) {
    match runs.last_mut() {
        Some((first, count)) if *first + u64::from(*count) == offset => *count += 1,
        _ => runs.push((offset, 1)),
    }
}

/// What a delivery with this command weighs in the window of bytes.
#[must_use]
pub fn delivery_bytes(command: &[u8]) -> u32 {
    let len = u32::try_from(command.len()).unwrap_or(u32::MAX);
    len.saturating_add(super::DELIVERY_OVERHEAD_BYTES)
}

/// A consumer of a group, new or again after the link was lost. Answered by [`super::Event::Consuming`]; nothing
/// comes before credit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// The consumer, among all tokens of the link.
    pub token: u64,
    /// Shard of the queue.
    pub shard: u32,
    /// The queue.
    pub queue: u64,
    /// The group.
    pub group: u64,
    /// Its membership (`Outcome::Joined`), 0 in a group that is shared.
    pub member: u64,
    /// How long it may keep a message without a word, ms; 0 = as long as it lives.
    pub lease_ms: u32,
    /// What it was given over an earlier link and has not settled: first offset and how many (Q2).
    pub held: Vec<(u64, u32)>,
}

/// What a consumer says of messages it was given. Answered by [`super::Event::Settled`] when it is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The consumer.
    pub token: u64,
    /// Comes back.
    pub id: u64,
    /// What it says; `AckBelow` means what this consumer was given.
    pub verdicts: Vec<Settlement>,
}

/// A message for a consumer, which is leased to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDelivery {
    /// The consumer.
    pub token: u64,
    /// Number in the queue.
    pub offset: u64,
    /// How often it was returned.
    pub count: u32,
    /// Somebody may have been given it before.
    pub redelivered: bool,
    /// Where it died, in a dead-letter queue.
    pub dead: Option<DeadLetter>,
    /// The ENQUEUE or PUBLISH command with its message.
    pub command: Bytes,
}

/// Answers [`Settle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The consumer.
    pub token: u64,
    /// As asked.
    pub id: u64,
    /// Offsets the consumer does not hold: their lease ended, or they were settled before.
    pub refused: Vec<(u64, u32)>,
    /// Nothing of it was done.
    pub error: Option<ErrorCode>,
}

/// A question for messages of a queue, settled or not. Answered by [`super::Event::QueuePage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadQueue {
    /// Comes back.
    pub id: u64,
    /// Shard of the queue.
    pub shard: u32,
    /// The queue.
    pub queue: u64,
    /// From this offset on.
    pub from: u64,
    /// Messages at most; 1,000 and about 1 MiB are given whatever is asked.
    pub max: u32,
    /// With nothing there, the answer waits for the first message, at most this long, ms.
    pub wait_ms: u32,
}

/// A message of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueItem {
    /// Number in the queue.
    pub offset: u64,
    /// When it was stored, Unix ms.
    pub time_ms: u64,
    /// Where it died, in a dead-letter queue.
    pub dead: Option<DeadLetter>,
    /// The ENQUEUE or PUBLISH command with its message.
    pub command: Bytes,
}

/// Answers [`ReadQueue`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePage {
    /// As asked.
    pub id: u64,
    /// The messages.
    pub items: Vec<QueueItem>,
    /// Where to go on.
    pub next: u64,
    /// The queue is gone.
    pub gone: bool,
}

/// A question for queues of a shard. Answered by [`super::Event::Queues`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookAtQueues {
    /// Comes back.
    pub id: u64,
    /// The shard that is asked.
    pub shard: u32,
    /// Virtual host.
    pub vhost: String,
    /// This queue alone; empty = all, hidden ones not.
    pub name: String,
    /// Queues whose names come behind this one.
    pub after: String,
    /// How many at most; 1,000 are given whatever is asked.
    pub max: u32,
}
