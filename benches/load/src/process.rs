//! What a process used, by /proc.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// CPU time of `pids` together in µs, user and system, by the scheduler's own account in ns where the
/// kernel keeps it for each thread, so that short runs are not rounded to ticks.
pub(crate) fn cpu_us(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| process_cpu_us(*pid)).sum()
}

/// CPU time of this process in µs.
pub(crate) fn own_cpu_us() -> f64 {
    process_cpu_us(std::process::id())
}

fn process_cpu_us(pid: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0.0;
    };
    let of_thread = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.flatten().filter_map(of_thread).sum::<f64>() / 1_000.0
}

/// Anonymous memory of `pids` together, KiB.
pub(crate) fn rss_anon_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find(|l| l.starts_with("RssAnon:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// As many files as the system lets us have.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
