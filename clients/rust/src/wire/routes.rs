//! The control lane.

use std::collections::VecDeque;

use fluxmq_proto::v1::{
    self, RoutesReply, RoutesRequest, change, delta, routes_reply, routes_request,
};

use super::{Message, OTHER_LANE, WireError};
use crate::contract::{Change, Class, Delta, Event, Request, Role, Source};

impl Message<Request> for RoutesRequest {
    fn pack(frames: &mut VecDeque<Request>) -> Self {
        let frame = match frames.pop_front() {
            Some(Request::Hello { name, epoch, role }) => {
                let program = role == Role::Program;
                routes_request::Frame::Hello(v1::Hello { name, epoch, program })
            }
            Some(Request::Announce { id, full, changes }) => {
                let changes = changes.into_iter().map(to_change).collect();
                routes_request::Frame::Announce(v1::Announce { id, full, changes })
            }
            Some(Request::Ack { version }) => routes_request::Frame::Ack(version),
            Some(Request::Renew { nonce }) => routes_request::Frame::Renew(nonce),
            Some(Request::Leave) => routes_request::Frame::Leave(true),
            Some(Request::SendLive { id, command }) => {
                routes_request::Frame::SendLive(v1::SendLive { id, command })
            }
            _ => unreachable!("{OTHER_LANE}"),
        };
        Self { frame: Some(frame) }
    }

    fn unpack(self, each: &mut dyn FnMut(Request)) -> Result<(), WireError> {
        each(match self.frame.ok_or(WireError("an empty request"))? {
            routes_request::Frame::Hello(h) => {
                let role = if h.program { Role::Program } else { Role::Gateway };
                Request::Hello { name: h.name, epoch: h.epoch, role }
            }
            routes_request::Frame::Announce(a) => {
                let changes = a.changes.into_iter().map(from_change).collect::<Result<_, _>>()?;
                Request::Announce { id: a.id, full: a.full, changes }
            }
            routes_request::Frame::Ack(version) => Request::Ack { version },
            routes_request::Frame::Renew(nonce) => Request::Renew { nonce },
            routes_request::Frame::Leave(_) => Request::Leave,
            routes_request::Frame::SendLive(s) => {
                Request::SendLive { id: s.id, command: s.command }
            }
        });
        Ok(())
    }
}

impl Message<Event> for RoutesReply {
    fn pack(frames: &mut VecDeque<Event>) -> Self {
        let frame = match frames.pop_front() {
            Some(Event::Welcome { gateway_epoch, shards, resumed, lease_ms }) => {
                let welcome = v1::Welcome { gateway_epoch, shards, resumed, lease_ms };
                routes_reply::Frame::Welcome(welcome)
            }
            Some(Event::Deltas { version, deltas }) => {
                let deltas = deltas.into_iter().map(to_delta).collect();
                routes_reply::Frame::Deltas(v1::Deltas { version, deltas })
            }
            Some(Event::Others(others)) => routes_reply::Frame::Others(others),
            Some(Event::Done { id }) => routes_reply::Frame::Done(id),
            Some(Event::Lease { nonce, lease_ms }) => {
                routes_reply::Frame::Lease(v1::Lease { nonce, lease_ms })
            }
            Some(Event::GatewayGone { epoch }) => routes_reply::Frame::GatewayGone(epoch),
            Some(Event::Live { command }) => routes_reply::Frame::Live(command),
            Some(Event::LiveTaken { id }) => routes_reply::Frame::LiveTaken(id),
            _ => unreachable!("{OTHER_LANE}"),
        };
        Self { frame: Some(frame) }
    }

    fn unpack(self, each: &mut dyn FnMut(Event)) -> Result<(), WireError> {
        each(match self.frame.ok_or(WireError("an empty reply"))? {
            routes_reply::Frame::Welcome(w) => Event::Welcome {
                gateway_epoch: w.gateway_epoch,
                shards: w.shards,
                resumed: w.resumed,
                lease_ms: w.lease_ms,
            },
            routes_reply::Frame::Deltas(d) => {
                let deltas = d.deltas.into_iter().map(from_delta).collect::<Result<_, _>>()?;
                Event::Deltas { version: d.version, deltas }
            }
            routes_reply::Frame::Others(others) => Event::Others(others),
            routes_reply::Frame::Done(id) => Event::Done { id },
            routes_reply::Frame::Lease(l) => Event::Lease { nonce: l.nonce, lease_ms: l.lease_ms },
            routes_reply::Frame::GatewayGone(epoch) => Event::GatewayGone { epoch },
            routes_reply::Frame::Live(command) => Event::Live { command },
            routes_reply::Frame::LiveTaken(id) => Event::LiveTaken { id },
        });
        Ok(())
    }
}

fn to_change(c: Change) -> v1::Change {
    let class = match c.class {
        Class::Gone => change::Class::Gone,
        Class::All => change::Class::All,
        Class::Zero => change::Class::Zero,
        Class::Every => change::Class::Every,
    };
    v1::Change { vhost: c.vhost, filter: c.filter, class: class.into() }
}

fn from_change(c: v1::Change) -> Result<Change, WireError> {
    let class = match change::Class::try_from(c.class) {
        Ok(change::Class::Gone) => Class::Gone,
        Ok(change::Class::All) => Class::All,
        Ok(change::Class::Zero) => Class::Zero,
        Ok(change::Class::Every) => Class::Every,
        Err(_) => return Err(WireError("a class of filters")),
    };
    Ok(Change { vhost: c.vhost, filter: c.filter, class })
}

fn to_delta(d: Delta) -> v1::Delta {
    let source = match d.source {
        Source::Shard(shard) => delta::Source::Shard(shard),
        Source::Gateway(epoch) => delta::Source::Gateway(epoch),
    };
    let changes = d.changes.into_iter().map(to_change).collect();
    v1::Delta { source: Some(source), full: d.full, changes }
}

fn from_delta(d: v1::Delta) -> Result<Delta, WireError> {
    let source = match d.source.ok_or(WireError("filters of nobody"))? {
        delta::Source::Shard(shard) => Source::Shard(shard),
        delta::Source::Gateway(epoch) => Source::Gateway(epoch),
    };
    let changes = d.changes.into_iter().map(from_change).collect::<Result<_, _>>()?;
    Ok(Delta { source, full: d.full, changes })
}
