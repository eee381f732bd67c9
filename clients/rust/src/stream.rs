//! The commands to one shard, in sequence; what is not answered is kept and said again over a new link (Q1).

use std::collections::VecDeque;

use bytes::Bytes;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::ErrorCode;

use crate::contract::{Request, Submit};

/// Bytes of commands a stream may have unanswered; beyond it publishers are not read (T3).
pub const COMMAND_WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Bytes after which a frame goes out within a batch.
const FRAME_BYTES: usize = 64 * 1024;

/// Commands that were sent and are not answered.
struct Frame<W> {
    first: u64,
    ends: Vec<u32>,
    body: Bytes,
    /// Who waits, in the order of the commands.
    waiters: Vec<Option<W>>,
    sent_ms: u64,
    /// Its waiters were told that it takes too long.
    given_up: bool,
    /// It was refused by a node that cannot take it now, and is to be sent again.
    again: bool,
}

/// The commands to one shard; `W` is who waits for an outcome.
pub struct Stream<W> {
    /// Sequence of the last command sent; the first is 1.
    sent: u64,
    /// Outcomes up to here were seen.
    confirmed: u64,
    /// A refusal used up no sequence: when nothing is in flight any more, this one is next (Q1).
    resync: Option<u64>,
    ends: Vec<u32>,
    body: Vec<u8>,
    waiters: Vec<Option<W>>,
    in_flight: VecDeque<Frame<W>>,
    in_flight_bytes: usize,
}

// === impl Stream ===

impl<W> Default for Stream<W> {
    fn default() -> Self {
        Self {
            sent: 0,
            confirmed: 0,
            resync: None,
            ends: Vec::new(),
            body: Vec::new(),
            waiters: Vec::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }
}

impl<W> Stream<W> {
    /// Appends a command with its message; true when a frame is full.
    pub fn push(&mut self, command: &Command<'_>, message: &[&[u8]], waiter: Option<W>) -> bool {
        command.encode(&[], &mut self.body);
        message.iter().for_each(|part| self.body.extend_from_slice(part));
        self.ends.push(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        self.waiters.push(waiter);
        self.body.len() >= FRAME_BYTES
    }

    /// Everything is answered.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.in_flight.is_empty()
    }

    /// The window is used up.
    pub fn is_full(&self) -> bool {
        self.in_flight_bytes + self.body.len() >= COMMAND_WINDOW_BYTES
    }

    /// The frame of what queues. It is kept until it is answered, whether it can be sent or not.
    pub fn close_frame(&mut self, shard: u32, now_ms: u64) -> Option<Request> {
        // While a refusal is cleared up, what is in flight is refused as out of sequence; this would be as well.
        if self.ends.is_empty() || self.resync.is_some() {
            return None;
        }
        let ends = std::mem::take(&mut self.ends);
        let body: Bytes = std::mem::take(&mut self.body).into();
        let first = self.sent + 1;
        self.sent += ends.len() as u64;
        self.in_flight_bytes += body.len();
        let waiters = std::mem::take(&mut self.waiters);
        let (sent_ms, given_up, again) = (now_ms, false, false);
        let frame = Frame { first, ends, body, waiters, sent_ms, given_up, again };
        let request = self.request(shard, &frame);
        self.in_flight.push_back(frame);
        Some(request)
    }

    fn request(&self, shard: u32, frame: &Frame<W>) -> Request {
        Request::Submit(Submit {
            shard,
            first_sequence: frame.first,
            confirmed_upto: self.confirmed,
            ends: frame.ends.clone(),
            body: frame.body.clone(),
        })
    }

    /// Everything that is not answered, to be sent over a new link.
    pub fn resend(&mut self, shard: u32) -> Vec<Request> {
        self.in_flight.iter_mut().for_each(|frame| frame.again = false);
        self.in_flight.iter().map(|frame| self.request(shard, frame)).collect()
    }

    /// What a node could not take when it was sent.
    pub fn retry(&mut self, shard: u32) -> Vec<Request> {
        // In sequence: whatever stands behind one that was not taken was not taken either.
        if self.in_flight.iter().any(|frame| frame.again) { self.resend(shard) } else { Vec::new() }
    }

    /// The frame is to be sent again later.
    pub fn postpone(&mut self, first: u64) {
        if let Some(frame) = self.in_flight.iter_mut().find(|frame| frame.first == first) {
            frame.again = true;
        }
    }

    /// The frame that begins with `first` is answered; gives who waits for its commands. `next` is the
    /// sequence `logd` waits for when it was refused. None when no such frame is in flight: it is a repeat
    /// of an answer that came before the link was lost. Refusals may overtake other answers.
    fn answered(&mut self, first: u64, next: Option<u64>) -> Option<Vec<Option<W>>> {
        let at = self.in_flight.iter().position(|frame| frame.first == first)?;
        let frame = self.in_flight.remove(at)?;
        self.in_flight_bytes -= frame.body.len();
        self.resync = match (self.resync, next) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if self.in_flight.is_empty()
            && let Some(next) = self.resync.take()
        {
            self.sent = next - 1;
        }
        Some(frame.waiters)
    }

    /// What became of the frame that begins with `first`; gives who waits for its commands, as
    /// [`Self::refused`] does.
    pub fn outcomes(&mut self, first: u64, outcomes: &[Outcome]) -> Option<Vec<Option<W>>> {
        let out_of_sequence = |outcome: &Outcome| match outcome {
            Outcome::Error { code: ErrorCode::OutOfSequence, detail } => Some(*detail),
            _ => None,
        };
        let next = outcomes.iter().find_map(out_of_sequence);
        let waiters = self.answered(first, next)?;
        let seen = outcomes.iter().take_while(|o| out_of_sequence(o).is_none()).count() as u64;
        if seen > 0 {
            self.confirmed = self.confirmed.max(first + seen - 1);
        }
        Some(waiters)
    }

    /// The frame that begins with `first` was not taken and used up no sequence.
    pub fn refused(&mut self, first: u64) -> Option<Vec<Option<W>>> {
        self.answered(first, Some(first))
    }

    /// Everybody who waits; nothing is answered any more.
    pub fn into_waiters(self) -> impl Iterator<Item = W> {
        let in_flight = self.in_flight.into_iter().flat_map(|frame| frame.waiters);
        in_flight.chain(self.waiters).flatten()
    }

    /// Waiters of frames sent before `before_ms`. The frames stay: nobody knows whether they are taken.
    pub fn give_up(&mut self, before_ms: u64) -> Vec<W> {
        let late = |frame: &&mut Frame<W>| !frame.given_up && frame.sent_ms < before_ms;
        let mut waiters = Vec::new();
        for frame in self.in_flight.iter_mut().filter(late) {
            frame.given_up = true;
            waiters.extend(frame.waiters.iter_mut().filter_map(Option::take));
        }
        waiters
    }
}
