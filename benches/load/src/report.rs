//! Figures, for people and as JSON.

use std::path::Path;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// What a run showed.
#[derive(Serialize)]
pub(crate) struct Figures {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    /// Times a subscriber saw a number ahead of the next.
    pub(crate) gaps: u64,
    pub(crate) seconds: f64,
    pub(crate) messages_per_s: f64,
    pub(crate) broker_cpu_us_per_message: f64,
    pub(crate) own_cpu_us_per_message: f64,
    pub(crate) broker_rss_anon_kib: u64,
}

/// Latencies in µs.
#[derive(Serialize)]
pub(crate) struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(ns: &Histogram<u64>) -> Self {
        let us = |quantile| ns.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50: us(0.5), p99: us(0.99), p999: us(0.999), max: ns.max() as f64 / 1_000.0 }
    }
}

/// A run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) workload: String,
    pub(crate) figures: Figures,
    pub(crate) latency: Option<Latency>,
}

impl Report {
    pub(crate) fn write(&self, json: Option<&Path>) -> Result<()> {
        let f = &self.figures;
        println!("{}", self.workload);
        println!(
            "  {} delivered in {:.2} s = {:.0}/s, lost {}, repeated {}, gaps {}",
            f.delivered, f.seconds, f.messages_per_s, f.lost, f.repeated, f.gaps
        );
        println!(
            "  CPU per message: broker {:.3} µs, generator {:.3} µs; broker RssAnon {} KiB",
            f.broker_cpu_us_per_message, f.own_cpu_us_per_message, f.broker_rss_anon_kib
        );
        if let Some(l) = &self.latency {
            println!(
                "  latency µs: p50 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
                l.p50, l.p99, l.p999, l.max
            );
        }
        if let Some(path) = json {
            std::fs::write(path, serde_json::to_string_pretty(self)?)?;
        }
        Ok(())
    }
}
