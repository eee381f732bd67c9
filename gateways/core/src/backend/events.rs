//! What comes from `logd`.

use std::collections::BTreeSet;
use std::rc::Rc;

use fluxmq_client::Stream;
use fluxmq_client::contract::{Delivery, Delta, Event, Request, Source, delivery_bytes};
use fluxmq_commands::Outcome;
use fluxmq_names::ErrorCode;

use super::relay::TAKEN;
use super::{Backend, Receiver, Router, Waiter};

// === impl Backend ===

impl Backend {
    pub(super) fn event(&self, event: Event, router: &dyn Router) {
        match event {
            Event::Welcome { gateway_epoch, shards, resumed, lease_ms } => {
                self.welcomed(gateway_epoch, shards, resumed, lease_ms, router);
            }
            Event::Outcomes { shard, first_sequence, outcomes } => {
                self.outcomes(shard, first_sequence, &outcomes);
            }
            Event::Refused { shard, first_sequence, code, .. } => {
                self.refused(shard, first_sequence, code);
            }
            Event::Registered { token, exists } => self.calls.registered(token, exists),
            Event::Opened { token, subscriptions } => self.opened(token, subscriptions),
            Event::Deliveries(all) => self.deliver(&all),
            Event::Taken { token, client_id } => {
                let receiver = self.receivers.borrow().get(&token).cloned();
                receiver.into_iter().for_each(|r| r.taken());
                router.taken(&client_id, token);
            }
            Event::Deltas { version, deltas } => {
                deltas.iter().for_each(|delta| router.delta(delta));
                deltas.iter().for_each(|delta| self.pass_on_under_way(delta));
                let unanswered = self.under_way.borrow().matching_deltas(&deltas);
                // A fault planted to prove that the chaos harness finds it (design §12).
                let planted = fluxmq_names::planted!("retained_not_waited_for");
                let unanswered = if planted { BTreeSet::new() } else { unanswered };
                self.acks.borrow_mut().push(version, unanswered);
                self.acknowledge();
            }
            Event::Others(others) => self.others(others, router),
            Event::Done { id } => {
                self.announcer.borrow_mut().done(id);
                self.flush_announcement(router);
            }
            Event::Lease { nonce, lease_ms } => {
                self.lease.renewed(nonce, lease_ms);
                self.release_held();
            }
            Event::GatewayGone { epoch } => {
                router.gateway_gone(epoch);
                let waiting = self.relays.borrow_mut().gone(epoch);
                self.tell(waiting);
            }
            Event::Relay(relay) => {
                let (fresh, upto) = self.relays.borrow_mut().take(&relay);
                fresh.iter().for_each(|command| router.relayed(command));
                self.send(Request::RelayTaken { peer: relay.peer, upto });
            }
            Event::RelayTaken { peer, upto } => {
                let told = self.relays.borrow_mut().taken(peer, upto);
                self.tell(told);
            }
            Event::Resend { peer } => {
                let again = self.relays.borrow().again(Some(peer));
                again.into_iter().for_each(|request| self.send(request));
            }
            Event::Retained { id, commands, more } => self.calls.retained(id, (commands, more)),
            Event::Live { command } => router.live(&command),
            Event::Consuming { token, error } => self.consumers.began(token, error),
            Event::ConsumerEnded { token, .. } => self.consumers.ended(token),
            Event::QueueDeliveries(all) => {
                let bytes = self.consumers.deliver(&all);
                self.taken_bytes.set(self.taken_bytes.get().saturating_add(bytes));
            }
            Event::Settled(settled) => self.consumers.settled(&settled),
            // Which member of a group is active shows in what it is given.
            Event::Active { .. } => {}
            // What only programs ask.
            Event::LiveTaken { .. } | Event::QueuePage(_) | Event::Queues { .. } => {}
        }
    }

    /// Acknowledges the versions of the routes that wait for nothing.
    pub(super) fn acknowledge(&self) {
        let version = self.acks.borrow_mut().take();
        version.into_iter().for_each(|version| self.send(Request::Ack { version }));
    }

    /// What is retained and not answered goes to who is new: it could not be read yet (R9).
    fn pass_on_under_way(&self, delta: &Delta) {
        let Source::Gateway(epoch) = delta.source else { return };
        let wanted = self.under_way.borrow_mut().new_to(epoch, &delta.changes);
        for (command, waiter) in wanted {
            self.unsent.set(true);
            self.relays.borrow_mut().push_encoded(epoch, &command, waiter);
        }
    }

    fn tell(&self, waiters: Vec<Waiter>) {
        waiters.into_iter().for_each(|waiter| waiter(&TAKEN));
        self.release_held();
    }

    fn welcomed(&self, epoch: u64, shards: u32, resumed: bool, lease_ms: u32, router: &dyn Router) {
        if self.epoch.get() > 0 && !resumed {
            self.lost(router);
            // What was said before this came from nobody, and nobody answers it.
            self.announce_all(router);
        }
        self.epoch.set(epoch);
        self.shards.set(shards);
        self.welcome.set(true);
        self.lease.given(self.hello_ms.get(), lease_ms);
        self.taken_bytes.set(0);
        self.streams.borrow_mut().resize_with(shards as usize, Stream::default);
        if resumed {
            self.say_again(router);
        }
        self.send(Request::Presented);
        self.release_held();
    }

    /// Everything that was under way goes over the new link.
    fn say_again(&self, router: &dyn Router) {
        for (shard, stream) in self.streams.borrow_mut().iter_mut().enumerate() {
            stream.resend(shard as u32).into_iter().for_each(|request| self.send(request));
        }
        let relays = self.relays.borrow().again(None);
        // A fault planted to prove that the chaos harness finds it (design §12).
        let relays =
            if fluxmq_names::planted!("relay_not_said_again") { Vec::new() } else { relays };
        relays.into_iter().for_each(|request| self.send(request));
        if self.has_others() {
            router.register_all();
        }
        self.calls.again().into_iter().for_each(|request| self.send(request));
        let receivers: Vec<_> =
            self.receivers.borrow().iter().map(|(token, r)| (*token, r.clone())).collect();
        for (token, receiver) in receivers {
            // One that is being opened is opened by its call.
            if !self.calls.holds(token) {
                receiver.reopen();
            }
        }
        self.consumers.say_again().into_iter().for_each(|request| self.send(request));
        self.unsent.set(true);
    }

    /// The epoch has ended: nothing of what was under way is answered any more.
    fn lost(&self, router: &dyn Router) {
        self.lease.end();
        let gone = Outcome::refused(ErrorCode::Fenced);
        let mut waiters = Vec::new();
        for stream in self.streams.take() {
            waiters.extend(stream.into_waiters());
        }
        waiters.extend(self.relays.borrow_mut().clear());
        self.calls.clear();
        self.receivers.take();
        self.consumers.clear();
        waiters.into_iter().for_each(|waiter| waiter(&gone));
        router.lost();
    }

    fn others(&self, others: bool, router: &dyn Router) {
        let before = std::mem::replace(&mut self.announcer.borrow_mut().others, others);
        if others && !before {
            router.register_all();
            self.announce_all(router);
        }
    }

    fn outcomes(&self, shard: u32, first: u64, outcomes: &[Outcome]) {
        let answered = self.with_stream(shard, |stream| stream.outcomes(first, outcomes));
        // Waiters may submit again.
        for (waiter, outcome) in answered.flatten().into_iter().flatten().zip(outcomes) {
            waiter.into_iter().for_each(|waiter| waiter(outcome));
        }
        self.unsent.set(true);
        self.release_held();
    }

    fn refused(&self, shard: u32, first: u64, code: ErrorCode) {
        if matches!(code, ErrorCode::NotLeader | ErrorCode::Unavailable) {
            // Nobody is told: it is sent again, to whoever can take it (G5).
            self.with_stream(shard, |stream| stream.postpone(first));
            return;
        }
        let answered = self.with_stream(shard, |stream| stream.refused(first));
        let waiters = answered.flatten().into_iter().flatten().flatten();
        waiters.for_each(|waiter| waiter(&Outcome::refused(code)));
        self.unsent.set(true);
        self.release_held();
    }

    fn with_stream<T>(&self, shard: u32, f: impl FnOnce(&mut Stream<Waiter>) -> T) -> Option<T> {
        self.streams.borrow_mut().get_mut(shard as usize).map(f)
    }

    fn opened(&self, token: u64, subscriptions: Option<Vec<fluxmq_client::contract::Subscribed>>) {
        if self.calls.holds(token) {
            self.calls.opened(token, subscriptions);
        } else if subscriptions.is_none() {
            // It was opened again, and the session is somebody else's by now.
            let receiver = self.receivers.borrow().get(&token).cloned();
            receiver.into_iter().for_each(|r| r.taken());
        }
    }

    fn deliver(&self, all: &[Delivery]) {
        let mut last: Option<(u64, Rc<dyn Receiver>)> = None;
        let mut bytes = self.taken_bytes.get();
        for delivery in all {
            bytes = bytes.saturating_add(delivery_bytes(&delivery.command));
            if last.as_ref().is_none_or(|(token, _)| *token != delivery.token) {
                let receiver = self.receivers.borrow().get(&delivery.token).cloned();
                last = receiver.map(|r| (delivery.token, r));
            }
            if let Some((_, receiver)) = &last {
                receiver.delivery(delivery);
            }
        }
        self.taken_bytes.set(bytes);
    }
}
