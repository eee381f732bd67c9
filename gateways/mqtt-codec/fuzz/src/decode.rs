//! The fuzz target `decode`.

use mqtt_codec::{
    Connect, Packet, Properties, QoS, ReasonCode, ServerPacket, Value, Version, frame,
    validate_filter, validate_topic,
};

/// What is checked once can be read again to its end.
fn properties(properties: &Properties<'_>) {
    assert_eq!(properties.iter().count() == 0, properties.is_empty());
    for (id, value) in properties.iter() {
        assert!(properties.has(id));
        let first = properties.iter().find(|(other, _)| *other == id).map(|(_, value)| value);
        let read = match value {
            Value::Number(_) => properties.number(id).map(Value::Number),
            Value::Text(_) => properties.text(id).map(Value::Text),
            Value::Binary(_) => properties.binary(id).map(Value::Binary),
            Value::Pair(..) => first,
        };
        assert_eq!(read, first);
    }
}

fn client(packet: Packet<'_>, version: Version) {
    match packet {
        Packet::Publish(p) => {
            assert_eq!(p.packet_id == 0, p.qos == QoS::AtMostOnce);
            assert!(p.topic.is_empty() || validate_topic(p.topic).is_ok());
            assert!(!p.topic.is_empty() || version == Version::V5);
            properties(&p.properties);
        }
        Packet::Subscribe(s) => {
            assert!(s.filters().count() > 0);
            assert!(s.filters().all(|(filter, _)| validate_filter(filter).is_ok()));
            properties(&s.properties);
        }
        Packet::Unsubscribe(u) => {
            assert!(u.filters().count() > 0);
            assert!(u.filters().all(|filter| validate_filter(filter).is_ok()));
        }
        Packet::Puback(a) | Packet::Pubrec(a) | Packet::Pubrel(a) | Packet::Pubcomp(a) => {
            assert_ne!(a.packet_id, 0);
            assert_ne!(a.reason.name(), "");
            properties(&a.properties);
        }
        Packet::Disconnect(d) => assert_ne!(d.reason.name(), ""),
        _ => {}
    }
}

/// Arbitrary bytes as a stream of packets from either side: nothing panics, and what was accepted keeps the promises of
/// its type. Byte 0 chooses the version.
pub fn decode(data: &[u8]) {
    let Some((choice, mut stream)) = data.split_first() else { return };
    let version = [Version::V3, Version::V311, Version::V5][usize::from(*choice) % 3];
    while let Ok(Some(header)) = frame::peek(stream, 1 << 20) {
        let Some((packet, rest)) = stream.split_at_checked(header.total_len()) else { return };
        if let Ok(connect) = Connect::decode(packet) {
            properties(&connect.properties);
        }
        if let Ok(packet) = Packet::decode(packet, version) {
            client(packet, version);
        }
        match ServerPacket::decode(packet, version) {
            Ok(ServerPacket::Publish(p)) => properties(&p.properties),
            Ok(ServerPacket::Connack(c)) => {
                properties(&c.properties);
                assert_ne!(c.reason.name(), "");
            }
            Ok(ServerPacket::Disconnect(d)) => assert_ne!(d.reason.name(), ""),
            Ok(ServerPacket::Suback(s) | ServerPacket::Unsuback(s)) => {
                assert!(s.codes.iter().all(|code| !ReasonCode(*code).name().is_empty()));
            }
            _ => {}
        }
        stream = rest;
    }
}
