//! Reading a queue from any offset, without a group: nothing is leased or settled.

use std::collections::VecDeque;

use fluxmq_commands::command::queue::Start;

use super::driver::Answer;
use super::message::Received;
use super::{Client, ClientError, Place};
use crate::contract::{QueuePage, ReadQueue, Request};

/// Messages of a page.
const PAGE: u32 = 1_000;
/// How long the server may hold a question for which there is nothing, ms.
const WAIT_MS: u32 = 30_000;

/// A message that was read.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number in the queue.
    pub offset: u64,
    /// When it was stored, Unix ms.
    pub time_ms: u64,
    /// What it says.
    pub message: Received,
}

/// Reads a queue in order of offsets.
pub struct Reader {
    client: Client,
    place: Place,
    next: u64,
    items: VecDeque<Item>,
}

// === impl Reader ===

impl Reader {
    /// The next message; waits for one.
    ///
    /// # Errors
    /// The queue is gone, or the client is closed.
    pub async fn next(&mut self) -> Result<Item, ClientError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(item);
            }
            self.fetch(PAGE, WAIT_MS).await?;
        }
    }

    /// The next message, or None at the end.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_or_end(&mut self) -> Result<Option<Item>, ClientError> {
        while self.items.is_empty() {
            let before = self.next;
            self.fetch(PAGE, 0).await?;
            if self.items.is_empty() && self.next == before {
                return Ok(None);
            }
        }
        Ok(self.items.pop_front())
    }

    /// Offset of the message behind the last one that was returned or is here.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.items.front().map_or(self.next, |item| item.offset)
    }

    async fn fetch(&mut self, max: u32, wait_ms: u32) -> Result<(), ClientError> {
        let page = page(&self.client, self.place, (self.next, max), wait_ms).await?;
        self.next = page.next;
        let item = |i: crate::contract::QueueItem| {
            let message = Received::new(i.command, i.dead)?;
            Some(Item { offset: i.offset, time_ms: i.time_ms, message })
        };
        self.items.extend(page.items.into_iter().filter_map(item));
        Ok(())
    }
}

async fn page(
    client: &Client,
    Place { shard, queue }: Place,
    (from, max): (u64, u32),
    wait_ms: u32,
) -> Result<QueuePage, ClientError> {
    let question = |id| Request::ReadQueue(ReadQueue { id, shard, queue, from, max, wait_ms });
    match client.ask(question).await? {
        Answer::Page(page) if page.gone => Err(ClientError::NotFound),
        Answer::Page(page) => Ok(page),
        _ => Err(ClientError::Closed),
    }
}

// === impl Client ===

impl Client {
    /// A reader that begins at `start`; a time is found by looking at some thirty messages.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn reader(&self, queue: &str, start: Start) -> Result<Reader, ClientError> {
        let (place, info) = self.find(queue).await?;
        let next = match start {
            Start::First => info.first,
            Start::Last => info.next.saturating_sub(1).max(info.first),
            Start::Next => info.next,
            Start::Offset(offset) => offset,
            Start::Time(ms) => self.offset_at(place, (info.first, info.next), ms).await?,
        };
        Ok(Reader { client: self.clone(), place, next, items: VecDeque::new() })
    }

    /// The first offset stored at `ms` or later: times never go back, so halves are looked at.
    async fn offset_at(
        &self,
        place: Place,
        (mut low, mut high): (u64, u64),
        ms: u64,
    ) -> Result<u64, ClientError> {
        while low < high {
            let middle = low + (high - low) / 2;
            let found = page(self, place, (middle, 1), 0).await?;
            match found.items.first() {
                Some(item) if item.offset < high && item.time_ms < ms => low = item.offset + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}
