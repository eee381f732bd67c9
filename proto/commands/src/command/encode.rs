//! Writing commands.

use super::*;
use crate::wire::Write;

// === impl Command ===

impl Command<'_> {
    /// Appends the command and its `body` to `out`.
    pub fn encode(&self, body: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        let (op, target) = self.encode_attrs(out);
        let attrs = out.len() - start - HEADER;
        let attrs = u16::try_from(attrs).expect("names are bounded, lists are cut to fit");
        out[start..start + 2].copy_from_slice(&op.to_le_bytes());
        out[start + 2..start + 4].copy_from_slice(&attrs.to_le_bytes());
        out[start + 8..start + HEADER].copy_from_slice(&target.to_le_bytes());
        out.extend_from_slice(body);
    }

    fn encode_attrs(&self, out: &mut Vec<u8>) -> (u16, u64) {
        match self {
            Self::Batch(b) => {
                out.put_u64(b.gateway_epoch);
                out.put_u32(b.stream);
                out.put_u64(b.first_sequence);
                out.put_u32(b.count);
                out.put_u32(b.crc);
                out.put_u64(b.confirmed_upto);
                (op::BATCH, 0)
            }
            Self::Tick => (op::TICK, 0),
            Self::Publish(publish) => {
                encode_publish(publish, out);
                (op::PUBLISH, 0)
            }
            Self::GatewayRegister { name, address } => {
                out.put_str(name);
                out.put_str(address);
                (op::GATEWAY_REGISTER, 0)
            }
            Self::GatewayEnded { epoch } => (op::GATEWAY_ENDED, *epoch),
            Self::EndGatewaysBefore { epoch } => (op::END_GATEWAYS_BEFORE, *epoch),
            Self::Queue(command) => command.encode(out),
            Self::OwedDone { id } => (op::OWED_DONE, *id),
            Self::ForgetKeys { shard, ids } => {
                put_ids(ids, out);
                (op::FORGET_KEYS, (*shard).into())
            }
            Self::KeysForgotten { ids } => {
                put_ids(ids, out);
                (op::KEYS_FORGOTTEN, 0)
            }
            Self::RetainedLimits { messages, bytes } => {
                out.put_u64(*messages);
                out.put_u64(*bytes);
                (op::RETAINED_LIMITS, 0)
            }
            Self::Connect(connect) => {
                encode_connect(connect, out);
                (op::CONNECT, 0)
            }
            _ => self.encode_session(out),
        }
    }

    fn encode_session(&self, out: &mut Vec<u8>) -> (u16, u64) {
        match self {
            Self::Disconnect { session, epoch, publish_will, expiry_s, sent_upto } => {
                out.put_u64(*epoch);
                out.put_u8(u8::from(*publish_will) | u8::from(expiry_s.is_some()) << 1);
                out.put_u32(expiry_s.unwrap_or(0));
                out.put_u64(*sent_upto);
                (op::DISCONNECT, *session)
            }
            Self::Subscribe { session, epoch, filters } => {
                out.put_u64(*epoch);
                put_wanted(filters, out);
                (op::SUBSCRIBE, *session)
            }
            Self::Unsubscribe { session, epoch, filters } => {
                out.put_u64(*epoch);
                out.put_u16(filters.len() as u16);
                filters.iter().for_each(|f| out.put_str(f));
                (op::UNSUBSCRIBE, *session)
            }
            Self::Settle { session, epoch, sent_upto, ranges } => {
                out.put_u64(*epoch);
                out.put_u64(*sent_upto);
                out.put_u16(ranges.len() as u16);
                for range in ranges {
                    out.put_u64(range.first);
                    out.put_u32(range.count);
                    out.put_u8(1 + u8::from(range.received));
                }
                (op::SETTLE, *session)
            }
            Self::Qos2Open { session, epoch, packet_id }
            | Self::Qos2Close { session, epoch, packet_id } => {
                out.put_u64(*epoch);
                out.put_u16(*packet_id);
                let open = matches!(self, Self::Qos2Open { .. });
                (if open { op::QOS2_OPEN } else { op::QOS2_CLOSE }, *session)
            }
            Self::SentUpto { session, epoch, number } => {
                out.put_u64(*epoch);
                out.put_u64(*number);
                (op::SENT_UPTO, *session)
            }
            Self::Trim { session, number } => {
                out.put_u64(*number);
                (op::TRIM, *session)
            }
            Self::Drop { session, ranges } => {
                out.put_u16(ranges.len() as u16);
                for (first, count) in ranges {
                    out.put_u64(*first);
                    out.put_u32(*count);
                }
                (op::DROP, *session)
            }
            Self::ReplayAt { session, replay, shard, after, progress } => {
                out.put_u64(*replay);
                out.put_u32(*shard);
                out.put_str(after);
                out.put_u8(*progress as u8);
                (op::REPLAY_AT, *session)
            }
            _ => unreachable!("encoded by encode_attrs"),
        }
    }
}

fn put_wanted(filters: &[Wanted<'_>], out: &mut Vec<u8>) {
    out.put_u16(filters.len() as u16);
    for wanted in filters {
        let with_more = if wanted.more.is_empty() { 0 } else { WITH_MORE };
        out.put_u8(wanted.options | with_more);
        out.put_u32(wanted.identifier);
        out.put_str(wanted.filter);
        if with_more != 0 {
            out.put_str(wanted.more);
        }
    }
}

pub(super) fn put_ids(ids: &[u64], out: &mut Vec<u8>) {
    out.put_u16(ids.len() as u16);
    ids.iter().for_each(|id| out.put_u64(*id));
}

fn encode_publish(p: &Publish<'_>, out: &mut Vec<u8>) {
    let mut flags = u16::from(p.qos & 3);
    let bits = [
        (2, p.retain),
        (3, p.store),
        (4, p.expiry_ms.is_some()),
        (5, p.key.is_some()),
        (6, p.publisher.is_some()),
        (7, p.lowest_open.is_some()),
        (8, p.empty),
        (9, p.list.is_some()),
        (10, p.options != Options::default()),
        (11, !p.groups.is_empty()),
    ];
    bits.iter().filter(|(_, set)| *set).for_each(|(bit, _)| flags |= 1 << bit);
    out.put_u16(flags);
    out.put_str(p.vhost);
    out.put_str(p.topic);
    p.expiry_ms.iter().for_each(|ms| out.put_u64(*ms));
    if let Some(key) = p.key {
        out.put_u32(key.shard);
        out.put_u64(key.id);
        out.put_u64(key.n);
    }
    if let Some((shard, session)) = p.publisher {
        out.put_u32(shard);
        out.put_u64(session);
    }
    p.lowest_open.iter().for_each(|n| out.put_u64(*n));
    if let Some(list) = p.list {
        out.put_u64(list.session);
        out.put_u64(list.replay);
        out.put_u32(list.shard);
        out.put_u64(list.source);
        out.put_u16((list.identifiers.len() / 4) as u16);
        out.extend_from_slice(list.identifiers.as_chunks::<4>().0.as_flattened());
    }
    if p.options != Options::default() {
        p.options.encode(out);
    }
    if !p.groups.is_empty() {
        out.put_u16((p.groups.len() / 8) as u16);
        out.extend_from_slice(p.groups.as_chunks::<8>().0.as_flattened());
    }
}

fn encode_connect(c: &Connect<'_>, out: &mut Vec<u8>) {
    out.put_str(c.vhost);
    out.put_str(c.client_id);
    out.put_u8(u8::from(c.clean_start) | u8::from(c.will.is_some()) << 1);
    out.put_u32(c.expiry_s);
    out.put_u16(c.window);
    out.put_u64(c.token);
    if let Some(will) = &c.will {
        out.put_u8(will.qos | u8::from(will.retain) << 2);
        out.put_u32(will.delay_s);
        out.put_u32(will.expiry_s);
        out.put_str(will.topic);
    }
}
