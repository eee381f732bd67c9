//! What gateways ask.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use fluxmq_client::boot_ms;
use fluxmq_client::contract::{Event, Registration, Relay, Request, Submit};
use fluxmq_commands::command::{self, Batch, Command};
use fluxmq_names::ErrorCode;
use logd_raft::{CommandBatch, SubmitError};

use super::{Core, read_command};
use crate::delivery::Wanted;

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

// === impl Core ===

impl Core {
    pub(super) fn request(&mut self, link: u64, request: Request) {
        let Some(linked) = self.links.get(&link) else { return };
        let epoch = linked.epoch;
        if let Request::Hello { name, epoch } = request {
            return self.hello(link, name, epoch);
        }
        if epoch == 0 {
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
            }
            Request::Close { token } => self.delivery.close(link, token),
            Request::Credit { token, count } => self.delivery.credit(link, token, count),
            Request::Window { bytes } => self.delivery.window(link, bytes),
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
        }
    }

    /// Passes messages on to another gateway. One that has no link now gets them again when it is back (R6).
    fn relay(&self, from: u64, relay: Relay) {
        if let Some(to) = self.hub.link_of(relay.peer) {
            self.send(to, Event::Relay(Relay { peer: from, ..relay }));
        }
    }

    fn submit(&self, from: u64, submit: Submit) {
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
        if !is_well_formed(&submit.ends, &submit.body) {
            to.send(refused(ErrorCode::Corrupt));
            return;
        }
        if unanswered.load(Relaxed) > UNANSWERED_BYTES_MAX * self.shards.len() {
            to.send(refused(ErrorCode::LimitExceeded));
            return;
        }
        unanswered.fetch_add(bytes, Relaxed);
        let head = Batch {
            gateway_epoch: linked.epoch,
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

/// Every command of a gateway's frame can be decoded and is one that gateways may send.
fn is_well_formed(ends: &[u32], body: &[u8]) -> bool {
    let mut start = 0;
    for end in ends {
        let slot = body.get(start as usize..*end as usize);
        let ours = |c: &Command<'_>| !matches!(c, Command::Batch(_));
        if !slot.and_then(|s| command::decode(s).ok()).is_some_and(|(c, _)| ours(&c)) {
            return false;
        }
        start = *end;
    }
    start as usize == body.len()
}
