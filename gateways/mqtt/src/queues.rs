//! Queues over MQTT: `$queue/<name>[/<key>]`, and shared subscriptions of QoS ≥ 1, which are members of a hidden
//! queue (R10; `docs/queues.md`).
//!
//! What comes from a queue is leased to the connection under a packet id from 32768 on, and PUBACK settles it. When
//! the connection ends, what it holds goes to another member. What is shared with QoS 2 is given to it for good first.

mod address;
mod asked;
mod consume;
mod give;
mod publish;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use fluxmq_client::contract::QueueDelivery;
use fluxmq_commands::command::queue::{DeadLetter, DeadReason, QueueCommand, Verdict};
use fluxmq_commands::command::{self, Command};
use fluxmq_proto::message::split;
use gateway_core::backend::{Backend, QueueGroup, QueueReceiver};
use gateway_core::counters::add;
use gateway_core::worker::now_ms;
use mqtt_codec::encode::PublishFrame;
use mqtt_codec::{QoS, ReasonCode};

use crate::client::Client;
use crate::properties;

pub(crate) use address::{Address, PREFIX, Source, Wishes, offset_of, wishes_of};

/// Packet ids from here on are for leased messages (G3).
pub(crate) const LEASED_FROM: u16 = 32_768;

/// A consumer of the backend: it is one as long as somebody has this.
struct Consumer {
    backend: Rc<Backend>,
    token: u64,
    at: QueueGroup,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.backend.stop_consuming(self.token);
    }
}

/// A filter that consumes a queue.
struct Subscription {
    filter: Rc<str>,
    source: Source,
    token: u64,
    consumer: Rc<Consumer>,
    qos: QoS,
    identifier: u32,
    manual: bool,
}

// === impl Subscription ===

impl Subscription {
    fn identifiers(&self) -> &[u32] {
        if self.identifier == 0 { &[] } else { std::slice::from_ref(&self.identifier) }
    }
}

/// The queues of a connection; made at the first.
#[derive(Default)]
pub(crate) struct Leased {
    subscriptions: Vec<Subscription>,
    /// What waits for PUBACK, by packet id: consumer and offset.
    sent: BTreeMap<u16, (u64, u64)>,
    /// What is to be this client's for good, as soon as that is in the log: consumer and offset.
    giving: BTreeSet<(u64, u64)>,
    /// What has no room in the window.
    waiting: VecDeque<QueueDelivery>,
    next_id: u16,
}

// === impl Leased ===

impl Leased {
    fn in_flight(&self) -> usize {
        self.sent.len() + self.giving.len()
    }

    fn take_id(&mut self) -> u16 {
        loop {
            let id = LEASED_FROM | self.next_id;
            self.next_id = self.next_id.wrapping_add(1) & 0x7FFF;
            if !self.sent.contains_key(&id) {
                return id;
            }
        }
    }
}

impl QueueReceiver for Client {
    fn leased(&self, delivery: &QueueDelivery) {
        if self.closing().is_some() {
            return;
        }
        self.leased.borrow_mut().get_or_insert_default().waiting.push_back(delivery.clone());
        self.pump_leased();
    }

    fn consumer_ended(&self, token: u64) {
        // The queue is gone: what was subscribed to is not any more, and MQTT has no word for that.
        drop(self.take_subscription(|s| s.token == token));
    }

    fn settled(&self, _: u64, refused: &[(u64, u32)]) {
        if !refused.is_empty() {
            tracing::debug!(client_id = %self.terms.client_id, ?refused, "settled too late");
        }
    }
}

// === impl Client ===

impl Client {
    /// Messages of queues that are on their way to the client.
    pub(crate) fn leased_in_flight(&self) -> usize {
        self.leased.borrow().as_deref().map_or(0, Leased::in_flight)
    }

    /// Sends what waits, as far as the window has room.
    pub(crate) fn pump_leased(&self) {
        loop {
            let mut leased = self.leased.borrow_mut();
            let Some(leased) = leased.as_deref_mut() else { return };
            let open = self.outbound.borrow().as_deref().map_or(0, |o| o.window.open());
            if self.busy.get() || open + leased.in_flight() >= usize::from(self.terms.window) {
                return;
            }
            let Some(delivery) = leased.waiting.pop_front() else { return };
            // Who consumes no more gives it back; what cannot be sent to this client at all is rejected.
            let refused = match leased.subscriptions.iter().any(|s| s.token == delivery.token) {
                false => Some(Verdict::Release),
                true => self.send_leased(leased, &delivery).is_none().then_some(Verdict::Reject),
            };
            if let (Some(verdict), Some(backend)) = (refused, self.worker.backend()) {
                backend.settle_leased(delivery.token, verdict, delivery.offset);
            }
        }
    }

    fn send_leased(&self, leased: &mut Leased, delivery: &QueueDelivery) -> Option<()> {
        let (token, offset) = (delivery.token, delivery.offset);
        let of = leased.subscriptions.iter().find(|s| s.token == token)?;
        let (command, message) = command::decode(&delivery.command).ok()?;
        let (published, key, expiry_ms) = match &command {
            Command::Publish(p) => (Some(p.topic), p.options.key, p.expiry_ms),
            Command::Queue(QueueCommand::Enqueue(e)) => (None, e.options.key, e.expiry_ms),
            _ => return None,
        };
        let by_name;
        let topic = match (&of.source, published) {
            (Source::Shared { .. }, Some(topic)) => topic,
            (Source::Queue { name, with_path, .. }, published) => {
                let path = published.or(std::str::from_utf8(key).ok()).unwrap_or_default();
                by_name = match (with_path, path) {
                    (true, path) if !path.is_empty() => format!("$queue/{name}/{path}"),
                    _ => format!("$queue/{name}"),
                };
                &by_name
            }
            (Source::Shared { .. }, None) => return None,
        };
        if published.is_some_and(|topic| !self.terms.access.may_receive(topic)) {
            return None;
        }
        if of.qos == QoS::ExactlyOnce && matches!(command, Command::Publish(p) if p.qos == 2) {
            self.give(leased, delivery);
            return Some(());
        }
        let (head, payload) = split(message)?;
        let mut out = Vec::new();
        if self.is_v5() {
            properties::from_head(head, &mut out);
            properties::put_identifiers(of.identifiers(), &mut out);
            if let Some(ms) = expiry_ms {
                properties::put_expiry(ms.saturating_sub(now_ms()), &mut out);
            }
            if matches!(of.source, Source::Queue { .. }) {
                properties::put_user("offset", &offset.to_string(), &mut out);
                properties::put_user("delivery-count", &delivery.count.to_string(), &mut out);
                delivery.dead.iter().for_each(|dead| put_death(dead, &mut out));
            }
        }
        let (qos, manual) = (of.qos.min(QoS::AtLeastOnce), of.manual);
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { leased.take_id() };
        let frame = PublishFrame {
            dup: qos != QoS::AtMostOnce && delivery.redelivered,
            qos,
            retain: false,
            topic,
            packet_id,
            properties: &out,
            payload,
        };
        if frame.packet_len(self.terms.version) > self.terms.packet_bytes_max as usize {
            add(&self.worker.counters.dropped_too_large, 1);
            return None;
        }
        frame.write(self.out.borrow_mut().writer(&self.worker), self.terms.version);
        add(&self.worker.counters.delivered_durable, 1);
        if qos != QoS::AtMostOnce {
            leased.sent.insert(packet_id, (token, offset));
        } else if !manual && let Some(backend) = self.worker.backend() {
            backend.settle_leased(token, Verdict::Ack, offset);
        }
        if self.queue() {
            self.worker.wake_later(&self.subscriber());
        }
        Some(())
    }

    /// PUBACK for a leased message. A refusal rejects what came from a queue, and settles what was shared (R10).
    pub(crate) fn puback_leased(&self, packet_id: u16, reason: ReasonCode) {
        let mut all = self.leased.borrow_mut();
        let Some(leased) = all.as_deref_mut() else { return };
        let Some((token, offset)) = leased.sent.remove(&packet_id) else { return };
        let of = leased.subscriptions.iter().find(|s| s.token == token);
        let manual = of.is_some_and(|s| s.manual);
        let by_name = of.is_some_and(|s| matches!(s.source, Source::Queue { .. }));
        drop(all);
        if !manual && let Some(backend) = self.worker.backend() {
            let verdict =
                if reason.is_failure() && by_name { Verdict::Reject } else { Verdict::Ack };
            backend.settle_leased(token, verdict, offset);
        }
        self.room_in_window();
    }

    /// The window has room again, whatever took it.
    pub(crate) fn room_in_window(&self) {
        if self.leased.borrow().is_some() {
            self.let_go();
            self.pump_leased();
        }
    }
}

/// Why, how often tried and where a message died.
fn put_death(dead: &DeadLetter, out: &mut Vec<u8>) {
    let reason = match dead.reason {
        DeadReason::Rejected => "rejected",
        DeadReason::Expired => "expired",
        DeadReason::Overflow => "overflow",
        DeadReason::DeliveryLimit => "delivery-limit",
    };
    properties::put_user("dead-letter-reason", reason, out);
    properties::put_user("dead-letter-count", &dead.count.to_string(), out);
    // Shard and incarnation, as the API lists it: the queue may be gone, and its name another's.
    properties::put_user("dead-letter-queue", &format!("{}/{}", dead.shard, dead.queue), out);
    properties::put_user("dead-letter-offset", &dead.offset.to_string(), out);
}
