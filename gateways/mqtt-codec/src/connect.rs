//! CONNECT (MQTT 5 §3.1).

use crate::error::{DecodeError, Defect};
use crate::packet::PacketType;
use crate::properties::{Place, Properties};
use crate::topic::validate_topic;
use crate::wire::Reader;
use crate::{QoS, Version, frame};

/// The will of a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// QoS it is published with.
    pub qos: QoS,
    /// Published as retained.
    pub retain: bool,
    /// Where to.
    pub topic: &'a str,
    /// Will properties; none before 5.0.
    pub properties: Properties<'a>,
    /// Payload.
    pub payload: &'a [u8],
}

/// A CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// What the client speaks from here on.
    pub version: Version,
    /// Clean Start, before 5.0 Clean Session.
    pub clean_start: bool,
    /// Seconds, 0 = none.
    pub keep_alive_s: u16,
    /// Properties; none before 5.0.
    pub properties: Properties<'a>,
    /// May be empty.
    pub client_id: &'a str,
    /// The will.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
}

// === impl Connect ===

impl<'a> Connect<'a> {
    /// Decodes the first packet of a connection.
    ///
    /// # Errors
    /// Any packet but CONNECT (MQTT-3.1.0-1); a protocol that is not spoken here
    /// ([`Defect::UnsupportedVersion`]); whatever breaks the rules of its version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let header = frame::peek(bytes, u32::MAX)?
            .filter(|h| h.total_len() == bytes.len())
            .ok_or(DecodeError::malformed("not one whole packet"))?;
        if header.packet_type != PacketType::Connect {
            return Err(DecodeError::protocol("the first packet is not connect"));
        }
        Self::decode_body(&bytes[header.header_len..])
    }

    pub(crate) fn decode_body(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let version = read_version(&mut reader)?;
        let flags = reader.u8()?;
        if flags & 1 != 0 {
            return Err(DecodeError::malformed("reserved connect flag is set")); // MQTT-3.1.2-3
        }
        let keep_alive_s = reader.u16()?;
        let properties = read_properties(&mut reader, version, Place::Connect)?;
        if properties.has(crate::PropertyId::AUTH_DATA)
            && !properties.has(crate::PropertyId::AUTH_METHOD)
        {
            return Err(DecodeError::protocol("authentication data without a method"));
        }
        let client_id = reader.string()?;
        let will = read_will(&mut reader, flags, version)?;
        let username = if flags & 0x80 != 0 { Some(reader.string()?) } else { None };
        if flags & 0x40 != 0 && username.is_none() && version < Version::V5 {
            return Err(DecodeError::malformed("password without user name")); // 3.1.1: 3.1.2-22
        }
        let password = if flags & 0x40 != 0 { Some(reader.binary()?) } else { None };
        reader.end()?;
        let clean_start = flags & 2 != 0;
        Ok(Self {
            version,
            clean_start,
            keep_alive_s,
            properties,
            client_id,
            will,
            username,
            password,
        })
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    const UNSUPPORTED: DecodeError =
        DecodeError::new(Defect::UnsupportedVersion, "protocol or version is not supported");
    let name = reader.binary()?;
    let level = reader.u8()?;
    match (name, level) {
        (b"MQIsdp", 3) => Ok(Version::V3),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        _ => Err(UNSUPPORTED),
    }
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    place: Place,
) -> Result<Properties<'a>, DecodeError> {
    if version == Version::V5 { Properties::read(reader, place) } else { Ok(Properties::default()) }
}

fn read_will<'a>(
    reader: &mut Reader<'a>,
    flags: u8,
    version: Version,
) -> Result<Option<Will<'a>>, DecodeError> {
    let qos = QoS::from_bits((flags >> 3) & 3)
        .ok_or(DecodeError::malformed("will qos 3 does not exist"))?;
    let retain = flags & 0x20 != 0;
    if flags & 4 == 0 {
        if qos != QoS::AtMostOnce || retain {
            return Err(DecodeError::malformed("will flags without a will")); // MQTT-3.1.2-11, -13
        }
        return Ok(None);
    }
    let properties = read_properties(reader, version, Place::Will)?;
    let topic = reader.string()?;
    validate_topic(topic).map_err(|e| DecodeError::new(Defect::TopicName, e.0))?;
    let payload = reader.binary()?;
    Ok(Some(Will { qos, retain, topic, properties, payload }))
}
