//! Pages of queues, and how queues are.

use std::collections::HashMap;

use fluxmq_client::contract::{Event, LookAtQueues, QueueItem, QueuePage, ReadQueue};
use fluxmq_proto::v1::{GroupInfo, QueueCounters, QueueInfo};
use logd_broker::{Broker, LOOKED_BEYOND, QueueStats};
use logd_raft::Group;

use super::Queues;
use crate::entries::Entries;

/// Messages of a page, and bytes after which it ends.
const PAGE: usize = 1_000;
const PAGE_BYTES: usize = 1024 * 1024;
/// Queues of an answer.
const QUEUES: usize = 1_000;
/// Scheduled messages that an answer names.
const SCHEDULED: usize = 100;
/// Readers that wait for messages.
const WAITING_MAX: usize = 10_000;
/// How long a reader may wait, ms.
const WAIT_MS_MAX: u32 = 60_000;

/// A reader that waits.
struct Waiting {
    link: u64,
    read: ReadQueue,
    until_ms: u64,
}

/// Readers that wait for messages, by shard and queue.
#[derive(Default)]
pub(crate) struct Reads {
    waiting: HashMap<(u32, u64), Vec<Waiting>>,
    count: usize,
}

// === impl Reads ===

impl Reads {
    /// Answers a question now, or keeps it until something comes.
    pub(crate) fn read(
        &mut self,
        shards: &[Group],
        entries: &mut Entries,
        (link, read): (u64, ReadQueue),
        now_ms: u64,
    ) -> Option<(u64, Event)> {
        let (page, at_end) = page(shards, entries, &read);
        let wait_ms = read.wait_ms.min(WAIT_MS_MAX);
        if !at_end || wait_ms == 0 || self.count >= WAITING_MAX {
            return Some((link, Event::QueuePage(page)));
        }
        let until_ms = now_ms + u64::from(wait_ms);
        self.count += 1;
        let waiting = self.waiting.entry((read.shard, read.queue)).or_default();
        waiting.push(Waiting { link, read, until_ms });
        None
    }

    /// Messages came, or the queue is gone.
    pub(crate) fn queue_changed(
        &mut self,
        shards: &[Group],
        entries: &mut Entries,
        at: (u32, u64),
    ) -> Vec<(u64, Event)> {
        let Some(waiting) = self.waiting.remove(&at) else { return Vec::new() };
        let mut out = Vec::new();
        let mut keep = Vec::new();
        for waiting in waiting {
            let (page, at_end) = page(shards, entries, &waiting.read);
            if at_end {
                keep.push(waiting);
            } else {
                out.push((waiting.link, Event::QueuePage(page)));
            }
        }
        self.count -= out.len();
        if !keep.is_empty() {
            self.waiting.insert(at, keep);
        }
        out
    }

    /// Readers that waited long enough.
    pub(crate) fn on_time(&mut self, now_ms: u64) -> Vec<(u64, Event)> {
        let mut out = Vec::new();
        self.waiting.retain(|_, all| {
            all.retain(|w| {
                let over = w.until_ms <= now_ms;
                if over {
                    let (id, next) = (w.read.id, w.read.from);
                    let page = QueuePage { id, next, ..QueuePage::default() };
                    out.push((w.link, Event::QueuePage(page)));
                }
                !over
            });
            !all.is_empty()
        });
        self.count -= out.len();
        out
    }

    /// A link is gone.
    pub(crate) fn link_lost(&mut self, link: u64) {
        self.waiting.retain(|_, all| {
            all.retain(|w| w.link != link);
            !all.is_empty()
        });
        self.count = self.waiting.values().map(Vec::len).sum();
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.waiting.values().flatten().map(|w| w.until_ms).min()
    }
}

/// A page; true = there is nothing, and nothing to look at behind it.
fn page(shards: &[Group], entries: &mut Entries, read: &ReadQueue) -> (QueuePage, bool) {
    let (id, from) = (read.id, read.from);
    let gone = QueuePage { id, next: from, gone: true, ..QueuePage::default() };
    let Some(group) = shards.get(read.shard as usize) else { return (gone, false) };
    let max = (read.max as usize).clamp(1, PAGE);
    let found = group.with_state(|b| {
        let bounds = b.queue_bounds(read.queue)?;
        Some((bounds, b.browse(read.queue, from, max)))
    });
    let Some(((first, end), messages)) = found else { return (gone, false) };
    // With nothing found all that was looked at is gone.
    let looked = from.max(first).saturating_add((max + LOOKED_BEYOND) as u64);
    let mut next = looked.min(end).max(from);
    let at_end = messages.is_empty() && next >= end;
    let (mut items, mut bytes) = (Vec::new(), 0);
    for message in messages {
        if bytes > PAGE_BYTES {
            break;
        }
        next = message.offset + 1;
        let command = entries.read(group, message.position);
        let time_ms = entries.time_ms(group, message.position).unwrap_or_default();
        let Some(command) = command else { continue };
        bytes += command.len();
        items.push(QueueItem { offset: message.offset, time_ms, dead: message.dead, command });
    }
    (QueuePage { id, items, next, gone: false }, at_end)
}

// === impl Queues ===

impl Queues {
    /// How queues are.
    pub(crate) fn look(&self, shards: &[Group], look: &LookAtQueues) -> Event {
        let (id, shard) = (look.id, look.shard);
        let max = (look.max as usize).clamp(1, QUEUES);
        let group = shards.get(shard as usize);
        let mut queues = Vec::new();
        let mut more = false;
        let read = |b: &Broker| {
            if look.name.is_empty() {
                for (_, queue) in b.queues_after(&look.vhost, &look.after) {
                    if queues.len() == max {
                        more = true;
                        break;
                    }
                    if b.queue_arguments(queue).is_some_and(|a| !a.hidden) {
                        queues.extend(info(b, queue));
                    }
                }
            } else {
                queues.extend(b.queue_of(&look.vhost, &look.name).and_then(|q| info(b, q)));
            }
        };
        if let Some(group) = group {
            group.with_state(read);
        }
        for info in &mut queues {
            for of in &mut info.groups {
                (of.consumers, of.leased) = self.counts((shard, info.queue, of.group));
            }
        }
        Event::Queues { id, queues, more }
    }
}

fn info(b: &Broker, queue: u64) -> Option<QueueInfo> {
    let QueueStats {
        name,
        messages,
        bytes,
        scheduled,
        moving,
        first,
        next,
        counters: c,
        groups,
        ..
    } = b.queue_stats(queue)?;
    let mut arguments = Vec::new();
    b.queue_arguments(queue)?.encode(&mut arguments);
    let groups = groups.into_iter().map(|g| GroupInfo {
        name: g.name.into(),
        group: g.group,
        sharing: g.sharing as u32,
        cursor: g.cursor,
        open: g.open,
        returned: g.returned,
        leased: 0,
        members: g.members,
        consumers: 0,
        active: g.active.unwrap_or_default(),
        epoch: g.epoch,
    });
    let waiting = b.scheduled(queue, SCHEDULED);
    Some(QueueInfo {
        name: name.into(),
        queue,
        messages,
        bytes,
        scheduled,
        moving,
        first,
        next,
        arguments: arguments.into(),
        bindings: b.bindings_of(queue).map(Into::into).collect(),
        groups: groups.collect(),
        counters: Some(QueueCounters {
            expired: c.expired,
            overflowed: c.overflowed,
            rejected: c.rejected,
            delivery_limited: c.delivery_limited,
            compacted: c.compacted,
            dead_lettered: c.dead_lettered,
            cycled: c.cycled,
            repeats: c.repeats,
        }),
        scheduled_ids: waiting.iter().map(|(_, id)| *id).collect(),
        scheduled_times_ms: waiting.iter().map(|(ms, _)| *ms).collect(),
    })
}
