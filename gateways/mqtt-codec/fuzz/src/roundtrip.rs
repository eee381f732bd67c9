//! The fuzz target `roundtrip`.

use mqtt_codec::encode::{self, PublishFrame};
use mqtt_codec::{
    Acknowledgement, Connect, Packet, PacketType, Properties, ReasonCode, ServerPacket, Version,
    topic,
};

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

/// The properties again, one by one.
fn rewritten(properties: &Properties<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    properties.iter().for_each(|(id, value)| encode::property(&mut out, id, value));
    out
}

fn from_server(packet: &ServerPacket<'_>, version: Version, out: &mut Vec<u8>) -> bool {
    match packet {
        ServerPacket::Connack(c) => {
            // Every reason has a return code that older clients know.
            encode::connack(out, Version::V311, c.session_present, c.reason, &[]);
            assert!(ServerPacket::decode(out, Version::V311).is_ok());
            out.clear();
            let properties = rewritten(&c.properties);
            encode::connack(out, version, c.session_present, c.reason, &properties);
            // Return codes before 5.0 are made from reasons.
            c.reason == ReasonCode::SUCCESS || version == Version::V5
        }
        ServerPacket::Suback(s) => {
            encode::suback(out, version, s.packet_id, s.codes);
            s.properties.is_empty()
        }
        ServerPacket::Unsuback(u) => {
            encode::unsuback(out, version, u.packet_id, u.codes);
            u.properties.is_empty()
        }
        ServerPacket::Publish(p) => {
            let frame = PublishFrame {
                dup: p.dup,
                qos: p.qos,
                retain: p.retain,
                topic: p.topic,
                packet_id: p.packet_id,
                properties: &rewritten(&p.properties),
                payload: p.payload,
            };
            frame.write(out, version);
            true
        }
        ServerPacket::Pingresp => {
            encode::pingresp(out);
            true
        }
        ServerPacket::Disconnect(d) => {
            encode::disconnect(out, version, d.reason, &rewritten(&d.properties));
            true
        }
        _ => false,
    }
}

/// A filter that is shared gives its parts; one that is valid matches itself as a topic when it has no wildcard.
fn topics(packet: &Packet<'_>) {
    let Packet::Subscribe(subscribe) = packet else { return };
    for (filter, _) in subscribe.filters() {
        if let Some((group, rest)) = topic::shared(filter) {
            assert_eq!(format!("$share/{group}/{rest}"), filter);
        } else if !filter.contains(['+', '#']) {
            assert!(topic::matches(filter, filter));
        }
    }
}

/// What was decoded and is written again decodes to the same. Byte 0 chooses the version.
pub fn roundtrip(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let version = [Version::V3, Version::V311, Version::V5][usize::from(*choice) % 3];
    let mut out = Vec::new();
    if let Ok(connect) = Connect::decode(bytes) {
        encode::connect(&mut out, &connect);
        assert_eq!(Connect::decode(&out), Ok(connect));
        return;
    }
    if let Ok(packet) = ServerPacket::decode(bytes, version)
        && from_server(&packet, version, &mut out)
    {
        assert_eq!(ServerPacket::decode(&out, version), Ok(packet));
    }
    out.clear();
    let packet = match Packet::decode(bytes, version) {
        Ok(packet) => packet,
        // Whoever closes the connection says why.
        Err(error) => return assert!(!error.to_string().is_empty() && error.reason().is_failure()),
    };
    topics(&packet);
    if packet == Packet::Pingreq {
        encode::pingreq(&mut out);
    }
    let written = publish(&packet, version, &mut out)
        || request(&packet, version, &mut out)
        || acknowledgement(&packet, version, &mut out)
        || packet == Packet::Pingreq;
    if written {
        assert_eq!(Packet::decode(&out, version), Ok(packet));
    }
}
