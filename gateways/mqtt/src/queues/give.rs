//! QoS 2 of shared subscriptions (R10): a message is given by an entry before it is sent. To a persistent session it
//! comes by its list then, and waits there for it (MQTT-4.8.2-4); to a transient one it goes live, and is gone with it.
//! Nobody else gets it afterwards (MQTT-4.8.2-5).

use fluxmq_client::contract::QueueDelivery;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{QueueCommand, Recipient, Verdict};
use fluxmq_commands::command::{self, Command};
use fluxmq_proto::message::split;
use gateway_core::counters::add;
use mqtt_codec::QoS;
use mqtt_codec::encode::PublishFrame;

use super::{Leased, Subscription};
use crate::client::Client;
use crate::properties;

// === impl Client ===

impl Client {
    /// Has a leased message made this client's for good.
    pub(super) fn give(&self, leased: &mut Leased, delivery: &QueueDelivery) {
        let (token, offset) = (delivery.token, delivery.offset);
        let Some(of) = leased.subscriptions.iter().find(|s| s.token == token) else { return };
        let (consumer, identifier) = (of.consumer.clone(), of.identifier);
        let to = self.persistent().map(|(durable, _)| Recipient {
            shard: durable.shard,
            session: durable.session,
            identifier,
        });
        let (at, backend) = (consumer.at, consumer.backend.clone());
        leased.giving.insert((token, offset));
        let (client, delivery) = (self.this(), delivery.clone());
        // The consumer lasts until it is answered: a lease that ended before would give the message to another.
        let waiter = Box::new(move |outcome: &Outcome| {
            let here = to.is_none().then_some((&delivery, identifier));
            client.given((token, offset), here, outcome);
            drop(consumer);
        });
        let give = QueueCommand::Give { queue: at.queue, group: at.group, offset, to };
        backend.submit(at.shard, &Command::Queue(give), &[], Some(waiter));
    }

    /// It is in the log who has the message. `here`: this connection is to send it.
    fn given(
        &self,
        (token, offset): (u64, u64),
        here: Option<(&QueueDelivery, u32)>,
        outcome: &Outcome,
    ) {
        if let Some(leased) = self.leased.borrow_mut().as_deref_mut() {
            leased.giving.remove(&(token, offset));
        }
        let Some(backend) = self.worker.backend() else { return };
        let verdict = match outcome {
            Outcome::Number(_) => Verdict::Ack,
            _ => Verdict::Release,
        };
        backend.settle_leased(token, verdict, offset);
        if let (Outcome::Number(1), Some((delivery, identifier))) = (outcome, here)
            && self.closing().is_none()
        {
            self.send_given(delivery, identifier);
        }
        self.room_in_window();
    }

    fn send_given(&self, delivery: &QueueDelivery, identifier: u32) -> Option<()> {
        let (command, message) = command::decode(&delivery.command).ok()?;
        let Command::Publish(publish) = command else { return None };
        let (head, payload) = split(message)?;
        let mut properties = Vec::new();
        if self.is_v5() {
            properties::from_head(head, &mut properties);
            let identifiers = if identifier == 0 { &[][..] } else { &[identifier] };
            properties::put_identifiers(identifiers, &mut properties);
        }
        if let Some(expiry_ms) = publish.expiry_ms
            && !self.put_expiry(expiry_ms, &mut properties)
        {
            return None;
        }
        let frame = PublishFrame {
            dup: false,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: publish.topic,
            packet_id: 0,
            properties: &properties,
            payload,
        };
        add(&self.worker.counters.delivered_durable, 1);
        if self.send(frame, publish.expiry_ms) && self.queue() {
            self.worker.wake_later(&self.subscriber());
        }
        Some(())
    }

    /// Takes a subscription out; what was given by it and is not answered keeps its consumer.
    pub(super) fn take_subscription(
        &self,
        which: impl Fn(&Subscription) -> bool,
    ) -> Option<Subscription> {
        let mut leased = self.leased.borrow_mut();
        let leased = leased.as_deref_mut()?;
        let at = leased.subscriptions.iter().position(which)?;
        let gone = leased.subscriptions.remove(at);
        leased.sent.retain(|_, (token, _)| *token != gone.token);
        leased.waiting.retain(|d| d.token != gone.token);
        Some(gone)
    }
}
