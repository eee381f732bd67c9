//! What gateways ask.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use fluxmq_client::boot_ms;
use fluxmq_client::contract::{Event, Registration, Relay, Request, Role, Submit};
use fluxmq_commands::command::queue::Settlement;
use fluxmq_commands::command::{self, Batch, Command};
use fluxmq_names::ErrorCode;
use logd_raft::{CommandBatch, SubmitError};

use super::consumers::settles_of;
use super::{Core, Incoming};
use crate::delivery::Wanted;
use crate::entries::read_command;

/// Retained messages of a page, and bytes after which it ends.
const PAGE: usize = 100;
const PAGE_BYTES: usize = 1024 * 1024;
/// Commands of a frame. What is above could not be an entry: its slots could not be named, and every node
/// would stop at it.
const FRAME_COMMANDS_MAX: usize = 32_768;
/// Bytes of a frame: the largest message and what travels with it, within `ENTRY_PAYLOAD_MAX` of the log.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024 + 256 * 1024;
/// Bytes of commands that a gateway may have unanswered for each shard; twice what it keeps to.
const UNANSWERED_BYTES_MAX: usize = 8 * 1024 * 1024 + FRAME_BYTES_MAX;

/// Frames that settle what is not presented yet, and those behind them: the lanes of a link have no order among them.
#[derive(Default)]
pub(super) struct Waiting {
    bytes: usize,
    /// The link each came over.
    frames: Vec<(u64, Submit)>,
}

// === impl Core ===

impl Core {
    pub(super) fn request(&mut self, link: u64, request: Request) {
        let Some(linked) = self.links.get(&link) else { return };
        let epoch = linked.epoch;
        let role = linked.role;
        if let Request::Hello { name, epoch, role } = request {
            return self.hello(link, name, epoch, role);
        }
        if epoch == 0 {
            return;
        }
        if role == Role::Program && is_for_gateways(&request) {
            tracing::warn!("a program asks for what only gateways may");
            return;
        }
        match request {
            Request::Hello { .. } => {}
            Request::Submit(submit) => self.submit(link, submit),
            Request::Register { token, shard: _, vhost, client_id, how } => match how {
                Registration::Look => {
                    let exists = self.exists(&vhost, &client_id);
                    self.send(link, Event::Registered { token, exists });
                }
                Registration::New => {
                    self.registrations.register(&vhost, &client_id, (epoch, token), boot_ms());
                }
                Registration::Again => {
                    self.registrations.register_again(&vhost, &client_id, (epoch, token));
                }
            },
            Request::Unregister { token } => self.registrations.unregister((epoch, token)),
            Request::Open { token, shard, session, epoch, from } => {
                let wanted = Wanted { shard, session, epoch, from };
                let subscriptions = self.delivery.open(&self.shards, link, token, &wanted);
                self.send(link, Event::Opened { token, subscriptions });
                self.check_backlog((shard, session));
            }
            Request::Close { token } => {
                self.delivery.close(link, token);
                self.queues.close(epoch, token);
            }
            Request::Credit { token, count } => {
                self.delivery.credit(link, token, count);
                self.queues.credit(epoch, token, count);
            }
            Request::Window { bytes } => {
                if self.windows.taken(link, bytes) {
                    self.delivery.unblock(link);
                    self.queues.unblock(link);
                }
            }
            Request::Announce { id, full, changes } => self.hub.announce(epoch, id, full, changes),
            Request::Ack { version } => self.hub.acknowledged(epoch, version),
            Request::Renew { nonce } => self.hub.renew(epoch, nonce, boot_ms()),
            Request::Leave => self.end_gateway(epoch),
            Request::Relay(relay) => self.relay(epoch, relay),
            Request::RelayTaken { peer, upto } => {
                if let Some(to) = self.hub.link_of(peer) {
                    self.send(to, Event::RelayTaken { peer: epoch, upto });
                }
            }
            Request::ReadRetained { id, shard, vhost, filter, after } => {
                let (commands, more) = self.retained(shard, &vhost, &filter, &after);
                self.send(link, Event::Retained { id, commands, more });
            }
            Request::Consume(_)
            | Request::Presented
            | Request::Settle(_)
            | Request::Extend { .. }
            | Request::ReadQueue(_)
            | Request::LookAtQueues(_)
            | Request::SendLive { .. } => self.queue_request(link, epoch, request),
        }
    }

    /// Passes messages on to another gateway. One that has no link now gets them again when it is back (R6).
    fn relay(&self, from: u64, relay: Relay) {
        if let Some(to) = self.hub.link_of(relay.peer) {
            self.send(to, Event::Relay(Relay { peer: from, ..relay }));
        }
    }

    fn submit(&mut self, from: u64, submit: Submit) {
        let Some(linked) = self.links.get(&from) else { return };
        let (shard, first_sequence) = (submit.shard, submit.first_sequence);
        let count = submit.ends.len() as u32;
        let to = linked.to.clone();
        let refused = move |code| Event::Refused { shard, first_sequence, count, code };
        let Some(group) = self.shards.get(shard as usize) else {
            to.send(refused(ErrorCode::InvalidArgument));
            return;
        };
        let bytes = submit.body.len();
        let unanswered = linked.unanswered.clone();
        if submit.ends.len() > FRAME_COMMANDS_MAX || bytes > FRAME_BYTES_MAX {
            to.send(refused(ErrorCode::TooLarge));
            return;
        }
        let Some(settles) = checked(&submit.ends, &submit.body) else {
            to.send(refused(ErrorCode::Corrupt));
            return;
        };
        let gateway_epoch = linked.epoch;
        let waiting = self.waiting.get(&gateway_epoch).map_or(0, |w| w.bytes);
        if unanswered.load(Relaxed) + waiting > UNANSWERED_BYTES_MAX * self.shards.len() {
            to.send(refused(ErrorCode::LimitExceeded));
            return;
        }
        if self.has_to_wait(gateway_epoch, &settles) {
            let waiting = self.waiting.entry(gateway_epoch).or_default();
            waiting.bytes += bytes;
            waiting.frames.push((from, submit));
            return;
        }
        let group = group.clone();
        let frame = (gateway_epoch, shard, first_sequence);
        let held = match self.take_held(frame, &settles) {
            Ok(held) => held,
            Err(code) => {
                to.send(refused(code));
                return;
            }
        };
        unanswered.fetch_add(bytes, Relaxed);
        let inbox = self.inbox.clone();
        let head = Batch {
            gateway_epoch,
            stream: shard,
            first_sequence,
            count,
            crc: 0,
            confirmed_upto: submit.confirmed_upto,
        };
        let batch = CommandBatch { head, ends: submit.ends, body: submit.body };
        group.submit(
            batch,
            Box::new(move |result| {
                unanswered.fetch_sub(bytes, Relaxed);
                if !held.is_empty() {
                    let _ = inbox.send(Incoming::Settled { frame, held, result: result.clone() });
                }
                to.send(match result {
                    Ok(outcomes) => Event::Outcomes { shard, first_sequence, outcomes },
                    Err(SubmitError::DiskFull) => refused(ErrorCode::DiskFull),
                    Err(SubmitError::NotLeader { .. }) => refused(ErrorCode::NotLeader),
                    Err(SubmitError::LeadershipLost | SubmitError::Stopped) => {
                        refused(ErrorCode::Unavailable)
                    }
                });
            }),
        );
    }

    /// Whether a frame comes before what is held by those who settle in it, or behind one that does.
    fn has_to_wait(&self, epoch: u64, settles: &[(u64, u64, Vec<Settlement>)]) -> bool {
        let is_early = !settles.is_empty() && self.queues.is_unpresented(epoch);
        is_early || self.waiting.contains_key(&epoch)
    }

    /// Takes what waited until its sender had presented what its consumers hold.
    pub(super) fn submit_what_waited(&mut self) {
        let ready = |epoch: &u64| !self.queues.is_unpresented(*epoch);
        let ready: Vec<_> = self.waiting.keys().copied().filter(ready).collect();
        for epoch in ready {
            let frames = self.waiting.remove(&epoch).unwrap_or_default().frames;
            // Of a link that is gone they come again over the next one.
            frames.into_iter().for_each(|(from, submit)| self.submit(from, submit));
        }
    }

    fn retained(&self, shard: u32, vhost: &str, filter: &str, after: &str) -> (Vec<Bytes>, bool) {
        let Some(group) = self.shards.get(shard as usize) else { return (Vec::new(), false) };
        let mut after = after.to_string();
        // A page may be empty though there is more: what a wildcard looks at in one go is bounded.
        let page = loop {
            let page = group.with_state(|b| b.retained_matching(vhost, filter, &after, PAGE));
            match page.next {
                Some(next) if page.entries.is_empty() => after = next,
                _ => break page,
            }
        };
        let (mut commands, mut bytes) = (Vec::new(), 0);
        for (_, retained) in &page.entries {
            if bytes > PAGE_BYTES {
                return (commands, true);
            }
            let command = read_command(group, retained.position);
            bytes += command.as_ref().map_or(0, Bytes::len);
            commands.extend(command);
        }
        (commands, page.next.is_some())
    }
}

/// Checks that every command of a frame can be decoded and is no head of a batch; gives what they settle.
fn checked(ends: &[u32], body: &[u8]) -> Option<Vec<(u64, u64, Vec<Settlement>)>> {
    let mut start = 0;
    let mut settles = Vec::new();
    for end in ends {
        let slot = body.get(start as usize..*end as usize)?;
        let (command, _) = command::decode(slot).ok()?;
        if matches!(command, Command::Batch(_)) {
            return None;
        }
        settles.extend(settles_of(&command));
        start = *end;
    }
    (start as usize == body.len()).then_some(settles)
}

/// Whether a request is about routes, which programs have not.
fn is_for_gateways(request: &Request) -> bool {
    matches!(
        request,
        Request::Register { .. }
            | Request::Unregister { .. }
            | Request::Open { .. }
            | Request::Announce { .. }
            | Request::Ack { .. }
            | Request::Renew { .. }
            | Request::Relay(_)
            | Request::RelayTaken { .. }
    )
}
