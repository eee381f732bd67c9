//! Dead letters for queues of other shards: enqueued there under their key, then crossed off here (Q6).

use std::collections::BTreeMap;
use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{Enqueue, Options, QueueCommand};
use fluxmq_commands::command::{self, Command, Key};
use fluxmq_names::{ErrorCode, Kind, place};
use logd_broker::Moving;
use logd_raft::Group;

use crate::entries::read_command;

/// Moves looked at in one go; the keys of a queue reach no further (512, G2).
const PAGE: usize = 250;
/// Between two tries, when the target is full or stopped.
const RETRY: Duration = Duration::from_secs(1);

/// Which shards move dead letters now, and which have new ones since.
#[derive(Default)]
pub(crate) struct Moves {
    running: BTreeMap<u32, bool>,
}

// === impl Moves ===

impl Moves {
    /// There are dead letters to move; true when nobody does yet.
    pub(crate) fn wanted(&mut self, shard: u32) -> bool {
        match self.running.get_mut(&shard) {
            Some(again) => {
                *again = true;
                false
            }
            None => self.running.insert(shard, false).is_none(),
        }
    }

    /// All that were known are moved; true when others came meanwhile.
    pub(crate) fn done(&mut self, shard: u32) -> bool {
        self.running.remove(&shard).unwrap_or_default() && self.wanted(shard)
    }
}

/// A dead letter on its way.
struct Owed {
    queue: u64,
    number: u64,
    lowest: u64,
    moving: Moving,
    vhost: String,
    target: String,
}

/// Moves what a shard owes until nothing is left. Whatever interrupts it: the state owes it still, and the
/// target takes each once.
pub(crate) async fn move_all(shards: Vec<Group>, shard: u32) {
    let Some(group) = shards.get(shard as usize) else { return };
    loop {
        let page = group.with_state(|b| {
            let owed = b.owed_moves().take(PAGE).map(|(queue, number, moving, target)| Owed {
                queue,
                number,
                lowest: b.lowest_move(queue),
                moving: moving.clone(),
                vhost: b.queue_stats(queue).map_or_else(String::new, |q| q.vhost.into()),
                target: target.to_owned(),
            });
            owed.collect::<Vec<_>>()
        });
        if page.is_empty() {
            return;
        }
        let mut done: BTreeMap<(u64, bool), Vec<u64>> = BTreeMap::new();
        let mut waits = false;
        for owed in &page {
            match enqueue(&shards, group, shard, owed).await {
                Some(dropped) => done.entry((owed.queue, dropped)).or_default().push(owed.number),
                None => waits = true,
            }
        }
        for ((queue, dropped), numbers) in done {
            let moved = QueueCommand::Moved { queue, dropped, numbers };
            let _ = group.lead(&Command::Queue(moved)).await;
        }
        if waits {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Some(true): it cannot go anywhere; Some(false): the target has it; None: not now.
async fn enqueue(shards: &[Group], from: &Group, shard: u32, owed: &Owed) -> Option<bool> {
    let home = place(Kind::Queue, &owed.vhost, &owed.target, shards.len() as u32);
    let target = shards.get(home.0 as usize)?;
    let Some(queue) = target.with_state(|b| b.queue_of(&owed.vhost, &owed.target)) else {
        return Some(true);
    };
    let command = read_command(from, owed.moving.position)?;
    let (_, body) = command::decode(&command).ok()?;
    let options = Options { priority: owed.moving.priority, ..Options::default() };
    let enqueue = Enqueue {
        queues: &queue.to_le_bytes(),
        key: Some(Key { shard, id: owed.queue, n: owed.number }),
        lowest_open: Some(owed.lowest),
        options,
        dead: Some(owed.moving.dead),
        ..Enqueue::default()
    };
    let command = Command::Queue(QueueCommand::Enqueue(enqueue));
    match target.lead_message(&command, body).await {
        Ok(Outcome::Appended { .. }) => Some(false),
        Ok(Outcome::Error { code: ErrorCode::NotFound | ErrorCode::TooLarge, .. }) => Some(true),
        _ => None,
    }
}
