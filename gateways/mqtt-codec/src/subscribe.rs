//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5 §3.8, §3.10).

use crate::error::{DecodeError, Defect};
use crate::properties::{Place, Properties};
use crate::topic::{shared, validate_filter};
use crate::wire::Reader;
use crate::{QoS, Version};

/// Options of a subscription (MQTT 5 §3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Highest QoS asked for.
    pub qos: QoS,
    /// Own publishes are not sent back.
    pub no_local: bool,
    /// The retain flag is kept.
    pub retain_as_published: bool,
    /// 0 send retained messages, 1 only if the subscription is new, 2 do not.
    pub retain_handling: u8,
}

/// A SUBSCRIBE; its filters are read from where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Never 0.
    pub packet_id: u16,
    /// Properties; none before 5.0.
    pub properties: Properties<'a>,
    list: &'a [u8],
}

/// An UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Never 0.
    pub packet_id: u16,
    /// Properties; none before 5.0.
    pub properties: Properties<'a>,
    list: &'a [u8],
}

// === impl SubscribeOptions ===

impl SubscribeOptions {
    /// The options byte as it stands in a SUBSCRIBE; before 5.0 the QoS is all there is.
    #[must_use]
    pub fn byte(self) -> u8 {
        self.qos as u8
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling & 3) << 4
    }
}

// === impl Subscribe ===

impl<'a> Subscribe<'a> {
    pub(crate) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let (packet_id, properties, list) = read_head(body, version, Place::Subscribe)?;
        let mut reader = Reader::new(list);
        while !reader.is_empty() {
            let filter = read_filter(&mut reader)?;
            let options = read_options(reader.u8()?, version)?;
            if options.no_local && shared(filter).is_some() {
                return Err(DecodeError::protocol("no local on a shared subscription"));
            }
        }
        Ok(Self { packet_id, properties, list })
    }

    /// The filters and what is asked for with each.
    pub fn filters(&self) -> impl Iterator<Item = (&'a str, SubscribeOptions)> + use<'a> {
        let mut reader = Reader::new(self.list);
        // All were checked by `decode`.
        std::iter::from_fn(move || {
            let filter = reader.string().ok()?;
            let options = read_options(reader.u8().ok()?, Version::V5).ok()?;
            Some((filter, options))
        })
    }
}

// === impl Unsubscribe ===

impl<'a> Unsubscribe<'a> {
    pub(crate) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let (packet_id, properties, list) = read_head(body, version, Place::Unsubscribe)?;
        let mut reader = Reader::new(list);
        while !reader.is_empty() {
            read_filter(&mut reader)?;
        }
        Ok(Self { packet_id, properties, list })
    }

    /// The filters.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.list);
        std::iter::from_fn(move || reader.string().ok())
    }
}

type Head<'a> = (u16, Properties<'a>, &'a [u8]);

fn read_head(body: &[u8], version: Version, place: Place) -> Result<Head<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let properties = if version == Version::V5 {
        Properties::read(&mut reader, place)?
    } else {
        Properties::default()
    };
    if reader.is_empty() {
        return Err(DecodeError::protocol("no topic filter")); // MQTT-3.8.3-2, 3.10.3-2
    }
    Ok((packet_id, properties, reader.rest()))
}

fn read_filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let filter = reader.string()?;
    validate_filter(filter).map_err(|e| DecodeError::new(Defect::TopicFilter, e.0))?;
    Ok(filter)
}

fn read_options(byte: u8, version: Version) -> Result<SubscribeOptions, DecodeError> {
    let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
    if byte & reserved != 0 {
        return Err(DecodeError::malformed("reserved subscription options are set"));
    }
    let qos = QoS::from_bits(byte & 3).ok_or(DecodeError::malformed("qos 3 does not exist"))?;
    let retain_handling = (byte >> 4) & 3;
    if retain_handling == 3 {
        return Err(DecodeError::protocol("retain handling 3 does not exist"));
    }
    Ok(SubscribeOptions {
        qos,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        retain_handling,
    })
}
