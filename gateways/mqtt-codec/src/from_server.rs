//! What a server sends: CONNACK, SUBACK, UNSUBACK (MQTT 5 §3.2, §3.9, §3.11) and the packets both sides
//! have. For clients: load generators, tests, bridges.

use crate::ack::Acknowledgement;
use crate::disconnect::{Auth, Disconnect};
use crate::error::DecodeError;
use crate::frame::FixedHeader;
use crate::packet::PacketType;
use crate::properties::{Place, Properties};
use crate::publish::Publish;
use crate::wire::Reader;
use crate::{PropertyId, ReasonCode, Version, frame};

/// A CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connack<'a> {
    /// The server goes on with an older session; never with 3.1.
    pub session_present: bool,
    /// Before 5.0 the return code, 0–5, as it stands.
    pub reason: ReasonCode,
    /// Properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// A SUBACK or UNSUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suback<'a> {
    /// The id of the request, never 0.
    pub packet_id: u16,
    /// Reason string and user properties.
    pub properties: Properties<'a>,
    /// One reason code for each filter; none in an UNSUBACK before 5.0.
    pub codes: &'a [u8],
}

/// A packet from a server. Those that only a client sends are [`Packet`](crate::Packet)s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the standard's
pub enum ServerPacket<'a> {
    Connack(Connack<'a>),
    Publish(Publish<'a>),
    Puback(Acknowledgement<'a>),
    Pubrec(Acknowledgement<'a>),
    Pubrel(Acknowledgement<'a>),
    Pubcomp(Acknowledgement<'a>),
    Suback(Suback<'a>),
    Unsuback(Suback<'a>),
    Pingresp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
    /// CONNECT, SUBSCRIBE, UNSUBSCRIBE or PINGREQ: a server must not send it.
    FromClient(PacketType),
}

// === impl Connack ===

impl<'a> Connack<'a> {
    fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (flags, reason) = (reader.u8()?, ReasonCode(reader.u8()?));
        let properties = read_properties(&mut reader, version, Place::Connack)?;
        reader.end()?;
        // 3.1 reserves the whole byte and gives it no value.
        if version > Version::V3 && flags > 1 {
            return Err(DecodeError::malformed("reserved connack flags are set")); // MQTT-3.2.2-1
        }
        if !connack_allowed(version, reason.0) {
            return Err(DecodeError::protocol("reason code does not belong to this packet"));
        }
        let session_present = version > Version::V3 && flags == 1;
        if session_present && reason != ReasonCode::SUCCESS {
            return Err(DecodeError::protocol("session present in a refusal")); // MQTT-3.2.2-6
        }
        if properties.has(PropertyId::AUTH_DATA) && !properties.has(PropertyId::AUTH_METHOD) {
            return Err(DecodeError::protocol("authentication data without a method"));
        }
        Ok(Self { session_present, reason, properties })
    }
}

// === impl Suback ===

impl<'a> Suback<'a> {
    fn decode(
        packet_type: PacketType,
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = read_properties(&mut reader, version, Place::Ack)?;
        let codes = reader.rest();
        let bare = packet_type == PacketType::Unsuback && version < Version::V5;
        if codes.is_empty() != bare {
            return Err(DecodeError::malformed("wrong number of reason codes"));
        }
        if !codes.iter().all(|code| suback_allowed(packet_type, version, *code)) {
            return Err(DecodeError::protocol("reason code does not belong to this packet"));
        }
        Ok(Self { packet_id, properties, codes })
    }
}

// === impl ServerPacket ===

impl<'a> ServerPacket<'a> {
    /// Decodes the one packet that `bytes` holds, as sent by a server to a client of `version`.
    ///
    /// # Errors
    /// Whatever breaks the rules of that version; also bytes too few or too many.
    pub fn decode(bytes: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let header = frame::peek(bytes, u32::MAX)?
            .filter(|h| h.total_len() == bytes.len())
            .ok_or(DecodeError::malformed("not one whole packet"))?;
        Self::decode_body(&header, &bytes[header.header_len..], version)
    }

    /// Decodes a packet whose header was read by [`frame::peek`]; `body` is all behind it.
    ///
    /// # Errors
    /// As [`Self::decode`].
    #[inline]
    pub fn decode_body(
        header: &FixedHeader,
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        use PacketType as T;
        let ack = |packet_type| Acknowledgement::decode(packet_type, body, version);
        Ok(match header.packet_type {
            T::Publish => Self::Publish(Publish::decode_any(header.flags, body, version)?),
            T::Puback => Self::Puback(ack(T::Puback)?),
            T::Pubrec => Self::Pubrec(ack(T::Pubrec)?),
            T::Pubrel => Self::Pubrel(ack(T::Pubrel)?),
            T::Pubcomp => Self::Pubcomp(ack(T::Pubcomp)?),
            T::Connack => Self::Connack(Connack::decode(body, version)?),
            T::Suback => Self::Suback(Suback::decode(T::Suback, body, version)?),
            T::Unsuback => Self::Unsuback(Suback::decode(T::Unsuback, body, version)?),
            T::Pingresp if body.is_empty() => Self::Pingresp,
            T::Pingresp => return Err(DecodeError::malformed("pingresp with a body")),
            T::Disconnect => Self::Disconnect(Disconnect::decode_from_server(body, version)?),
            T::Auth if version == Version::V5 => Self::Auth(Auth::decode(body)?),
            T::Auth => {
                return Err(DecodeError::malformed("packet type 15 is reserved before 5.0"));
            }
            other => Self::FromClient(other),
        })
    }
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    place: Place,
) -> Result<Properties<'a>, DecodeError> {
    if version == Version::V5 { Properties::read(reader, place) } else { Ok(Properties::default()) }
}

/// Reason codes of MQTT 5 table 3-1; return codes of 3.1.1 table 3.1.
fn connack_allowed(version: Version, code: u8) -> bool {
    match version {
        Version::V5 => matches!(
            code,
            0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
        ),
        _ => code <= 5,
    }
}

/// Reason codes of MQTT 5 tables 3-8 and 3-9; return codes of 3.1.1 §3.9.3.
fn suback_allowed(packet_type: PacketType, version: Version, code: u8) -> bool {
    match (packet_type, version) {
        (PacketType::Suback, Version::V5) => {
            matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
        }
        (PacketType::Suback, _) => matches!(code, 0..=2 | 0x80),
        _ => matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
    }
}
