//! Publishes that must be stored before they are acknowledged: to persistent sessions, and retained ones
//! (design R5, G2).

use std::rc::Rc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Command, Key, Publish};
use fluxmq_names::{ErrorCode, Kind, place};
use fluxmq_proto::message::EMPTY_HEAD;
use gateway_core::backend::{Backend, RetainedPublish, Waiter};
use gateway_core::counters::add;
use gateway_core::message::LiveMessage;
use gateway_core::route_table::{Destinations, OtherGateway};
use gateway_core::shared_group::Chosen;
use mqtt_codec::{PacketType, ReasonCode};

use crate::ack_queue::AckKind;
use crate::client::{Client, Close};
use crate::inbound::NAME_BYTES_MAX;
use crate::queues::Address;

/// The publish number of a QoS 2 packet id of a persistent session.
#[derive(Clone, Copy)]
pub(crate) struct Numbered {
    pub(crate) shard: u32,
    pub(crate) session: u64,
    pub(crate) number: u64,
    pub(crate) lowest_open: u64,
}

// === impl Numbered ===

impl Numbered {
    /// Under which every taker takes the message once (G2).
    pub(crate) fn key(self) -> Key {
        Key { shard: self.shard, id: self.session, n: self.number }
    }
}

/// A message that waits for its publish number.
pub(crate) struct Waiting {
    pub(crate) topic: Box<str>,
    pub(crate) retain: bool,
    pub(crate) expiry_ms: Option<u64>,
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Box<[u8]>,
}

// === impl Client ===

impl Client {
    /// Submits `message` to every shard that must store it; `ticket` is answered by each. Returns how
    /// many those are.
    pub(crate) fn publish_durable(
        &self,
        to: &Destinations,
        message: &LiveMessage<'_>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) -> u16 {
        let Some(backend) = self.worker.backend() else { return 0 };
        let home = place(Kind::Retained, "/", message.topic, backend.shards()).0;
        let mut shards = if message.qos > 0 { to.shards.clone() } else { to.every.clone() };
        if message.retain && !shards.contains(&home) {
            shards.push(home);
        }
        let publisher = self.persistent().map(|(d, _)| (d.shard, d.session));
        let head = if message.head.is_empty() { &EMPTY_HEAD[..] } else { message.head };
        let under_way = message.retain.then(|| self.begin_retained(to, message, ticket, numbered));
        for shard in &shards {
            let publish = Publish {
                qos: message.qos,
                retain: message.retain,
                store: message.retain && *shard == home,
                empty: message.payload.is_empty(),
                vhost: "/",
                topic: message.topic,
                expiry_ms: message.expiry_ms,
                key: numbered.map(Numbered::key),
                lowest_open: numbered.map(|n| n.lowest_open),
                publisher,
                ..Publish::default()
            };
            let mut waiter = ticket.map(|ticket| self.answer_waiter(ticket));
            if let Some(number) = under_way.filter(|_| *shard == home) {
                waiter = Some(ends_retained(backend.clone(), number, waiter));
            }
            backend.submit(*shard, &Command::Publish(publish), &[head, message.payload], waiter);
        }
        shards.len() as u16
    }

    /// Notes a retained publish for those who subscribe before its shard has it (R9); its number.
    fn begin_retained(
        &self,
        to: &Destinations,
        message: &LiveMessage<'_>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) -> u64 {
        let Some(backend) = self.worker.backend() else { return 0 };
        let head = if message.head.is_empty() { &EMPTY_HEAD[..] } else { message.head };
        let mut command = Vec::new();
        Command::Publish(relayed(message, numbered)).encode(head, &mut command);
        command.extend_from_slice(message.payload);
        let client = self.this();
        let gets = |g: &&OtherGateway| message.qos == 0 || !g.zero;
        backend.begin_retained(RetainedPublish {
            vhost: "/".into(),
            topic: message.topic.into(),
            qos: message.qos,
            command: command.into(),
            gateways: to.gateways.iter().filter(gets).map(|g| g.epoch).collect(),
            waiter: Box::new(move || match ticket {
                Some(ticket) => client.further_waiter(ticket),
                None => Box::new(|_| {}),
            }),
        })
    }

    /// A further taker of the publish behind `ticket`, which is not answered yet.
    fn further_waiter(&self, ticket: u64) -> Waiter {
        if let Some(inbound) = self.inbound.borrow_mut().as_deref_mut() {
            inbound.acks.expect(ticket, 1);
        }
        self.answer_waiter(ticket)
    }

    /// Sends `message` to every other gateway with subscribers that want it, or that is to serve a shared subscription;
    /// `ticket` is answered by each. Returns how many those are (R6).
    pub(crate) fn publish_relayed(
        &self,
        to: &Destinations,
        chosen: &Chosen,
        message: &LiveMessage<'_>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) -> u16 {
        let serving = chosen.gateways();
        if to.gateways.is_empty() && serving.is_empty() {
            return 0;
        }
        let Some(backend) = self.worker.backend() else { return 0 };
        let counters = &self.worker.counters;
        if message.topic.len() > NAME_BYTES_MAX {
            // QoS 0: what is more has been refused.
            add(&counters.relay_dropped, 1);
            return 0;
        }
        let head = if message.head.is_empty() { &EMPTY_HEAD[..] } else { message.head };
        let mut takers = 0;
        let wants = |g: &&OtherGateway| {
            (message.qos == 0 || !g.zero) && serving.binary_search(&g.epoch).is_err()
        };
        let others = to.gateways.iter().filter(wants).map(|g| g.epoch);
        for epoch in others.chain(serving.iter().copied()) {
            let groups = chosen.groups_of(epoch);
            let publish = Publish { groups: &groups, ..relayed(message, numbered) };
            let waiter = ticket.map(|ticket| self.answer_waiter(ticket));
            takers += u16::from(waiter.is_some());
            let command = Command::Publish(publish);
            let sent = backend.relay(epoch, &command, &[head, message.payload], waiter);
            add(if sent { &counters.relayed } else { &counters.relay_dropped }, 1);
        }
        takers
    }

    /// Takes an answer for the publish behind `ticket`.
    fn answer_waiter(&self, ticket: u64) -> Waiter {
        let client = self.this();
        self.expect_answer();
        Box::new(move |outcome| {
            client.publish_answered(ticket, outcome);
            client.note_answer();
        })
    }

    /// A shard or gateway answered for the publish behind `ticket`.
    fn publish_answered(&self, ticket: u64, outcome: &Outcome) {
        let reason = match outcome {
            Outcome::Published { matched: 0 } => ReasonCode::NO_MATCHING_SUBSCRIBERS,
            Outcome::Error { code, .. } => refusal(*code),
            _ => ReasonCode::SUCCESS,
        };
        self.answer_ack(ticket, reason);
    }

    /// One answer for `ticket`; writes what may go out by it.
    pub(crate) fn answer_ack(&self, ticket: u64, reason: ReasonCode) {
        let mut inbound = self.inbound.borrow_mut();
        let Some(inbound) = inbound.as_deref_mut() else { return };
        inbound.acks.answer(ticket, reason.0);
        while let Some(ack) = inbound.acks.pop_ready() {
            let reason = ReasonCode(ack.reason);
            if reason.is_failure() && ack.kind == AckKind::Pubrec {
                inbound.forget_id(ack.packet_id);
            }
            if reason.is_failure() && !self.is_v5() {
                // 3.1.1 has no other way to say that a message was not taken.
                self.close(Close::ByServer(reason));
                return;
            }
            self.write_ack(ack.kind.packet_type(), ack.packet_id, reason);
        }
        if self.queue() {
            self.worker.wake_later(&self.subscriber());
        }
    }

    /// QoS 2 of a persistent session: the packet id gets a publish number first, under which every
    /// taker takes the message once (G2).
    pub(crate) fn number_publish(&self, packet_id: u16, ticket: u64, waiting: Waiting) {
        let Some((durable, backend)) = self.persistent() else { return };
        let (session, epoch, shard) = (durable.session, durable.epoch, durable.shard);
        let client = self.this();
        self.expect_answer();
        let waiter = Box::new(move |outcome: &Outcome| {
            match outcome {
                Outcome::Opened { number, fresh, lowest_open } => {
                    let (number, lowest_open) = (*number, *lowest_open);
                    let numbered = Numbered { shard, session, number, lowest_open };
                    client.publish_numbered(ticket, &waiting, numbered, *fresh);
                }
                Outcome::Error { code, .. } => client.answer_ack(ticket, refusal(*code)),
                _ => client.answer_ack(ticket, ReasonCode::UNSPECIFIED),
            }
            client.note_answer();
        });
        backend.submit(shard, &Command::Qos2Open { session, epoch, packet_id }, &[], Some(waiter));
    }

    fn publish_numbered(&self, ticket: u64, waiting: &Waiting, numbered: Numbered, fresh: bool) {
        if let Some(address) = Address::of(&waiting.topic) {
            let (head, payload, expiry_ms) =
                (&waiting.head[..], &waiting.payload[..], waiting.expiry_ms);
            let topic = &*waiting.topic;
            let message = LiveMessage { topic, qos: 2, retain: false, expiry_ms, head, payload };
            return self.publish_to_queue(address, &message, None, Some(ticket), Some(numbered));
        }
        let to = self.table.borrow().resolve(&waiting.topic);
        let message = LiveMessage {
            topic: &waiting.topic,
            qos: 2,
            retain: waiting.retain,
            expiry_ms: waiting.expiry_ms,
            head: &waiting.head,
            payload: &waiting.payload,
        };
        let mut takers = self.publish_durable(&to, &message, Some(ticket), Some(numbered));
        let chosen = Chosen::in_turn(&to, message.qos);
        takers += self.publish_relayed(&to, &chosen, &message, Some(ticket), Some(numbered));
        if let Some(inbound) = self.inbound.borrow_mut().as_deref_mut() {
            inbound.acks.expect(ticket, takers);
        }
        // Live subscribers of this gateway got a repeat the first time, if it came through this gateway or
        // was relayed to it.
        let others = self.worker.backend().is_some_and(|backend| backend.has_others());
        let publish = || Publish {
            key: Some(numbered.key()),
            lowest_open: Some(numbered.lowest_open),
            ..Publish::default()
        };
        let first = if others { self.worker.is_first(&publish()) } else { fresh };
        if first && to.has_live() {
            self.worker.deliver_live(&to, &message, Some(&self.subscriber()), &chosen);
        }
        let reason =
            if to.is_empty() { ReasonCode::NO_MATCHING_SUBSCRIBERS } else { ReasonCode::SUCCESS };
        self.answer_ack(ticket, reason);
    }

    /// PUBREL of a persistent session: PUBCOMP goes out when the id is closed in the log.
    pub(crate) fn close_id(&self, packet_id: u16) {
        let Some((durable, backend)) = self.persistent() else { return };
        let close =
            Command::Qos2Close { session: durable.session, epoch: durable.epoch, packet_id };
        let client = self.this();
        let waiter = Box::new(move |outcome: &Outcome| {
            let reason = match outcome {
                Outcome::Done => ReasonCode::SUCCESS,
                Outcome::Error { code: ErrorCode::NotFound, .. } => {
                    ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
                }
                _ => return client.close(Close::ByServer(ReasonCode::UNSPECIFIED)),
            };
            client.write_ack(PacketType::Pubcomp, packet_id, reason);
            client.wake_task();
        });
        backend.submit(durable.shard, &close, &[], Some(waiter));
    }
}

/// What another gateway is told of a message.
fn relayed<'a>(message: &LiveMessage<'a>, numbered: Option<Numbered>) -> Publish<'a> {
    Publish {
        qos: message.qos,
        retain: message.retain,
        vhost: "/",
        topic: message.topic,
        expiry_ms: message.expiry_ms,
        key: numbered.map(Numbered::key),
        lowest_open: numbered.map(|n| n.lowest_open),
        ..Publish::default()
    }
}

/// A waiter that also ends the retained publish `number`.
fn ends_retained(backend: Rc<Backend>, number: u64, waiter: Option<Waiter>) -> Waiter {
    Box::new(move |outcome| {
        backend.end_retained(number);
        waiter.into_iter().for_each(|waiter| waiter(outcome));
    })
}

/// A refusal in MQTT 5's terms.
pub(crate) fn refusal(code: ErrorCode) -> ReasonCode {
    match code {
        ErrorCode::LimitExceeded | ErrorCode::DiskFull => ReasonCode::QUOTA_EXCEEDED,
        ErrorCode::TooLarge => ReasonCode::PACKET_TOO_LARGE,
        ErrorCode::Forbidden => ReasonCode::NOT_AUTHORIZED,
        _ => ReasonCode::UNSPECIFIED,
    }
}
