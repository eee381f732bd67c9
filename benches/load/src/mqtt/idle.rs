//! Connections that do nothing: what one costs in memory, and in CPU while it is made.

use std::time::Instant;

use anyhow::Result;

use super::link::{Introduction, Link};
use crate::meter::Meter;
use crate::options::IdleOptions;
use crate::report::{Came, Figures, Report, publish};

/// Opens the connections one after the other, each with a filter of its own.
pub(crate) async fn run(options: IdleOptions) -> Result<()> {
    let meter = Meter::start(&options.target);
    let began = Instant::now();
    let mut links = Vec::new();
    for n in 0..options.connections {
        let as_who = Introduction {
            version: options.mqtt,
            client_id: &format!("idle-{n}"),
            persistent: false,
            filter: Some((&format!("idle/{n}/t"), 1)),
        };
        links.push(Link::open(options.target.addr(links.len()), as_who).await?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let came = Came { delivered: options.connections.into(), seconds, ..Came::default() };
    let report = Report {
        workload: format!("MQTT {} idle connections, a subscription each", options.connections),
        figures: Figures::new(came, meter.read()),
        latency: None,
    };
    publish(&[report], options.target.json.as_deref())
}
