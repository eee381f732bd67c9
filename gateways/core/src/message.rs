//! A message on its way through a gateway, and who takes it.

use std::rc::Rc;

use crate::route_table::Destination;

/// A message that is being routed; borrows from the publisher's read buffer or a delivery frame.
#[derive(Clone, Copy)]
pub struct LiveMessage<'a> {
    /// Topic in MQTT form.
    pub topic: &'a str,
    /// QoS as published, 0–2.
    pub qos: u8,
    /// Retain flag as published.
    pub retain: bool,
    /// Absolute expiry in Unix ms.
    pub expiry_ms: Option<u64>,
    /// Head of the encoded message (`docs/internals/commands.md`, "Message"): everything before
    /// the payload. Empty when there are no fields at all.
    pub head: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// Takes messages on a routing thread. Implemented by the connections of each protocol.
pub trait Subscriber {
    /// Takes the message into bounded memory or drops it (R8). Must not call back into routing.
    /// True when the subscriber had nothing to send before, that is when it must be woken.
    fn deliver(&self, message: &LiveMessage<'_>, to: &Destination) -> bool;

    /// Whether the subscriber could take the message now: members of a shared subscription are asked before.
    fn has_room(&self, _message: &LiveMessage<'_>) -> bool {
        true
    }

    /// Wakes the subscriber's task; called once per batch.
    fn wake(&self);
}

/// Subscribers with something to send, woken together at the end of a batch (T2).
#[derive(Default)]
pub struct WakeList {
    waiting: Vec<Rc<dyn Subscriber>>,
}

// === impl WakeList ===

impl WakeList {
    /// Remembers `subscriber` until the end of the batch.
    pub fn push(&mut self, subscriber: &Rc<dyn Subscriber>) {
        self.waiting.push(subscriber.clone());
    }

    /// Wakes all, each once.
    pub fn wake_all(&mut self) {
        for subscriber in self.waiting.drain(..) {
            subscriber.wake();
        }
    }
}
