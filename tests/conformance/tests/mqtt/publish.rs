//! PUBLISH from a client and on to others; acknowledgements.

use conformance::wire::{
    Client, Connect, ack, binary, four, packet, publish, string, subscribe, text_property, user,
};

use crate::{BOTH, at};

/// 5.0: 3.3.4-1 4.3.1-1 4.3.2-4 4.3.3-8 4.3.3-11 2.2.1-5 3.3.2-3
/// 3.1.1: 3.3.4-1 4.3.1-1 2.3.1-6 3.3.2-3
#[test]
fn every_qos_is_answered_as_it_demands() {
    for level in BOTH {
        let topic = format!("answered/{level}");
        let mut reader = Client::clean(at(), level, &format!("answered-r-{level}"));
        reader.subscribe(&[(&topic, 2)]);
        let mut writer = Client::clean(at(), level, &format!("answered-w-{level}"));
        writer.send(&publish(level, 0, &topic, 0, &[], b"0"));
        writer.nothing_more();
        writer.send(&publish(level, 2, &topic, 1_000, &[], b"1"));
        assert_eq!(writer.expect(0x40, 1_000).reason(), 0);
        writer.send(&publish(level, 4, &topic, 65_535, &[], b"2"));
        assert_eq!(writer.expect(0x50, 65_535).reason(), 0);
        writer.send(&ack(0x62, 65_535));
        assert_eq!(writer.expect(0x70, 65_535).reason(), 0);
        writer.nothing_more();
        for qos in 0..3 {
            let got = reader.receive();
            assert_eq!((got.qos, got.dup, got.topic.as_str()), (qos, false, topic.as_str()));
            assert_eq!(got.payload, qos.to_string().into_bytes());
        }
        reader.nothing_more();
    }
}

/// 5.0: 3.4.2-1 3.5.2-1 4.5.0-1
#[test]
fn who_publishes_to_nobody_is_told() {
    let mut writer = Client::clean(at(), 5, "nobody");
    assert_eq!(writer.publish(2, "nobody/there", 1, b"x"), 0x10);
    assert_eq!(writer.publish(4, "nobody/there", 2, b"x"), 0x10);
    let mut reader = Client::clean(at(), 5, "somebody");
    reader.subscribe(&[("nobody/+", 0)]);
    assert_eq!(writer.publish(2, "nobody/there", 1, b"x"), 0);
    assert_eq!(writer.publish(4, "nobody/there", 2, b"x"), 0);
}

/// 5.0: 4.3.3-10 4.3.3-12 3.3.1-3 4.3.2-5
/// 3.1.1: 4.3.3-2 3.3.1-3 4.3.2-2 3.3.1-1
#[test]
fn a_repeat_of_qos_2_is_answered_and_not_delivered_again() {
    for level in BOTH {
        for kept in [false, true] {
            let name = format!("repeat-{level}-{kept}");
            let mut reader = Client::clean(at(), level, &format!("{name}-r"));
            reader.subscribe(&[(&name, 2)]);
            let connect =
                if kept { Connect::kept(level, &name) } else { Connect::new(level, &name) };
            let mut writer = Client::connect(at(), &connect);
            writer.send(&publish(level, 4, &name, 9, &[], b"once"));
            writer.expect(0x50, 9);
            for _ in 0..2 {
                writer.send(&publish(level, 12, &name, 9, &[], b"once"));
                writer.expect(0x50, 9);
            }
            writer.send(&ack(0x62, 9));
            writer.expect(0x70, 9);
            let got = reader.receive();
            assert_eq!((got.payload, got.dup), (b"once".to_vec(), false));
            // The id is free: what comes under it now is new, whatever DUP says.
            assert_eq!(writer.publish(12, &name, 9, b"new"), 0);
            let got = reader.receive();
            assert_eq!((got.payload, got.dup), (b"new".to_vec(), false));
            // QoS 1: after PUBACK the same.
            for payload in [b"a", b"b"] {
                assert_eq!(writer.publish(10, &name, 9, payload), 0);
                let got = reader.receive();
                assert_eq!((&got.payload[..], got.dup), (&payload[..], false));
            }
            reader.nothing_more();
        }
    }
}

/// 5.0: 4.3.3-11 3.7.2-1
/// 3.1.1: 4.3.3-2
#[test]
fn a_pubrel_for_nothing_is_answered() {
    for level in BOTH {
        for kept in [false, true] {
            let id = format!("release-{level}-{kept}");
            let connect = if kept { Connect::kept(level, &id) } else { Connect::new(level, &id) };
            let mut client = Client::connect(at(), &connect);
            client.send(&ack(0x62, 77));
            assert_eq!(client.expect(0x70, 77).reason(), if level == 5 { 0x92 } else { 0 });
        }
    }
}

/// 5.0: 3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-18 3.3.2-20 3.3.2-13 3.3.2-19
#[test]
fn properties_are_passed_on_as_they_are() {
    let mut all = vec![0x01, 1];
    all.extend(text_property(0x03, "text/plain; \u{1F980}"));
    all.extend(text_property(0x08, "answer/here"));
    all.extend([&[0x09][..], &binary(&[0, 255, 1, 128])].concat());
    for (name, value) in [("b", "2"), ("a", "1"), ("b", "2"), ("", ""), ("b", "1")] {
        all.extend(user(name, value));
    }
    for (options, connect) in [
        (2, Connect::new(5, "properties-live")),
        (0, Connect::new(5, "properties-zero")),
        (1, Connect::kept(5, "properties-kept")),
    ] {
        let topic = format!("properties/{}", connect.id);
        let mut reader = Client::connect(at(), &connect);
        reader.subscribe(&[(&topic, options)]);
        let mut writer = Client::clean(at(), 5, &format!("{}-w", connect.id));
        assert_eq!(writer.publish_with(2, &topic, 1, &all, b"text"), 0);
        let got = reader.receive();
        let (mut want, _) = {
            let bytes = conformance::wire::properties(&all);
            let (list, rest) = conformance::wire::read_properties(&bytes);
            (list, rest.len())
        };
        let users = |list: &[(u8, Vec<u8>)]| {
            list.iter().filter(|p| p.0 == 0x26).cloned().collect::<Vec<_>>()
        };
        assert_eq!(users(&got.properties), users(&want), "in their order");
        let mut others = got.properties.clone();
        others.sort();
        want.sort();
        assert_eq!(others, want, "nothing is added, nothing left out");
        // Nothing at all is added where there was nothing.
        assert_eq!(writer.publish(2, &topic, 1, b"bare"), 0);
        assert_eq!(reader.receive().properties, []);
    }
    // A client of 3.1.1 gets the payload.
    let mut old = Client::clean(at(), 4, "properties-old");
    old.subscribe(&[("properties/old", 1)]);
    let mut writer = Client::clean(at(), 5, "properties-old-w");
    writer.publish_with(2, "properties/old", 1, &all, b"text");
    assert_eq!(old.receive().payload, b"text");
}

/// 5.0: 3.4.2-1 3.5.2-1 4.3.3-9
#[test]
fn a_payload_that_is_not_what_it_is_said_to_be_is_refused() {
    let mut reader = Client::clean(at(), 5, "format-r");
    reader.subscribe(&[("format", 2)]);
    let mut writer = Client::clean(at(), 5, "format-w");
    assert_eq!(writer.publish_with(2, "format", 1, &[1, 1], &[0xFF]), 0x99);
    assert_eq!(writer.publish_with(4, "format", 1, &[1, 1], &[0xFF]), 0x99);
    // After the refusal the id means a new message.
    assert_eq!(writer.publish_with(4, "format", 1, &[1, 0], &[0xFF]), 0);
    assert_eq!(reader.receive().payload, [0xFF]);
    reader.nothing_more();
    writer.send(&publish(5, 0, "format", 0, &[1, 1], &[0xFF]));
    writer.closed(0x99);
}

/// 5.0: 3.1.2-29 3.4.2-2 3.4.2-3 3.5.2-2 3.5.2-3
#[test]
fn reason_strings_come_where_they_are_wanted_and_fit() {
    let refused = |props: Vec<u8>, id: &str| {
        let connect = Connect { properties: props, ..Connect::new(5, id) };
        let mut client = Client::connect(at(), &connect);
        let mut answers = Vec::new();
        for (first, answer) in [(2, 0x40), (4, 0x50)] {
            client.send(&publish(5, first, "$SYS/x", 5, &[], b"x"));
            let got = client.expect(answer, 5);
            assert_eq!(got.reason(), 0x87);
            answers.push(got.body.len());
        }
        answers
    };
    assert!(refused(vec![], "reason-default").iter().all(|len| *len > 4));
    assert!(refused(vec![0x17, 1], "reason-wanted").iter().all(|len| *len > 4));
    assert_eq!(refused(vec![0x17, 0], "reason-unwanted"), [3, 3]);
    assert_eq!(refused(four(0x27, 12), "reason-small"), [3, 3]);
}

/// 5.0: 3.3.2-5 3.3.2-6
#[test]
fn a_message_expires() {
    let mut kept = Client::connect(at(), &Connect::kept(5, "expiry-kept"));
    kept.subscribe(&[("expiry/+", 1)]);
    kept.disconnect();
    let mut live = Client::clean(at(), 5, "expiry-live");
    live.subscribe(&[("expiry/+", 1)]);
    let mut writer = Client::clean(at(), 5, "expiry-w");
    writer.publish_with(2, "expiry/short", 1, &four(0x02, 1), b"short");
    writer.publish_with(2, "expiry/long", 2, &four(0x02, 100), b"long");
    let mut retained = publish(5, 3, "expiry/retained", 3, &four(0x02, 1), b"retained");
    retained[0] |= 1;
    writer.send(&retained);
    writer.expect(0x40, 3);
    for (topic, seconds) in [("short", 1u32), ("long", 100), ("retained", 1)] {
        let got = live.receive();
        assert_eq!(got.topic, format!("expiry/{topic}"));
        assert_eq!(got.property(0x02), [seconds.to_be_bytes().to_vec()]);
    }
    // Not before its second is over.
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(1_200);
    while std::time::Instant::now() < deadline {
        live.nothing_more();
    }
    let mut kept = Client::connect(at(), &Connect::kept(5, "expiry-kept"));
    let got = kept.receive();
    assert_eq!(got.topic, "expiry/long", "the short one is gone");
    let left = u32::from_be_bytes(got.property(0x02)[0][..].try_into().expect("four bytes"));
    assert!((90..100).contains(&left), "{left}");
    kept.nothing_more();
    let mut late = Client::clean(at(), 5, "expiry-late");
    late.subscribe(&[("expiry/retained", 1)]);
    late.nothing_more();
}

/// 5.0: 4.6.0-5 4.6.0-6
/// 3.1.1: 4.6.0-5 4.6.0-6
#[test]
fn order_is_kept() {
    for level in BOTH {
        for (qos, kept) in [(0, false), (1, false), (2, false), (1, true), (2, true)] {
            let id = format!("order-{level}-{qos}-{kept}");
            let connect = if kept { Connect::kept(level, &id) } else { Connect::new(level, &id) };
            let mut reader = Client::connect(at(), &connect);
            reader.subscribe(&[(&id, qos)]);
            let mut writer = Client::clean(at(), level, &format!("{id}-w"));
            let mut bytes = Vec::new();
            for n in 1..=100u16 {
                bytes.extend(publish(level, qos << 1, &id, n, &[], &n.to_be_bytes()));
            }
            writer.send(&bytes);
            for n in 1..=100u16 {
                assert_eq!(reader.receive().payload, n.to_be_bytes(), "{id}");
            }
            for n in 1..=100u16 {
                // Answers come in the order of the publishes.
                if qos > 0 {
                    writer.expect(0x30 + (qos << 4), n);
                }
            }
        }
    }
}

/// 5.0: 3.3.1-2 3.3.1-3
#[test]
fn an_answer_comes_before_the_own_message_comes_back() {
    for level in BOTH {
        let topic = format!("own/{level}");
        let mut client = Client::clean(at(), level, &format!("own-{level}"));
        client.send(&subscribe(level, 3, &[], &[(&topic, 1)]));
        client.send(&publish(level, 2, &topic, 4, &[], b"x"));
        client.expect(0x90, 3);
        client.expect(0x40, 4);
        assert_eq!(client.receive().payload, b"x");
    }
}

/// 5.0: 4.2-1
/// 3.1.1: 7.1.1-1
#[test]
fn packets_may_be_cut_anywhere() {
    let mut client = Client::open(at(), 5);
    let all = [
        Connect::new(5, "cut").bytes(),
        subscribe(5, 1, &[], &[("cut", 0)]),
        publish(5, 2, "cut", 2, &user("k", "v"), b"payload"),
    ]
    .concat();
    for byte in all {
        client.send(&[byte]);
    }
    assert_eq!(client.read().first, 0x20);
    client.expect(0x90, 1);
    client.expect(0x40, 2);
    assert_eq!(client.receive().payload, b"payload");
    let large = vec![7; 3_000_000];
    client.send(&packet(0x30, &[&string("cut")[..], &[0], &large].concat()));
    assert_eq!(client.receive().payload, large);
}
