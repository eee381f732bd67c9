//! DISCONNECT and AUTH (MQTT 5 §3.14, §3.15), from either side.

use crate::error::DecodeError;
use crate::properties::{Place, Properties};
use crate::wire::Reader;
use crate::{PropertyId, ReasonCode, Version};

/// A DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// 0x00 before 5.0.
    pub reason: ReasonCode,
    /// Reason string, user properties; session expiry from a client, server reference from a server.
    pub properties: Properties<'a>,
}

/// An AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// 0x00, 0x18 or 0x19.
    pub reason: ReasonCode,
    /// Method, data, reason string, user properties.
    pub properties: Properties<'a>,
}

// === impl Disconnect ===

impl<'a> Disconnect<'a> {
    pub(crate) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        if version < Version::V5 && !body.is_empty() {
            return Err(DecodeError::malformed("disconnect with a body"));
        }
        let (reason, properties) = read(body, Place::Disconnect)?;
        // What a client may say: MQTT 5 table 3-10, column "sent by".
        let allowed = matches!(reason.0, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99);
        if !allowed {
            return Err(DecodeError::protocol("reason code does not belong to this packet"));
        }
        Ok(Self { reason, properties })
    }

    /// From a server; there is none before 5.0.
    pub(crate) fn decode_from_server(
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        if version < Version::V5 {
            return Err(DecodeError::protocol("a server sends no disconnect before 5.0"));
        }
        let (reason, properties) = read(body, Place::ServerDisconnect)?;
        let allowed =
            matches!(reason.0, 0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2);
        if !allowed {
            return Err(DecodeError::protocol("reason code does not belong to this packet"));
        }
        Ok(Self { reason, properties })
    }

    /// A new session expiry interval in seconds.
    #[must_use]
    pub fn session_expiry_s(&self) -> Option<u32> {
        self.properties.number(PropertyId::SESSION_EXPIRY)
    }
}

// === impl Auth ===

impl<'a> Auth<'a> {
    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let (reason, properties) = read(body, Place::Auth)?;
        if !matches!(reason.0, 0x00 | 0x18 | 0x19) {
            return Err(DecodeError::protocol("reason code does not belong to this packet"));
        }
        if properties.has(PropertyId::AUTH_DATA) && !properties.has(PropertyId::AUTH_METHOD) {
            return Err(DecodeError::protocol("authentication data without a method"));
        }
        Ok(Self { reason, properties })
    }
}

fn read(body: &[u8], place: Place) -> Result<(ReasonCode, Properties<'_>), DecodeError> {
    let mut reader = Reader::new(body);
    if reader.is_empty() {
        return Ok((ReasonCode::SUCCESS, Properties::default()));
    }
    let reason = ReasonCode(reader.u8()?);
    let properties = if reader.is_empty() {
        Properties::default()
    } else {
        Properties::read(&mut reader, place)?
    };
    reader.end()?;
    Ok((reason, properties))
}
