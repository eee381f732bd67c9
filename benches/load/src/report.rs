//! Figures, for people and as JSON.

use std::path::Path;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::meter::{Metrics, Used};

/// What came of the messages (or connections) of a run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Came {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
    pub(crate) seconds: f64,
}

/// What a run showed. "Message" means connection in the workloads of connections.
#[derive(Serialize)]
pub(crate) struct Figures {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Delivered a second time to the same receiver or group.
    pub(crate) doubled: u64,
    /// Delivered behind a later one of the same publisher.
    pub(crate) reordered: u64,
    pub(crate) seconds: f64,
    pub(crate) messages_per_s: f64,
    pub(crate) broker_cpu_us_per_message: f64,
    pub(crate) own_cpu_us_per_message: f64,
    /// What one core of the generator could do at its CPU time per message.
    pub(crate) own_ceiling_per_s: f64,
    pub(crate) broker_rss_anon_kib: u64,
    pub(crate) broker_rss_anon_growth_kib: i64,
    /// Flushes of all disks, whoever asked for them.
    pub(crate) disk_flushes: Option<u64>,
    /// Growth of the broker's metrics during the run.
    pub(crate) metrics: Metrics,
}

// === impl Figures ===

impl Figures {
    pub(crate) fn new(came: Came, used: Used) -> Self {
        let count = came.delivered.max(1) as f64;
        let own_us = used.own_cpu_us / count;
        Self {
            delivered: came.delivered,
            lost: came.lost,
            doubled: came.doubled,
            reordered: came.reordered,
            seconds: came.seconds,
            messages_per_s: came.delivered as f64 / came.seconds,
            broker_cpu_us_per_message: used.cpu_us / count,
            own_cpu_us_per_message: own_us,
            own_ceiling_per_s: 1e6 / own_us,
            broker_rss_anon_kib: used.rss_anon_kib,
            broker_rss_anon_growth_kib: used.rss_anon_growth_kib,
            disk_flushes: used.disk_flushes,
            metrics: used.metrics,
        }
    }
}

/// Latencies in µs.
#[derive(Serialize)]
pub(crate) struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(ns: &Histogram<u64>) -> Self {
        let us = |quantile| ns.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: ns.max() as f64 / 1_000.0,
        }
    }
}

/// A run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) workload: String,
    pub(crate) figures: Figures,
    pub(crate) latency: Option<Latency>,
}

// === impl Report ===

impl Report {
    /// Prints the run.
    pub(crate) fn print(&self) {
        let f = &self.figures;
        println!("{}", self.workload);
        println!(
            "  {} delivered in {:.2} s = {:.0}/s, lost {}, doubled {}, reordered {}",
            f.delivered, f.seconds, f.messages_per_s, f.lost, f.doubled, f.reordered
        );
        println!(
            "  CPU µs each: broker {:.3}, generator {:.3} (one core of it: {:.0}/s)",
            f.broker_cpu_us_per_message, f.own_cpu_us_per_message, f.own_ceiling_per_s
        );
        println!(
            "  broker RssAnon {} KiB, grew by {} KiB = {:.2} each; disk flushes {}",
            f.broker_rss_anon_kib,
            f.broker_rss_anon_growth_kib,
            f.broker_rss_anon_growth_kib as f64 / f.delivered.max(1) as f64,
            f.disk_flushes.map_or("unknown".into(), |n| n.to_string())
        );
        if let Some(l) = &self.latency {
            println!(
                "  latency µs: p50 {:.0} p90 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
                l.p50, l.p90, l.p99, l.p999, l.max
            );
        }
    }
}

/// Prints the runs of a workload and writes them to `json`: one as an object, several as a list.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn publish(reports: &[Report], json: Option<&Path>) -> Result<()> {
    reports.iter().for_each(Report::print);
    let Some(path) = json else { return Ok(()) };
    let text = match reports {
        [one] => serde_json::to_string_pretty(one)?,
        all => serde_json::to_string_pretty(all)?,
    };
    std::fs::write(path, text)?;
    Ok(())
}
