//! What a run cost: CPU time and memory of the broker's processes and of this one, syncs of the disk, and
//! what the broker's own metrics page counted meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::options::Target;
use crate::process;

/// Values by metric name, labels summed up.
pub(crate) type Metrics = BTreeMap<String, f64>;

/// How long a metrics page may take.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// Readings at the start of a run.
pub(crate) struct Meter {
    target: Target,
    cpu_us: f64,
    own_cpu_us: f64,
    rss_anon_kib: u64,
    flushes: Option<u64>,
    metrics: Metrics,
}

/// What a run used.
pub(crate) struct Used {
    pub(crate) cpu_us: f64,
    pub(crate) own_cpu_us: f64,
    /// Anonymous memory at the end, and by how much it grew.
    pub(crate) rss_anon_kib: u64,
    pub(crate) rss_anon_growth_kib: i64,
    /// Cache flushes that all disks completed, whoever asked for them; None where the kernel does not say.
    pub(crate) disk_flushes: Option<u64>,
    /// Growth of the broker's metrics.
    pub(crate) metrics: Metrics,
}

// === impl Meter ===

impl Meter {
    pub(crate) fn start(target: &Target) -> Self {
        Self {
            target: target.clone(),
            rss_anon_kib: process::rss_anon_kib(&target.pids),
            flushes: flushes(),
            metrics: target.metrics.map(page).unwrap_or_default(),
            own_cpu_us: process::own_cpu_us(),
            cpu_us: process::cpu_us(&target.pids),
        }
    }

    pub(crate) fn read(&self) -> Used {
        let cpu_us = process::cpu_us(&self.target.pids) - self.cpu_us;
        let own_cpu_us = process::own_cpu_us() - self.own_cpu_us;
        let rss_anon_kib = process::rss_anon_kib(&self.target.pids);
        let mut metrics = self.target.metrics.map(page).unwrap_or_default();
        for (name, value) in &mut metrics {
            *value -= self.metrics.get(name).copied().unwrap_or(0.0);
        }
        metrics.retain(|_, value| *value != 0.0);
        Used {
            cpu_us,
            own_cpu_us,
            rss_anon_kib,
            rss_anon_growth_kib: rss_anon_kib.cast_signed() - self.rss_anon_kib.cast_signed(),
            disk_flushes: flushes().zip(self.flushes).map(|(now, then)| now - then),
            metrics,
        }
    }
}

/// Flushes of all whole disks, by /proc/diskstats (17 fields since Linux 5.5; the sixteenth counts them).
fn flushes() -> Option<u64> {
    let text = fs::read_to_string("/proc/diskstats").ok()?;
    let of = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let whole = fs::exists(format!("/sys/block/{}", fields.get(2)?)).unwrap_or(false);
        whole.then(|| fields.get(18)?.parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(of).reduce(|a, b| a + b)
}

/// A page of metrics in the text format of Prometheus; empty when there is none.
fn page(addr: SocketAddr) -> Metrics {
    let Ok(text) = get(addr) else { return Metrics::new() };
    let mut metrics = Metrics::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.split('{').next().unwrap_or(name);
        if let Ok(value) = value.parse::<f64>() {
            *metrics.entry(name.to_owned()).or_default() += value;
        }
    }
    metrics
}

fn get(addr: SocketAddr) -> std::io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&addr, PAGE_MAX)?;
    socket.set_read_timeout(Some(PAGE_MAX))?;
    write!(socket, "GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}
