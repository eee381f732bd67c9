//! Commands: what a slot of an entry says (`docs/internals/commands.md`). Operation numbers are stored:
//! 1–99 base, 100–199 sessions, 200–299 queues, 300–399 topology; none is ever used again.

use crate::wire::{Reader, WireError, Write};

/// Bytes before the attributes.
const HEADER: usize = 16;

macro_rules! operations {
    ($($name:ident = $op:literal,)+) => {
        mod op { $(pub(super) const $name: u16 = $op;)+ }
    };
}

operations! {
    BATCH = 1,
    TICK = 2,
    PUBLISH = 10,
    GATEWAY_REGISTER = 20,
    GATEWAY_ENDED = 21,
    END_GATEWAYS_BEFORE = 22,
    OWED_DONE = 30,
    CONNECT = 100,
    DISCONNECT = 101,
    SUBSCRIBE = 102,
    UNSUBSCRIBE = 103,
    SETTLE = 104,
    QOS2_OPEN = 105,
    QOS2_CLOSE = 106,
    SENT_UPTO = 107,
    TRIM = 108,
    DROP = 109,
}

/// Head of a batch of commands of one producer (Q1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// 0 = the leader of the shard itself.
    pub gateway_epoch: u64,
    /// Stream of the gateway.
    pub stream: u32,
    /// Sequence of the first command, from 1.
    pub first_sequence: u64,
    /// Commands that follow.
    pub count: u32,
    /// crc32 of the commands' bytes, made by the gateway.
    pub crc: u32,
    /// The gateway has seen the outcomes up to here.
    pub confirmed_upto: u64,
}

/// Where a message comes from that must be taken once (G2, S7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Shard of the source.
    pub shard: u32,
    /// Session or owed effect in it.
    pub id: u64,
    /// Publish number; 0 for owed effects.
    pub n: u64,
}

/// The routing header of a published message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    /// As published, 0–2.
    pub qos: u8,
    /// Retain flag as published.
    pub retain: bool,
    /// This shard keeps it as the topic's retained message.
    pub store: bool,
    /// The payload is empty: a retained message is deleted.
    pub empty: bool,
    /// Virtual host.
    pub vhost: &'a str,
    /// Topic in MQTT form.
    pub topic: &'a str,
    /// Absolute expiry, Unix ms.
    pub expiry_ms: Option<u64>,
    /// Taken once under this key.
    pub key: Option<Key>,
    /// Publish numbers of the key's source below this are closed.
    pub lowest_open: Option<u64>,
    /// Shard and id of the publishing session (no local).
    pub publisher: Option<(u32, u64)>,
}

/// The will of a CONNECT; its message is the command's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// QoS it is published with.
    pub qos: u8,
    /// Published as retained.
    pub retain: bool,
    /// Will delay interval.
    pub delay_s: u32,
    /// Message expiry from its publication, 0 = none.
    pub expiry_s: u32,
    /// Where to.
    pub topic: &'a str,
}

/// Expiry of a session that never ends by time.
pub const NEVER: u32 = u32::MAX;

/// A CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Virtual host.
    pub vhost: &'a str,
    /// Client identifier.
    pub client_id: &'a str,
    /// What there was is thrown away.
    pub clean_start: bool,
    /// Session expiry interval; [`NEVER`].
    pub expiry_s: u32,
    /// Messages in flight to the client.
    pub window: u16,
    /// The gateway's name for the connection.
    pub token: u64,
    /// The will.
    pub will: Option<Will<'a>>,
}

/// What numbers of a session's order reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// First number.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// PUBREC came, PUBCOMP is to come; else settled.
    pub received: bool,
}

/// A subscription that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// MQTT 5 options byte.
    pub options: u8,
    /// Subscription identifier, 0 = none.
    pub identifier: u32,
    /// Topic filter.
    pub filter: &'a str,
}

/// A command, borrowed from its entry.
#[allow(missing_docs)] // the fields are those of docs/internals/commands.md
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Batch(Batch),
    Tick,
    Publish(Publish<'a>),
    GatewayRegister {
        name: &'a str,
        address: &'a str,
    },
    GatewayEnded {
        epoch: u64,
    },
    EndGatewaysBefore {
        epoch: u64,
    },
    OwedDone {
        id: u64,
    },
    Connect(Connect<'a>),
    Disconnect {
        session: u64,
        epoch: u64,
        publish_will: bool,
        expiry_s: Option<u32>,
        sent_upto: u64,
    },
    Subscribe {
        session: u64,
        epoch: u64,
        filters: Vec<Wanted<'a>>,
    },
    Unsubscribe {
        session: u64,
        epoch: u64,
        filters: Vec<&'a str>,
    },
    Settle {
        session: u64,
        epoch: u64,
        sent_upto: u64,
        ranges: Vec<Settled>,
    },
    Qos2Open {
        session: u64,
        epoch: u64,
        packet_id: u16,
    },
    Qos2Close {
        session: u64,
        epoch: u64,
        packet_id: u16,
    },
    SentUpto {
        session: u64,
        epoch: u64,
        number: u64,
    },
    Trim {
        session: u64,
        number: u64,
    },
    Drop {
        session: u64,
        ranges: Vec<(u64, u32)>,
    },
}

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
        op::SUBSCRIBE => Command::Subscribe {
            session,
            epoch: r.u64()?,
            filters: list(r, |r| {
                Ok(Wanted { options: r.u8()?, identifier: r.u32()?, filter: r.str()? })
            })?,
        },
        op::UNSUBSCRIBE => {
            Command::Unsubscribe { session, epoch: r.u64()?, filters: list(r, Reader::str)? }
        }
        op::SETTLE => Command::Settle {
            session,
            epoch: r.u64()?,
            sent_upto: r.u64()?,
            ranges: list(r, |r| {
                Ok(Settled { first: r.u64()?, count: r.u32()?, received: r.u8()? == 2 })
            })?,
        },
        op::QOS2_OPEN => Command::Qos2Open { session, epoch: r.u64()?, packet_id: r.u16()? },
        op::QOS2_CLOSE => Command::Qos2Close { session, epoch: r.u64()?, packet_id: r.u16()? },
        op::SENT_UPTO => Command::SentUpto { session, epoch: r.u64()?, number: r.u64()? },
        op::TRIM => Command::Trim { session, number: r.u64()? },
        op::DROP => Command::Drop { session, ranges: list(r, |r| Ok((r.u64()?, r.u32()?)))? },
        _ => return Err(WireError("unknown operation")),
    })
}

fn list<'a, T>(
    r: &mut Reader<'a>,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let n = r.u16()?;
    // No room is made for what the bytes do not hold.
    (0..n).map(|_| one(r)).collect()
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
            Self::OwedDone { id } => (op::OWED_DONE, *id),
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
                out.put_u16(filters.len() as u16);
                for wanted in filters {
                    out.put_u8(wanted.options);
                    out.put_u32(wanted.identifier);
                    out.put_str(wanted.filter);
                }
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
            _ => unreachable!("encoded by encode_attrs"),
        }
    }
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

#[cfg(test)]
mod tests;
