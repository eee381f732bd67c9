//! Properties of a PUBLISH to and from the message head that all protocols share (design §7).

use fluxmq_proto::message::{Field, Head, HeadWriter};
use mqtt_codec::encode::property;
use mqtt_codec::{Properties, PropertyId, Value};

/// Appends the head of a message published with `properties`; nothing when there is nothing to keep.
pub(crate) fn to_head(properties: &Properties<'_>, out: &mut Vec<u8>) {
    if properties.is_empty() {
        return;
    }
    let mut head = HeadWriter::new(out);
    for (id, value) in properties.iter() {
        match (id, value) {
            (PropertyId::PAYLOAD_FORMAT, Value::Number(n)) => head.payload_format(n == 1),
            (PropertyId::CONTENT_TYPE, Value::Text(t)) => head.field(Field::ContentType(t)),
            (PropertyId::RESPONSE_TOPIC, Value::Text(t)) => head.field(Field::ReplyTo(t)),
            (PropertyId::CORRELATION_DATA, Value::Binary(b)) => head.field(Field::CorrelationId(b)),
            (PropertyId::USER_PROPERTY, Value::Pair(k, v)) => head.field(Field::UserProperty(k, v)),
            // Alias and expiry belong to the hop, not to the message.
            _ => {}
        }
    }
    head.finish();
}

/// Appends the MQTT 5 properties of a message head.
pub(crate) fn from_head(head: &[u8], out: &mut Vec<u8>) {
    let Some(head) = Head::read(head) else { return };
    if let Some(utf8) = head.payload_format() {
        property(out, PropertyId::PAYLOAD_FORMAT, Value::Number(u32::from(utf8)));
    }
    for field in head.fields() {
        let (id, value) = match field {
            Field::ContentType(t) => (PropertyId::CONTENT_TYPE, Value::Text(t)),
            Field::ReplyTo(t) => (PropertyId::RESPONSE_TOPIC, Value::Text(t)),
            Field::CorrelationId(b) => (PropertyId::CORRELATION_DATA, Value::Binary(b)),
            Field::UserProperty(k, v) => (PropertyId::USER_PROPERTY, Value::Pair(k, v)),
            _ => continue,
        };
        property(out, id, value);
    }
}

/// Appends the subscription identifiers that matched (MQTT-3.3.4-3 to -5).
pub(crate) fn put_identifiers(identifiers: &[u32], out: &mut Vec<u8>) {
    for id in identifiers {
        property(out, PropertyId::SUBSCRIPTION_ID, Value::Number(*id));
    }
}

/// User properties, in the order given.
pub(crate) fn user<'a>(all: &Properties<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    all.iter().filter_map(|(_, value)| match value {
        Value::Pair(name, value) => Some((name, value)),
        _ => None,
    })
}

/// Appends a user property.
pub(crate) fn put_user(name: &str, value: &str, out: &mut Vec<u8>) {
    property(out, PropertyId::USER_PROPERTY, Value::Pair(name, value));
}

/// Seconds a message lives, as its publisher said.
pub(crate) fn expiry_s(properties: &Properties<'_>) -> Option<u32> {
    if properties.is_empty() { None } else { properties.number(PropertyId::MESSAGE_EXPIRY) }
}

/// Appends the time that is left, rounded up to whole seconds (MQTT-3.3.2-6).
pub(crate) fn put_expiry(left_ms: u64, out: &mut Vec<u8>) {
    let left_s = u32::try_from(left_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
    property(out, PropertyId::MESSAGE_EXPIRY, Value::Number(left_s));
}
