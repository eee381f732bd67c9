//! Commands on queues, one by one.

use fluxmq_names::ErrorCode;

use super::Member;
use crate::broker::Broker;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{QueueCommand, Stays};

// === impl Broker ===

impl Broker {
    /// Does what a gateway, or the leader (`gateway` 0), asks of a queue. `size` is that of the body.
    pub(crate) fn queue_command(
        &mut self,
        gateway: u64,
        position: u64,
        command: &QueueCommand<'_>,
        size: u32,
    ) -> Outcome {
        match command {
            QueueCommand::Transaction { count } => self.begin_transaction(*count),
            QueueCommand::Declare { vhost, name, arguments, passive } => {
                self.declare(position, (vhost, name), arguments, *passive)
            }
            QueueCommand::Delete { queue, if_empty, if_unused } => {
                self.delete_queue(*queue, *if_empty, *if_unused)
            }
            QueueCommand::Purge { queue } => self.purge(*queue),
            QueueCommand::Bind { queue, filter, bound } => self.bind(*queue, filter, *bound),
            QueueCommand::Enqueue(enqueue) => self.enqueue(position, enqueue, size),
            QueueCommand::Settle { queue, group, token, verdicts } => {
                let token = (gateway != 0 || *token != 0).then_some(*token);
                self.queue_settle((*queue, *group), token, verdicts)
            }
            QueueCommand::CancelScheduled { queue, ids } => self.cancel(*queue, ids),
            QueueCommand::GroupCreate { queue, name, start, sharing } => {
                self.create_group(position, *queue, name, (*start, *sharing))
            }
            QueueCommand::GroupDelete { queue, group } => self.delete_group(*queue, *group),
            QueueCommand::GroupSeek { queue, group, start } => {
                self.seek_group(*queue, *group, *start)
            }
            QueueCommand::GroupCopy { queue, group, name } => {
                self.copy_group(position, *queue, *group, name)
            }
            QueueCommand::GroupJoin { queue, group, consumer, priority, stays } => {
                let gateway = match stays {
                    Stays::WithGateway => gateway,
                    Stays::UntilItLeaves => 0,
                    Stays::WithSession(shard) => Member::owned_by(*shard),
                };
                let member = Member { gateway, consumer: *consumer, priority: *priority };
                self.join_group(position, (*queue, *group), member)
            }
            QueueCommand::GroupLeave { queue, group, token } => {
                match self.leave_group(position, (*queue, *group), *token) {
                    true => Outcome::Done,
                    false => Outcome::refused(ErrorCode::NotFound),
                }
            }
            QueueCommand::Touch { queue } => {
                if self.state.queues.get(*queue).is_none() {
                    return Outcome::refused(ErrorCode::NotFound);
                }
                self.touch(*queue);
                Outcome::Done
            }
            QueueCommand::Give { queue, group, offset, to } => {
                self.give((*queue, *group), *offset, *to)
            }
            // What consumers hold and what other shards have taken only the leader knows.
            QueueCommand::Expire { .. } | QueueCommand::Moved { .. } if gateway != 0 => {
                Outcome::refused(ErrorCode::Forbidden)
            }
            QueueCommand::Expire { queue, spared } => self.expire(*queue, spared),
            QueueCommand::Moved { queue, dropped, numbers } => {
                Outcome::Number(self.moved(*queue, numbers, *dropped))
            }
        }
    }
}
