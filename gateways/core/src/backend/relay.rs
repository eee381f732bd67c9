//! Messages for live subscribers of other gateways (R6): numbered per pair, kept until they are taken, taken
//! once.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use fluxmq_client::contract::{Relay, Request};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;

use super::Waiter;

/// Bytes to one gateway that are not taken; beyond it QoS 0 is dropped (R6).
const WINDOW_BYTES: usize = 1024 * 1024;
/// Beyond it, which only QoS ≥ 1 can reach, publishers are not read (T3).
const HOLD_BYTES: usize = 4 * WINDOW_BYTES;
/// Bytes after which a frame goes out within a batch.
const FRAME_BYTES: usize = 64 * 1024;

/// Messages that were sent and not taken.
struct Frame {
    first: u64,
    ends: Vec<u32>,
    body: Bytes,
}

/// The messages to one gateway.
#[derive(Default)]
struct Outgoing {
    /// Number of the last message; the first is 1.
    last: u64,
    ends: Vec<u32>,
    body: Vec<u8>,
    frames: VecDeque<Frame>,
    /// How many of the last frames were not sent yet.
    unsent: usize,
    bytes: usize,
    waiters: VecDeque<(u64, Waiter)>,
}

/// Messages to and from other gateways, by their epoch.
#[derive(Default)]
pub(super) struct Relays {
    to: HashMap<u64, Outgoing>,
    /// Number of the last message taken from each.
    taken: HashMap<u64, u64>,
}

// === impl Relays ===

impl Relays {
    /// Whether publishers must wait until more is taken.
    pub(super) fn is_full(&self) -> bool {
        self.to.values().any(|o| o.bytes >= HOLD_BYTES)
    }

    /// Appends a message for the gateway `peer`; `waiter` is told when it is taken. Without a waiter it is
    /// dropped when the window is used up: false.
    pub(super) fn push(
        &mut self,
        peer: u64,
        command: &Command<'_>,
        message: &[&[u8]],
        waiter: Option<Waiter>,
    ) -> bool {
        self.append(peer, waiter, |body| {
            command.encode(&[], body);
            message.iter().for_each(|part| body.extend_from_slice(part));
        })
    }

    /// As [`Self::push`], a command that is encoded already.
    pub(super) fn push_encoded(&mut self, peer: u64, command: &[u8], waiter: Waiter) {
        self.append(peer, Some(waiter), |body| body.extend_from_slice(command));
    }

    fn append(
        &mut self,
        peer: u64,
        waiter: Option<Waiter>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let out = self.to.entry(peer).or_default();
        if waiter.is_none() && out.bytes >= WINDOW_BYTES {
            return false;
        }
        let before = out.body.len();
        write(&mut out.body);
        out.bytes += out.body.len() - before;
        out.ends.push(u32::try_from(out.body.len()).unwrap_or(u32::MAX));
        out.last += 1;
        let number = out.last;
        out.waiters.extend(waiter.map(|waiter| (number, waiter)));
        if out.body.len() >= FRAME_BYTES {
            out.close_frame();
        }
        true
    }

    /// What queues leaves by `send`.
    pub(super) fn flush(&mut self, mut send: impl FnMut(Request)) {
        for (peer, out) in &mut self.to {
            out.close_frame();
            let unsent = std::mem::take(&mut out.unsent);
            let sent = out.frames.len().saturating_sub(unsent);
            out.frames.iter().skip(sent).for_each(|frame| send(frame.request(*peer)));
        }
    }

    /// Everything that `peer` did not take, or all of them.
    pub(super) fn again(&self, peer: Option<u64>) -> Vec<Request> {
        let wanted = self.to.iter().filter(|(p, _)| peer.is_none_or(|peer| peer == **p));
        wanted.flat_map(|(p, out)| out.frames.iter().map(|f| f.request(*p))).collect()
    }

    /// `peer` took everything up to a number; whoever waited for that is to be told.
    pub(super) fn taken(&mut self, peer: u64, upto: u64) -> Vec<Waiter> {
        let Some(out) = self.to.get_mut(&peer) else { return Vec::new() };
        while let Some(first) = out.frames.front()
            && first.first + first.ends.len() as u64 <= upto + 1
        {
            out.bytes -= first.body.len();
            out.frames.pop_front();
        }
        let mut told = Vec::new();
        while out.waiters.front().is_some_and(|(number, _)| *number <= upto) {
            told.extend(out.waiters.pop_front().map(|(_, waiter)| waiter));
        }
        told
    }

    /// `peer` is gone: nobody waits for it any more.
    pub(super) fn gone(&mut self, peer: u64) -> Vec<Waiter> {
        self.taken.remove(&peer);
        let out = self.to.remove(&peer).unwrap_or_default();
        out.waiters.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Nothing is known of anybody any more.
    pub(super) fn clear(&mut self) -> Vec<Waiter> {
        self.taken.clear();
        let all = std::mem::take(&mut self.to).into_values();
        all.flat_map(|out| out.waiters).map(|(_, waiter)| waiter).collect()
    }

    /// The messages of a frame that were not taken before, and up to which number all are taken now.
    pub(super) fn take(&mut self, relay: &Relay) -> (Vec<Bytes>, u64) {
        let taken = self.taken.entry(relay.peer).or_default();
        let mut fresh = Vec::new();
        let mut start = 0;
        for (number, end) in (relay.first..).zip(&relay.ends) {
            let end = *end as usize;
            if end < start || end > relay.body.len() {
                break;
            }
            if number == *taken + 1 {
                fresh.push(relay.body.slice(start..end));
                *taken = number;
            }
            start = end;
        }
        (fresh, *taken)
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// Makes a frame of what queues.
    fn close_frame(&mut self) {
        if self.ends.is_empty() {
            return;
        }
        let ends = std::mem::take(&mut self.ends);
        let body = std::mem::take(&mut self.body).into();
        let first = self.last + 1 - ends.len() as u64;
        self.frames.push_back(Frame { first, ends, body });
        self.unsent += 1;
    }
}

// === impl Frame ===

impl Frame {
    fn request(&self, peer: u64) -> Request {
        let (first, ends, body) = (self.first, self.ends.clone(), self.body.clone());
        Request::Relay(Relay { peer, first, ends, body })
    }
}

/// What waiters are told: it was taken.
pub(super) const TAKEN: Outcome = Outcome::Published { matched: 1 };

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn push(relays: &mut Relays, told: &Rc<Cell<u32>>) {
        let told = told.clone();
        let waiter: Waiter = Box::new(move |_| told.set(told.get() + 1));
        assert!(relays.push(7, &Command::Tick, &[b"x"], Some(waiter)));
    }

    fn frames(requests: Vec<Request>) -> Vec<Relay> {
        let relay = |request| match request {
            Request::Relay(relay) => relay,
            other => panic!("{other:?}"),
        };
        requests.into_iter().map(relay).collect()
    }

    fn flushed(relays: &mut Relays) -> Vec<Relay> {
        let mut sent = Vec::new();
        relays.flush(|request| sent.push(request));
        frames(sent)
    }

    #[test]
    fn what_is_sent_again_is_taken_once_and_in_order() {
        let (mut source, mut destination) = (Relays::default(), Relays::default());
        let told = Rc::default();
        push(&mut source, &told);
        push(&mut source, &told);
        let first = flushed(&mut source);
        push(&mut source, &told);
        let second = flushed(&mut source);
        assert_eq!((first.len(), second.len()), (1, 1));
        assert_eq!(destination.take(&second[0]).0.len(), 0, "the first is missing");
        let (fresh, upto) = destination.take(&first[0]);
        assert_eq!((fresh.len(), upto), (2, 2));
        assert_eq!(destination.take(&first[0]).0.len(), 0);
        let again = frames(source.again(None));
        let taken: Vec<_> = again.iter().map(|f| destination.take(f)).collect();
        assert_eq!(taken.iter().map(|(fresh, _)| fresh.len()).sum::<usize>(), 1);
        assert_eq!(taken.last().map(|(_, upto)| *upto), Some(3));
        source.taken(7, 1).into_iter().for_each(|w| w(&TAKEN));
        assert_eq!((told.get(), source.again(Some(7)).len()), (1, 2), "half a frame is kept");
        source.taken(7, 3).into_iter().for_each(|w| w(&TAKEN));
        assert_eq!((told.get(), source.again(None).len()), (3, 0));
        push(&mut source, &told);
        source.gone(7).into_iter().for_each(|w| w(&TAKEN));
        assert_eq!(told.get(), 4);
    }

    #[test]
    fn beyond_the_window_only_what_somebody_waits_for_is_kept() {
        let mut relays = Relays::default();
        let large = vec![0; 600 * 1024];
        assert!(relays.push(7, &Command::Tick, &[&large], None));
        assert!(relays.push(7, &Command::Tick, &[&large], None));
        assert!(!relays.push(7, &Command::Tick, &[&large], None));
        push(&mut relays, &Rc::default());
        assert!(!relays.is_full(), "others go on");
        assert_eq!(flushed(&mut relays).len(), 3);
        assert!(flushed(&mut relays).is_empty(), "sent once");
        relays.taken(7, 3);
        let told: Rc<Cell<u32>> = Rc::default();
        for _ in 0..7 {
            let told = told.clone();
            let waiter: Waiter = Box::new(move |_| told.set(told.get() + 1));
            assert!(relays.push(7, &Command::Tick, &[&large], Some(waiter)));
        }
        assert!(relays.is_full());
        relays.taken(7, 10).into_iter().for_each(|w| w(&TAKEN));
        assert!(!relays.is_full());
        assert_eq!(told.get(), 7);
    }
}
