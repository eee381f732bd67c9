//! The deliver lane: operations and credits gather into one request, deliveries into columns.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use fluxmq_proto::v1::{
    self, AttachReply, AttachRequest, SessionEvent, SessionOperation, register, session_event,
    session_operation,
};

use super::{Message, OTHER_LANE, WireError, queues, slices};
use crate::contract::{Delivery, Event, Registration, Request, Subscribed};

/// Operations and credits of one request.
const REQUEST_FRAMES_MAX: usize = 4_096;
/// Bytes of bodies in one reply, unless one is larger.
pub(super) const REPLY_BYTES: usize = 256 * 1024;

/// Flags of a delivery; the lowest two bits are the QoS.
const RETAIN: u32 = 4;
const DUP: u32 = 8;
const RELEASE: u32 = 16;

impl Message<Request> for AttachRequest {
    fn pack(frames: &mut VecDeque<Request>) -> Self {
        let mut request = Self::default();
        for _ in 0..REQUEST_FRAMES_MAX {
            let credited = !request.credit_tokens.is_empty();
            match frames.pop_front() {
                None => break,
                Some(Request::Credit { token, count }) => {
                    request.credit_tokens.push(token);
                    request.credit_counts.push(count);
                }
                Some(Request::Window { bytes }) => {
                    request.window_bytes = request.window_bytes.saturating_add(bytes);
                }
                // It would overtake the credit before it.
                Some(operation) if credited => {
                    frames.push_front(operation);
                    break;
                }
                Some(operation) => request.operations.push(to_operation(operation)),
            }
        }
        request
    }

    fn unpack(self, each: &mut dyn FnMut(Request)) -> Result<(), WireError> {
        for operation in self.operations {
            each(from_operation(operation)?);
        }
        if self.credit_tokens.len() != self.credit_counts.len() {
            return Err(WireError("columns of different length"));
        }
        for (token, count) in self.credit_tokens.into_iter().zip(self.credit_counts) {
            each(Request::Credit { token, count });
        }
        if self.window_bytes > 0 {
            each(Request::Window { bytes: self.window_bytes });
        }
        Ok(())
    }
}

fn to_operation(request: Request) -> SessionOperation {
    use session_operation::Operation;
    let operation = match request {
        Request::Register { token, shard, vhost, client_id, how } => {
            let how = match how {
                Registration::Look => register::How::Look,
                Registration::New => register::How::New,
                Registration::Again => register::How::Again,
            };
            let how = how.into();
            Operation::Register(v1::Register { token, shard, vhost, client_id, how })
        }
        Request::Unregister { token } => Operation::Unregister(token),
        Request::Open { token, shard, session, epoch, from } => {
            Operation::Open(v1::OpenSession { token, shard, session, epoch, from })
        }
        Request::Close { token } => Operation::Close(token),
        Request::ReadRetained { id, shard, vhost, filter, after } => {
            Operation::ReadRetained(v1::ReadRetained { id, shard, vhost, filter, after })
        }
        Request::Consume(consume) => Operation::Consume(queues::to_consume(consume)),
        Request::Presented => Operation::Presented(true),
        Request::Settle(settle) => Operation::Settle(queues::to_settle(&settle)),
        Request::Extend { token, first, count } => {
            Operation::Extend(v1::Extend { token, first, count })
        }
        Request::ReadQueue(read) => Operation::ReadQueue(queues::to_read(&read)),
        Request::LookAtQueues(look) => Operation::LookAtQueues(queues::to_look(look)),
        _ => unreachable!("{OTHER_LANE}"),
    };
    SessionOperation { operation: Some(operation) }
}

fn from_operation(operation: SessionOperation) -> Result<Request, WireError> {
    use session_operation::Operation;
    Ok(match operation.operation.ok_or(WireError("an empty operation"))? {
        Operation::Register(r) => {
            let how = match register::How::try_from(r.how) {
                Ok(register::How::Look) => Registration::Look,
                Ok(register::How::New) => Registration::New,
                Ok(register::How::Again) => Registration::Again,
                Err(_) => return Err(WireError("a registration")),
            };
            let (vhost, client_id) = (r.vhost, r.client_id);
            Request::Register { token: r.token, shard: r.shard, vhost, client_id, how }
        }
        Operation::Unregister(token) => Request::Unregister { token },
        Operation::Open(o) => Request::Open {
            token: o.token,
            shard: o.shard,
            session: o.session,
            epoch: o.epoch,
            from: o.from,
        },
        Operation::Close(token) => Request::Close { token },
        Operation::ReadRetained(r) => Request::ReadRetained {
            id: r.id,
            shard: r.shard,
            vhost: r.vhost,
            filter: r.filter,
            after: r.after,
        },
        Operation::Consume(c) => Request::Consume(queues::from_consume(c)?),
        Operation::Presented(_) => Request::Presented,
        Operation::Settle(s) => Request::Settle(queues::from_settle(s)?),
        Operation::Extend(e) => Request::Extend { token: e.token, first: e.first, count: e.count },
        Operation::ReadQueue(r) => Request::ReadQueue(queues::from_read(&r)),
        Operation::LookAtQueues(l) => Request::LookAtQueues(queues::from_look(l)),
    })
}

impl Message<Event> for AttachReply {
    fn pack(frames: &mut VecDeque<Event>) -> Self {
        let mut events = Vec::new();
        let mut columns = Columns::default();
        let mut of_queues = queues::Columns::default();
        while columns.body.len() + of_queues.bytes() < REPLY_BYTES {
            match frames.pop_front() {
                None => break,
                Some(Event::QueueDeliveries(mut all)) => {
                    if !of_queues.take(&mut all) {
                        frames.push_front(Event::QueueDeliveries(all));
                        break;
                    }
                }
                Some(Event::Deliveries(mut all)) => {
                    let room = columns.take(&mut all);
                    if !room {
                        frames.push_front(Event::Deliveries(all));
                        break;
                    }
                }
                // It would overtake the deliveries before it.
                Some(event) if !columns.message.tokens.is_empty() || !of_queues.is_empty() => {
                    frames.push_front(event);
                    break;
                }
                Some(event) => events.push(to_event(event)),
            }
        }
        let (deliveries, queue_deliveries) = (columns.close(), of_queues.close());
        Self { events, deliveries, queue_deliveries }
    }

    fn unpack(self, each: &mut dyn FnMut(Event)) -> Result<(), WireError> {
        for event in self.events {
            each(from_event(event)?);
        }
        if let Some(deliveries) = self.deliveries {
            each(Event::Deliveries(from_columns(&deliveries)?));
        }
        if let Some(deliveries) = self.queue_deliveries {
            each(Event::QueueDeliveries(queues::from_columns(deliveries)?));
        }
        Ok(())
    }
}

/// Deliveries on their way into columns; a body that several sessions get stands there once (Q3).
#[derive(Default)]
struct Columns {
    message: v1::Deliveries,
    body: Vec<u8>,
    /// Bodies by where they lie in memory; they are kept alive by the frames they are from.
    known: HashMap<(usize, usize), u32>,
    kept: Vec<Bytes>,
    any_identifiers: bool,
}

// === impl Columns ===

impl Columns {
    /// Takes deliveries from the front; false when some stay behind.
    fn take(&mut self, all: &mut Vec<Delivery>) -> bool {
        let mut taken = 0;
        for delivery in all.iter() {
            if taken > 0 && self.body.len() + delivery.command.len() > REPLY_BYTES {
                break;
            }
            self.push(delivery);
            taken += 1;
        }
        all.drain(..taken);
        all.is_empty()
    }

    fn push(&mut self, d: &Delivery) {
        let m = &mut self.message;
        m.tokens.push(d.token);
        m.numbers.push(d.number);
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        let flags = flag(d.retain, RETAIN) | flag(d.dup, DUP) | flag(d.release, RELEASE);
        m.flags.push(u32::from(d.qos & 3) | flags);
        self.any_identifiers |= !d.identifiers.is_empty();
        m.identifier_counts.push(u32::try_from(d.identifiers.len()).unwrap_or(u32::MAX));
        m.identifiers.extend_from_slice(&d.identifiers);
        let next = u32::try_from(m.ends.len()).unwrap_or(u32::MAX);
        let place = (d.command.as_ptr() as usize, d.command.len());
        let at = *self.known.entry(place).or_insert(next);
        if at == next {
            self.body.extend_from_slice(&d.command);
            m.ends.push(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
            self.kept.push(d.command.clone());
        }
        m.bodies.push(at);
    }

    fn close(mut self) -> Option<v1::Deliveries> {
        if self.message.tokens.is_empty() {
            return None;
        }
        if !self.any_identifiers {
            self.message.identifier_counts.clear();
        }
        self.message.body = self.body.into();
        Some(self.message)
    }
}

fn from_columns(m: &v1::Deliveries) -> Result<Vec<Delivery>, WireError> {
    let n = m.tokens.len();
    let counts = m.identifier_counts.len();
    let lengths = [m.numbers.len(), m.flags.len(), m.bodies.len()];
    if lengths != [n; 3] || (counts != n && counts != 0) {
        return Err(WireError("columns of different length"));
    }
    let bodies = slices(&m.ends, &m.body).collect::<Result<Vec<_>, _>>()?;
    let mut identifiers = &m.identifiers[..];
    let mut all = Vec::with_capacity(n);
    for at in 0..n {
        let count = m.identifier_counts.get(at).map_or(0, |c| *c as usize);
        let Some((mine, rest)) = identifiers.split_at_checked(count) else {
            return Err(WireError("fewer identifiers than it says"));
        };
        identifiers = rest;
        let flags = m.flags[at];
        let body = bodies.get(m.bodies[at] as usize).ok_or(WireError("no such body"))?;
        all.push(Delivery {
            token: m.tokens[at],
            number: m.numbers[at],
            qos: (flags & 3) as u8,
            retain: flags & RETAIN != 0,
            dup: flags & DUP != 0,
            release: flags & RELEASE != 0,
            identifiers: mine.to_vec(),
            command: body.clone(),
        });
    }
    Ok(all)
}

fn to_event(event: Event) -> SessionEvent {
    use session_event::Event as Kind;
    let event = match event {
        Event::Registered { token, exists } => Kind::Registered(v1::Registered { token, exists }),
        Event::Opened { token, subscriptions } => Kind::Opened(v1::Opened {
            token,
            found: subscriptions.is_some(),
            subscriptions: subscriptions
                .unwrap_or_default()
                .into_iter()
                .map(|s| v1::Subscription {
                    filter: s.filter,
                    options: s.options.into(),
                    identifier: s.identifier,
                    more: s.more,
                })
                .collect(),
        }),
        Event::Taken { token, client_id } => Kind::Taken(v1::Taken { token, client_id }),
        Event::Retained { id, commands, more } => {
            Kind::Retained(v1::RetainedPage { id, commands, more })
        }
        Event::Consuming { token, error } => Kind::Consuming(queues::to_consuming(token, error)),
        Event::ConsumerEnded { token, code } => {
            Kind::ConsumerEnded(v1::ConsumerEnded { token, error: code.number().into() })
        }
        Event::Active { token, active, epoch } => Kind::Active(v1::Active { token, active, epoch }),
        Event::Settled(settled) => Kind::Settled(queues::to_settled(&settled)),
        Event::QueuePage(page) => Kind::QueuePage(queues::to_page(page)),
        Event::Queues { id, queues, more } => Kind::Queues(v1::Queues { id, queues, more }),
        _ => unreachable!("{OTHER_LANE}"),
    };
    SessionEvent { event: Some(event) }
}

fn from_event(event: SessionEvent) -> Result<Event, WireError> {
    use session_event::Event as Kind;
    Ok(match event.event.ok_or(WireError("an empty event"))? {
        Kind::Registered(r) => Event::Registered { token: r.token, exists: r.exists },
        Kind::Opened(o) => {
            let subscriptions = o.subscriptions.into_iter().map(|s| {
                let options = u8::try_from(s.options).map_err(|_| WireError("an options byte"))?;
                let (filter, identifier, more) = (s.filter, s.identifier, s.more);
                Ok(Subscribed { filter, options, identifier, more })
            });
            let subscriptions = subscriptions.collect::<Result<Vec<_>, _>>()?;
            Event::Opened { token: o.token, subscriptions: o.found.then_some(subscriptions) }
        }
        Kind::Taken(t) => Event::Taken { token: t.token, client_id: t.client_id },
        Kind::Retained(r) => Event::Retained { id: r.id, commands: r.commands, more: r.more },
        Kind::Consuming(c) => {
            Event::Consuming { token: c.token, error: queues::from_consuming(&c)? }
        }
        Kind::ConsumerEnded(c) => {
            Event::ConsumerEnded { token: c.token, code: queues::from_ended(&c)? }
        }
        Kind::Active(a) => Event::Active { token: a.token, active: a.active, epoch: a.epoch },
        Kind::Settled(s) => Event::Settled(queues::from_settled(s)?),
        Kind::QueuePage(p) => Event::QueuePage(queues::from_page(p)?),
        Kind::Queues(q) => Event::Queues { id: q.id, queues: q.queues, more: q.more },
    })
}
