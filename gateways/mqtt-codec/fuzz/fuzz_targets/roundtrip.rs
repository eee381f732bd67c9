//! What was decoded and is written again decodes to the same. Byte 0 chooses the version.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_codec::encode::{self, PublishFrame};
use mqtt_codec::{Acknowledgement, Connect, Packet, PacketType, Version};

fn publish(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) -> bool {
    let Packet::Publish(p) = packet else { return false };
    let frame = PublishFrame {
        dup: p.dup,
        qos: p.qos,
        retain: p.retain,
        topic: p.topic,
        packet_id: p.packet_id,
        properties: p.properties.bytes(),
        payload: p.payload,
    };
    assert!(frame.fits(version));
    frame.write(out, version);
    assert_eq!(out.len(), frame.packet_len(version));
    true
}

fn request(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) -> bool {
    match packet {
        Packet::Subscribe(s) => {
            let filters: Vec<_> = s.filters().map(|(filter, o)| (filter, o.byte())).collect();
            encode::subscribe(out, version, s.packet_id, s.properties, &filters);
        }
        Packet::Unsubscribe(u) if u.properties.is_empty() => {
            let filters: Vec<_> = u.filters().collect();
            encode::unsubscribe(out, version, u.packet_id, &filters);
        }
        Packet::Disconnect(d) => encode::disconnect(out, version, d.reason, d.properties.bytes()),
        Packet::Auth(a) => encode::auth(out, a.reason, a.properties.bytes()),
        _ => return false,
    }
    true
}

fn acknowledgement(packet: &Packet<'_>, version: Version, out: &mut Vec<u8>) -> bool {
    let (packet_type, ack): (_, &Acknowledgement<'_>) = match packet {
        Packet::Puback(a) => (PacketType::Puback, a),
        Packet::Pubrec(a) => (PacketType::Pubrec, a),
        Packet::Pubrel(a) => (PacketType::Pubrel, a),
        Packet::Pubcomp(a) => (PacketType::Pubcomp, a),
        _ => return false,
    };
    encode::acknowledgement(out, version, packet_type, ack.packet_id, ack.reason);
    ack.properties.is_empty()
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let version = [Version::V3, Version::V311, Version::V5][usize::from(*choice) % 3];
    let mut out = Vec::new();
    if let Ok(connect) = Connect::decode(bytes) {
        encode::connect(&mut out, &connect);
        assert_eq!(Connect::decode(&out), Ok(connect));
        return;
    }
    let Ok(packet) = Packet::decode(bytes, version) else { return };
    let written = publish(&packet, version, &mut out)
        || request(&packet, version, &mut out)
        || acknowledgement(&packet, version, &mut out);
    if written {
        assert_eq!(Packet::decode(&out, version), Ok(packet));
    }
});
