//! Retained messages.

use conformance::wire::{Client, Connect, publish, subscribe, user};

use crate::{BOTH, at};

/// Publishes a retained message of QoS 1.
fn retain(level: u8, topic: &str, payload: &[u8]) {
    retain_by(&mut Client::clean(at(), level, ""), topic, payload);
}

fn retain_by(writer: &mut Client, topic: &str, payload: &[u8]) {
    assert!(writer.publish(3, topic, 1, payload) < 0x80);
}

/// 5.0: 3.3.1-5 3.3.1-9 3.3.1-8
/// 3.1.1: 3.3.1-5 3.3.1-6 3.3.1-7 3.3.1-8 3.3.1-12 3.1.2-7
#[test]
fn a_new_subscription_gets_the_last_retained_message() {
    for level in BOTH {
        let name = format!("retained-{level}");
        let (a, b) = (format!("{name}/a"), format!("{name}/b"));
        retain(level, &a, b"old");
        retain(level, &a, b"new");
        let mut writer = Client::clean(at(), level, &format!("{name}-w"));
        writer.publish(2, &a, 1, b"not retained");
        writer.send(&publish(level, 1, &b, 0, &[], b"qos 0"));
        // QoS 0 has no answer: what is answered behind it in every shard has.
        (0..8).for_each(|n| retain_by(&mut writer, &format!("retained-behind/{level}/{n}"), b"x"));
        let mut client = Client::clean(at(), level, &format!("{name}-r"));
        client.subscribe(&[(&format!("{name}/+"), 1)]);
        let mut got = [client.receive(), client.receive()];
        client.nothing_more();
        got.sort_by(|x, y| x.topic.cmp(&y.topic));
        assert!(got.iter().all(|m| m.retain));
        assert_eq!((&got[0].topic, &got[0].payload[..], got[0].qos), (&a, &b"new"[..], 1));
        assert_eq!((&got[1].topic, &got[1].payload[..], got[1].qos), (&b, &b"qos 0"[..], 0));
    }
}

/// 5.0: 3.3.1-6 3.3.1-7
/// 3.1.1: 3.3.1-9 3.3.1-10 3.3.1-11
#[test]
fn an_empty_retained_message_deletes_and_is_delivered() {
    for level in BOTH {
        let topic = format!("deleted-{level}");
        retain(level, &topic, b"x");
        let mut live = Client::clean(at(), level, &format!("{topic}-r"));
        live.subscribe(&[(&topic, 0)]);
        let got = live.receive();
        assert_eq!((got.retain, got.payload), (true, b"x".to_vec()));
        retain(level, &topic, b"");
        let got = live.receive();
        assert_eq!((got.retain, got.payload), (false, b"".to_vec()), "an established subscription");
        let mut late = Client::clean(at(), level, &format!("{topic}-late"));
        late.subscribe(&[(&topic, 0)]);
        late.nothing_more();
    }
}

/// 5.0: 3.3.1-10 3.3.1-11 3.8.4-4 3.8.4-3
/// 3.1.1: 3.8.4-3
#[test]
fn retain_handling_is_heeded() {
    let topic = "handling/x";
    retain(5, topic, b"x");
    let comes = |client: &mut Client, options: u8| {
        client.send(&subscribe(5, 5, &[0x0B, 1], &[("handling/+", options)]));
        client.expect(0x90, 5);
        // A marker behind it: the same topic by another subscription.
        client.send(&subscribe(5, 6, &[0x0B, 2], &[(topic, 0)]));
        let mut count = 0;
        loop {
            let packet = client.read();
            if packet.kind() != 3 {
                assert_eq!(packet.first, 0x90);
                continue;
            }
            let message = packet.publish(5);
            assert!(message.retain);
            if message.property(0x0B) == [vec![2]] {
                return count;
            }
            count += 1;
        }
    };
    for (first, again) in [(0x00, 1), (0x10, 0), (0x20, 0)] {
        let mut client = Client::clean(at(), 5, &format!("handling-{first}"));
        assert_eq!(comes(&mut client, first), usize::from(first != 0x20), "new, {first:#x}");
        assert_eq!(comes(&mut client, first), again, "again, {first:#x}");
    }
    let mut old = Client::clean(at(), 4, "handling-old");
    for _ in 0..2 {
        old.subscribe(&[(topic, 0)]);
        assert!(old.receive().retain, "3.1.1 sends them each time");
    }
}

/// 5.0: 3.3.1-12 3.3.1-13
#[test]
fn the_retain_flag_is_passed_on_where_that_is_asked_for() {
    for kept in [false, true] {
        for qos in [0, 1] {
            for (options, want) in [(0x00, false), (0x08, true)] {
                let name = format!("flag-{kept}-{qos}-{options}");
                let connect = if kept { Connect::kept(5, &name) } else { Connect::new(5, &name) };
                let mut client = Client::connect(at(), &connect);
                client.subscribe(&[(&name, options | qos)]);
                retain(5, &name, b"r");
                assert_eq!(client.receive().retain, want, "{name}");
                let mut writer = Client::clean(at(), 5, &format!("{name}-w"));
                writer.publish(2, &name, 1, b"n");
                assert!(!client.receive().retain, "as published");
            }
        }
    }
}

/// 5.0: 3.3.2-17 3.3.4-3
#[test]
fn a_retained_message_keeps_its_properties_and_has_the_identifier() {
    let mut writer = Client::clean(at(), 5, "retained-properties-w");
    writer.publish_with(3, "retained-properties", 1, &user("k", "v"), b"x");
    let mut client = Client::clean(at(), 5, "retained-properties-r");
    client.send(&subscribe(5, 5, &[0x0B, 9], &[("retained-properties", 1)]));
    client.expect(0x90, 5);
    let got = client.receive();
    assert_eq!(got.property(0x26), [user("k", "v")[1..].to_vec()]);
    assert_eq!(got.property(0x0B), [vec![9]]);
}

/// 5.0: 3.3.1-9
#[test]
fn a_shared_subscription_gets_no_retained_messages() {
    retain(5, "retained-shared", b"x");
    let mut client = Client::clean(at(), 5, "retained-shared");
    client.subscribe(&[("$share/g/retained-shared", 1)]);
    client.nothing_more();
}
