//! Consuming: messages are leased to a consumer until it says what became of them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{QueueCommand, Settlement, Stays, Verdict};
use fluxmq_names::ErrorCode;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::message::Received;
use super::{Client, ClientError, Place};
use crate::contract::{Consume, QueueDelivery, Request, Settle, Settled, append_offset};

/// Stretches of one settlement.
const VERDICTS_MAX: usize = 1_000;

/// A message that is leased to this consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    offset: u64,
    count: u32,
    redelivered: bool,
    message: Received,
}

// === impl Delivery ===

impl Delivery {
    /// Its number in the queue, by which it is settled.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How often it was returned before.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Somebody may have been given it before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// What it says.
    #[must_use]
    pub fn message(&self) -> &Received {
        &self.message
    }
}

/// Opens a consumer.
pub struct ConsumerBuilder {
    client: Client,
    queue: String,
    group: String,
    prefetch: u32,
    lease: Duration,
    priority: u8,
}

// === impl ConsumerBuilder ===

impl ConsumerBuilder {
    /// The group; `default` if not said.
    #[must_use]
    pub fn group(mut self, name: &str) -> Self {
        name.clone_into(&mut self.group);
        self
    }

    /// Messages it may hold at once, 1 to 50,000; 256 if not said.
    #[must_use]
    pub fn prefetch(mut self, messages: u32) -> Self {
        self.prefetch = messages.clamp(1, 50_000);
        self
    }

    /// How long it may keep a message without a word; 30 s if not said, zero = as long as it lives.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Higher is preferred, where one member is active.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Joins the group and begins to consume.
    ///
    /// # Errors
    /// Queue or group do not exist; the group is exclusive and has a member.
    pub async fn open(self) -> Result<Consumer, ClientError> {
        let (place, info) = self.client.find(&self.queue).await?;
        let group = info.groups.iter().find(|g| g.name == self.group);
        let group = group.ok_or(ClientError::NotFound)?.group;
        let token = self.client.shared.state.lock().fresh_id();
        let join = QueueCommand::GroupJoin {
            queue: place.queue,
            group,
            consumer: token,
            priority: self.priority,
            stays: Stays::WithGateway,
        };
        let joined = self.client.command(place.shard, &Command::Queue(join)).await?;
        let Outcome::Joined { token: member, .. } = joined else { return Err(ClientError::Closed) };
        let lease_ms = u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX);
        let (began, beginning) = oneshot::channel();
        let prefetch = self.prefetch;
        let inner = Inner { credit: prefetch, began: Some(began), ..Inner::default() };
        let attached = Arc::new(Attached {
            token,
            place,
            group,
            member,
            lease_ms,
            prefetch,
            inner: Mutex::new(inner),
            came: Notify::new(),
        });
        self.client.shared.attach(&attached);
        let consumer = Consumer { client: self.client.clone(), attached };
        beginning.await.map_err(|_| self.client.shared.why_closed())??;
        Ok(consumer)
    }
}

/// What a consumer and the task of its client share.
pub(super) struct Attached {
    pub(super) token: u64,
    place: Place,
    group: u64,
    member: u64,
    lease_ms: u32,
    prefetch: u32,
    inner: Mutex<Inner>,
    came: Notify,
}

#[derive(Default)]
struct Inner {
    /// Messages that came and were not handed out.
    queue: VecDeque<QueueDelivery>,
    /// What it holds.
    held: HashSet<u64>,
    /// Credit that is still to be given.
    credit: u32,
    /// What is to be said of messages.
    verdicts: Vec<Settlement>,
    /// What was said and is not answered.
    saying: HashMap<u64, Vec<Settlement>>,
    refused: Vec<(u64, u32)>,
    failed: Option<ClientError>,
    active: Option<(bool, u64)>,
    began: Option<oneshot::Sender<Result<(), ClientError>>>,
    ended: Option<ClientError>,
}

fn runs(offsets: &HashSet<u64>) -> Vec<(u64, u32)> {
    let mut sorted: Vec<u64> = offsets.iter().copied().collect();
    sorted.sort_unstable();
    let mut runs = Vec::new();
    sorted.into_iter().for_each(|offset| append_offset(&mut runs, offset));
    runs
}

// === impl Attached ===

impl Attached {
    /// What is to be said over a new link. When the epoch was `lost` nothing is held any more.
    pub(super) fn say_again(&self, lost: bool) -> Vec<Request> {
        let mut inner = self.inner.lock();
        if inner.ended.is_some() {
            return Vec::new();
        }
        if lost {
            // Its membership ended with the epoch.
            drop(inner);
            self.end(ClientError::EpochEnded);
            return Vec::new();
        }
        let consume = Consume {
            token: self.token,
            shard: self.place.shard,
            queue: self.place.queue,
            group: self.group,
            member: self.member,
            lease_ms: self.lease_ms,
            held: runs(&inner.held),
        };
        let mut requests = vec![Request::Consume(consume)];
        let token = self.token;
        for (id, verdicts) in &inner.saying {
            let (id, verdicts) = (*id, verdicts.clone());
            requests.push(Request::Settle(Settle { token, id, verdicts }));
        }
        // A new link begins without credit.
        let held = u32::try_from(inner.held.len()).unwrap_or(u32::MAX);
        inner.credit = self.prefetch.saturating_sub(held);
        requests
    }

    /// What queues: settlements, then credit.
    pub(super) fn take_requests(&self, fresh_id: &mut dyn FnMut() -> u64) -> Vec<Request> {
        let mut inner = self.inner.lock();
        let mut requests = Vec::new();
        let token = self.token;
        if inner.ended.is_some() {
            return requests;
        }
        while !inner.verdicts.is_empty() {
            let n = inner.verdicts.len().min(VERDICTS_MAX);
            let verdicts: Vec<_> = inner.verdicts.drain(..n).collect();
            let id = fresh_id();
            inner.saying.insert(id, verdicts.clone());
            requests.push(Request::Settle(Settle { token, id, verdicts }));
        }
        // Not for each message: a quarter of the prefetch at once, unless nothing is left.
        let due = inner.credit > 0
            && (inner.credit >= self.prefetch.div_ceil(4) || inner.held.is_empty());
        if due && inner.began.is_none() {
            let count = std::mem::take(&mut inner.credit);
            requests.push(Request::Credit { token, count });
        }
        requests
    }

    pub(super) fn began(&self, error: Option<ErrorCode>) {
        let mut inner = self.inner.lock();
        let began = inner.began.take();
        if let Some(code) = error {
            let error = ClientError::refused(code, 0);
            inner.ended = Some(error.clone());
            if let Some(began) = began {
                let _ = began.send(Err(error));
            }
            drop(inner);
            self.came.notify_waiters();
        } else if let Some(began) = began {
            let _ = began.send(Ok(()));
        }
    }

    pub(super) fn activated(&self, active: bool, epoch: u64) {
        self.inner.lock().active = Some((active, epoch));
        self.came.notify_waiters();
    }

    pub(super) fn settled(&self, settled: &Settled) {
        let mut inner = self.inner.lock();
        let Some(_) = inner.saying.remove(&settled.id) else { return };
        inner.refused.extend_from_slice(&settled.refused);
        if let Some(code) = settled.error {
            inner.failed = Some(ClientError::refused(code, 0));
        }
        if inner.saying.is_empty() {
            drop(inner);
            self.came.notify_waiters();
        }
    }

    pub(super) fn deliver(&self, batch: &mut Vec<QueueDelivery>) {
        let mut inner = self.inner.lock();
        for delivery in batch.drain(..) {
            // Over a new link nothing comes that is held; over an old one nothing twice.
            if inner.held.insert(delivery.offset) {
                inner.queue.push_back(delivery);
            }
        }
        drop(inner);
        self.came.notify_waiters();
    }

    pub(super) fn end(&self, why: ClientError) {
        let mut inner = self.inner.lock();
        if let Some(began) = inner.began.take() {
            let _ = began.send(Err(why.clone()));
        }
        inner.ended.get_or_insert(why);
        drop(inner);
        self.came.notify_waiters();
    }

    fn say(&self, verdict: Verdict, first: u64, count: u32) {
        let mut inner = self.inner.lock();
        let end = first.saturating_add(count.into());
        let mut credit = 0;
        if verdict == Verdict::AckBelow {
            let before = inner.held.len();
            inner.held.retain(|offset| *offset >= end);
            credit += before - inner.held.len();
        } else {
            for offset in first..end {
                credit += usize::from(inner.held.remove(&offset));
            }
        }
        inner.credit = inner.credit.saturating_add(u32::try_from(credit).unwrap_or(u32::MAX));
        match inner.verdicts.last_mut() {
            Some(last)
                if last.verdict == verdict
                    && verdict != Verdict::AckBelow
                    && last.first + u64::from(last.count) == first =>
            {
                last.count += count;
            }
            _ => inner.verdicts.push(Settlement { verdict, first, count }),
        }
    }
}

/// A consumer of a group. Dropping it gives back what it holds.
pub struct Consumer {
    client: Client,
    attached: Arc<Attached>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // What was not handed to anybody was not tried.
        let fresh: Vec<u64> = self.attached.inner.lock().queue.iter().map(|d| d.offset).collect();
        for offset in fresh {
            self.attached.say(Verdict::Release, offset, 1);
        }
        self.client.shared.close_consumer(&self.attached);
    }
}

// === impl Consumer ===

impl Consumer {
    /// The next message; waits for one. Cancel-safe.
    ///
    /// # Errors
    /// The consumer has ended: the queue or group is gone, somebody fenced it, or the client is closed.
    pub async fn next(&mut self) -> Result<Delivery, ClientError> {
        let attached = self.attached.clone();
        loop {
            let came = attached.came.notified();
            let mut came = std::pin::pin!(came);
            came.as_mut().enable();
            if let Some(delivery) = self.try_next()? {
                return Ok(delivery);
            }
            came.await;
        }
    }

    /// The next message, if one is here.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn try_next(&mut self) -> Result<Option<Delivery>, ClientError> {
        loop {
            let mut inner = self.attached.inner.lock();
            let Some(d) = inner.queue.pop_front() else {
                return inner.ended.clone().map_or(Ok(None), Err);
            };
            drop(inner);
            let (offset, count, redelivered) = (d.offset, d.count, d.redelivered);
            if let Some(message) = Received::new(d.command, d.dead) {
                return Ok(Some(Delivery { offset, count, redelivered, message }));
            }
            // Nobody can read it: it is not to come again and again.
            tracing::error!(offset, "a message cannot be read and is rejected");
            self.settle(Verdict::Reject, offset, 1);
        }
    }

    /// What becomes of `count` messages from `first` on. It goes out with what else queues; [`Self::settled`] says
    /// when it is in the log.
    pub fn settle(&self, verdict: Verdict, first: u64, count: u32) {
        self.attached.say(verdict, first, count);
        self.client.shared.wake.notify_one();
    }

    /// Done with a message.
    pub fn ack(&self, offset: u64) {
        self.settle(Verdict::Ack, offset, 1);
    }

    /// Done with a message, and with all before it that this consumer was given.
    pub fn ack_up_to(&self, offset: u64) {
        self.settle(Verdict::AckBelow, offset, 1);
    }

    /// To be given again at once, to anybody; counted.
    pub fn nack(&self, offset: u64) {
        self.settle(Verdict::Return, offset, 1);
    }

    /// To be given again after the queue's back-off; counted.
    pub fn nack_later(&self, offset: u64) {
        self.settle(Verdict::ReturnLater, offset, 1);
    }

    /// Never again: to the dead-letter queue, or dropped.
    pub fn reject(&self, offset: u64) {
        self.settle(Verdict::Reject, offset, 1);
    }

    /// Keeps a message for another lease.
    pub fn extend(&self, first: u64, count: u32) {
        self.client.shared.send(Request::Extend { token: self.attached.token, first, count });
    }

    /// Waits until everything that was said of messages is in the log.
    ///
    /// # Errors
    /// [`ClientError::NotHeld`]: their lease had ended; others were settled. Other errors: some of it was not done.
    pub async fn settled(&self) -> Result<(), ClientError> {
        loop {
            let came = self.attached.came.notified();
            let mut came = std::pin::pin!(came);
            came.as_mut().enable();
            {
                let mut inner = self.attached.inner.lock();
                if inner.saying.is_empty() && inner.verdicts.is_empty() || inner.ended.is_some() {
                    if let Some(failed) = inner.failed.take() {
                        return Err(failed);
                    }
                    let refused = std::mem::take(&mut inner.refused);
                    if !refused.is_empty() {
                        return Err(ClientError::NotHeld(refused));
                    }
                    return inner.ended.clone().map_or(Ok(()), Err);
                }
            }
            self.client.shared.wake.notify_one();
            came.await;
        }
    }

    /// In a group with one active member: whether it is this one, and the fencing token of who is.
    #[must_use]
    pub fn active(&self) -> Option<(bool, u64)> {
        self.attached.inner.lock().active
    }

    /// Where its messages come from, for transactions.
    pub(super) fn of(&self) -> (Place, u64, u64) {
        let inner = self.attached.inner.lock();
        let token = inner.active.map_or(self.attached.member, |(_, epoch)| epoch);
        (self.attached.place, self.attached.group, token)
    }

    /// A transaction has settled a message.
    pub(super) fn let_go(&self, offsets: &[u64]) {
        let mut inner = self.attached.inner.lock();
        let held = offsets.iter().filter(|offset| inner.held.remove(offset)).count();
        inner.credit = inner.credit.saturating_add(u32::try_from(held).unwrap_or(u32::MAX));
    }
}

// === impl Client ===

impl Client {
    /// A consumer of a queue, to be opened.
    #[must_use]
    pub fn consumer(&self, queue: &str) -> ConsumerBuilder {
        ConsumerBuilder {
            client: self.clone(),
            queue: queue.into(),
            group: "default".into(),
            prefetch: 256,
            lease: Duration::from_secs(30),
            priority: 0,
        }
    }
}
