//! The owner task: takes requests of gateways and effects of apply, one after the other.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use fluxmq_client::LogdLink;
use fluxmq_client::contract::{Event, Request, Submit};
use fluxmq_commands::command::{self, Batch, Command};
use fluxmq_commands::{Outcome, slot_of};
use fluxmq_names::{ErrorCode, Position, ShardId};
use logd_broker::{Broker, Effect};
use logd_raft::{CommandBatch, Group, SubmitError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::delivery::Delivery;
use crate::effects::Effects;

/// Retained messages of a page.
const PAGE: usize = 100;
/// Commands of a frame. What is above could not be an entry: its slots could not be named, and every node
/// would stop at it.
const FRAME_COMMANDS_MAX: usize = 32_768;
/// Bytes of a frame: the largest message and what travels with it, within `ENTRY_PAYLOAD_MAX` of the log.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024 + 256 * 1024;
/// Requests taken before something else has its turn.
const REQUESTS: usize = 256;

/// A request and the gateway it is from; None when the link ended.
type Incoming = (u64, Option<Request>);

/// A gateway of this process.
struct Gateway {
    epoch: u64,
    to: UnboundedSender<Event>,
}

/// The owner of everything volatile.
pub(crate) struct Core {
    meta: Group,
    shards: Vec<Group>,
    effects: Effects,
    gateways: HashMap<u64, Gateway>,
    next_gateway: u64,
    delivery: Delivery,
    incoming: UnboundedReceiver<Incoming>,
    inbox: UnboundedSender<Incoming>,
    /// Shards where work is left that the step limit cut off.
    unfinished: BTreeSet<u32>,
    /// Ends of gateways that are on their way: they are waited for before the groups stop.
    ending: Vec<JoinHandle<()>>,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(meta: Group, shards: Vec<Group>, effects: Effects) -> Self {
        let (inbox, incoming) = unbounded_channel();
        Self {
            meta,
            shards,
            effects,
            gateways: HashMap::new(),
            next_gateway: 0,
            delivery: Delivery::default(),
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

    /// Runs until nobody can connect any more.
    pub(crate) async fn run(mut self, mut links: UnboundedReceiver<LogdLink>) {
        self.start_owed_wills();
        let effects = self.effects.came.clone();
        let mut requests = Vec::new();
        loop {
            let due = self.next_due();
            tokio::select! {
                biased;
                () = effects.notified() => {}
                _ = self.incoming.recv_many(&mut requests, REQUESTS) => {}
                link = links.recv() => match link {
                    Some(link) => self.welcome(link),
                    None => break,
                },
                () = tokio::time::sleep(due) => self.tick(),
            }
            // What was applied comes first: a barrier answers for everything before it.
            self.take_effects();
            for (gateway, request) in requests.drain(..) {
                match request {
                    Some(request) => self.request(gateway, request).await,
                    None => self.gateway_gone(gateway),
                }
            }
            self.delivery.deliver(&self.shards);
            for (gateway, event) in self.delivery.take_events() {
                self.send(gateway, event);
            }
            self.ending.retain(|end| !end.is_finished());
        }
        for end in self.ending {
            let _ = end.await;
        }
    }

    fn welcome(&mut self, link: LogdLink) {
        self.next_gateway += 1;
        let id = self.next_gateway;
        self.gateways.insert(id, Gateway { epoch: 0, to: link.to });
        let inbox = self.inbox.clone();
        let mut from = link.from;
        tokio::spawn(async move {
            while let Some(request) = from.recv().await {
                if inbox.send((id, Some(request))).is_err() {
                    return;
                }
            }
            let _ = inbox.send((id, None));
        });
    }

    fn gateway_gone(&mut self, id: u64) {
        let Some(gateway) = self.gateways.remove(&id) else { return };
        self.delivery.forget_gateway(id);
        if gateway.epoch > 0 {
            let epoch = gateway.epoch;
            for group in self.groups() {
                self.ending.push(lead(&group, Command::GatewayEnded { epoch }));
            }
        }
    }

    fn send(&self, gateway: u64, event: Event) {
        if let Some(gateway) = self.gateways.get(&gateway) {
            let _ = gateway.to.send(event);
        }
    }

    async fn request(&mut self, from: u64, request: Request) {
        match request {
            Request::Hello { name } => self.hello(from, &name).await,
            Request::Submit(submit) => self.submit(from, submit),
            Request::Look { token, shard, vhost, client_id } => {
                let exists = self.shards.get(shard as usize).is_some_and(|group| {
                    group.with_state(|b| b.session_of(&vhost, &client_id).is_some())
                });
                self.send(from, Event::Looked { token, exists });
            }
            Request::Open { token, shard, session, epoch } => {
                let subscriptions =
                    self.delivery.open(&self.shards, from, token, shard, session, epoch);
                self.send(from, Event::Opened { token, subscriptions });
            }
            Request::Close { token } => self.delivery.close(from, token),
            Request::Credit { token, count } => self.delivery.credit(from, token, count),
            Request::Barrier { id } => self.send(from, Event::Barrier { id }),
            Request::ReadRetained { id, shard, vhost, filter, after } => {
                let (commands, more) = self.retained(shard, &vhost, &filter, &after);
                self.send(from, Event::Retained { id, commands, more });
            }
        }
    }

    async fn hello(&mut self, from: u64, name: &str) {
        let register = Command::GatewayRegister { name, address: "" };
        let Ok(Outcome::Gateway { epoch }) = self.meta.lead(&register).await else {
            tracing::error!("a gateway cannot register");
            self.gateways.remove(&from);
            return;
        };
        let shards = self.shards.len() as u32;
        if let Some(gateway) = self.gateways.get_mut(&from) {
            gateway.epoch = epoch;
        }
        // The filters of all shards come before the welcome: whoever is welcome knows them.
        for (shard, group) in self.shards.iter().enumerate() {
            let changes = group.with_state(|b| {
                b.filters().map(|(v, f)| (v.to_owned(), f.to_owned(), true)).collect()
            });
            self.send(from, Event::Filters { shard: shard as u32, changes });
        }
        self.send(from, Event::Welcome { gateway_epoch: epoch, shards });
    }

    fn submit(&mut self, from: u64, submit: Submit) {
        let Some(gateway) = self.gateways.get(&from).filter(|g| g.epoch > 0) else { return };
        let (shard, first_sequence) = (submit.shard, submit.first_sequence);
        let count = submit.ends.len() as u32;
        let to = gateway.to.clone();
        let refused = move |code| Event::Refused { shard, first_sequence, count, code };
        let Some(group) = self.shards.get(shard as usize) else {
            let _ = to.send(refused(ErrorCode::InvalidArgument));
            return;
        };
        if submit.ends.len() > FRAME_COMMANDS_MAX || submit.body.len() > FRAME_BYTES_MAX {
            let _ = to.send(refused(ErrorCode::TooLarge));
            return;
        }
        if !is_well_formed(&submit.ends, &submit.body) {
            let _ = to.send(refused(ErrorCode::Corrupt));
            return;
        }
        let head = Batch {
            gateway_epoch: gateway.epoch,
            stream: shard,
            first_sequence,
            count,
            crc: 0,
            confirmed_upto: submit.confirmed_upto,
        };
        let batch = CommandBatch { head, ends: submit.ends, body: submit.body };
        group.submit(
            batch,
            Box::new(move |result| {
                let _ = to.send(match result {
                    Ok(outcomes) => Event::Outcomes { shard, first_sequence, outcomes },
                    Err(SubmitError::DiskFull) => refused(ErrorCode::DiskFull),
                    Err(SubmitError::NotLeader) => refused(ErrorCode::NotLeader),
                    Err(SubmitError::Stopped) => refused(ErrorCode::Unavailable),
                });
            }),
        );
    }

    fn retained(&self, shard: u32, vhost: &str, filter: &str, after: &str) -> (Vec<Bytes>, bool) {
        let Some(group) = self.shards.get(shard as usize) else { return (Vec::new(), false) };
        let positions: Vec<u64> = group.with_state(|b| {
            b.retained_matching(vhost, filter, after, PAGE)
                .iter()
                .map(|(_, r)| r.position)
                .collect()
        });
        let more = positions.len() == PAGE;
        (positions.iter().filter_map(|p| read_command(group, *p)).collect(), more)
    }

    fn take_effects(&mut self) {
        let mut filters: HashMap<u32, Vec<(String, String, bool)>> = HashMap::new();
        for (shard, effect) in self.effects.take() {
            match effect {
                Effect::InboxGrew { inbox } => self.delivery.inbox_grew(shard.0, inbox),
                Effect::SessionChanged { session } => {
                    self.delivery.session_changed(&self.shards, shard.0, session);
                }
                Effect::SessionEnded { session } => self.delivery.session_ended(shard.0, session),
                Effect::SessionTaken { gateway_epoch, token, .. } => {
                    let old = self.gateways.iter().find(|(_, g)| g.epoch == gateway_epoch);
                    if let Some((id, gateway)) = old {
                        // Nothing is fetched for an old epoch any more (G1).
                        self.delivery.close(*id, token);
                        let _ = gateway.to.send(Event::Taken { token });
                    }
                }
                Effect::FilterAdded { vhost, filter } => {
                    filters.entry(shard.0).or_default().push((vhost.into(), filter.into(), true));
                }
                Effect::FilterRemoved { vhost, filter } => {
                    filters.entry(shard.0).or_default().push((vhost.into(), filter.into(), false));
                }
                Effect::WillOwed { id } => self.start_will(shard, id),
                Effect::GatewaysChanged => {}
                Effect::More => drop(self.unfinished.insert(shard.0)),
            }
        }
        for (shard, changes) in filters {
            for gateway in self.gateways.values().filter(|g| g.epoch > 0) {
                let _ = gateway.to.send(Event::Filters { shard, changes: changes.clone() });
            }
        }
        if !self.unfinished.is_empty() {
            self.tick();
        }
    }

    /// How long until a shard has something to do by time.
    fn next_due(&self) -> Duration {
        let due = self.shards.iter().filter_map(|g| g.with_state(Broker::next_due)).min();
        let Some(due) = due else { return Duration::from_secs(3_600) };
        Duration::from_millis(due.saturating_sub(now_ms()).clamp(1, 3_600_000))
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
        let gateways = self.gateways.values().map(|g| g.to.clone()).collect();
        tokio::spawn(crate::wills::publish(self.shards.clone(), shard, id, gateways));
    }
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

/// The PUBLISH (or CONNECT) command at a position, from the log.
pub(crate) fn read_command(group: &Group, position: u64) -> Option<Bytes> {
    let position = Position(position);
    let entry = group.log().entry(position.index()).ok().flatten()?;
    slot_of(&entry, position.slot())
}

/// Every command of a gateway's frame can be decoded and is one that gateways may send.
fn is_well_formed(ends: &[u32], body: &[u8]) -> bool {
    let mut start = 0;
    for end in ends {
        let slot = body.get(start as usize..*end as usize);
        let ours = |c: &Command<'_>| !matches!(c, Command::Batch(_));
        if !slot.and_then(|s| command::decode(s).ok()).is_some_and(|(c, _)| ours(&c)) {
            return false;
        }
        start = *end;
    }
    start as usize == body.len()
}

/// Unix time, ms.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
