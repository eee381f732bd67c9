//! DISCONNECT and AUTH (MQTT 5 §3.14, §3.15).

use crate::error::DecodeError;
use crate::properties::{Place, Properties};
use crate::wire::Reader;
use crate::{PropertyId, ReasonCode, Version};

/// A DISCONNECT from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// 0x00 before 5.0.
    pub reason: ReasonCode,
    /// Session expiry, reason string, user properties.
    pub properties: Properties<'a>,
}

/// An AUTH from a client.
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
