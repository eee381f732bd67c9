//! What one routing thread owns and its connections share (design T1, T2).

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use fluxmq_commands::command::{self, Command};

use crate::backend::{Backend, Router};
use crate::counters::{Counters, add};
use crate::message::{LiveMessage, Subscriber, WakeList};
use crate::route_table::{Destinations, RouteTable};
use crate::timer_wheel::TimerWheel;

/// Bytes read from a socket at most at once; one buffer serves all connections of a thread.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Buffers kept for the next connection that has something to send.
const SPARE_BUFFERS_MAX: usize = 64;
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
    draining: Cell<bool>,
    backend: OnceCell<Rc<Backend>>,
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
            draining: Cell::new(false),
            backend: OnceCell::new(),
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

    /// Hands `message` to the live subscribers in `to` (R5, R7). Wakes nobody yet.
    pub fn deliver_live(
        &self,
        to: &Destinations,
        message: &LiveMessage<'_>,
        publisher: Option<&Rc<dyn Subscriber>>,
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
        add(&self.counters.delivered_live, to.live.len() as u64);
    }

    /// Has `subscriber` woken at the end of the batch.
    pub fn wake_later(&self, subscriber: &Rc<dyn Subscriber>) {
        self.wakes.borrow_mut().push(subscriber);
    }

    /// Ends a batch: sends what queues for `logd`, wakes everybody who got something.
    pub fn end_batch(&self) {
        if let Some(backend) = self.backend.get() {
            backend.flush();
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
    fn filters(&self, shard: u32, changes: &[(String, String, bool)]) {
        for (vhost, filter, present) in changes {
            self.table(vhost).borrow_mut().set_shard(filter, shard, *present);
        }
    }

    fn live(&self, bytes: &bytes::Bytes) {
        let Ok((Command::Publish(publish), message)) = command::decode(bytes) else { return };
        let Some((head, payload)) = fluxmq_proto::message::split(message) else { return };
        let to = self.table(publish.vhost).borrow().resolve(publish.topic);
        let message = LiveMessage {
            topic: publish.topic,
            qos: publish.qos,
            retain: publish.retain,
            expiry_ms: publish.expiry_ms,
            head,
            payload,
        };
        self.deliver_live(&to, &message, None);
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
