//! Sessions that have ended and had published with QoS 2: the other shards forget their publish numbers (G2). Who is
//! still to be forgotten stands in the state.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fluxmq_commands::command::Command;
use logd_raft::Group;
use tokio::sync::mpsc::UnboundedSender;

use crate::core::Incoming;
use crate::status::Counts;

/// Sessions told in one command.
const IDS: usize = 1_000;
/// Between two tries, when a shard does not take it.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Tells the other shards of the first ended sessions of `shard`, then crosses those off. Told twice is told once.
pub(crate) async fn forget(
    shards: Vec<Group>,
    shard: u32,
    counts: Arc<Counts>,
    owner: UnboundedSender<Incoming>,
) {
    match tell(&shards, shard).await {
        Some(told) => drop(counts.forgotten.fetch_add(told, Ordering::Relaxed)),
        None => tokio::time::sleep(RETRY).await,
    }
    let _ = owner.send(Incoming::Forgotten(shard));
}

/// How many they were, once every shard took it.
async fn tell(shards: &[Group], shard: u32) -> Option<u64> {
    let home = shards.get(shard as usize)?;
    let ids: Vec<u64> = home.with_state(|b| b.ended_publishers().take(IDS).collect());
    let told = ids.len() as u64;
    for other in shards.iter().filter(|other| other.shard().0 != shard) {
        other.lead(&Command::ForgetKeys { shard, ids: ids.clone() }).await.ok()?;
    }
    home.lead(&Command::KeysForgotten { ids }).await.ok()?;
    Some(told)
}
