//! Packets to bytes, appended to a `Vec<u8>`.
//!
//! Properties are given as bytes without their length, written by [`property`]. Strings and binary
//! data are cut at 65,535 bytes, strings between characters: what is written is always well-formed. The
//! caller keeps packets below the peer's maximum packet size, and so below the 256 MiB of the protocol;
//! [`PublishFrame::fits`] and [`PublishFrame::packet_len`] tell before anything is written.

use crate::connect::{Connect, Will};
use crate::packet::PacketType;
use crate::properties::{Properties, PropertyId, Value};
use crate::wire::{VAR_INT_MAX, cut, put_binary, put_string, put_var_int, var_int_len};
use crate::{QoS, ReasonCode, Version};

/// A PUBLISH to be written.
#[derive(Clone, Copy, Debug)]
pub struct PublishFrame<'a> {
    /// The receiver may have got it before.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name.
    pub topic: &'a str,
    /// Not written with QoS 0.
    pub packet_id: u16,
    /// Encoded properties without their length; not written before 5.0.
    pub properties: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

// === impl PublishFrame ===

impl PublishFrame<'_> {
    fn remaining_len(&self, version: Version) -> usize {
        let id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = if version == Version::V5 {
            var_int_len(self.properties.len()) + self.properties.len()
        } else {
            0
        };
        2 + cut(self.topic).len() + id + properties + self.payload.len()
    }

    /// Whether it can be written as it is: a topic of at most 65,535 bytes (MQTT-4.7.3-3), a packet
    /// within 256 MiB.
    #[must_use]
    pub fn fits(&self, version: Version) -> bool {
        self.topic.len() <= usize::from(u16::MAX)
            && self.remaining_len(version) <= VAR_INT_MAX as usize
    }

    /// Bytes the whole packet takes.
    #[must_use]
    pub fn packet_len(&self, version: Version) -> usize {
        let remaining = self.remaining_len(version);
        1 + var_int_len(remaining) + remaining
    }

    /// Appends the packet; returns where, counted from the packet's first byte, its packet id stands
    /// (0 with QoS 0).
    #[inline]
    pub fn write(&self, out: &mut Vec<u8>, version: Version) -> usize {
        let start = out.len();
        let remaining = self.remaining_len(version);
        out.reserve(remaining + 5);
        let flags = u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain);
        out.push((PacketType::Publish as u8) << 4 | flags);
        put_var_int(out, remaining);
        put_string(out, self.topic);
        let mut id_at = 0;
        if self.qos != QoS::AtMostOnce {
            id_at = out.len() - start;
            out.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if version == Version::V5 {
            put_var_int(out, self.properties.len());
            out.extend_from_slice(self.properties);
        }
        out.extend_from_slice(self.payload);
        id_at
    }
}

/// Appends one property.
pub fn property(out: &mut Vec<u8>, id: PropertyId, value: Value<'_>) {
    out.push(id.0);
    match value {
        Value::Number(n) => number(out, id, n),
        Value::Text(text) => put_string(out, text),
        Value::Binary(bytes) => put_binary(out, bytes),
        Value::Pair(name, value) => {
            put_string(out, name);
            put_string(out, value);
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // the property's type says how many bytes it has
fn number(out: &mut Vec<u8>, id: PropertyId, n: u32) {
    match id {
        PropertyId::SUBSCRIPTION_ID => put_var_int(out, n.min(VAR_INT_MAX) as usize),
        PropertyId::SERVER_KEEP_ALIVE
        | PropertyId::RECEIVE_MAXIMUM
        | PropertyId::TOPIC_ALIAS_MAXIMUM
        | PropertyId::TOPIC_ALIAS => out.extend_from_slice(&(n as u16).to_be_bytes()),
        PropertyId::MESSAGE_EXPIRY
        | PropertyId::SESSION_EXPIRY
        | PropertyId::WILL_DELAY
        | PropertyId::MAXIMUM_PACKET_SIZE => out.extend_from_slice(&n.to_be_bytes()),
        _ => out.push(n as u8),
    }
}

fn head(out: &mut Vec<u8>, packet_type: PacketType, remaining: usize) {
    out.push((packet_type as u8) << 4 | packet_type.flags());
    put_var_int(out, remaining);
}

fn properties_len(version: Version, properties: &[u8]) -> usize {
    if version == Version::V5 { var_int_len(properties.len()) + properties.len() } else { 0 }
}

fn put_properties(out: &mut Vec<u8>, version: Version, properties: &[u8]) {
    if version == Version::V5 {
        put_var_int(out, properties.len());
        out.extend_from_slice(properties);
    }
}

/// CONNACK (§3.2). Before 5.0 the reason becomes the nearest return code; session present is not known
/// to 3.1.
pub fn connack(
    out: &mut Vec<u8>,
    version: Version,
    session_present: bool,
    reason: ReasonCode,
    properties: &[u8],
) {
    head(out, PacketType::Connack, 2 + properties_len(version, properties));
    out.push(u8::from(session_present && !reason.is_failure() && version > Version::V3));
    out.push(if version == Version::V5 { reason.0 } else { reason.connack_v311() });
    put_properties(out, version, properties);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4–3.7) without properties.
#[inline]
pub fn acknowledgement(
    out: &mut Vec<u8>,
    version: Version,
    packet_type: PacketType,
    packet_id: u16,
    reason: ReasonCode,
) {
    let [high, low] = packet_id.to_be_bytes();
    let first = (packet_type as u8) << 4 | packet_type.flags();
    if version == Version::V5 && reason != ReasonCode::SUCCESS {
        out.extend_from_slice(&[first, 3, high, low, reason.0]);
    } else {
        out.extend_from_slice(&[first, 2, high, low]);
    }
}

/// As [`acknowledgement`], with a reason string where 5.0 allows one and the packet stays within
/// `packet_bytes_max` (MQTT-3.4.2-2).
pub fn refusal(
    out: &mut Vec<u8>,
    version: Version,
    packet_type: PacketType,
    packet_id: u16,
    reason: ReasonCode,
    text: &str,
    packet_bytes_max: u32,
) {
    let mut properties = Vec::new();
    property(&mut properties, PropertyId::REASON_STRING, Value::Text(text));
    let remaining = 3 + var_int_len(properties.len()) + properties.len();
    if version < Version::V5 || 1 + var_int_len(remaining) + remaining > packet_bytes_max as usize {
        return acknowledgement(out, version, packet_type, packet_id, reason);
    }
    head(out, packet_type, remaining);
    out.extend_from_slice(&packet_id.to_be_bytes());
    out.push(reason.0);
    put_properties(out, version, &properties);
}

/// SUBACK (§3.9). Before 5.0 every failure is 0x80.
pub fn suback(out: &mut Vec<u8>, version: Version, packet_id: u16, codes: &[u8]) {
    head(out, PacketType::Suback, 2 + properties_len(version, &[]) + codes.len());
    out.extend_from_slice(&packet_id.to_be_bytes());
    put_properties(out, version, &[]);
    let code = |c: &u8| {
        if version < Version::V5 && *c >= 0x80 { 0x80 } else { *c }
    };
    out.extend(codes.iter().map(code));
}

/// UNSUBACK (§3.11); the codes are not written before 5.0.
pub fn unsuback(out: &mut Vec<u8>, version: Version, packet_id: u16, codes: &[u8]) {
    let codes = if version == Version::V5 { codes } else { &[] };
    head(out, PacketType::Unsuback, 2 + properties_len(version, &[]) + codes.len());
    out.extend_from_slice(&packet_id.to_be_bytes());
    put_properties(out, version, &[]);
    out.extend_from_slice(codes);
}

/// PINGREQ (§3.12).
pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// PINGRESP (§3.13).
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// DISCONNECT (§3.14); before 5.0 without a body, and sent by clients only.
pub fn disconnect(out: &mut Vec<u8>, version: Version, reason: ReasonCode, properties: &[u8]) {
    if version < Version::V5 || (reason == ReasonCode::SUCCESS && properties.is_empty()) {
        return head(out, PacketType::Disconnect, 0);
    }
    head(out, PacketType::Disconnect, 1 + properties_len(version, properties));
    out.push(reason.0);
    put_properties(out, version, properties);
}

/// AUTH (§3.15).
pub fn auth(out: &mut Vec<u8>, reason: ReasonCode, properties: &[u8]) {
    head(out, PacketType::Auth, 1 + properties_len(Version::V5, properties));
    out.push(reason.0);
    put_properties(out, Version::V5, properties);
}

/// CONNECT (§3.1), for clients.
pub fn connect(out: &mut Vec<u8>, packet: &Connect<'_>) {
    let mut body = Vec::new();
    let (name, level): (&[u8], u8) = match packet.version {
        Version::V3 => (b"MQIsdp", 3),
        Version::V311 => (b"MQTT", 4),
        Version::V5 => (b"MQTT", 5),
    };
    put_binary(&mut body, name);
    body.push(level);
    let will = packet.will.as_ref().map_or(0, |w| 4 | (w.qos as u8) << 3 | u8::from(w.retain) << 5);
    let credentials =
        u8::from(packet.password.is_some()) << 6 | u8::from(packet.username.is_some()) << 7;
    body.push(u8::from(packet.clean_start) << 1 | will | credentials);
    body.extend_from_slice(&packet.keep_alive_s.to_be_bytes());
    put_properties(&mut body, packet.version, packet.properties.bytes());
    put_string(&mut body, packet.client_id);
    if let Some(Will { topic, properties, payload, .. }) = &packet.will {
        put_properties(&mut body, packet.version, properties.bytes());
        put_string(&mut body, topic);
        put_binary(&mut body, payload);
    }
    if let Some(username) = packet.username {
        put_string(&mut body, username);
    }
    if let Some(password) = packet.password {
        put_binary(&mut body, password);
    }
    head(out, PacketType::Connect, body.len());
    out.extend_from_slice(&body);
}

/// SUBSCRIBE (§3.8), for clients: filters with their options byte.
pub fn subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    properties: Properties<'_>,
    filters: &[(&str, u8)],
) {
    let list: usize = filters.iter().map(|(f, _)| 3 + cut(f).len()).sum();
    let properties = properties.bytes();
    head(out, PacketType::Subscribe, 2 + properties_len(version, properties) + list);
    out.extend_from_slice(&packet_id.to_be_bytes());
    put_properties(out, version, properties);
    for (filter, options) in filters {
        put_string(out, filter);
        out.push(*options);
    }
}

/// UNSUBSCRIBE (§3.10), for clients.
pub fn unsubscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filters: &[&str]) {
    let list: usize = filters.iter().map(|f| 2 + cut(f).len()).sum();
    head(out, PacketType::Unsubscribe, 2 + properties_len(version, &[]) + list);
    out.extend_from_slice(&packet_id.to_be_bytes());
    put_properties(out, version, &[]);
    for filter in filters {
        put_string(out, filter);
    }
}

#[cfg(test)]
mod tests;
