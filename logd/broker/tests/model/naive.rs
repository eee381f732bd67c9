//! The naive model: every session keeps the list of all it was ever owed. No blocks, no intervals, no
//! cursors; it shares no code with the broker but the types of commands and outcomes.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_commands::command::{
    Command, Connect, NEVER, Progress, Publish, Settled, ToList, Wanted,
};
use fluxmq_commands::{Connected, Outcome};
use fluxmq_names::ErrorCode;

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) position: u64,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) own: bool,
    pub(crate) identifiers: Vec<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) position: u64,
    pub(crate) delay_s: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    pub(crate) owner: Option<(u64, u64)>,
    pub(crate) expiry_s: u32,
    pub(crate) window: u64,
    pub(crate) ends_ms: Option<u64>,
    pub(crate) will_ms: Option<u64>,
    pub(crate) will: Option<Will>,
    pub(crate) filters: BTreeMap<String, (u8, u32)>,
    pub(crate) owed: Vec<Message>,
    pub(crate) settled: BTreeSet<u64>,
    pub(crate) received: BTreeSet<u64>,
    pub(crate) sent_upto: u64,
    pub(crate) open_ids: BTreeMap<u16, u64>,
    pub(crate) next_publish: u64,
    pub(crate) replays: BTreeMap<u64, Replay>,
    pub(crate) last_replay: u64,
}

/// Shard → the topic looked at last, None when nothing more comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replay {
    pub(crate) filter: String,
    pub(crate) since: u64,
    pub(crate) shards: BTreeMap<u32, Option<Box<str>>>,
}

impl Replay {
    fn moves_to(&mut self, shard: u32, topic: &str) -> bool {
        let levels = |t: &str| t.split('/').map(String::from).collect::<Vec<_>>();
        let at = self.shards.entry(shard).or_insert_with(|| Some("".into()));
        let moves = at.as_ref().is_some_and(|at| at.is_empty() || levels(at) < levels(topic));
        if moves {
            *at = Some(topic.into());
        }
        moves
    }
}

impl Session {
    pub(crate) fn cursor(&self) -> u64 {
        (0..).find(|n| !self.settled.contains(n)).expect("there is always a next number")
    }

    fn settle(&mut self, sent_upto: u64, ranges: &[Settled]) {
        self.sent_upto = self.sent_upto.max(sent_upto);
        for r in ranges {
            let end = (r.first + u64::from(r.count)).min(self.sent_upto);
            for n in r.first..end.min(self.owed.len() as u64) {
                if r.received && !self.settled.contains(&n) {
                    self.received.insert(n);
                } else if !r.received {
                    self.settled.insert(n);
                    self.received.remove(&n);
                }
            }
        }
    }

    fn subscribe(&mut self, position: u64, w: &Wanted<'_>) -> (u8, bool) {
        let fresh = self.filters.insert(w.filter.into(), (w.options, w.identifier)).is_none();
        let handling = w.options >> 4 & 3;
        let replayed = w.options & 3 > 0 && (handling == 0 || handling == 1 && fresh);
        if replayed || w.options & 3 == 0 {
            self.replays.retain(|_, r| r.filter != w.filter);
        }
        if replayed {
            self.last_replay += 1;
            let replay =
                Replay { filter: w.filter.into(), since: position, shards: BTreeMap::new() };
            self.replays.insert(self.last_replay, replay);
        }
        (w.options & 3, fresh)
    }

    /// The number behind the first window of unsettled ones.
    fn window_end(&self) -> u64 {
        let unsettled = (0..).filter(|n| !self.settled.contains(n));
        unsettled.take(self.window as usize).last().map_or(self.cursor(), |n| n + 1)
    }

    /// Cut off: the window may have been sent, as far as it is there.
    fn cut_off(&mut self) {
        self.sent_upto = self.sent_upto.max(self.window_end().min(self.owed.len() as u64));
    }

    fn drained(&self) -> bool {
        self.cursor() >= self.owed.len() as u64
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) now_ms: u64,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) retained: BTreeMap<String, (u64, u8, Option<u64>)>,
    pub(crate) owed_wills: BTreeSet<u64>,
    pub(crate) keys: BTreeSet<(u64, u64)>,
    pub(crate) floors: BTreeMap<u64, u64>,
}

fn matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", f @ ..], [_, t @ ..]) => matches(f, t),
        ([a, f @ ..], [b, t @ ..]) if a == b => matches(f, t),
        _ => false,
    }
}

pub(crate) fn filter_matches(filter: &str, topic: &str) -> bool {
    let hidden = topic.starts_with('$') && (filter.starts_with('#') || filter.starts_with('+'));
    !hidden
        && matches(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>())
}

impl Model {
    pub(crate) fn apply(&mut self, gateway: u64, position: u64, command: &Command<'_>) -> Outcome {
        match command {
            Command::Publish(p) => self.publish(position, p),
            Command::Connect(c) => self.connect(gateway, position, c),
            Command::Disconnect { session, epoch, publish_will, expiry_s, sent_upto } => {
                self.with(*session, *epoch, gateway, |m, name| {
                    let s = m.sessions.get_mut(name).expect("found");
                    s.sent_upto = s.sent_upto.max(*sent_upto);
                    if !publish_will {
                        s.will = None;
                    }
                    s.expiry_s = expiry_s.unwrap_or(s.expiry_s);
                    m.detach(name);
                    Outcome::Done
                })
            }
            Command::Subscribe { session, epoch, filters } => {
                self.with(*session, *epoch, gateway, |m, name| {
                    let s = m.sessions.get_mut(name).expect("found");
                    let codes = filters.iter().map(|w| s.subscribe(position, w));
                    Outcome::Subscribed(codes.collect())
                })
            }
            Command::Unsubscribe { session, epoch, filters } => {
                self.with(*session, *epoch, gateway, |m, name| {
                    let s = m.sessions.get_mut(name).expect("found");
                    let code = |f: &&str| {
                        s.replays.retain(|_, r| r.filter != **f);
                        if s.filters.remove(*f).is_some() { 0 } else { 0x11 }
                    };
                    Outcome::Unsubscribed(filters.iter().map(code).collect())
                })
            }
            Command::Settle { session, epoch, sent_upto, ranges } => {
                self.with(*session, *epoch, gateway, |m, name| {
                    m.sessions.get_mut(name).expect("found").settle(*sent_upto, ranges);
                    Outcome::Done
                })
            }
            Command::Qos2Open { session, epoch, packet_id } => {
                self.with(*session, *epoch, gateway, |m, name| {
                    let s = m.sessions.get_mut(name).expect("found");
                    let next = s.next_publish;
                    let number = *s.open_ids.entry(*packet_id).or_insert(next);
                    s.next_publish += u64::from(number == next);
                    let lowest_open = s.open_ids.values().min().copied().unwrap_or(next);
                    Outcome::Opened { number, fresh: number == next, lowest_open }
                })
            }
            Command::Qos2Close { session, epoch, packet_id } => {
                self.with(*session, *epoch, gateway, |m, name| {
                    let s = m.sessions.get_mut(name).expect("found");
                    match s.open_ids.remove(packet_id) {
                        Some(_) => Outcome::Done,
                        None => Outcome::refused(ErrorCode::NotFound),
                    }
                })
            }
            _ => self.lead(position, command),
        }
    }

    fn lead(&mut self, position: u64, command: &Command<'_>) -> Outcome {
        match command {
            Command::Tick => self.tick(),
            Command::GatewayEnded { epoch } => {
                let names: Vec<_> = self.sessions.keys().cloned().collect();
                for name in names {
                    let s = self.sessions.get_mut(&name).expect("listed");
                    if s.owner.is_some_and(|(g, _)| g == *epoch) {
                        s.cut_off();
                        self.detach(&name);
                    }
                }
            }
            Command::OwedDone { id } => drop(self.owed_wills.remove(id)),
            Command::Trim { session, number } => {
                if let Some(s) = self.sessions.values_mut().find(|s| s.id == *session) {
                    let sent = s.sent_upto.max(s.cursor());
                    let spared = if s.owner.is_some() { u64::MAX } else { sent };
                    let spared = s.window_end().min(spared);
                    let end = (*number).min(s.owed.len() as u64);
                    s.settled.extend(spared..end.max(spared));
                    s.received.retain(|n| !s.settled.contains(n));
                }
            }
            Command::ReplayAt { session, replay, shard, after, progress } => {
                let s = self.sessions.values_mut().find(|s| s.id == *session);
                match (s, progress) {
                    (Some(s), Progress::Done) => drop(s.replays.remove(replay)),
                    (Some(s), _) => {
                        if let Some(r) = s.replays.get_mut(replay) {
                            if *progress == Progress::ShardDone {
                                r.shards.insert(*shard, None);
                            } else {
                                r.moves_to(*shard, after);
                            }
                        }
                    }
                    _ => {}
                }
            }
            Command::Publish(p) => return self.publish(position, p),
            _ => return Outcome::refused(ErrorCode::Forbidden),
        }
        Outcome::Done
    }

    fn with(
        &mut self,
        session: u64,
        epoch: u64,
        gateway: u64,
        work: impl FnOnce(&mut Self, &str) -> Outcome,
    ) -> Outcome {
        let found = self.sessions.iter().find(|(_, s)| s.id == session);
        let Some((name, s)) = found else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        if s.epoch != epoch || s.owner.is_none_or(|(g, _)| g != gateway) {
            return Outcome::Error { code: ErrorCode::StaleEpoch, detail: s.epoch };
        }
        let name = name.clone();
        work(self, &name)
    }

    fn publish(&mut self, position: u64, p: &Publish<'_>) -> Outcome {
        if let Some(list) = p.list {
            return self.copy_to_list(position, p, &list);
        }
        if self.is_repeat(p) {
            return Outcome::Published { matched: 1 };
        }
        if p.store {
            self.retained.remove(p.topic);
            if !p.empty {
                self.retained.insert(p.topic.into(), (position, p.qos, p.expiry_ms));
            }
        }
        let mut inboxes = BTreeSet::new();
        for s in self.sessions.values_mut().filter(|_| p.qos > 0) {
            let hits =
                s.filters.iter().filter(|(f, (o, _))| o & 3 > 0 && filter_matches(f, p.topic));
            let hits: Vec<_> = hits.collect();
            let Some(qos) = hits.iter().map(|(_, (o, _))| (o & 3).min(p.qos)).max() else {
                continue;
            };
            inboxes.extend(hits.iter().map(|(f, _)| (*f).clone()));
            let own = p.publisher == Some((0, s.id)) && hits.iter().all(|(_, (o, _))| o & 4 != 0);
            let retain = p.retain && hits.iter().any(|(_, (o, _))| o & 8 != 0);
            let all = s.filters.iter().filter(|(f, _)| filter_matches(f, p.topic));
            let mut identifiers: Vec<_> =
                all.map(|(_, (_, id))| *id).filter(|id| *id > 0).collect();
            identifiers.sort_unstable();
            s.owed.push(Message { position, qos, retain, own, identifiers });
        }
        Outcome::Published { matched: inboxes.len() as u32 + u32::from(p.store) }
    }

    fn is_repeat(&mut self, p: &Publish<'_>) -> bool {
        let Some(key) = p.key else { return false };
        let floor = self.floors.entry(key.id).or_default();
        *floor = (*floor).max(p.lowest_open.expect("always with a key"));
        key.n < *floor || !self.keys.insert((key.id, key.n))
    }

    fn copy_to_list(&mut self, position: u64, p: &Publish<'_>, list: &ToList<'_>) -> Outcome {
        let repeat = p.key.is_some_and(|k| self.keys.contains(&(k.id, k.n)));
        if repeat {
            return Outcome::Done;
        }
        let Some(s) = self.sessions.values_mut().find(|s| s.id == list.session) else {
            return Outcome::refused(ErrorCode::NotFound);
        };
        if list.replay != 0 {
            let Some(replay) = s.replays.get_mut(&list.replay) else {
                return Outcome::refused(ErrorCode::NotFound);
            };
            if !replay.moves_to(list.shard, p.topic)
                || list.shard == 0 && list.source >= replay.since
            {
                return Outcome::Done;
            }
        }
        let identifiers = Vec::new();
        s.owed.push(Message { position, qos: p.qos, retain: p.retain, own: false, identifiers });
        self.is_repeat(p);
        Outcome::Done
    }

    fn connect(&mut self, gateway: u64, position: u64, c: &Connect<'_>) -> Outcome {
        let mut previous = (0, 0);
        let mut present = false;
        if let Some(s) = self.sessions.get_mut(c.client_id) {
            let delayed = s.will.as_ref().is_some_and(|w| w.delay_s > 0);
            previous = s.owner.unwrap_or_default();
            if s.owner.is_some() {
                s.cut_off();
            }
            let will = s.will.take();
            if c.clean_start || (s.owner.is_some() && !delayed) {
                self.owed_wills.extend(will.map(|w| w.position));
            }
            present = !c.clean_start && s.expiry_s > 0;
            if !present {
                self.sessions.remove(c.client_id);
            }
        }
        let fresh = Session { id: position, ..Session::default() };
        let s = self.sessions.entry(c.client_id.into()).or_insert(fresh);
        s.window = if s.drained() { c.window.into() } else { s.window.max(c.window.into()) };
        s.epoch = position;
        s.owner = Some((gateway, c.token));
        s.expiry_s = c.expiry_s;
        (s.ends_ms, s.will_ms) = (None, None);
        s.will = c.will.map(|w| Will { position, delay_s: w.delay_s });
        let (session, sent_upto) = (s.id, s.sent_upto);
        Outcome::Connected(Connected { session, epoch: position, present, sent_upto, previous })
    }

    fn detach(&mut self, name: &str) {
        let s = self.sessions.get_mut(name).expect("found");
        s.owner = None;
        let expiry_ms = u64::from(s.expiry_s) * 1_000;
        if s.expiry_s == 0 || s.will.as_ref().is_some_and(|w| w.delay_s == 0) {
            self.owed_wills.extend(s.will.take().map(|w| w.position));
        }
        if s.expiry_s == 0 {
            self.sessions.remove(name);
            return;
        }
        s.ends_ms = (s.expiry_s != NEVER).then_some(self.now_ms + expiry_ms);
        let delay = |w: &Will| self.now_ms + (u64::from(w.delay_s) * 1_000).min(expiry_ms);
        s.will_ms = s.will.as_ref().map(delay);
    }

    fn tick(&mut self) {
        let now = self.now_ms;
        for s in self.sessions.values_mut() {
            let due = |ms: Option<u64>| ms.is_some_and(|ms| ms <= now);
            if due(s.will_ms) || due(s.ends_ms) {
                self.owed_wills.extend(s.will.take().map(|w| w.position));
                s.will_ms = None;
            }
        }
        self.sessions.retain(|_, s| s.ends_ms.is_none_or(|ms| ms > now));
        self.retained.retain(|_, (_, _, expiry)| expiry.is_none_or(|ms| ms > now));
    }
}
