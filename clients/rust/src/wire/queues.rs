//! Queues on the deliver lane: deliveries and pages into columns.

use bytes::Bytes;
use fluxmq_commands::command::queue::{DeadLetter, Settlement, Verdict};
use fluxmq_commands::wire::Reader;
use fluxmq_names::ErrorCode;
use fluxmq_proto::v1;

use super::deliver::REPLY_BYTES;
use super::{WireError, slices};
use crate::contract::{
    Consume, LookAtQueues, QueueDelivery, QueueItem, QueuePage, ReadQueue, Settle, Settled,
};

fn to_error(error: Option<ErrorCode>) -> u32 {
    error.map_or(0, |code| code.number().into())
}

fn from_error(number: u32) -> Result<Option<ErrorCode>, WireError> {
    if number == 0 {
        return Ok(None);
    }
    let known = u16::try_from(number).ok().and_then(ErrorCode::from_number);
    known.map(Some).ok_or(WireError("an error code"))
}

fn to_offsets(all: &[(u64, u32)]) -> Option<v1::Offsets> {
    let offsets = v1::Offsets {
        firsts: all.iter().map(|(first, _)| *first).collect(),
        counts: all.iter().map(|(_, count)| *count).collect(),
    };
    (!all.is_empty()).then_some(offsets)
}

fn from_offsets(offsets: Option<v1::Offsets>) -> Result<Vec<(u64, u32)>, WireError> {
    let offsets = offsets.unwrap_or_default();
    if offsets.firsts.len() != offsets.counts.len() {
        return Err(WireError("columns of different length"));
    }
    Ok(offsets.firsts.into_iter().zip(offsets.counts).collect())
}

pub(super) fn to_consume(c: Consume) -> v1::Consume {
    let held = to_offsets(&c.held);
    let Consume { token, shard, queue, group, member, lease_ms, .. } = c;
    v1::Consume { token, shard, queue, group, member, lease_ms, held }
}

pub(super) fn from_consume(c: v1::Consume) -> Result<Consume, WireError> {
    let held = from_offsets(c.held)?;
    let v1::Consume { token, shard, queue, group, member, lease_ms, .. } = c;
    Ok(Consume { token, shard, queue, group, member, lease_ms, held })
}

pub(super) fn to_settle(s: &Settle) -> v1::Settle {
    let stretches: Vec<_> = s.verdicts.iter().map(|v| (v.first, v.count)).collect();
    let verdicts: Vec<u8> = s.verdicts.iter().map(|v| v.verdict as u8).collect();
    let (token, id, offsets) = (s.token, s.id, to_offsets(&stretches));
    v1::Settle { token, id, offsets, verdicts: verdicts.into() }
}

pub(super) fn from_settle(s: v1::Settle) -> Result<Settle, WireError> {
    let stretches = from_offsets(s.offsets)?;
    if stretches.len() != s.verdicts.len() {
        return Err(WireError("columns of different length"));
    }
    let verdict = |(n, (first, count)): (&u8, (u64, u32))| {
        let verdict = Verdict::from_number(*n).ok_or(WireError("a verdict"))?;
        Ok(Settlement { verdict, first, count })
    };
    let verdicts = s.verdicts.iter().zip(stretches).map(verdict).collect::<Result<_, _>>()?;
    Ok(Settle { token: s.token, id: s.id, verdicts })
}

pub(super) fn to_read(r: &ReadQueue) -> v1::ReadQueue {
    let &ReadQueue { id, shard, queue, from, max, wait_ms } = r;
    v1::ReadQueue { id, shard, queue, from, max, wait_ms }
}

pub(super) fn from_read(r: &v1::ReadQueue) -> ReadQueue {
    let &v1::ReadQueue { id, shard, queue, from, max, wait_ms } = r;
    ReadQueue { id, shard, queue, from, max, wait_ms }
}

pub(super) fn to_look(l: LookAtQueues) -> v1::LookAtQueues {
    let LookAtQueues { id, shard, vhost, name, after, max } = l;
    v1::LookAtQueues { id, shard, vhost, name, after, max }
}

pub(super) fn from_look(l: v1::LookAtQueues) -> LookAtQueues {
    let v1::LookAtQueues { id, shard, vhost, name, after, max } = l;
    LookAtQueues { id, shard, vhost, name, after, max }
}

pub(super) fn to_settled(s: &Settled) -> v1::Settled {
    let (refused, error) = (to_offsets(&s.refused), to_error(s.error));
    v1::Settled { token: s.token, id: s.id, refused, error }
}

pub(super) fn from_settled(s: v1::Settled) -> Result<Settled, WireError> {
    let (refused, error) = (from_offsets(s.refused)?, from_error(s.error)?);
    Ok(Settled { token: s.token, id: s.id, refused, error })
}

pub(super) fn to_consuming(token: u64, error: Option<ErrorCode>) -> v1::Consuming {
    v1::Consuming { token, error: to_error(error) }
}

pub(super) fn from_consuming(c: &v1::Consuming) -> Result<Option<ErrorCode>, WireError> {
    from_error(c.error)
}

pub(super) fn from_ended(c: &v1::ConsumerEnded) -> Result<ErrorCode, WireError> {
    from_error(c.error)?.ok_or(WireError("an end without a reason"))
}

/// Bodies end to end, with what is said of dead letters beside them.
#[derive(Default)]
struct Bodies {
    ends: Vec<u32>,
    body: Vec<u8>,
    dead: v1::DeadLetters,
}

// === impl Bodies ===

impl Bodies {
    fn push(&mut self, command: &Bytes, dead: Option<&DeadLetter>) {
        if let Some(dead) = dead {
            let mut bytes = Vec::new();
            dead.encode(&mut bytes);
            self.dead.at.push(u32::try_from(self.ends.len()).unwrap_or(u32::MAX));
            self.dead.dead.push(bytes.into());
        }
        self.body.extend_from_slice(command);
        self.ends.push(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
    }

    fn dead(&mut self) -> Option<v1::DeadLetters> {
        let dead = std::mem::take(&mut self.dead);
        (!dead.at.is_empty()).then_some(dead)
    }
}

/// What is said of dead letters among `n` messages.
fn dead_letters(
    dead: Option<v1::DeadLetters>,
    n: usize,
) -> Result<Vec<Option<DeadLetter>>, WireError> {
    let dead = dead.unwrap_or_default();
    let mut all = vec![None; n];
    if dead.at.len() != dead.dead.len() {
        return Err(WireError("columns of different length"));
    }
    for (at, bytes) in dead.at.iter().zip(&dead.dead) {
        let of = all.get_mut(*at as usize).ok_or(WireError("no such message"))?;
        let letter = DeadLetter::decode(&mut Reader(bytes));
        *of = Some(letter.map_err(|_| WireError("a dead letter"))?);
    }
    Ok(all)
}

/// Deliveries on their way into columns.
#[derive(Default)]
pub(super) struct Columns {
    tokens: Vec<u64>,
    offsets: Vec<u64>,
    counts: Vec<u32>,
    bodies: Bodies,
}

// === impl Columns ===

impl Columns {
    /// Takes deliveries from the front; false when some stay behind.
    pub(super) fn take(&mut self, all: &mut Vec<QueueDelivery>) -> bool {
        let mut taken = 0;
        for d in all.iter() {
            let bytes = self.bodies.body.len();
            if bytes > 0 && bytes + d.command.len() > REPLY_BYTES {
                break;
            }
            self.tokens.push(d.token);
            self.offsets.push(d.offset);
            self.counts.push(d.count.saturating_mul(2) | u32::from(d.redelivered));
            self.bodies.push(&d.command, d.dead.as_ref());
            taken += 1;
        }
        all.drain(..taken);
        all.is_empty()
    }

    /// Bytes of bodies so far.
    pub(super) fn bytes(&self) -> usize {
        self.bodies.body.len()
    }

    /// Nothing was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    pub(super) fn close(mut self) -> Option<v1::QueueDeliveries> {
        if self.is_empty() {
            return None;
        }
        let dead = self.bodies.dead();
        let Self { tokens, offsets, counts, bodies } = self;
        let (ends, body) = (bodies.ends, bodies.body.into());
        Some(v1::QueueDeliveries { tokens, offsets, counts, ends, body, dead })
    }
}

pub(super) fn from_columns(m: v1::QueueDeliveries) -> Result<Vec<QueueDelivery>, WireError> {
    let n = m.tokens.len();
    if [m.offsets.len(), m.counts.len(), m.ends.len()] != [n; 3] {
        return Err(WireError("columns of different length"));
    }
    let dead = dead_letters(m.dead, n)?;
    let mut all = Vec::with_capacity(n);
    for ((at, command), dead) in slices(&m.ends, &m.body).enumerate().zip(dead) {
        let count = m.counts[at];
        all.push(QueueDelivery {
            token: m.tokens[at],
            offset: m.offsets[at],
            count: count / 2,
            redelivered: count & 1 == 1,
            dead,
            command: command?,
        });
    }
    Ok(all)
}

pub(super) fn to_page(page: QueuePage) -> v1::QueuePage {
    let mut bodies = Bodies::default();
    page.items.iter().for_each(|item| bodies.push(&item.command, item.dead.as_ref()));
    let dead = bodies.dead();
    v1::QueuePage {
        id: page.id,
        offsets: page.items.iter().map(|i| i.offset).collect(),
        times_ms: page.items.iter().map(|i| i.time_ms).collect(),
        ends: bodies.ends,
        body: bodies.body.into(),
        dead,
        next: page.next,
        gone: page.gone,
    }
}

pub(super) fn from_page(p: v1::QueuePage) -> Result<QueuePage, WireError> {
    let n = p.offsets.len();
    if [p.times_ms.len(), p.ends.len()] != [n; 2] {
        return Err(WireError("columns of different length"));
    }
    let dead = dead_letters(p.dead, n)?;
    let mut items = Vec::with_capacity(n);
    for ((at, command), dead) in slices(&p.ends, &p.body).enumerate().zip(dead) {
        let (offset, time_ms) = (p.offsets[at], p.times_ms[at]);
        items.push(QueueItem { offset, time_ms, dead, command: command? });
    }
    Ok(QueuePage { id: p.id, items, next: p.next, gone: p.gone })
}
