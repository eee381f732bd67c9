//! What happens with time, with the end of gateways, and in steps (S7, S11, R2).

use crate::broker::Broker;
use crate::effect::Effect;
use crate::index::Due;
use crate::limits::{GATEWAYS_MAX, LOOK_STEPS, STEPS_MAX};
use fluxmq_commands::Outcome;
use fluxmq_names::ErrorCode;

// === impl Broker ===

impl Broker {
    /// Does what is due, and goes on with what the step limit cut off.
    pub(crate) fn tick(&mut self) {
        while self.left > 0
            && let Some((at_ms, _)) = self.index.due.first()
            && *at_ms <= self.state.now_ms
            && let Some((_, due)) = self.index.due.pop_first()
        {
            self.spend(4);
            match due {
                Due::Will(id) => self.owe_will(id),
                Due::End(id) => {
                    self.owe_will(id);
                    self.end_session(id);
                }
                Due::Queue(id) => self.queue_due(id),
                Due::Retained(key) => self.forget_retained(&key),
            }
        }
        self.detach_ended();
        self.leave_ended_sessions();
        // A session with many intervals cannot move with a few steps.
        while self.left > STEPS_MAX / 2
            && let Some(id) = self.index.advancing.first().copied()
        {
            self.spend(1);
            self.advance(id);
        }
        if self.left == 0 {
            self.effects.push(Effect::More);
        }
    }

    /// Detaches sessions whose gateway has ended, as far as the steps go.
    fn detach_ended(&mut self) {
        let mut members_left = self.leave_ended_members();
        // Half of what is left may go into a look at the window.
        while self.left >= 2 * LOOK_STEPS {
            let first = self.index.attached.first().copied();
            let below = first.filter(|(epoch, _)| *epoch < self.state.ended_before);
            let next = || {
                let ended = self.index.detaching.first()?;
                self.index.attached.range((*ended, 0)..=(*ended, u64::MAX)).next().copied()
            };
            let Some((_, session)) = below.or_else(next) else {
                if members_left && self.index.detaching.pop_first().is_some() {
                    members_left = self.leave_ended_members();
                    continue;
                }
                return;
            };
            self.spend(8);
            self.note_cut_off(session);
            self.detach(session);
        }
        self.effects.push(Effect::More);
    }

    pub(crate) fn register_gateway(&mut self, position: u64, name: &str, address: &str) -> Outcome {
        let known = self.state.gateways.contains_key(name);
        if !known && self.state.gateways.len() >= GATEWAYS_MAX {
            return Outcome::refused(ErrorCode::LimitExceeded);
        }
        let entry = (position, address.into());
        if let Some((earlier, _)) = self.state.gateways.insert(name.into(), entry) {
            self.end_gateway(earlier);
        }
        self.effects.push(Effect::GatewaysChanged);
        Outcome::Gateway { epoch: position }
    }

    pub(crate) fn end_gateway(&mut self, epoch: u64) {
        self.state.producers.remove(&epoch);
        if epoch >= self.state.ended_before {
            self.state.ended.insert(epoch);
            self.index.detaching.insert(epoch);
        }
        self.state.gateways.retain(|_, (e, _)| *e != epoch);
        self.effects.push(Effect::GatewaysChanged);
        self.detach_ended();
    }

    pub(crate) fn end_gateways_before(&mut self, epoch: u64) {
        self.state.ended_before = self.state.ended_before.max(epoch);
        let floor = self.state.ended_before;
        self.state.ended = self.state.ended.split_off(&floor);
        self.state.producers = self.state.producers.split_off(&floor);
        self.state.gateways.retain(|_, (e, _)| *e >= floor);
        self.effects.push(Effect::GatewaysChanged);
        self.detach_ended();
    }

    /// Goes on with what step limits cut off; at the end of each entry, with steps of its own.
    pub(crate) fn go_on(&mut self) {
        self.leave_intervals();
        self.discard();
        self.clear_deleted();
        while self.left > 0
            && let Some(queue) = self.index.behind.first().copied()
        {
            self.spend(1);
            self.queue_goes_on(queue);
        }
        while self.left > 0
            && let Some(inbox) = self.index.trimming.first().copied()
        {
            self.spend(1);
            self.trim_inbox(inbox);
        }
        if self.is_unfinished() {
            self.effects.push(Effect::More);
        }
    }

    /// Lets go of forsaken inboxes, block by block.
    fn discard(&mut self) {
        while self.left > 0
            && let Some(inbox) = self.state.discarded.front_mut()
        {
            let mut released = Vec::new();
            let more = inbox.discard_block(|position| released.push(position));
            if !more {
                self.state.discarded.pop_front();
            }
            self.spend(released.len() as u32 + 1);
            self.index.live.release_all(released);
        }
    }

    /// Work is left that goes on with the next entry.
    pub(crate) fn is_unfinished(&self) -> bool {
        !(self.state.left_intervals.is_empty()
            && self.state.discarded.is_empty()
            && self.index.trimming.is_empty()
            && self.state.deleted.is_empty()
            && self.state.left_sessions.is_empty()
            && self.index.behind.is_empty()
            && self.index.detaching.is_empty())
    }
}
