//! The streams to `logd`: commands in sequence, their outcomes, deliveries (design R5, T3).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use fluxmq_client::contract::{Delivery, Event, Request, Submit, Subscribed};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::ErrorCode;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::message::Subscriber;

/// Bytes of commands a stream may have unanswered; beyond it publishers are not read (T3).
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Bytes after which a frame goes out within a batch.
const FRAME_BYTES: usize = 64 * 1024;

/// Takes the outcome of a command.
pub type Waiter = Box<dyn FnOnce(&Outcome)>;

/// Retained messages as PUBLISH commands, and whether there are more.
type Page = (Vec<Bytes>, bool);

/// A connection with a session in `logd`.
pub trait Receiver {
    /// A message the session is owed.
    fn delivery(&self, delivery: &Delivery);
    /// Another connection has the session now.
    fn taken(&self);
}

/// The commands to one shard.
#[derive(Default)]
struct Stream {
    /// Sequence of the last command sent; the first is 1.
    sent: u64,
    /// Commands sent and not answered.
    in_flight: u64,
    /// Outcomes up to here were seen.
    confirmed: u64,
    /// A refusal used up no sequence: when nothing is in flight any more, this one is next (Q1).
    resync: Option<u64>,
    ends: Vec<u32>,
    body: Vec<u8>,
    /// Who waits, in the order of the commands, and how long each command is.
    waiters: VecDeque<(Option<Waiter>, u32)>,
    unanswered_bytes: usize,
}

/// A gateway's link to `logd`.
pub struct Backend {
    to: UnboundedSender<Request>,
    shards: Cell<u32>,
    streams: RefCell<Vec<Stream>>,
    receivers: RefCell<HashMap<u64, Rc<dyn Receiver>>>,
    looks: RefCell<HashMap<u64, oneshot::Sender<bool>>>,
    opens: RefCell<HashMap<u64, oneshot::Sender<Option<Vec<Subscribed>>>>>,
    barriers: RefCell<HashMap<u64, oneshot::Sender<()>>>,
    pages: RefCell<HashMap<u64, oneshot::Sender<Page>>>,
    /// Publishers that stopped reading because the window is used up.
    held: RefCell<Vec<Rc<dyn Subscriber>>>,
    next_id: Cell<u64>,
}

/// What the routing thread does with what concerns all.
pub trait Router {
    /// Filters of persistent sessions in a shard changed.
    fn filters(&self, shard: u32, changes: &[(String, String, bool)]);
    /// A message of `logd` itself for live subscribers.
    fn live(&self, command: &Bytes);
    /// A batch of events is done.
    fn end_batch(&self);
}

// === impl Backend ===

impl Backend {
    /// Registers at `logd` and waits until it is welcome; filters come to `router` before.
    /// None when `logd` is gone.
    pub async fn register(
        to: UnboundedSender<Request>,
        from: &mut UnboundedReceiver<Event>,
        name: &str,
        router: &dyn Router,
    ) -> Option<Rc<Self>> {
        to.send(Request::Hello { name: name.into() }).ok()?;
        let backend = Rc::new(Self {
            to,
            shards: Cell::new(0),
            streams: RefCell::default(),
            receivers: RefCell::default(),
            looks: RefCell::default(),
            opens: RefCell::default(),
            barriers: RefCell::default(),
            pages: RefCell::default(),
            held: RefCell::default(),
            next_id: Cell::new(1),
        });
        while backend.shards.get() == 0 {
            let event = from.recv().await?;
            backend.event(event, router);
        }
        Some(backend)
    }

    /// Handles events until `logd` is gone.
    pub async fn run(&self, mut from: UnboundedReceiver<Event>, router: &dyn Router) {
        let mut events = Vec::new();
        while from.recv_many(&mut events, 256).await > 0 {
            events.drain(..).for_each(|event| self.event(event, router));
            router.end_batch();
        }
    }

    /// Number of data shards.
    pub fn shards(&self) -> u32 {
        self.shards.get()
    }

    /// A number nobody has.
    pub fn fresh_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

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
        let before = stream.body.len();
        command.encode(&[], &mut stream.body);
        message.iter().for_each(|part| stream.body.extend_from_slice(part));
        let len = stream.body.len() - before;
        stream.ends.push(u32::try_from(stream.body.len()).unwrap_or(u32::MAX));
        stream.unanswered_bytes += len;
        stream.waiters.push_back((waiter, u32::try_from(len).unwrap_or(u32::MAX)));
        if stream.body.len() >= FRAME_BYTES {
            self.flush_stream(shard, stream);
        }
    }

    /// Submits a command and waits for its outcome.
    pub async fn call(&self, shard: u32, command: &Command<'_>, message: &[&[u8]]) -> Outcome {
        let (tx, rx) = oneshot::channel();
        let waiter = Box::new(move |outcome: &Outcome| drop(tx.send(outcome.clone())));
        self.submit(shard, command, message, Some(waiter));
        self.flush();
        rx.await.unwrap_or(Outcome::refused(ErrorCode::Unavailable))
    }

    /// Sends what queues.
    pub fn flush(&self) {
        for (shard, stream) in self.streams.borrow_mut().iter_mut().enumerate() {
            if !stream.ends.is_empty() {
                self.flush_stream(shard as u32, stream);
            }
        }
    }

    fn flush_stream(&self, shard: u32, stream: &mut Stream) {
        if stream.resync.is_some() {
            // What is in flight is refused as out of sequence; this would be as well.
            return;
        }
        let ends = std::mem::take(&mut stream.ends);
        let first_sequence = stream.sent + 1;
        stream.sent += ends.len() as u64;
        stream.in_flight += ends.len() as u64;
        let body = std::mem::take(&mut stream.body).into();
        let confirmed_upto = stream.confirmed;
        let submit = Submit { shard, first_sequence, confirmed_upto, ends, body };
        let _ = self.to.send(Request::Submit(submit));
    }

    /// `count` commands were answered; `next` is the sequence that `logd` waits for when they were refused.
    fn note_answered(&self, shard: u32, count: u64, next: Option<u64>) {
        let mut streams = self.streams.borrow_mut();
        let Some(stream) = streams.get_mut(shard as usize) else { return };
        stream.in_flight = stream.in_flight.saturating_sub(count);
        stream.resync = match (stream.resync, next) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if stream.in_flight == 0
            && let Some(next) = stream.resync.take()
        {
            stream.sent = next - 1;
        }
    }

    fn note_confirmed(&self, shard: u32, sequence: u64) {
        if let Some(stream) = self.streams.borrow_mut().get_mut(shard as usize) {
            stream.confirmed = stream.confirmed.max(sequence);
        }
    }

    /// Whether a stream's window is used up; `publisher` is woken when there is room again.
    pub fn must_wait(&self, publisher: &dyn Fn() -> Rc<dyn Subscriber>) -> bool {
        let full = self.streams.borrow().iter().any(|s| s.unanswered_bytes >= WINDOW_BYTES);
        if full {
            self.held.borrow_mut().push(publisher());
        }
        full
    }

    /// Whether something durable exists of a client.
    pub async fn look(&self, shard: u32, vhost: &str, client_id: &str) -> bool {
        let (tx, rx) = oneshot::channel();
        let token = self.fresh_id();
        self.looks.borrow_mut().insert(token, tx);
        let (vhost, client_id) = (vhost.to_owned(), client_id.to_owned());
        let _ = self.to.send(Request::Look { token, shard, vhost, client_id });
        rx.await.unwrap_or(false)
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
        self.opens.borrow_mut().insert(token, tx);
        self.receivers.borrow_mut().insert(token, receiver);
        let _ = self.to.send(Request::Open { token, shard, session, epoch });
        rx.await.ok().flatten()
    }

    /// Nothing more is delivered to `token`.
    pub fn close(&self, token: u64) {
        if self.receivers.borrow_mut().remove(&token).is_some() {
            let _ = self.to.send(Request::Close { token });
        }
    }

    /// Room for more messages.
    pub fn credit(&self, token: u64, count: u32) {
        let _ = self.to.send(Request::Credit { token, count });
    }

    /// Waits until all gateways know what was applied before (R4).
    pub async fn barrier(&self) {
        let (tx, rx) = oneshot::channel();
        let id = self.fresh_id();
        self.barriers.borrow_mut().insert(id, tx);
        let _ = self.to.send(Request::Barrier { id });
        let _ = rx.await;
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
        self.pages.borrow_mut().insert(id, tx);
        let (vhost, filter) = (vhost.to_owned(), filter.to_owned());
        let after = after.to_owned();
        let _ = self.to.send(Request::ReadRetained { id, shard, vhost, filter, after });
        rx.await.unwrap_or_default()
    }

    fn event(&self, event: Event, router: &dyn Router) {
        match event {
            Event::Welcome { shards, .. } => {
                self.streams.borrow_mut().resize_with(shards as usize, Stream::default);
                self.shards.set(shards);
            }
            Event::Outcomes { shard, first_sequence, outcomes } => {
                let mut next = None;
                for (sequence, outcome) in (first_sequence..).zip(&outcomes) {
                    match outcome {
                        Outcome::Error { code: ErrorCode::OutOfSequence, detail } => {
                            next = Some(*detail);
                        }
                        _ => self.note_confirmed(shard, sequence),
                    }
                    self.answer(shard, outcome);
                }
                self.note_answered(shard, outcomes.len() as u64, next);
                self.release_held();
            }
            Event::Refused { shard, first_sequence, count, code } => {
                (0..count).for_each(|_| self.answer(shard, &Outcome::refused(code)));
                self.note_answered(shard, count.into(), Some(first_sequence));
                self.release_held();
            }
            Event::Looked { token, exists } => {
                reply(&self.looks, token, exists);
            }
            Event::Opened { token, subscriptions } => {
                reply(&self.opens, token, subscriptions.clone());
            }
            Event::Deliveries(all) => self.deliver(&all),
            Event::Taken { token } => {
                let receiver = self.receivers.borrow().get(&token).cloned();
                receiver.into_iter().for_each(|r| r.taken());
            }
            Event::Filters { shard, changes } => router.filters(shard, &changes),
            Event::Barrier { id } => {
                reply(&self.barriers, id, ());
            }
            Event::Retained { id, commands, more } => {
                reply(&self.pages, id, (commands.clone(), more));
            }
            Event::Live { command } => router.live(&command),
        }
    }

    fn deliver(&self, all: &[Delivery]) {
        let mut last: Option<(u64, Rc<dyn Receiver>)> = None;
        for delivery in all {
            if last.as_ref().is_none_or(|(token, _)| *token != delivery.token) {
                let receiver = self.receivers.borrow().get(&delivery.token).cloned();
                last = receiver.map(|r| (delivery.token, r));
            }
            if let Some((_, receiver)) = &last {
                receiver.delivery(delivery);
            }
        }
    }

    fn answer(&self, shard: u32, outcome: &Outcome) {
        let waiter = {
            let mut streams = self.streams.borrow_mut();
            let Some(stream) = streams.get_mut(shard as usize) else { return };
            let Some((waiter, len)) = stream.waiters.pop_front() else { return };
            stream.unanswered_bytes -= len as usize;
            waiter
        };
        // Waiters may submit again.
        if let Some(waiter) = waiter {
            waiter(outcome);
        }
    }

    fn release_held(&self) {
        let held = std::mem::take(&mut *self.held.borrow_mut());
        held.into_iter().for_each(|publisher| publisher.wake());
    }
}

/// Gives an answer to who asked under `id`, if he still waits.
fn reply<T>(asked: &RefCell<HashMap<u64, oneshot::Sender<T>>>, id: u64, answer: T) {
    if let Some(tx) = asked.borrow_mut().remove(&id) {
        let _ = tx.send(answer);
    }
}

#[cfg(test)]
mod tests;
