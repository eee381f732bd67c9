//! The publish lane.

use std::collections::VecDeque;

use fluxmq_commands::Outcome;
use fluxmq_commands::wire::Reader;
use fluxmq_names::ErrorCode;
use fluxmq_proto::v1::{self, PublishReply, PublishRequest, publish_reply, publish_request};

use super::{Message, OTHER_LANE, WireError};
use crate::contract::{Event, Relay, Request, Submit};

impl Message<Request> for PublishRequest {
    fn pack(frames: &mut VecDeque<Request>) -> Self {
        let frame = match frames.pop_front() {
            Some(Request::Submit(s)) => publish_request::Frame::Submit(v1::Submit {
                shard: s.shard,
                first_sequence: s.first_sequence,
                confirmed_upto: s.confirmed_upto,
                ends: s.ends,
                body: s.body,
            }),
            Some(Request::Relay(relay)) => publish_request::Frame::Relay(to_relay(relay)),
            Some(Request::RelayTaken { peer, upto }) => {
                publish_request::Frame::RelayTaken(v1::RelayTaken { peer, upto })
            }
            _ => unreachable!("{OTHER_LANE}"),
        };
        Self { frame: Some(frame) }
    }

    fn unpack(self, each: &mut dyn FnMut(Request)) -> Result<(), WireError> {
        each(match self.frame.ok_or(WireError("an empty request"))? {
            publish_request::Frame::Submit(s) => Request::Submit(Submit {
                shard: s.shard,
                first_sequence: s.first_sequence,
                confirmed_upto: s.confirmed_upto,
                ends: s.ends,
                body: s.body,
            }),
            publish_request::Frame::Relay(relay) => Request::Relay(from_relay(relay)),
            publish_request::Frame::RelayTaken(t) => {
                Request::RelayTaken { peer: t.peer, upto: t.upto }
            }
        });
        Ok(())
    }
}

impl Message<Event> for PublishReply {
    fn pack(frames: &mut VecDeque<Event>) -> Self {
        let frame = match frames.pop_front() {
            Some(Event::Outcomes { shard, first_sequence, outcomes }) => {
                publish_reply::Frame::Outcomes(to_outcomes(shard, first_sequence, &outcomes))
            }
            Some(Event::Refused { shard, first_sequence, count, code }) => {
                publish_reply::Frame::Outcomes(v1::Outcomes {
                    shard,
                    first_sequence,
                    count,
                    error: code.number().into(),
                    ..v1::Outcomes::default()
                })
            }
            Some(Event::Relay(relay)) => publish_reply::Frame::Relay(to_relay(relay)),
            Some(Event::RelayTaken { peer, upto }) => {
                publish_reply::Frame::RelayTaken(v1::RelayTaken { peer, upto })
            }
            Some(Event::Resend { peer }) => publish_reply::Frame::Resend(peer),
            _ => unreachable!("{OTHER_LANE}"),
        };
        Self { frame: Some(frame) }
    }

    fn unpack(self, each: &mut dyn FnMut(Event)) -> Result<(), WireError> {
        each(match self.frame.ok_or(WireError("an empty reply"))? {
            publish_reply::Frame::Outcomes(o) => from_outcomes(o)?,
            publish_reply::Frame::Relay(relay) => Event::Relay(from_relay(relay)),
            publish_reply::Frame::RelayTaken(t) => Event::RelayTaken { peer: t.peer, upto: t.upto },
            publish_reply::Frame::Resend(peer) => Event::Resend { peer },
        });
        Ok(())
    }
}

/// Outcomes that are all `Done` need no bytes.
fn to_outcomes(shard: u32, first_sequence: u64, outcomes: &[Outcome]) -> v1::Outcomes {
    let count = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    if outcomes.iter().any(|o| *o != Outcome::Done) {
        outcomes.iter().for_each(|o| o.encode(&mut bytes));
    }
    v1::Outcomes { shard, first_sequence, count, outcomes: bytes.into(), error: 0 }
}

fn from_outcomes(o: v1::Outcomes) -> Result<Event, WireError> {
    let (shard, first_sequence, count) = (o.shard, o.first_sequence, o.count);
    if o.error != 0 {
        let code = u16::try_from(o.error).ok().and_then(ErrorCode::from_number);
        let code = code.unwrap_or(ErrorCode::Unavailable);
        return Ok(Event::Refused { shard, first_sequence, count, code });
    }
    if count > 1 << 20 {
        return Err(WireError("more outcomes than a frame has commands"));
    }
    let outcomes = if o.outcomes.is_empty() {
        vec![Outcome::Done; count as usize]
    } else {
        let mut rest = Reader(&o.outcomes);
        let mut all = Vec::with_capacity(count as usize);
        for _ in 0..count {
            all.push(Outcome::read(&mut rest).map_err(|_| WireError("an outcome"))?);
        }
        if !rest.is_empty() {
            return Err(WireError("more outcomes than it says"));
        }
        all
    };
    Ok(Event::Outcomes { shard, first_sequence, outcomes })
}

fn to_relay(r: Relay) -> v1::Relay {
    v1::Relay { peer: r.peer, first: r.first, ends: r.ends, body: r.body }
}

fn from_relay(r: v1::Relay) -> Relay {
    Relay { peer: r.peer, first: r.first, ends: r.ends, body: r.body }
}
