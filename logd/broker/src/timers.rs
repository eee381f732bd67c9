//! What happens with time, with the end of gateways, and in steps (S7, S11, R2).

use crate::broker::Broker;
use crate::effect::Effect;
use crate::index::Due;
use crate::limits::STEPS_MAX;
use fluxmq_commands::Outcome;

/// Blocks of forsaken inboxes that are let go with each entry.
const DISCARDED_BLOCKS: u32 = STEPS_MAX / 128;

// === impl Broker ===

impl Broker {
    /// Does what is due, and goes on with what the step limit cut off.
    pub(crate) fn tick(&mut self) {
        let mut steps = STEPS_MAX / 10;
        while steps > 0
            && let Some((at_ms, _)) = self.index.due.first()
            && *at_ms <= self.state.now_ms
            && let Some((_, due)) = self.index.due.pop_first()
        {
            match due {
                Due::Will(id) => self.owe_will(id),
                Due::End(id) => {
                    self.owe_will(id);
                    self.end_session(id);
                }
                Due::Retained(vhost, topic) => self.forget_retained(&(vhost, topic)),
            }
            steps -= 1;
        }
        steps = self.detach_ended(steps);
        let advancing: Vec<_> = self.index.advancing.iter().take(1).copied().collect();
        advancing.into_iter().for_each(|id| self.advance(id));
        if steps == 0 {
            self.effects.push(Effect::More);
        }
    }

    /// Detaches sessions whose gateway has ended; returns the steps left.
    fn detach_ended(&mut self, mut steps: u32) -> u32 {
        while steps > 0 {
            let ended = self.state.ended.iter().find_map(|epoch| {
                self.index.attached.range((*epoch, 0)..=(*epoch, u64::MAX)).next().copied()
            });
            let first = self.index.attached.first().copied();
            let below = first.filter(|(epoch, _)| *epoch < self.state.ended_before);
            let Some((_, session)) = below.or(ended) else {
                return steps;
            };
            // Nobody knows how far a connection got that ended with its gateway: everything in the
            // window may have been sent.
            let upto =
                self.state.sessions.get(session).map_or(0, |s| s.cursor + u64::from(s.window));
            self.note_sent(session, upto);
            self.detach(session);
            steps -= 1;
        }
        self.effects.push(Effect::More);
        0
    }

    pub(crate) fn register_gateway(&mut self, position: u64, name: &str, address: &str) -> Outcome {
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
        }
        self.state.gateways.retain(|_, (e, _)| *e != epoch);
        self.effects.push(Effect::GatewaysChanged);
        self.detach_ended(STEPS_MAX / 10);
    }

    pub(crate) fn end_gateways_before(&mut self, epoch: u64) {
        self.state.ended_before = self.state.ended_before.max(epoch);
        let floor = self.state.ended_before;
        self.state.ended = self.state.ended.split_off(&floor);
        self.state.producers = self.state.producers.split_off(&floor);
        self.state.gateways.retain(|_, (e, _)| *e >= floor);
        self.effects.push(Effect::GatewaysChanged);
        self.detach_ended(STEPS_MAX / 10);
    }

    /// Lets go of a few blocks of forsaken inboxes.
    pub(crate) fn discard(&mut self) {
        let mut blocks = DISCARDED_BLOCKS;
        while blocks > 0
            && let Some(inbox) = self.state.discarded.front_mut()
        {
            let mut released = Vec::new();
            let more = inbox.discard_block(|position| released.push(position));
            self.index.live.release_all(released);
            if !more {
                self.state.discarded.pop_front();
            }
            blocks -= 1;
        }
        if !self.state.discarded.is_empty() {
            self.effects.push(Effect::More);
        }
    }
}
