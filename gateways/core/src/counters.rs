//! What a routing thread counts on its hot path: plain cells, moved to the metrics once a second,
//! so that counting costs no atomic operation per message.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts since the last [`Counters::take`].
        #[derive(Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Cell<u64>,)+
            taken: RefCell<HashMap<&'static str, u64>>,
        }

        impl Counters {
            /// Name and help of each, in the order of [`Self::take`].
            pub const NAMES: &[(&str, &str)] = &[$((stringify!($name), concat!($($doc),+)),)+];

            /// Gives every count and starts again from zero.
            pub fn take(&self) -> impl Iterator<Item = u64> {
                let counts = [$(self.$name.take(),)+];
                let mut taken = self.taken.borrow_mut();
                for ((name, _), count) in Self::NAMES.iter().zip(counts) {
                    *taken.entry(name).or_default() += count;
                }
                counts.into_iter()
            }

            /// The counts of `names` added up, from the start of the process.
            #[must_use]
            pub fn total(&self, names: &[&str]) -> u64 {
                let taken = self.taken.borrow();
                let total = |name: &str| taken.get(name).copied().unwrap_or_default() + match name {
                    $(stringify!($name) => self.$name.get(),)+
                    _ => 0,
                };
                names.iter().map(|name| total(name)).sum()
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
    /// Publishes not taken: forbidden, or broken in themselves.
    refused,
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
    /// Connections closed at once because there were too many, in all or from their address.
    connections_refused,
    /// Connections ended, for whatever reason.
    connections_closed,
    /// Connections ended because they broke the protocol.
    protocol_errors,
    /// Connections ended because they did not take what was sent to them (R8).
    slow_receivers,
    /// Times a client was not read for a while because it sent more than it may.
    throttled,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_counts_what_was_taken_and_what_was_not() {
        let counters = Counters::default();
        add(&counters.reads, 2);
        add(&counters.writes, 3);
        counters.take().for_each(drop);
        add(&counters.reads, 4);
        assert_eq!(counters.total(&["reads"]), 6);
        assert_eq!(counters.total(&["reads", "writes", "nothing"]), 9);
    }
}
