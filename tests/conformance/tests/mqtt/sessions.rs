//! Sessions: kept, resumed, expired; what is sent again.

use std::time::{Duration, Instant};

use conformance::wire::{Client, Connect, ack, four, packet, properties, publish};

use crate::{BOTH, at};

/// 5.0: 3.1.2-4 3.1.2-5 3.1.2-6 3.2.2-2 3.2.2-3 3.1.2-23 4.1.0-1 3.1.4-4
/// 3.1.1: 3.1.2-4 3.1.2-6 3.1.4-3 3.2.2-1 3.2.2-2 3.2.2-3 4.1.0-1 4.1.0-2
#[test]
fn a_session_is_kept_resumed_and_discarded() {
    for level in BOTH {
        let id = format!("session-{level}");
        let kept = Connect::kept(level, &id);
        let present = |connect: &Connect| {
            let (client, connack) = Client::try_connect(at(), connect);
            assert_eq!(connack.body[1], 0);
            (client, connack.body[0])
        };
        let (mut client, was) = present(&kept);
        assert_eq!(was, 0, "there was none");
        client.subscribe(&[(&id, 1)]);
        client.disconnect();
        let (client, was) = present(&kept);
        assert_eq!(was, 1);
        drop(client); // lost, not ended
        let (mut client, was) = present(&kept);
        assert_eq!(was, 1);
        let mut writer = Client::clean(at(), level, &format!("{id}-w"));
        writer.publish(2, &id, 1, b"still subscribed");
        assert_eq!(client.receive().payload, b"still subscribed");
        client.disconnect();
        let (client, was) = present(&Connect::new(level, &id));
        assert_eq!(was, 0, "a clean start says so");
        client.disconnect();
        let (mut client, was) = present(&kept);
        assert_eq!(was, 0, "nothing is left");
        writer.publish(2, &id, 2, b"x");
        client.nothing_more();
    }
}

/// 5.0: 4.5.0-1 3.1.2-5
/// 3.1.1: 3.1.2-5 4.5.0-1
#[test]
fn a_session_that_is_away_gets_its_messages_later() {
    for level in BOTH {
        let id = format!("away-{level}");
        let mut client = Client::connect(at(), &Connect::kept(level, &id));
        client.subscribe(&[(&id, 2)]);
        client.disconnect();
        let mut writer = Client::clean(at(), level, &format!("{id}-w"));
        for n in 0..10u16 {
            writer.publish(2 << (n % 2), &id, n + 1, &[n as u8]);
        }
        let mut client = Client::connect(at(), &Connect::kept(level, &id));
        for n in 0..10u8 {
            let got = client.receive();
            assert_eq!((got.payload, got.dup), (vec![n], false));
        }
        client.nothing_more();
    }
}

/// 5.0: 4.4.0-1 3.3.1-1 4.3.2-3 4.3.3-3 4.3.3-5 4.3.3-6 2.2.1-4 4.3.2-1 4.3.3-1 4.3.2-2 4.3.3-2
/// 3.1.1: 4.4.0-1 3.3.1-1 4.3.2-1 4.3.3-1 2.3.1-4
#[test]
fn what_is_open_is_sent_again_with_its_id_and_nothing_else() {
    for level in BOTH {
        let id = format!("resend-{level}");
        let mut client = Client::connect(at(), &Connect::kept(level, &id));
        client.subscribe(&[(&id, 2)]);
        let mut writer = Client::clean(at(), level, &format!("{id}-w"));
        for (n, qos) in [(1u16, 1u8), (2, 2), (3, 2), (4, 1), (5, 2)] {
            writer.publish(qos << 1, &id, n, &[n as u8]);
        }
        let first: Vec<_> = (0..5).map(|_| client.read_publish()).collect();
        let mut ids: Vec<_> = first.iter().map(|m| m.id).collect();
        ids.dedup();
        assert!(ids.len() == 5 && !ids.contains(&0) && first.iter().all(|m| !m.dup));
        client.nothing_more(); // and not sent again while it is open
        // 1 stays open, 2 is received, 3 stays open, 4 is settled, 5 is complete.
        client.send(&ack(0x50, first[1].id));
        client.expect(0x62, first[1].id);
        client.send(&ack(0x40, first[3].id));
        client.send(&ack(0x50, first[4].id));
        client.expect(0x62, first[4].id);
        client.send(&ack(0x70, first[4].id));
        client.nothing_more();
        client.disconnect();
        let mut client = Client::connect(at(), &Connect::kept(level, &id));
        let mut again = Vec::new();
        for _ in 0..3 {
            let packet = client.read();
            if packet.kind() == 6 {
                assert_eq!(packet.id(), first[1].id);
                again.push(2);
            } else {
                let message = packet.publish(level);
                let was = &first[usize::from(message.payload[0]) - 1];
                assert!(message.dup && message.id == was.id && message.qos == was.qos);
                again.push(message.payload[0]);
            }
        }
        again.sort_unstable();
        assert_eq!(again, [1, 2, 3]);
        client.send(&ack(0x40, first[0].id));
        client.send(&ack(0x70, first[1].id));
        client.send(&ack(0x50, first[2].id));
        client.expect(0x62, first[2].id);
        client.send(&ack(0x70, first[2].id));
        client.nothing_more();
        client.disconnect();
        Client::connect(at(), &Connect::kept(level, &id)).nothing_more();
    }
}

/// 5.0: 4.4.0-2 4.3.3-4
#[test]
fn a_refusal_settles() {
    for kept in [false, true] {
        let id = format!("refusal-{kept}");
        let connect = if kept { Connect::kept(5, &id) } else { Connect::new(5, &id) };
        let mut client = Client::connect(at(), &connect);
        client.subscribe(&[(&id, 2)]);
        let mut writer = Client::clean(at(), 5, &format!("{id}-w"));
        writer.publish(2, &id, 1, b"1");
        writer.publish(4, &id, 2, b"2");
        for (first, message) in [(0x40, client.read_publish()), (0x50, client.read_publish())] {
            let [high, low] = message.id.to_be_bytes();
            client.send(&packet(first, &[high, low, 0x83]));
        }
        client.nothing_more();
        client.disconnect();
        if kept {
            Client::connect(at(), &connect).nothing_more();
        }
    }
}

/// 5.0: 4.1.0-2 3.1.2-23
#[test]
fn a_session_expires() {
    let short = Connect { properties: four(0x11, 1), ..Connect::kept(5, "expires") };
    Client::connect(at(), &short).disconnect();
    // By DISCONNECT, too: kept for an hour, then for a second only.
    let mut client = Client::connect(at(), &Connect::kept(5, "expires-at-disconnect"));
    client.send(&packet(0xE0, &[&[0][..], &properties(&four(0x11, 1))].concat()));
    client.closed(0);
    let started = Instant::now();
    let is_there = |id: &str| {
        let (client, connack) = Client::try_connect(at(), &Connect::kept(5, id));
        drop(client);
        connack.body[0] == 1
    };
    while started.elapsed() < Duration::from_millis(2_500) {
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert!(!is_there("expires") && !is_there("expires-at-disconnect"));
    // Without expiry it ends with the connection; a connection without cannot get one later.
    let none = Connect { clean: false, ..Connect::new(5, "expires-never-kept") };
    Client::connect(at(), &none).disconnect();
    let (mut client, connack) = Client::try_connect(at(), &none);
    assert_eq!(connack.body[0], 0);
    client.send(&packet(0xE0, &[&[0][..], &properties(&four(0x11, 9))].concat()));
    client.closed(0x82);
}

/// 5.0: 4.3.3-7 4.3.3-13
#[test]
fn a_qos_2_handshake_is_finished_although_the_message_expired() {
    let mut client = Client::connect(at(), &Connect::kept(5, "started"));
    client.subscribe(&[("started", 2)]);
    let mut writer = Client::clean(at(), 5, "started-w");
    writer.publish_with(4, "started", 1, &four(0x02, 1), b"x");
    let first = client.read_publish();
    let until = Instant::now() + Duration::from_millis(1_300);
    while Instant::now() < until {
        client.nothing_more();
    }
    client.disconnect();
    let mut client = Client::connect(at(), &Connect::kept(5, "started"));
    let again = client.read_publish();
    assert_eq!((again.id, again.dup, again.payload), (first.id, true, b"x".to_vec()));
    client.send(&ack(0x50, again.id));
    client.expect(0x62, again.id);
    client.send(&ack(0x70, again.id));
    client.nothing_more();
}

/// 5.0: 3.1.4-3
/// 3.1.1: 3.1.4-2
#[test]
fn a_takeover_resumes_the_session() {
    for level in BOTH {
        let id = format!("resume-{level}");
        let kept = Connect::kept(level, &id);
        let mut older = Client::connect(at(), &kept);
        older.subscribe(&[(&id, 1)]);
        let mut writer = Client::clean(at(), level, &format!("{id}-w"));
        writer.send(&publish(level, 2, &id, 1, &[], b"x"));
        writer.expect(0x40, 1);
        let got = older.read_publish();
        let (mut newer, connack) = Client::try_connect(at(), &kept);
        assert_eq!(connack.body[..2], [1, 0]);
        older.closed(0x8E);
        let again = newer.receive();
        assert_eq!((again.id, again.dup), (got.id, true));
    }
}
