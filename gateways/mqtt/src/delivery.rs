//! Messages to a client: encoding, QoS, the send window and the limits of a slow receiver (R8).

use gateway_core::counters::add;
use gateway_core::message::{LiveMessage, Subscriber};
use gateway_core::route_table::Destination;
use gateway_core::worker::now_ms;
use mqtt_codec::encode::PublishFrame;
use mqtt_codec::{QoS, ReasonCode};

use crate::client::{Client, Close};
use crate::outbound::{Outbound, Pending, first_stage};
use crate::properties;
use crate::send_window::packet_id;

impl Subscriber for Client {
    fn deliver(&self, message: &LiveMessage<'_>, to: &Destination) -> bool {
        if self.closing().is_some() {
            return false;
        }
        let mut properties = Vec::new();
        if self.is_v5() && !(message.head.is_empty() && to.identifiers.is_empty()) {
            properties::from_head(message.head, &mut properties);
            properties::put_identifiers(&to.identifiers, &mut properties);
        }
        if let Some(expiry_ms) = message.expiry_ms {
            let left_ms = expiry_ms.saturating_sub(now_ms());
            if left_ms == 0 {
                add(&self.worker.counters.dropped_expired, 1);
                return false;
            }
            if self.is_v5() {
                properties::put_expiry(left_ms, &mut properties);
            }
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
        self.send(frame) && self.queue()
    }

    fn wake(&self) {
        self.wake_task();
    }
}

// === impl Client ===

impl Client {
    /// Puts a PUBLISH into the out-buffer or behind the window; false when there is nothing to write.
    pub(crate) fn send(&self, mut frame: PublishFrame<'_>) -> bool {
        let version = self.terms.version;
        if frame.packet_len(version) > self.terms.packet_bytes_max as usize {
            add(&self.worker.counters.dropped_too_large, 1);
            return false;
        }
        let mut out = self.out.borrow_mut();
        if frame.qos == QoS::AtMostOnce {
            if out.is_full() {
                add(&self.worker.counters.dropped_full, 1);
                return false;
            }
            frame.write(out.writer(&self.worker), version);
            return true;
        }
        let mut outbound = self.outbound.borrow_mut();
        let outbound = outbound.get_or_insert_default();
        if !out.is_full()
            && outbound.may_send(self.terms.window)
            && let Some(number) = outbound.window.take_number()
        {
            frame.packet_id = packet_id(number);
            outbound.window.sent(number, first_stage(frame.qos as u8));
            frame.write(out.writer(&self.worker), version);
            return true;
        }
        let mut bytes = Vec::with_capacity(frame.packet_len(version));
        let id_at = frame.write(&mut bytes, version);
        if !outbound.wait(Pending { frame: bytes.into(), id_at, qos: frame.qos as u8 }) {
            add(&self.worker.counters.slow_receivers, 1);
            self.close(Close::ByServer(ReasonCode::QUOTA_EXCEEDED));
        }
        false
    }

    /// Sends what waited, as far as the window and the buffer have room.
    pub(crate) fn refill(&self, outbound: &mut Outbound) {
        let mut out = self.out.borrow_mut();
        if !out.is_full() && outbound.has_pending() {
            outbound.release(self.terms.window, out.writer(&self.worker));
        }
    }

    /// The out-buffer is empty again: what waited behind it may go.
    pub(crate) fn drained(&self) {
        if let Some(outbound) = self.outbound.borrow_mut().as_deref_mut() {
            self.refill(outbound);
        }
    }
}
