//! Owed wills: published to every shard and to live subscribers, then crossed off (S7, G4).

use bytes::Bytes;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::{self, Command, Key, Publish};
use fluxmq_names::{Kind, ShardId, place};
use logd_raft::Group;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::core::Incoming;
use crate::entries::read_command;

/// Between two tries to publish a will.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Publishes the will `id` that `shard` owes. Whatever interrupts it, the will still stands in the
/// state, and the shards take it once under its key.
pub(crate) async fn publish(
    shards: Vec<Group>,
    shard: ShardId,
    id: u64,
    owner: UnboundedSender<Incoming>,
) {
    let Some(group) = shards.get(shard.0 as usize) else { return };
    let Some(owed) =
        group.with_state(|b| b.owed_wills().find(|(i, _)| *i == id).map(|(_, owed)| owed.clone()))
    else {
        return;
    };
    let message = read_command(group, owed.will.position).unwrap_or_default();
    let body = command::decode(&message).map_or(&[][..], |(_, body)| body);
    let count = shards.len() as u32;
    let home = place(Kind::Retained, &owed.vhost, &owed.will.topic, count);
    let expiry_s = u64::from(owed.will.expiry_s);
    let base = Publish {
        qos: owed.will.qos,
        retain: owed.will.retain,
        vhost: &owed.vhost,
        topic: &owed.will.topic,
        expiry_ms: (expiry_s > 0).then(|| owed.due_ms + expiry_s * 1_000),
        key: Some(Key { shard: shard.0, id, n: 0 }),
        ..Publish::default()
    };
    for (number, target) in shards.iter().enumerate() {
        let store = owed.will.retain && home.0 == number as u32;
        let publish = Publish { store, empty: store && is_empty(body), ..base };
        let command = Command::Publish(publish);
        while (publish.qos > 0 || store) && !submit(target, &command, body).await {
            // The shard is full or stopped. The will stands in the state; whoever took it takes it once.
            tokio::time::sleep(RETRY).await;
        }
    }
    let mut live = Vec::new();
    Command::Publish(base).encode(body, &mut live);
    let (taken, by_all) = oneshot::channel();
    let _ = owner.send(Incoming::Live { command: Bytes::from(live), taken });
    // The owner is gone when this node stops: whoever starts from the state publishes it again.
    if by_all.await.is_err() {
        return;
    }
    // A fault planted to prove that the chaos harness finds it (design §12).
    if fluxmq_names::planted!("will_twice") {
        let mut live = Vec::new();
        Command::Publish(Publish { key: None, ..base }).encode(body, &mut live);
        let _ =
            owner.send(Incoming::Live { command: Bytes::from(live), taken: oneshot::channel().0 });
    }
    let _ = group.lead(&Command::OwedDone { id }).await;
}

/// A message without payload deletes what is retained.
fn is_empty(message: &[u8]) -> bool {
    fluxmq_proto::message::split(message).is_none_or(|(_, payload)| payload.is_empty())
}

/// Whether the shard took the command.
async fn submit(group: &Group, command: &Command<'_>, message: &[u8]) -> bool {
    matches!(group.lead_message(command, message).await, Ok(outcome) if !matches!(outcome, Outcome::Error { .. }))
}
