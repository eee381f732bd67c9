//! What voters of a group say to each other, as bytes: one question, one answer. A transport carries them and looks at
//! nothing in them; whatever the bytes are, decoding them is bounded and never panics.
//!
//! A question is `version u8 · kind u8 · fields`, an answer `version u8 · kind u8 · clock u64 · fields`, little-endian;
//! `clock` is Unix time of the answering node, ms (S7). `vote` is `term u64 · candidate u64 · committed u8`; an
//! optional `id` is `present u8 · term u64 · index u64`; an `entry` is `index u64 · term u64 · kind u8 · length u32 ·
//! payload`.

use bytes::Bytes;
use fluxmq_commands::wire::{Reader, WireError, Write};
use logd_log::{Entry, EntryKind, LogId, Vote, limits};

/// Largest frame, bytes: the largest entry and what is read together with it.
pub const FRAME_BYTES_MAX: usize = limits::ENTRY_PAYLOAD_MAX + 8 * 1024 * 1024;
/// Most entries of a frame.
pub(crate) const FRAME_ENTRIES_MAX: usize = 4_096;
/// Bytes of an entry without its payload.
const ENTRY_HEAD: usize = 8 + 8 + 1 + 4;
const VERSION: u8 = 1;

/// A question to a voter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    /// Entries that follow `previous`; none is a heartbeat.
    Append { vote: Vote, previous: Option<LogId>, committed: Option<LogId>, entries: Vec<Entry> },
    /// Will you vote for me?
    Elect { vote: Vote, last: Option<LogId>, handed_over: bool },
    /// Would you? Changes nothing.
    WouldElect { vote: Vote, last: Option<LogId> },
    /// A snapshot comes: its last entry, the meta it is stored with, bytes of its state.
    Begin { transfer: u64, vote: Vote, last: LogId, meta: Bytes, state_bytes: u64 },
    /// State of the snapshot from `at` on.
    State { transfer: u64, at: u64, bytes: Bytes },
    /// Live entries of the snapshot, the `at`th bytes of them on, encoded as in an append.
    Live { transfer: u64, at: u64, bytes: Bytes },
    /// All was sent: install it.
    Install { transfer: u64, vote: Vote },
    /// The leader wants `to` to lead as soon as its log is as long.
    HandOver { vote: Vote, to: u64, last: Option<LogId> },
    /// What does your clock show?
    Clock,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// All entries are durable here.
    Appended,
    /// Those up to here are.
    AppendedUpto(Option<LogId>),
    /// `previous` is not here.
    Conflict,
    /// There is a higher vote.
    Outvoted(Vote),
    /// The vote of the voter, whether it was given, the last entry here.
    Voted { vote: Vote, granted: bool, last: Option<LogId> },
    /// A snapshot may come; live entries at and below this index are here already.
    Ready { above: u64 },
    /// The chunk was taken.
    Taken,
    /// The snapshot is installed, or this vote is higher.
    Installed { vote: Vote },
    /// Not now; ask again later.
    Refused,
}

const APPEND: u8 = 1;
const ELECT: u8 = 2;
const WOULD_ELECT: u8 = 3;
const BEGIN: u8 = 4;
const STATE: u8 = 5;
const LIVE: u8 = 6;
const INSTALL: u8 = 7;
const HAND_OVER: u8 = 8;
const CLOCK: u8 = 9;

const APPENDED: u8 = 64;
const APPENDED_UPTO: u8 = 65;
const CONFLICT: u8 = 66;
const OUTVOTED: u8 = 67;
const VOTED: u8 = 68;
const READY: u8 = 69;
const TAKEN: u8 = 70;
const INSTALLED: u8 = 71;
const REFUSED: u8 = 72;

// === impl Question ===

impl Question {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Append { vote, previous, committed, entries } => {
                out.put_u8(APPEND);
                put_vote(&mut out, *vote);
                put_id(&mut out, *previous);
                put_id(&mut out, *committed);
                out.reserve(entries.iter().map(|e| ENTRY_HEAD + e.payload.len()).sum());
                entries.iter().for_each(|entry| put_entry(&mut out, entry));
            }
            Self::Elect { vote, last, handed_over } => {
                out.put_u8(ELECT);
                put_vote(&mut out, *vote);
                put_id(&mut out, *last);
                out.put_u8((*handed_over).into());
            }
            Self::WouldElect { vote, last } => {
                out.put_u8(WOULD_ELECT);
                put_vote(&mut out, *vote);
                put_id(&mut out, *last);
            }
            Self::Begin { transfer, vote, last, meta, state_bytes } => {
                out.put_u8(BEGIN);
                out.put_u64(*transfer);
                put_vote(&mut out, *vote);
                put_id(&mut out, Some(*last));
                out.put_u64(*state_bytes);
                out.extend_from_slice(meta);
            }
            Self::State { transfer, at, bytes } | Self::Live { transfer, at, bytes } => {
                let state = matches!(self, Self::State { .. });
                out.put_u8(if state { STATE } else { LIVE });
                out.put_u64(*transfer);
                out.put_u64(*at);
                out.extend_from_slice(bytes);
            }
            Self::Install { transfer, vote } => {
                out.put_u8(INSTALL);
                out.put_u64(*transfer);
                put_vote(&mut out, *vote);
            }
            Self::Clock => out.put_u8(CLOCK),
            Self::HandOver { vote, to, last } => {
                out.put_u8(HAND_OVER);
                put_vote(&mut out, *vote);
                out.put_u64(*to);
                put_id(&mut out, *last);
            }
        }
        out.into()
    }

    /// Payloads and chunks share the memory of the frame.
    pub(crate) fn decode(frame: &Bytes) -> Result<Self, WireError> {
        let (kind, mut r) = open(frame)?;
        let rest = |r: &Reader<'_>| frame.slice(frame.len() - r.0.len()..);
        let question = match kind {
            APPEND => {
                let (vote, previous, committed) = (vote(&mut r)?, id(&mut r)?, id(&mut r)?);
                let entries = entries(&rest(&r))?;
                return Ok(Self::Append { vote, previous, committed, entries });
            }
            ELECT => {
                Self::Elect { vote: vote(&mut r)?, last: id(&mut r)?, handed_over: r.u8()? != 0 }
            }
            WOULD_ELECT => Self::WouldElect { vote: vote(&mut r)?, last: id(&mut r)? },
            BEGIN => {
                let (transfer, vote) = (r.u64()?, vote(&mut r)?);
                let last = id(&mut r)?.ok_or(WireError("a snapshot without a last entry"))?;
                let state_bytes = r.u64()?;
                let meta = rest(&r);
                if meta.len() > limits::SNAPSHOT_META_MAX || state_bytes > limits::SNAPSHOT_MAX {
                    return Err(WireError("the snapshot is too large"));
                }
                return Ok(Self::Begin { transfer, vote, last, meta, state_bytes });
            }
            STATE | LIVE => {
                let (transfer, at) = (r.u64()?, r.u64()?);
                let bytes = rest(&r);
                return Ok(match kind {
                    STATE => Self::State { transfer, at, bytes },
                    _ => Self::Live { transfer, at, bytes },
                });
            }
            INSTALL => Self::Install { transfer: r.u64()?, vote: vote(&mut r)? },
            CLOCK => Self::Clock,
            HAND_OVER => Self::HandOver { vote: vote(&mut r)?, to: r.u64()?, last: id(&mut r)? },
            _ => return Err(WireError("not a question that this node knows")),
        };
        r.end()?;
        Ok(question)
    }
}

// === impl Answer ===

impl Answer {
    fn kind(&self) -> u8 {
        match self {
            Self::Appended => APPENDED,
            Self::AppendedUpto(_) => APPENDED_UPTO,
            Self::Conflict => CONFLICT,
            Self::Outvoted(_) => OUTVOTED,
            Self::Voted { .. } => VOTED,
            Self::Ready { .. } => READY,
            Self::Taken => TAKEN,
            Self::Installed { .. } => INSTALLED,
            Self::Refused => REFUSED,
        }
    }

    /// `clock_ms` is what the clock of this node shows.
    pub(crate) fn encode(&self, clock_ms: u64) -> Bytes {
        let mut out = vec![VERSION, self.kind()];
        out.put_u64(clock_ms);
        match self {
            Self::Appended | Self::Conflict | Self::Taken | Self::Refused => {}
            Self::AppendedUpto(id) => put_id(&mut out, *id),
            Self::Outvoted(vote) | Self::Installed { vote } => put_vote(&mut out, *vote),
            Self::Voted { vote, granted, last } => {
                put_vote(&mut out, *vote);
                out.put_u8((*granted).into());
                put_id(&mut out, *last);
            }
            Self::Ready { above } => out.put_u64(*above),
        }
        out.into()
    }

    /// The answer, and what the clock of the other node showed.
    pub(crate) fn decode(frame: &Bytes) -> Result<(Self, u64), WireError> {
        let (kind, mut r) = open(frame)?;
        let clock_ms = r.u64()?;
        let answer = match kind {
            APPENDED => Self::Appended,
            APPENDED_UPTO => Self::AppendedUpto(id(&mut r)?),
            CONFLICT => Self::Conflict,
            OUTVOTED => Self::Outvoted(vote(&mut r)?),
            VOTED => Self::Voted { vote: vote(&mut r)?, granted: r.u8()? != 0, last: id(&mut r)? },
            READY => Self::Ready { above: r.u64()? },
            TAKEN => Self::Taken,
            INSTALLED => Self::Installed { vote: vote(&mut r)? },
            REFUSED => Self::Refused,
            _ => return Err(WireError("not an answer that this node knows")),
        };
        r.end()?;
        Ok((answer, clock_ms))
    }
}

// === fields ===

fn open(frame: &[u8]) -> Result<(u8, Reader<'_>), WireError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(WireError("the frame is too large"));
    }
    let mut r = Reader(frame);
    match r.u8()? {
        VERSION => Ok((r.u8()?, r)),
        _ => Err(WireError("a frame of another version")),
    }
}

fn put_vote(out: &mut Vec<u8>, vote: Vote) {
    out.put_u64(vote.term);
    out.put_u64(vote.voted_for.unwrap_or_default());
    out.put_u8(vote.committed.into());
}

fn vote(r: &mut Reader<'_>) -> Result<Vote, WireError> {
    Ok(Vote { term: r.u64()?, voted_for: Some(r.u64()?), committed: r.u8()? != 0 })
}

fn put_id(out: &mut Vec<u8>, id: Option<LogId>) {
    out.put_u8(id.is_some().into());
    out.put_u64(id.map_or(0, |id| id.term));
    out.put_u64(id.map_or(0, |id| id.index));
}

fn id(r: &mut Reader<'_>) -> Result<Option<LogId>, WireError> {
    let present = r.u8()? != 0;
    let (term, index) = (r.u64()?, r.u64()?);
    if index > limits::INDEX_MAX {
        return Err(WireError("an index beyond the largest"));
    }
    Ok(present.then_some(LogId { term, leader_node: None, index }))
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.put_u64(entry.index);
    out.put_u64(entry.term);
    out.put_u8(entry.kind as u8);
    out.put_u32(u32::try_from(entry.payload.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&entry.payload);
}

/// The entry at the front of `bytes` and the bytes it takes; None when it is not whole.
///
/// # Errors
/// It can be no entry, whatever follows.
pub(crate) fn entry(bytes: &Bytes) -> Result<Option<(Entry, usize)>, WireError> {
    let Some(head) = bytes.get(..ENTRY_HEAD) else { return Ok(None) };
    let mut r = Reader(head);
    let (index, term) = (r.u64()?, r.u64()?);
    let kind = match r.u8()? {
        1 => EntryKind::Blank,
        2 => EntryKind::Normal,
        3 => EntryKind::Membership,
        _ => return Err(WireError("an entry of a kind that this node does not know")),
    };
    let len = r.u32()? as usize;
    if len > limits::ENTRY_PAYLOAD_MAX || index > limits::INDEX_MAX {
        return Err(WireError("an entry beyond the limits"));
    }
    let end = ENTRY_HEAD + len;
    if bytes.len() < end {
        return Ok(None);
    }
    let payload = bytes.slice(ENTRY_HEAD..end);
    Ok(Some((Entry { index, term, leader_node: None, kind, payload }, end)))
}

/// All of `bytes`, each entry behind the one before.
pub(crate) fn entries(bytes: &Bytes) -> Result<Vec<Entry>, WireError> {
    let mut rest = bytes.clone();
    let mut out: Vec<Entry> = Vec::new();
    while !rest.is_empty() {
        let (entry, len) = entry(&rest)?.ok_or(WireError("an entry ends too early"))?;
        if out.len() == FRAME_ENTRIES_MAX
            || out.last().is_some_and(|last| last.index >= entry.index)
        {
            return Err(WireError("entries out of order, or too many"));
        }
        out.push(entry);
        rest = rest.slice(len..);
    }
    Ok(out)
}

#[cfg(test)]
#[path = "peer/tests.rs"]
mod tests;
