//! Properties (MQTT 5 §2.2.2): checked once, read from the bytes where they stand.

use crate::error::{DecodeError, Defect};
use crate::wire::Reader;

/// Identifiers of properties (MQTT 5 table 2-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyId(pub u8);

macro_rules! properties {
    ($($name:ident = $id:literal $kind:ident in $($packet:ident)|+,)+) => {
        #[allow(missing_docs)] // the names are those of MQTT 5 table 2-4
        impl PropertyId { $(pub const $name: Self = Self($id);)+ }

        /// The type of a property's value and the packets it may stand in.
        fn rule(id: u8) -> Option<(Kind, u32)> {
            match id { $($id => Some((Kind::$kind, 0 $(| Place::$packet as u32)+)),)+ _ => None }
        }
    };
}

#[derive(Clone, Copy)]
enum Kind {
    Byte,
    Two,
    Four,
    Var,
    Text,
    Binary,
    Pair,
}

/// Where a set of properties stands; one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Place {
    Connect = 1,
    Will = 2,
    Publish = 4,
    Ack = 8,
    Subscribe = 16,
    Unsubscribe = 32,
    Disconnect = 64,
    Auth = 128,
    Connack = 256,
    /// DISCONNECT from a server: no session expiry (MQTT-3.14.2-2), but a server reference.
    ServerDisconnect = 512,
}

properties! {
    PAYLOAD_FORMAT = 0x01 Byte in Publish | Will,
    MESSAGE_EXPIRY = 0x02 Four in Publish | Will,
    CONTENT_TYPE = 0x03 Text in Publish | Will,
    RESPONSE_TOPIC = 0x08 Text in Publish | Will,
    CORRELATION_DATA = 0x09 Binary in Publish | Will,
    SUBSCRIPTION_ID = 0x0B Var in Publish | Subscribe,
    SESSION_EXPIRY = 0x11 Four in Connect | Connack | Disconnect,
    ASSIGNED_CLIENT_ID = 0x12 Text in Connack,
    SERVER_KEEP_ALIVE = 0x13 Two in Connack,
    AUTH_METHOD = 0x15 Text in Connect | Connack | Auth,
    AUTH_DATA = 0x16 Binary in Connect | Connack | Auth,
    REQUEST_PROBLEM_INFO = 0x17 Byte in Connect,
    WILL_DELAY = 0x18 Four in Will,
    REQUEST_RESPONSE_INFO = 0x19 Byte in Connect,
    RESPONSE_INFO = 0x1A Text in Connack,
    SERVER_REFERENCE = 0x1C Text in Connack | ServerDisconnect,
    REASON_STRING = 0x1F Text in Connack | Ack | Disconnect | ServerDisconnect | Auth,
    RECEIVE_MAXIMUM = 0x21 Two in Connect | Connack,
    TOPIC_ALIAS_MAXIMUM = 0x22 Two in Connect | Connack,
    TOPIC_ALIAS = 0x23 Two in Publish,
    MAXIMUM_QOS = 0x24 Byte in Connack,
    RETAIN_AVAILABLE = 0x25 Byte in Connack,
    USER_PROPERTY = 0x26 Pair in Connect | Connack | Will | Publish | Ack | Subscribe | Unsubscribe | Disconnect | ServerDisconnect | Auth,
    MAXIMUM_PACKET_SIZE = 0x27 Four in Connect | Connack,
    WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28 Byte in Connack,
    SUBSCRIPTION_IDS_AVAILABLE = 0x29 Byte in Connack,
    SHARED_SUBSCRIPTION_AVAILABLE = 0x2A Byte in Connack,
}

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A byte, two or four byte integer, or variable byte integer.
    Number(u32),
    /// A UTF-8 string.
    Text(&'a str),
    /// Binary data.
    Binary(&'a [u8]),
    /// A pair of strings (user property).
    Pair(&'a str, &'a str),
}

/// Checked properties, still as bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    bytes: &'a [u8],
    /// One bit for each identifier that is there: asking for one that is not costs no reading.
    seen: u64,
}

// === impl PropertyId ===

impl PropertyId {
    /// Its place in a set; identifiers end at 0x2A.
    const fn bit(self) -> u64 {
        if self.0 < 64 { 1 << self.0 } else { 0 }
    }
}

// === impl Properties ===

impl<'a> Properties<'a> {
    /// Reads the length and the properties, and checks each: known, allowed at `place`, not twice
    /// (but user properties, and subscription identifiers of a PUBLISH), its value in range.
    pub(crate) fn read(reader: &mut Reader<'a>, place: Place) -> Result<Self, DecodeError> {
        let len = reader.var_int()?;
        if len == 0 {
            return Ok(Self::default());
        }
        let bytes = reader.take(len as usize)?;
        let mut inner = Reader::new(bytes);
        let mut seen = 0u64;
        while !inner.is_empty() {
            let (id, value) = read_one(&mut inner, place)?;
            let bit = id.bit();
            let repeatable = id == PropertyId::USER_PROPERTY
                || (id == PropertyId::SUBSCRIPTION_ID && place == Place::Publish);
            if seen & bit != 0 && !repeatable {
                return Err(DecodeError::protocol("property stands twice"));
            }
            seen |= bit;
            check_value(id, value)?;
        }
        Ok(Self { bytes, seen })
    }

    /// The properties as bytes, without their length.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The properties in their order.
    pub fn iter(&self) -> impl Iterator<Item = (PropertyId, Value<'a>)> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        // They were checked when they were read: an error cannot come, and would end the iteration.
        std::iter::from_fn(
            move || {
                if reader.is_empty() { None } else { read_any(&mut reader).ok() }
            },
        )
    }

    /// A property with `id` is there.
    #[inline]
    #[must_use]
    pub fn has(&self, id: PropertyId) -> bool {
        self.seen & id.bit() != 0
    }

    /// The first value with `id`; identifiers that are absent are not searched for.
    #[inline]
    fn value(&self, id: PropertyId) -> Option<Value<'a>> {
        if !self.has(id) {
            return None;
        }
        self.iter().find_map(|(i, v)| (i == id).then_some(v))
    }

    /// The number with `id`, if it is there.
    #[must_use]
    pub fn number(&self, id: PropertyId) -> Option<u32> {
        if let Value::Number(n) = self.value(id)? { Some(n) } else { None }
    }

    /// The string with `id`, if it is there.
    #[must_use]
    pub fn text(&self, id: PropertyId) -> Option<&'a str> {
        if let Value::Text(t) = self.value(id)? { Some(t) } else { None }
    }

    /// The binary data with `id`, if it is there.
    #[must_use]
    pub fn binary(&self, id: PropertyId) -> Option<&'a [u8]> {
        if let Value::Binary(b) = self.value(id)? { Some(b) } else { None }
    }
}

/// Reads a property that must be allowed at `place`.
#[inline]
fn read_one<'a>(
    reader: &mut Reader<'a>,
    place: Place,
) -> Result<(PropertyId, Value<'a>), DecodeError> {
    let (id, kind, places) = read_id(reader)?;
    if places & place as u32 == 0 {
        // MQTT 5 §2.2.2.2 calls it malformed, not a protocol error.
        return Err(DecodeError::malformed("property is not allowed in this packet"));
    }
    Ok((id, read_value(reader, kind)?))
}

fn read_any<'a>(reader: &mut Reader<'a>) -> Result<(PropertyId, Value<'a>), DecodeError> {
    let (id, kind, _) = read_id(reader)?;
    Ok((id, read_value(reader, kind)?))
}

/// An identifier is a variable byte integer, but all there are take one byte.
#[inline]
fn read_id(reader: &mut Reader<'_>) -> Result<(PropertyId, Kind, u32), DecodeError> {
    let id = reader.u8()?;
    let (kind, places) = rule(id).ok_or(DecodeError::malformed("unknown property"))?;
    Ok((PropertyId(id), kind, places))
}

#[inline]
fn read_value<'a>(reader: &mut Reader<'a>, kind: Kind) -> Result<Value<'a>, DecodeError> {
    Ok(match kind {
        Kind::Byte => Value::Number(reader.u8()?.into()),
        Kind::Two => Value::Number(reader.u16()?.into()),
        Kind::Four => Value::Number(reader.u32()?),
        Kind::Var => Value::Number(reader.var_int()?),
        Kind::Text => Value::Text(reader.string()?),
        Kind::Binary => Value::Binary(reader.binary()?),
        Kind::Pair => Value::Pair(reader.string()?, reader.string()?),
    })
}

fn check_value(id: PropertyId, value: Value<'_>) -> Result<(), DecodeError> {
    match (id, value) {
        (PropertyId::TOPIC_ALIAS, Value::Number(0)) => {
            Err(DecodeError::new(Defect::TopicAlias, "topic alias is 0"))
        }
        (
            PropertyId::RECEIVE_MAXIMUM
            | PropertyId::MAXIMUM_PACKET_SIZE
            | PropertyId::SUBSCRIPTION_ID,
            Value::Number(0),
        ) => Err(DecodeError::protocol("property must not be 0")),
        (
            PropertyId::PAYLOAD_FORMAT
            | PropertyId::REQUEST_PROBLEM_INFO
            | PropertyId::REQUEST_RESPONSE_INFO
            | PropertyId::MAXIMUM_QOS
            | PropertyId::RETAIN_AVAILABLE
            | PropertyId::WILDCARD_SUBSCRIPTION_AVAILABLE
            | PropertyId::SUBSCRIPTION_IDS_AVAILABLE
            | PropertyId::SHARED_SUBSCRIPTION_AVAILABLE,
            Value::Number(2..),
        ) => Err(DecodeError::protocol("property must be 0 or 1")),
        (PropertyId::RESPONSE_TOPIC, Value::Text(topic)) => {
            crate::topic::validate_topic(topic).map_err(|_| {
                DecodeError::protocol("response topic is not a topic name") // MQTT-3.3.2-14
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], place: Place) -> Result<Properties<'_>, Defect> {
        let mut reader = Reader::new(bytes);
        let read = Properties::read(&mut reader, place).map_err(|e| e.defect)?;
        reader.end().map_err(|e| e.defect)?;
        Ok(read)
    }

    #[test]
    fn values_come_back_in_their_order() {
        let bytes = [16, 0x26, 0, 1, b'a', 0, 1, b'b', 0x23, 0, 9, 0x26, 0, 1, b'a', 0, 0];
        let properties = read(&bytes, Place::Publish).expect("well-formed");
        assert_eq!(properties.number(PropertyId::TOPIC_ALIAS), Some(9));
        let users: Vec<_> =
            properties.iter().filter(|(id, _)| *id == PropertyId::USER_PROPERTY).collect();
        assert_eq!(users[0].1, Value::Pair("a", "b"));
        assert_eq!(users[1].1, Value::Pair("a", ""));
    }

    #[test]
    fn rules_are_kept() {
        for (bytes, place, want) in [
            (&[3, 0x23, 0, 0][..], Place::Publish, Defect::TopicAlias),
            (&[6, 0x23, 0, 1, 0x23, 0, 1], Place::Publish, Defect::Protocol), // twice
            (&[3, 0x23, 0, 1], Place::Connect, Defect::Malformed), // wrong packet, §2.2.2.2
            (&[2, 0x7E, 0], Place::Publish, Defect::Malformed),    // unknown
            (&[2, 0x01, 2], Place::Publish, Defect::Protocol),     // not a boolean
            (&[3, 0x21, 0, 0], Place::Connect, Defect::Protocol),
            (&[5, 0x27, 0, 0, 0, 0], Place::Connect, Defect::Protocol),
            (&[2, 0x0B, 0], Place::Subscribe, Defect::Protocol),
            (&[4, 0x03, 0, 9, b'a'], Place::Publish, Defect::Malformed), // cut short
            (&[4, 0x08, 0, 1, b'#'], Place::Publish, Defect::Protocol),
            (&[9, 0x01], Place::Publish, Defect::Malformed),
        ] {
            assert_eq!(read(bytes, place), Err(want), "{bytes:x?}");
        }
    }
}
