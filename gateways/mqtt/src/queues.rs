//! Queues over MQTT: `$queue/<name>[/<key>]`, and shared subscriptions of QoS ≥ 1, which are members of a hidden
//! queue (R10; `docs/queues.md`).
//!
//! What comes from a queue is leased to the connection under a packet id from 32768 on, and PUBACK settles it. When
//! the connection ends, what it holds goes to another member.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use fluxmq_client::contract::QueueDelivery;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{
    Arguments, Enqueue, Options, QueueCommand, Start, Stays, Verdict,
};
use fluxmq_commands::command::{self, Command};
use fluxmq_names::{ErrorCode, Kind, place};
use fluxmq_proto::message::{EMPTY_HEAD, split};
use gateway_core::backend::{QueueGroup, QueueReceiver};
use gateway_core::counters::add;
use gateway_core::message::LiveMessage;
use gateway_core::worker::now_ms;
use mqtt_codec::encode::PublishFrame;
use mqtt_codec::{QoS, ReasonCode, topic};
use tokio::task::spawn_local;

use crate::client::{Client, Close};
use crate::durable_publish::{Numbered, refusal};
use crate::properties;

/// Packet ids from here on are for leased messages (G3).
pub(crate) const LEASED_FROM: u16 = 32_768;
/// How long a message may be kept that is acknowledged by name, ms. Else it is kept as long as the connection lives.
const MANUAL_LEASE_MS: u32 = 30_000;
/// Tries to join a group whose queue went away in between.
const TRIES: usize = 5;

/// Topics below this are queues.
pub(crate) const PREFIX: &str = "$queue/";

/// A topic below `$queue/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address<'a> {
    /// The queue.
    pub(crate) name: &'a str,
    /// What stands behind it: the key of a message, `#` in a filter.
    pub(crate) rest: &'a str,
}

// === impl Address ===

impl<'a> Address<'a> {
    /// None for any other topic or filter.
    pub(crate) fn of(topic: &'a str) -> Option<Self> {
        let path = topic.strip_prefix(PREFIX)?;
        let (name, rest) = path.split_once('/').unwrap_or((path, ""));
        (!name.is_empty()).then_some(Self { name, rest })
    }

    /// What a publish to this address says of a message that its publisher holds.
    fn verdict(self) -> Option<Verdict> {
        match self.rest {
            "$ack" => Some(Verdict::Ack),
            "$nack" => Some(Verdict::Return),
            "$reject" => Some(Verdict::Reject),
            _ => None,
        }
    }
}

/// What a filter consumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A queue by name, and a group of it.
    Queue { name: Box<str>, group: Option<Box<str>>, with_path: bool },
    /// The hidden queue of a shared subscription: group and filter.
    Shared { group: Box<str>, filter: Box<str> },
}

// === impl Source ===

impl Source {
    /// What `filter` consumes, None for a filter of topics.
    pub(crate) fn of(filter: &str, qos: QoS) -> Option<Self> {
        let (group, plain) = match topic::shared(filter) {
            Some((group, plain)) => (Some(group), plain),
            None => (None, filter),
        };
        if let Some(Address { name, rest }) = Address::of(plain) {
            let (name, group) = (name.into(), group.map(Into::into));
            return Some(Self::Queue { name, group, with_path: !rest.is_empty() });
        }
        let group = group.filter(|_| qos != QoS::AtMostOnce)?;
        Some(Self::Shared { group: group.into(), filter: plain.into() })
    }
}

/// What SUBSCRIBE asked of a queue besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// The group, as `consumer-group` says.
    pub(crate) group: Option<Box<str>>,
    /// Where a group begins that is new, as `start` says.
    pub(crate) start: Option<Start>,
    /// Messages are settled by `$ack`, `$nack` and `$reject`, as `ack: manual` says.
    pub(crate) manual: bool,
}

// === impl Wishes ===

impl Wishes {
    /// From the user properties of SUBSCRIBE; None when one of them cannot be understood.
    pub(crate) fn read<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let mut wishes = Self::default();
        for (name, value) in all {
            match name {
                "consumer-group" => wishes.group = Some(value.into()),
                "ack" => wishes.manual = value == "manual",
                "start" => wishes.start = Some(start(value)?),
                _ => {}
            }
        }
        Some(wishes)
    }
}

/// `first`, `last`, `next`, an offset, or `time=` and Unix ms.
fn start(value: &str) -> Option<Start> {
    Some(match value {
        "first" => Start::First,
        "last" => Start::Last,
        "next" => Start::Next,
        _ => match value.strip_prefix("time=") {
            Some(ms) => Start::Time(ms.parse().ok()?),
            None => Start::Offset(value.parse().ok()?),
        },
    })
}

/// A filter that consumes a queue.
struct Subscription {
    filter: Rc<str>,
    source: Source,
    token: u64,
    at: QueueGroup,
    qos: QoS,
    identifier: u32,
    manual: bool,
}

/// The queues of a connection; made at the first.
#[derive(Default)]
pub(crate) struct Leased {
    subscriptions: Vec<Subscription>,
    /// What waits for PUBACK, by packet id: consumer and offset.
    sent: BTreeMap<u16, (u64, u64)>,
    /// What has no room in the window.
    waiting: VecDeque<QueueDelivery>,
    next_id: u16,
}

// === impl Leased ===

impl Leased {
    fn take_id(&mut self) -> u16 {
        loop {
            let id = LEASED_FROM | self.next_id;
            self.next_id = self.next_id.wrapping_add(1) & 0x7FFF;
            if !self.sent.contains_key(&id) {
                return id;
            }
        }
    }
}

impl QueueReceiver for Client {
    fn leased(&self, delivery: &QueueDelivery) {
        if self.closing().is_some() {
            return;
        }
        self.leased.borrow_mut().get_or_insert_default().waiting.push_back(delivery.clone());
        self.pump_leased();
    }

    fn consumer_ended(&self, token: u64) {
        // The queue is gone: what was subscribed to is not any more, and MQTT has no word for that.
        if let Some(leased) = self.leased.borrow_mut().as_deref_mut() {
            leased.subscriptions.retain(|s| s.token != token);
        }
    }

    fn settled(&self, _: u64, refused: &[(u64, u32)]) {
        if !refused.is_empty() {
            tracing::debug!(client_id = %self.terms.client_id, ?refused, "settled too late");
        }
    }
}

// === impl Client ===

impl Client {
    /// Messages of queues that are on their way to the client.
    pub(crate) fn leased_in_flight(&self) -> usize {
        self.leased.borrow().as_deref().map_or(0, |leased| leased.sent.len())
    }

    /// Sends what waits, as far as the window has room.
    pub(crate) fn pump_leased(&self) {
        loop {
            let mut leased = self.leased.borrow_mut();
            let Some(leased) = leased.as_deref_mut() else { return };
            let open = self.outbound.borrow().as_deref().map_or(0, |o| o.window.open());
            if self.busy.get() || open + leased.sent.len() >= usize::from(self.terms.window) {
                return;
            }
            let Some(delivery) = leased.waiting.pop_front() else { return };
            if self.send_leased(leased, &delivery).is_none()
                && let Some(backend) = self.worker.backend()
            {
                // It cannot be sent to this client at all.
                backend.settle_leased(delivery.token, Verdict::Reject, delivery.offset);
            }
        }
    }

    fn send_leased(&self, leased: &mut Leased, delivery: &QueueDelivery) -> Option<()> {
        let (token, offset) = (delivery.token, delivery.offset);
        let of = leased.subscriptions.iter().find(|s| s.token == token)?;
        let (command, message) = command::decode(&delivery.command).ok()?;
        let (published, key, expiry_ms) = match &command {
            Command::Publish(p) => (Some(p.topic), p.options.key, p.expiry_ms),
            Command::Queue(QueueCommand::Enqueue(e)) => (None, e.options.key, e.expiry_ms),
            _ => return None,
        };
        let by_name;
        let topic = match (&of.source, published) {
            (Source::Shared { .. }, Some(topic)) => topic,
            (Source::Queue { name, with_path, .. }, published) => {
                let path = published.or(std::str::from_utf8(key).ok()).unwrap_or_default();
                by_name = match (with_path, path) {
                    (true, path) if !path.is_empty() => format!("$queue/{name}/{path}"),
                    _ => format!("$queue/{name}"),
                };
                &by_name
            }
            (Source::Shared { .. }, None) => return None,
        };
        let (head, payload) = split(message)?;
        let mut out = Vec::new();
        if self.is_v5() {
            properties::from_head(head, &mut out);
            if of.identifier > 0 {
                properties::put_identifiers(&[of.identifier], &mut out);
            }
            if let Some(ms) = expiry_ms {
                properties::put_expiry(ms.saturating_sub(now_ms()), &mut out);
            }
            if matches!(of.source, Source::Queue { .. }) {
                properties::put_user("offset", &offset.to_string(), &mut out);
                properties::put_user("delivery-count", &delivery.count.to_string(), &mut out);
            }
        }
        let (qos, manual) = (of.qos, of.manual);
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { leased.take_id() };
        let frame = PublishFrame {
            dup: qos != QoS::AtMostOnce && delivery.redelivered,
            qos,
            retain: false,
            topic,
            packet_id,
            properties: &out,
            payload,
        };
        if frame.packet_len(self.terms.version) > self.terms.packet_bytes_max as usize {
            add(&self.worker.counters.dropped_too_large, 1);
            return None;
        }
        frame.write(self.out.borrow_mut().writer(&self.worker), self.terms.version);
        add(&self.worker.counters.delivered_durable, 1);
        if qos != QoS::AtMostOnce {
            leased.sent.insert(packet_id, (token, offset));
        } else if !manual && let Some(backend) = self.worker.backend() {
            backend.settle_leased(token, Verdict::Ack, offset);
        }
        if self.queue() {
            self.worker.wake_later(&self.subscriber());
        }
        Some(())
    }

    /// PUBACK for a leased message. A refusal rejects what came from a queue, and settles what was shared (R10).
    pub(crate) fn puback_leased(&self, packet_id: u16, reason: ReasonCode) {
        let mut all = self.leased.borrow_mut();
        let Some(leased) = all.as_deref_mut() else { return };
        let Some((token, offset)) = leased.sent.remove(&packet_id) else { return };
        let of = leased.subscriptions.iter().find(|s| s.token == token);
        let manual = of.is_some_and(|s| s.manual);
        let by_name = of.is_some_and(|s| matches!(s.source, Source::Queue { .. }));
        drop(all);
        if !manual && let Some(backend) = self.worker.backend() {
            let verdict =
                if reason.is_failure() && by_name { Verdict::Reject } else { Verdict::Ack };
            backend.settle_leased(token, verdict, offset);
        }
        self.room_in_window();
    }

    /// The window has room again, whatever took it.
    pub(crate) fn room_in_window(&self) {
        if self.leased.borrow().is_some() {
            self.let_go();
            self.pump_leased();
        }
    }

    // === publish ===

    /// A publish to a topic below `$queue/`; one that names no queue ends nothing and is refused.
    pub(crate) fn publish_by_name(
        &self,
        message: &LiveMessage<'_>,
        offset: Option<u64>,
        ticket: Option<u64>,
    ) -> Result<(), Close> {
        match Address::of(message.topic) {
            Some(address) => self.publish_to_queue(address, message, offset, ticket, None),
            None => match ticket {
                Some(ticket) => self.answer_ack(ticket, ReasonCode::TOPIC_NAME_INVALID),
                None => return Err(Close::ByServer(ReasonCode::TOPIC_NAME_INVALID)),
            },
        }
        Ok(())
    }

    /// A publish to `$queue/…`: stored in the queue, which is made when it does not exist, or what is said of a message.
    /// `ticket` is answered.
    pub(crate) fn publish_to_queue(
        &self,
        address: Address<'_>,
        message: &LiveMessage<'_>,
        offset: Option<u64>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) {
        if let Some(verdict) = address.verdict() {
            let held =
                offset.is_some_and(|offset| self.settle_by_name(address.name, verdict, offset));
            let reason = if held { ReasonCode::SUCCESS } else { ReasonCode::NOT_AUTHORIZED };
            ticket.into_iter().for_each(|ticket| self.answer_ack(ticket, reason));
            return;
        }
        let known = self.worker.queues.borrow().get(address.name).copied();
        let Some(at) = known else {
            return self.find_then_publish(address, message, ticket, numbered);
        };
        self.enqueue(at, address, message, ticket, numbered);
    }

    fn enqueue(
        &self,
        (shard, queue): (u32, u64),
        address: Address<'_>,
        message: &LiveMessage<'_>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) {
        let Some(backend) = self.worker.backend() else { return };
        let queues = queue.to_le_bytes();
        let enqueue = Enqueue {
            queues: &queues,
            expiry_ms: message.expiry_ms,
            key: numbered.map(Numbered::key),
            lowest_open: numbered.map(|n| n.lowest_open),
            options: Options { key: address.rest.as_bytes(), ..Options::default() },
            dead: None,
        };
        let head = if message.head.is_empty() { &EMPTY_HEAD[..] } else { message.head };
        let command = Command::Queue(QueueCommand::Enqueue(enqueue));
        let client = self.this();
        self.expect_answer();
        let name: Box<str> = address.name.into();
        let waiter = Box::new(move |outcome: &Outcome| {
            if matches!(outcome, Outcome::Error { code: ErrorCode::NotFound, .. }) {
                // It was deleted: the next publish finds or makes another.
                client.worker.queues.borrow_mut().remove(&name);
            }
            if let Some(ticket) = ticket {
                let reason = match outcome {
                    Outcome::Error { code, .. } => refusal(*code),
                    _ => ReasonCode::SUCCESS,
                };
                client.answer_ack(ticket, reason);
            }
            client.note_answer();
        });
        backend.submit(shard, &command, &[head, message.payload], Some(waiter));
    }

    /// The queue is not known yet: nothing that comes behind overtakes this.
    fn find_then_publish(
        &self,
        address: Address<'_>,
        message: &LiveMessage<'_>,
        ticket: Option<u64>,
        numbered: Option<Numbered>,
    ) {
        let client = self.this();
        let (topic, head) = (message.topic.to_owned(), message.head.to_vec());
        let (qos, expiry_ms, payload) = (message.qos, message.expiry_ms, message.payload.to_vec());
        let name = address.name.to_owned();
        self.busy.set(true);
        self.expect_answer();
        spawn_local(async move {
            match client.find_by_name(&name, (None, Start::First)).await {
                Ok(at) => {
                    let at = (at.shard, at.queue);
                    client.worker.remember_queue(&name, at);
                    let (head, payload) = (&head[..], &payload[..]);
                    let message =
                        LiveMessage { topic: &topic, qos, retain: false, expiry_ms, head, payload };
                    if let Some(address) = Address::of(&topic) {
                        client.enqueue(at, address, &message, ticket, numbered);
                    }
                }
                Err(code) => {
                    ticket.into_iter().for_each(|ticket| client.answer_ack(ticket, refusal(code)));
                }
            }
            client.note_answer();
            client.go_on();
            client.worker.end_batch();
        });
    }

    async fn find_by_name(
        &self,
        name: &str,
        (group, start): (Option<&str>, Start),
    ) -> Result<QueueGroup, ErrorCode> {
        let backend = self.worker.backend().ok_or(ErrorCode::Unavailable)?;
        let shard = place(Kind::Queue, "/", name, backend.shards()).0;
        // `default` is the group every work queue has; a stream has none of itself.
        let group = group.filter(|group| *group != "default");
        backend.find_queue(shard, ("/", name), Arguments::default(), (group, start)).await
    }

    /// What is said by name of a message that this connection holds.
    fn settle_by_name(&self, name: &str, verdict: Verdict, offset: u64) -> bool {
        let Some(backend) = self.worker.backend() else { return false };
        let tokens: Vec<u64> = {
            let leased = self.leased.borrow();
            let of = leased
                .iter()
                .flat_map(|leased| &leased.subscriptions)
                .filter(|s| matches!(&s.source, Source::Queue { name: of, .. } if **of == *name));
            of.map(|s| s.token).collect()
        };
        tokens.into_iter().any(|token| backend.settle_leased(token, verdict, offset))
    }

    // === subscribe ===

    /// Begins to consume what `filter` says.
    ///
    /// # Errors
    /// The reason code of SUBACK.
    pub(crate) async fn consume(
        &self,
        filter: &str,
        (qos, identifier): (QoS, u32),
        wishes: &Wishes,
    ) -> Result<(), ReasonCode> {
        let source = Source::of(filter, qos).ok_or(ReasonCode::TOPIC_FILTER_INVALID)?;
        let known = self
            .leased
            .borrow()
            .iter()
            .any(|l| l.subscriptions.iter().any(|s| *s.filter == *filter));
        if known {
            self.stop_consuming(filter).await;
        }
        for _ in 0..TRIES {
            match self.join(filter, &source, (qos, identifier), wishes).await {
                Ok(()) => return Ok(()),
                // The last member left in between, and the queue with him.
                Err(ErrorCode::NotFound) => {}
                Err(code) => return Err(refusal(code)),
            }
        }
        Err(ReasonCode::UNSPECIFIED)
    }

    async fn join(
        &self,
        filter: &str,
        source: &Source,
        (qos, identifier): (QoS, u32),
        wishes: &Wishes,
    ) -> Result<(), ErrorCode> {
        let backend = self.worker.backend().ok_or(ErrorCode::Unavailable)?.clone();
        let manual = wishes.manual && matches!(source, Source::Queue { .. });
        let (at, member) = match source {
            Source::Queue { name, group, .. } => {
                let group = wishes.group.as_deref().or(group.as_deref());
                let start = wishes.start.unwrap_or(Start::First);
                let at = self.find_by_name(name, (group, start)).await?;
                (at, (0, Stays::WithGateway))
            }
            Source::Shared { group, filter } => {
                let name = format!("{group}/{filter}");
                let shard = place(Kind::Shared, "/", &name, backend.shards()).0;
                let hidden = Arguments { hidden: true, auto_delete: true, ..Arguments::default() };
                let name = format!("$share/{name}");
                let first = (None, Start::First);
                let at = backend.find_queue(shard, ("/", &name), hidden, first).await?;
                let bind = QueueCommand::Bind { queue: at.queue, filter, bound: true };
                if let Outcome::Error { code, .. } =
                    backend.call(shard, &Command::Queue(bind), &[]).await
                {
                    return Err(code);
                }
                let member = self.persistent().map_or((0, Stays::WithGateway), |(durable, _)| {
                    let shard = u8::try_from(durable.shard).unwrap_or(u8::MAX);
                    (durable.session, Stays::WithSession(shard))
                });
                (at, member)
            }
        };
        let lease_ms = if manual { MANUAL_LEASE_MS } else { 0 };
        let credit = u32::from(self.terms.window);
        let token = backend.fresh_id();
        let subscription = Subscription {
            filter: filter.into(),
            source: source.clone(),
            token,
            at,
            // What is shared with QoS 2 would have to be given by an entry: it is granted 1.
            qos: qos.min(QoS::AtLeastOnce),
            identifier,
            manual,
        };
        // Before it begins: messages may come with the answer.
        self.leased.borrow_mut().get_or_insert_default().subscriptions.push(subscription);
        let begun = backend.consume((token, at), member, (credit, lease_ms), self.this()).await;
        if begun.is_err()
            && let Some(leased) = self.leased.borrow_mut().as_deref_mut()
        {
            leased.subscriptions.retain(|s| s.token != token);
        }
        begun
    }

    /// Takes up again what a resumed session consumes.
    pub(crate) fn consume_again(&self, filters: Vec<(String, QoS, u32)>) {
        if filters.is_empty() {
            return;
        }
        let client = self.this();
        spawn_local(async move {
            for (filter, qos, identifier) in filters {
                let begun = client.consume(&filter, (qos, identifier), &Wishes::default()).await;
                if let Err(reason) = begun {
                    tracing::warn!(
                        filter,
                        ?reason,
                        "a session cannot consume what it is subscribed to"
                    );
                }
            }
        });
    }

    /// UNSUBSCRIBE of a filter that consumes a queue; false when it is none.
    pub(crate) async fn stop_consuming(&self, filter: &str) -> bool {
        let gone = {
            let mut leased = self.leased.borrow_mut();
            let Some(leased) = leased.as_deref_mut() else { return false };
            let at = leased.subscriptions.iter().position(|s| *s.filter == *filter);
            let Some(at) = at else { return false };
            let gone = leased.subscriptions.remove(at);
            leased.sent.retain(|_, (token, _)| *token != gone.token);
            leased.waiting.retain(|d| d.token != gone.token);
            gone
        };
        let Some(backend) = self.worker.backend() else { return true };
        backend.stop_consuming(gone.token);
        if let (Source::Shared { .. }, Some((durable, _))) = (&gone.source, self.persistent()) {
            // Its membership is the session's, not the connection's.
            let shard = u8::try_from(durable.shard).unwrap_or(u8::MAX);
            backend.leave_for_good(gone.at, durable.session, shard).await;
        }
        true
    }

    /// The connection is gone: what it holds goes to others.
    pub(crate) fn leave_queues(&self) {
        let leased = self.leased.take();
        let Some(backend) = self.worker.backend() else { return };
        let all = leased.into_iter().flat_map(|leased| leased.subscriptions);
        all.for_each(|subscription| backend.stop_consuming(subscription.token));
    }
}

/// The offset a `$ack`, `$nack` or `$reject` is about: its user property `offset`, or its payload.
pub(crate) fn offset_of(publish: &mqtt_codec::Publish<'_>) -> Option<u64> {
    let named =
        properties::user(&publish.properties).find(|(name, _)| *name == "offset").map(|(_, v)| v);
    let text = named.or_else(|| std::str::from_utf8(publish.payload).ok())?;
    text.trim().parse().ok()
}

/// Whether a SUBSCRIBE says something of queues that cannot be understood.
pub(crate) fn wishes_of(subscribe: &mqtt_codec::Subscribe<'_>) -> Option<Wishes> {
    Wishes::read(properties::user(&subscribe.properties))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_name_and_a_path() {
        let of = |topic| Address::of(topic).map(|a| (a.name, a.rest));
        assert_eq!(of("$queue/a"), Some(("a", "")));
        assert_eq!(of("$queue/a/b/c"), Some(("a", "b/c")));
        assert_eq!(of("$queue/"), None);
        assert_eq!(of("queue/a"), None);
        let verdict = |topic| Address::of(topic).and_then(Address::verdict);
        assert_eq!(verdict("$queue/a/$nack"), Some(Verdict::Return));
        assert_eq!(verdict("$queue/a/$nack/b"), None);
    }

    #[test]
    fn what_a_filter_consumes() {
        let queue = |group: Option<&str>, with_path| Source::Queue {
            name: "q".into(),
            group: group.map(Into::into),
            with_path,
        };
        let one = QoS::AtLeastOnce;
        assert_eq!(Source::of("$queue/q", one), Some(queue(None, false)));
        assert_eq!(Source::of("$queue/q/#", one), Some(queue(None, true)));
        assert_eq!(Source::of("$share/g/$queue/q", one), Some(queue(Some("g"), false)));
        let shared = Source::Shared { group: "g".into(), filter: "a/+".into() };
        assert_eq!(Source::of("$share/g/a/+", one), Some(shared));
        assert_eq!(Source::of("$share/g/a/+", QoS::AtMostOnce), None, "QoS 0 is live");
        assert_eq!(Source::of("a/+", one), None);
    }

    #[test]
    fn wishes_are_understood_or_refused() {
        let read = |all: &[(&str, &str)]| Wishes::read(all.iter().copied());
        let wishes =
            read(&[("x", "y"), ("consumer-group", "g"), ("start", "time=7"), ("ack", "manual")]);
        let wishes = wishes.expect("understood");
        assert_eq!((wishes.group.as_deref(), wishes.manual), (Some("g"), true));
        assert_eq!(wishes.start, Some(Start::Time(7)));
        assert_eq!(read(&[("start", "12")]).and_then(|w| w.start), Some(Start::Offset(12)));
        assert!(read(&[("start", "yesterday")]).is_none());
    }
}
