//! `logd` and two gateways, each behind a proxy of its own.

use std::time::Duration;

use mqtt_codec::Version;

use crate::client::{Client, Message, Options};
use crate::process::{Broker, Part, Place, Tiers, free_port};
use crate::proxy::Proxy;

/// Two gateways on one `logd`.
pub struct Pair {
    /// `logd` and the first gateway.
    pub first: Broker,
    /// The second gateway.
    pub second: Broker,
    /// Where they are.
    pub place: Place,
    /// Ports of the gateways.
    pub ports: [u16; 2],
    /// What stands between each and `logd`.
    pub proxies: [Proxy; 2],
}

// === impl Pair ===

impl Pair {
    /// Starts them.
    #[must_use]
    pub fn start(shards: u32) -> Self {
        let mut place = Place::of(Tiers::Two, shards);
        let proxies = [Proxy::start(&place.grpc()), Proxy::start(&place.grpc())];
        place.upstream = Some(proxies[0].address.clone());
        let first = place.start();
        let port = free_port();
        let second = place.start_gateway(port, &proxies[1].address);
        let ports = [place.port, port];
        Self { first, second, place, ports, proxies }
    }

    /// A client whose session ends with its connection.
    #[must_use]
    pub fn transient(&self, gateway: usize, id: &str) -> Client {
        Client::reach(self.ports[gateway], &Options::clean(id, Version::V5))
    }

    /// A client whose session lasts.
    #[must_use]
    pub fn session(&self, gateway: usize, id: &str) -> Client {
        Client::reach(self.ports[gateway], &Options::persistent(id, Version::V5))
    }

    /// The first gateway is killed and started again.
    pub fn revive_first(&mut self) {
        // Its connections end before the proxy counts those of the new one.
        self.first.kill_part(Part::Front);
        self.proxies[0].cut();
        self.proxies[0].restore();
        self.first.revive(&self.place, Part::Front);
    }

    /// Panics and errors of all processes.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.place.complaints()
    }
}

/// The next message, handshake answered, if it comes in time.
///
/// # Panics
/// The connection has ended.
pub fn receive_within(client: &mut Client, wait: Duration) -> Option<Message> {
    loop {
        let packet = client.read_within(wait).expect("the connection stands")?;
        if let Some(message) = client.answer(&packet).expect("the connection stands") {
            return Some(message);
        }
    }
}
