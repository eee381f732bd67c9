//! Windows both ways, topic aliases from clients, rates.

use std::time::{Duration, Instant};

use conformance::broker::{Broker, Options};
use conformance::wire::{Client, Connect, ack, publish, two};
use gateway_core::rate_limit::ClientRates;
use mqtt_gateway::Settings;

use crate::{BOTH, at};

/// 5.0: 3.3.4-9 3.3.4-10 4.9.0-1 4.9.0-2 4.9.0-3
#[test]
fn no_more_is_sent_than_the_client_receives_at_once() {
    for kept in [false, true] {
        for qos in [1u8, 2] {
            let id = format!("window-{kept}-{qos}");
            let mut connect = if kept { Connect::kept(5, &id) } else { Connect::new(5, &id) };
            connect.properties.extend(two(0x21, 3));
            let mut client = Client::connect(at(), &connect);
            client.subscribe(&[(&id, qos), (&format!("{id}/0"), 0)]);
            let mut writer = Client::clean(at(), 5, &format!("{id}-w"));
            for n in 1..=8u16 {
                writer.publish(qos << 1, &id, n, &[n as u8]);
            }
            let mut open: Vec<_> = (0..3).map(|_| client.read_publish()).collect();
            client.nothing_more();
            // QoS 0 and answers go on.
            writer.publish(0, &format!("{id}/0"), 0, b"zero");
            assert_eq!(client.receive().payload, b"zero");
            for n in 4..=8u8 {
                let first = open.remove(0);
                if qos == 1 {
                    client.send(&ack(0x40, first.id));
                } else {
                    client.send(&ack(0x50, first.id));
                    client.expect(0x62, first.id);
                    client.nothing_more(); // PUBREC frees nothing
                    client.send(&ack(0x70, first.id));
                }
                let next = client.read_publish();
                assert_eq!(next.payload, [n]);
                open.push(next);
                client.nothing_more();
            }
        }
    }
}

/// 5.0: 3.3.4-7
#[test]
fn more_than_the_receive_maximum_ends_the_connection() {
    let settings = Settings { inflight_in_max: 20, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    for kept in [false, true] {
        let connect = if kept { Connect::kept(5, "exceeds") } else { Connect::new(5, "exceeds") };
        let (mut client, connack) = Client::try_connect(broker.address(), &connect);
        assert_eq!(connack.property(0x21), Some(vec![0, 20]));
        for n in 1..=20 {
            client.send(&publish(5, 4, "exceeds", n, &[], b"x"));
            client.expect(0x50, n);
        }
        client.send(&publish(5, 12, "exceeds", 20, &[], b"x")); // a repeat counts once
        client.expect(0x50, 20);
        client.send(&publish(5, 4, "exceeds", 21, &[], b"x"));
        client.closed(0x93);
    }
    // One is released: there is room for one.
    let mut client = Client::clean(broker.address(), 5, "releases");
    for n in 1..=40 {
        client.send(&publish(5, 4, "releases", n, &[], b"x"));
        client.expect(0x50, n);
        client.send(&ack(0x62, n));
        client.expect(0x70, n);
    }
    // QoS 1 is answered at once and never too much for who waits for the answers.
    for n in 1..=100 {
        assert!(client.publish(2, "releases", n, b"x") < 0x80);
    }
}

/// 5.0: 3.3.2-7 3.3.2-9 3.3.2-12 3.2.2-17 3.2.2-18
#[test]
fn a_client_may_use_as_many_aliases_as_it_was_told() {
    let mut reader = Client::clean(at(), 5, "alias-in-r");
    reader.subscribe(&[("alias-in/#", 0)]);
    let mut writer = Client::clean(at(), 5, "alias-in-w");
    let alias = |n: u16| two(0x23, n);
    for n in 1..=32 {
        writer.send(&publish(5, 0, &format!("alias-in/{n}"), 0, &alias(n), b"told"));
    }
    for n in (1..=32).rev() {
        writer.send(&publish(5, 0, "", 0, &alias(n), b"used"));
    }
    writer.send(&publish(5, 0, "alias-in/new", 0, &alias(7), b"told again"));
    writer.send(&publish(5, 2, "", 1, &alias(7), b"used again"));
    writer.expect(0x40, 1);
    let got: Vec<_> = (0..66).map(|_| reader.receive()).collect();
    assert!(got.iter().all(|m| m.property(0x23).is_empty()), "an alias belongs to the hop");
    assert_eq!((&got[32].topic[..], &got[63].topic[..]), ("alias-in/32", "alias-in/1"));
    assert_eq!((&got[64].topic[..], &got[65].topic[..]), ("alias-in/new", "alias-in/new"));
    writer.send(&publish(5, 0, "alias-in/x", 0, &alias(33), b"x"));
    writer.closed(0x94);
    // Nobody knows the aliases of another connection.
    let mut writer = Client::clean(at(), 5, "alias-in-w");
    writer.send(&publish(5, 0, "", 0, &alias(7), b"x"));
    writer.closed(0x94);
    let settings = Settings { topic_alias_max: 0, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    let (mut writer, connack) = Client::try_connect(broker.address(), &Connect::new(5, "none"));
    assert_eq!(connack.property(0x22), None);
    writer.send(&publish(5, 0, "t", 0, &alias(1), b"x"));
    writer.closed(0x94);
}

#[test]
fn a_transient_client_that_does_not_settle_is_ended() {
    let settings = Settings { pending_max: 5, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    let connect = Connect { properties: two(0x21, 2), ..Connect::new(5, "slow") };
    let mut slow = Client::connect(broker.address(), &connect);
    slow.subscribe(&[("slow", 1)]);
    let mut writer = Client::clean(broker.address(), 5, "slow-w");
    for n in 1..=8 {
        assert_eq!(writer.publish(2, "slow", n, b"x"), 0);
    }
    assert_eq!(slow.read_publish().payload, b"x");
    assert_eq!(slow.read_publish().payload, b"x");
    slow.closed(0x97);
}

/// A few messages of any size have room (ADR 0010).
#[test]
fn a_transient_client_takes_a_few_large_messages() {
    let connect = Connect { properties: two(0x21, 1), ..Connect::new(5, "large") };
    let mut client = Client::connect(at(), &connect);
    client.subscribe(&[("large", 1)]);
    let mut writer = Client::clean(at(), 5, "large-w");
    let large = vec![1; 2 * 1024 * 1024];
    for n in 1..=4 {
        assert_eq!(writer.publish(2, "large", n, &large), 0);
    }
    for _ in 0..4 {
        assert_eq!(client.receive().payload.len(), large.len());
    }
}

#[test]
fn who_sends_more_than_it_may_is_read_more_slowly_and_loses_nothing() {
    let rates = ClientRates { messages_per_s: 100, ..ClientRates::default() };
    let settings = Settings { rates, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    for level in BOTH {
        let mut reader = Client::clean(broker.address(), level, "rate-r");
        reader.subscribe(&[("rate", 0)]);
        let mut writer = Client::clean(broker.address(), level, "rate-w");
        let started = Instant::now();
        let all: Vec<u8> =
            (0..150u8).flat_map(|n| publish(level, 0, "rate", 0, &[], &[n])).collect();
        writer.send(&all);
        for n in 0..150u8 {
            assert_eq!(reader.receive().payload, [n]);
        }
        assert!(started.elapsed() >= Duration::from_millis(450), "{:?}", started.elapsed());
    }
    let rates =
        ClientRates { bytes_per_s: 10_000, subscriptions_per_s: 4, ..ClientRates::default() };
    let settings = Settings { rates, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    let mut client = Client::clean(broker.address(), 5, "rate-bytes");
    let started = Instant::now();
    client.publish(2, "rate-bytes", 1, &[0; 15_000]);
    client.nothing_more(); // a ping is answered all the same
    client.publish(2, "rate-bytes", 1, b"");
    assert!(started.elapsed() >= Duration::from_millis(450), "bytes: {:?}", started.elapsed());
    let started = Instant::now();
    client.subscribe(&[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0), ("f", 0)]);
    client.subscribe(&[("a", 0)]);
    assert!(started.elapsed() >= Duration::from_millis(400), "filters: {:?}", started.elapsed());
}
