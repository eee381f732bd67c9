//! Retained messages.

use std::collections::BTreeMap;

use conformance::wire::{Client, Connect, ack, four, publish, subscribe, two, user};

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
        // What is retained comes filter by filter: behind the first there is nothing before the second.
        let marker = format!("{topic}-marker");
        retain(level, &marker, b"marker");
        for late in [
            Connect::new(level, &format!("{topic}-late")),
            Connect::kept(level, &format!("{topic}-kept")),
        ] {
            let mut late = Client::connect(at(), &late);
            late.subscribe(&[(&topic, 1), (&marker, 1)]);
            assert_eq!(late.receive().topic, marker);
        }
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
    retain(5, "retained-shared-marker", b"marker");
    client.subscribe(&[("$share/g/retained-shared", 1), ("retained-shared-marker", 1)]);
    assert_eq!(client.receive().payload, b"marker", "it would come before");
}

/// 5.0: 3.3.1-9 3.8.4-8 3.3.1-1 4.4.0-1
/// 3.1.1: 3.3.1-6 3.3.1-8 3.8.4-6 4.4.0-1
#[test]
fn a_kept_session_gets_retained_messages_as_granted_and_again_until_it_answers() {
    for level in BOTH {
        let name = format!("retained-kept-{level}");
        let mut writer = Client::clean(at(), level, &format!("{name}-w"));
        for qos in 0..3u8 {
            writer.send(&publish(level, 1 | qos << 1, &format!("{name}/{qos}"), 1, &[], &[qos]));
            match qos {
                1 => drop(writer.expect(0x40, 1)),
                2 => {
                    writer.expect(0x50, 1);
                    writer.send(&ack(0x62, 1));
                    writer.expect(0x70, 1);
                }
                _ => {}
            }
        }
        (0..8).for_each(|n| retain_by(&mut writer, &format!("retained-behind/{name}/{n}"), b"x"));
        for granted in 0..3u8 {
            let kept = Connect::kept(level, &format!("{name}-{granted}"));
            let mut client = Client::connect(at(), &kept);
            client.subscribe(&[(&format!("{name}/+"), granted)]);
            let got: BTreeMap<_, _> =
                (0..3).map(|_| client.read_publish()).map(|m| (m.payload[0], m)).collect();
            assert_eq!(got.len(), 3);
            assert!(got.values().all(|m| m.retain && !m.dup));
            assert!(got.iter().all(|(sent, m)| m.qos == granted.min(*sent)), "{granted}: {got:?}");
            client.nothing_more();
            drop(client);
            let mut client = Client::connect(at(), &kept);
            for _ in 0..got.values().filter(|m| m.qos > 0).count() {
                let again = client.receive();
                let first = &got[&again.payload[0]];
                assert!(again.dup && again.retain);
                assert_eq!((again.id, again.qos), (first.id, first.qos));
            }
            client.nothing_more();
            client.disconnect();
            Client::connect(at(), &kept).nothing_more();
        }
    }
}

/// 5.0: 3.3.1-9 3.3.4-9
/// 3.1.1: 3.3.1-6
#[test]
fn a_kept_session_gets_more_retained_messages_than_it_takes_at_once() {
    for level in BOTH {
        let name = format!("retained-many-{level}");
        let mut writer = Client::clean(at(), level, &format!("{name}-w"));
        for n in 0..300 {
            retain_by(&mut writer, &format!("{name}/{}/{n}", n % 7), format!("{n}").as_bytes());
        }
        let mut kept = Connect::kept(level, &name);
        if level == 5 {
            kept.properties.extend(two(0x21, 5));
        }
        let filter = format!("{name}/#");
        let mut client = Client::connect(at(), &kept);
        client.subscribe(&[(&filter, 1)]);
        let mut seen = std::collections::BTreeSet::new();
        let mut dropped = false;
        while seen.len() < 300 {
            if seen.len() == 120 && !std::mem::replace(&mut dropped, true) {
                // What was not copied yet is copied for the next connection.
                drop(client);
                client = Client::connect(at(), &kept);
            }
            let got = client.receive();
            // What was sent and not answered when the connection ended comes again.
            assert!(seen.insert(got.topic) || got.dup, "each once");
        }
        client.disconnect();
        Client::connect(at(), &kept).nothing_more();
    }
}

/// 5.0: 3.3.1-9 3.10.4-1 3.10.4-3
#[test]
fn an_unsubscribe_ends_the_retained_messages_that_are_not_under_way() {
    let name = "retained-ended";
    let mut writer = Client::clean(at(), 5, "retained-ended-w");
    (0..300).for_each(|n| retain_by(&mut writer, &format!("{name}/{n}"), b"x"));
    let mut kept = Connect::kept(5, name);
    kept.properties.extend(two(0x21, 5));
    let mut client = Client::connect(at(), &kept);
    client.subscribe(&[("retained-ended/#", 1)]);
    let first: Vec<_> = (0..5).map(|_| client.read_publish()).collect();
    client.send(&conformance::wire::unsubscribe(5, 9, &["retained-ended/#"]));
    client.expect(0xB0, 9);
    first.iter().for_each(|m| client.send(&ack(0x40, m.id)));
    let mut more = 0;
    client.send(&[0xC0, 0]);
    loop {
        let packet = client.read();
        match packet.kind() {
            3 => client.send(&ack(0x40, packet.publish(5).id)),
            _ => break,
        }
        more += 1;
    }
    assert!(more < 200, "{more} more: a page at most");
}

/// 5.0: 3.3.4-3 3.3.4-4 3.3.4-5
#[test]
fn a_kept_session_gets_the_identifiers_of_all_its_subscriptions() {
    let name = "identified";
    retain(5, "identified/a", b"kept");
    let mut client = Client::connect(at(), &Connect::kept(5, name));
    let subscribe_as = |client: &mut Client, filter, qos, identifier| {
        client.send(&subscribe(5, 5, &[0x0B, identifier], &[(filter, qos)]));
        client.expect(0x90, 5);
    };
    subscribe_as(&mut client, "identified/+", 1, 7);
    let got = client.receive();
    assert_eq!((got.retain, got.property(0x0B)), (true, vec![vec![7]]));
    // Retain handling 2: nothing retained any more.
    subscribe_as(&mut client, "identified/#", 0x20, 8);
    subscribe_as(&mut client, "identified/a", 0x22, 9);
    let mut writer = Client::clean(at(), 5, "identified-w");
    writer.publish(2, "identified/a", 1, b"live");
    let got = client.receive();
    let mut identifiers = got.property(0x0B);
    identifiers.sort();
    assert_eq!((got.retain, identifiers), (false, vec![vec![7], vec![8], vec![9]]));
    client.nothing_more();
}

/// 5.0: 3.3.2-5 3.3.2-6
#[test]
fn a_retained_message_tells_a_kept_session_how_long_it_lives() {
    let mut writer = Client::clean(at(), 5, "retained-lives-w");
    writer.publish_with(3, "retained-lives", 1, &four(0x02, 1_000), b"x");
    let mut client = Client::connect(at(), &Connect::kept(5, "retained-lives"));
    client.subscribe(&[("retained-lives", 2)]);
    let got = client.receive();
    assert_eq!(got.payload, b"x");
    let left = got.property(0x02).concat();
    let left = u32::from_be_bytes(left.try_into().expect("four bytes"));
    assert!((990..=1_000).contains(&left), "{left}");
}
