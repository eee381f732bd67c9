//! Protocols of the peers, by their usual client libraries: lapin for AMQP 0.9.1, async-nats for NATS. Their CPU
//! time is the generator's, so only the broker's figures compare.

pub(crate) mod amqp;
pub(crate) mod nats;
pub(crate) mod options;
