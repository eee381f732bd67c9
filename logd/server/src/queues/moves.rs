//! Messages that leave their queue for somebody of another shard, who takes them under their key; then they are crossed
//! off here. Dead letters (Q6), and what a member of a shared subscription gets with QoS 2 (R10).

use std::collections::BTreeMap;
use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::queue::{DeadLetter, Enqueue, Options, QueueCommand, Recipient};
use fluxmq_commands::command::{self, Command, Key, Publish, ToList};
use fluxmq_names::{ErrorCode, Kind, place};
use futures_util::future::join_all;
use logd_broker::{MovesTo, Moving};
use logd_raft::Group;

use crate::entries::read_command;

/// Moves looked at in one go; the keys of a queue reach no further (512, G2).
const PAGE: usize = 250;
/// Between two tries, when the target is full or stopped.
const RETRY: Duration = Duration::from_secs(1);

/// Which shards move messages now, and which have new ones since.
#[derive(Default)]
pub(crate) struct Moves {
    running: BTreeMap<u32, bool>,
}

// === impl Moves ===

impl Moves {
    /// There are messages to move; true when nobody does yet.
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

/// A message on its way.
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
        // All at once, in their order: what goes to one shard shares its entries.
        let outcomes = join_all(page.iter().map(|owed| deliver(&shards, group, shard, owed)));
        for (owed, outcome) in page.iter().zip(outcomes.await) {
            match outcome {
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

/// Some(true): it cannot go anywhere; Some(false): it is where it belongs; None: not now.
async fn deliver(shards: &[Group], from: &Group, shard: u32, owed: &Owed) -> Option<bool> {
    let key = Key { shard, id: owed.queue, n: owed.number };
    match owed.moving.to {
        MovesTo::DeadLetterQueue(dead) => enqueue(shards, from, key, (owed, dead)).await,
        MovesTo::Session(to) => copy(shards, from, key, (owed, to)).await,
    }
}

async fn enqueue(
    shards: &[Group],
    from: &Group,
    key: Key,
    (owed, dead): (&Owed, DeadLetter),
) -> Option<bool> {
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
        key: Some(key),
        lowest_open: Some(owed.lowest),
        options,
        dead: Some(dead),
        ..Enqueue::default()
    };
    let command = Command::Queue(QueueCommand::Enqueue(enqueue));
    match target.lead_message(&command, body).await {
        Ok(Outcome::Appended { .. }) => Some(false),
        Ok(Outcome::Error { code: ErrorCode::NotFound | ErrorCode::TooLarge, .. }) => Some(true),
        _ => None,
    }
}

/// Into the list of a session. When that has ended nobody gets it (MQTT-4.8.2-5).
async fn copy(
    shards: &[Group],
    from: &Group,
    key: Key,
    (owed, to): (&Owed, Recipient),
) -> Option<bool> {
    let Some(target) = shards.get(to.shard as usize) else { return Some(true) };
    let command = read_command(from, owed.moving.position)?;
    let Ok((Command::Publish(publish), message)) = command::decode(&command) else {
        return Some(true);
    };
    let identifier = to.identifier.to_le_bytes();
    let list = ToList {
        session: to.session,
        replay: 0,
        shard: key.shard,
        source: owed.moving.position,
        identifiers: if to.identifier == 0 { &[] } else { &identifier },
    };
    let copy = Publish {
        qos: publish.qos,
        vhost: publish.vhost,
        topic: publish.topic,
        expiry_ms: publish.expiry_ms,
        key: Some(key),
        lowest_open: Some(owed.lowest),
        list: Some(list),
        ..Publish::default()
    };
    match target.lead_message(&Command::Publish(copy), message).await {
        Ok(Outcome::Done | Outcome::Error { code: ErrorCode::NotFound, .. }) => Some(false),
        _ => None,
    }
}
