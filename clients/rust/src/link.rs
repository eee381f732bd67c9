//! A pair of mailboxes. What is on its way is bounded by what each side may have outstanding: a gateway
//! by its byte window for commands and its credits for deliveries (T3).

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::contract::{Event, Request};

/// The other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// The gateway's end.
pub struct Link {
    /// To `logd`.
    pub to: UnboundedSender<Request>,
    /// From `logd`.
    pub from: UnboundedReceiver<Event>,
}

/// `logd`'s end.
pub struct LogdLink {
    /// To the gateway.
    pub to: UnboundedSender<Event>,
    /// From the gateway.
    pub from: UnboundedReceiver<Request>,
}

/// Two ends of a link within one process.
#[must_use]
pub fn link() -> (Link, LogdLink) {
    let (requests, from_gateway) = unbounded_channel();
    let (events, from_logd) = unbounded_channel();
    (Link { to: requests, from: from_logd }, LogdLink { to: events, from: from_gateway })
}
