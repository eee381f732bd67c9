//! Messages to a client: encoding, QoS, the send window and the limits of a slow receiver (R8).

use gateway_core::counters::add;
use gateway_core::message::{LiveMessage, Subscriber};
use gateway_core::route_table::Destination;
use gateway_core::worker::now_ms;
use mqtt_codec::encode::{PublishFrame, property};
use mqtt_codec::{PropertyId, QoS, ReasonCode, Value};

use crate::client::{Client, Close};
use crate::out_buffer::OutBuffer;
use crate::outbound::{Expiry, Outbound, Pending, first_stage};
use crate::properties;
use crate::send_window::packet_id;

impl Subscriber for Client {
    fn deliver(&self, message: &LiveMessage<'_>, to: &Destination) -> bool {
        if self.closing().is_some() || !self.terms.access.may_receive(message.topic) {
            return false;
        }
        if message.retain && !self.worker.replays.note(self.token, message.topic) {
            self.close_slow();
            return false;
        }
        let mut properties = Vec::new();
        if self.is_v5() && !(message.head.is_empty() && to.identifiers.is_empty()) {
            properties::from_head(message.head, &mut properties);
            properties::put_identifiers(&to.identifiers, &mut properties);
        }
        if let Some(expiry_ms) = message.expiry_ms
            && !self.put_expiry(expiry_ms, &mut properties)
        {
            return false;
        }
        let frame = PublishFrame {
            dup: false,
            qos: QoS::from_bits(message.qos.min(to.qos)).unwrap_or(QoS::AtMostOnce),
            retain: message.retain && to.retain_as_published,
            topic: message.topic,
            packet_id: 0,
            properties: &properties,
            payload: message.payload,
        };
        self.send(frame, message.expiry_ms) && self.queue()
    }

    fn has_room(&self, message: &LiveMessage<'_>) -> bool {
        let waits = self.outbound.borrow().as_deref().is_some_and(Outbound::has_pending);
        self.closing().is_none()
            && !waits
            && self.out.borrow().has_room(message.payload.len(), &self.settings)
    }

    fn wake(&self) {
        self.wake_task();
    }
}

// === impl Client ===

impl Client {
    /// Appends the time a message has left, last of its properties; false when it has none.
    pub(crate) fn put_expiry(&self, expiry_ms: u64, properties: &mut Vec<u8>) -> bool {
        let left_ms = expiry_ms.saturating_sub(now_ms());
        if left_ms == 0 {
            add(&self.worker.counters.dropped_expired, 1);
            return false;
        }
        if self.is_v5() {
            properties::put_expiry(left_ms, properties);
        }
        true
    }

    /// Puts a PUBLISH into the out-buffer or behind the window; false when there is nothing to write. `expiry_ms`: its
    /// last property says how long it has until then.
    pub(crate) fn send(&self, mut frame: PublishFrame<'_>, expiry_ms: Option<u64>) -> bool {
        let version = self.terms.version;
        let len = frame.packet_len(version);
        if len > self.terms.packet_bytes_max as usize {
            add(&self.worker.counters.dropped_too_large, 1);
            return false;
        }
        let mut out = self.out.borrow_mut();
        let has_room = out.has_room(len, &self.settings);
        if frame.qos == QoS::AtMostOnce {
            if !has_room {
                add(&self.worker.counters.dropped_full, 1);
                return false;
            }
            if self.terms.aliases_out > 0 {
                let mut outbound = self.outbound.borrow_mut();
                self.write_publish(&frame, &mut out, outbound.get_or_insert_default());
            } else {
                frame.write(out.writer(&self.worker), version);
            }
            return true;
        }
        let mut outbound = self.outbound.borrow_mut();
        let outbound = outbound.get_or_insert_default();
        if has_room
            && outbound.may_send(self.window())
            && let Some(number) = outbound.window.take_number()
        {
            frame.packet_id = packet_id(number);
            outbound.window.sent(number, first_stage(frame.qos as u8));
            self.write_publish(&frame, &mut out, outbound);
            return true;
        }
        let mut bytes = Vec::with_capacity(len);
        let id_at = frame.write(&mut bytes, version);
        let field_at = if self.is_v5() { len - frame.payload.len() - 4 } else { 0 };
        let expiry = expiry_ms.map(|at_ms| Expiry { at_ms, field_at });
        let pending = Pending { frame: bytes.into(), id_at, qos: frame.qos as u8, expiry };
        if !outbound.wait(pending, &self.settings) {
            self.close_slow();
        }
        false
    }

    /// More waits for the client than may (R8).
    fn close_slow(&self) {
        add(&self.worker.counters.slow_receivers, 1);
        self.close(Close::ByServer(ReasonCode::QUOTA_EXCEEDED));
    }

    /// Appends a PUBLISH to what goes out, under its alias where the client takes aliases.
    #[inline]
    pub(crate) fn write_publish(
        &self,
        frame: &PublishFrame<'_>,
        out: &mut OutBuffer,
        outbound: &mut Outbound,
    ) {
        let out = out.writer(&self.worker);
        if self.terms.aliases_out > 0 {
            self.write_aliased(frame, out, outbound);
        } else {
            frame.write(out, self.terms.version);
        }
    }

    #[cold]
    fn write_aliased(&self, frame: &PublishFrame<'_>, out: &mut Vec<u8>, outbound: &mut Outbound) {
        let version = self.terms.version;
        let Some((alias, known)) = outbound.aliases.find(frame.topic, self.terms.aliases_out)
        else {
            frame.write(out, version);
            return;
        };
        let mut properties = Vec::with_capacity(3 + frame.properties.len());
        property(&mut properties, PropertyId::TOPIC_ALIAS, Value::Number(alias.into()));
        properties.extend_from_slice(frame.properties);
        let topic = if known { "" } else { frame.topic };
        let aliased = PublishFrame { topic, properties: &properties, ..*frame };
        if aliased.packet_len(version) > self.terms.packet_bytes_max as usize {
            frame.write(out, version);
            return;
        }
        if !known {
            outbound.aliases.tell(frame.topic);
        }
        aliased.write(out, version);
    }

    /// Sends what waited, as far as the window and the buffer have room.
    pub(crate) fn refill(&self, outbound: &mut Outbound) {
        let mut out = self.out.borrow_mut();
        if outbound.has_pending() && out.has_room(0, &self.settings) {
            let window = self.window();
            let expired = outbound.release(window, now_ms(), out.writer(&self.worker));
            add(&self.worker.counters.dropped_expired, expired);
        }
    }

    /// Messages of the send window that are not leased (R10: one quota for both).
    fn window(&self) -> u16 {
        let leased = u16::try_from(self.leased_in_flight()).unwrap_or(u16::MAX);
        self.terms.window.saturating_sub(leased)
    }

    /// The out-buffer is empty again: what waited behind it may go.
    pub(crate) fn drained(&self) {
        if let Some(outbound) = self.outbound.borrow_mut().as_deref_mut() {
            self.refill(outbound);
        }
    }
}
