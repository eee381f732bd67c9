//! Arbitrary bytes as a stream of packets from either side: nothing panics, and what was accepted keeps
//! the promises of its type. Byte 0 chooses the version.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_codec::{
    Connect, Packet, Properties, QoS, ServerPacket, Version, frame, validate_filter, validate_topic,
};

/// What is checked once can be read again to its end.
fn properties(properties: &Properties<'_>) {
    assert_eq!(properties.iter().count() == 0, properties.is_empty());
    for (id, _) in properties.iter() {
        assert!(properties.has(id));
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
            properties(&a.properties);
        }
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
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
        if let Ok(ServerPacket::Publish(p)) = ServerPacket::decode(packet, version) {
            properties(&p.properties);
        }
        stream = rest;
    }
});
