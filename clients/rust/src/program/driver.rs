//! The task that keeps the link, and the state it shares with all handles of a client.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::ErrorCode;
use fluxmq_proto::v1::QueueInfo;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};

use super::consumer::Attached;
use super::{ClientError, ClientOptions};
use crate::contract::{Event, QueuePage, Request, Role, delivery_bytes};
use crate::transport::connect;
use crate::{Link, Sender, Stream, boot_ms};

/// Between two rounds over all addresses.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two looks at what a node could not take.
const RETRY: Duration = Duration::from_millis(250);
/// Events handled before what queues is sent.
const EVENTS: usize = 256;

/// Who waits for an outcome.
pub(super) type Waiter = oneshot::Sender<Result<Outcome, ClientError>>;

/// What a question led to.
pub(super) enum Answer {
    /// Queues, and whether there are more.
    Queues(Vec<QueueInfo>, bool),
    /// A page of a queue.
    Page(QueuePage),
    /// All gateways have a message.
    Taken,
}

type Asked = oneshot::Sender<Result<Answer, ClientError>>;

/// What handles and task share.
pub(super) struct Shared {
    pub(super) options: ClientOptions,
    pub(super) state: Mutex<State>,
    /// Something is to be sent.
    pub(super) wake: Notify,
    /// Something was answered: there may be room.
    room: Notify,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) shards: u32,
    streams: Vec<Stream<Waiter>>,
    unconfirmed: usize,
    /// While the link stands and the server said welcome.
    to: Option<Sender<Request>>,
    last_id: u64,
    asked: BTreeMap<u64, (Request, Asked)>,
    consumers: HashMap<u64, Weak<Attached>>,
    taken_bytes: u32,
    closed: Option<ClientError>,
}

// === impl State ===

impl State {
    fn send(&self, request: Request) {
        if let Some(to) = &self.to {
            to.send(request);
        }
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends what queues.
    fn flush(&mut self) {
        let now_ms = boot_ms();
        for shard in 0..self.streams.len() {
            if let Some(request) = self.streams[shard].close_frame(shard as u32, now_ms) {
                self.send(request);
            }
        }
        let consumers: Vec<_> = self.consumers.values().filter_map(Weak::upgrade).collect();
        for consumer in consumers {
            for request in consumer.take_requests(&mut || self.fresh_id()) {
                self.send(request);
            }
        }
        let bytes = std::mem::take(&mut self.taken_bytes);
        if bytes > 0 {
            self.send(Request::Window { bytes });
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Connects and is welcome.
    pub(super) async fn join(
        options: ClientOptions,
    ) -> Result<(Arc<Self>, UnboundedReceiver<Event>), ClientError> {
        let state = Mutex::default();
        let shared = Self { options, state, wake: Notify::new(), room: Notify::new() };
        let mut why = String::from("no address is given");
        let tls = shared.options.tls.as_ref();
        for url in &shared.options.urls {
            match connect(url, tls).await {
                Ok(link) => match shared.hello(link).await {
                    Some(from) => return Ok((Arc::new(shared), from)),
                    None => why = format!("{url}: it takes no more programs"),
                },
                Err(error) => why = error.to_string(),
            }
        }
        Err(ClientError::Connect(why))
    }

    /// Says who it is over a new link, and what was under way again; None when the link is lost first.
    async fn hello(&self, link: Link) -> Option<UnboundedReceiver<Event>> {
        let Link { to, mut from } = link;
        let epoch = self.state.lock().epoch;
        let (name, role) = (self.options.name.clone(), Role::Program);
        to.send(Request::Hello { name, epoch, role });
        loop {
            if let Event::Welcome { gateway_epoch, shards, resumed, .. } = from.recv().await? {
                self.welcomed(to, gateway_epoch, shards, resumed);
                return Some(from);
            }
        }
    }

    fn welcomed(&self, to: Sender<Request>, epoch: u64, shards: u32, resumed: bool) {
        let mut state = self.state.lock();
        let lost = state.epoch > 0 && !resumed;
        let mut waiters = Vec::new();
        if lost {
            for stream in std::mem::take(&mut state.streams) {
                waiters.extend(stream.into_waiters());
            }
            state.unconfirmed = 0;
        }
        (state.epoch, state.shards, state.to) = (epoch, shards, Some(to));
        state.taken_bytes = 0;
        state.streams.resize_with(shards as usize, Stream::default);
        // What is held comes before the transactions that settle it.
        state.consumers.retain(|_, consumer| consumer.strong_count() > 0);
        for consumer in state.consumers.values().filter_map(Weak::upgrade) {
            consumer.say_again(lost).into_iter().for_each(|request| state.send(request));
        }
        state.send(Request::Presented);
        for shard in 0..shards {
            for request in state.streams[shard as usize].resend(shard) {
                state.send(request);
            }
        }
        state.asked.values().for_each(|(request, _)| state.send(request.clone()));
        state.flush();
        drop(state);
        for waiter in waiters {
            // Whoever does not wait any more is gone.
            let _ = waiter.send(Err(ClientError::EpochEnded));
        }
        self.room.notify_waiters();
    }

    /// Nothing is answered any more.
    pub(super) fn close(&self, why: ClientError) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(why.clone());
        state.to = None;
        let streams = std::mem::take(&mut state.streams);
        let asked = std::mem::take(&mut state.asked);
        let consumers: Vec<_> = state.consumers.values().filter_map(Weak::upgrade).collect();
        drop(state);
        for waiter in streams.into_iter().flat_map(Stream::into_waiters) {
            let _ = waiter.send(Err(why.clone()));
        }
        for (_, (_, waiter)) in asked {
            let _ = waiter.send(Err(why.clone()));
        }
        consumers.iter().for_each(|consumer| consumer.end(why.clone()));
        self.room.notify_waiters();
    }

    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        state.flush();
        state.send(Request::Leave);
        drop(state);
        self.close(ClientError::Closed);
    }

    pub(super) fn why_closed(&self) -> ClientError {
        self.state.lock().closed.clone().unwrap_or(ClientError::Closed)
    }

    fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.closed.is_some() || state.streams.iter().all(Stream::is_empty)
    }

    /// Resolves when everything that was published is answered.
    pub(super) async fn all_answered(&self) {
        loop {
            let mut answer = std::pin::pin!(self.room.notified());
            answer.as_mut().enable();
            if self.is_idle() {
                return;
            }
            self.wake.notify_one();
            answer.await;
        }
    }

    /// Appends a command with its message to the stream of `shard`; the outcome comes to what is returned. Waits
    /// while too much is unanswered.
    pub(super) async fn post(
        &self,
        shard: u32,
        command: &Command<'_>,
        message: &[&[u8]],
    ) -> Result<oneshot::Receiver<Result<Outcome, ClientError>>, ClientError> {
        loop {
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            {
                let mut state = self.state.lock();
                if let Some(why) = &state.closed {
                    return Err(why.clone());
                }
                let full = state.unconfirmed >= self.options.unconfirmed_max;
                let Some(stream) = state.streams.get_mut(shard as usize) else {
                    return Err(ClientError::NotFound);
                };
                if !full && !stream.is_full() {
                    let (tx, rx) = oneshot::channel();
                    let request = if stream.push(command, message, Some(tx)) {
                        stream.close_frame(shard, boot_ms())
                    } else {
                        None
                    };
                    state.unconfirmed += 1;
                    if let Some(request) = request {
                        state.send(request);
                    }
                    drop(state);
                    self.wake.notify_one();
                    return Ok(rx);
                }
                // Before the lock is let go, so that no answer is missed.
                room.as_mut().enable();
            }
            self.wake.notify_one();
            room.await;
        }
    }

    /// Appends commands that belong together, in one frame.
    pub(super) fn post_together(
        &self,
        shard: u32,
        commands: &[(Command<'_>, Vec<u8>)],
    ) -> Result<Vec<oneshot::Receiver<Result<Outcome, ClientError>>>, ClientError> {
        let mut state = self.state.lock();
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        state.flush();
        let Some(stream) = state.streams.get_mut(shard as usize) else {
            return Err(ClientError::NotFound);
        };
        let mut receivers = Vec::with_capacity(commands.len());
        for (command, message) in commands {
            let (tx, rx) = oneshot::channel();
            stream.push(command, &[message], Some(tx));
            receivers.push(rx);
        }
        state.unconfirmed += receivers.len();
        state.flush();
        Ok(receivers)
    }

    /// Says a command and waits for its outcome.
    pub(super) async fn submit(
        &self,
        shard: u32,
        command: &Command<'_>,
        message: &[&[u8]],
    ) -> Result<Outcome, ClientError> {
        let outcome = self.post(shard, command, message).await?;
        outcome.await.map_err(|_| self.why_closed())?
    }

    pub(super) fn ask(
        &self,
        question: impl FnOnce(u64) -> Request,
        answer: Asked,
    ) -> Result<(), ClientError> {
        let mut state = self.state.lock();
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        let id = state.fresh_id();
        let request = question(id);
        state.send(request.clone());
        state.asked.insert(id, (request, answer));
        Ok(())
    }

    pub(super) fn attach(&self, consumer: &Arc<Attached>) {
        let mut state = self.state.lock();
        state.consumers.insert(consumer.token, Arc::downgrade(consumer));
        for request in consumer.say_again(false) {
            state.send(request);
        }
    }

    /// Says what a consumer still has to say, and that it is none any more.
    pub(super) fn close_consumer(&self, consumer: &Attached) {
        let mut state = self.state.lock();
        state.consumers.remove(&consumer.token);
        for request in consumer.take_requests(&mut || state.fresh_id()) {
            state.send(request);
        }
        state.send(Request::Close { token: consumer.token });
    }

    /// Sends what needs no answer; nothing while the link is lost.
    pub(super) fn send(&self, request: Request) {
        self.state.lock().send(request);
    }

    fn event(&self, event: Event) {
        match event {
            Event::Outcomes { shard, first_sequence, outcomes } => {
                let waiters = self.with_stream(shard, |s| s.outcomes(first_sequence, &outcomes));
                for (waiter, outcome) in waiters.into_iter().flatten().zip(outcomes) {
                    if let Some(waiter) = waiter {
                        let _ = waiter.send(Ok(outcome));
                    }
                }
                self.room.notify_waiters();
            }
            Event::Refused { shard, first_sequence, code, .. } => {
                if matches!(code, ErrorCode::NotLeader | ErrorCode::Unavailable) {
                    let mut state = self.state.lock();
                    if let Some(stream) = state.streams.get_mut(shard as usize) {
                        stream.postpone(first_sequence);
                    }
                    return;
                }
                let waiters = self.with_stream(shard, |s| s.refused(first_sequence));
                for waiter in waiters.into_iter().flatten().flatten() {
                    let _ = waiter.send(Err(ClientError::refused(code, 0)));
                }
                self.room.notify_waiters();
            }
            Event::Queues { id, queues, more } => self.answer(id, Answer::Queues(queues, more)),
            Event::QueuePage(page) => self.answer(page.id, Answer::Page(page)),
            Event::LiveTaken { id } => self.answer(id, Answer::Taken),
            Event::Consuming { token, error } => {
                self.with_consumer(token, |consumer| consumer.began(error));
            }
            Event::ConsumerEnded { token, code } => {
                self.with_consumer(token, |c| c.end(ClientError::refused(code, 0)));
            }
            Event::Active { token, active, epoch } => {
                self.with_consumer(token, |consumer| consumer.activated(active, epoch));
            }
            Event::Settled(settled) => {
                self.with_consumer(settled.token, |consumer| consumer.settled(&settled));
            }
            Event::QueueDeliveries(all) => self.deliver(all),
            _ => {}
        }
    }

    fn with_stream(
        &self,
        shard: u32,
        answered: impl FnOnce(&mut Stream<Waiter>) -> Option<Vec<Option<Waiter>>>,
    ) -> Option<Vec<Option<Waiter>>> {
        let mut state = self.state.lock();
        let waiters = answered(state.streams.get_mut(shard as usize)?)?;
        state.unconfirmed = state.unconfirmed.saturating_sub(waiters.len());
        Some(waiters)
    }

    fn answer(&self, id: u64, answer: Answer) {
        let asked = self.state.lock().asked.remove(&id);
        if let Some((_, waiter)) = asked {
            let _ = waiter.send(Ok(answer));
        }
    }

    fn with_consumer(&self, token: u64, then: impl FnOnce(&Attached)) {
        let consumer = self.state.lock().consumers.get(&token).and_then(Weak::upgrade);
        if let Some(consumer) = consumer {
            then(&consumer);
        }
    }

    fn deliver(&self, all: Vec<crate::contract::QueueDelivery>) {
        let mut state = self.state.lock();
        for delivery in &all {
            let bytes = delivery_bytes(&delivery.command);
            state.taken_bytes = state.taken_bytes.saturating_add(bytes);
        }
        let mut last: Option<(u64, Option<Arc<Attached>>)> = None;
        let mut batch = Vec::new();
        for delivery in all {
            if last.as_ref().is_none_or(|(token, _)| *token != delivery.token) {
                if let Some((_, Some(consumer))) = &last {
                    consumer.deliver(&mut batch);
                }
                batch.clear();
                let token = delivery.token;
                last = Some((token, state.consumers.get(&token).and_then(Weak::upgrade)));
            }
            batch.push(delivery);
        }
        if let Some((_, Some(consumer))) = &last {
            consumer.deliver(&mut batch);
        }
    }

    fn retry(&self) {
        let mut state = self.state.lock();
        for shard in 0..state.streams.len() {
            for request in state.streams[shard].retry(shard as u32) {
                state.send(request);
            }
        }
    }
}

/// Keeps the link until the client is closed.
pub(super) async fn run(shared: Arc<Shared>, mut from: UnboundedReceiver<Event>) {
    let mut events = Vec::new();
    let mut retry = tokio::time::interval(RETRY);
    loop {
        let n = tokio::select! {
            biased;
            n = from.recv_many(&mut events, EVENTS) => n,
            () = shared.wake.notified() => usize::MAX,
            _ = retry.tick() => {
                shared.retry();
                usize::MAX
            }
        };
        if n == 0 {
            shared.state.lock().to = None;
            if shared.state.lock().closed.is_some() {
                return;
            }
            tracing::warn!(name = shared.options.name, "the link to logd is lost");
            from = again(&shared).await;
            tracing::info!(name = shared.options.name, "the link to logd stands again");
            continue;
        }
        events.drain(..).for_each(|event| shared.event(event));
        shared.state.lock().flush();
    }
}

async fn again(shared: &Shared) -> UnboundedReceiver<Event> {
    let mut pause = PAUSE_MIN;
    loop {
        for url in &shared.options.urls {
            match connect(url, shared.options.tls.as_ref()).await {
                Ok(link) => {
                    if let Some(from) = shared.hello(link).await {
                        return from;
                    }
                }
                Err(error) => tracing::debug!(%error, "logd cannot be reached"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
