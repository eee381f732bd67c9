//! Which entries of the log the state needs, told to the log's compaction (S9). Runs on a thread of its own, and asks the
//! state in short steps: apply waits meanwhile.

use std::ops::RangeInclusive;

use bytes::Bytes;
use fluxmq_commands::{compact, slots_in};
use fluxmq_names::{Position, ShardId};
use logd_log::{CompactError, Keep, Liveness, Log, SparseRun};

use crate::machine::Shared;

/// Bytes of copies written in a second beside the log.
pub(crate) const BYTES_PER_SECOND: u64 = 128 * 1024 * 1024;

/// References whose positions are in memory while runs are merged, unless one run has more.
const POSITIONS_MAX: u64 = 1_000_000;

/// Unlinks what is dead and merges what is sparse. What cannot be done now is found by the next pass.
pub(crate) fn pass(log: &Log, shared: &Shared, shard: ShardId, bytes_per_second: Option<u64>) {
    log.reclaim(&|entries| shared.broker.lock().is_live(entries));
    if let Err(error) = merge(log, shared, bytes_per_second) {
        tracing::warn!(%shard, %error, "sparse segments were not merged");
    }
    // Parts of them that died meanwhile, and sources whose slices came back.
    log.reclaim(&|entries| shared.broker.lock().is_live(entries));
}

fn merge(log: &Log, shared: &Shared, bytes_per_second: Option<u64>) -> Result<(), CompactError> {
    let runs = log.sparse(&References(shared));
    let runs = runs.map_err(|logd_log::ReadError::Damaged(damage)| damage)?;
    let references = |run: &SparseRun| {
        let broker = shared.broker.lock();
        run.ranges().map(|entries| broker.references_to(entries)).sum::<u64>()
    };
    let mut runs = runs.into_iter().peekable();
    while runs.peek().is_some() {
        let (mut some, mut known) = (Vec::new(), 0);
        while let Some(run) = runs.next_if(|run| {
            known += references(run);
            some.is_empty() || known <= POSITIONS_MAX
        }) {
            some.push(run);
        }
        let entries: Vec<_> = some.iter().flat_map(SparseRun::ranges).collect();
        // What dies from here on is kept until the next time; nothing that is dead comes to life again.
        let snapshot = shared.broker.lock().snapshot();
        let mut positions = Positions(snapshot.live_positions(&entries));
        drop(snapshot);
        for run in some {
            log.compact(run, &mut positions, bytes_per_second)?;
        }
    }
    Ok(())
}

/// What the state counts.
struct References<'a>(&'a Shared);

impl Liveness for References<'_> {
    fn references(&self, entries: RangeInclusive<u64>) -> u64 {
        self.0.broker.lock().references_to(entries)
    }

    fn live(&self, entries: RangeInclusive<u64>) -> Vec<(u64, u64)> {
        self.0.broker.lock().live_within(entries).collect()
    }

    fn parts(&self, payload: &[u8]) -> u64 {
        slots_in(payload).into()
    }
}

/// The positions that the state refers to, in order.
struct Positions(Vec<u64>);

impl Positions {
    fn within(&self, entries: RangeInclusive<u64>) -> &[u64] {
        let index = |position: &u64| Position(*position).index();
        let from = self.0.partition_point(|p| index(p) < *entries.start());
        let to = self.0.partition_point(|p| index(p) <= *entries.end());
        &self.0[from..to.max(from)]
    }
}

impl Keep for Positions {
    fn wanted(&mut self, entries: RangeInclusive<u64>) -> Vec<u64> {
        let mut indexes: Vec<u64> =
            self.within(entries).iter().map(|p| Position(*p).index()).collect();
        indexes.dedup();
        indexes
    }

    fn keep(&mut self, index: u64, payload: &Bytes) -> Bytes {
        let slots = self.within(index..=index).iter().map(|p| Position(*p).slot());
        compact(payload, &slots.collect::<Vec<u32>>())
    }
}
