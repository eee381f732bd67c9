//! Normative statements of MQTT 5.0 that the bytes of one packet can keep or break, a test for each.
//! Bytes are written by hand from the standard, not by the encoder.

use mqtt_codec::encode::{self, PublishFrame};
use mqtt_codec::{
    Connect, Defect, Packet, PacketType, Properties, PropertyId, QoS, ReasonCode, ServerPacket,
    Value, Version, frame, matches, validate_filter, validate_topic,
};

const V5: Version = Version::V5;

/// A packet of first byte `first` around `body` of less than 128 bytes.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(body.len()).ok().filter(|n| *n < 128).expect("a short body");
    [&[first, len], body].concat()
}

#[track_caller]
fn refused(first: u8, body: &[u8], want: Defect) {
    let bytes = packet(first, body);
    assert_eq!(Packet::decode(&bytes, V5).map_err(|e| e.defect), Err(want), "{bytes:x?}");
}

#[track_caller]
fn accepted(first: u8, body: &[u8]) {
    let bytes = packet(first, body);
    assert!(Packet::decode(&bytes, V5).is_ok(), "{bytes:x?}: {:?}", Packet::decode(&bytes, V5));
}

#[track_caller]
fn server_refused(first: u8, body: &[u8], want: Defect) {
    let bytes = packet(first, body);
    assert_eq!(ServerPacket::decode(&bytes, V5).map_err(|e| e.defect), Err(want), "{bytes:x?}");
}

#[track_caller]
fn server_accepted(first: u8, body: &[u8]) {
    let bytes = packet(first, body);
    let decoded = ServerPacket::decode(&bytes, V5);
    assert!(decoded.is_ok(), "{bytes:x?}: {decoded:?}");
}

/// A CONNECT of 5.0 with `flags`, no properties, and `payload`.
fn connect(flags: u8, payload: &[u8]) -> Vec<u8> {
    packet(0x10, &[&[0, 4, b'M', b'Q', b'T', b'T', 5, flags, 0, 60, 0], payload].concat())
}

#[track_caller]
fn connect_refused(flags: u8, payload: &[u8], want: Defect) {
    let bytes = connect(flags, payload);
    assert_eq!(Connect::decode(&bytes).map_err(|e| e.defect), Err(want), "{bytes:x?}");
}

#[test]
fn v5_1_5_4_1_strings_are_well_formed_utf8() {
    for topic in [
        &[0xFF][..],
        &[0xC3],                   // cut short
        &[0xC0, 0x80],             // overlong U+0000
        &[0xED, 0xA0, 0x80],       // D800
        &[0xED, 0xBF, 0xBF],       // DFFF
        &[0xF4, 0x90, 0x80, 0x80], // above 10FFFF
    ] {
        let len = u8::try_from(topic.len()).expect("short");
        refused(0x30, &[&[0, len], topic, &[0]].concat(), Defect::Malformed);
    }
}

#[test]
fn v5_1_5_4_2_strings_have_no_null() {
    refused(0x30, &[0, 3, b'a', 0, b'b', 0], Defect::Malformed);
    refused(0x82, &[0, 1, 0, 0, 1, 0, 0], Defect::Malformed);
}

#[test]
fn v5_1_5_4_3_the_byte_order_mark_is_kept() {
    let bytes = packet(0x30, &[0, 4, 0xEF, 0xBB, 0xBF, b'a', 0]);
    let Ok(Packet::Publish(publish)) = Packet::decode(&bytes, V5) else { panic!("valid") };
    assert_eq!(publish.topic, "\u{FEFF}a");
}

#[test]
fn v5_1_5_5_1_variable_byte_integers_are_short() {
    assert!(frame::peek(&[0x30, 0x80, 0x00], 1000).is_err());
    refused(0x30, &[0, 1, b'a', 0x80, 0], Defect::Malformed);
    refused(0x82, &[0, 1, 3, 0x0B, 0x81, 0x00, 0, 1, b'a', 0], Defect::Malformed);
}

#[test]
fn v5_1_5_7_1_both_halves_of_a_pair_are_strings() {
    accepted(0x30, &[0, 1, b'a', 7, 0x26, 0, 1, b'k', 0, 1, b'v']);
    refused(0x30, &[0, 1, b'a', 7, 0x26, 0, 1, 0xFF, 0, 1, b'v'], Defect::Malformed);
    refused(0x30, &[0, 1, b'a', 7, 0x26, 0, 1, b'k', 0, 1, 0], Defect::Malformed);
}

#[test]
fn v5_2_1_3_1_reserved_flags_of_the_fixed_header() {
    for packet_type in 1..=15u8 {
        for flags in 0..16u8 {
            let fixed = if matches!(packet_type, 6 | 8 | 10) { 2 } else { 0 };
            let good = packet_type == 3 || flags == fixed;
            let peeked = frame::peek(&[packet_type << 4 | flags, 0], 1000);
            assert_eq!(peeked.is_ok(), good, "{packet_type} {flags:04b}");
        }
    }
}

#[test]
fn v5_2_2_1_2_qos_0_has_no_packet_id() {
    let bytes = packet(0x30, &[0, 1, b'a', 0, 0, 7]);
    let Ok(Packet::Publish(publish)) = Packet::decode(&bytes, V5) else { panic!("valid") };
    assert_eq!((publish.packet_id, publish.payload), (0, &[0, 7][..]));
}

#[test]
fn v5_2_2_1_3_packet_ids_are_not_0() {
    refused(0x32, &[0, 1, b'a', 0, 0, 0], Defect::Protocol);
    refused(0x34, &[0, 1, b'a', 0, 0, 0], Defect::Protocol);
    refused(0x82, &[0, 0, 0, 0, 1, b'a', 0], Defect::Protocol);
    refused(0xA2, &[0, 0, 0, 0, 1, b'a'], Defect::Protocol);
    for first in [0x40, 0x50, 0x62, 0x70] {
        refused(first, &[0, 0], Defect::Protocol);
        accepted(first, &[0, 1]);
    }
    for first in [0x90, 0xB0] {
        server_refused(first, &[0, 0, 0, 0], Defect::Protocol);
        server_accepted(first, &[0, 1, 0, 0]);
    }
}

#[test]
fn v5_2_2_2_1_no_properties_is_a_length_of_0() {
    refused(0x30, &[0, 1, b'a'], Defect::Malformed);
    refused(0x82, &[0, 1], Defect::Malformed);
    let mut out = Vec::new();
    encode::suback(&mut out, V5, 1, &[0]);
    assert_eq!(out, [0x90, 4, 0, 1, 0, 0]);
}

/// One value of each property, written by hand.
const EACH: &[&[u8]] = &[
    &[0x01, 1],
    &[0x02, 0, 0, 0, 1],
    &[0x03, 0, 1, b'a'],
    &[0x08, 0, 1, b'a'],
    &[0x09, 0, 1, b'a'],
    &[0x0B, 1],
    &[0x11, 0, 0, 0, 1],
    &[0x12, 0, 1, b'a'],
    &[0x13, 0, 1],
    &[0x15, 0, 1, b'a'],
    &[0x16, 0, 1, b'a'],
    &[0x17, 1],
    &[0x18, 0, 0, 0, 1],
    &[0x19, 1],
    &[0x1A, 0, 1, b'a'],
    &[0x1C, 0, 1, b'a'],
    &[0x1F, 0, 1, b'a'],
    &[0x21, 0, 1],
    &[0x22, 0, 1],
    &[0x23, 0, 1],
    &[0x24, 1],
    &[0x25, 1],
    &[0x26, 0, 1, b'k', 0, 1, b'v'],
    &[0x27, 0, 0, 0, 1],
    &[0x28, 1],
    &[0x29, 1],
    &[0x2A, 1],
];

/// First byte, bytes before and behind the properties, and the properties allowed (table 2-4).
type Place = (u8, &'static [u8], &'static [u8], &'static [u8]);

/// The packets of a client.
const PLACES: &[Place] = &[
    (0x30, &[0, 1, b'a'], &[], &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26]),
    (0x40, &[0, 1, 0], &[], &[0x1F, 0x26]),
    (0x50, &[0, 1, 0], &[], &[0x1F, 0x26]),
    (0x62, &[0, 1, 0], &[], &[0x1F, 0x26]),
    (0x70, &[0, 1, 0], &[], &[0x1F, 0x26]),
    (0x82, &[0, 1], &[0, 1, b'a', 0], &[0x0B, 0x26]),
    (0xA2, &[0, 1], &[0, 1, b'a'], &[0x26]),
    (0xE0, &[0], &[], &[0x11, 0x1F, 0x26]),
    (
        0x10,
        &[0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0],
        &[0, 0],
        &[0x11, 0x15, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27],
    ),
    (0xF0, &[0x18], &[], &[0x15, 0x1F, 0x26]),
];

/// §2.2.2.2: an identifier that is not valid for its packet makes it malformed.
#[test]
fn v5_2_2_2_properties_stand_where_they_are_allowed() {
    for (first, before, behind, allowed) in PLACES {
        for property in EACH {
            let len = u8::try_from(property.len()).expect("short");
            let bytes = packet(*first, &[before, &[len][..], property, behind].concat());
            let decoded = Packet::decode(&bytes, V5).map(|_| ()).map_err(|e| e.defect);
            let want = match (property[0], *first) {
                (id, _) if allowed.contains(&id) => Ok(()),
                // Allowed there, but not by itself, or not from a client.
                (0x0B, 0x30) | (0x16, 0x10 | 0xF0) => Err(Defect::Protocol),
                _ => Err(Defect::Malformed),
            };
            assert_eq!(decoded, want, "{bytes:x?}");
            if want.is_ok() && property[0] != 0x26 {
                let twice = [before, &[2 * len][..], property, property, behind].concat();
                refused(*first, &twice, Defect::Protocol);
            }
        }
    }
}

#[test]
fn v5_3_1_0_1_the_first_packet_is_connect() {
    for bytes in [&[0xC0, 0][..], &[0xE0, 0], &[0x30, 4, 0, 1, b'a', 0]] {
        assert_eq!(Connect::decode(bytes).map_err(|e| e.defect), Err(Defect::Protocol));
    }
}

#[test]
fn v5_3_1_2_1_and_2_the_protocol_and_its_version() {
    for (name, level) in [(b"MQTT", 6), (b"MQTT", 0), (b"MQTT", 3), (b"mqtt", 5), (b"HTTP", 5)] {
        let bytes = packet(0x10, &[&[0, 4], &name[..], &[level, 2, 0, 0, 0, 0, 0]].concat());
        let error = Connect::decode(&bytes).expect_err("not a protocol of ours");
        assert_eq!(error.defect, Defect::UnsupportedVersion);
        assert_eq!(error.reason(), ReasonCode(0x84));
        assert_eq!(error.reason().connack_v311(), 1);
    }
}

#[test]
fn v5_3_1_2_3_the_reserved_flag_is_0() {
    assert!(Connect::decode(&connect(2, &[0, 0])).is_ok());
    connect_refused(3, &[0, 0], Defect::Malformed);
}

#[test]
fn v5_3_1_2_9_a_will_has_properties_topic_and_payload() {
    assert!(Connect::decode(&connect(6, &[0, 0, 0, 0, 1, b't', 0, 0])).is_ok());
    for payload in [&[0, 0][..], &[0, 0, 0], &[0, 0, 0, 0, 1, b't'], &[0, 0, 0, 0, 1, b't', 0]] {
        connect_refused(6, payload, Defect::Malformed);
    }
}

#[test]
fn v5_3_1_2_11_12_13_will_flags() {
    connect_refused(0x0A, &[0, 0], Defect::Malformed);
    connect_refused(0x22, &[0, 0], Defect::Malformed);
    connect_refused(0x1E, &[0, 0, 0, 0, 1, b't', 0, 0], Defect::Malformed);
}

#[test]
fn v5_3_1_2_16_to_19_credentials_follow_their_flags() {
    connect_refused(2, &[0, 0, 0, 1, b'u'], Defect::Malformed);
    connect_refused(0x82, &[0, 0], Defect::Malformed);
    connect_refused(0x42, &[0, 0], Defect::Malformed);
    let bytes = connect(0x42, &[0, 0, 0, 1, b'p']);
    let packet = Connect::decode(&bytes).expect("5.0 allows a password alone");
    assert_eq!((packet.username, packet.password), (None, Some(&b"p"[..])));
}

#[test]
fn v5_3_1_3_1_order_of_the_payload() {
    let payload = [0, 1, b'c', 5, 0x18, 0, 0, 0, 9, 0, 1, b't', 0, 1, b'w', 0, 1, b'u', 0, 1, b'p'];
    let bytes = connect(0xF6, &payload);
    let packet = Connect::decode(&bytes).expect("valid");
    let will = packet.will.expect("flagged");
    assert_eq!((packet.client_id, will.topic, will.payload), ("c", "t", &b"w"[..]));
    assert_eq!((packet.username, packet.password), (Some("u"), Some(&b"p"[..])));
    assert_eq!(will.properties.number(PropertyId::WILL_DELAY), Some(9));
    assert_eq!((will.qos, will.retain), (QoS::ExactlyOnce, true));
}

#[test]
fn v5_3_1_3_4_11_12_its_strings() {
    connect_refused(2, &[0, 1, 0xFF], Defect::Malformed);
    connect_refused(6, &[0, 0, 0, 0, 1, 0xFF, 0, 0], Defect::Malformed);
    connect_refused(6, &[0, 0, 0, 0, 1, b'#', 0, 0], Defect::TopicName);
    connect_refused(6, &[0, 0, 0, 0, 0, 0, 0], Defect::TopicName);
    connect_refused(0x82, &[0, 0, 0, 1, 0xFF], Defect::Malformed);
}

#[test]
fn v5_3_2_2_1_6_8_connack() {
    server_accepted(0x20, &[1, 0, 0]);
    server_refused(0x20, &[2, 0, 0], Defect::Malformed);
    server_refused(0x20, &[1, 0x87, 0], Defect::Protocol);
    server_refused(0x20, &[0, 0x04, 0], Defect::Protocol);
    server_refused(0x20, &[0, 0], Defect::Malformed);
    server_refused(0x20, &[0, 0, 2, 0x24, 2], Defect::Protocol);
    let mut out = Vec::new();
    encode::connack(&mut out, V5, true, ReasonCode::NOT_AUTHORIZED, &[]);
    assert_eq!(out, [0x20, 3, 0, 0x87, 0]);
}

#[test]
fn v5_3_3_1_2_and_4_dup_and_qos() {
    refused(0x38, &[0, 1, b'a', 0], Defect::Malformed);
    refused(0x36, &[0, 1, b'a', 0, 1, 0], Defect::Malformed);
    refused(0x3E, &[0, 1, b'a', 0, 1, 0], Defect::Malformed);
    accepted(0x3A, &[0, 1, b'a', 0, 1, 0]);
}

#[test]
fn v5_3_3_2_1_and_2_the_topic_name() {
    for topic in [b'#', b'+'] {
        refused(0x30, &[0, 3, b'a', b'/', topic, 0], Defect::TopicName);
    }
    refused(0x30, &[0, 0, 0], Defect::Protocol);
    accepted(0x30, &[0, 0, 3, 0x23, 0, 1]);
}

#[test]
fn v5_3_3_2_8_alias_0() {
    let bytes = packet(0x30, &[0, 1, b'a', 3, 0x23, 0, 0]);
    let error = Packet::decode(&bytes, V5).expect_err("alias 0");
    assert_eq!(error.reason(), ReasonCode(0x94));
}

#[test]
fn v5_3_3_2_13_14_19_strings_of_properties() {
    refused(0x30, &[0, 1, b'a', 4, 0x08, 0, 1, 0xFF], Defect::Malformed);
    refused(0x30, &[0, 1, b'a', 4, 0x08, 0, 1, b'+'], Defect::Protocol);
    refused(0x30, &[0, 1, b'a', 4, 0x03, 0, 1, 0xFF], Defect::Malformed);
    refused(0x30, &[0, 1, b'a', 2, 0x01, 2], Defect::Protocol);
}

#[test]
fn v5_3_3_2_17_and_18_user_properties_keep_their_order() {
    let mut properties = Vec::new();
    for (name, value) in [("b", "1"), ("a", "2"), ("b", "1"), ("", "")] {
        encode::property(&mut properties, PropertyId::USER_PROPERTY, Value::Pair(name, value));
    }
    let frame = PublishFrame {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "t",
        packet_id: 0,
        properties: &properties,
        payload: b"",
    };
    let mut out = Vec::new();
    frame.write(&mut out, V5);
    let Ok(Packet::Publish(publish)) = Packet::decode(&out, V5) else { panic!("valid") };
    let values: Vec<_> = publish.properties.iter().map(|(_, value)| value).collect();
    let pair = Value::Pair;
    assert_eq!(values, [pair("b", "1"), pair("a", "2"), pair("b", "1"), pair("", "")]);
}

#[test]
fn v5_3_3_4_3_to_6_subscription_identifiers_come_from_the_server() {
    let body = [0, 1, b'a', 5, 0x0B, 0x80, 0x01, 0x0B, 3];
    refused(0x30, &body, Defect::Protocol);
    let bytes = packet(0x30, &body);
    let Ok(ServerPacket::Publish(publish)) = ServerPacket::decode(&bytes, V5) else {
        panic!("valid")
    };
    let ids: Vec<_> = publish.properties.iter().map(|(_, value)| value).collect();
    assert_eq!(ids, [Value::Number(128), Value::Number(3)]);
    server_refused(0x30, &[0, 1, b'a', 2, 0x0B, 0], Defect::Protocol);
}

/// Also 3.5.2-1, 3.6.2-1 and 3.7.2-1.
#[test]
fn v5_3_4_2_1_reason_codes_of_acknowledgements() {
    let publish: &[u8] = &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    let release: &[u8] = &[0, 0x92];
    for (first, allowed) in [(0x40, publish), (0x50, publish), (0x62, release), (0x70, release)] {
        for code in 0..=255u8 {
            if allowed.contains(&code) {
                accepted(first, &[0, 1, code]);
                accepted(first, &[0, 1, code, 0]);
            } else {
                refused(first, &[0, 1, code], Defect::Protocol);
            }
        }
        refused(first, &[0, 1, 0, 0, 0], Defect::Malformed);
        refused(first, &[0], Defect::Malformed);
    }
}

#[test]
fn v5_3_8_3_1_2_4_5_subscribe() {
    accepted(0x82, &[0, 1, 0, 0, 1, b'a', 0x2E]);
    refused(0x82, &[0, 1, 0, 0, 1, 0xFF, 0], Defect::Malformed);
    refused(0x82, &[0, 1, 0], Defect::Protocol);
    refused(0x82, &[0, 1, 0, 0, 1, b'a'], Defect::Malformed); // no options
    refused(0x82, &[0, 1, 0, 0, 0, 0], Defect::TopicFilter);
    for options in [0x40, 0x80, 0xC0, 3] {
        refused(0x82, &[0, 1, 0, 0, 1, b'a', options], Defect::Malformed);
    }
    refused(0x82, &[0, 1, 0, 0, 1, b'a', 0x30], Defect::Protocol);
    let shared = b"\x00\x01\x00\x00\x0a$share/g/a";
    accepted(0x82, &[&shared[..], &[0x01]].concat());
    refused(0x82, &[&shared[..], &[0x05]].concat(), Defect::Protocol);
    refused(0x82, &[0, 1, 2, 0x0B, 0, 0, 1, b'a', 0], Defect::Protocol);
}

#[test]
fn v5_3_9_3_2_and_3_11_3_2_codes_of_suback_and_unsuback() {
    let suback = [0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
    let unsuback = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    for (first, allowed) in [(0x90, &suback[..]), (0xB0, &unsuback)] {
        for code in 0..=255u8 {
            if allowed.contains(&code) {
                server_accepted(first, &[0, 1, 0, 0, code]);
            } else {
                server_refused(first, &[0, 1, 0, 0, code], Defect::Protocol);
            }
        }
        server_refused(first, &[0, 1, 0], Defect::Malformed);
    }
}

#[test]
fn v5_3_10_3_1_and_2_unsubscribe() {
    refused(0xA2, &[0, 1, 0, 0, 1, 0xFF], Defect::Malformed);
    refused(0xA2, &[0, 1, 0], Defect::Protocol);
    refused(0xA2, &[0, 1, 0, 0, 0], Defect::TopicFilter);
}

#[test]
fn v5_3_14_2_1_and_2_disconnect() {
    let client: &[u8] =
        &[0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let only_server: &[u8] =
        &[0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2];
    for code in 0..=255u8 {
        match client.contains(&code) {
            true => accepted(0xE0, &[code]),
            false => refused(0xE0, &[code], Defect::Protocol),
        }
        match only_server.contains(&code) || (client.contains(&code) && code != 4) {
            true => server_accepted(0xE0, &[code, 0]),
            false => server_refused(0xE0, &[code, 0], Defect::Protocol),
        }
    }
    accepted(0xE0, &[0, 5, 0x11, 0, 0, 0, 1]);
    server_refused(0xE0, &[0, 5, 0x11, 0, 0, 0, 1], Defect::Malformed);
    server_accepted(0xE0, &[0x9D, 4, 0x1C, 0, 1, b's']);
}

#[test]
fn v5_3_15_2_1_auth() {
    for code in [0, 0x18, 0x19] {
        accepted(0xF0, &[code, 4, 0x15, 0, 1, b'm']);
    }
    refused(0xF0, &[0x17, 4, 0x15, 0, 1, b'm'], Defect::Protocol);
    refused(0xF0, &[0x18, 4, 0x16, 0, 1, b'd'], Defect::Protocol);
}

#[test]
fn v5_4_7_1_1_and_2_wildcards() {
    for good in ["#", "+", "+/#", "a/+/b", "/+", "+/", "//", "$SYS/#"] {
        assert!(validate_filter(good).is_ok(), "{good}");
    }
    for bad in ["a#", "#/", "a/#/b", "a+/b", "+a", "++", "##", "a/b+", "+#"] {
        assert!(validate_filter(bad).is_err(), "{bad}");
    }
}

/// The examples of §4.7.1.2, §4.7.1.3 and §4.7.2.
#[test]
fn v5_4_7_examples_of_matching() {
    for (filter, topic, want) in [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("#", "$SYS/a", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("ACCOUNTS", "Accounts", false),  // 4.7.3-4
        ("a\u{0301}", "\u{00E1}", false), // 4.7.3-4: not normalised
    ] {
        assert_eq!(matches(filter, topic), want, "{filter} {topic}");
    }
}

#[test]
fn v5_4_7_3_1_2_3_names() {
    assert!(validate_topic("").is_err() && validate_filter("").is_err());
    assert!(validate_topic("a\0").is_err() && validate_filter("a\0").is_err());
    let long = "ä".repeat(40_000);
    let mut frame = PublishFrame {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: &long,
        packet_id: 7,
        properties: &[],
        payload: b"payload",
    };
    assert!(!frame.fits(V5));
    // Even so the packet is a whole one, and the topic ends between two characters.
    let mut out = Vec::new();
    frame.write(&mut out, V5);
    assert_eq!(out.len(), frame.packet_len(V5));
    let Ok(Packet::Publish(publish)) = Packet::decode(&out, V5) else { panic!("valid") };
    assert_eq!((publish.topic.len(), publish.payload), (65_534, &b"payload"[..]));
    frame.topic = &long[..65_534];
    assert!(frame.fits(V5));
}

#[test]
fn v5_4_8_2_1_and_2_shared_subscriptions() {
    for good in ["$share/g/a", "$share/g/#", "$share/g//", "$share/g/$SYS/a", "$share", "$sharex/+"]
    {
        assert!(validate_filter(good).is_ok(), "{good}");
    }
    for bad in ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a"] {
        assert!(validate_filter(bad).is_err(), "{bad}");
    }
}

/// §3.1.2.11: values that are out of range.
#[test]
fn v5_3_1_2_11_ranges_of_connect_properties() {
    for property in [&[0x21, 0, 0][..], &[0x27, 0, 0, 0, 0], &[0x17, 2], &[0x19, 2]] {
        let head = [0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0];
        let len = u8::try_from(property.len()).expect("short");
        let bytes = packet(0x10, &[&head[..], &[len], property, &[0, 0]].concat());
        assert_eq!(Connect::decode(&bytes).map_err(|e| e.defect), Err(Defect::Protocol));
    }
}

#[test]
fn packets_of_the_other_side_are_told_apart() {
    for (bytes, want) in [
        (&[0x20, 3, 0, 0, 0][..], PacketType::Connack),
        (&[0x90, 4, 0, 1, 0, 0], PacketType::Suback),
        (&[0xB0, 4, 0, 1, 0, 0], PacketType::Unsuback),
        (&[0xD0, 0], PacketType::Pingresp),
    ] {
        assert_eq!(Packet::decode(bytes, V5), Ok(Packet::FromServer(want)));
        assert!(ServerPacket::decode(bytes, V5).is_ok());
    }
    let mut out = Vec::new();
    encode::subscribe(&mut out, V5, 1, Properties::default(), &[("a", 0)]);
    let want = ServerPacket::FromClient(PacketType::Subscribe);
    assert_eq!(ServerPacket::decode(&out, V5), Ok(want));
}
