//! Packets that break the form: the connection ends, in 5 with a reason.

use conformance::wire::{
    Client, ack, packet, properties, publish, string, subscribe, two, unsubscribe, user,
};

use crate::{BOTH, at};

/// Each packet ends a fresh connection of `level`, in 5 with `reason`.
fn each_ends(level: u8, name: &str, reason: u8, packets: &[Vec<u8>]) {
    for (n, bytes) in packets.iter().enumerate() {
        let mut client = Client::clean(at(), level, &format!("{name}-{level}-{n}"));
        client.send_anyway(bytes);
        client.closed(reason);
    }
}

fn raw_topic(level: u8, topic: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).expect("short").to_be_bytes().to_vec();
    body.extend_from_slice(topic);
    if level == 5 {
        body.push(0);
    }
    packet(0x30, &body)
}

/// 5.0: 1.5.4-1 1.5.4-2 1.5.7-1 3.3.2-1 4.7.3-2 3.3.2-13 3.3.2-19
/// 3.1.1: 1.5.3-1 1.5.3-2 3.3.2-1 4.7.3-2
#[test]
fn strings_are_utf_8_without_null() {
    let bad: [&[u8]; 8] = [
        &[0xC3, 0x28],
        &[0xED, 0xA0, 0x80], // a surrogate
        &[0xED, 0xBF, 0xBF],
        &[0xF4, 0x90, 0x80, 0x80], // beyond U+10FFFF
        &[0xC0, 0x80],             // null, too long
        &[0xFF],
        &[0xE2, 0x82],
        b"a\0b",
    ];
    for level in BOTH {
        let packets: Vec<_> = bad.iter().map(|b| raw_topic(level, b)).collect();
        each_ends(level, "utf8", 0x81, &packets);
    }
    let long = |id: u8, b: &[u8]| [&[id][..], &(b.len() as u16).to_be_bytes(), b].concat();
    let properties = |b: &[u8]| {
        vec![
            long(0x03, b),
            long(0x08, b),
            [&[0x26][..], &string("k"), &long(0, b)[1..]].concat(),
            [&long(0x26, b)[..], &string("v")].concat(),
        ]
    };
    for b in [&bad[0], &bad[1], &bad[7]] {
        let packets: Vec<_> = properties(b).iter().map(|p| publish(5, 0, "t", 0, p, b"")).collect();
        each_ends(5, "utf8-property", 0x81, &packets);
    }
}

/// 5.0: 1.5.4-3
/// 3.1.1: 1.5.3-3
#[test]
fn a_byte_order_mark_is_kept() {
    for level in BOTH {
        let mut client = Client::clean(at(), level, &format!("bom-{level}"));
        let topic = format!("\u{FEFF}bom\u{FEFF}/{level}");
        assert_eq!(client.subscribe(&[(&topic, 0)]), [0]);
        client.publish(0, &topic[3..], 0, b"another topic");
        client.publish(0, &topic, 0, b"x");
        let got = client.receive();
        assert_eq!((got.topic, got.payload), (topic, b"x".to_vec()));
    }
}

/// 5.0: 1.5.5-1
#[test]
fn lengths_take_the_shortest_encoding() {
    each_ends(
        5,
        "length",
        0x81,
        &[
            vec![0xC0, 0x80, 0x00],
            vec![0x30, 0x84, 0x80, 0x00, 0, 1, b't', 0],
            vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
            packet(0x30, &[0, 1, b't', 0x80, 0x00, b'x']),
        ],
    );
    each_ends(4, "length", 0x81, &[vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]]);
}

/// 5.0: 2.1.3-1 3.6.1-1 3.8.1-1 3.10.1-1
/// 3.1.1: 2.2.2-1 2.2.2-2 3.6.1-1 3.8.1-1 3.10.1-1
#[test]
fn reserved_flags_are_checked() {
    for level in BOTH {
        let mut packets = Vec::new();
        for (right, mut bytes) in [
            (0x40, ack(0x40, 1)),
            (0x50, ack(0x50, 1)),
            (0x62, ack(0x62, 1)),
            (0x70, ack(0x70, 1)),
            (0x82, subscribe(level, 1, &[], &[("t", 0)])),
            (0xA2, unsubscribe(level, 1, &["t"])),
            (0xC0, vec![0xC0, 0]),
            (0xE0, vec![0xE0, 0]),
        ] {
            for flags in [0, 1, 2, 3, 4, 8, 15] {
                bytes[0] = (right & 0xF0) | flags;
                if bytes[0] != right {
                    packets.push(bytes.clone());
                }
            }
        }
        packets.push(vec![0x00, 0]);
        each_ends(level, "flags", 0x81, &packets);
    }
}

/// 5.0: 3.3.1-2 3.3.1-4 2.2.1-2 2.2.1-3
/// 3.1.1: 3.3.1-2 3.3.1-4 2.3.1-1 2.3.1-5
#[test]
fn quality_of_service_and_packet_ids_are_checked() {
    for level in BOTH {
        each_ends(
            level,
            "qos",
            0x81,
            &[
                publish(level, 0x06, "t", 1, &[], b"x"), // QoS 3
                publish(level, 0x0E, "t", 1, &[], b"x"),
                publish(level, 0x08, "t", 1, &[], b"x"), // DUP with QoS 0
            ],
        );
        each_ends(
            level,
            "id-0",
            0,
            &[
                publish(level, 2, "t", 0, &[], b"x"),
                publish(level, 4, "t", 0, &[], b"x"),
                subscribe(level, 0, &[], &[("t", 0)]),
                unsubscribe(level, 0, &["t"]),
                ack(0x40, 0),
                ack(0x62, 0),
            ],
        );
        // QoS 0 has none: what stands there is payload.
        let mut client = Client::clean(at(), level, &format!("no-id-{level}"));
        client.subscribe(&[("no-id", 0)]);
        client.send(&publish(level, 0, "no-id", 0, &[], b"payload"));
        let got = client.receive();
        assert_eq!((got.qos, &got.payload[..]), (0, &b"payload"[..]));
    }
}

/// 5.0: 3.3.2-2 4.7.0-1 4.7.3-1 3.3.2-14
/// 3.1.1: 3.3.2-2 4.7.1-1 4.7.3-1
#[test]
fn topic_names_have_no_wildcards_and_are_not_empty() {
    for level in BOTH {
        let bad = ["a/#", "+", "#", "a/+/b", "a+"];
        let packets: Vec<_> = bad.iter().map(|t| publish(level, 0, t, 0, &[], b"x")).collect();
        each_ends(level, "wild", 0x90, &packets);
        each_ends(level, "empty", 0, &[publish(level, 0, "", 0, &[], b"x")]);
    }
    let response = |t: &str| [&[0x08][..], &string(t)].concat();
    each_ends(
        5,
        "response",
        0x82,
        &[
            publish(5, 0, "t", 0, &response("a/#"), b"x"),
            publish(5, 0, "t", 0, &response("+"), b"x"),
        ],
    );
}

/// 5.0: 3.8.3-1 3.8.3-2 3.8.3-4 3.8.3-5 3.10.3-1 3.10.3-2 4.7.1-1 4.7.1-2 4.8.2-1 4.8.2-2
/// 3.1.1: 3.8.3-1 3.8.3-3 3.8.3-4 3.10.3-1 3.10.3-2 4.7.1-2 4.7.1-3
#[test]
fn filters_and_options_are_checked() {
    for level in BOTH {
        let bad = ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a/b+/c", "a\0"];
        let packets: Vec<_> = bad
            .iter()
            .flat_map(|f| {
                [subscribe(level, 1, &[], &[("ok", 0), (f, 0)]), unsubscribe(level, 1, &[f])]
            })
            .collect();
        each_ends(level, "filter", 0, &packets);
        each_ends(
            level,
            "none",
            0x82,
            &[subscribe(level, 1, &[], &[]), unsubscribe(level, 1, &[])],
        );
        each_ends(
            level,
            "options",
            0x81,
            &[
                subscribe(level, 1, &[], &[("t", 0x03)]),
                subscribe(level, 1, &[], &[("t", 0x40)]),
                subscribe(level, 1, &[], &[("t", 0x80)]),
            ],
        );
    }
    each_ends(4, "options-4", 0, &[subscribe(4, 1, &[], &[("t", 0x04)])]);
    each_ends(5, "handling", 0x82, &[subscribe(5, 1, &[], &[("t", 0x30)])]);
    each_ends(
        5,
        "shared",
        0x8F,
        &[
            subscribe(5, 1, &[], &[("$share/g", 0)]),
            subscribe(5, 1, &[], &[("$share//t", 0)]),
            subscribe(5, 1, &[], &[("$share/g+/t", 0)]),
            subscribe(5, 1, &[], &[("$share/#/t", 0)]),
            subscribe(5, 1, &[], &[("$share/g/", 0)]),
        ],
    );
    each_ends(5, "shared-local", 0x82, &[subscribe(5, 1, &[], &[("$share/g/t", 4)])]);
}

/// 5.0: 3.3.4-6 3.3.2-8 2.2.2-1
#[test]
fn properties_are_checked() {
    each_ends(
        5,
        "property",
        0x82,
        &[
            publish(5, 0, "t", 0, &[0x0B, 1], b""), // subscription identifier from a client
            publish(5, 0, "t", 0, &[0x01, 0, 0x01, 0], b""), // twice
            publish(5, 0, "t", 0, &[0x01, 2], b""), // no boolean
            subscribe(5, 1, &[0x0B, 0], &[("t", 0)]),
            subscribe(5, 1, &[0x0B, 1, 0x0B, 2], &[("t", 0)]),
        ],
    );
    each_ends(
        5,
        "property-bad",
        0x81,
        &[
            publish(5, 0, "t", 0, &[0x11, 0, 0, 0, 1], b""), // not of this packet
            publish(5, 0, "t", 0, &[0x7F], b""),             // unknown
            publish(5, 0, "t", 0, &[0x02, 0], b""),          // cut short
            packet(0x30, &[0, 1, b't', 9, 1, 0]),            // longer than the packet
            subscribe(5, 1, &[0x01, 0], &[("t", 0)]),
        ],
    );
    each_ends(5, "alias-0", 0x94, &[publish(5, 0, "t", 0, &two(0x23, 0), b"")]);
    // An acknowledgement with properties is no mistake.
    let mut client = Client::clean(at(), 5, "ack-properties");
    let mut body = vec![0, 9, 0x10];
    body.extend(properties(&user("a", "b")));
    client.send(&packet(0x40, &body));
    client.nothing_more();
}

/// 5.0: 3.4.2-1 3.5.2-1 3.6.2-1 3.7.2-1
#[test]
fn only_listed_reason_codes_are_taken() {
    for (first, good, bad) in [
        (0x40, 0x87, [0x01, 0x92]),
        (0x50, 0x99, [0x01, 0x92]),
        (0x62, 0x92, [0x10, 0x80]),
        (0x70, 0x92, [0x10, 0x80]),
    ] {
        let mut client = Client::clean(at(), 5, &format!("reason-{first}"));
        client.send(&packet(first, &[0, 9, good]));
        if first == 0x62 {
            assert_eq!(client.expect(0x70, 9).reason(), 0x92);
        }
        client.nothing_more();
        let packets = bad.map(|code| packet(first, &[0, 9, code]));
        each_ends(5, &format!("reason-{first}"), 0x82, &packets);
    }
}

/// 5.0: 4.12.0-7 4.12.0-6
#[test]
fn auth_without_a_method_ends_the_connection() {
    let method = [&[0x15][..], &string("SCRAM-SHA-256")].concat();
    let mut body = vec![0x19];
    body.extend(properties(&method));
    each_ends(5, "auth", 0x82, &[packet(0xF0, &body), packet(0xF0, &[])]);
    each_ends(4, "auth", 0, &[packet(0xF0, &body)]);
}

/// 5.0: 3.2.2-15
#[test]
fn a_packet_beyond_the_maximum_ends_the_connection_at_its_header() {
    let mut client = Client::clean(at(), 5, "too-large");
    let max = 16 * 1024 * 1024 + 64 * 1024;
    client.send(&[&[0x30][..], &conformance::wire::var_int(max)].concat());
    client.closed(0x95);
}
