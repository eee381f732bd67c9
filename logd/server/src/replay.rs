//! Retained messages on their way into the lists of sessions that subscribed with QoS ≥ 1 (R9, Q0).
//!
//! What is owed stands in the state (`Session::replays`); here is only who is served at the moment. A session is
//! served while it is attached and has credit, a page at a time: copies and the replay's cursor are one entry of its
//! shard, so whoever leads next goes on where it stands. Messages that were published with QoS 0 are not copied:
//! they go live, by the gateway.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fluxmq_commands::command::{self, Batch, Command, Progress, Publish, ToList};
use fluxmq_names::{Kind, place};
use logd_broker::{Replay, Retained};
use logd_raft::{CommandBatch, Group};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::core::{Incoming, now_ms};
use crate::delivery::SessionKey;
use crate::entries::read_command;
use crate::status::Counts;

/// Messages of a page at most; the credit of the session may be less.
pub(crate) const PAGE: usize = 100;
/// Bytes of copies after which a page ends, so that it is one entry with room for others.
const PAGE_BYTES: usize = 512 * 1024;
/// Replays looked at for one page: most find nothing.
const REPLAYS: usize = 64;
/// Looks into the store of a shard for one page: messages of QoS 0 fill none.
const LOOKS: usize = 32;
/// Pages under way at once, of all sessions; others wait for their turn.
const RUNNING_MAX: usize = 16;
/// Between two tries, when a shard does not take a page.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Who gets a page now, and who waits for one.
#[derive(Default)]
pub(crate) struct Replays {
    running: HashSet<SessionKey>,
    waiting: VecDeque<(SessionKey, usize)>,
}

// === impl Replays ===

impl Replays {
    /// A session has room for `max` messages.
    pub(crate) fn ask(&mut self, session: SessionKey, max: usize) {
        // One that has its page asks again when it is done.
        if !self.running.contains(&session) && !self.waiting.iter().any(|(s, _)| *s == session) {
            self.waiting.push_back((session, max));
        }
    }

    /// A page is done.
    pub(crate) fn done(&mut self, session: SessionKey) {
        self.running.remove(&session);
    }

    /// The next one whose page may begin.
    pub(crate) fn next(&mut self) -> Option<(SessionKey, usize)> {
        if self.running.len() >= RUNNING_MAX {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.running.insert(next.0);
        Some(next)
    }
}

/// Copies up to `max` messages to a session. It begins when every gateway knows the session's filters: a publish
/// that is retained from then on reaches the session by its inbox.
pub(crate) async fn serve(
    shards: Vec<Group>,
    session: SessionKey,
    max: usize,
    known: oneshot::Receiver<()>,
    counts: Arc<Counts>,
    owner: UnboundedSender<Incoming>,
) {
    // The owner is gone when this node stops.
    if known.await.is_ok()
        && let Some(group) = shards.get(session.0 as usize)
        && let Some(page) = Page::gather(&shards, group, session.1, max).await
    {
        let copies = (max - page.left) as u64;
        if page.commit(group).await {
            counts.replayed.fetch_add(copies, Ordering::Relaxed);
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
    let _ = owner.send(Incoming::Replayed(session));
}

/// Commands for one entry.
struct Page {
    session: u64,
    left: usize,
    body: Vec<u8>,
    ends: Vec<u32>,
}

// === impl Page ===

impl Page {
    /// What the replays of a session have next; None when there is nothing to do.
    async fn gather(shards: &[Group], group: &Group, session: u64, max: usize) -> Option<Self> {
        let (vhost, replays) = group.with_state(|b| {
            let state = b.session(session)?;
            let first = state.replays.iter().take(REPLAYS).map(|(id, r)| (*id, r.clone()));
            Some((state.vhost.clone(), first.collect::<Vec<_>>()))
        })?;
        let mut page = Self { session, left: max, body: Vec::new(), ends: Vec::new() };
        for (id, replay) in &replays {
            if !page.replay(shards, &vhost, *id, replay).await {
                break;
            }
        }
        (!page.ends.is_empty()).then_some(page)
    }

    /// Adds what a replay has next from each shard; true when that is all of it.
    async fn replay(&mut self, shards: &[Group], vhost: &str, id: u64, replay: &Replay) -> bool {
        for source in sources(vhost, &replay.filter, shards.len() as u32) {
            let after = match replay.shards.get(&source) {
                None => "",
                Some(Some(after)) => after,
                Some(None) => continue,
            };
            let Some(group) = shards.get(source as usize) else { return false };
            let upto = self.source(group, vhost, (id, replay), (source, after)).await;
            match upto {
                None => self.push(&self.at(id, source, "", Progress::ShardDone), &[]),
                Some(upto) => {
                    self.push(&self.at(id, source, &upto, Progress::Upto), &[]);
                    return false;
                }
            }
        }
        self.push(&self.at(id, 0, "", Progress::Done), &[]);
        true
    }

    /// Adds what a shard has behind a topic; the topic that was looked at last, None when that is all.
    async fn source(
        &mut self,
        group: &Group,
        vhost: &str,
        (id, replay): (u64, &Replay),
        (source, after): (u32, &str),
    ) -> Option<String> {
        let mut after = after.to_owned();
        for _ in 0..LOOKS {
            if self.is_full() {
                break;
            }
            let filter = &replay.filter;
            let found = group.with_state(|b| b.retained_matching(vhost, filter, &after, self.left));
            for (topic, retained) in found.entries {
                if self.is_full() {
                    return Some(after);
                }
                // One that was replaced meanwhile may be gone: the new one comes by the inbox.
                let command = read_command(group, retained.position).filter(|_| retained.qos > 0);
                if let Some(command) = command {
                    self.copy((id, replay), source, retained, &command);
                }
                after = topic;
            }
            after = found.next?;
            // A wildcard looks at many topics (a bounded number): others have their turn in between.
            tokio::task::yield_now().await;
        }
        Some(after)
    }

    fn is_full(&self) -> bool {
        self.left == 0 || self.body.len() > PAGE_BYTES
    }

    /// Adds a message, unless it has expired.
    fn copy(
        &mut self,
        (id, replay): (u64, &Replay),
        shard: u32,
        retained: Retained,
        command: &Bytes,
    ) {
        let Ok((Command::Publish(publish), message)) = command::decode(command) else { return };
        if publish.expiry_ms.is_some_and(|ms| ms <= now_ms()) {
            return;
        }
        let identifier = replay.identifier.to_le_bytes();
        let identifiers = if replay.identifier == 0 { &[][..] } else { &identifier };
        let (session, source) = (self.session, retained.position);
        let copy = Publish {
            qos: retained.qos.min(replay.options & 3),
            retain: true,
            vhost: publish.vhost,
            topic: publish.topic,
            expiry_ms: publish.expiry_ms,
            list: Some(ToList { session, replay: id, shard, source, identifiers }),
            ..Publish::default()
        };
        self.push(&Command::Publish(copy), message);
        self.left -= 1;
    }

    fn at<'a>(&self, replay: u64, shard: u32, after: &'a str, progress: Progress) -> Command<'a> {
        Command::ReplayAt { session: self.session, replay, shard, after, progress }
    }

    fn push(&mut self, command: &Command<'_>, message: &[u8]) {
        command.encode(message, &mut self.body);
        self.ends.push(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
    }

    /// Whether the session's shard took it.
    async fn commit(self, group: &Group) -> bool {
        let head = Batch {
            gateway_epoch: 0,
            stream: 0,
            first_sequence: 0,
            count: u32::try_from(self.ends.len()).unwrap_or(u32::MAX),
            crc: 0,
            confirmed_upto: 0,
        };
        let (taken, answer) = oneshot::channel();
        let batch = CommandBatch { head, ends: self.ends, body: self.body.into() };
        group.submit(
            batch,
            Box::new(move |result| {
                let _ = taken.send(result.is_ok());
            }),
        );
        answer.await.unwrap_or(false)
    }
}

/// The shards that may keep messages for a filter: one topic has one home.
fn sources(vhost: &str, filter: &str, shards: u32) -> std::ops::Range<u32> {
    if filter.contains(['+', '#']) {
        return 0..shards;
    }
    let home = place(Kind::Retained, vhost, filter, shards).0;
    home..home + 1
}
