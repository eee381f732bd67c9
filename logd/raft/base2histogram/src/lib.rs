//! Histograms for openraft's statistics (`[patch.crates-io]` in the workspace; `docs/adr/0001-openraft-pin.md`).
//!
//! openraft records into these whether anybody can read them or not: `Raft::runtime_stats` exists only with a feature that is off
//! here. The crate of this name, 0.2.3, makes tables for sixteen precisions when the first histogram is made: 27 MB in
//! every process, of which 2 KB are used. This one has what openraft calls, with a bucket for each power of two.

use std::fmt;
use std::marker::PhantomData;

/// One for 0, and one for each bit that can be the highest.
const BUCKETS: usize = 65;

/// Counts values by their highest bit.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    buckets: [u64; BUCKETS],
    of: PhantomData<T>,
}

/// Values below which so much of all lies: the lower end of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values recorded.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// Half.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

/// Histograms one below the other.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

// === impl Histogram ===

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], of: PhantomData }
    }
}

impl<T> Histogram<T> {
    /// Without values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        self.buckets[(u64::BITS - value.leading_zeros()) as usize] += count;
    }

    /// What is known of the values.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.buckets.iter().sum();
        let below = |per_mille: u64| self.lower_end(samples, per_mille);
        PercentileStats {
            samples,
            p0_1: below(1),
            p1: below(10),
            p5: below(50),
            p10: below(100),
            p50: below(500),
            p90: below(900),
            p99: below(990),
            p99_9: below(999),
        }
    }

    /// The lower end of the bucket up to which so many thousandths of the values lie.
    fn lower_end(&self, samples: u64, per_mille: u64) -> u64 {
        let wanted = (samples.saturating_mul(per_mille)).div_ceil(1_000);
        let mut seen = 0;
        let reached = self.buckets.iter().position(|count| {
            seen += count;
            seen > 0 && seen >= wanted
        });
        match reached {
            None | Some(0) => 0,
            Some(bit) => 1 << (bit - 1),
        }
    }
}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.percentile_stats(), f)
    }
}

// === impl PercentileStats ===

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "{samples} values, half up to {p50}, 90 % {p90}, 99 % {p99}, 99.9 % {p99_9}")
    }
}

// === impl AsciiChart ===

impl AsciiChart {
    /// Without histograms.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lower_ends_of_buckets() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99_9, 0);
        histogram.record_n(0, 5);
        histogram.record_n(100, 90);
        histogram.record_n(u64::MAX, 5);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p5, stats.p10, stats.p90), (100, 0, 64, 64));
        assert_eq!((stats.p99, stats.p99_9), (1 << 63, 1 << 63));
    }

    #[test]
    fn it_takes_no_more_than_its_buckets() {
        assert_eq!(size_of::<Histogram>(), BUCKETS * 8);
    }
}
