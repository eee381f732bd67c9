//! PUBLISH (MQTT 5 §3.3).

use crate::error::{DecodeError, Defect};
use crate::properties::{Place, Properties, PropertyId};
use crate::topic::validate_topic;
use crate::wire::Reader;
use crate::{QoS, Version};

/// A PUBLISH, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The sender may have sent it before.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name; empty where an alias stands for it.
    pub topic: &'a str,
    /// 0 with QoS 0, never 0 otherwise.
    pub packet_id: u16,
    /// Properties; none before 5.0.
    pub properties: Properties<'a>,
    /// Payload.
    pub payload: &'a [u8],
}

// === impl Publish ===

impl<'a> Publish<'a> {
    /// Decodes what stands behind the fixed header with `flags`.
    #[inline]
    pub(crate) fn decode(flags: u8, body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let publish = Self::decode_any(flags, body, version)?;
        // Only a server sends subscription identifiers (MQTT-3.3.4-6).
        if publish.properties.has(PropertyId::SUBSCRIPTION_ID) {
            return Err(DecodeError::protocol("a client sent a subscription identifier"));
        }
        Ok(publish)
    }

    /// As `decode`, but from either side.
    #[inline]
    pub(crate) fn decode_any(
        flags: u8,
        body: &'a [u8],
        version: Version,
    ) -> Result<Self, DecodeError> {
        let qos = QoS::from_bits((flags >> 1) & 3)
            .ok_or(DecodeError::malformed("qos 3 does not exist"))?;
        let dup = flags & 8 != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::malformed("dup flag with qos 0")); // MQTT-3.3.1-2
        }
        let mut reader = Reader::new(body);
        let topic = reader.string()?;
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
        let properties = if version == Version::V5 {
            Properties::read(&mut reader, Place::Publish)?
        } else {
            Properties::default()
        };
        if topic.is_empty() {
            if version < Version::V5 {
                return Err(DecodeError::new(Defect::TopicName, "topic name is empty"));
            }
            if !properties.has(PropertyId::TOPIC_ALIAS) {
                return Err(DecodeError::protocol("neither topic name nor topic alias"));
            }
        } else {
            validate_topic(topic).map_err(|e| DecodeError::new(Defect::TopicName, e.0))?;
        }
        let payload = reader.rest();
        Ok(Self { dup, qos, retain: flags & 1 != 0, topic, packet_id, properties, payload })
    }
}
