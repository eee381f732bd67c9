//! Consumers of queues that connections of this gateway have: what they hold, what they say of it (Q2, Q3).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fluxmq_client::contract::{
    Consume, QueueDelivery, Request, Settle, Settled, append_offset, delivery_bytes,
};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{
    Arguments, QueueCommand, Settlement, Sharing, Start, Stays, Verdict,
};
use fluxmq_names::ErrorCode;
use tokio::sync::oneshot;

use super::Backend;

/// A connection that consumes queues.
pub trait QueueReceiver {
    /// A message that is leased to consumer `token`.
    fn leased(&self, delivery: &QueueDelivery);
    /// Consumer `token` is none any more.
    fn consumer_ended(&self, token: u64);
    /// What was said of a message is in the log, or is not: the consumer did not hold it any more.
    fn settled(&self, token: u64, refused: &[(u64, u32)]);
}

/// A queue and its group, as they were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueGroup {
    /// Shard of the queue.
    pub shard: u32,
    /// The queue.
    pub queue: u64,
    /// The group.
    pub group: u64,
}

/// A consumer.
struct Attached {
    receiver: Rc<dyn QueueReceiver>,
    consume: Consume,
    credit: u32,
    held: BTreeSet<u64>,
    verdicts: Vec<Settlement>,
    began: Option<oneshot::Sender<Result<(), ErrorCode>>>,
}

/// All consumers of this gateway.
#[derive(Default)]
pub(super) struct Consumers {
    all: RefCell<BTreeMap<u64, Attached>>,
    /// What was said and is not answered.
    saying: RefCell<BTreeMap<u64, Settle>>,
    /// Those with something to say.
    ready: RefCell<BTreeSet<u64>>,
}

// === impl Attached ===

impl Attached {
    fn again(&self) -> Consume {
        let mut held = Vec::new();
        self.held.iter().for_each(|offset| append_offset(&mut held, *offset));
        Consume { held, ..self.consume.clone() }
    }
}

// === impl Consumers ===

impl Consumers {
    /// Everything that is to be said over a new link.
    pub(super) fn say_again(&self) -> Vec<Request> {
        let all = self.all.borrow();
        let mut requests: Vec<_> = all.values().map(|c| Request::Consume(c.again())).collect();
        requests.extend(self.saying.borrow().values().cloned().map(Request::Settle));
        for (token, consumer) in all.iter() {
            let held = u32::try_from(consumer.held.len()).unwrap_or(u32::MAX);
            let count = consumer.credit.saturating_sub(held);
            requests.push(Request::Credit { token: *token, count });
        }
        requests
    }

    /// The epoch has ended, and with it all of them.
    pub(super) fn clear(&self) {
        self.all.take();
        self.saying.take();
        self.ready.take();
    }

    /// What queues to be said.
    pub(super) fn take_requests(&self, fresh_id: &mut dyn FnMut() -> u64) -> Vec<Request> {
        let ready = self.ready.take();
        let mut all = self.all.borrow_mut();
        let mut requests = Vec::new();
        for token in ready {
            let Some(consumer) = all.get_mut(&token) else { continue };
            let verdicts = std::mem::take(&mut consumer.verdicts);
            let count: u32 = verdicts.iter().map(|v| v.count).sum();
            let settle = Settle { token, id: fresh_id(), verdicts };
            self.saying.borrow_mut().insert(settle.id, settle.clone());
            requests.push(Request::Settle(settle));
            requests.push(Request::Credit { token, count });
        }
        requests
    }

    pub(super) fn began(&self, token: u64, error: Option<ErrorCode>) {
        let began = self.all.borrow_mut().get_mut(&token).and_then(|c| c.began.take());
        match (began, error) {
            (Some(began), None) => drop(began.send(Ok(()))),
            (Some(began), Some(code)) => {
                self.all.borrow_mut().remove(&token);
                let _ = began.send(Err(code));
            }
            // It was there before the link was lost, and is not any more.
            (None, Some(_)) => self.ended(token),
            (None, None) => {}
        }
    }

    pub(super) fn ended(&self, token: u64) {
        let gone = self.all.borrow_mut().remove(&token);
        if let Some(consumer) = gone {
            consumer.receiver.consumer_ended(token);
        }
    }

    pub(super) fn settled(&self, settled: &Settled) {
        let said = self.saying.borrow_mut().remove(&settled.id);
        let receiver = self.all.borrow().get(&settled.token).map(|c| c.receiver.clone());
        let (Some(said), Some(receiver)) = (said, receiver) else { return };
        match settled.error {
            None => receiver.settled(settled.token, &settled.refused),
            Some(_) => {
                let all: Vec<_> = said.verdicts.iter().map(|v| (v.first, v.count)).collect();
                receiver.settled(settled.token, &all);
            }
        }
    }

    /// Hands messages to their connections; returns what they weigh.
    pub(super) fn deliver(&self, deliveries: &[QueueDelivery]) -> u32 {
        let mut bytes = 0u32;
        for delivery in deliveries {
            bytes = bytes.saturating_add(delivery_bytes(&delivery.command));
            let mut all = self.all.borrow_mut();
            let Some(consumer) = all.get_mut(&delivery.token) else { continue };
            // What is held comes again over no link.
            if !consumer.held.insert(delivery.offset) {
                continue;
            }
            let receiver = consumer.receiver.clone();
            drop(all);
            receiver.leased(delivery);
        }
        bytes
    }
}

// === impl Backend ===

impl Backend {
    /// Finds a work queue of a vhost, or makes it as `arguments` say when it does not exist; and a group of it,
    /// which begins with the oldest message when it is new, or at `start`.
    ///
    /// # Errors
    /// Names that are none, or limits.
    pub async fn find_queue(
        &self,
        shard: u32,
        (vhost, name): (&str, &str),
        arguments: Arguments<'_>,
        (group, start): (Option<&str>, Start),
    ) -> Result<QueueGroup, ErrorCode> {
        let mut queue = 0;
        for passive in [true, false] {
            let declare = QueueCommand::Declare { vhost, name, arguments, passive };
            match self.call(shard, &Command::Queue(declare), &[]).await {
                Outcome::Declared { queue: found, .. } => {
                    queue = found;
                    break;
                }
                Outcome::Error { code: ErrorCode::NotFound, .. } if passive => {}
                Outcome::Error { code, .. } => return Err(code),
                _ => return Err(ErrorCode::Unavailable),
            }
        }
        // The group `default` of a work queue was made with it.
        let Some(name) = group else { return Ok(QueueGroup { shard, queue, group: queue }) };
        let mut sharing = Sharing::Shared;
        loop {
            let create = QueueCommand::GroupCreate { queue, name, start, sharing };
            match self.call(shard, &Command::Queue(create), &[]).await {
                Outcome::Group { group, .. } => return Ok(QueueGroup { shard, queue, group }),
                // It shares in another way: that is its own affair.
                Outcome::Error { code: ErrorCode::AlreadyExists, detail }
                    if detail != sharing as u64 =>
                {
                    sharing = Sharing::from_number(detail).map_err(|_| ErrorCode::Unsupported)?;
                }
                Outcome::Error { code, .. } => return Err(code),
                _ => return Err(ErrorCode::Unavailable),
            }
        }
    }

    /// Joins a group and begins to consume as `token`, with `credit` messages at most in the hands of the connection.
    ///
    /// # Errors
    /// Queue or group are gone, or the group is exclusive and taken.
    pub async fn consume(
        &self,
        (token, at): (u64, QueueGroup),
        (member, stays): (u64, Stays),
        (credit, lease_ms): (u32, u32),
        receiver: Rc<dyn QueueReceiver>,
    ) -> Result<(), ErrorCode> {
        let QueueGroup { shard, queue, group } = at;
        let consumer = if member == 0 { token } else { member };
        let join = QueueCommand::GroupJoin { queue, group, consumer, priority: 0, stays };
        let joined = match self.call(shard, &Command::Queue(join), &[]).await {
            Outcome::Joined { token, .. } => token,
            Outcome::Error { code, .. } => return Err(code),
            _ => return Err(ErrorCode::Unavailable),
        };
        // A membership that outlives the consumer is not the consumer's to end.
        let leaves = stays == Stays::WithGateway;
        let member = if leaves { joined } else { 0 };
        let (began, beginning) = oneshot::channel();
        let held = Vec::new();
        let consume = Consume { token, shard, queue, group, member, lease_ms, held };
        let attached = Attached {
            receiver,
            consume: consume.clone(),
            credit,
            held: BTreeSet::new(),
            verdicts: Vec::new(),
            began: Some(began),
        };
        self.consumers.all.borrow_mut().insert(token, attached);
        self.send(Request::Consume(consume));
        self.credit(token, credit);
        beginning.await.unwrap_or(Err(ErrorCode::Fenced))
    }

    /// What becomes of a message that consumer `token` holds; false when it does not.
    pub fn settle_leased(&self, token: u64, verdict: Verdict, offset: u64) -> bool {
        let mut all = self.consumers.all.borrow_mut();
        let Some(consumer) = all.get_mut(&token) else { return false };
        if !consumer.held.remove(&offset) {
            return false;
        }
        match consumer.verdicts.last_mut() {
            Some(last)
                if last.verdict == verdict && last.first + u64::from(last.count) == offset =>
            {
                last.count += 1;
            }
            _ => consumer.verdicts.push(Settlement { verdict, first: offset, count: 1 }),
        }
        self.consumers.ready.borrow_mut().insert(token);
        self.unsent.set(true);
        true
    }

    /// Ends the membership of a session in a group.
    pub async fn leave_for_good(&self, at: QueueGroup, session: u64, shard: u8) {
        let QueueGroup { queue, group, .. } = at;
        // A session joins once: the same again tells its token.
        let (consumer, priority, stays) = (session, 0, Stays::WithSession(shard));
        let join = QueueCommand::GroupJoin { queue, group, consumer, priority, stays };
        let joined = self.call(at.shard, &Command::Queue(join), &[]).await;
        if let Outcome::Joined { token, .. } = joined {
            let leave = QueueCommand::GroupLeave { queue, group, token };
            self.call(at.shard, &Command::Queue(leave), &[]).await;
        }
    }

    /// A consumer is none any more: what it holds is for others.
    pub fn stop_consuming(&self, token: u64) {
        let gone = self.consumers.all.borrow_mut().remove(&token);
        if let Some(consumer) = gone {
            if !consumer.verdicts.is_empty() {
                let verdicts = consumer.verdicts;
                self.send(Request::Settle(Settle { token, id: self.fresh_id(), verdicts }));
            }
            self.send(Request::Close { token });
        }
    }
}
