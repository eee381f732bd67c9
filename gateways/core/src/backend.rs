//! The link to `logd`: commands in sequence and their outcomes, deliveries, announcements, the lease, and
//! messages of and to other gateways (design R1 to R6, T3). The link may be lost and made again: what was
//! not answered is said again, and the gateway goes on under the epoch it has.

mod announcer;
mod calls;
mod consumers;
mod events;
mod lease;
mod prefixes;
mod relay;
mod under_way;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use fluxmq_client::contract::{Change, Class, Delivery, Registration, Request, Role, Subscribed};
use fluxmq_client::{Link, Sender, Stream, boot_ms};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::ErrorCode;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use crate::message::Subscriber;
use announcer::Announcer;
use calls::{Calls, Reply};
use consumers::Consumers;
pub use consumers::{QueueGroup, QueueReceiver};
use lease::Lease;
use prefixes::Prefixes;
use relay::Relays;
use under_way::{HeldAcks, UnderWay};

pub use under_way::RetainedPublish;

/// Takes the outcome of a command.
pub type Waiter = Box<dyn FnOnce(&Outcome)>;

/// How long a publish may wait to be in everywhere (R5).
const PUBLISH_TIMEOUT_MS: u64 = 30_000;

/// A connection with a session in `logd`.
pub trait Receiver {
    /// A message the session is owed.
    fn delivery(&self, delivery: &Delivery);
    /// Another connection has the session now.
    fn taken(&self);
    /// The link is new: the session is to be opened again.
    fn reopen(&self);
}

/// What the routing thread does with what concerns all.
pub trait Router {
    /// Filters of a source changed; those of another gateway or of a shard.
    fn delta(&self, delta: &fluxmq_client::contract::Delta);
    /// Another gateway is gone.
    fn gateway_gone(&self, epoch: u64);
    /// A message of `logd` itself for live subscribers; all gateways get it.
    fn live(&self, command: &Bytes);
    /// A message of another gateway for live subscribers here.
    fn relayed(&self, command: &Bytes);
    /// Who stands behind a filter here.
    fn class(&self, vhost: &str, filter: &str) -> Class;
    /// All filters with live subscribers here.
    fn filters(&self) -> Vec<Change>;
    /// The client ids of all connections are to be registered.
    fn register_all(&self);
    /// A connection has lost its client id to one of another gateway.
    fn taken(&self, client_id: &str, token: u64);
    /// The epoch has ended: everything that was connected is to be closed.
    fn lost(&self);
    /// A batch of events is done.
    fn end_batch(&self);
}

/// A gateway's link to `logd`.
pub struct Backend {
    name: String,
    to: RefCell<Option<Sender<Request>>>,
    epoch: Cell<u64>,
    shards: Cell<u32>,
    welcome: Cell<bool>,
    hello_ms: Cell<u64>,
    lease: Lease,
    /// Whether the lease held when the batch at hand began.
    may_route: Cell<bool>,
    announcer: RefCell<Announcer>,
    prefixes: RefCell<Prefixes>,
    streams: RefCell<Vec<Stream<Waiter>>>,
    /// Some stream or relay may have something to send.
    unsent: Cell<bool>,
    relays: RefCell<Relays>,
    under_way: RefCell<UnderWay>,
    /// Versions that wait for some of them.
    acks: RefCell<HeldAcks>,
    calls: Calls,
    consumers: Consumers,
    receivers: RefCell<HashMap<u64, Rc<dyn Receiver>>>,
    /// Publishers that stopped reading because a window is used up or the lease has run out.
    held: RefCell<Vec<Rc<dyn Subscriber>>>,
    /// Bytes of deliveries that `logd` does not know to be taken.
    taken_bytes: Cell<u32>,
    next_id: Cell<u64>,
    /// Something was answered.
    answers: Notify,
    leaving: Cell<bool>,
}

// === impl Backend ===

impl Backend {
    /// Registers at `logd` and waits until it is welcome; filters come to `router` before. Events come from
    /// what is returned. None when `logd` is gone.
    pub async fn register(
        link: Link,
        name: &str,
        router: &dyn Router,
    ) -> Option<(Rc<Self>, UnboundedReceiver<fluxmq_client::contract::Event>)> {
        let backend = Rc::new(Self {
            name: name.into(),
            to: RefCell::new(None),
            epoch: Cell::new(0),
            shards: Cell::new(0),
            welcome: Cell::new(false),
            hello_ms: Cell::new(0),
            lease: Lease::default(),
            may_route: Cell::new(false),
            announcer: RefCell::default(),
            prefixes: RefCell::default(),
            streams: RefCell::default(),
            unsent: Cell::new(false),
            relays: RefCell::default(),
            under_way: RefCell::default(),
            acks: RefCell::default(),
            calls: Calls::default(),
            consumers: Consumers::default(),
            receivers: RefCell::default(),
            held: RefCell::default(),
            taken_bytes: Cell::new(0),
            next_id: Cell::new(1),
            answers: Notify::new(),
            leaving: Cell::new(false),
        });
        let from = backend.join(link, router).await?;
        Some((backend, from))
    }

    /// Goes on over a new link. None when that is lost before `logd` said welcome.
    pub async fn join(
        &self,
        link: Link,
        router: &dyn Router,
    ) -> Option<UnboundedReceiver<fluxmq_client::contract::Event>> {
        let Link { to, mut from } = link;
        self.welcome.set(false);
        self.acks.borrow_mut().clear();
        self.hello_ms.set(boot_ms());
        let epoch = self.epoch.get();
        to.send(Request::Hello { name: self.name.clone(), epoch, role: Role::Gateway });
        *self.to.borrow_mut() = Some(to);
        if epoch > 0 {
            self.announce_all(router);
        }
        while !self.welcome.get() {
            let event = from.recv().await;
            let Some(event) = event else {
                self.to.take();
                return None;
            };
            self.event(event, router);
        }
        router.end_batch();
        Some(from)
    }

    /// Handles events until the link is lost.
    pub async fn run(
        &self,
        mut from: UnboundedReceiver<fluxmq_client::contract::Event>,
        router: &dyn Router,
    ) {
        let mut events = Vec::new();
        while from.recv_many(&mut events, 256).await > 0 {
            events.drain(..).for_each(|event| self.event(event, router));
            let bytes = self.taken_bytes.take();
            if bytes > 0 {
                self.send(Request::Window { bytes });
            }
            router.end_batch();
        }
        self.to.take();
    }

    /// To be called about once a second: renews the lease, sends again what could not be taken, gives up
    /// what takes too long.
    pub fn tick(&self) {
        if !self.lease.is_endless() && self.welcome.get() {
            let nonce = self.lease.ask();
            self.send(Request::Renew { nonce });
        }
        self.acks.borrow_mut().tick();
        self.acknowledge();
        let before_ms = boot_ms().saturating_sub(PUBLISH_TIMEOUT_MS);
        let mut late = Vec::new();
        for (shard, stream) in self.streams.borrow_mut().iter_mut().enumerate() {
            late.extend(stream.give_up(before_ms));
            stream.retry(shard as u32).into_iter().for_each(|request| self.send(request));
        }
        late.into_iter().for_each(|w| w(&Outcome::refused(ErrorCode::Unavailable)));
    }

    /// Resolves when every command is answered.
    pub async fn all_answered(&self) {
        loop {
            let answer = self.answers.notified();
            if self.streams.borrow().iter().all(Stream::is_empty) {
                return;
            }
            answer.await;
        }
    }

    /// The gateway goes for good, and with it the link.
    pub fn leave(&self) {
        self.leaving.set(true);
        self.send(Request::Leave);
    }

    /// Whether the link is not to be made again.
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Number of data shards.
    pub fn shards(&self) -> u32 {
        self.shards.get()
    }

    /// A number nobody has.
    pub fn fresh_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    /// Whether the link stands, `logd` said welcome on it, and the lease holds.
    pub fn may_serve(&self) -> bool {
        self.to.borrow().is_some() && self.welcome.get() && self.lease.holds()
    }

    fn send(&self, request: Request) {
        if let Some(to) = self.to.borrow().as_ref() {
            to.send(request);
        }
    }

    // === commands ===

    /// Appends a command with its message to the stream of `shard`. `waiter` gets the outcome, in the
    /// order of the commands.
    pub fn submit(
        &self,
        shard: u32,
        command: &Command<'_>,
        message: &[&[u8]],
        waiter: Option<Waiter>,
    ) {
        let mut streams = self.streams.borrow_mut();
        let Some(stream) = streams.get_mut(shard as usize) else { return };
        self.unsent.set(true);
        if stream.push(command, message, waiter)
            && let Some(request) = stream.close_frame(shard, boot_ms())
        {
            self.send(request);
        }
    }

    /// Submits a command and waits for its outcome.
    pub async fn call(&self, shard: u32, command: &Command<'_>, message: &[&[u8]]) -> Outcome {
        let (tx, rx) = oneshot::channel();
        let waiter = Box::new(move |outcome: &Outcome| drop(tx.send(outcome.clone())));
        self.submit(shard, command, message, Some(waiter));
        self.flush_commands();
        rx.await.unwrap_or(Outcome::refused(ErrorCode::Unavailable))
    }

    /// Sends what queues: commands, relayed messages, announcements.
    pub fn flush(&self, router: &dyn Router) {
        self.flush_commands();
        self.flush_announcement(router);
    }

    fn flush_commands(&self) {
        if !self.unsent.take() {
            return;
        }
        let now = boot_ms();
        for (shard, stream) in self.streams.borrow_mut().iter_mut().enumerate() {
            if let Some(request) = stream.close_frame(shard as u32, now) {
                self.send(request);
            }
        }
        let settles = self.consumers.take_requests(&mut || self.fresh_id());
        settles.into_iter().for_each(|request| self.send(request));
        self.relays.borrow_mut().flush(|request| self.send(request));
    }

    /// Tests the lease; to be called behind each read and before what it brought is routed (R3).
    pub fn begin_batch(&self) {
        // A fault planted to prove that the chaos harness finds it (design §12).
        self.may_route.set(self.lease.holds() || fluxmq_names::planted!("lease_not_tested"));
    }

    /// Whether publishers must wait: a window is used up, or the lease has run out.
    pub fn is_blocked(&self) -> bool {
        !self.may_route.get()
            || self.streams.borrow().iter().any(Stream::is_full)
            || self.relays.borrow().is_full()
    }

    /// Whether packets of a publisher must wait; he is woken when that changes.
    pub fn must_wait(&self, publisher: &dyn Fn() -> Rc<dyn Subscriber>) -> bool {
        let blocked = self.is_blocked();
        if blocked {
            self.held.borrow_mut().push(publisher());
        }
        blocked
    }

    fn release_held(&self) {
        self.answers.notify_waiters();
        self.begin_batch();
        let held = std::mem::take(&mut *self.held.borrow_mut());
        held.into_iter().for_each(|publisher| publisher.wake());
    }

    // === other gateways ===

    /// Its epoch, as other gateways know it; 0 before it has one.
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Appends a message for live subscribers of the gateway `peer`. `waiter` is told when it has it, or is
    /// gone; without a waiter it is dropped when too much is on its way: false.
    pub fn relay(
        &self,
        peer: u64,
        command: &Command<'_>,
        message: &[&[u8]],
        waiter: Option<Waiter>,
    ) -> bool {
        self.unsent.set(true);
        // A fault planted to prove that the chaos harness finds it (design §12).
        let told = fluxmq_names::planted!("relay_acknowledged_before_taken");
        let waiter = waiter.map(|waiter| if told { told_already(waiter) } else { waiter });
        self.relays.borrow_mut().push(peer, command, message, waiter)
    }

    /// A retained publish is on its way to its shard; the number to end it by.
    pub fn begin_retained(&self, publish: RetainedPublish) -> u64 {
        self.under_way.borrow_mut().begin(publish)
    }

    /// Its shard has answered.
    pub fn end_retained(&self, number: u64) {
        self.under_way.borrow_mut().end(number);
        self.acks.borrow_mut().answered(number);
        self.acknowledge();
    }

    /// Retained publishes that cannot be read yet: the newest of each topic that matches, as PUBLISH commands.
    pub fn retained_under_way(&self, vhost: &str, filter: &str) -> Vec<Bytes> {
        self.under_way.borrow().matching(vhost, filter)
    }

    /// Whether other gateways exist.
    pub fn has_others(&self) -> bool {
        self.announcer.borrow().others
    }

    /// The subscribers of a filter changed.
    pub fn filter_changed(&self, vhost: &str, filter: &str) {
        self.announcer.borrow_mut().changed(vhost, filter);
    }

    /// Resolves when everybody knows the filters that changed until now; None when they do already.
    pub fn announced(&self) -> Option<oneshot::Receiver<()>> {
        let mut announcer = self.announcer.borrow_mut();
        (!announcer.is_quiet()).then(|| announcer.wait())
    }

    /// Waits until all gateways know what was applied before (R4).
    pub async fn barrier(&self, router: &dyn Router) {
        let known = self.announcer.borrow_mut().wait();
        self.flush_announcement(router);
        let _ = known.await;
    }

    fn flush_announcement(&self, router: &dyn Router) {
        if !self.welcome.get() {
            return;
        }
        let mut announcer = self.announcer.borrow_mut();
        if announcer.is_quiet() {
            return;
        }
        let id = self.fresh_id();
        let Some(changed) = announcer.next(id) else { return };
        let change = |(vhost, filter): (Box<str>, Box<str>)| {
            let class = router.class(&vhost, &filter);
            Change { vhost: vhost.into(), filter: filter.into(), class }
        };
        let changes = changed.into_iter().map(change).collect();
        let changes = self.prefixes.borrow_mut().announce(changes);
        self.send(Request::Announce { id, full: false, changes });
    }

    fn announce_all(&self, router: &dyn Router) {
        let id = self.fresh_id();
        self.announcer.borrow_mut().all(id);
        let mut prefixes = self.prefixes.borrow_mut();
        prefixes.clear();
        let changes = prefixes.announce(router.filters());
        self.send(Request::Announce { id, full: true, changes });
    }

    // === sessions ===

    /// Whether something durable exists of a client.
    pub async fn look(&self, token: u64, shard: u32, vhost: &str, client_id: &str) -> bool {
        self.ask_registered(token, shard, vhost, client_id, Registration::Look).await
    }

    /// Makes a connection the one of its client id among all gateways; returns, when whoever had it before
    /// is gone, whether something durable exists of the client (G1).
    pub async fn take_client_id(
        &self,
        token: u64,
        shard: u32,
        vhost: &str,
        client_id: &str,
    ) -> bool {
        self.ask_registered(token, shard, vhost, client_id, Registration::New).await
    }

    async fn ask_registered(
        &self,
        token: u64,
        shard: u32,
        vhost: &str,
        client_id: &str,
        how: Registration,
    ) -> bool {
        let (tx, rx) = oneshot::channel();
        let (vhost, client_id) = (vhost.to_owned(), client_id.to_owned());
        let request = Request::Register { token, shard, vhost, client_id, how };
        self.send(self.calls.ask(token, request, Reply::Registered(tx)));
        rx.await.unwrap_or(false)
    }

    /// Says again that a connection has its client id.
    pub fn register_again(&self, token: u64, shard: u32, vhost: &str, client_id: &str) {
        let (vhost, client_id) = (vhost.to_owned(), client_id.to_owned());
        let how = Registration::Again;
        self.send(Request::Register { token, shard, vhost, client_id, how });
    }

    /// The connection is gone, and everything it published is answered.
    pub fn unregister(&self, token: u64) {
        self.send(Request::Unregister { token });
    }

    /// Has deliveries for `token` go to `receiver`; returns the session's subscriptions. Nothing comes
    /// before credit is given.
    pub async fn open(
        &self,
        token: u64,
        shard: u32,
        session: u64,
        epoch: u64,
        receiver: Rc<dyn Receiver>,
    ) -> Option<Vec<Subscribed>> {
        let (tx, rx) = oneshot::channel();
        self.receivers.borrow_mut().insert(token, receiver);
        let request = Request::Open { token, shard, session, epoch, from: 0 };
        self.send(self.calls.ask(token, request, Reply::Opened(tx)));
        rx.await.ok().flatten()
    }

    /// Opens a session again, behind the number `from`, with room for `credit` messages.
    pub fn open_again(&self, open: Request, credit: u32) {
        let Request::Open { token, .. } = open else { return };
        self.send(open);
        self.credit(token, credit);
    }

    /// Nothing more is delivered to `token`.
    pub fn close(&self, token: u64) {
        if self.receivers.borrow_mut().remove(&token).is_some() {
            self.send(Request::Close { token });
        }
    }

    /// Room for more messages.
    pub fn credit(&self, token: u64, count: u32) {
        self.send(Request::Credit { token, count });
    }

    /// A page of retained messages of a shard, as PUBLISH commands, and whether there are more.
    pub async fn retained(
        &self,
        shard: u32,
        vhost: &str,
        filter: &str,
        after: &str,
    ) -> (Vec<Bytes>, bool) {
        let (tx, rx) = oneshot::channel();
        let id = self.fresh_id();
        let (vhost, filter) = (vhost.to_owned(), filter.to_owned());
        let after = after.to_owned();
        let request = Request::ReadRetained { id, shard, vhost, filter, after };
        self.send(self.calls.ask(id, request, Reply::Retained(tx)));
        rx.await.unwrap_or_default()
    }
}

/// A waiter whose owner is told at once.
fn told_already(waiter: Waiter) -> Waiter {
    waiter(&relay::TAKEN);
    Box::new(|_| {})
}

#[cfg(test)]
mod tests;
