//! Rates: a bucket of tokens that fills with time, and what a client is charged for.

use std::cell::RefCell;

/// Milli-tokens in a token.
const MILLI: i64 = 1_000;

/// Tokens that come at a rate; it holds one second's worth.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_s: u32,
    /// Milli-tokens; below 0 it is in debt.
    level: i64,
    filled_ms: u64,
}

// === impl Bucket ===

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_s: u32, now_ms: u64) -> Self {
        Self { per_s, level: i64::from(per_s) * MILLI, filled_ms: now_ms }
    }

    fn fill(&mut self, now_ms: u64) {
        let passed = i64::try_from(now_ms.saturating_sub(self.filled_ms)).unwrap_or(i64::MAX);
        let full = i64::from(self.per_s) * MILLI;
        self.level = passed.saturating_mul(self.per_s.into()).saturating_add(self.level).min(full);
        self.filled_ms = now_ms.max(self.filled_ms);
    }

    /// Takes `count` tokens if they are there.
    pub fn take(&mut self, count: u32, now_ms: u64) -> bool {
        self.fill(now_ms);
        let cost = i64::from(count) * MILLI;
        let there = self.level >= cost;
        if there {
            self.level -= cost;
        }
        there
    }

    /// Takes `count` tokens, on credit if need be; returns for how many ms the bucket is in debt then.
    pub fn charge(&mut self, count: u32, now_ms: u64) -> u64 {
        self.fill(now_ms);
        self.level -= i64::from(count) * MILLI;
        let debt = u64::try_from(-self.level).unwrap_or(0);
        debt.div_ceil(u64::from(self.per_s.max(1)))
    }
}

/// What one client may send; 0 = as much as it likes. Who sends more is not read for as long as that takes: nothing is
/// lost and nobody is sent away. As much as a second allows may come at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientRates {
    /// Messages a second.
    pub messages_per_s: u32,
    /// Bytes of messages a second.
    pub bytes_per_s: u32,
    /// Filters subscribed to a second.
    pub subscriptions_per_s: u32,
}

/// The rates of one client.
pub struct RateLimit {
    buckets: RefCell<[Option<Bucket>; 3]>,
}

// === impl RateLimit ===

impl RateLimit {
    /// None when nothing is limited.
    #[must_use]
    pub fn new(rates: &ClientRates, now_ms: u64) -> Option<Box<Self>> {
        let bucket = |per_s: u32| (per_s > 0).then(|| Bucket::new(per_s, now_ms));
        let all = [rates.messages_per_s, rates.bytes_per_s, rates.subscriptions_per_s].map(bucket);
        all.iter().any(Option::is_some).then(|| Box::new(Self { buckets: RefCell::new(all) }))
    }

    /// Charges a message of `bytes`; returns how long the client must not be read, ms.
    pub fn message(&self, bytes: usize, now_ms: u64) -> u64 {
        let [messages, sizes, _] = &mut *self.buckets.borrow_mut();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        charge(messages, 1, now_ms).max(charge(sizes, bytes, now_ms))
    }

    /// Charges `count` filters; returns how long the client must not be read, ms.
    pub fn subscribe(&self, count: usize, now_ms: u64) -> u64 {
        charge(&mut self.buckets.borrow_mut()[2], u32::try_from(count).unwrap_or(u32::MAX), now_ms)
    }
}

fn charge(bucket: &mut Option<Bucket>, count: u32, now_ms: u64) -> u64 {
    bucket.as_mut().map_or(0, |b| b.charge(count, now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_then_the_rate() {
        let mut bucket = Bucket::new(10, 0);
        assert_eq!(bucket.charge(10, 0), 0);
        assert_eq!(bucket.charge(1, 0), 100);
        assert_eq!(bucket.charge(4, 0), 500);
        assert_eq!(bucket.charge(0, 450), 50);
        assert_eq!(bucket.charge(0, 500), 0);
        assert_eq!(bucket.charge(10, 60_000), 0, "it holds no more than a second's worth");
        assert_eq!(bucket.charge(1, 60_000), 100);
        assert_eq!(bucket.charge(0, 0), 100, "a clock that goes back gives nothing");
        assert!(!bucket.take(1, 60_000) && bucket.take(1, 60_200));
    }

    #[test]
    fn each_kind_has_its_own_limit() {
        assert!(RateLimit::new(&ClientRates::default(), 0).is_none());
        let rates = ClientRates { messages_per_s: 2, bytes_per_s: 1_000, subscriptions_per_s: 1 };
        let limit = RateLimit::new(&rates, 0).expect("limits");
        assert_eq!(limit.message(500, 0), 0);
        assert_eq!(limit.message(1_500, 0), 1_000, "bytes");
        assert_eq!(limit.message(0, 0), 1_000);
        assert_eq!(limit.message(0, 0), 1_000, "messages: two on credit");
        assert_eq!(limit.subscribe(2, 0), 1_000);
    }
}
