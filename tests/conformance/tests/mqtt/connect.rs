//! CONNECT and CONNACK, PINGREQ, DISCONNECT.

use conformance::broker::{Broker, Options};
use conformance::wire::{Client, Connect, four, packet, publish, string, subscribe, two};
use mqtt_gateway::Settings;

use crate::{BOTH, at};

/// 5.0: 3.1.0-1 4.13.1-1
/// 3.1.1: 3.1.0-1 4.8.0-1
#[test]
fn the_first_packet_is_connect() {
    for level in BOTH {
        for first in [
            publish(level, 0, "t", 0, &[], b"x"),
            subscribe(level, 1, &[], &[("t", 0)]),
            vec![0xC0, 0],
            vec![0xE0, 0],
            vec![0x20, 2, 0, 0],
        ] {
            let mut client = Client::open(at(), 4);
            client.send(&first);
            client.closed(0);
        }
    }
}

/// 5.0: 3.1.0-2
/// 3.1.1: 3.1.0-2
#[test]
fn a_second_connect_ends_the_connection() {
    for level in BOTH {
        let connect = Connect::new(level, &format!("second-{level}"));
        let mut client = Client::connect(at(), &connect);
        client.send(&connect.bytes());
        client.closed(0x82);
    }
}

/// 5.0: 3.1.2-1 3.1.2-2 3.14.0-1 3.2.2-7
/// 3.1.1: 3.1.2-1 3.1.2-2
#[test]
fn another_protocol_or_version_is_refused() {
    let newer = Connect { level: 6, ..Connect::new(5, "version") };
    let (mut client, connack) = Client::try_connect(at(), &newer);
    assert_eq!(connack.body[..2], [0, 0x84]);
    client.closed(0);
    for level in [0, 1, 2, 35] {
        let mut client = Client::open(at(), 4);
        client.send(&Connect { level, properties: vec![], ..Connect::new(4, "version") }.bytes());
        let connack = client.read();
        assert_eq!((connack.first, connack.body[0]), (0x20, 0));
        assert!([0x01, 0x84].contains(&connack.body[1]));
        client.closed(0);
    }
    for (name, level) in [("MQTt", 4), ("MQTTX", 5), ("AMQP", 4), ("", 4)] {
        let mut client = Client::open(at(), 4);
        client.send(&Connect { name: name.into(), ..Connect::new(level, "name") }.bytes());
        if let Ok(connack) = client.try_read() {
            assert_eq!(connack.first, 0x20);
            assert!([0x01, 0x84].contains(&connack.body[1]), "{connack:?}");
            client.closed(0);
        }
    }
}

/// 3.1.1: 7.0.0-2
#[test]
fn mqtt_3_1_is_spoken() {
    let mut client = Client::clean(at(), 3, "three-one");
    assert_eq!(client.subscribe(&[("three-one", 1)]), [1]);
    client.publish(2, "three-one", 5, b"x");
    assert_eq!(client.receive().payload, b"x");
}

/// 5.0: 3.1.2-3 3.1.4-1
/// 3.1.1: 3.1.2-3 3.1.4-1
#[test]
fn the_reserved_flag_is_checked() {
    for level in BOTH {
        let mut client = Client::open(at(), 4);
        client.send(&Connect { flags: 1, ..Connect::new(level, "reserved") }.bytes());
        client.closed(0);
    }
}

/// 5.0: 3.1.2-9 3.1.2-11 3.1.2-12 3.1.2-13 3.1.2-16 3.1.2-17 3.1.2-18 3.1.2-19 3.1.3-1 3.1.3-3 3.1.3-4 3.1.3-11 3.1.3-12
/// 3.1.1: 3.1.2-9 3.1.2-11 3.1.2-13 3.1.2-14 3.1.2-15 3.1.2-18 3.1.2-19 3.1.2-20 3.1.2-21 3.1.2-22 3.1.3-1 3.1.3-3 3.1.3-4 3.1.3-10 3.1.3-11
#[test]
fn a_connect_whose_flags_and_fields_differ_is_refused() {
    for level in BOTH {
        let plain = Connect::new(level, "fields");
        let mut bad = vec![
            Connect { flags: 0x08, ..plain.clone() }, // Will QoS without will
            Connect { flags: 0x20, ..plain.clone() }, // Will Retain without will
            Connect { flags: 0x04, ..plain.clone() }, // will flag, no will
            Connect { flags: 0x80, ..plain.clone() }, // user name flag, no user name
            Connect { flags: 0x40, ..plain.clone() }, // password flag, no password
            plain.clone().will("w", b"x", 3, false),
            plain.clone().will("w/#", b"x", 0, false),
            plain.clone().will("w\0", b"x", 0, false),
            Connect { id: "null\0".into(), ..plain.clone() },
            Connect { user: Some("null\0".into()), ..plain.clone() },
        ];
        if level == 4 {
            bad.push(Connect { password: Some(b"x".to_vec()), ..plain.clone() });
        }
        for connect in bad {
            refused(&connect.bytes(), level);
        }
        // A field that no flag announces, and no client identifier at all.
        let mut extra = plain.bytes();
        extra[1] += 3;
        extra.extend(string("x"));
        refused(&extra, level);
        let mut none = string("MQTT");
        none.extend([level, 2, 0, 0]);
        if level == 5 {
            none.push(0);
        }
        refused(&packet(0x10, &none), level);
    }
}

/// The broker closes, in 5 perhaps after a CONNACK that says why.
fn refused(bytes: &[u8], level: u8) {
    let mut client = Client::open(at(), 4);
    client.send(bytes);
    match client.try_read() {
        Ok(packet) => {
            assert_eq!((packet.first, packet.body[0], level), (0x20, 0, 5), "{packet:?}");
            assert!(packet.body[1] >= 0x80);
            client.closed(0);
        }
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "still open"),
    }
}

/// 5.0: 3.1.4-5 3.2.0-1 3.2.0-2 3.2.2-1 3.2.2-2 3.1.3-5 3.1.3-2
/// 3.1.1: 3.1.4-4 3.2.0-1 3.2.2-1 3.1.3-5 3.1.3-2
#[test]
fn an_accepted_connect_is_answered_once_and_first() {
    let alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for level in BOTH {
        for id in ["x", &alphabet[..23], &alphabet[23..46], &alphabet[39..]] {
            let mut client = Client::open(at(), level);
            let connect = Connect::new(level, id).bytes();
            // All at once: the answer to CONNECT comes first all the same.
            let rest = subscribe(level, 7, &[], &[("first-answer", 0)]);
            client.send(&[connect, rest, vec![0xC0, 0]].concat());
            let connack = client.read();
            assert_eq!((connack.first, &connack.body[..2]), (0x20, &[0, 0][..]));
            client.expect(0x90, 7);
            assert_eq!(client.read().first, 0xD0);
            client.nothing_more();
        }
    }
}

/// 5.0: 3.1.3-6 3.1.3-7 3.2.2-16
/// 3.1.1: 3.1.3-6 3.1.3-7 3.1.3-8 3.2.2-4 3.2.2-5
#[test]
fn an_empty_client_id_is_filled_in() {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (_client, connack) = Client::try_connect(at(), &Connect::new(5, ""));
        let id = connack.property(0x12).expect("told");
        assert!(id.len() > 2 && !seen.contains(&id));
        seen.push(id);
    }
    // The id is as good as one that was sent: who sends it takes the connection over.
    let (mut first, connack) = Client::try_connect(at(), &Connect::new(5, ""));
    let id = String::from_utf8(connack.property(0x12).expect("told")[2..].to_vec()).expect("utf-8");
    let _second = Client::clean(at(), 5, &id);
    first.closed(0x8E);
    let mut old = Client::clean(at(), 4, "");
    old.nothing_more();
    let (mut client, connack) =
        Client::try_connect(at(), &Connect { clean: false, ..Connect::new(4, "") });
    assert_eq!(connack.body, [0, 2]);
    client.closed(0);
}

/// 5.0: 3.1.3-8 3.2.2-6 3.1.4-6
/// 3.1.1: 3.1.3-9 3.1.4-5
#[test]
fn a_client_id_that_is_too_long_is_refused() {
    for (level, code) in [(4, 2), (5, 0x85)] {
        let id = "x".repeat(1_025);
        let mut client = Client::open(at(), level);
        let after = publish(level, 1, "refused/after", 0, &[], b"must not be stored");
        client.send_anyway(&[Connect::new(level, &id).bytes(), after].concat());
        assert_eq!(client.read().body[..2], [0, code]);
        client.closed(0);
    }
    let mut reader = Client::clean(at(), 5, "refused-reader");
    reader.subscribe(&[("refused/after", 0)]);
    reader.nothing_more();
}

/// 5.0: 3.1.4-3 3.1.4-4
/// 3.1.1: 3.1.4-2
#[test]
fn a_newer_connection_takes_over() {
    for level in BOTH {
        let id = format!("taken-{level}");
        let mut older = Client::clean(at(), level, &id);
        let mut newer = Client::clean(at(), level, &id);
        older.closed(0x8E);
        newer.nothing_more();
    }
}

/// 5.0: 3.1.2-22 3.2.2-22
/// 3.1.1: 3.1.2-24
#[test]
fn silence_beyond_the_keep_alive_ends_the_connection() {
    for level in BOTH {
        let connect = Connect { keep_alive: 1, ..Connect::new(level, &format!("silent-{level}")) };
        let (mut silent, connack) = Client::try_connect(at(), &connect);
        if level == 5 {
            assert_eq!(connack.property(0x13), None, "the client's own value holds");
        }
        let started = std::time::Instant::now();
        silent.closed(0x8D);
        assert!(started.elapsed().as_millis() >= 1_500, "not before one and a half");
    }
}

/// 5.0: 3.1.2-21
#[test]
fn a_keep_alive_that_is_too_long_is_replaced() {
    let settings = Settings { keep_alive_s_max: 60, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    for (asked, told) in [(0, Some(60u16)), (61, Some(60)), (60, None), (5, None)] {
        let connect = Connect { keep_alive: asked, ..Connect::new(5, "keep-alive") };
        let (_, connack) = Client::try_connect(broker.address(), &connect);
        assert_eq!(connack.property(0x13), told.map(|s| s.to_be_bytes().to_vec()), "{asked}");
    }
    let mut old = Client::connect(broker.address(), &Connect::new(4, "keep-alive-old"));
    old.nothing_more();
}

/// 5.0: 3.12.4-1
/// 3.1.1: 3.12.4-1
#[test]
fn a_ping_is_answered() {
    for level in BOTH {
        let mut client = Client::clean(at(), level, &format!("ping-{level}"));
        client.send(&[0xC0, 0, 0xC0, 0]);
        for _ in 0..2 {
            let pong = client.read();
            assert_eq!((pong.first, pong.body.len()), (0xD0, 0));
        }
    }
}

/// 5.0: 3.14.1-1 3.14.2-1 3.14.2-2 3.14.4-1 3.14.4-2 4.13.2-1
/// 3.1.1: 3.14.1-1 3.14.4-1 3.14.4-2
#[test]
fn disconnect_ends_the_connection() {
    for level in BOTH {
        Client::clean(at(), level, &format!("end-{level}")).disconnect();
        let mut client = Client::clean(at(), level, &format!("flags-{level}"));
        client.send(&[0xE1, 0]);
        client.closed(0x81);
    }
    // A reason code that clients do not have, and what a server says carries no session expiry.
    for body in [&[0x01][..], &[0x8B], &[0x00, 5, 0x11, 0, 0, 0, 9]] {
        let mut client = Client::clean(at(), 5, "disconnect-code");
        client.send(&packet(0xE0, body));
        let said = client.read();
        assert_eq!((said.first, said.reason()), (0xE0, 0x82));
        assert_eq!(said.property(0x11), None);
        client.closed(0);
    }
    let mut client = Client::clean(at(), 5, "disconnect-code");
    client.send(&packet(0xE0, &[0x80, 0]));
    client.closed(0);
}

/// 5.0: 3.1.2-28 3.2.2-8 2.2.2-1
#[test]
fn connack_says_what_was_asked_for_and_what_holds() {
    for request in [vec![], vec![0x19, 0], vec![0x19, 1]] {
        let connect = Connect { properties: request, ..Connect::new(5, "connack") };
        let (_, connack) = Client::try_connect(at(), &connect);
        assert_eq!(connack.body[..2], [0, 0]);
        assert_eq!(connack.property(0x1A), None, "no response information");
        assert_eq!(connack.property(0x21), Some(256u16.to_be_bytes().to_vec()));
        assert_eq!(connack.property(0x22), Some(32u16.to_be_bytes().to_vec()));
        assert_eq!(connack.property(0x15), None);
    }
}

/// 5.0: 3.2.2-19 3.2.2-20 3.14.2-3 3.14.2-4
#[test]
fn a_reason_string_never_makes_a_packet_too_large() {
    for (size, has_text) in [(10, false), (200, true)] {
        let connect = Connect { properties: four(0x27, size), ..Connect::new(5, "small") };
        let mut client = Client::open(at(), 5);
        client.send(&connect.bytes());
        let connack = client.read();
        assert_eq!(connack.body[1], 0, "{connack:?}");
        client.send(&[0x00, 0]);
        let said = client.read();
        assert_eq!((said.first, said.reason()), (0xE0, 0x81));
        assert!(said.body.len() + 2 <= size as usize);
        assert_eq!(said.property(0x1F).is_some(), has_text);
    }
}

/// 5.0: 3.1.4-2
#[test]
fn a_connect_that_never_ends_is_given_up() {
    let settings = Settings { connect_s_max: 1, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    for bytes in [&[][..], &[0x10], &[0x10, 50, 0, 4, b'M']] {
        let mut client = Client::open(broker.address(), 4);
        client.send(bytes);
        client.closed(0);
    }
}

#[test]
fn session_expiry_is_capped_and_told() {
    let settings = Settings { session_expiry_s_max: 100, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    for (asked, told) in [(0u32, None), (100, None), (101, Some(100u32)), (u32::MAX, Some(100))] {
        let connect = Connect { properties: four(0x11, asked), ..Connect::new(5, "capped") };
        let (client, connack) = Client::try_connect(broker.address(), &connect);
        assert_eq!(connack.property(0x11), told.map(|s| s.to_be_bytes().to_vec()), "{asked}");
        client.disconnect();
    }
    let mut client = Client::open(broker.address(), 5);
    client.send(&Connect { properties: two(0x21, 0), ..Connect::new(5, "zero") }.bytes());
    assert_eq!(client.read().body[1], 0x82);
}
