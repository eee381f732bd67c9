//! Metrics of a process: where every part hands in what it counts, and what the operating system knows of the process.
//! Names of all metrics: `docs/telemetry.md`.
//!
//! A part counts as it likes and is asked at each scrape; nothing is counted here. No metric has a label that
//! comes from a client.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::program::Program;

/// Everything that a process tells.
pub struct Metrics(Registry);

/// Where a part writes its metrics at a scrape.
pub struct Scrape<'a>(DescriptorEncoder<'a>);

/// A part that has metrics.
pub trait Source: Send + Sync + 'static {
    /// Writes all of them. Called on the admin thread; it should not wait.
    ///
    /// # Errors
    /// Those of `scrape`.
    fn scrape(&self, scrape: &mut Scrape<'_>) -> fmt::Result;
}

// === impl Metrics ===

impl Metrics {
    /// The metrics that every process has.
    #[must_use]
    pub fn new(program: Program) -> Self {
        let mut registry = Registry::default();
        let build =
            Info::new([("program", program.name()), ("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("fluxmq_build", "Program and version", build);
        let mut metrics = Self(registry);
        metrics.add(Process { started: now() });
        metrics
    }

    /// Adds a part.
    pub fn add(&mut self, source: impl Source) {
        self.0.register_collector(Box::new(Part(source)));
    }

    /// The page, in the format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// A part has an error to tell.
    pub fn page(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.0)?;
        Ok(page)
    }
}

struct Part<S>(S);

impl<S> fmt::Debug for Part<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

impl<S: Source> Collector for Part<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.scrape(&mut Scrape(encoder))
    }
}

// === impl Scrape ===

impl Scrape<'_> {
    /// Something that only grows; it is shown as `{name}_total`.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.write(name, help, &ConstCounter::new(value))
    }

    /// As [`Self::counter`], for what is measured in parts, such as seconds.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn counter_f64(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.write(name, help, &ConstCounter::new(value))
    }

    /// Something that grows and shrinks.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.write(name, help, &ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn write(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let help = format!("{}.", help.trim().trim_end_matches('.'));
        metric.encode(self.0.encode_descriptor(name, &help, None, metric.metric_type())?)
    }
}

/// What the operating system knows of this process.
struct Process {
    /// Unix time, s.
    started: u64,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Source for Process {
    fn scrape(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_s = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        scrape.counter_f64("process_cpu_seconds", "CPU time of all threads, s", cpu_s)?;
        let start = "Unix time of the start, s";
        scrape.gauge("process_start_time_seconds", start, self.started)?;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = kib(&status, "VmRSS:") * 1024;
        scrape.gauge("process_resident_memory_bytes", "Memory of the process", resident)?;
        let anonymous = kib(&status, "RssAnon:") * 1024;
        let help = "Memory of the process without mapped files, such as segments of the log";
        scrape.gauge("process_anonymous_memory_bytes", help, anonymous)?;
        // Counting looks at the directory through a file of its own.
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() - 1);
        scrape.gauge("process_open_fds", "Open files and sockets", files as u64)?;
        let files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        scrape.gauge("process_max_fds", "Files and sockets that may be open", files_max)
    }
}

/// A figure of `/proc/self/status`, KiB.
fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    impl Source for Two {
        fn scrape(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
            scrape.counter("things", " Things that came.", 3)?;
            scrape.gauge("places", "Places", 4)
        }
    }

    #[test]
    fn parts_are_on_the_page() {
        let mut metrics = Metrics::new(Program::Logd);
        metrics.add(Two);
        let page = metrics.page().expect("it can be written");
        for line in [
            "# HELP things Things that came.\n# TYPE things counter\nthings_total 3\n",
            "# TYPE places gauge\nplaces 4\n",
            "fluxmq_build_info{program=\"logd\",version=\"",
            "# TYPE process_cpu_seconds counter\n",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn what_the_system_knows_is_there() {
        let page = Metrics::new(Program::Logd).page().expect("it can be written");
        let value = |name: &str| -> f64 {
            let line = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            line.expect(name).parse().expect("a number")
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        let (resident, anonymous) =
            (value("process_resident_memory_bytes"), value("process_anonymous_memory_bytes"));
        assert!(anonymous > 0.0 && anonymous < resident);
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_start_time_seconds") > 1.7e9);
    }
}
