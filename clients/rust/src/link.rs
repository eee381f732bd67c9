//! Mailboxes between a gateway and `logd`, whatever carries them. What is on its way is bounded by what each
//! side may have outstanding: a gateway by its byte window for commands, `logd` by the credit and the byte
//! window it was given for deliveries (T3).
//!
//! There are three lanes, because gRPC streams on one connection share a window (design §8): commands and
//! what is relayed; sessions and deliveries; routes, leases and barriers. In one process they are one.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::contract::{Event, Request};

/// Which connection a frame travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Commands, relayed messages, and their answers.
    Publish,
    /// Sessions, deliveries, retained messages.
    Deliver,
    /// Routes, leases, barriers.
    Control,
}

/// A frame that knows its lane.
pub trait Frame {
    /// The lane it travels on.
    fn lane(&self) -> Lane;
}

impl Frame for Request {
    fn lane(&self) -> Lane {
        match self {
            Self::Submit(_) | Self::Relay(_) | Self::RelayTaken { .. } => Lane::Publish,
            Self::Register { .. }
            | Self::Unregister { .. }
            | Self::Open { .. }
            | Self::Close { .. }
            | Self::Credit { .. }
            | Self::Window { .. }
            | Self::ReadRetained { .. }
            | Self::Consume(_)
            | Self::Presented
            | Self::Settle(_)
            | Self::Extend { .. }
            | Self::ReadQueue(_)
            | Self::LookAtQueues(_) => Lane::Deliver,
            Self::Hello { .. }
            | Self::Announce { .. }
            | Self::Ack { .. }
            | Self::Renew { .. }
            | Self::SendLive { .. }
            | Self::Leave => Lane::Control,
        }
    }
}

impl Frame for Event {
    fn lane(&self) -> Lane {
        match self {
            Self::Outcomes { .. }
            | Self::Refused { .. }
            | Self::Relay(_)
            | Self::RelayTaken { .. }
            | Self::Resend { .. } => Lane::Publish,
            Self::Registered { .. }
            | Self::Opened { .. }
            | Self::Deliveries(_)
            | Self::Taken { .. }
            | Self::Retained { .. }
            | Self::Consuming { .. }
            | Self::ConsumerEnded { .. }
            | Self::Active { .. }
            | Self::QueueDeliveries(_)
            | Self::Settled(_)
            | Self::QueuePage(_)
            | Self::Queues { .. } => Lane::Deliver,
            Self::Welcome { .. }
            | Self::Deltas { .. }
            | Self::Others(_)
            | Self::Done { .. }
            | Self::Lease { .. }
            | Self::GatewayGone { .. }
            | Self::Live { .. }
            | Self::LiveTaken { .. } => Lane::Control,
        }
    }
}

/// The sending end of a link. Frames of one lane arrive in order; what nobody takes any more is dropped,
/// which the sender learns from the end of the other direction.
#[derive(Clone, Debug)]
pub struct Sender<T> {
    lanes: [UnboundedSender<T>; 3],
}

// === impl Sender ===

impl<T: Frame> Sender<T> {
    /// A sender over a mailbox for each lane: publish, deliver, control.
    #[must_use]
    pub fn new(lanes: [UnboundedSender<T>; 3]) -> Self {
        Self { lanes }
    }

    /// Sends a frame on its lane; false when the other side is gone.
    pub fn send(&self, frame: T) -> bool {
        self.lanes[frame.lane() as usize].send(frame).is_ok()
    }
}

/// The gateway's end.
pub struct Link {
    /// To `logd`.
    pub to: Sender<Request>,
    /// From `logd`; ends with the link.
    pub from: UnboundedReceiver<Event>,
}

/// `logd`'s end.
pub struct LogdLink {
    /// To the gateway.
    pub to: Sender<Event>,
    /// From the gateway; ends with the link.
    pub from: UnboundedReceiver<Request>,
    /// Both ends are one process: the gateway lives exactly as long as `logd` and needs no lease.
    pub local: bool,
}

/// Two ends of a link within one process.
#[must_use]
pub fn link() -> (Link, LogdLink) {
    let (requests, from_gateway) = unbounded_channel();
    let (events, from_logd) = unbounded_channel();
    let to_logd = Sender::new([requests.clone(), requests.clone(), requests]);
    let to_gateway = Sender::new([events.clone(), events.clone(), events]);
    (
        Link { to: to_logd, from: from_logd },
        LogdLink { to: to_gateway, from: from_gateway, local: true },
    )
}
