//! Every statement of MQTT 5.0 and 3.1.1 that binds a server and can be seen from outside, by tests that name it: the
//! lines `5.0:` and `3.1.1:` above a test say which. `docs/protocols/mqtt-conformance.md` is made from them.

mod authentication;
mod connect;
mod delivery;
mod flow;
mod malformed;
mod publish;
mod queues;
mod retained;
mod sessions;
mod settings;
mod statements;
mod subscribe;
mod topics;
mod transports;
mod wills;

use std::net::SocketAddr;

use conformance::broker::Broker;

/// The broker without configuration.
fn at() -> SocketAddr {
    Broker::shared().address()
}

/// Protocol levels of MQTT 3.1.1 and 5.
const BOTH: [u8; 2] = [4, 5];
