//! Any packet behind CONNECT.

use crate::ack::Acknowledgement;
use crate::connect::Connect;
use crate::disconnect::{Auth, Disconnect};
use crate::error::DecodeError;
use crate::frame::FixedHeader;
use crate::publish::Publish;
use crate::subscribe::{Subscribe, Unsubscribe};
use crate::{Version, frame};

/// Types of control packets (MQTT 5 §2.1.2).
#[allow(missing_docs)] // the names are the standard's
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

// === impl PacketType ===

impl PacketType {
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        use PacketType as T;
        const ALL: [PacketType; 15] = [
            T::Connect,
            T::Connack,
            T::Publish,
            T::Puback,
            T::Pubrec,
            T::Pubrel,
            T::Pubcomp,
            T::Subscribe,
            T::Suback,
            T::Unsubscribe,
            T::Unsuback,
            T::Pingreq,
            T::Pingresp,
            T::Disconnect,
            T::Auth,
        ];
        ALL.get(usize::from(bits).checked_sub(1)?).copied()
    }

    /// The flag bits every packet of this type has (MQTT-2.1.3-1).
    pub(crate) fn flags(self) -> u8 {
        match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }
}

/// A packet from a client. Those that only a server sends are [`ServerPacket`](crate::ServerPacket)s.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the standard's
pub enum Packet<'a> {
    Connect(Box<Connect<'a>>),
    Publish(Publish<'a>),
    Puback(Acknowledgement<'a>),
    Pubrec(Acknowledgement<'a>),
    Pubrel(Acknowledgement<'a>),
    Pubcomp(Acknowledgement<'a>),
    Subscribe(Subscribe<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Pingreq,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
    /// CONNACK, SUBACK, UNSUBACK or PINGRESP: a client must not send it.
    FromServer(PacketType),
}

// === impl Packet ===

impl<'a> Packet<'a> {
    /// Decodes the one packet that `bytes` holds, as sent by a client of `version`.
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
        Ok(match header.packet_type {
            T::Publish => Self::Publish(Publish::decode(header.flags, body, version)?),
            T::Puback => Self::Puback(Acknowledgement::decode(T::Puback, body, version)?),
            T::Pubrec => Self::Pubrec(Acknowledgement::decode(T::Pubrec, body, version)?),
            T::Pubrel => Self::Pubrel(Acknowledgement::decode(T::Pubrel, body, version)?),
            T::Pubcomp => Self::Pubcomp(Acknowledgement::decode(T::Pubcomp, body, version)?),
            T::Subscribe => Self::Subscribe(Subscribe::decode(body, version)?),
            T::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(body, version)?),
            T::Pingreq if body.is_empty() => Self::Pingreq,
            T::Pingreq => return Err(DecodeError::malformed("pingreq with a body")),
            T::Disconnect => Self::Disconnect(Disconnect::decode(body, version)?),
            T::Auth if version == Version::V5 => Self::Auth(Auth::decode(body)?),
            T::Auth => {
                return Err(DecodeError::malformed("packet type 15 is reserved before 5.0"));
            }
            T::Connect => Self::Connect(Box::new(Connect::decode_body(body)?)),
            other => Self::FromServer(other),
        })
    }
}
