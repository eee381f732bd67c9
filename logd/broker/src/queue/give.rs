//! A message is given to one member of a group for good, and to nobody else (R10: QoS 2 of shared subscriptions).

use fluxmq_names::ErrorCode;

use super::{MovesTo, bit};
use crate::broker::Broker;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{Recipient, Settlement, Sharing, Verdict};

// === impl Broker ===

impl Broker {
    /// Settles a message for a group, and has it moved into the list of a session if it is for one. 0 messages: it is
    /// settled or gone already, and nothing is done.
    pub(super) fn give(
        &mut self,
        (queue, group): (u64, u64),
        offset: u64,
        to: Option<Recipient>,
    ) -> Outcome {
        let found = self.state.queues.get(queue).and_then(|q| Some((q, q.groups.get(&group)?)));
        let Some((q, g)) = found else { return Outcome::refused(ErrorCode::NotFound) };
        // Of other groups a consumer has to say by which right it settles (Q4).
        if g.sharing != Sharing::Shared {
            return Outcome::refused(ErrorCode::InvalidArgument);
        }
        let open = offset >= q.floor && offset < q.tail() && !g.is_settled(offset);
        let item = if open && !bit(&q.dead, offset) { q.item(offset) } else { None };
        let Some(item) = item else { return Outcome::Number(0) };
        self.spend(4);
        if let Some(to) = to {
            // Before it is settled: its position is held all the time.
            self.start_move(queue, &item, MovesTo::Session(to));
        }
        let ack = Settlement { verdict: Verdict::Ack, first: offset, count: 1 };
        self.settle_unasked((queue, group), &[ack])
    }
}
