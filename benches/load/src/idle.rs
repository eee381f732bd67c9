//! Connections that do nothing: what one costs in memory, and how fast they come.

use std::time::Instant;

use anyhow::Result;

use crate::link::open;
use crate::report::{Figures, Report};
use crate::{IdleOptions, process};

/// Opens the connections, each with a filter of its own, and reports memory and CPU for each.
pub(crate) async fn run(options: IdleOptions) -> Result<()> {
    let pids = &options.target.pids;
    let before = (process::rss_anon_kib(pids), process::cpu_us(pids), process::own_cpu_us());
    let began = Instant::now();
    let mut sockets = Vec::new();
    for n in 0..options.connections {
        let (id, filter) = (format!("idle-{n}"), format!("idle/{n}/t"));
        sockets.push(open(options.target.addr, &id, Some((&filter, 1))).await?);
    }
    let seconds = began.elapsed().as_secs_f64();
    let count = f64::from(options.connections);
    let rss = process::rss_anon_kib(pids).saturating_sub(before.0);
    println!("KiB RssAnon per connection: {:.2}", rss as f64 / count);
    let report = Report {
        workload: format!("idle {} connections, a subscription each", options.connections),
        figures: Figures {
            delivered: options.connections.into(),
            lost: 0,
            repeated: 0,
            gaps: 0,
            seconds,
            messages_per_s: count / seconds,
            broker_cpu_us_per_message: (process::cpu_us(pids) - before.1) / count,
            own_cpu_us_per_message: (process::own_cpu_us() - before.2) / count,
            broker_rss_anon_kib: rss,
        },
        latency: None,
    };
    report.write(options.target.json.as_deref())
}
