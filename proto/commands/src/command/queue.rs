//! Commands on queues, 200–299 (`docs/queues.md`). Nothing in them belongs to one protocol.

mod arguments;

pub use arguments::{Arguments, Durability, Overflow, Retention};

use super::*;
use crate::wire::{Reader, WireError, Write};

fn one_of<T: Copy>(n: u64, all: &[T]) -> Result<T, WireError> {
    let value = usize::try_from(n).ok().and_then(|n| all.get(n));
    value.copied().ok_or(WireError("a value that does not exist"))
}

/// What a message asks of the queues it goes to; 0 and empty say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// Higher goes first; cut to what the queue has.
    pub priority: u8,
    /// Not given before, Unix ms.
    pub deliver_at_ms: u64,
    /// Taken once within the queue's window.
    pub message_id: &'a str,
    /// Of one key only the newest is kept, where the queue is compacted.
    pub key: &'a [u8],
    /// Name of the publisher and its sequence: taken if it is above the last one.
    pub producer: Option<(&'a str, u64)>,
}

// === impl Options ===

impl<'a> Options<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.priority);
        out.put_u64(self.deliver_at_ms);
        out.put_str(self.message_id);
        out.put_u16(self.key.len().min(usize::from(u16::MAX)) as u16);
        out.extend_from_slice(&self.key[..self.key.len().min(usize::from(u16::MAX))]);
        out.put_u8(self.producer.is_some().into());
        if let Some((name, sequence)) = self.producer {
            out.put_str(name);
            out.put_u64(sequence);
        }
    }

    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            priority: r.u8()?,
            deliver_at_ms: r.u64()?,
            message_id: r.str()?,
            key: {
                let n = r.u16()?;
                r.take(n.into())?
            },
            producer: if r.u8()? != 0 { Some((r.str()?, r.u64()?)) } else { None },
        })
    }
}

/// Why a message is a dead letter; the numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeadReason {
    /// A consumer rejected it.
    Rejected = 1,
    /// It expired.
    Expired = 2,
    /// The queue was full.
    Overflow = 3,
    /// It was returned too often.
    DeliveryLimit = 4,
}

// === impl DeadReason ===

impl DeadReason {
    /// The reason with this number.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Self> {
        [Self::Rejected, Self::Expired, Self::Overflow, Self::DeliveryLimit]
            .into_iter()
            .find(|reason| *reason as u8 == n)
    }
}

/// Where a dead letter comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why.
    pub reason: DeadReason,
    /// Queues it died in, this one included.
    pub hops: u8,
    /// How often it had been returned.
    pub count: u32,
    /// Shard of the queue it died in.
    pub shard: u32,
    /// That queue.
    pub queue: u64,
    /// Its offset there.
    pub offset: u64,
}

// === impl DeadLetter ===

impl DeadLetter {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.reason as u8);
        out.put_u8(self.hops);
        out.put_var(self.count.into());
        out.put_var(self.shard.into());
        out.put_var(self.queue);
        out.put_var(self.offset);
    }

    /// Reads one.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let small = |n: u64| u32::try_from(n).map_err(|_| WireError("number too large"));
        Ok(Self {
            reason: DeadReason::from_number(r.u8()?).ok_or(WireError("unknown reason"))?,
            hops: r.u8()?,
            count: small(r.var()?)?,
            shard: small(r.var()?)?,
            queue: r.var()?,
            offset: r.var()?,
        })
    }
}

/// A message for queues that routing has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enqueue<'a> {
    /// Incarnations of the queues, eight bytes each.
    pub queues: &'a [u8],
    /// Absolute expiry, Unix ms.
    pub expiry_ms: Option<u64>,
    /// Taken once under this key.
    pub key: Option<Key>,
    /// Numbers of the key's source below this are closed.
    pub lowest_open: Option<u64>,
    /// What it asks of the queues.
    pub options: Options<'a>,
    /// It is a dead letter of another shard.
    pub dead: Option<DeadLetter>,
}

// === impl Enqueue ===

impl Enqueue<'_> {
    /// The queues.
    pub fn queues(&self) -> impl Iterator<Item = u64> {
        self.queues.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

/// What a consumer says of a stretch of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done with.
    Ack,
    /// To be given again at once; counted.
    Return,
    /// To be given again after the queue's back-off; counted.
    ReturnLater,
    /// Never again: dead-lettered, or dropped.
    Reject,
    /// Done with, and all below.
    AckBelow,
    /// To be given again: it was never tried, and is not counted.
    Release,
}

// === impl Verdict ===

impl Verdict {
    /// The verdict with this number.
    #[must_use]
    pub fn from_number(n: u8) -> Option<Self> {
        let all = [
            Self::Ack,
            Self::Return,
            Self::ReturnLater,
            Self::Reject,
            Self::AckBelow,
            Self::Release,
        ];
        all.get(usize::from(n)).copied()
    }
}

/// Verdict on offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What is said.
    pub verdict: Verdict,
    /// First offset.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// A session that a message of a group is for, and nobody else (R10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Shard of the session.
    pub shard: u32,
    /// The session.
    pub session: u64,
    /// Subscription identifier it is delivered with, 0 = none.
    pub identifier: u32,
}

// === impl Recipient ===

impl Recipient {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(self.shard);
        out.put_u64(self.session);
        out.put_u32(self.identifier);
    }

    /// Reads one.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { shard: r.u32()?, session: r.u64()?, identifier: r.u32()? })
    }
}

/// Where a group begins, or begins again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message there is.
    First,
    /// At the newest message there is.
    Last,
    /// At the next message that comes.
    Next,
    /// At an offset.
    Offset(u64),
    /// At the block of 128 that holds the first message of this time, Unix ms: up to 127 come that are older.
    Time(u64),
}

/// How a group shares its messages among its members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Each to whoever has credit.
    #[default]
    Shared,
    /// All to one member; the others wait.
    SingleActive,
    /// All to the one member there may be.
    Exclusive,
    /// All of a key to one member.
    Keyed,
}

// === impl Sharing ===

impl Sharing {
    /// The way with this number.
    ///
    /// # Errors
    /// There is none.
    pub fn from_number(n: u64) -> Result<Self, WireError> {
        one_of(n, &[Self::Shared, Self::SingleActive, Self::Exclusive, Self::Keyed])
    }
}

/// How long a member stays in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stays {
    /// Until it leaves or its gateway ends.
    #[default]
    WithGateway,
    /// Until it leaves.
    UntilItLeaves,
    /// Until the session `consumer` of this shard ends (R10); a session joins once.
    WithSession(u8),
}

// === impl Stays ===

impl Stays {
    fn from_number(n: u8) -> Self {
        match n {
            0 => Self::WithGateway,
            1 => Self::UntilItLeaves,
            n => Self::WithSession(n - 2),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::WithGateway => 0,
            Self::UntilItLeaves => 1,
            Self::WithSession(shard) => shard.saturating_add(2),
        }
    }
}

/// A command on queues.
#[allow(missing_docs)] // the fields are those of docs/internals/commands.md
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueCommand<'a> {
    Declare { vhost: &'a str, name: &'a str, arguments: Arguments<'a>, passive: bool },
    Delete { queue: u64, if_empty: bool, if_unused: bool },
    Purge { queue: u64 },
    Bind { queue: u64, filter: &'a str, bound: bool },
    Enqueue(Enqueue<'a>),
    Settle { queue: u64, group: u64, token: u64, verdicts: Vec<Settlement> },
    CancelScheduled { queue: u64, ids: Vec<u64> },
    GroupCreate { queue: u64, name: &'a str, start: Start, sharing: Sharing },
    GroupDelete { queue: u64, group: u64 },
    GroupSeek { queue: u64, group: u64, start: Start },
    GroupCopy { queue: u64, group: u64, name: &'a str },
    GroupJoin { queue: u64, group: u64, consumer: u64, priority: u8, stays: Stays },
    GroupLeave { queue: u64, group: u64, token: u64 },
    Expire { queue: u64, spared: Vec<(u64, u32)> },
    Moved { queue: u64, dropped: bool, numbers: Vec<u64> },
    Touch { queue: u64 },
    Transaction { count: u16 },
    Give { queue: u64, group: u64, offset: u64, to: Option<Recipient> },
}

impl Start {
    fn encode(self, out: &mut Vec<u8>) {
        let (kind, value) = match self {
            Self::First => (0, 0),
            Self::Last => (1, 0),
            Self::Next => (2, 0),
            Self::Offset(offset) => (3, offset),
            Self::Time(ms) => (4, ms),
        };
        out.put_u8(kind);
        out.put_u64(value);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (kind, value) = (r.u8()?, r.u64()?);
        let all = [Self::First, Self::Last, Self::Next, Self::Offset(value), Self::Time(value)];
        one_of(kind.into(), &all)
    }
}

pub(super) fn decode_queue<'a>(
    op: u16,
    queue: u64,
    r: &mut Reader<'a>,
) -> Result<QueueCommand<'a>, WireError> {
    Ok(match op {
        op::QUEUE_DECLARE => QueueCommand::Declare {
            vhost: r.str()?,
            name: r.str()?,
            arguments: Arguments::decode(r)?,
            passive: r.u8()? != 0,
        },
        op::QUEUE_DELETE => {
            QueueCommand::Delete { queue, if_empty: r.u8()? != 0, if_unused: r.u8()? != 0 }
        }
        op::QUEUE_PURGE => QueueCommand::Purge { queue },
        op::QUEUE_BIND => QueueCommand::Bind { queue, filter: r.str()?, bound: r.u8()? != 0 },
        op::ENQUEUE => QueueCommand::Enqueue(decode_enqueue(r)?),
        op::QUEUE_SETTLE => QueueCommand::Settle {
            queue,
            group: r.u64()?,
            token: r.u64()?,
            verdicts: list(r, decode_settlement)?,
        },
        op::CANCEL_SCHEDULED => QueueCommand::CancelScheduled { queue, ids: list(r, Reader::u64)? },
        op::GROUP_CREATE => QueueCommand::GroupCreate {
            queue,
            name: r.str()?,
            start: Start::decode(r)?,
            sharing: Sharing::from_number(r.u8()?.into())?,
        },
        op::GROUP_DELETE => QueueCommand::GroupDelete { queue, group: r.u64()? },
        op::GROUP_SEEK => {
            QueueCommand::GroupSeek { queue, group: r.u64()?, start: Start::decode(r)? }
        }
        op::GROUP_COPY => QueueCommand::GroupCopy { queue, group: r.u64()?, name: r.str()? },
        op::GROUP_JOIN => QueueCommand::GroupJoin {
            queue,
            group: r.u64()?,
            consumer: r.u64()?,
            priority: r.u8()?,
            stays: Stays::from_number(r.u8()?),
        },
        op::GROUP_LEAVE => QueueCommand::GroupLeave { queue, group: r.u64()?, token: r.u64()? },
        op::QUEUE_EXPIRE => {
            QueueCommand::Expire { queue, spared: list(r, |r| Ok((r.u64()?, r.u32()?)))? }
        }
        op::MOVED => {
            QueueCommand::Moved { queue, dropped: r.u8()? != 0, numbers: list(r, Reader::u64)? }
        }
        op::QUEUE_TOUCH => QueueCommand::Touch { queue },
        op::TRANSACTION => QueueCommand::Transaction { count: r.u16()? },
        op::QUEUE_GIVE => QueueCommand::Give {
            queue,
            group: r.u64()?,
            offset: r.u64()?,
            to: if r.u8()? != 0 { Some(Recipient::decode(r)?) } else { None },
        },
        _ => return Err(WireError("unknown operation")),
    })
}

fn decode_settlement(r: &mut Reader<'_>) -> Result<Settlement, WireError> {
    let verdict = Verdict::from_number(r.u8()?).ok_or(WireError("a value that does not exist"))?;
    Ok(Settlement { verdict, first: r.u64()?, count: r.u32()? })
}

fn decode_enqueue<'a>(r: &mut Reader<'a>) -> Result<Enqueue<'a>, WireError> {
    let n = r.u16()?;
    let queues = r.take(usize::from(n) * 8)?;
    let flags = r.u8()?;
    let bit = |n: u8| flags & (1 << n) != 0;
    Ok(Enqueue {
        queues,
        expiry_ms: if bit(0) { Some(r.u64()?) } else { None },
        key: if bit(1) { Some(Key { shard: r.u32()?, id: r.u64()?, n: r.u64()? }) } else { None },
        lowest_open: if bit(2) { Some(r.u64()?) } else { None },
        options: if bit(3) { Options::decode(r)? } else { Options::default() },
        dead: if bit(4) { Some(DeadLetter::decode(r)?) } else { None },
    })
}

fn encode_enqueue(e: &Enqueue<'_>, out: &mut Vec<u8>) {
    out.put_u16((e.queues.len() / 8) as u16);
    out.extend_from_slice(e.queues.as_chunks::<8>().0.as_flattened());
    let options = e.options != Options::default();
    let bits = [
        e.expiry_ms.is_some(),
        e.key.is_some(),
        e.lowest_open.is_some(),
        options,
        e.dead.is_some(),
    ];
    out.put_u8(bits.iter().rev().fold(0, |flags, set| flags << 1 | u8::from(*set)));
    e.expiry_ms.iter().for_each(|ms| out.put_u64(*ms));
    if let Some(key) = e.key {
        out.put_u32(key.shard);
        out.put_u64(key.id);
        out.put_u64(key.n);
    }
    e.lowest_open.iter().for_each(|n| out.put_u64(*n));
    if options {
        e.options.encode(out);
    }
    e.dead.iter().for_each(|dead| dead.encode(out));
}

impl QueueCommand<'_> {
    /// Appends the attributes; returns operation and target.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> (u16, u64) {
        match self {
            Self::Declare { vhost, name, arguments, passive } => {
                out.put_str(vhost);
                out.put_str(name);
                arguments.encode(out);
                out.put_u8((*passive).into());
                (op::QUEUE_DECLARE, 0)
            }
            Self::Delete { queue, if_empty, if_unused } => {
                out.put_u8((*if_empty).into());
                out.put_u8((*if_unused).into());
                (op::QUEUE_DELETE, *queue)
            }
            Self::Purge { queue } => (op::QUEUE_PURGE, *queue),
            Self::Bind { queue, filter, bound } => {
                out.put_str(filter);
                out.put_u8((*bound).into());
                (op::QUEUE_BIND, *queue)
            }
            Self::Enqueue(enqueue) => {
                encode_enqueue(enqueue, out);
                (op::ENQUEUE, 0)
            }
            Self::Settle { queue, group, token, verdicts } => {
                out.put_u64(*group);
                out.put_u64(*token);
                out.put_u16(verdicts.len() as u16);
                for v in verdicts {
                    out.put_u8(v.verdict as u8);
                    out.put_u64(v.first);
                    out.put_u32(v.count);
                }
                (op::QUEUE_SETTLE, *queue)
            }
            Self::CancelScheduled { queue, ids } => {
                encode::put_ids(ids, out);
                (op::CANCEL_SCHEDULED, *queue)
            }
            Self::Touch { queue } => (op::QUEUE_TOUCH, *queue),
            Self::Transaction { count } => {
                out.put_u16(*count);
                (op::TRANSACTION, 0)
            }
            _ => self.encode_more(out),
        }
    }

    fn encode_more(&self, out: &mut Vec<u8>) -> (u16, u64) {
        match self {
            Self::GroupCreate { queue, name, start, sharing } => {
                out.put_str(name);
                start.encode(out);
                out.put_u8(*sharing as u8);
                (op::GROUP_CREATE, *queue)
            }
            Self::GroupDelete { queue, group } => {
                out.put_u64(*group);
                (op::GROUP_DELETE, *queue)
            }
            Self::GroupSeek { queue, group, start } => {
                out.put_u64(*group);
                start.encode(out);
                (op::GROUP_SEEK, *queue)
            }
            Self::GroupCopy { queue, group, name } => {
                out.put_u64(*group);
                out.put_str(name);
                (op::GROUP_COPY, *queue)
            }
            Self::GroupJoin { queue, group, consumer, priority, stays } => {
                out.put_u64(*group);
                out.put_u64(*consumer);
                out.put_u8(*priority);
                out.put_u8(stays.number());
                (op::GROUP_JOIN, *queue)
            }
            Self::GroupLeave { queue, group, token } => {
                out.put_u64(*group);
                out.put_u64(*token);
                (op::GROUP_LEAVE, *queue)
            }
            Self::Expire { queue, spared } => {
                out.put_u16(spared.len() as u16);
                for (first, count) in spared {
                    out.put_u64(*first);
                    out.put_u32(*count);
                }
                (op::QUEUE_EXPIRE, *queue)
            }
            Self::Moved { queue, dropped, numbers } => {
                out.put_u8((*dropped).into());
                encode::put_ids(numbers, out);
                (op::MOVED, *queue)
            }
            Self::Give { queue, group, offset, to } => {
                out.put_u64(*group);
                out.put_u64(*offset);
                out.put_u8(to.is_some().into());
                to.iter().for_each(|to| to.encode(out));
                (op::QUEUE_GIVE, *queue)
            }
            _ => unreachable!("encoded by encode"),
        }
    }
}
