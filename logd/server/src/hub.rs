//! The hub: who subscribes where, told to every gateway in versions; leases and barriers (R1 to R4).
//!
//! No I/O and no clock: it is told what came and when, and leaves events to be sent. A *round* is what the
//! owner task handles at once: all changes in it travel as one version.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use fluxmq_client::contract::{Change, Class, Delta, Event, Source};
use tokio::sync::oneshot;

/// How long a gateway's lease holds from the sending of its request (R2).
pub(crate) const LEASE_MS: u64 = 6_000;
/// The hub counts from the receipt, and ten per cent more: clocks differ.
const LEASE_HERE_MS: u64 = LEASE_MS + LEASE_MS / 10;
/// A gateway that has not taken a version for so long gets no lease (R2).
const ACK_MS_MAX: u64 = 500;

/// Filters of one source: virtual host, filter and who is behind it.
type Filters = HashMap<(String, String), Class>;

/// A registered gateway.
struct Party {
    /// Its link, when it has one.
    link: Option<u64>,
    /// It is part of this process and lives as long.
    local: bool,
    /// When its lease ends here.
    lease_until_ms: u64,
    /// It was registered before this hub began and has not said what it has.
    unknown: bool,
    /// Its filters are complete. Nothing is announced while there are no other gateways.
    announced: bool,
    /// It has a table and routes by it.
    welcomed: bool,
    /// Its epoch goes on from an earlier link.
    resumed: bool,
    /// It may route by a table of an earlier link until it acknowledges this version.
    older_until: Option<u64>,
    /// Whether it was told that others exist.
    others: bool,
    filters: Filters,
    /// Versions that were sent and not acknowledged, and when.
    unacked: VecDeque<(u64, u64)>,
    /// Messages of `logd` itself by version, kept until they are acknowledged.
    lives: VecDeque<(u64, Bytes)>,
}

/// Who waits until everybody knows a version.
enum Waiter {
    Gateway { epoch: u64, id: u64 },
    Here(oneshot::Sender<()>),
}

/// Orders announcements and tells them.
pub(crate) struct Hub {
    shards: u32,
    version: u64,
    parties: BTreeMap<u64, Party>,
    /// Changes of this round.
    changed: BTreeMap<Source, Vec<Change>>,
    /// Full sets of this round.
    full: BTreeMap<u64, Vec<Change>>,
    lives: Vec<Bytes>,
    asked: Vec<Waiter>,
    barriers: Vec<(u64, Waiter)>,
    out: Vec<(u64, Event)>,
}

// === impl Hub ===

impl Hub {
    /// A hub that begins: `registered` gateways may still route by what an earlier hub told them.
    pub(crate) fn new(shards: u32, registered: impl Iterator<Item = u64>, now_ms: u64) -> Self {
        let unknown = |epoch| {
            let mut party = Party::new(None, false, now_ms + LEASE_HERE_MS);
            party.unknown = true;
            party.resumed = true;
            party.older_until = Some(u64::MAX);
            (epoch, party)
        };
        Self {
            shards,
            version: 0,
            parties: registered.map(unknown).collect(),
            changed: BTreeMap::new(),
            full: BTreeMap::new(),
            lives: Vec::new(),
            asked: Vec::new(),
            barriers: Vec::new(),
            out: Vec::new(),
        }
    }

    /// The gateway is registered and its lease has not run out.
    pub(crate) fn knows(&self, epoch: u64) -> bool {
        self.parties.contains_key(&epoch)
    }

    /// The link of a gateway.
    pub(crate) fn link_of(&self, epoch: u64) -> Option<u64> {
        self.parties.get(&epoch)?.link
    }

    /// A gateway that is new.
    pub(crate) fn join(&mut self, epoch: u64, link: u64, local: bool, now_ms: u64) {
        let until_ms = if local { u64::MAX } else { now_ms + LEASE_HERE_MS };
        let mut party = Party::new(Some(link), local, until_ms);
        // It has nothing, so that is known.
        party.announced = true;
        self.parties.insert(epoch, party);
        self.tell_others();
    }

    /// A gateway that comes back under the epoch it had; false when that has ended.
    pub(crate) fn resume(&mut self, epoch: u64, link: u64) -> bool {
        let Some(party) = self.parties.get_mut(&epoch) else { return false };
        party.link = Some(link);
        party.resumed = true;
        party.older_until = Some(u64::MAX);
        party.welcomed = false;
        party.announced = false;
        party.others = false;
        party.unacked.clear();
        true
    }

    /// The link is gone; the gateway is not, unless it is part of this process.
    pub(crate) fn link_lost(&mut self, link: u64) -> Option<u64> {
        let (epoch, party) = self.parties.iter_mut().find(|(_, p)| p.link == Some(link))?;
        party.link = None;
        party.local.then_some(*epoch)
    }

    /// The gateway is gone for good, by its word or by the end of its lease.
    pub(crate) fn end(&mut self, epoch: u64) {
        if self.parties.remove(&epoch).is_none() {
            return;
        }
        self.changed.remove(&Source::Gateway(epoch));
        self.full.remove(&epoch);
        let links: Vec<_> = self.parties.values().filter_map(|p| p.link).collect();
        self.out.extend(links.into_iter().map(|link| (link, Event::GatewayGone { epoch })));
        self.tell_others();
    }

    /// This process was stopped, or had no CPU, while leases ran out: what gateways asked for in the meantime lies
    /// unread. As when a hub begins, each that has a link has the length of a lease to say that it is there.
    pub(crate) fn woke_up(&mut self, now_ms: u64) {
        for party in self.parties.values_mut().filter(|p| !p.local && p.link.is_some()) {
            party.lease_until_ms = party.lease_until_ms.max(now_ms + LEASE_HERE_MS);
        }
    }

    /// Gateways whose lease has run out.
    pub(crate) fn expired(&self, now_ms: u64) -> Vec<u64> {
        let over = |p: &Party| p.lease_until_ms <= now_ms && !p.waits_for_us();
        self.parties.iter().filter(|(_, p)| over(p)).map(|(e, _)| *e).collect()
    }

    /// When the next lease runs out.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let leases = self.parties.values().filter(|p| !p.waits_for_us()).map(|p| p.lease_until_ms);
        leases.min().filter(|ms| *ms < u64::MAX)
    }

    /// What a gateway announces; `Done` follows when everybody knows it.
    pub(crate) fn announce(&mut self, epoch: u64, id: u64, full: bool, changes: Vec<Change>) {
        let Some(party) = self.parties.get_mut(&epoch) else { return };
        if full {
            party.filters.clear();
            party.announced = true;
            party.unknown = false;
            self.changed.remove(&Source::Gateway(epoch));
        }
        for change in &changes {
            let key = (change.vhost.clone(), change.filter.clone());
            match change.class {
                Class::Gone => drop(party.filters.remove(&key)),
                class => drop(party.filters.insert(key, class)),
            }
        }
        match full {
            true => drop(self.full.insert(epoch, changes)),
            false if changes.is_empty() => {}
            false => self.changed.entry(Source::Gateway(epoch)).or_default().extend(changes),
        }
        self.asked.push(Waiter::Gateway { epoch, id });
    }

    /// A filter of a shard's persistent sessions came or went.
    pub(crate) fn shard_changed(&mut self, shard: u32, vhost: &str, filter: &str, class: Class) {
        let change = Change { vhost: vhost.into(), filter: filter.into(), class };
        self.changed.entry(Source::Shard(shard)).or_default().push(change);
    }

    /// A message of `logd` itself for all live subscribers; `taken` resolves when every gateway has it.
    pub(crate) fn live(&mut self, command: Bytes, taken: oneshot::Sender<()>) {
        self.lives.push(command);
        self.asked.push(Waiter::Here(taken));
    }

    /// `known` resolves when every gateway routes by all that changed until now.
    pub(crate) fn barrier(&mut self, known: oneshot::Sender<()>) {
        self.asked.push(Waiter::Here(known));
    }

    /// The routes of a gateway have a version.
    pub(crate) fn acknowledged(&mut self, epoch: u64, version: u64) {
        let Some(party) = self.parties.get_mut(&epoch) else { return };
        party.older_until = party.older_until.filter(|needed| *needed > version);
        while party.unacked.front().is_some_and(|(v, _)| *v <= version) {
            party.unacked.pop_front();
        }
        while party.lives.front().is_some_and(|(v, _)| *v <= version) {
            party.lives.pop_front();
        }
    }

    /// A gateway asks for a lease, and gets one if it keeps up.
    pub(crate) fn renew(&mut self, epoch: u64, nonce: u64, now_ms: u64) {
        if self.parties.values().any(|p| p.unknown) {
            return;
        }
        let Some(party) = self.parties.get_mut(&epoch) else { return };
        let behind = party.unacked.front().is_some_and(|(_, sent)| sent + ACK_MS_MAX < now_ms);
        let (false, true, Some(link)) = (behind, party.welcomed, party.link) else { return };
        if !party.local {
            party.lease_until_ms = now_ms + LEASE_HERE_MS;
        }
        self.out.push((link, Event::Lease { nonce, lease_ms: LEASE_MS as u32 }));
    }

    /// Ends a round: everything that changed goes out as one version; whoever can be welcomed is;
    /// barriers that are reached are answered. `shard_filters` gives all filters of a shard.
    pub(crate) fn close_round(
        &mut self,
        now_ms: u64,
        shard_filters: &mut dyn FnMut(u32) -> Vec<Change>,
    ) -> Vec<(u64, Event)> {
        self.tell_version(now_ms);
        let version = self.version;
        self.barriers.extend(self.asked.drain(..).map(|waiter| (version, waiter)));
        self.welcome(now_ms, shard_filters);
        self.answer_barriers();
        std::mem::take(&mut self.out)
    }

    fn tell_version(&mut self, now_ms: u64) {
        let full = std::mem::take(&mut self.full);
        let changed = std::mem::take(&mut self.changed);
        let lives = std::mem::take(&mut self.lives);
        if full.is_empty() && changed.is_empty() && lives.is_empty() {
            return;
        }
        self.version += 1;
        let version = self.version;
        for (epoch, party) in &mut self.parties {
            party.lives.extend(lives.iter().map(|live| (version, live.clone())));
            let (true, Some(link)) = (party.welcomed, party.link) else { continue };
            let mine = |source: &Source| *source == Source::Gateway(*epoch);
            let mut deltas: Vec<_> = full
                .iter()
                .filter(|(e, _)| *e != epoch)
                .map(|(e, all)| Delta::new(Source::Gateway(*e), true, all.clone()))
                .collect();
            deltas.extend(
                changed
                    .iter()
                    .filter(|(source, _)| !mine(source))
                    .map(|(source, changes)| Delta::new(*source, false, changes.clone())),
            );
            if deltas.is_empty() && lives.is_empty() {
                continue;
            }
            let lives = lives.iter().map(|live| (link, Event::Live { command: live.clone() }));
            self.out.extend(lives);
            party.unacked.push_back((version, now_ms));
            self.out.push((link, Event::Deltas { version, deltas }));
        }
    }

    /// Tells every gateway whether it is alone. Who is not any more announces all it has.
    fn tell_others(&mut self) {
        let others = self.parties.len() > 1;
        for party in self.parties.values_mut().filter(|p| p.welcomed && p.others != others) {
            party.others = others;
            party.announced = !others;
            party.filters.clear();
            if let Some(link) = party.link {
                self.out.push((link, Event::Others(others)));
            }
        }
    }

    /// Gives a table to those who wait for one, once it is complete (R1).
    fn welcome(&mut self, now_ms: u64, shard_filters: &mut dyn FnMut(u32) -> Vec<Change>) {
        if self.parties.values().any(|p| !p.announced) {
            return;
        }
        let waiting: Vec<u64> = self
            .parties
            .iter()
            .filter(|(_, p)| !p.welcomed && p.link.is_some())
            .map(|(epoch, _)| *epoch)
            .collect();
        for epoch in waiting {
            let mut deltas: Vec<_> = (0..self.shards)
                .map(|shard| Delta::new(Source::Shard(shard), true, shard_filters(shard)))
                .collect();
            let others = self.parties.iter().filter(|(e, _)| **e != epoch);
            deltas.extend(others.map(|(e, p)| Delta::new(Source::Gateway(*e), true, p.all())));
            let version = self.version;
            let others = self.parties.len() > 1;
            let Some(party) = self.parties.get_mut(&epoch) else { continue };
            let Some(link) = party.link else { continue };
            party.welcomed = true;
            party.older_until = party.older_until.map(|_| version);
            party.others = others;
            party.unacked.push_back((version, now_ms));
            if !party.local {
                party.lease_until_ms = now_ms + LEASE_HERE_MS;
            }
            let lives = party.lives.iter().map(|(_, command)| command.clone());
            self.out.extend(lives.map(|command| (link, Event::Live { command })));
            let lease_ms = if party.local { 0 } else { LEASE_MS as u32 };
            let (gateway_epoch, shards, resumed) = (epoch, self.shards, party.resumed);
            let welcome = Event::Welcome { gateway_epoch, shards, resumed, lease_ms };
            self.out.push((link, Event::Deltas { version, deltas }));
            self.out.push((link, Event::Others(others)));
            self.out.push((link, welcome));
            if resumed {
                self.resend_to(epoch);
            }
        }
    }

    /// What was on its way to a gateway that lost its link is sent again by those who sent it.
    fn resend_to(&mut self, peer: u64) {
        let others = self.parties.iter().filter(|(e, p)| **e != peer && p.welcomed);
        let links: Vec<_> = others.filter_map(|(_, p)| p.link).collect();
        self.out.extend(links.into_iter().map(|link| (link, Event::Resend { peer })));
    }

    fn answer_barriers(&mut self) {
        if self.parties.values().any(|p| p.unknown) {
            return;
        }
        let parties = &self.parties;
        let (done, wait) = std::mem::take(&mut self.barriers)
            .into_iter()
            .partition(|(version, waiter)| is_known(parties, *version, waiter));
        self.barriers = wait;
        for (_, waiter) in done as Vec<(u64, Waiter)> {
            match waiter {
                Waiter::Here(tx) => drop(tx.send(())),
                Waiter::Gateway { epoch, id } => {
                    let link = self.link_of(epoch);
                    self.out.extend(link.map(|link| (link, Event::Done { id })));
                }
            }
        }
    }
}

/// Every gateway but the one that asks has the version in its routes. A table given later has it.
fn is_known(parties: &BTreeMap<u64, Party>, version: u64, waiter: &Waiter) -> bool {
    let asks = match waiter {
        Waiter::Gateway { epoch, .. } => *epoch,
        Waiter::Here(_) => 0,
    };
    // A fault planted to prove that the chaos harness finds it (design §12).
    if fluxmq_names::planted!("barrier_waits_for_nobody") {
        return true;
    }
    parties.iter().filter(|(epoch, _)| **epoch != asks).all(|(_, party)| {
        // Without a link it may still route by an older table, until its lease ends.
        party.link.is_some()
            && party.older_until.is_none()
            && party.unacked.front().is_none_or(|(v, _)| *v > version)
    })
}

// === impl Party ===

impl Party {
    fn new(link: Option<u64>, local: bool, lease_until_ms: u64) -> Self {
        Self {
            link,
            local,
            lease_until_ms,
            unknown: false,
            announced: false,
            welcomed: false,
            resumed: false,
            older_until: None,
            others: false,
            filters: Filters::new(),
            unacked: VecDeque::new(),
            lives: VecDeque::new(),
        }
    }

    /// It is back and has said what it has, but gets no table before others are back or gone: its lease must not run out
    /// with theirs. It routes nothing meanwhile.
    fn waits_for_us(&self) -> bool {
        // A fault planted to prove that the chaos harness finds it (design §12).
        if fluxmq_names::planted!("leases_end_together") {
            return false;
        }
        self.link.is_some() && self.announced && !self.welcomed
    }

    fn all(&self) -> Vec<Change> {
        let change = |((vhost, filter), class): (&(String, String), &Class)| Change {
            vhost: vhost.clone(),
            filter: filter.clone(),
            class: *class,
        };
        self.filters.iter().map(change).collect()
    }
}

#[cfg(test)]
mod tests;
