//! MQTT 3.1.1 and 5, by code of its own: a client library would cost more than the broker.

pub(crate) mod backlog;
pub(crate) mod ceiling;
pub(crate) mod flow;
pub(crate) mod idle;
mod link;
pub(crate) mod retained;
mod socket;
pub(crate) mod storm;
mod subscriber;
pub(crate) mod wire;
