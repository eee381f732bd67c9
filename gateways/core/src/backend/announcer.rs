//! Filters of this gateway on their way to the others, one frame at a time (R1, R4).

use std::collections::HashSet;

use tokio::sync::oneshot;

/// Virtual host and filter.
pub(super) type FilterKey = (Box<str>, Box<str>);

/// What is to be announced and who waits until everybody knows it.
#[derive(Default)]
pub(super) struct Announcer {
    /// Other gateways exist: what changes is announced.
    pub(super) others: bool,
    changed: HashSet<FilterKey>,
    waiting: Vec<oneshot::Sender<()>>,
    /// The announcement on its way, and who waits for it.
    under_way: Option<(u64, Vec<oneshot::Sender<()>>)>,
}

// === impl Announcer ===

impl Announcer {
    /// The subscribers of a filter are others than before.
    pub(super) fn changed(&mut self, vhost: &str, filter: &str) {
        if self.others {
            self.changed.insert((vhost.into(), filter.into()));
        }
    }

    /// Nothing is on its way or to be sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.changed.is_empty() && self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Resolves when everybody knows what changed until now.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<()> {
        let (tx, rx) = oneshot::channel();
        self.waiting.push(tx);
        rx
    }

    /// What changed, if something is to be announced now, under `id`.
    pub(super) fn next(&mut self, id: u64) -> Option<HashSet<FilterKey>> {
        if self.under_way.is_some() || (self.changed.is_empty() && self.waiting.is_empty()) {
            return None;
        }
        self.under_way = Some((id, std::mem::take(&mut self.waiting)));
        Some(std::mem::take(&mut self.changed))
    }

    /// Everything is announced under `id`; whoever waits for something waits for this.
    pub(super) fn all(&mut self, id: u64) {
        self.changed.clear();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.extend(self.under_way.take().into_iter().flat_map(|(_, waiting)| waiting));
        self.under_way = Some((id, waiting));
    }

    /// Everybody knows the announcement `id`.
    pub(super) fn done(&mut self, id: u64) {
        if let Some((_, waiting)) = self.under_way.take_if(|(under_way, _)| *under_way == id) {
            for tx in waiting {
                // Whoever does not wait any more is gone.
                let _ = tx.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_who_waits_waits_for_his_own() {
        let mut announcer = Announcer::default();
        announcer.changed("/", "alone");
        assert!(announcer.is_quiet(), "nobody is there to know it");
        announcer.others = true;
        announcer.changed("/", "a");
        let mut first = announcer.wait();
        assert_eq!(announcer.next(1).map(|c| c.len()), Some(1));
        announcer.changed("/", "b");
        let mut second = announcer.wait();
        assert!(announcer.next(2).is_none(), "one is under way");
        announcer.done(7);
        assert!(first.try_recv().is_err());
        announcer.done(1);
        assert!(first.try_recv().is_ok());
        assert_eq!(announcer.next(2).map(|c| c.len()), Some(1));
        announcer.changed("/", "c");
        announcer.all(3);
        announcer.done(2);
        assert!(second.try_recv().is_err(), "it waits for the full set now");
        announcer.done(3);
        assert!(second.try_recv().is_ok());
        assert!(announcer.is_quiet());
    }
}
