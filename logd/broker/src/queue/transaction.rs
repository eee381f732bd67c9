//! Several messages and settlements together or not at all (Q7): all parts are looked at first, then done
//! without being asked again. Space that a settlement makes does not count for the messages beside it.

use std::collections::BTreeMap;

use fluxmq_names::ErrorCode;

use super::append::Ahead;
use crate::broker::Broker;
use crate::limits::TRANSACTION_MAX;
use fluxmq_commands::command::queue::QueueCommand;
use fluxmq_commands::command::{self, Command};
use fluxmq_commands::{EntryView, Outcome};

/// A transaction whose parts are coming.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    /// Parts that are still to come.
    left: u16,
    /// One of them is refused: none is done.
    aborted: bool,
}

// === impl Broker ===

impl Broker {
    /// Looks at the parts of the transaction that `slot` begins, before it is known whether it is its turn.
    pub(crate) fn look_at_parts(&mut self, view: &EntryView<'_>, slot: u32, command: &Command<'_>) {
        let Command::Queue(QueueCommand::Transaction { count }) = command else { return };
        self.refusal = self.parts_refusal(view, slot, *count);
    }

    fn parts_refusal(&mut self, view: &EntryView<'_>, slot: u32, count: u16) -> Option<Outcome> {
        let mut ahead: BTreeMap<u64, Ahead> = BTreeMap::new();
        let mut cost = 0;
        for part in slot + 1..=slot + u32::from(count) {
            let Some(Ok((command, body))) = view.slot(part).map(command::decode) else {
                return Some(Outcome::refused(ErrorCode::InvalidArgument));
            };
            let refusal = match &command {
                Command::Queue(QueueCommand::Enqueue(enqueue)) => {
                    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
                    cost += 1 + enqueue.queues.len() / 8;
                    self.enqueue_refusal(enqueue, size, &mut ahead)
                }
                Command::Queue(QueueCommand::Settle { queue, group, token, verdicts }) => {
                    cost += 1 + verdicts.len();
                    let returns = ahead.entry(*queue).or_default();
                    self.settle_refusal((*queue, *group), Some(*token), verdicts, returns)
                }
                // Anything else, the head of another batch too, is no part of a transaction.
                _ => Some(Outcome::refused(ErrorCode::InvalidArgument)),
            };
            if refusal.is_some() {
                return refusal;
            }
            if cost > TRANSACTION_MAX {
                return Some(Outcome::refused(ErrorCode::InvalidArgument));
            }
        }
        self.spend(cost as u32);
        None
    }

    /// It is the transaction's turn.
    pub(super) fn begin_transaction(&mut self, count: u16) -> Outcome {
        let refusal = self.refusal.take();
        self.transaction = Transaction { left: count, aborted: refusal.is_some() };
        refusal.unwrap_or(Outcome::Done)
    }

    /// Does the command at hand as a part of the transaction, or leaves it undone with the others; None when it
    /// is no part of one.
    pub(crate) fn part(&mut self, position: u64, command: &Command<'_>) -> Option<Outcome> {
        self.transaction.left = self.transaction.left.checked_sub(1)?;
        Some(match command {
            _ if self.transaction.aborted && !cfg!(planted = "half_a_transaction") => {
                Outcome::refused(ErrorCode::Aborted)
            }
            Command::Queue(QueueCommand::Enqueue(enqueue)) => {
                self.enqueue_unasked(position, enqueue, self.size)
            }
            Command::Queue(QueueCommand::Settle { queue, group, verdicts, .. }) => {
                self.settle_unasked((*queue, *group), verdicts)
            }
            _ => Outcome::refused(ErrorCode::InvalidArgument),
        })
    }
}
