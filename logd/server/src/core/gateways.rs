//! Gateways come, come back and go (R2).

use std::sync::Arc;

use fluxmq_client::contract::{Event, Role};
use fluxmq_client::{LogdLink, boot_ms};
use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_names::{Kind, place};

use super::{Core, Incoming, Linked, lead};
use crate::programs::ADDRESS;
use crate::registrations::Said;

/// Bytes of a gateway's name.
const NAME_BYTES_MAX: usize = 255;

// === impl Core ===

impl Core {
    /// Somebody has a link; he is nobody before he says Hello.
    pub(super) fn linked(&mut self, link: LogdLink) {
        self.next_link += 1;
        let id = self.next_link;
        let unanswered = Arc::default();
        let (to, local) = (link.to, link.local);
        let role = Role::Gateway;
        self.links.insert(id, Linked { epoch: 0, role, to, local, unanswered });
        let inbox = self.inbox.clone();
        let mut from = link.from;
        tokio::spawn(async move {
            while let Some(request) = from.recv().await {
                if inbox.send(Incoming::Request(id, request)).is_err() {
                    return;
                }
            }
            let _ = inbox.send(Incoming::Lost(id));
        });
    }

    /// Who it is: one that comes back, or a new one, which meta has to know first.
    pub(super) fn hello(&mut self, link: u64, name: String, epoch: u64, role: Role) {
        let Some(linked) = self.links.get_mut(&link).filter(|l| l.epoch == 0) else { return };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            tracing::warn!("a gateway without a name is turned away");
            self.links.remove(&link);
            return;
        }
        linked.role = role;
        if role == Role::Program && self.programs.knows(epoch) {
            return self.program_joined(link, epoch, true);
        }
        if role == Role::Gateway && self.hub.knows(epoch) {
            linked.epoch = epoch;
            // The link it had is not known to be gone yet.
            if let Some(old) = self.hub.link_of(epoch) {
                self.forget_link(old, epoch);
            }
            self.hub.resume(epoch, link);
            return;
        }
        let previous = self.meta.with_state(|b| {
            b.gateways().find(|(known, ..)| *known == name).map(|(_, epoch, _)| epoch)
        });
        let (meta, inbox) = (self.meta.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let address = if role == Role::Program { ADDRESS } else { "" };
            let register = Command::GatewayRegister { name: &name, address };
            let epoch = match meta.lead(&register).await {
                Ok(Outcome::Gateway { epoch }) => Some(epoch),
                other => {
                    tracing::error!(name, ?other, "a gateway cannot register");
                    None
                }
            };
            let _ = inbox.send(Incoming::Registered { link, epoch, previous });
        });
    }

    pub(super) fn registered(&mut self, link: u64, epoch: Option<u64>, previous: Option<u64>) {
        let Some(epoch) = epoch else {
            self.links.remove(&link);
            return;
        };
        if let Some(previous) = previous {
            self.end_gateway(previous);
        }
        match self.links.get_mut(&link) {
            Some(linked) if linked.role == Role::Program => {
                self.program_joined(link, epoch, false);
            }
            Some(linked) => {
                linked.epoch = epoch;
                let local = linked.local;
                self.hub.join(epoch, link, local, boot_ms());
            }
            // It did not wait for it.
            None => self.end_gateway(epoch),
        }
    }

    fn program_joined(&mut self, link: u64, epoch: u64, resumed: bool) {
        if let Some(old) = self.programs.joined(epoch, link) {
            self.forget_link(old, epoch);
        }
        let Some(linked) = self.links.get_mut(&link) else { return };
        linked.epoch = epoch;
        let (gateway_epoch, shards) = (epoch, self.shards.len() as u32);
        let welcome = Event::Welcome { gateway_epoch, shards, resumed, lease_ms: 0 };
        self.send(link, welcome);
    }

    /// The link of a gateway or program, or None while it has none.
    fn link_of(&self, epoch: u64) -> Option<u64> {
        self.hub.link_of(epoch).or_else(|| self.programs.link_of(epoch))
    }

    /// Nothing goes over a link any more.
    fn forget_link(&mut self, link: u64, epoch: u64) {
        self.links.remove(&link);
        self.delivery.forget_gateway(link);
        self.windows.forget(link);
        self.reads.link_lost(link);
        self.queues.link_lost(link, epoch, boot_ms());
    }

    /// A link is gone. Its gateway is not before its lease ends, unless it is part of this process.
    pub(super) fn link_lost(&mut self, link: u64) {
        let Some(epoch) = self.links.get(&link).map(|linked| linked.epoch) else { return };
        self.forget_link(link, epoch);
        self.programs.link_lost(link, boot_ms());
        if let Some(epoch) = self.hub.link_lost(link) {
            self.end_gateway(epoch);
        }
    }

    /// A gateway is gone for good: every group is told, and nothing it has said since counts (R3).
    pub(super) fn end_gateway(&mut self, epoch: u64) {
        if let Some(link) = self.link_of(epoch) {
            self.forget_link(link, epoch);
        }
        self.programs.end(epoch);
        self.queues.party_gone(epoch);
        self.hub.end(epoch);
        self.registrations.gateway_gone(epoch);
        for group in self.groups() {
            self.ending.push(lead(&group, Command::GatewayEnded { epoch }));
        }
    }

    /// Says who lost and who has a client id.
    pub(super) fn say_registrations(&mut self) {
        for said in self.registrations.take_said() {
            match said {
                Said::Taken { holder: (epoch, token), client_id } => {
                    if let Some(link) = self.hub.link_of(epoch) {
                        self.send(link, Event::Taken { token, client_id });
                    }
                }
                Said::Free { holder } => {
                    let exists = match self.registrations.key_of(holder) {
                        Some((vhost, client_id)) => self.exists(vhost, client_id),
                        None => false,
                    };
                    if let Some(link) = self.hub.link_of(holder.0) {
                        self.send(link, Event::Registered { token: holder.1, exists });
                    }
                }
            }
        }
    }

    /// Whether there is a durable session.
    pub(super) fn exists(&self, vhost: &str, client_id: &str) -> bool {
        let shard = place(Kind::Session, vhost, client_id, self.shards.len() as u32);
        self.shards
            .get(shard.0 as usize)
            .is_some_and(|group| group.with_state(|b| b.session_of(vhost, client_id).is_some()))
    }
}
