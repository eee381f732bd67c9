//! Normative statements of MQTT 3.1.1 (and the form of 3.1) that the bytes of one packet can keep or
//! break. Bytes are written by hand from the standard.

use mqtt_codec::{Connect, Defect, Packet, QoS, ReasonCode, ServerPacket, Version, encode, frame};

const OLD: [Version; 2] = [Version::V3, Version::V311];

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(body.len()).ok().filter(|n| *n < 128).expect("a short body");
    [&[first, len], body].concat()
}

#[track_caller]
fn refused(first: u8, body: &[u8], want: Defect) {
    let bytes = packet(first, body);
    for version in OLD {
        assert_eq!(Packet::decode(&bytes, version).map_err(|e| e.defect), Err(want), "{bytes:x?}");
    }
}

#[track_caller]
fn accepted(first: u8, body: &[u8]) {
    let bytes = packet(first, body);
    for version in OLD {
        let decoded = Packet::decode(&bytes, version);
        assert!(decoded.is_ok(), "{bytes:x?}: {decoded:?}");
    }
}

fn connect(flags: u8, payload: &[u8]) -> Vec<u8> {
    packet(0x10, &[&[0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 60], payload].concat())
}

#[track_caller]
fn connect_refused(flags: u8, payload: &[u8], want: Defect) {
    let bytes = connect(flags, payload);
    assert_eq!(Connect::decode(&bytes).map_err(|e| e.defect), Err(want), "{bytes:x?}");
}

#[test]
fn v311_1_5_3_1_and_2_strings() {
    refused(0x30, &[0, 1, 0xFF], Defect::Malformed);
    refused(0x30, &[0, 3, 0xED, 0xA0, 0x80], Defect::Malformed);
    refused(0x30, &[0, 1, 0], Defect::Malformed);
    accepted(0x30, &[0, 4, 0xEF, 0xBB, 0xBF, b'a']); // 1.5.3-3
}

/// Table 2.4 of §2.2.3: the borders of remaining lengths.
#[test]
fn v311_2_2_3_sizes_of_the_remaining_length() {
    for (bytes, len) in [
        (&[0x30, 0x00][..], 0),
        (&[0x30, 0x7F], 127),
        (&[0x30, 0x80, 0x01], 128),
        (&[0x30, 0xC1, 0x02], 321), // the example of the text
        (&[0x30, 0xFF, 0x7F], 16_383),
        (&[0x30, 0x80, 0x80, 0x01], 16_384),
        (&[0x30, 0xFF, 0xFF, 0x7F], 2_097_151),
        (&[0x30, 0x80, 0x80, 0x80, 0x01], 2_097_152),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
    ] {
        let header = frame::peek(bytes, u32::MAX).expect("valid").expect("whole");
        assert_eq!((header.header_len, header.remaining_len), (bytes.len(), len));
    }
}

#[test]
fn v311_2_3_1_1_packet_ids() {
    refused(0x32, &[0, 1, b'a', 0, 0], Defect::Protocol);
    refused(0x82, &[0, 0, 0, 1, b'a', 0], Defect::Protocol);
    refused(0xA2, &[0, 0, 0, 1, b'a'], Defect::Protocol);
}

#[test]
fn v311_3_1_2_2_levels() {
    let bytes = packet(0x10, &[0, 4, b'M', b'Q', b'T', b'T', 7, 2, 0, 0, 0, 0]);
    let error = Connect::decode(&bytes).expect_err("no such level");
    assert_eq!(error.reason().connack_v311(), 1);
}

#[test]
fn v3_the_older_name_and_level() {
    let bytes = packet(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x01c");
    let packet = Connect::decode(&bytes).expect("3.1");
    assert_eq!((packet.version, packet.client_id), (Version::V3, "c"));
    for name_and_level in [&b"\x00\x06MQIsdp\x04"[..], b"\x00\x04MQTT\x03", b"\x00\x06mqisdp\x03"] {
        let body = [name_and_level, b"\x02\x00\x0a\x00\x01c"].concat();
        let bytes = self::packet(0x10, &body);
        let decoded = Connect::decode(&bytes).map_err(|e| e.defect);
        assert_eq!(decoded, Err(Defect::UnsupportedVersion));
    }
}

#[test]
fn v311_3_1_2_3_reserved_flag() {
    connect_refused(3, &[0, 0], Defect::Malformed);
}

#[test]
fn v311_3_1_2_9_to_15_will() {
    connect_refused(6, &[0, 0], Defect::Malformed);
    connect_refused(6, &[0, 0, 0, 1, b't'], Defect::Malformed);
    connect_refused(0x0A, &[0, 0], Defect::Malformed);
    connect_refused(0x22, &[0, 0], Defect::Malformed);
    connect_refused(0x1E, &[0, 0, 0, 1, b't', 0, 0], Defect::Malformed);
    assert!(Connect::decode(&connect(0x36, &[0, 0, 0, 1, b't', 0, 0])).is_ok());
}

#[test]
fn v311_3_1_2_18_to_22_credentials() {
    connect_refused(2, &[0, 0, 0, 1, b'u'], Defect::Malformed);
    connect_refused(0x82, &[0, 0], Defect::Malformed);
    connect_refused(0xC2, &[0, 0, 0, 1, b'u'], Defect::Malformed);
    connect_refused(0x42, &[0, 0, 0, 1, b'p'], Defect::Malformed);
    assert!(Connect::decode(&connect(0x82, &[0, 0, 0, 0])).is_ok());
}

/// 3.1.3-7, -8: whether an empty id is taken is the server's decision; the packet says all it needs.
#[test]
fn v311_3_1_3_7_an_empty_client_id_is_told() {
    let bytes = connect(0, &[0, 0]);
    let packet = Connect::decode(&bytes).expect("well-formed");
    assert_eq!((packet.client_id, packet.clean_start), ("", false));
    assert_eq!(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID.connack_v311(), 2);
}

#[test]
fn v311_3_2_2_connack() {
    for (reason, code) in [
        (ReasonCode::SUCCESS, 0),
        (ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, 2),
        (ReasonCode::SERVER_UNAVAILABLE, 3),
        (ReasonCode::BAD_USER_NAME_OR_PASSWORD, 4),
        (ReasonCode::NOT_AUTHORIZED, 5),
    ] {
        let mut out = Vec::new();
        encode::connack(&mut out, Version::V311, true, reason, &[0x24, 1]);
        assert_eq!(out, [0x20, 2, u8::from(code == 0), code]); // 3.2.2-4
        let Ok(ServerPacket::Connack(back)) = ServerPacket::decode(&out, Version::V311) else {
            panic!("valid")
        };
        assert_eq!((back.session_present, back.reason.0), (code == 0, code));
        out.clear();
        encode::connack(&mut out, Version::V3, true, reason, &[]);
        assert_eq!(out, [0x20, 2, 0, code], "3.1 has no session present");
    }
    for bytes in [[0x20, 2, 1, 1], [0x20, 2, 2, 0], [0x20, 2, 0, 6]] {
        assert!(ServerPacket::decode(&bytes, Version::V311).is_err());
    }
}

#[test]
fn v311_3_3_1_2_and_4_dup_and_qos() {
    refused(0x38, &[0, 1, b'a'], Defect::Malformed);
    refused(0x36, &[0, 1, b'a', 0, 1], Defect::Malformed);
}

/// §3.3.2.3, figure 3.11: topic `a/b`, packet identifier 10.
#[test]
fn v311_3_3_2_the_example_of_the_variable_header() {
    let bytes = packet(0x32, &[0, 3, 0x61, 0x2F, 0x62, 0, 0x0A]);
    let Ok(Packet::Publish(publish)) = Packet::decode(&bytes, Version::V311) else {
        panic!("valid")
    };
    assert_eq!((publish.topic, publish.packet_id), ("a/b", 10));
    assert!(publish.payload.is_empty() && publish.properties.is_empty());
    refused(0x30, &[0, 0], Defect::TopicName); // 4.7.3-1
    refused(0x30, &[0, 3, b'a', b'/', b'+'], Defect::TopicName); // 3.3.2-2
}

/// §3.8.3, figure 3.23: `a/b` with QoS 1 and `c/d` with QoS 2.
#[test]
fn v311_3_8_3_the_example_of_the_payload() {
    let bytes = packet(0x82, &[0, 0x0A, 0, 3, 0x61, 0x2F, 0x62, 1, 0, 3, 0x63, 0x2F, 0x64, 2]);
    let Ok(Packet::Subscribe(subscribe)) = Packet::decode(&bytes, Version::V311) else {
        panic!("valid")
    };
    let filters: Vec<_> = subscribe.filters().map(|(f, o)| (f, o.qos)).collect();
    assert_eq!(filters, [("a/b", QoS::AtLeastOnce), ("c/d", QoS::ExactlyOnce)]);
    let mut out = Vec::new();
    let list = [("a/b", 1), ("c/d", 2)];
    encode::subscribe(&mut out, Version::V311, 10, Default::default(), &list);
    assert_eq!(out, bytes);
}

#[test]
fn v311_3_8_3_3_and_4_subscribe() {
    refused(0x82, &[0, 1], Defect::Protocol);
    for options in [3, 4, 8, 0x10, 0x80] {
        refused(0x82, &[0, 1, 0, 1, b'a', options], Defect::Malformed);
    }
}

/// §3.9.3, figure 3.26: QoS 0, QoS 2, failure.
#[test]
fn v311_3_9_3_2_the_example_of_the_payload() {
    let mut out = Vec::new();
    encode::suback(&mut out, Version::V311, 10, &[0, 2, 0x87]);
    assert_eq!(out, [0x90, 5, 0, 10, 0, 2, 0x80]);
    let Ok(ServerPacket::Suback(suback)) = ServerPacket::decode(&out, Version::V311) else {
        panic!("valid")
    };
    assert_eq!((suback.packet_id, suback.codes), (10, &[0, 2, 0x80][..]));
    assert!(ServerPacket::decode(&[0x90, 3, 0, 1, 3], Version::V311).is_err());
}

/// §3.10.3, figure 3.30: `a/b` and `c/d`.
#[test]
fn v311_3_10_3_unsubscribe() {
    let bytes = packet(0xA2, &[0, 10, 0, 3, 0x61, 0x2F, 0x62, 0, 3, 0x63, 0x2F, 0x64]);
    let Ok(Packet::Unsubscribe(unsubscribe)) = Packet::decode(&bytes, Version::V311) else {
        panic!("valid")
    };
    assert_eq!(unsubscribe.filters().collect::<Vec<_>>(), ["a/b", "c/d"]);
    refused(0xA2, &[0, 1], Defect::Protocol);
    let mut out = Vec::new();
    encode::unsuback(&mut out, Version::V311, 10, &[0, 0x11]);
    assert_eq!(out, [0xB0, 2, 0, 10]);
    assert!(ServerPacket::decode(&out, Version::V311).is_ok());
    assert!(ServerPacket::decode(&[0xB0, 3, 0, 10, 0], Version::V311).is_err());
}

#[test]
fn v311_packets_have_nothing_behind_their_fields() {
    for first in [0x40, 0x50, 0x62, 0x70] {
        accepted(first, &[0, 1]);
        refused(first, &[0, 1, 0], Defect::Malformed);
    }
    refused(0xC0, &[0], Defect::Malformed);
    refused(0xE0, &[0], Defect::Malformed);
    refused(0xF0, &[], Defect::Malformed);
    let disconnect = ServerPacket::decode(&[0xE0, 0], Version::V311).map_err(|e| e.defect);
    assert_eq!(disconnect, Err(Defect::Protocol));
}
