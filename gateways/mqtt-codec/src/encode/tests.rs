//! What is written is read back the same; nothing that comes in makes the decoder panic.

use proptest::prelude::*;

use super::*;
use crate::{DecodeError, Defect, Packet, Publish};

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3), Just(Version::V311), Just(Version::V5)]
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

const TEXT: &str = "[a-zA-Z0-9 äöü€/]{1,40}";

/// Property bytes of a PUBLISH as a client may send it.
fn publish_properties() -> impl Strategy<Value = Vec<u8>> {
    let users = proptest::collection::vec((TEXT, TEXT), 0..4);
    let optional = (
        proptest::option::of(0u32..2),
        proptest::option::of(any::<u32>()),
        proptest::option::of(TEXT),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        proptest::option::of(1u32..=65_535),
    );
    (optional, users).prop_map(|((format, expiry, text, data, alias), users)| {
        let mut out = Vec::new();
        let mut put = |id, value| property(&mut out, id, value);
        format.into_iter().for_each(|n| put(PropertyId::PAYLOAD_FORMAT, Value::Number(n)));
        expiry.into_iter().for_each(|n| put(PropertyId::MESSAGE_EXPIRY, Value::Number(n)));
        if let Some(text) = &text {
            put(PropertyId::CONTENT_TYPE, Value::Text(text));
            put(PropertyId::RESPONSE_TOPIC, Value::Text(text));
        }
        for (name, value) in &users {
            put(PropertyId::USER_PROPERTY, Value::Pair(name, value));
        }
        data.iter().for_each(|d| put(PropertyId::CORRELATION_DATA, Value::Binary(d)));
        alias.into_iter().for_each(|n| put(PropertyId::TOPIC_ALIAS, Value::Number(n)));
        out
    })
}

fn decode(bytes: &[u8], version: Version) -> Result<Packet<'_>, DecodeError> {
    Packet::decode(bytes, version)
}

proptest! {
    #[test]
    fn publish_comes_back(
        version in version(), qos in qos(), retain: bool, dup: bool, topic in TEXT,
        packet_id in 1u16.., properties in publish_properties(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let dup = dup && qos != QoS::AtMostOnce;
        let properties = if version == Version::V5 { properties } else { Vec::new() };
        let frame = PublishFrame {
            dup, qos, retain, topic: &topic, packet_id, properties: &properties, payload: &payload,
        };
        let mut out = vec![7; 3];
        let id_at = frame.write(&mut out, version);
        let bytes = &out[3..];
        prop_assert_eq!(bytes.len(), frame.packet_len(version));
        let Packet::Publish(Publish { dup: d, qos: q, retain: r, topic: t, packet_id: id, properties: p, payload: l })
            = decode(bytes, version).expect("valid") else { panic!("not a publish") };
        prop_assert_eq!((d, q, r, t, l), (dup, qos, retain, &*topic, &*payload));
        prop_assert_eq!(p.bytes(), &*properties);
        if qos != QoS::AtMostOnce {
            prop_assert_eq!(id, packet_id);
            prop_assert_eq!(&bytes[id_at..id_at + 2], &packet_id.to_be_bytes());
        }
        for cut in 0..bytes.len() {
            prop_assert!(decode(&bytes[..cut], version).is_err());
        }
    }

    #[test]
    fn connect_comes_back(
        version in version(), clean_start: bool, keep_alive_s: u16, client_id in TEXT,
        will in proptest::option::of((qos(), any::<bool>(), TEXT, proptest::collection::vec(any::<u8>(), 0..40))),
        username in proptest::option::of(TEXT), password in proptest::option::of(TEXT),
    ) {
        let will = will.as_ref().map(|(qos, retain, topic, payload)| Will {
            qos: *qos, retain: *retain, topic, properties: Properties::default(), payload,
        });
        let password = password.as_ref().filter(|_| version == Version::V5 || username.is_some());
        let packet = Connect {
            version, clean_start, keep_alive_s, properties: Properties::default(), client_id: &client_id,
            will, username: username.as_deref(), password: password.map(String::as_bytes),
        };
        let mut out = Vec::new();
        connect(&mut out, &packet);
        prop_assert_eq!(Connect::decode(&out), Ok(packet));
        for cut in 0..out.len() {
            prop_assert!(Connect::decode(&out[..cut]).is_err());
        }
    }

    #[test]
    fn subscribe_and_unsubscribe_come_back(
        version in version(), packet_id in 1u16.., filters in proptest::collection::vec(("[a-z+/]{1,3}", 0u8..3), 1..6),
    ) {
        let filters: Vec<_> = filters.iter().filter(|(f, _)| crate::validate_filter(f).is_ok())
            .map(|(f, o)| (f.as_str(), *o)).collect();
        let mut out = Vec::new();
        subscribe(&mut out, version, packet_id, Properties::default(), &filters);
        match decode(&out, version) {
            Ok(Packet::Subscribe(s)) => {
                let back: Vec<_> = s.filters().map(|(f, o)| (f, o.qos as u8)).collect();
                prop_assert_eq!((s.packet_id, back), (packet_id, filters.clone()));
            }
            other => prop_assert!(filters.is_empty(), "{other:?}"),
        }
        let names: Vec<_> = filters.iter().map(|(f, _)| *f).collect();
        out.clear();
        unsubscribe(&mut out, version, packet_id, &names);
        match decode(&out, version) {
            Ok(Packet::Unsubscribe(u)) => prop_assert_eq!(u.filters().collect::<Vec<_>>(), names),
            other => prop_assert!(names.is_empty(), "{other:?}"),
        }
    }

    #[test]
    fn acknowledgements_come_back(version in version(), packet_id in 1u16.., failed: bool) {
        for (packet_type, code) in [
            (PacketType::Puback, 0x97), (PacketType::Pubrec, 0x97),
            (PacketType::Pubrel, 0x92), (PacketType::Pubcomp, 0x92),
        ] {
            let reason = ReasonCode(if failed { code } else { 0 });
            let mut out = Vec::new();
            acknowledgement(&mut out, version, packet_type, packet_id, reason);
            let ack = match decode(&out, version).expect("valid") {
                Packet::Puback(a) | Packet::Pubrec(a) | Packet::Pubrel(a) | Packet::Pubcomp(a) => a,
                other => panic!("{other:?}"),
            };
            let want = if version == Version::V5 { reason } else { ReasonCode::SUCCESS };
            prop_assert_eq!((ack.packet_id, ack.reason), (packet_id, want));
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(
        version in version(), first: u8, body in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut bytes = vec![first];
        put_var_int(&mut bytes, body.len());
        bytes.extend_from_slice(&body);
        let _ = Connect::decode(&bytes);
        if let Ok(Packet::Subscribe(s)) = decode(&bytes, version) {
            s.filters().for_each(drop);
        }
    }
}

/// Malformed packets and what is wrong with each (ids of MQTT 5 unless marked).
#[test]
fn broken_packets_are_refused() {
    let v5 = Version::V5;
    for (bytes, version, want) in [
        (&[0x36, 5, 0, 1, b'a', 0, 1][..], v5, Defect::Malformed), // 3.3.1-4 qos 3
        (&[0x38, 4, 0, 1, b'a', 0], v5, Defect::Malformed),        // 3.3.1-2 dup with qos 0
        (&[0x32, 6, 0, 1, b'a', 0, 0, 0], v5, Defect::Protocol),   // 2.2.1-3 id 0
        (&[0x30, 4, 0, 1, b'#', 0], v5, Defect::TopicName),        // 3.3.2-2
        (&[0x30, 3, 0, 0, 0], v5, Defect::Protocol),               // no topic, no alias
        (&[0x30, 2, 0, 0], Version::V311, Defect::TopicName),      // 3.1.1: 4.7.3-1
        (&[0x30, 6, 0, 1, b'a', 2, 0x0B, 1], v5, Defect::Protocol), // 3.3.4-6
        (&[0x30, 4, 0, 1, 0xFF, 0], v5, Defect::Malformed),        // 1.5.4-1
        (&[0x30, 4, 0, 1, 0, 0], v5, Defect::Malformed),           // 1.5.4-2
        (&[0x30, 6, 0, 3, 0xED, 0xA0, 0x80, 0], v5, Defect::Malformed), // 1.5.4-1 surrogate
        (&[0x82, 3, 0, 1, 0], v5, Defect::Protocol),               // 3.8.3-2
        (&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x40], v5, Defect::Malformed), // 3.8.3-5
        (&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30], v5, Defect::Protocol), // retain handling 3
        (&[0x82, 6, 0, 1, 0, 1, b'a', 4], Version::V311, Defect::Malformed), // 3.1.1: 3.8.3-4
        (&[0x82, 7, 0, 1, 0, 0, 1, b'a', 3], v5, Defect::Malformed),
        (&[0x82, 8, 0, 1, 0, 0, 2, b'#', b'a', 0], v5, Defect::TopicFilter), // 4.7.1-1
        (
            &[
                0x82, 16, 0, 1, 0, 0, 10, b'$', b's', b'h', b'a', b'r', b'e', b'/', b'g', b'/',
                b'a', 4,
            ],
            v5,
            Defect::Protocol,
        ), // 3.8.3-4
        (&[0xA2, 3, 0, 1, 0], v5, Defect::Protocol),                         // 3.10.3-2
        (&[0x40, 3, 0, 1, 0x92], v5, Defect::Protocol),                      // 3.4.2-1
        (&[0x40, 3, 0, 1, 0], Version::V311, Defect::Malformed),
        (&[0xC0, 1, 0], v5, Defect::Malformed),
        (&[0xE0, 1, 0x8D], v5, Defect::Protocol), // 3.14.2-1
        (&[0xE0, 1, 0], Version::V311, Defect::Malformed),
        (&[0xF0, 0], Version::V311, Defect::Malformed),
        (&[0xF0, 1, 0x01], v5, Defect::Protocol), // 3.15.2-1
    ] {
        assert_eq!(decode(bytes, version).map_err(|e| e.defect), Err(want), "{bytes:x?}");
    }
}

fn connect_bytes(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10, u8::try_from(body.len()).expect("short")];
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn broken_connects_are_refused() {
    let mqtt5 = [0, 4, b'M', b'Q', b'T', b'T', 5];
    let mqtt4 = [0, 4, b'M', b'Q', b'T', b'T', 4];
    for (head, tail, want) in [
        (&mqtt5, &[3, 0, 0, 0, 0, 0][..], Defect::Malformed), // 3.1.2-3 reserved flag
        (&mqtt5, &[8, 0, 0, 0, 0, 0], Defect::Malformed),     // 3.1.2-11 will qos without will
        (&mqtt5, &[0x20, 0, 0, 0, 0, 0], Defect::Malformed),  // 3.1.2-13
        (&mqtt5, &[0x1C, 0, 0, 0, 0, 0], Defect::Malformed),  // 3.1.2-12
        (&mqtt5, &[2, 0, 0, 0, 0, 0, 9], Defect::Malformed),  // too long
        (&mqtt4, &[0x42, 0, 0, 0, 0, 0, 0], Defect::Malformed), // 3.1.1: 3.1.2-22
        (&mqtt5, &[2, 0, 0, 3, 0x16, 0, 0, 0, 0], Defect::Protocol), // data without method
        (&[0, 4, b'M', b'Q', b'T', b'T', 6], &[2, 0, 0, 0, 0], Defect::UnsupportedVersion),
        (&[0, 4, b'M', b'Q', b'T', b't', 4], &[2, 0, 0, 0, 0], Defect::UnsupportedVersion),
    ] {
        let bytes = connect_bytes(&[&head[..], tail].concat());
        assert_eq!(Connect::decode(&bytes).map_err(|e| e.defect), Err(want), "{bytes:x?}");
    }
    assert_eq!(Connect::decode(&[0xC0, 0]).map_err(|e| e.defect), Err(Defect::Protocol)); // 3.1.0-1
}

/// The variable header of the non-normative example of 3.1.1 §3.1.2 with a payload.
#[test]
fn the_example_of_the_standard() {
    let bytes = connect_bytes(&[
        0, 4, b'M', b'Q', b'T', b'T', 4, 0xCE, 0, 10, 0, 1, b'c', 0, 1, b't', 0, 1, b'w', 0, 1,
        b'u', 0, 1, b'p',
    ]);
    let packet = Connect::decode(&bytes).expect("the example");
    let will = packet.will.expect("will flag is set");
    assert_eq!((packet.keep_alive_s, packet.clean_start), (10, true));
    assert_eq!((will.qos, will.retain, will.topic), (QoS::AtLeastOnce, false, "t"));
    assert_eq!((packet.username, packet.password), (Some("u"), Some(&b"p"[..])));
}
