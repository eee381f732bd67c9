//! Programs that use the log directly: each has an epoch, under which it goes on over a new link (Q1). They
//! route nothing, so nobody waits for them, and they have no lease.

use std::collections::BTreeMap;

/// How long the epoch of a program without a link lives, ms: so long what it says again is taken once.
const EPOCH_MS: u64 = 300_000;

/// What meta holds as the address of a program, where gateways have their own.
pub(crate) const ADDRESS: &str = "program";

struct Program {
    link: Option<u64>,
    until_ms: u64,
}

/// Registered programs, by epoch.
#[derive(Default)]
pub(crate) struct Programs {
    all: BTreeMap<u64, Program>,
}

// === impl Programs ===

impl Programs {
    /// Programs that meta knows; they may come back.
    pub(crate) fn new(registered: impl Iterator<Item = u64>, now_ms: u64) -> Self {
        let until_ms = now_ms + EPOCH_MS;
        Self { all: registered.map(|epoch| (epoch, Program { link: None, until_ms })).collect() }
    }

    /// One that is new, or comes back over another link; gives the link it had.
    pub(crate) fn joined(&mut self, epoch: u64, link: u64) -> Option<u64> {
        let program = Program { link: Some(link), until_ms: u64::MAX };
        self.all.insert(epoch, program).and_then(|before| before.link)
    }

    /// Whether its epoch goes on.
    pub(crate) fn knows(&self, epoch: u64) -> bool {
        self.all.contains_key(&epoch)
    }

    /// The link of a program.
    pub(crate) fn link_of(&self, epoch: u64) -> Option<u64> {
        self.all.get(&epoch)?.link
    }

    /// Its link is gone; it may come back.
    pub(crate) fn link_lost(&mut self, link: u64, now_ms: u64) {
        if let Some(program) = self.all.values_mut().find(|p| p.link == Some(link)) {
            *program = Program { link: None, until_ms: now_ms + EPOCH_MS };
        }
    }

    /// It is gone for good.
    pub(crate) fn end(&mut self, epoch: u64) {
        self.all.remove(&epoch);
    }

    /// Programs that stayed away too long.
    pub(crate) fn expired(&self, now_ms: u64) -> Vec<u64> {
        self.all.iter().filter(|(_, p)| p.until_ms <= now_ms).map(|(epoch, _)| *epoch).collect()
    }

    /// When the next of them has.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.all.values().map(|p| p.until_ms).min().filter(|ms| *ms < u64::MAX)
    }
}
