//! `$SYS` topics: what this gateway counts, published once an interval to those who subscribed, and kept for nobody.
//! Only the server publishes them. The names are those that other brokers made usual.

use std::rc::{Rc, Weak};
use std::time::Duration;

use gateway_core::message::LiveMessage;
use gateway_core::shared_group::Chosen;

use crate::gateway::Gateway;

/// Topics and the counters they add up.
const COUNTED: &[(&str, &[&str])] = &[
    ("$SYS/broker/bytes/received", &["bytes_read"]),
    ("$SYS/broker/bytes/sent", &["bytes_written"]),
    ("$SYS/broker/clients/total", &["connections_opened"]),
    ("$SYS/broker/messages/received", &["received_qos0", "received_qos1", "received_qos2"]),
    ("$SYS/broker/messages/sent", &["delivered_live", "delivered_durable"]),
    (
        "$SYS/broker/publish/messages/dropped",
        &["dropped_full", "dropped_too_large", "dropped_expired", "refused"],
    ),
];

/// Publishes until the gateway is gone.
pub(crate) async fn publish(gateway: Weak<Gateway>) {
    let Some(interval_s) = gateway.upgrade().map(|g| g.settings().sys_interval_s) else { return };
    let started = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(interval_s.into()));
    loop {
        ticks.tick().await;
        let Some(gateway) = gateway.upgrade() else { return };
        publish_once(&gateway, started.elapsed().as_secs());
    }
}

fn publish_once(gateway: &Rc<Gateway>, uptime_s: u64) {
    let worker = &gateway.worker;
    let tell = |topic: &str, value: &str| {
        let to = worker.table("/").borrow().resolve(topic);
        if to.has_live() {
            let payload = value.as_bytes();
            let message =
                LiveMessage { topic, qos: 0, retain: false, expiry_ms: None, head: &[], payload };
            // Each gateway tells of itself to its own.
            worker.deliver_live(&to, &message, None, &Chosen::default());
        }
    };
    tell("$SYS/broker/version", concat!("fluxmq ", env!("CARGO_PKG_VERSION")));
    tell("$SYS/broker/uptime", &uptime_s.to_string());
    tell("$SYS/broker/clients/connected", &gateway.connected().to_string());
    for (topic, counters) in COUNTED {
        tell(topic, &worker.counters.total(counters).to_string());
    }
    worker.end_batch();
}
