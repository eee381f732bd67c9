//! Metrics of a gateway process, `fluxmq_gateway_*`: the counters of its routing threads, moved here once a second.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fluxmq_process::metrics::{Scrape, Source};

use crate::counters::Counters;

/// Counts of all routing threads since the start. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<[AtomicU64]>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Counters::NAMES.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

// === impl Metrics ===

impl Metrics {
    /// Moves what a routing thread has counted; call it there once a second.
    pub fn take(&self, counters: &Counters) {
        for (total, count) in self.0.iter().zip(counters.take()) {
            if count > 0 {
                total.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn total(&self, name: &str) -> u64 {
        let at = Counters::NAMES.iter().position(|(known, _)| *known == name);
        at.and_then(|at| self.0.get(at)).map_or(0, |total| total.load(Ordering::Relaxed))
    }
}

impl Source for Metrics {
    fn scrape(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        for ((name, help), total) in Counters::NAMES.iter().zip(self.0.iter()) {
            let name = format!("fluxmq_gateway_{name}");
            scrape.counter(&name, help, total.load(Ordering::Relaxed))?;
        }
        let open =
            self.total("connections_opened").saturating_sub(self.total("connections_closed"));
        scrape.gauge("fluxmq_gateway_connections", "Connections that are open", open)
    }
}

#[cfg(test)]
mod tests {
    use fluxmq_process::Program;

    use super::*;
    use crate::counters::add;

    #[test]
    fn what_threads_count_adds_up() {
        let (one, two, metrics) = (Counters::default(), Counters::default(), Metrics::default());
        let mut page = fluxmq_process::metrics::Metrics::new(Program::Fluxmq);
        page.add(metrics.clone());
        add(&one.connections_opened, 3);
        add(&two.connections_opened, 4);
        add(&two.connections_closed, 1);
        metrics.take(&one);
        metrics.take(&two);
        metrics.take(&two);
        let text = page.page().expect("it can be written");
        assert!(text.contains("\nfluxmq_gateway_connections_opened_total 7\n"), "{text}");
        assert!(text.contains("\nfluxmq_gateway_connections 6\n"), "{text}");
    }
}
