//! SUBSCRIBE, UNSUBSCRIBE and what they change.

use conformance::wire::{Client, Connect, publish, subscribe, unsubscribe};

use crate::{BOTH, at};

/// A client of `level`, transient or kept.
fn reader(level: u8, kept: bool, id: &str) -> Client {
    let connect = if kept { Connect::kept(level, id) } else { Connect::new(level, id) };
    Client::connect(at(), &connect)
}

/// 5.0: 3.8.4-1 3.8.4-2 3.8.4-5 3.8.4-6 3.8.4-7 3.9.3-1 3.9.3-2 2.2.1-6 3.9.2-1 3.9.2-2
/// 3.1.1: 3.8.4-1 3.8.4-2 3.8.4-4 3.8.4-5 3.9.3-1 3.9.3-2 2.3.1-7 3.8.3-2
#[test]
fn many_filters_have_one_answer_in_their_order() {
    for level in BOTH {
        for kept in [false, true] {
            let name = format!("many-{level}-{kept}");
            let mut client = reader(level, kept, &name);
            let (a, b, c) = (format!("{name}/a"), format!("{name}/+"), format!("{name}/#"));
            let long = vec!["l"; 129].join("/");
            client.send(&subscribe(level, 501, &[], &[(&a, 2), (&long, 1), (&b, 1), (&c, 0)]));
            let suback = client.expect(0x90, 501);
            let refused = if level == 5 { 0x8F } else { 0x80 };
            assert_eq!(suback.codes(level), [2, refused, 1, 0]);
            let mut writer = Client::clean(at(), level, &format!("{name}-w"));
            writer.publish(4, &format!("{name}/other"), 1, b"x");
            assert_eq!(client.receive().qos, 1);
        }
    }
}

/// 5.0: 3.8.4-8 3.3.1-2
/// 3.1.1: 3.8.4-6
#[test]
fn a_message_goes_out_with_the_lower_qos() {
    for level in BOTH {
        for kept in [false, true] {
            for granted in 0..3u8 {
                let name = format!("lower-{level}-{kept}-{granted}");
                let mut client = reader(level, kept, &name);
                assert_eq!(client.subscribe(&[(&name, granted)]), [granted]);
                let mut writer = Client::clean(at(), level, &format!("{name}-w"));
                for published in 0..3u8 {
                    writer.publish(published << 1, &name, 1, b"x");
                    let got = client.receive();
                    assert_eq!((got.qos, got.dup), (granted.min(published), false), "{name}");
                }
            }
        }
    }
}

/// 5.0: 3.3.4-2 3.3.4-3 3.3.4-4 3.3.4-5
/// 3.1.1: 3.3.5-1
#[test]
fn overlapping_subscriptions_give_the_highest_qos_and_all_identifiers() {
    for level in BOTH {
        for kept in [false, true] {
            let name = format!("overlap-{level}-{kept}");
            let mut client = reader(level, kept, &name);
            let filters =
                [(format!("{name}/#"), 1), (format!("{name}/+"), 2), (format!("{name}/x"), 1)];
            for (n, (filter, qos)) in filters.iter().enumerate() {
                let id = u8::try_from(n + 1).expect("few");
                let props = if level == 5 { vec![0x0B, id * 40] } else { vec![] };
                client.send(&subscribe(level, 9, &props, &[(filter, *qos)]));
                client.expect(0x90, 9);
            }
            let mut writer = Client::clean(at(), level, &format!("{name}-w"));
            writer.publish(4, &format!("{name}/x"), 1, b"x");
            let got = client.receive();
            assert_eq!(got.qos, 2);
            if level == 5 {
                let mut ids: Vec<_> = got.property(0x0B).concat();
                ids.sort_unstable();
                assert_eq!(ids, [40, 80, 120], "{name}");
            }
            client.nothing_more();
        }
    }
}

/// 5.0: 3.8.4-3
/// 3.1.1: 3.8.4-3
#[test]
fn the_same_filter_again_replaces() {
    for level in BOTH {
        for kept in [false, true] {
            let name = format!("replace-{level}-{kept}");
            let mut client = reader(level, kept, &name);
            assert_eq!(client.subscribe(&[(&name, 0)]), [0]);
            assert_eq!(client.subscribe(&[(&name, 1)]), [1]);
            let mut writer = Client::clean(at(), level, &format!("{name}-w"));
            writer.publish(4, &name, 1, b"x");
            assert_eq!(client.receive().qos, 1);
            client.nothing_more();
            client.send(&unsubscribe(level, 4, &[&name]));
            client.expect(0xB0, 4);
            writer.publish(4, &name, 1, b"x");
            client.nothing_more();
        }
    }
}

/// 5.0: 3.8.3-3
#[test]
fn no_local_keeps_the_own_messages_away() {
    for kept in [false, true] {
        let name = format!("local-{kept}");
        let mut client = reader(5, kept, &name);
        client.subscribe(&[(&name, 4 | 1)]);
        let mut other = Client::clean(at(), 5, &format!("{name}-w"));
        for qos in [0, 2, 4] {
            client.publish(qos, &name, 1, b"own");
            other.publish(qos, &name, 1, b"other");
        }
        for _ in 0..3 {
            assert_eq!(client.receive().payload, b"other", "{name}");
        }
        client.nothing_more();
    }
}

/// 5.0: 3.10.4-1 3.10.4-2 3.10.4-4 3.10.4-5 3.10.4-6 3.11.3-1 3.11.3-2 3.11.2-1 3.11.2-2
/// 3.1.1: 3.10.4-1 3.10.4-2 3.10.4-4 3.10.4-5 3.10.4-6
#[test]
fn unsubscribe_removes_exactly_what_it_names() {
    for level in BOTH {
        for kept in [false, true] {
            let name = format!("remove-{level}-{kept}");
            let mut client = reader(level, kept, &name);
            let (a, b) = (format!("{name}/a"), format!("{name}/b"));
            let wide = format!("{name}/+");
            client.subscribe(&[(&a, 1), (&b, 1)]);
            client.send(&unsubscribe(level, 601, &[&wide, &a, &a.to_uppercase()]));
            let unsuback = client.expect(0xB0, 601);
            let want: &[u8] = if level == 5 { &[0x11, 0, 0x11] } else { &[] };
            assert_eq!(unsuback.codes(level), want, "{name}");
            let mut writer = Client::clean(at(), level, &format!("{name}-w"));
            writer.publish(2, &a, 1, b"gone");
            writer.publish(2, &b, 2, b"still");
            let got = client.receive();
            assert_eq!((got.topic, got.payload), (b, b"still".to_vec()));
            client.nothing_more();
        }
    }
}

/// 5.0: 3.10.4-3
/// 3.1.1: 3.10.4-3
#[test]
fn what_was_under_way_at_unsubscribe_is_finished() {
    for level in BOTH {
        for kept in [false, true] {
            let name = format!("finish-{level}-{kept}");
            let mut client = reader(level, kept, &name);
            client.subscribe(&[(&name, 2)]);
            let mut writer = Client::clean(at(), level, &format!("{name}-w"));
            writer.publish(4, &name, 1, b"x");
            let got = client.read_publish();
            client.send(&unsubscribe(level, 8, &[&name]));
            client.expect(0xB0, 8);
            client.send(&conformance::wire::ack(0x50, got.id));
            client.expect(0x62, got.id);
            client.send(&conformance::wire::ack(0x70, got.id));
            client.nothing_more();
        }
    }
}

/// 5.0: 3.8.4-1
/// 3.1.1: 3.8.4-1
#[test]
fn a_publish_behind_suback_is_never_missed() {
    for level in BOTH {
        let mut writer = Client::clean(at(), level, &format!("race-w-{level}"));
        for n in 0..50u8 {
            let id = format!("race-{level}-{n}");
            let mut client = reader(level, n % 2 == 0, &id);
            client.subscribe(&[(&id, 1)]);
            writer.send(&publish(level, 2, &id, 1, &[], &[n]));
            assert_eq!(client.receive().payload, [n]);
            writer.expect(0x40, 1);
        }
    }
}

/// 5.0: 4.8.2-3
#[test]
fn a_shared_subscription_gives_each_message_to_one_member() {
    // Of QoS 0 they are members for messages of QoS 0.
    let mut zero = Client::clean(at(), 5, "member-zero");
    assert_eq!(zero.subscribe(&[("$share/group/shared/+", 0)]), [0]);
    let mut members: Vec<_> = (0..3u8)
        .map(|n| {
            let mut member = Client::clean(at(), 5, &format!("member-{n}"));
            assert_eq!(member.subscribe(&[("$share/group/shared/+", n.max(1))]), [n.max(1)]);
            member
        })
        .collect();
    let mut other = Client::clean(at(), 5, "member-of-another");
    other.subscribe(&[("$share/other/shared/#", 1)]);
    let mut plain = Client::clean(at(), 5, "no-member");
    plain.subscribe(&[("shared/x", 2)]);
    let mut writer = Client::clean(at(), 5, "shared-w");
    for n in 0..9u8 {
        assert_eq!(writer.publish(4, "shared/x", 1, &[n]), 0);
    }
    let mut got = Vec::new();
    for (n, member) in (0..).zip(&mut members) {
        for _ in 0..3 {
            let message = member.receive();
            assert_eq!(message.qos, n.max(1), "granted QoS");
            got.push(message.payload[0]);
        }
        member.nothing_more();
    }
    zero.nothing_more();
    got.sort_unstable();
    assert_eq!(got, (0..9).collect::<Vec<u8>>());
    for n in 0..9u8 {
        assert_eq!(other.receive().payload, [n]);
        assert_eq!(plain.receive().payload, [n]);
    }
    // Who left gets nothing; who unsubscribed is told.
    drop(members.remove(0));
    let last = &mut members[1];
    last.send(&unsubscribe(5, 3, &["$share/group/shared/+", "$share/none/shared/+"]));
    assert_eq!(last.expect(0xB0, 3).codes(5), [0, 0x11]);
    assert_eq!(writer.publish(4, "shared/x", 1, b"z"), 0);
    assert_eq!(members[0].receive().payload, b"z");
    // QoS 0 goes to one of all members.
    for n in 0..4u8 {
        writer.publish(0, "shared/x", 0, &[n]);
    }
    let live: Vec<_> = (0..2).flat_map(|_| [zero.receive(), members[0].receive()]).collect();
    assert!(live.iter().all(|m| m.qos == 0));
}

/// 5.0: 4.8.2-6
#[test]
fn a_refusal_from_a_member_discards_the_message() {
    let mut members: Vec<_> = ["refuse-1", "refuse-2"].map(|id| Client::clean(at(), 5, id)).into();
    for member in &mut members {
        member.subscribe(&[("$share/refusal/refusal", 1)]);
    }
    let mut writer = Client::clean(at(), 5, "refuse-w");
    // One for each.
    writer.publish(2, "refusal", 1, b"x");
    writer.publish(2, "refusal", 1, b"y");
    assert_eq!(members[1].receive().qos, 1);
    let got = members[0].read_publish();
    let [high, low] = got.id.to_be_bytes();
    members[0].send(&conformance::wire::packet(0x40, &[high, low, 0x80]));
    members.iter_mut().for_each(Client::nothing_more);
    // With QoS 2 by PUBREC; who refuses has room for the next.
    for kept in [false, true] {
        let name = format!("refuse-2-{kept}");
        let mut connect = if kept { Connect::kept(5, &name) } else { Connect::new(5, &name) };
        connect.properties.extend([0x21, 0, 1]);
        let mut member = Client::connect(at(), &connect);
        let filter = format!("$share/refusal/{name}");
        assert_eq!(member.subscribe(&[(&filter, 2)]), [2]);
        for n in 1..=3u8 {
            writer.publish(4, &name, n.into(), &[n]);
        }
        for n in 1..=3u8 {
            let got = member.read_publish();
            assert_eq!((got.qos, &got.payload[..]), (2, &[n][..]));
            let [high, low] = got.id.to_be_bytes();
            member.send(&conformance::wire::packet(0x50, &[high, low, 0x80]));
        }
        member.nothing_more();
        let mut other = Client::clean(at(), 5, &format!("{name}-other"));
        other.subscribe(&[(&filter, 2)]);
        drop(member);
        let mut member = Client::connect(at(), &connect);
        member.nothing_more();
        other.nothing_more();
    }
}
