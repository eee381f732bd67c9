//! A connection's session in `logd`: deliveries under credit, settlements, the end (design G1–G3).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use fluxmq_client::contract::{Delivery, Request};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::{self, Command, Settled};
use gateway_core::backend::{Backend, Receiver};
use gateway_core::counters::add;
use gateway_core::worker::now_ms;
use mqtt_codec::encode::PublishFrame;
use mqtt_codec::{PacketType, QoS, ReasonCode};
use tokio::task::spawn_local;

use crate::client::{Client, Close};
use crate::outbound::first_stage;
use crate::properties;
use crate::send_window::{Stage, packet_id};

/// How long a settlement may ride along before it goes by itself (design G3).
const SETTLE_AFTER: std::time::Duration = std::time::Duration::from_millis(20);
/// Ranges that make it go at once.
const RANGES_MAX: usize = 256;

/// What a connection has in `logd`.
pub(crate) struct Durable {
    pub(crate) shard: u32,
    pub(crate) session: u64,
    pub(crate) epoch: u64,
    pub(crate) token: u64,
    /// The session outlives the connection: subscriptions and messages of QoS ≥ 1 are kept. Else only
    /// the will is.
    pub(crate) persistent: bool,
    settled: RefCell<Vec<Settled>>,
    credit: Cell<u32>,
    timer: Cell<bool>,
    /// Numbers below were sent.
    sent_upto: Cell<u64>,
}

// === impl Durable ===

impl Durable {
    pub(crate) fn new(shard: u32, session: u64, epoch: u64, token: u64, persistent: bool) -> Self {
        Self {
            shard,
            session,
            epoch,
            token,
            persistent,
            settled: RefCell::default(),
            credit: Cell::new(0),
            timer: Cell::new(false),
            sent_upto: Cell::new(0),
        }
    }

    /// The numbers settled since the last command, as one.
    fn take_settle(&self) -> Option<Command<'static>> {
        let ranges = std::mem::take(&mut *self.settled.borrow_mut());
        let (session, epoch, sent_upto) = (self.session, self.epoch, self.sent_upto.get());
        (!ranges.is_empty()).then_some(Command::Settle { session, epoch, sent_upto, ranges })
    }
}

impl Receiver for Client {
    fn delivery(&self, delivery: &Delivery) {
        if self.closing().is_some() || self.hold(delivery) {
            return;
        }
        let taken = self.take_delivery(delivery);
        if let Some(durable) = self.durable() {
            durable.sent_upto.set(delivery.number + 1);
        }
        if taken.is_none() {
            // It cannot or must not be sent to this client: it counts as delivered (MQTT-3.1.2-25).
            self.settle_number(delivery.number);
        }
        if self.queue() {
            self.worker.wake_later(&self.subscriber());
        }
    }

    fn taken(&self) {
        self.close(Close::ByServer(ReasonCode::SESSION_TAKEN_OVER));
    }

    fn reopen(&self) {
        let Some((durable, backend)) = self.persistent() else { return };
        // What is settled and not yet credited is part of the room there is.
        durable.credit.set(0);
        let open = self.outbound.borrow_mut().as_deref_mut().map_or(0, |outbound| {
            // It comes again: it was not sent.
            outbound.held.clear();
            outbound.window.open()
        });
        let room = usize::from(self.terms.window).saturating_sub(open);
        let request = Request::Open {
            token: durable.token,
            shard: durable.shard,
            session: durable.session,
            epoch: durable.epoch,
            from: durable.sent_upto.get(),
        };
        backend.open_again(request, u32::try_from(room).unwrap_or(u32::MAX));
    }
}

// === impl Client ===

impl Client {
    /// Holds retained messages while a SUBSCRIBE is under way, so that they come behind its SUBACK; and for the sake
    /// of order what comes behind them. Their credit bounds them.
    fn hold(&self, delivery: &Delivery) -> bool {
        let leased = self.leased_in_flight();
        if !self.busy.get() && leased == 0 {
            return false;
        }
        let mut outbound = self.outbound.borrow_mut();
        let outbound = outbound.get_or_insert_default();
        // What is leased and what comes by the inbox share a window (R10).
        let full = leased > 0 && outbound.window.open() + leased >= usize::from(self.terms.window);
        let held = &mut outbound.held;
        let holds = full || !held.is_empty() || (self.busy.get() && delivery.retain);
        if holds {
            held.push(delivery.clone());
        }
        holds
    }

    /// Sends what was held.
    pub(crate) fn let_go(&self) {
        let held = self.outbound.borrow_mut().as_deref_mut().map(|o| std::mem::take(&mut o.held));
        held.unwrap_or_default().iter().for_each(|delivery| self.delivery(delivery));
    }

    fn take_delivery(&self, delivery: &Delivery) -> Option<()> {
        let id = packet_id(delivery.number);
        let mut outbound = self.outbound.borrow_mut();
        let outbound = outbound.get_or_insert_default();
        if delivery.release {
            outbound.window.sent(delivery.number, Stage::AwaitPubcomp);
            self.write_ack(PacketType::Pubrel, id, ReasonCode::SUCCESS);
            return Some(());
        }
        let Ok((Command::Publish(publish), message)) = command::decode(&delivery.command) else {
            return None;
        };
        let (head, payload) = fluxmq_proto::message::split(message)?;
        if !self.terms.access.may_receive(publish.topic) {
            return None;
        }
        let mut properties = Vec::new();
        if self.is_v5() {
            properties::from_head(head, &mut properties);
            properties::put_identifiers(&delivery.identifiers, &mut properties);
            if let Some(ms) = publish.expiry_ms {
                properties::put_expiry(ms.saturating_sub(now_ms()), &mut properties);
            }
        }
        let frame = PublishFrame {
            dup: delivery.dup,
            qos: QoS::from_bits(delivery.qos)?,
            retain: delivery.retain,
            topic: publish.topic,
            packet_id: id,
            properties: &properties,
            payload,
        };
        if frame.packet_len(self.terms.version) > self.terms.packet_bytes_max as usize {
            add(&self.worker.counters.dropped_too_large, 1);
            return None;
        }
        outbound.window.sent(delivery.number, first_stage(delivery.qos));
        self.write_publish(&frame, &mut self.out.borrow_mut(), outbound);
        add(&self.worker.counters.delivered_durable, 1);
        Some(())
    }

    /// Notes that a number is settled; it rides in the next command.
    pub(crate) fn settle_number(&self, number: u64) {
        let Some((durable, _)) = self.persistent() else { return };
        durable.credit.set(durable.credit.get() + 1);
        let mut settled = durable.settled.borrow_mut();
        match settled.last_mut() {
            Some(last) if last.first + u64::from(last.count) == number => last.count += 1,
            _ => settled.push(Settled { first: number, count: 1, received: false }),
        }
        let many = settled.len() >= RANGES_MAX;
        drop(settled);
        if many {
            self.send_settled();
        } else if !durable.timer.replace(true) {
            let client = self.this();
            spawn_local(async move {
                tokio::time::sleep(SETTLE_AFTER).await;
                client.durable().into_iter().for_each(|d| d.timer.set(false));
                client.send_settled();
                client.worker.end_batch();
            });
        }
    }

    /// Sends what is settled.
    fn send_settled(&self) {
        let (Some(durable), Some(backend)) = (self.durable(), self.worker.backend()) else {
            return;
        };
        if let Some(settle) = durable.take_settle() {
            backend.submit(durable.shard, &settle, &[], None);
        }
    }

    /// Gives `logd` the credit that came back in this batch.
    pub(crate) fn return_credit(&self) {
        let (Some(durable), Some(backend)) = (self.durable(), self.worker.backend()) else {
            return;
        };
        let count = durable.credit.take();
        if count > 0 {
            backend.credit(durable.token, count);
        }
    }

    /// PUBREC for a message of the session: committed before PUBREL goes out (G3).
    pub(crate) fn commit_received(&self, number: u64) {
        let (Some(durable), Some(backend)) = (self.durable(), self.worker.backend()) else {
            return;
        };
        let ranges = vec![Settled { first: number, count: 1, received: true }];
        let (session, epoch) = (durable.session, durable.epoch);
        let settle = Command::Settle { session, epoch, sent_upto: durable.sent_upto.get(), ranges };
        let client = self.this();
        let waiter = Box::new(move |outcome: &Outcome| {
            if *outcome != Outcome::Done {
                client.close(Close::ByServer(ReasonCode::UNSPECIFIED));
                return;
            }
            let id = packet_id(number);
            if let Some(outbound) = client.outbound.borrow_mut().as_deref_mut() {
                outbound.window.set(id, Stage::AwaitPubcomp);
            }
            client.write_ack(PacketType::Pubrel, id, ReasonCode::SUCCESS);
            client.wake_task();
        });
        backend.submit(durable.shard, &settle, &[], Some(waiter));
    }

    /// Tells `logd` that the connection is gone.
    pub(crate) fn leave_session(&self, why: Close) {
        let (Some(durable), Some(backend)) = (self.durable(), self.worker.backend()) else {
            return;
        };
        self.send_settled();
        let expiry_s = match why {
            Close::ByClient { expiry_s, .. } => expiry_s,
            _ => None,
        };
        let disconnect = Command::Disconnect {
            session: durable.session,
            epoch: durable.epoch,
            publish_will: why.publishes_will(),
            expiry_s,
            sent_upto: durable.sent_upto.get(),
        };
        backend.submit(durable.shard, &disconnect, &[], None);
        backend.close(durable.token);
        self.worker.end_batch();
    }

    /// The session in `logd`, when it keeps subscriptions and messages.
    pub(crate) fn persistent(&self) -> Option<(&Durable, &Rc<Backend>)> {
        self.durable().filter(|d| d.persistent).zip(self.worker.backend())
    }
}
