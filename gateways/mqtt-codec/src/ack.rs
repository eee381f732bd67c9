//! PUBACK, PUBREC, PUBREL, PUBCOMP (MQTT 5 §3.4–3.7).

use crate::error::DecodeError;
use crate::packet::PacketType;
use crate::properties::{Place, Properties};
use crate::wire::Reader;
use crate::{ReasonCode, Version};

/// One of the four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    /// The id of the PUBLISH, never 0.
    pub packet_id: u16,
    /// Success before 5.0.
    pub reason: ReasonCode,
    /// Reason string and user properties.
    pub properties: Properties<'a>,
}

// === impl Acknowledgement ===

impl<'a> Acknowledgement<'a> {
    #[inline]
    pub(crate) fn decode(
        packet_type: PacketType,
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let mut ack =
            Self { packet_id, reason: ReasonCode::SUCCESS, properties: Properties::default() };
        if reader.is_empty() {
            return Ok(ack);
        }
        if version < Version::V5 {
            return Err(DecodeError::malformed("acknowledgement is longer than two bytes"));
        }
        ack.reason = ReasonCode(reader.u8()?);
        if !allowed(packet_type, ack.reason.0) {
            return Err(DecodeError::protocol("reason code does not belong to this packet"));
        }
        if !reader.is_empty() {
            ack.properties = Properties::read(&mut reader, Place::Ack)?;
        }
        reader.end()?;
        Ok(ack)
    }
}

/// Reason codes of MQTT 5 tables 3-4 to 3-7.
fn allowed(packet_type: PacketType, reason: u8) -> bool {
    match packet_type {
        PacketType::Puback | PacketType::Pubrec => {
            matches!(reason, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        _ => matches!(reason, 0x00 | 0x92),
    }
}
