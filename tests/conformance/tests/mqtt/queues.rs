//! Queues over MQTT: `$queue/…`, and shared subscriptions, which are members of a hidden queue.

use conformance::wire::{Client, Connect, Publish, ack, publish, subscribe, unsubscribe, user};

use crate::{BOTH, at};

/// The next message, not acknowledged.
fn held(client: &mut Client) -> Publish {
    client.read_publish()
}

fn user_property(message: &Publish, name: &str) -> String {
    let wanted = user(name, "");
    let start = &wanted[1..wanted.len() - 2];
    let all = message.property(0x26);
    let value = all.iter().find_map(|pair| pair.strip_prefix(start)).expect(name);
    String::from_utf8(value[2..].to_vec()).expect("text")
}

#[test]
fn a_queue_keeps_messages_for_whoever_comes() {
    for level in BOTH {
        for qos in 0..3u8 {
            let name = format!("keeps-{level}-{qos}");
            let topic = format!("$queue/{name}");
            let mut writer = Client::clean(at(), level, &format!("{name}-w"));
            for n in 0..3u16 {
                let reason = writer.publish(qos << 1, &topic, n + 1, &[n as u8]);
                assert_eq!(reason, 0, "{name}");
            }
            let mut reader = Client::clean(at(), level, &format!("{name}-r"));
            assert_eq!(reader.subscribe(&[(&topic, 2)]), [1], "a queue gives QoS 1 at most");
            for n in 0..3u8 {
                let got = reader.receive();
                assert_eq!((&*got.topic, &got.payload[..], got.qos), (&*topic, &[n][..], 1));
                assert!(got.id >= 32_768, "{}", got.id);
            }
            reader.nothing_more();
            let mut late = Client::clean(at(), level, &format!("{name}-late"));
            assert_eq!(late.subscribe(&[(&topic, 1)]), [1]);
            late.nothing_more();
        }
    }
}

#[test]
fn what_is_not_acknowledged_goes_to_the_next_consumer() {
    for level in BOTH {
        let topic = format!("$queue/next-{level}");
        let mut first = Client::clean(at(), level, &format!("next-{level}-a"));
        assert_eq!(first.subscribe(&[(&topic, 1)]), [1]);
        let mut writer = Client::clean(at(), level, &format!("next-{level}-w"));
        for n in 0..4u8 {
            assert_eq!(writer.publish(2, &topic, u16::from(n) + 1, &[n]), 0);
        }
        assert_eq!(first.receive().payload, [0]);
        for n in 1..4u8 {
            let got = held(&mut first);
            assert_eq!((got.payload, got.dup), (vec![n], false));
        }
        drop(first);
        let mut second = Client::clean(at(), level, &format!("next-{level}-b"));
        assert_eq!(second.subscribe(&[(&topic, 1)]), [1]);
        for n in 1..4u8 {
            let got = second.receive();
            assert_eq!((got.payload, got.dup), (vec![n], true), "it may have been delivered");
        }
        second.nothing_more();
    }
}

#[test]
fn a_key_is_part_of_the_address() {
    for level in BOTH {
        let name = format!("$queue/key-{level}");
        let mut reader = Client::clean(at(), level, &format!("key-{level}-r"));
        assert_eq!(reader.subscribe(&[(&format!("{name}/#"), 1)]), [1]);
        let mut writer = Client::clean(at(), level, &format!("key-{level}-w"));
        writer.publish(2, &format!("{name}/a/b"), 1, b"x");
        writer.publish(2, &name, 2, b"y");
        assert_eq!(reader.receive().topic, format!("{name}/a/b"));
        assert_eq!(reader.receive().topic, name);
    }
}

#[test]
fn groups_each_get_everything_and_begin_where_they_are_told() {
    let topic = "$queue/groups";
    let mut writer = Client::clean(at(), 5, "groups-w");
    for n in 0..5u8 {
        writer.publish(2, topic, u16::from(n) + 1, &[n]);
    }
    let member = |id: &str, props: &[u8], filter: &str| {
        let mut client = Client::clean(at(), 5, id);
        client.send(&subscribe(5, 9, props, &[(filter, 1)]));
        let codes = client.expect(0x90, 9).codes(5);
        (client, codes)
    };
    let group = |start: &str| {
        [user("consumer-group", &format!("g-{start}")), user("start", start)].concat()
    };
    for (start, expected) in [("first", 0..5u8), ("last", 4..5), ("3", 3..5), ("next", 5..5)] {
        let (mut client, codes) = member(&format!("groups-{start}"), &group(start), topic);
        assert_eq!(codes, [1], "{start}");
        for n in expected {
            assert_eq!(client.receive().payload, [n], "{start}");
        }
        client.nothing_more();
    }
    let (mut by_share, codes) = member("groups-share", &[], "$share/other/$queue/groups");
    assert_eq!(codes, [1]);
    for n in 0..5u8 {
        assert_eq!(by_share.receive().payload, [n]);
    }
    let (_, codes) = member("groups-bad", &user("start", "yesterday"), topic);
    assert_eq!(codes, [0x8F], "what cannot be understood is refused");
}

#[test]
fn messages_are_settled_by_name_by_whoever_holds_them() {
    let topic = "$queue/by-name";
    let mut writer = Client::clean(at(), 5, "by-name-w");
    for n in 0..3u8 {
        writer.publish(2, topic, u16::from(n) + 1, &[n]);
    }
    let mut reader = Client::clean(at(), 5, "by-name-r");
    reader.send(&subscribe(5, 9, &user("ack", "manual"), &[(topic, 1)]));
    assert_eq!(reader.expect(0x90, 9).codes(5), [1]);
    let all: Vec<_> = (0..3).map(|_| reader.receive()).collect();
    let offsets: Vec<_> = all.iter().map(|m| user_property(m, "offset")).collect();
    assert_eq!(offsets, ["0", "1", "2"]);
    assert_eq!(user_property(&all[0], "delivery-count"), "0");
    let say = |client: &mut Client, id: u16, verdict: &str, offset: &str| {
        client.publish_with(2, &format!("{topic}/{verdict}"), id, &user("offset", offset), b"")
    };
    assert_eq!(say(&mut writer, 9, "$ack", "0"), 0x87, "who does not hold it does not settle it");
    assert_eq!(say(&mut reader, 10, "$ack", "0"), 0);
    assert_eq!(say(&mut reader, 11, "$ack", "0"), 0x87, "it is settled once");
    assert_eq!(say(&mut reader, 12, "$reject", "1"), 0);
    assert_eq!(say(&mut reader, 13, "$nack", "2"), 0);
    let again = reader.receive();
    assert_eq!(
        (again.payload.clone(), user_property(&again, "delivery-count")),
        (vec![2], "1".into())
    );
    assert_eq!(say(&mut reader, 14, "$ack", "2"), 0);
    drop(reader);
    let mut rest = Client::clean(at(), 5, "by-name-rest");
    rest.subscribe(&[(topic, 1)]);
    rest.nothing_more();
}

#[test]
fn a_resumed_session_remembers_what_it_asked_of_a_queue() {
    let topic = "$queue/remembered";
    let mut writer = Client::clean(at(), 5, "remembered-w");
    for n in 0..2u8 {
        writer.publish(2, topic, u16::from(n) + 1, &[n]);
    }
    let kept = Connect::kept(5, "remembered");
    let mut reader = Client::connect(at(), &kept);
    let asked = [user("consumer-group", "g"), user("ack", "manual"), user("start", "1")].concat();
    reader.send(&subscribe(5, 9, &asked, &[(topic, 1)]));
    assert_eq!(reader.expect(0x90, 9).codes(5), [1]);
    // PUBACK frees the packet id and settles nothing, before and after a resumption.
    for _ in 0..2 {
        assert_eq!(reader.receive().payload, [1], "the group began at 1");
        reader.nothing_more();
        drop(reader);
        reader = Client::connect(at(), &kept);
    }
    let last = reader.receive();
    assert_eq!((&last.payload[..], &*user_property(&last, "delivery-count")), (&[1][..], "2"));
    let settled = reader.publish_with(2, &format!("{topic}/$ack"), 7, &user("offset", "1"), b"");
    assert_eq!(settled, 0);
    drop(reader);
    let mut reader = Client::connect(at(), &kept);
    reader.nothing_more();
    writer.publish(2, topic, 3, &[2]);
    assert_eq!(reader.receive().payload, [2]);
}

#[test]
fn a_negative_puback_rejects() {
    let topic = "$queue/negative";
    let mut reader = Client::clean(at(), 5, "negative-r");
    reader.subscribe(&[(topic, 1)]);
    let mut writer = Client::clean(at(), 5, "negative-w");
    writer.publish(2, topic, 1, b"x");
    let got = held(&mut reader);
    let id = got.id.to_be_bytes();
    reader.send(&[0x40, 3, id[0], id[1], 0x80]);
    drop(reader);
    let mut rest = Client::clean(at(), 5, "negative-rest");
    rest.subscribe(&[(topic, 1)]);
    rest.nothing_more();
}

#[test]
fn a_queue_and_the_inbox_share_the_receive_maximum() {
    for kept in [false, true] {
        let name = format!("quota-{kept}");
        let mut connect = if kept { Connect::kept(5, &name) } else { Connect::new(5, &name) };
        connect.properties.extend([0x21, 0, 3]);
        let mut reader = Client::connect(at(), &connect);
        let queue = format!("$queue/{name}");
        assert_eq!(reader.subscribe(&[(&queue, 1), (&name, 1)]), [1, 1]);
        let mut writer = Client::clean(at(), 5, &format!("{name}-w"));
        for n in 0..4u16 {
            writer.publish(2, &queue, n * 2 + 1, &[n as u8]);
            writer.publish(2, &name, n * 2 + 2, &[n as u8]);
        }
        let mut in_flight: Vec<_> = (0..3).map(|_| held(&mut reader)).collect();
        reader.nothing_more();
        let mut seen = 3;
        while let Some(message) = in_flight.pop() {
            reader.send(&ack(0x40, message.id));
            if seen < 8 {
                in_flight.insert(0, held(&mut reader));
                seen += 1;
            }
        }
        reader.nothing_more();
    }
}

#[test]
fn a_shared_subscription_of_sessions_keeps_what_comes_while_nobody_is_there() {
    for level in BOTH {
        let name = format!("shared-kept-{level}");
        let filter = format!("$share/g/{name}/+");
        let connect = |id: &str| Connect::kept(level, &format!("{name}-{id}"));
        let mut a = Client::connect(at(), &connect("a"));
        assert_eq!(a.subscribe(&[(&filter, 1)]), [1]);
        let mut writer = Client::clean(at(), level, &format!("{name}-w"));
        let mut put = |from: u8, to: u8| {
            for n in from..to {
                let reason = writer.publish(2, &format!("{name}/x"), u16::from(n) + 1, &[n]);
                assert_eq!(reason, 0, "somebody takes it");
            }
        };
        put(0, 3);
        assert_eq!(a.receive().payload, [0]);
        assert_eq!([held(&mut a).payload[0], held(&mut a).payload[0]], [1, 2]);
        // Its acknowledgement has been read.
        a.nothing_more();
        drop(a);
        put(3, 6);
        let mut a = Client::connect(at(), &connect("a"));
        let again: Vec<_> = (1..6).map(|_| a.receive().payload[0]).collect();
        assert_eq!(again, [1, 2, 3, 4, 5], "what it held and what came meanwhile");
        // A second member, transient, shares with it.
        let mut b = Client::clean(at(), level, &format!("{name}-b"));
        assert_eq!(b.subscribe(&[(&filter, 1)]), [1]);
        put(6, 10);
        let mut got: Vec<_> =
            (0..2).flat_map(|_| [a.receive().payload[0], b.receive().payload[0]]).collect();
        got.sort_unstable();
        assert_eq!(got, [6, 7, 8, 9], "one each, in turn");
        a.send(&unsubscribe(level, 7, &[&filter]));
        a.expect(0xB0, 7);
        put(10, 12);
        assert_eq!([b.receive().payload[0], b.receive().payload[0]], [10, 11]);
        a.nothing_more();
    }
}

#[test]
fn what_a_member_held_goes_to_another_at_once() {
    for level in BOTH {
        let name = format!("shared-dies-{level}");
        let filter = format!("$share/g/{name}");
        let mut a = Client::clean(at(), level, &format!("{name}-a"));
        let mut b = Client::clean(at(), level, &format!("{name}-b"));
        assert_eq!(
            (a.subscribe(&[(&filter, 1)]), b.subscribe(&[(&filter, 1)])),
            (vec![1], vec![1])
        );
        let mut writer = Client::clean(at(), level, &format!("{name}-w"));
        for n in 0..4u8 {
            writer.publish(2, &name, u16::from(n) + 1, &[n]);
        }
        let of_a = [held(&mut a).payload[0], held(&mut a).payload[0]];
        let of_b = [b.receive().payload[0], b.receive().payload[0]];
        drop(a);
        let mut again = [b.receive(), b.receive()].map(|m| (m.payload[0], m.dup));
        again.sort_unstable();
        assert_eq!(again, of_a.map(|n| (n, true)));
        assert!(of_b.iter().all(|n| !of_a.contains(n)));
    }
}

/// 5.0: 4.8.2-4
#[test]
fn what_is_shared_with_qos_2_is_finished_with_the_session_it_was_sent_to() {
    for level in BOTH {
        let name = format!("shared-2-{level}");
        let filter = format!("$share/g/{name}");
        let kept = Connect::kept(level, &format!("{name}-a"));
        let mut a = Client::connect(at(), &kept);
        assert_eq!(a.subscribe(&[(&filter, 2)]), [2]);
        let mut writer = Client::clean(at(), level, &format!("{name}-w"));
        assert_eq!(writer.publish(4, &name, 1, b"x"), 0);
        let sent = held(&mut a);
        assert_eq!((sent.qos, sent.dup, &sent.payload[..]), (2, false, &b"x"[..]));
        let mut b = Client::clean(at(), level, &format!("{name}-b"));
        assert_eq!(b.subscribe(&[(&filter, 2)]), [2]);
        // Broken off before PUBREC, and again before PUBCOMP.
        drop(a);
        let mut a = Client::connect(at(), &kept);
        let again = held(&mut a);
        assert_eq!((again.qos, again.dup, again.id), (2, true, sent.id));
        a.send(&ack(0x50, sent.id));
        a.expect(0x62, sent.id);
        drop(a);
        let mut a = Client::connect(at(), &kept);
        a.expect(0x62, sent.id);
        a.send(&ack(0x70, sent.id));
        a.nothing_more();
        b.nothing_more();
        // QoS 1 is leased as ever; SUBACK says that the session is a member again.
        assert_eq!(a.subscribe(&[(&filter, 2)]), [2]);
        writer.publish(2, &name, 2, b"y");
        writer.publish(2, &name, 3, b"z");
        assert_eq!((a.receive().qos, b.receive().qos), (1, 1));
    }
}

/// 5.0: 4.8.2-5
#[test]
fn what_is_shared_with_qos_2_ends_with_the_session_it_was_sent_to() {
    for level in BOTH {
        for kept in [false, true] {
            let name = format!("shared-2-ends-{level}-{kept}");
            let filter = format!("$share/g/{name}");
            let id = format!("{name}-a");
            let connect = if kept { Connect::kept(level, &id) } else { Connect::new(level, &id) };
            let mut a = Client::connect(at(), &connect);
            assert_eq!(a.subscribe(&[(&filter, 2)]), [2]);
            let mut writer = Client::clean(at(), level, &format!("{name}-w"));
            assert_eq!(writer.publish(4, &name, 1, b"x"), 0);
            assert_eq!(held(&mut a).qos, 2);
            let mut b = Client::clean(at(), level, &format!("{name}-b"));
            assert_eq!(b.subscribe(&[(&filter, 2)]), [2]);
            drop(a);
            let mut a = Client::clean(at(), level, &id);
            a.nothing_more();
            assert_eq!(writer.publish(4, &name, 2, b"y"), 0);
            assert_eq!(b.receive().payload, b"y", "the next, not the one that was sent to a");
            b.nothing_more();
            a.nothing_more();
        }
    }
}

#[test]
fn what_is_shared_with_qos_2_keeps_the_receive_maximum() {
    for kept in [false, true] {
        let name = format!("shared-2-quota-{kept}");
        let mut connect = if kept { Connect::kept(5, &name) } else { Connect::new(5, &name) };
        connect.properties.extend([0x21, 0, 3]);
        let mut reader = Client::connect(at(), &connect);
        assert_eq!(reader.subscribe(&[(&format!("$share/g/{name}"), 2)]), [2]);
        let mut writer = Client::clean(at(), 5, &format!("{name}-w"));
        for n in 1..=10u8 {
            let qos = if n % 3 == 0 { 2 } else { 4 };
            writer.publish(qos, &name, n.into(), &[n]);
        }
        let mut in_flight: Vec<_> = (0..3).map(|_| held(&mut reader)).collect();
        let mut seen: Vec<u8> = in_flight.iter().map(|m| m.payload[0]).collect();
        while !in_flight.is_empty() {
            reader.nothing_more();
            let message = in_flight.remove(0);
            if message.qos == 1 {
                reader.send(&ack(0x40, message.id));
            } else {
                reader.send(&ack(0x50, message.id));
                reader.expect(0x62, message.id);
                reader.send(&ack(0x70, message.id));
            }
            if seen.len() < 10 {
                in_flight.push(held(&mut reader));
                seen.push(in_flight.last().expect("just read").payload[0]);
            }
        }
        reader.nothing_more();
        let of_2: Vec<_> = seen.iter().filter(|n| *n % 3 != 0).collect();
        assert!(of_2.is_sorted(), "{seen:?}");
        seen.sort_unstable();
        assert_eq!(seen, (1..=10).collect::<Vec<u8>>());
    }
}

#[test]
fn a_publish_below_queue_without_a_name_is_refused() {
    let mut client = Client::clean(at(), 5, "no-name");
    client.send(&publish(5, 2, "$queue/", 7, &[], b"x"));
    assert_eq!(client.expect(0x40, 7).reason(), 0x90);
}
