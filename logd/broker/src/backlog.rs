//! How much a session is owed, and up to where it is to be trimmed (R8). Nothing here changes the state: the leader
//! asks, and proposes TRIM.

use crate::broker::Broker;
use crate::buckets::BUCKETS;
use crate::inbox::Backlog;
use crate::session::{Interval, Session};

/// Intervals of which every two are compared: of sessions with more, the longest counts alone.
const COMPARED_MAX: usize = 64;

/// What a session is over its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// TRIM settles what lies below this number, but for what may be in flight.
    pub number: u64,
    /// Messages that drops.
    pub messages: u64,
}

// === impl Broker ===

impl Broker {
    /// Numbers of buckets, for [`Broker::sessions_of`].
    pub const SESSION_BUCKETS: usize = BUCKETS as usize;

    /// The sessions of one bucket, with the number of their intervals: every session is in one of
    /// [`Broker::SESSION_BUCKETS`].
    pub fn sessions_of(&self, bucket: usize) -> impl Iterator<Item = (u64, usize)> {
        self.state.sessions.bucket(bucket).map(|(id, s)| (id, s.intervals.len()))
    }

    /// What a session is owed, settled messages above its cursor left out. Messages that several of its filters
    /// match are counted once or, when there are so many filters that it is not looked at, too few are counted.
    #[must_use]
    pub fn backlog(&self, id: u64) -> Backlog {
        self.state.sessions.get(id).map_or_else(Backlog::default, |s| self.owed(s))
    }

    fn owed(&self, session: &Session) -> Backlog {
        let each: Vec<_> = session.intervals.values().map(|i| (i, self.inside(i))).collect();
        let all = each.iter().fold(Backlog::default(), |sum, (_, b)| sum + *b);
        let longest = each.iter().map(|(_, b)| *b).max_by_key(|b| b.messages).unwrap_or_default();
        // What two filters match lies in both: then only the longest is sure.
        let apart = each.len() <= COMPARED_MAX
            && each
                .iter()
                .enumerate()
                .all(|(n, (a, _))| each.iter().skip(n + 1).all(|(b, _)| !self.overlap(a, b)));
        let there = if apart { all } else { longest };
        let settled: u64 = session.settled.iter().map(|(first, end)| end - first).sum();
        let messages = there.messages.saturating_sub(settled);
        let share = u128::from(there.bytes) * u128::from(messages);
        let bytes = share / u128::from(there.messages.max(1));
        Backlog { messages, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) }
    }

    fn inside(&self, interval: &Interval) -> Backlog {
        let inbox = self.state.inboxes.get(interval.inbox);
        inbox.map_or_else(Backlog::default, |inbox| inbox.between(interval.at, interval.to))
    }

    /// Whether a message may lie in both. Intervals over one inbox lie behind one another.
    fn overlap(&self, a: &Interval, b: &Interval) -> bool {
        let filter = |i: &Interval| self.state.inboxes.get(i.inbox).map(|inbox| &*inbox.filter);
        let (Some(x), Some(y)) = (filter(a), filter(b)) else { return false };
        a.inbox != b.inbox && !x.is_empty() && !y.is_empty() && may_share(x, y)
    }

    /// What a session is over `limit`; None when it is not, or when all of it may be in flight.
    #[must_use]
    pub fn excess(&self, id: u64, limit: Backlog) -> Option<Excess> {
        let session = self.state.sessions.get(id)?;
        let owed = self.owed(session);
        let over = owed - limit;
        if over == Backlog::default() {
            return None;
        }
        let of_bytes = session.intervals.values().max_by_key(|i| self.inside(i).bytes);
        let of_bytes = of_bytes.filter(|_| over.bytes > 0).and_then(|interval| {
            let inbox = self.state.inboxes.get(interval.inbox)?;
            Some(inbox.messages_of(interval.at, over.bytes))
        });
        let spared = session.in_flight_end();
        let droppable = owed.messages.saturating_sub(session.unsettled_below(spared));
        let messages = over.messages.max(of_bytes.unwrap_or(0)).min(droppable);
        (messages > 0).then(|| Excess { number: session.behind(spared, messages), messages })
    }
}

/// Whether a topic may match both filters.
fn may_share(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_no_topic_matches_both_are_told_apart() {
        for (a, b) in [("a", "a"), ("a/+", "a/b"), ("#", "x"), ("a/#", "a"), ("a/#", "+/b/c")] {
            assert!(may_share(a, b) && may_share(b, a), "{a} {b}");
        }
        for (a, b) in [("a", "b"), ("a/+", "a"), ("a/+/c", "a/b/d"), ("a/#", "b/#")] {
            assert!(!may_share(a, b) && !may_share(b, a), "{a} {b}");
        }
    }
}
