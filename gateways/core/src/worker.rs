//! What one routing thread owns and its connections share (design T1, T2).

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use fluxmq_client::contract::{Change, Class, Delta, Source};
use fluxmq_commands::command::{self, Command};

use crate::backend::{Backend, Router};
use crate::counters::{Counters, add};
use crate::message::{LiveMessage, Subscriber, WakeList};
use crate::replays::Replays;
use crate::route_table::{Destinations, RouteTable};
use crate::seen::Seen;
use crate::shared_group::Chosen;
use crate::timer_wheel::TimerWheel;

/// Bytes read from a socket at most at once; one buffer serves all connections of a thread.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Buffers kept for the next connection that has something to send.
const SPARE_BUFFERS_MAX: usize = 64;
/// Queues whose place is remembered.
const QUEUES_KNOWN_MAX: usize = 10_000;
/// A larger buffer is given back to the allocator.
const SPARE_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// The route table of one vhost on one thread.
pub type SharedTable = Rc<RefCell<RouteTable>>;

/// The state of one routing thread.
pub struct Worker {
    tables: RefCell<HashMap<Box<str>, SharedTable>>,
    wakes: RefCell<WakeList>,
    read_buffer: RefCell<Vec<u8>>,
    spare: RefCell<Vec<Vec<u8>>>,
    scratch: RefCell<Vec<u8>>,
    /// Deadlines of all connections.
    pub wheel: TimerWheel,
    /// What the hot path counts.
    pub counters: Counters,
    /// Who is being sent retained messages.
    pub replays: Replays,
    /// Queues by name, as they were found: shard and id.
    pub queues: RefCell<HashMap<Box<str>, (u32, u64)>>,
    draining: Cell<bool>,
    backend: OnceCell<Rc<Backend>>,
    connections: OnceCell<Rc<dyn Connections>>,
    seen: RefCell<Seen>,
}

/// All connections of a routing thread, whatever their protocol.
pub trait Connections {
    /// Says the client id of each to `logd`.
    fn register_all(&self);
    /// A connection has lost its client id to one of another gateway.
    fn taken(&self, client_id: &str, token: u64);
    /// This gateway's epoch has ended: all are closed, so that clients come back.
    fn lost(&self);
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            tables: RefCell::default(),
            wakes: RefCell::default(),
            read_buffer: RefCell::new(vec![0; READ_BUFFER_BYTES]),
            spare: RefCell::default(),
            scratch: RefCell::default(),
            wheel: TimerWheel::default(),
            counters: Counters::default(),
            replays: Replays::default(),
            queues: RefCell::default(),
            draining: Cell::new(false),
            backend: OnceCell::new(),
            connections: OnceCell::new(),
            seen: RefCell::default(),
        }
    }
}

// === impl Worker ===

impl Worker {
    /// The route table of `vhost`, made at first use.
    pub fn table(&self, vhost: &str) -> SharedTable {
        let mut tables = self.tables.borrow_mut();
        if let Some(table) = tables.get(vhost) {
            return table.clone();
        }
        tables.entry(vhost.into()).or_default().clone()
    }

    /// The thread's read buffer; held only while one connection reads and parses.
    pub fn read_buffer(&self) -> RefMut<'_, Vec<u8>> {
        self.read_buffer.borrow_mut()
    }

    /// The thread's empty scratch space, for one packet at a time.
    pub fn scratch(&self) -> RefMut<'_, Vec<u8>> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        scratch
    }

    /// An empty buffer for outgoing bytes.
    pub fn take_buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if buffer.capacity() <= SPARE_BUFFER_BYTES_MAX && spare.len() < SPARE_BUFFERS_MAX {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// Hands `message` to the live subscribers in `to` (R5, R7), and to one of each shared subscription that `chosen` leaves
    /// to this gateway. Wakes nobody yet.
    pub fn deliver_live(
        &self,
        to: &Destinations,
        message: &LiveMessage<'_>,
        publisher: Option<&Rc<dyn Subscriber>>,
        chosen: &Chosen,
    ) {
        let mut wakes = self.wakes.borrow_mut();
        for destination in &to.live {
            let skip = (destination.durable && message.qos > 0)
                || (destination.no_local
                    && publisher.is_some_and(|p| Rc::ptr_eq(p, &destination.subscriber)));
            if !skip && destination.subscriber.deliver(message, destination) {
                wakes.push(&destination.subscriber);
            }
        }
        let mut shared = 0;
        for (_, group) in to.shared.iter().enumerate().filter(|(at, _)| chosen.is_here(*at)) {
            shared += 1;
            if let Some(member) = group.deliver(message) {
                wakes.push(&member);
            }
        }
        add(&self.counters.delivered_live, (to.live.len() + shared) as u64);
    }

    /// Remembers where a queue is; some thousands are, and all are forgotten when there are more.
    pub fn remember_queue(&self, name: &str, at: (u32, u64)) {
        let mut queues = self.queues.borrow_mut();
        if queues.len() >= QUEUES_KNOWN_MAX {
            queues.clear();
        }
        queues.insert(name.into(), at);
    }

    /// Has `subscriber` woken at the end of the batch.
    pub fn wake_later(&self, subscriber: &Rc<dyn Subscriber>) {
        self.wakes.borrow_mut().push(subscriber);
    }

    /// Whether a message with a key is taken here for the first time (G2). Others always are.
    pub fn is_first(&self, publish: &command::Publish<'_>) -> bool {
        // A fault planted to prove that the chaos harness finds it (design §12).
        if fluxmq_names::planted!("qos2_key_forgotten") {
            return true;
        }
        publish.key.is_none_or(|key| self.seen.borrow_mut().take(key, publish.lowest_open))
    }

    /// Takes a message of `logd` or of another gateway.
    fn take_live(
        &self,
        bytes: &bytes::Bytes,
        choose: impl FnOnce(&Destinations, &command::Publish<'_>) -> Chosen,
    ) {
        let Ok((Command::Publish(publish), message)) = command::decode(bytes) else { return };
        let Some((head, payload)) = fluxmq_proto::message::split(message) else { return };
        add(&self.counters.relayed_in, 1);
        if !self.is_first(&publish) {
            return;
        }
        let to = self.table(publish.vhost).borrow().resolve(publish.topic);
        let message = LiveMessage {
            topic: publish.topic,
            qos: publish.qos,
            retain: publish.retain,
            expiry_ms: publish.expiry_ms,
            head,
            payload,
        };
        let chosen = choose(&to, &publish);
        self.deliver_live(&to, &message, None, &chosen);
    }

    /// Begins a batch: what is routed in it, is so under the lease (R3).
    pub fn begin_batch(&self) {
        self.backend.get().into_iter().for_each(|backend| backend.begin_batch());
    }

    /// Ends a batch: sends what queues for `logd`, wakes everybody who got something.
    pub fn end_batch(&self) {
        if let Some(backend) = self.backend.get() {
            backend.flush(self);
        }
        self.wakes.borrow_mut().wake_all();
    }

    /// The link to `logd`, once there is one.
    pub fn backend(&self) -> Option<&Rc<Backend>> {
        self.backend.get()
    }

    /// Sets the link to `logd`; the first one stays.
    pub fn set_backend(&self, backend: Rc<Backend>) {
        let _ = self.backend.set(backend);
    }

    /// Sets who holds the connections; the first one stays.
    pub fn set_connections(&self, connections: Rc<dyn Connections>) {
        let _ = self.connections.set(connections);
    }

    /// The gateway is going down: no new work is taken (G5).
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Starts draining.
    pub fn drain(&self) {
        self.draining.set(true);
    }
}

impl Router for Worker {
    fn delta(&self, delta: &Delta) {
        if delta.full {
            let tables: Vec<_> = self.tables.borrow().values().cloned().collect();
            tables.iter().for_each(|table| table.borrow_mut().forget(delta.source));
        }
        for change in &delta.changes {
            let table = self.table(&change.vhost);
            let mut table = table.borrow_mut();
            match delta.source {
                Source::Shard(shard) => {
                    table.set_shard(&change.filter, shard, change.class);
                }
                Source::Gateway(epoch) => table.set_gateway(&change.filter, epoch, change.class),
            }
        }
    }

    fn gateway_gone(&self, epoch: u64) {
        for table in self.tables.borrow().values() {
            table.borrow_mut().forget(Source::Gateway(epoch));
        }
    }

    fn live(&self, bytes: &bytes::Bytes) {
        let own = self.backend().map_or(0, |backend| backend.epoch());
        self.take_live(bytes, |to, publish| Chosen::by_all(to, publish.qos, own, bytes));
    }

    fn relayed(&self, bytes: &bytes::Bytes) {
        self.take_live(bytes, |to, publish| {
            // Mostly nothing is shared: no room is made.
            let groups: Vec<u64> = publish.groups().collect();
            // A fault planted to prove that the chaos harness finds it (design §12).
            if fluxmq_names::planted!("shared_by_each_gateway") {
                return Chosen::default();
            }
            Chosen::by_sender(to, &groups)
        });
    }

    fn class(&self, vhost: &str, filter: &str) -> Class {
        self.tables.borrow().get(vhost).map_or(Class::Gone, |t| t.borrow().class(filter))
    }

    fn filters(&self) -> Vec<Change> {
        let mut all = Vec::new();
        for (vhost, table) in self.tables.borrow().iter() {
            let change = |(filter, class)| Change { vhost: vhost.to_string(), filter, class };
            all.extend(table.borrow().live_filters().into_iter().map(change));
        }
        all
    }

    fn register_all(&self) {
        self.connections.get().into_iter().for_each(|c| c.register_all());
    }

    fn taken(&self, client_id: &str, token: u64) {
        self.connections.get().into_iter().for_each(|c| c.taken(client_id, token));
    }

    fn lost(&self) {
        self.connections.get().into_iter().for_each(|c| c.lost());
        self.seen.take();
    }

    fn end_batch(&self) {
        Self::end_batch(self);
    }
}

/// Unix time in ms.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
