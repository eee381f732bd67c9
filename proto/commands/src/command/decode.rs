//! Reading commands. Nothing is trusted: bytes that do not fit are an error.

use super::*;
use crate::wire::{Reader, WireError};

/// Splits a slot into its command and body.
///
/// # Errors
/// An unknown operation, which stops the shard on this node (S6), or bytes that do not fit.
pub fn decode(slot: &[u8]) -> Result<(Command<'_>, &[u8]), WireError> {
    let mut reader = Reader(slot);
    let op = reader.u16()?;
    let attrs_len = reader.u16()?;
    reader.u32()?;
    let target = reader.u64()?;
    let mut attrs = Reader(reader.take(attrs_len.into())?);
    let command = decode_attrs(op, target, &mut attrs)?;
    attrs.end()?;
    Ok((command, reader.0))
}

fn decode_attrs<'a>(op: u16, target: u64, r: &mut Reader<'a>) -> Result<Command<'a>, WireError> {
    let session = target;
    Ok(match op {
        op::BATCH => Command::Batch(Batch {
            gateway_epoch: r.u64()?,
            stream: r.u32()?,
            first_sequence: r.u64()?,
            count: r.u32()?,
            crc: r.u32()?,
            confirmed_upto: r.u64()?,
        }),
        op::TICK => Command::Tick,
        op::PUBLISH => Command::Publish(decode_publish(r)?),
        op::GATEWAY_REGISTER => Command::GatewayRegister { name: r.str()?, address: r.str()? },
        op::GATEWAY_ENDED => Command::GatewayEnded { epoch: target },
        op::END_GATEWAYS_BEFORE => Command::EndGatewaysBefore { epoch: target },
        op::OWED_DONE => Command::OwedDone { id: target },
        op::FORGET_KEYS => Command::ForgetKeys { shard: target as u32, ids: list(r, Reader::u64)? },
        op::KEYS_FORGOTTEN => Command::KeysForgotten { ids: list(r, Reader::u64)? },
        op::RETAINED_LIMITS => Command::RetainedLimits { messages: r.u64()?, bytes: r.u64()? },
        op::CONNECT => Command::Connect(decode_connect(r)?),
        op::DISCONNECT => {
            let epoch = r.u64()?;
            let flags = r.u8()?;
            let expiry_s = r.u32()?;
            Command::Disconnect {
                session,
                epoch,
                publish_will: flags & 1 != 0,
                expiry_s: (flags & 2 != 0).then_some(expiry_s),
                sent_upto: r.u64()?,
            }
        }
        op::SUBSCRIBE => {
            Command::Subscribe { session, epoch: r.u64()?, filters: list(r, decode_wanted)? }
        }
        op::UNSUBSCRIBE => {
            Command::Unsubscribe { session, epoch: r.u64()?, filters: list(r, Reader::str)? }
        }
        op::SETTLE => Command::Settle {
            session,
            epoch: r.u64()?,
            sent_upto: r.u64()?,
            ranges: list(r, decode_settled)?,
        },
        op::QOS2_OPEN => Command::Qos2Open { session, epoch: r.u64()?, packet_id: r.u16()? },
        op::QOS2_CLOSE => Command::Qos2Close { session, epoch: r.u64()?, packet_id: r.u16()? },
        op::SENT_UPTO => Command::SentUpto { session, epoch: r.u64()?, number: r.u64()? },
        op::TRIM => Command::Trim { session, number: r.u64()? },
        op::DROP => Command::Drop { session, ranges: list(r, |r| Ok((r.u64()?, r.u32()?)))? },
        op::REPLAY_AT => Command::ReplayAt {
            session,
            replay: r.u64()?,
            shard: r.u32()?,
            after: r.str()?,
            progress: match r.u8()? {
                0 => Progress::Upto,
                1 => Progress::ShardDone,
                2 => Progress::Done,
                _ => return Err(WireError("unknown progress")),
            },
        },
        200..=299 => Command::Queue(queue::decode_queue(op, target, r)?),
        _ => return Err(WireError("unknown operation")),
    })
}

pub(super) fn list<'a, T>(
    r: &mut Reader<'a>,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let n = r.u16()?;
    // No room is made for what the bytes do not hold.
    (0..n).map(|_| one(r)).collect()
}

fn decode_wanted<'a>(r: &mut Reader<'a>) -> Result<Wanted<'a>, WireError> {
    let (options, identifier, filter) = (r.u8()?, r.u32()?, r.str()?);
    let more = if options & WITH_MORE != 0 { r.str()? } else { "" };
    Ok(Wanted { options: options & !WITH_MORE, identifier, filter, more })
}

fn decode_settled(r: &mut Reader<'_>) -> Result<Settled, WireError> {
    Ok(Settled { first: r.u64()?, count: r.u32()?, received: r.u8()? == 2 })
}

fn decode_publish<'a>(r: &mut Reader<'a>) -> Result<Publish<'a>, WireError> {
    let flags = r.u16()?;
    let bit = |n: u16| flags & (1 << n) != 0;
    let qos = (flags & 3) as u8;
    if qos > 2 {
        return Err(WireError("qos 3 does not exist"));
    }
    let (vhost, topic) = (r.str()?, r.str()?);
    Ok(Publish {
        qos,
        retain: bit(2),
        store: bit(3),
        empty: bit(8),
        vhost,
        topic,
        expiry_ms: if bit(4) { Some(r.u64()?) } else { None },
        key: if bit(5) { Some(Key { shard: r.u32()?, id: r.u64()?, n: r.u64()? }) } else { None },
        publisher: if bit(6) { Some((r.u32()?, r.u64()?)) } else { None },
        lowest_open: if bit(7) { Some(r.u64()?) } else { None },
        list: if bit(9) { Some(decode_list(r)?) } else { None },
        options: if bit(10) { Options::decode(r)? } else { Options::default() },
        groups: if bit(11) {
            let n = r.u16()?;
            r.take(usize::from(n) * 8)?
        } else {
            &[]
        },
    })
}

fn decode_list<'a>(r: &mut Reader<'a>) -> Result<ToList<'a>, WireError> {
    Ok(ToList {
        session: r.u64()?,
        replay: r.u64()?,
        shard: r.u32()?,
        source: r.u64()?,
        identifiers: {
            let n = r.u16()?;
            r.take(usize::from(n) * 4)?
        },
    })
}

fn decode_connect<'a>(r: &mut Reader<'a>) -> Result<Connect<'a>, WireError> {
    let (vhost, client_id) = (r.str()?, r.str()?);
    let flags = r.u8()?;
    let mut connect = Connect {
        vhost,
        client_id,
        clean_start: flags & 1 != 0,
        expiry_s: r.u32()?,
        window: r.u16()?,
        token: r.u64()?,
        will: None,
    };
    if flags & 2 != 0 {
        let will_flags = r.u8()?;
        connect.will = Some(Will {
            qos: (will_flags & 3).min(2),
            retain: will_flags & 4 != 0,
            delay_s: r.u32()?,
            expiry_s: r.u32()?,
            topic: r.str()?,
        });
    }
    Ok(connect)
}
