//! What a routing thread counts on its hot path: plain cells, moved to the metrics once a second,
//! so that counting costs no atomic operation per message.

use std::cell::Cell;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts since the last [`Counters::take`].
        #[derive(Default)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: Cell<u64>,)+ }

        impl Counters {
            /// Name and help of each, in the order of [`Self::take`].
            pub const NAMES: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc),+)),)+];

            /// Gives every count and starts again from zero.
            pub fn take(&self) -> impl Iterator<Item = u64> {
                [$(self.$name.take(),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Publishes received from clients with QoS 0.
    received_qos0,
    /// Publishes received from clients with QoS 1.
    received_qos1,
    /// Publishes received from clients with QoS 2, repeats included.
    received_qos2,
    /// Messages put into the buffers of live subscribers.
    delivered_live,
    /// Messages put into the buffers of persistent sessions.
    delivered_durable,
    /// QoS 0 messages dropped because their receiver was full (R8).
    dropped_full,
    /// Messages dropped because they are larger than their receiver takes (MQTT-3.1.2-25).
    dropped_too_large,
    /// Messages dropped because they expired before they were sent.
    dropped_expired,
    /// Reads from sockets that brought something.
    reads,
    /// Bytes read from sockets.
    bytes_read,
    /// Writes to sockets that took something.
    writes,
    /// Bytes written to sockets.
    bytes_written,
    /// Connections accepted.
    connections_opened,
    /// Connections ended, for whatever reason.
    connections_closed,
    /// Connections ended because they broke the protocol.
    protocol_errors,
    /// Connections ended because they did not take what was sent to them (R8).
    slow_receivers,
    /// Sessions taken over by a newer connection.
    takeovers,
    /// Messages sent to other gateways, one for each gateway.
    relayed,
    /// QoS 0 messages dropped because another gateway did not keep up (R6).
    relay_dropped,
    /// Messages from other gateways.
    relayed_in,
}

/// Adds to a counter.
#[inline]
pub fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get() + n);
}
