//! What the ledger says at the end: what was acknowledged is there, QoS 2 once, in order; the last that was
//! acknowledged of each kept topic and session is what is found.

use std::collections::{BTreeSet, HashMap};

use crate::ledger::{Kind, Record};
use crate::load::{KEPT, SESSION, deletes, subscribes};

/// Who looks whether kept messages and sessions are there.
pub const INSPECTOR: &str = "inspector";
/// What he notes of a kept topic where nothing is, and of a session that is lost.
pub const NOTHING: u64 = u64::MAX;
/// What he notes of a session that is there and gets nothing, and of one that gets its messages.
pub const SILENT: u64 = 0;
/// See [`SILENT`].
pub const SUBSCRIBED: u64 = 1;

/// Counted faults and what was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged messages that a subscriber never got.
    pub missing: u64,
    /// QoS 2 messages a subscriber got again.
    pub twice: u64,
    /// QoS 1 messages a subscriber got again: allowed after a publisher or a subscriber has reconnected.
    pub repeated: u64,
    /// Messages that came after a later one of the same publisher.
    pub disorder: u64,
    /// Messages nobody sent.
    pub unknown: u64,
    /// Kept topics that were not as acknowledged.
    pub kept_wrong: u64,
    /// Sessions that were lost, or subscribed to something else than acknowledged.
    pub sessions_wrong: u64,
    /// Acknowledged messages.
    pub acknowledged: u64,
    /// Messages received, by all subscribers together.
    pub received: u64,
    /// Kept topics and sessions looked at.
    pub inspected: u64,
}

// === impl Verdict ===

impl Verdict {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let Self { missing, twice, disorder, unknown, kept_wrong, sessions_wrong, .. } = *self;
        missing + twice + disorder + unknown + kept_wrong + sessions_wrong == 0
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "acknowledged {} and missing {}, QoS 2 twice {}, out of order {}, never sent {}; \
             received {} (QoS 1 again {}); retained and sessions inspected {}, retained wrong {}, \
             sessions lost or wrong {}",
            self.acknowledged,
            self.missing,
            self.twice,
            self.disorder,
            self.unknown,
            self.received,
            self.repeated,
            self.inspected,
            self.kept_wrong,
            self.sessions_wrong
        )
    }
}

/// Judges the account of publishers (name and QoS), subscribers, and the inspector.
#[must_use]
pub fn judge(records: &[Record], publishers: &[(String, u8)], subscribers: &[String]) -> Verdict {
    let mut verdict = Verdict::default();
    for (publisher, qos) in publishers {
        let of = |kind| {
            let ours = move |r: &&Record| r.kind == kind && r.subject == *publisher;
            records.iter().filter(ours).map(|r| r.number)
        };
        let acknowledged: BTreeSet<u64> = of(Kind::Acknowledged).collect();
        verdict.acknowledged += acknowledged.len() as u64;
        let sent = of(Kind::Sent).max().map_or(0, |n| n + 1);
        for subscriber in subscribers {
            let subject = format!("{subscriber}<{publisher}");
            let mut seen = BTreeSet::new();
            for r in records.iter().filter(|r| r.kind == Kind::Received && r.subject == subject) {
                verdict.received += 1;
                verdict.unknown += u64::from(r.number >= sent);
                if seen.contains(&r.number) {
                    *(if *qos == 2 { &mut verdict.twice } else { &mut verdict.repeated }) += 1;
                } else if seen.last().is_some_and(|last| *last > r.number) {
                    verdict.disorder += 1;
                }
                seen.insert(r.number);
            }
            verdict.missing += acknowledged.difference(&seen).count() as u64;
        }
    }
    inspect(records, &mut verdict);
    verdict
}

/// What the inspector found, beside the last that was acknowledged before. He looks when nothing is under way.
fn inspect(records: &[Record], verdict: &mut Verdict) {
    let mut done: HashMap<&str, u64> = HashMap::new();
    for record in records {
        let subject = record.subject.as_str();
        if record.kind == Kind::Acknowledged {
            done.insert(subject, record.number);
        }
        let found = subject.strip_prefix(INSPECTOR).and_then(|s| s.strip_prefix('<'));
        let (Kind::Received, Some(subject)) = (record.kind, found) else { continue };
        let Some(last) = done.get(subject).copied() else { continue };
        verdict.inspected += 1;
        if subject.starts_with(KEPT) {
            let expected = if deletes(last) { NOTHING } else { last };
            verdict.kept_wrong += u64::from(record.number != expected);
        } else if subject.starts_with(SESSION) {
            let expected = if subscribes(last) { SUBSCRIBED } else { SILENT };
            verdict.sessions_wrong += u64::from(record.number != expected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(lines: &[(Kind, &str, u64)]) -> Vec<Record> {
        let record = |&(kind, subject, number): &(Kind, &str, u64)| {
            let subject = subject.to_owned();
            Record { kind, subject, number }
        };
        lines.iter().map(record).collect()
    }

    /// Two messages, sent and acknowledged, and what a subscriber got.
    fn verdict(qos: u8, got: &[u64]) -> Verdict {
        use Kind::{Acknowledged, Received, Sent};
        let mut lines = vec![(Sent, "p", 0), (Sent, "p", 1), (Acknowledged, "p", 0)];
        lines.push((Acknowledged, "p", 1));
        lines.extend(got.iter().map(|n| (Received, "s<p", *n)));
        judge(&account(&lines), &[("p".into(), qos)], &["s".into()])
    }

    #[test]
    fn each_fault_is_told() {
        assert!(verdict(2, &[0, 1]).is_good());
        assert_eq!(verdict(1, &[1]).missing, 1);
        assert_eq!(verdict(2, &[]).missing, 2);
        assert_eq!(verdict(2, &[0, 1, 1]).twice, 1);
        let again = verdict(1, &[0, 0, 1]);
        assert!(again.is_good() && again.repeated == 1);
        assert_eq!(verdict(1, &[1, 0]).disorder, 1);
        assert_eq!(verdict(1, &[0, 1, 2]).unknown, 1);
    }

    #[test]
    fn what_is_kept_must_be_what_was_acknowledged_last() {
        use Kind::{Acknowledged, Received};
        let wrong = |done: u64, found: u64, subject: &str| {
            let found_there = format!("{INSPECTOR}<{subject}");
            let lines = [(Acknowledged, subject, done), (Received, found_there.as_str(), found)];
            let verdict = judge(&account(&lines), &[], &[]);
            assert_eq!(verdict.inspected, 1);
            verdict.kept_wrong + verdict.sessions_wrong
        };
        assert_eq!(wrong(3, 3, "keep/7"), 0);
        assert_eq!(wrong(3, 2, "keep/7"), 1);
        assert_eq!(wrong(4, NOTHING, "keep/7"), 0);
        assert_eq!(wrong(4, 3, "keep/7"), 1);
        assert_eq!(wrong(0, SUBSCRIBED, "session-1"), 0);
        assert_eq!(wrong(2, SILENT, "session-1"), 0);
        assert_eq!(wrong(0, SILENT, "session-1"), 1);
        assert_eq!(wrong(2, NOTHING, "session-1"), 1);
    }
}
