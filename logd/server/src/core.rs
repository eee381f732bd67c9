//! The owner task: takes requests of gateways and effects of apply, one after the other.

mod consumers;
mod gateways;
mod requests;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fluxmq_client::contract::{Change, Class, Event, Request, Role};
use fluxmq_client::{LogdLink, Sender, boot_ms};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::ShardId;
use logd_broker::{Backlog, Broker, Effect, Wants};
use logd_log::Disk;
use logd_raft::{Group, SubmitError};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::requests::Waiting;
use crate::backlog::Backlogs;
use crate::delivery::{Delivery, SessionKey};
use crate::effects::Effects;
use crate::entries::Entries;
use crate::hub::Hub;
use crate::programs::{ADDRESS, Programs};
use crate::queues::{About, Held, Moves, Queues, Reads};
use crate::registrations::Registrations;
use crate::replay::Replays;
use crate::status::Status;
use crate::windows::Windows;

/// Requests taken before something else has its turn.
const REQUESTS: usize = 256;
/// An owner that runs so much later than it wanted was stopped. Renewals come each second: less takes no lease.
const LATE_MS: u64 = 2_000;

/// What comes to the owner task.
pub(crate) enum Incoming {
    /// A request over a link.
    Request(u64, Request),
    /// A link ended.
    Lost(u64),
    /// A gateway is registered in meta, or cannot be; `previous` had its name before.
    Registered { link: u64, epoch: Option<u64>, previous: Option<u64> },
    /// A message for all live subscribers; answered when every gateway has it.
    Live { command: Bytes, taken: oneshot::Sender<()> },
    /// What a command proposed for queues led to.
    Proposed { about: About, result: Result<Outcome, SubmitError> },
    /// Commands of a link that settle messages are done, or were not taken.
    Settled { frame: FrameKey, held: Held, result: Result<Vec<Outcome>, SubmitError> },
    /// The dead letters of a shard are moved.
    Moved { shard: u32 },
    /// A page of retained messages was copied to a session, or could not be.
    Replayed(SessionKey),
    /// A session that was over its limit was trimmed; 0 messages when it could not be.
    Trimmed { session: SessionKey, messages: u64 },
    /// The other shards have forgotten ended sessions of this one, as far as they are there.
    Forgotten(u32),
}

/// A frame of commands: the epoch of who sends it, shard, sequence of its first command.
type FrameKey = (u64, u32, u64);

/// A link to a gateway.
struct Linked {
    /// 0 before it is registered.
    epoch: u64,
    role: Role,
    to: Sender<Event>,
    local: bool,
    /// Bytes of commands that were taken in and are not answered.
    unanswered: Arc<AtomicUsize>,
}

/// The owner of everything volatile.
pub(crate) struct Core {
    meta: Group,
    shards: Vec<Group>,
    effects: Effects,
    links: HashMap<u64, Linked>,
    next_link: u64,
    hub: Hub,
    registrations: Registrations,
    delivery: Delivery,
    programs: Programs,
    queues: Queues,
    reads: Reads,
    moves: Moves,
    /// By epoch, after a restart.
    waiting: BTreeMap<u64, Waiting>,
    /// Frames under way that settle what consumers hold.
    frames: HashSet<FrameKey>,
    windows: Windows,
    entries: Entries,
    replays: Replays,
    backlogs: Backlogs,
    /// Shards whose ended sessions are being forgotten by the others.
    forgetting: BTreeSet<u32>,
    incoming: UnboundedReceiver<Incoming>,
    inbox: UnboundedSender<Incoming>,
    /// Shards where work is left that the step limit cut off.
    unfinished: BTreeSet<u32>,
    /// Ends of gateways that are on their way: they are waited for before the groups stop.
    ending: Vec<JoinHandle<()>>,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(meta: Group, shards: Vec<Group>, effects: Effects, limit: Backlog) -> Self {
        let backlogs = Backlogs::new(shards.len(), limit);
        let (inbox, incoming) = unbounded_channel();
        let (programs, gateways): (Vec<_>, Vec<_>) = meta.with_state(|b| {
            let known = b.gateways().map(|(_, epoch, address)| (epoch, address == ADDRESS));
            known.partition(|(_, is_program)| *is_program)
        });
        let epochs = |known: &[(u64, bool)]| known.iter().map(|(e, _)| *e).collect::<Vec<_>>();
        let (programs, gateways) = (epochs(&programs), epochs(&gateways));
        let all = programs.iter().chain(&gateways).copied();
        let queues = Queues::new(&shards, all, boot_ms());
        let programs = Programs::new(programs.into_iter(), boot_ms());
        let hub = Hub::new(shards.len() as u32, gateways.into_iter(), boot_ms());
        Self {
            meta,
            shards,
            effects,
            links: HashMap::new(),
            next_link: 0,
            hub,
            registrations: Registrations::default(),
            delivery: Delivery::default(),
            programs,
            queues,
            reads: Reads::default(),
            moves: Moves::default(),
            frames: HashSet::new(),
            waiting: BTreeMap::new(),
            windows: Windows::default(),
            entries: Entries::default(),
            replays: Replays::default(),
            backlogs,
            forgetting: BTreeSet::new(),
            incoming,
            inbox,
            unfinished: BTreeSet::new(),
            ending: Vec::new(),
        }
    }

    /// All groups, meta last.
    pub(crate) fn groups(&self) -> Vec<Group> {
        self.shards.iter().chain([&self.meta]).cloned().collect()
    }

    /// A look at it for others, on `runtime`.
    pub(crate) fn status(&self, disk: Disk, runtime: Handle) -> Status {
        let counts = self.effects.counts.clone();
        Status { disk, shards: self.shards.clone(), meta: self.meta.clone(), counts, runtime }
    }

    /// Runs until nobody can connect any more.
    pub(crate) async fn run(mut self, mut links: UnboundedReceiver<LogdLink>) {
        self.start_owed_wills();
        self.start_owed_moves();
        (0..self.shards.len() as u32).for_each(|shard| self.forget_ended(shard));
        let effects = self.effects.came.clone();
        let mut came = Vec::new();
        let mut wanted_ms = u64::MAX;
        loop {
            // Never put off: what comes all the time must not keep what is due from its turn.
            wanted_ms = wanted_ms.min(boot_ms() + self.next_due_ms());
            let in_ms =
                if self.delivery.goes_on() { 0 } else { wanted_ms.saturating_sub(boot_ms()) };
            let due = Duration::from_millis(in_ms);
            tokio::select! {
                biased;
                () = effects.notified() => {}
                _ = self.incoming.recv_many(&mut came, REQUESTS) => {}
                link = links.recv() => match link {
                    Some(link) => self.linked(link),
                    None => break,
                },
                () = tokio::time::sleep(due) => {}
            }
            let now = boot_ms();
            if now > wanted_ms.saturating_add(LATE_MS) {
                self.hub.woke_up(now);
            }
            if now >= wanted_ms {
                wanted_ms = u64::MAX;
                self.on_time();
            }
            // What was applied comes first: a barrier answers for everything before it.
            self.take_effects();
            came.drain(..).for_each(|incoming| self.take(incoming));
            self.delivery.deliver(&self.shards, &mut self.windows, &mut self.entries);
            for (link, deliveries) in self.delivery.take_deliveries() {
                let counted = &self.effects.counts.deliveries;
                counted.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
                self.send(link, Event::Deliveries(deliveries));
            }
            self.submit_what_waited();
            self.serve_queues();
            self.serve_replays();
            self.backlogs.look(boot_ms(), &self.shards, &self.inbox);
            self.say_registrations();
            self.close_round();
            self.ending.retain(|end| !end.is_finished());
        }
        for end in self.ending {
            let _ = end.await;
        }
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Request(link, request) => self.request(link, request),
            Incoming::Lost(link) => self.link_lost(link),
            Incoming::Registered { link, epoch, previous } => {
                self.registered(link, epoch, previous);
            }
            Incoming::Live { command, taken } => self.hub.live(command, taken),
            Incoming::Proposed { about, result } => self.proposed(about, result),
            Incoming::Settled { frame, held, result } => {
                self.frames.remove(&frame);
                self.commands_done(held, &result);
            }
            Incoming::Moved { shard } => self.moved(shard),
            Incoming::Replayed(session) => self.replayed(session),
            Incoming::Trimmed { session, messages } => self.trimmed(session, messages),
            Incoming::Forgotten(shard) => {
                self.forgetting.remove(&shard);
                self.forget_ended(shard);
            }
        }
    }

    fn send(&self, link: u64, event: Event) {
        if let Some(link) = self.links.get(&link) {
            link.to.send(event);
        }
    }

    fn close_round(&mut self) {
        let shards = &self.shards;
        let events = self.hub.close_round(boot_ms(), &mut |shard| filters_of(shards, shard));
        events.into_iter().for_each(|(link, event)| self.send(link, event));
    }

    fn take_effects(&mut self) {
        for (shard, effect) in self.effects.take() {
            match effect {
                Effect::InboxGrew { inbox } => {
                    self.delivery.inbox_grew(shard.0, inbox);
                    self.backlogs.grew(shard.0, boot_ms());
                }
                Effect::SessionChanged { session } => {
                    self.delivery.session_changed(&self.shards, shard.0, session);
                }
                Effect::SessionEnded { session } => {
                    self.delivery.session_ended(shard.0, session);
                    self.forget_ended(shard.0);
                }
                Effect::ReplayWanted { session } => self.delivery.replay_wanted((shard.0, session)),
                Effect::SessionTaken { session, gateway_epoch, token } => {
                    self.session_taken(shard, session, (gateway_epoch, token));
                }
                Effect::FilterAdded { vhost, filter }
                | Effect::FilterRemoved { vhost, filter }
                | Effect::BindingsChanged { vhost, filter } => {
                    let Some(group) = self.shards.get(shard.0 as usize) else { continue };
                    let class = group.with_state(|b| class_of(b, &vhost, &filter));
                    self.hub.shard_changed(shard.0, &vhost, &filter, class);
                }
                Effect::WillOwed { id } => self.start_will(shard, id),
                Effect::GatewaysChanged => {}
                Effect::QueueGrew { .. }
                | Effect::QueueReturned { .. }
                | Effect::QueueChanged { .. }
                | Effect::GroupChanged { .. }
                | Effect::MoveOwed { .. } => self.queue_effect(shard.0, &effect),
                Effect::More => drop(self.unfinished.insert(shard.0)),
            }
        }
        if !self.unfinished.is_empty() {
            self.tick();
        }
    }

    fn session_taken(&mut self, shard: ShardId, session: u64, (epoch, token): (u64, u64)) {
        let Some(link) = self.hub.link_of(epoch) else { return };
        // Nothing is fetched for an old epoch any more (G1).
        self.delivery.close(link, token);
        let client_id = self.shards.get(shard.0 as usize).and_then(|group| {
            group.with_state(|b| b.session(session).map(|s| s.client_id.to_string()))
        });
        let client_id = client_id.unwrap_or_default();
        self.send(link, Event::Taken { token, client_id });
    }

    /// How long until something is to be done by time, 1 ms to an hour.
    fn next_due_ms(&self) -> u64 {
        let of_shard = |b: &Broker| {
            let expiry = b.next_expiry().map(|(ms, _)| ms);
            b.next_due().into_iter().chain(expiry).min()
        };
        let shards = self.shards.iter().filter_map(|g| g.with_state(of_shard));
        let shards = shards.chain(self.queues.next_return_ms()).min();
        let shards = shards.map(|due| due.saturating_sub(now_ms()));
        let here = [
            self.hub.next_due_ms(),
            self.registrations.next_due_ms(),
            self.backlogs.next_due_ms(),
            self.programs.next_due_ms(),
            self.queues.next_due_ms(),
            self.reads.next_due_ms(),
        ];
        let here = here.into_iter().flatten().min();
        let here = here.map(|due| due.saturating_sub(boot_ms()));
        let due = shards.into_iter().chain(here).min().unwrap_or(3_600_000);
        due.clamp(1, 3_600_000)
    }

    fn on_time(&mut self) {
        self.tick();
        let now = boot_ms();
        self.registrations.expire(now);
        for epoch in self.hub.expired(now) {
            tracing::warn!(epoch, "the lease of a gateway has run out");
            self.end_gateway(epoch);
        }
        for epoch in self.programs.expired(now) {
            self.end_gateway(epoch);
        }
        self.queues_on_time();
    }

    fn tick(&mut self) {
        let unfinished = std::mem::take(&mut self.unfinished);
        let now = now_ms();
        for (shard, group) in self.shards.iter().enumerate() {
            let due = group.with_state(|b| b.next_due().is_some_and(|ms| ms <= now));
            if due || unfinished.contains(&(shard as u32)) {
                drop(lead(group, Command::Tick));
            }
        }
    }

    fn start_owed_wills(&mut self) {
        for (shard, group) in self.shards.clone().iter().enumerate() {
            let owed: Vec<_> = group.with_state(|b| b.owed_wills().map(|(id, _)| id).collect());
            owed.into_iter().for_each(|id| self.start_will(ShardId(shard as u32), id));
        }
    }

    fn start_will(&self, shard: ShardId, id: u64) {
        tokio::spawn(crate::wills::publish(self.shards.clone(), shard, id, self.inbox.clone()));
    }
}

/// What a shard wants of the messages of a filter.
fn class_of(broker: &Broker, vhost: &str, filter: &str) -> Class {
    match broker.wanted(vhost, filter) {
        Some(Wants::Every) => Class::Every,
        Some(Wants::Acknowledged) => Class::All,
        None => Class::Gone,
    }
}

/// All filters of a shard's persistent sessions and bound queues.
fn filters_of(shards: &[Group], shard: u32) -> Vec<Change> {
    let Some(group) = shards.get(shard as usize) else { return Vec::new() };
    group.with_state(|b| {
        let filters: BTreeSet<_> = b.filters().chain(b.bindings()).collect();
        let change = |(vhost, filter): (&str, &str)| Change {
            vhost: vhost.into(),
            filter: filter.into(),
            class: class_of(b, vhost, filter),
        };
        filters.into_iter().map(change).collect()
    })
}

/// Proposes a command of the leader; nobody waits for it.
pub(crate) fn lead(group: &Group, command: Command<'static>) -> JoinHandle<()> {
    let group = group.clone();
    tokio::spawn(async move {
        if let Err(error) = group.lead(&command).await {
            tracing::warn!(%error, "a command of the leader was not taken");
        }
    })
}

/// Unix time, ms.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
