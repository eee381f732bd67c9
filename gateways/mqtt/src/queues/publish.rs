//! Publishes to queues, and what is said of a message by name.

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{Enqueue, QueueCommand, Start, Verdict};
use fluxmq_names::ErrorCode;
use fluxmq_proto::message::EMPTY_HEAD;
use gateway_core::message::LiveMessage;
use gateway_core::worker::now_ms;
use mqtt_codec::ReasonCode;
use tokio::task::spawn_local;

use super::asked::Asked;
use super::{Address, Source};
use crate::client::{Client, Close};
use crate::durable_publish::{Numbered, refusal};

// === impl Client ===

impl Client {
    /// A publish to a topic below `$queue/`; one that names no queue ends nothing and is refused.
    pub(crate) fn publish_by_name(
        &self,
        message: &LiveMessage<'_>,
        offset: Option<u64>,
        ticket: Option<u64>,
    ) -> Result<(), Close> {
        match Address::of(message.topic) {
            Some(address) => self.publish_to_queue(address, message, offset, ticket, None),
            None => match ticket {
                Some(ticket) => self.answer_ack(ticket, ReasonCode::TOPIC_NAME_INVALID),
                None => return Err(Close::ByServer(ReasonCode::TOPIC_NAME_INVALID)),
            },
        }
        Ok(())
    }

    /// A publish to `$queue/…`: stored in the queue, which is made when it does not exist, or what is said of a message.
    /// `ticket` is answered.
    pub(crate) fn publish_to_queue(
        &self,
        address: Address<'_>,
        message: &LiveMessage<'_>,
        offset: Option<u64>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) {
        let Some(asked) = Asked::read(message.head, now_ms()) else {
            // There is no reason that says it better.
            let reason = ReasonCode::IMPLEMENTATION_SPECIFIC;
            return ticket.into_iter().for_each(|ticket| self.answer_ack(ticket, reason));
        };
        if let Some(verdict) = address.verdict() {
            let verdict = asked.verdict(verdict);
            let held =
                offset.is_some_and(|offset| self.settle_by_name(address.name, verdict, offset));
            let reason = if held { ReasonCode::SUCCESS } else { ReasonCode::NOT_AUTHORIZED };
            ticket.into_iter().for_each(|ticket| self.answer_ack(ticket, reason));
            return;
        }
        let known = self.worker.queues.borrow().get(address.name).copied();
        let Some(at) = known else {
            return self.find_then_publish(address, message, ticket, numbered);
        };
        self.enqueue(at, address, message, ticket, numbered);
    }

    fn enqueue(
        &self,
        (shard, queue): (u32, u64),
        address: Address<'_>,
        message: &LiveMessage<'_>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) {
        let Some(backend) = self.worker.backend() else { return };
        let queues = queue.to_le_bytes();
        let asked = Asked::read(message.head, now_ms()).unwrap_or_default();
        let enqueue = Enqueue {
            queues: &queues,
            expiry_ms: message.expiry_ms,
            key: numbered.map(Numbered::key),
            lowest_open: numbered.map(|n| n.lowest_open),
            options: asked.options(address.rest),
            dead: None,
        };
        let head = if message.head.is_empty() { &EMPTY_HEAD[..] } else { message.head };
        let command = Command::Queue(QueueCommand::Enqueue(enqueue));
        let client = self.this();
        self.expect_answer();
        let name: Box<str> = address.name.into();
        let waiter = Box::new(move |outcome: &Outcome| {
            if matches!(outcome, Outcome::Error { code: ErrorCode::NotFound, .. }) {
                // It was deleted: the next publish finds or makes another.
                client.worker.queues.borrow_mut().remove(&name);
            }
            if let Some(ticket) = ticket {
                let reason = match outcome {
                    Outcome::Error { code, .. } => refusal(*code),
                    _ => ReasonCode::SUCCESS,
                };
                client.answer_ack(ticket, reason);
            }
            client.note_answer();
        });
        backend.submit(shard, &command, &[head, message.payload], Some(waiter));
    }

    /// The queue is not known yet: nothing that comes behind overtakes this.
    fn find_then_publish(
        &self,
        address: Address<'_>,
        message: &LiveMessage<'_>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) {
        let client = self.this();
        let (topic, head) = (message.topic.to_owned(), message.head.to_vec());
        let (qos, expiry_ms, payload) = (message.qos, message.expiry_ms, message.payload.to_vec());
        let name = address.name.to_owned();
        self.busy.set(true);
        self.expect_answer();
        spawn_local(async move {
            match client.find_by_name(&name, (None, Start::First)).await {
                Ok(at) => {
                    let at = (at.shard, at.queue);
                    client.worker.remember_queue(&name, at);
                    let (head, payload) = (&head[..], &payload[..]);
                    let message =
                        LiveMessage { topic: &topic, qos, retain: false, expiry_ms, head, payload };
                    if let Some(address) = Address::of(&topic) {
                        client.enqueue(at, address, &message, ticket, numbered);
                    }
                }
                Err(code) => {
                    ticket.into_iter().for_each(|ticket| client.answer_ack(ticket, refusal(code)));
                }
            }
            client.note_answer();
            client.go_on();
            client.worker.end_batch();
        });
    }

    /// What is said by name of a message that this connection holds.
    fn settle_by_name(&self, name: &str, verdict: Verdict, offset: u64) -> bool {
        let Some(backend) = self.worker.backend() else { return false };
        let tokens: Vec<u64> = {
            let leased = self.leased.borrow();
            let of = leased
                .iter()
                .flat_map(|leased| &leased.subscriptions)
                .filter(|s| matches!(&s.source, Source::Queue { name: of, .. } if **of == *name));
            of.map(|s| s.token).collect()
        };
        tokens.into_iter().any(|token| backend.settle_leased(token, verdict, offset))
    }
}
