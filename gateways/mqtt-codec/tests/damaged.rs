//! Valid packets of every kind, cut and flipped: the decoders answer, and never panic.

use mqtt_codec::encode::{self, PublishFrame};
use mqtt_codec::{
    Connect, DecodeError, Packet, PacketType, Properties, PropertyId, QoS, ReasonCode,
    ServerPacket, Value, Version, Will, frame,
};
use proptest::prelude::*;

const VERSIONS: [Version; 3] = [Version::V3, Version::V311, Version::V5];

fn properties(of: &[(PropertyId, Value<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    of.iter().for_each(|(id, value)| encode::property(&mut out, *id, *value));
    out
}

fn publish(version: Version, qos: QoS, from_server: bool) -> Vec<u8> {
    let mut properties = properties(&[
        (PropertyId::PAYLOAD_FORMAT, Value::Number(1)),
        (PropertyId::MESSAGE_EXPIRY, Value::Number(60)),
        (PropertyId::CONTENT_TYPE, Value::Text("text/plain")),
        (PropertyId::RESPONSE_TOPIC, Value::Text("re/ply")),
        (PropertyId::CORRELATION_DATA, Value::Binary(&[0, 255])),
        (PropertyId::TOPIC_ALIAS, Value::Number(7)),
        (PropertyId::USER_PROPERTY, Value::Pair("k", "v")),
        (PropertyId::USER_PROPERTY, Value::Pair("k", "ä")),
    ]);
    if from_server {
        encode::property(&mut properties, PropertyId::SUBSCRIPTION_ID, Value::Number(268_435_455));
        encode::property(&mut properties, PropertyId::SUBSCRIPTION_ID, Value::Number(1));
    }
    let mut out = Vec::new();
    let (topic, payload) = ("a/bö/c", &b"payload"[..]);
    PublishFrame {
        dup: qos != QoS::AtMostOnce,
        qos,
        retain: true,
        topic,
        packet_id: 65_535,
        properties: &properties,
        payload,
    }
    .write(&mut out, version);
    out
}

fn connect(version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    let packet = Connect {
        version,
        clean_start: false,
        keep_alive_s: 60,
        properties: Properties::default(),
        client_id: "client",
        will: Some(Will {
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: "will",
            properties: Properties::default(),
            payload: b"gone",
        }),
        username: Some("user"),
        password: Some(b"secret"),
    };
    encode::connect(&mut out, &packet);
    out
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

const ACKS: [PacketType; 4] =
    [PacketType::Puback, PacketType::Pubrec, PacketType::Pubrel, PacketType::Pubcomp];

/// A valid packet of every kind a client sends.
fn from_client(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![connect(version), written(encode::pingreq)];
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        all.push(publish(version, qos, false));
    }
    for packet_type in ACKS {
        let reason =
            ReasonCode(if matches!(packet_type, PacketType::Puback | PacketType::Pubrec) {
                0x97
            } else {
                0x92
            });
        all.push(written(|out| encode::acknowledgement(out, version, packet_type, 9, reason)));
    }
    let filters = [("a/+/#", 1), ("$share/g/b", 2)];
    all.push(written(|out| {
        encode::subscribe(out, version, 8, Properties::default(), &filters);
    }));
    all.push(written(|out| encode::unsubscribe(out, version, 8, &["a/+/#", "b"])));
    let expiry = properties(&[(PropertyId::SESSION_EXPIRY, Value::Number(9))]);
    all.push(written(|out| encode::disconnect(out, version, ReasonCode(4), &expiry)));
    if version == Version::V5 {
        let method = properties(&[(PropertyId::AUTH_METHOD, Value::Text("m"))]);
        all.push(written(|out| encode::auth(out, ReasonCode(0x18), &method)));
    }
    all
}

/// A valid packet of every kind a server sends.
fn from_server(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![written(encode::pingresp)];
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        all.push(publish(version, qos, true));
    }
    let told = properties(&[
        (PropertyId::SESSION_EXPIRY, Value::Number(1)),
        (PropertyId::RECEIVE_MAXIMUM, Value::Number(32)),
        (PropertyId::MAXIMUM_QOS, Value::Number(1)),
        (PropertyId::RETAIN_AVAILABLE, Value::Number(0)),
        (PropertyId::MAXIMUM_PACKET_SIZE, Value::Number(1 << 20)),
        (PropertyId::ASSIGNED_CLIENT_ID, Value::Text("id")),
        (PropertyId::TOPIC_ALIAS_MAXIMUM, Value::Number(16)),
        (PropertyId::REASON_STRING, Value::Text("why")),
        (PropertyId::USER_PROPERTY, Value::Pair("k", "v")),
        (PropertyId::WILDCARD_SUBSCRIPTION_AVAILABLE, Value::Number(1)),
        (PropertyId::SUBSCRIPTION_IDS_AVAILABLE, Value::Number(1)),
        (PropertyId::SHARED_SUBSCRIPTION_AVAILABLE, Value::Number(1)),
        (PropertyId::SERVER_KEEP_ALIVE, Value::Number(30)),
        (PropertyId::RESPONSE_INFO, Value::Text("r")),
        (PropertyId::SERVER_REFERENCE, Value::Text("s")),
        (PropertyId::AUTH_METHOD, Value::Text("m")),
        (PropertyId::AUTH_DATA, Value::Binary(&[1])),
    ]);
    all.push(written(|out| encode::connack(out, version, true, ReasonCode::SUCCESS, &told)));
    all.push(written(|out| encode::suback(out, version, 3, &[0, 1, 2, 0x80])));
    all.push(written(|out| encode::unsuback(out, version, 3, &[0, 0x11])));
    if version == Version::V5 {
        let moved = properties(&[(PropertyId::SERVER_REFERENCE, Value::Text("there"))]);
        all.push(written(|out| {
            encode::disconnect(out, version, ReasonCode::SERVER_MOVED, &moved);
        }));
    }
    all
}

/// Decodes as both sides would, and reads what the decoders left for later.
fn decode_all(bytes: &[u8], version: Version) {
    let _ = Connect::decode(bytes).map(|c| c.properties.iter().count());
    match Packet::decode(bytes, version) {
        Ok(Packet::Publish(p)) => {
            assert_eq!(p.packet_id == 0, p.qos == QoS::AtMostOnce);
            p.properties.iter().for_each(drop);
        }
        Ok(Packet::Subscribe(s)) => assert!(s.filters().count() > 0),
        Ok(Packet::Unsubscribe(u)) => assert!(u.filters().count() > 0),
        _ => {}
    }
    if let Ok(ServerPacket::Publish(p)) = ServerPacket::decode(bytes, version) {
        p.properties.iter().for_each(drop);
    }
}

fn client(bytes: &[u8], version: Version) -> Result<(), DecodeError> {
    Packet::decode(bytes, version).map(|_| ())
}

fn server(bytes: &[u8], version: Version) -> Result<(), DecodeError> {
    ServerPacket::decode(bytes, version).map(|_| ())
}

#[test]
fn whole_packets_are_accepted_and_parts_are_not() {
    type Decode = fn(&[u8], Version) -> Result<(), DecodeError>;
    for version in VERSIONS {
        for (packets, decode) in
            [(from_client(version), client as Decode), (from_server(version), server)]
        {
            for bytes in packets {
                assert_eq!(decode(&bytes, version), Ok(()), "{version:?} {bytes:x?}");
                for cut in 0..bytes.len() {
                    assert!(decode(&bytes[..cut], version).is_err());
                }
                let longer = [&bytes[..], &[0]].concat();
                assert!(decode(&longer, version).is_err());
            }
        }
    }
}

/// The length of the packet is put right, so that its fields are cut and not the frame. Some packets may
/// end early; those that may not are refused.
#[test]
fn bodies_that_end_early_are_refused() {
    for version in VERSIONS {
        for bytes in [from_client(version), from_server(version)].concat() {
            let header = frame::peek(&bytes, u32::MAX).expect("valid").expect("whole");
            for len in 0..header.remaining_len.min(128) {
                let mut cut = vec![bytes[0], u8::try_from(len).expect("below 128")];
                cut.extend_from_slice(&bytes[header.header_len..header.header_len + len]);
                decode_all(&cut, version);
                match header.packet_type {
                    PacketType::Connect => assert!(client(&cut, version).is_err()),
                    PacketType::Connack => assert!(server(&cut, version).is_err()),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn every_single_flipped_bit_is_survived() {
    for version in VERSIONS {
        for bytes in [from_client(version), from_server(version)].concat() {
            for bit in 0..bytes.len() * 8 {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                VERSIONS.into_iter().for_each(|version| decode_all(&bytes, version));
            }
        }
    }
}

proptest! {
    #[test]
    fn many_changed_bytes_are_survived(
        version in 0usize..3, packet in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let version = VERSIONS[version];
        let all = [from_client(version), from_server(version)].concat();
        let mut bytes = packet.get(&all).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decode_all(&bytes, version);
    }

    #[test]
    fn streams_of_any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut stream = &bytes[..];
        while let Ok(Some(header)) = frame::peek(stream, 65_536) {
            let Some((packet, rest)) = stream.split_at_checked(header.total_len()) else { break };
            VERSIONS.into_iter().for_each(|version| decode_all(packet, version));
            stream = rest;
        }
    }

    #[test]
    fn what_a_server_sends_comes_back(
        version in 0usize..3, packet_id in 1u16.., session_present: bool,
        codes in proptest::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0x80, 0x87]), 1..8),
        text in "[a-zäöü]{0,20}",
    ) {
        let version = VERSIONS[version];
        let told = properties(&[
            (PropertyId::REASON_STRING, Value::Text(&text)),
            (PropertyId::USER_PROPERTY, Value::Pair(&text, "v")),
        ]);
        let bytes = written(|out| {
            encode::connack(out, version, session_present, ReasonCode::SUCCESS, &told);
        });
        let Ok(ServerPacket::Connack(connack)) = ServerPacket::decode(&bytes, version) else {
            panic!("valid")
        };
        prop_assert_eq!(connack.session_present, session_present && version > Version::V3);
        let v5 = version == Version::V5;
        prop_assert_eq!(connack.properties.bytes(), if v5 { &told[..] } else { &[] });
        let bytes = written(|out| encode::suback(out, version, packet_id, &codes));
        let Ok(ServerPacket::Suback(suback)) = ServerPacket::decode(&bytes, version) else {
            panic!("valid")
        };
        let want: Vec<u8> =
            codes.iter().map(|c| if !v5 && *c > 2 { 0x80 } else { *c }).collect();
        prop_assert_eq!((suback.packet_id, suback.codes), (packet_id, &want[..]));
    }
}
