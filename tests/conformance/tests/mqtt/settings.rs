//! Capabilities that can be turned off, and limits on connections and clients.

use conformance::broker::{Broker, Options};
use conformance::wire::{Client, Connect, publish, subscribe};
use gateway_core::admission::ConnectionLimits;
use gateway_core::listener::ListenerConfig;
use mqtt_gateway::Settings;

use crate::BOTH;

fn broker(settings: Settings) -> Broker {
    Broker::start(Options { settings, ..Options::default() })
}

/// 5.0: 3.2.2-9 3.2.2-10 3.2.2-11 3.2.2-12
#[test]
fn a_server_may_do_without_higher_qos() {
    for max in [0u8, 1] {
        let broker = broker(Settings { qos_max: max, ..Settings::default() });
        let (mut client, connack) =
            Client::try_connect(broker.address(), &Connect::new(5, "max-qos"));
        assert_eq!(connack.property(0x24), Some(vec![max]));
        for asked in 0..3u8 {
            assert_eq!(client.subscribe(&[("max-qos", asked)]), [asked.min(max)]);
        }
        client.send(&publish(5, (max + 1) << 1, "max-qos", 1, &[], b"x"));
        client.closed(0x9B);
        let will = Connect::new(5, "max-qos").will("w", b"x", max + 1, false);
        let (mut client, connack) = Client::try_connect(broker.address(), &will);
        assert_eq!(connack.body[..2], [0, 0x9B]);
        client.closed(0);
        let mut old = Client::clean(broker.address(), 4, "max-qos-old");
        assert_eq!(old.subscribe(&[("max-qos", 2)]), [max]);
        old.send(&publish(4, 4, "max-qos", 1, &[], b"x"));
        old.closed(0);
    }
}

/// 5.0: 3.2.2-13 3.2.2-14
#[test]
fn a_server_may_do_without_retained_messages() {
    let broker = broker(Settings { retain_available: false, ..Settings::default() });
    let (mut client, connack) = Client::try_connect(broker.address(), &Connect::new(5, "retain"));
    assert_eq!(connack.property(0x25), Some(vec![0]));
    client.send(&publish(5, 1, "t", 0, &[], b"x"));
    client.closed(0x9A);
    let will = Connect::new(5, "retain").will("w", b"x", 0, true);
    let (mut client, connack) = Client::try_connect(broker.address(), &will);
    assert_eq!(connack.body[..2], [0, 0x9A]);
    client.closed(0);
}

/// 5.0: 3.9.3-2
/// 3.1.1: 3.8.3-2
#[test]
fn wildcards_and_identifiers_may_be_refused() {
    let settings = Settings {
        wildcard_available: false,
        subscription_ids_available: false,
        ..Settings::default()
    };
    let broker = broker(settings);
    let (mut client, connack) = Client::try_connect(broker.address(), &Connect::new(5, "wild"));
    assert_eq!((connack.property(0x28), connack.property(0x29)), (Some(vec![0]), Some(vec![0])));
    assert_eq!(client.subscribe(&[("a/+", 0), ("#", 1), ("a", 2)]), [0xA2, 0xA2, 2]);
    client.send(&subscribe(5, 1, &[0x0B, 5], &[("a", 0)]));
    assert_eq!(client.expect(0x90, 1).codes(5), [0xA1]);
    let mut old = Client::clean(broker.address(), 4, "wild-old");
    assert_eq!(old.subscribe(&[("a/+", 0), ("a", 2)]), [0x80, 2]);
}

/// 5.0: 3.1.3-8
/// 3.1.1: 3.1.3-9
#[test]
fn an_empty_client_id_may_be_refused() {
    let broker = broker(Settings { empty_client_id: false, ..Settings::default() });
    for (level, code) in [(4, 2), (5, 0x85)] {
        let (mut client, connack) = Client::try_connect(broker.address(), &Connect::new(level, ""));
        assert_eq!(connack.body[..2], [0, code]);
        client.closed(0);
    }
}

/// 5.0: 3.2.2-15
#[test]
fn the_largest_packet_is_what_was_told() {
    let broker = broker(Settings { packet_bytes_max: 2_000, ..Settings::default() });
    for level in BOTH {
        let (mut client, connack) =
            Client::try_connect(broker.address(), &Connect::new(level, "largest"));
        if level == 5 {
            assert_eq!(connack.property(0x27), Some(2_000u32.to_be_bytes().to_vec()));
        }
        client.subscribe(&[("t", 0)]);
        let head = publish(level, 0, "t", 0, &[], &[0; 1_000]).len() - 1_000;
        client.publish(0, "t", 0, &vec![0; 2_000 - head]);
        assert_eq!(client.receive().payload.len(), 2_000 - head);
        client.send(&publish(level, 0, "t", 0, &[], &vec![0; 2_001 - head]));
        client.closed(0x95);
    }
}

#[test]
fn one_client_has_so_many_subscriptions() {
    let broker = broker(Settings { subscriptions_max: 3, ..Settings::default() });
    for kept in [false, true] {
        let connect = if kept { Connect::kept(5, "many") } else { Connect::new(5, "many") };
        let mut client = Client::connect(broker.address(), &connect);
        assert_eq!(client.subscribe(&[("a", 0), ("b", 1), ("c", 2)]), [0, 1, 2]);
        assert_eq!(client.subscribe(&[("d", 0), ("a", 1)]), [0x97, 1], "kept: {kept}");
    }
}

#[test]
fn filters_and_names_have_so_many_levels() {
    let broker = broker(Settings { topic_levels_max: 3, ..Settings::default() });
    let mut client = Client::clean(broker.address(), 5, "levels");
    assert_eq!(client.subscribe(&[("a/b/c", 0), ("a/b/c/d", 0), ("a/b/c/#", 0)]), [0, 0x8F, 0x8F]);
    assert_eq!(client.publish(2, "a/b/c", 1, b""), 0);
    let _ = client.receive();
    assert_eq!(client.publish(2, "a/b/c/d", 1, b""), 0x90);
}

/// 5.0: 3.1.4-2
#[test]
fn connections_are_limited_in_all_and_by_address() {
    let limits = |connections_max, connections_per_address_max| ConnectionLimits {
        connections_max,
        connections_per_address_max,
        ..ConnectionLimits::default()
    };
    let two = ListenerConfig { limits: limits(0, 2), ..ListenerConfig::default() };
    let broker = Broker::start(Options {
        listeners: vec![two, ListenerConfig::default()],
        limits: limits(3, 0),
        ..Options::default()
    });
    let [narrow, wide] = broker.addresses[..] else { panic!("two listeners") };
    let first = Client::clean(narrow, 5, "limit-1");
    let _second = Client::clean(narrow, 5, "limit-2");
    Client::open(narrow, 4).closed(0); // a third from this address
    let _third = Client::clean(wide, 5, "limit-3");
    Client::open(wide, 4).closed(0); // a fourth in all
    first.disconnect();
    // The place is free when the connection is gone, which its client may see a little earlier.
    loop {
        let mut client = Client::open(wide, 5);
        client.send_anyway(&Connect::new(5, "limit-4").bytes());
        if client.try_read().is_ok() {
            break;
        }
    }
}

#[test]
fn a_receiver_that_does_not_read_loses_qos_0_only() {
    let broker = broker(Settings { out_bytes_max: 20_000, ..Settings::default() });
    let mut slow = Client::clean(broker.address(), 4, "no-reader");
    slow.subscribe(&[("slow/#", 1)]);
    let mut writer = Client::clean(broker.address(), 4, "no-reader-w");
    // More than the kernel's buffers hold.
    for _ in 0..40 {
        let load = publish(4, 0, "slow/0", 0, &[], &[0; 4_000]);
        (0..50).for_each(|_| writer.send(&load));
        writer.nothing_more();
    }
    writer.publish(2, "slow/1", 1, b"kept");
    let (mut zero, mut one) = (0, 0);
    while one == 0 {
        match slow.receive().topic.as_str() {
            "slow/0" => zero += 1,
            _ => one += 1,
        }
    }
    assert!(zero < 2_000, "nothing was dropped: {zero}");
}

#[test]
fn what_waits_behind_the_window_has_so_many_bytes() {
    let settings = Settings { pending_bytes_max: 20_000, window_max: 1, ..Settings::default() };
    let broker = broker(settings);
    let mut slow = Client::clean(broker.address(), 5, "pending");
    slow.subscribe(&[("pending", 1)]);
    let mut writer = Client::clean(broker.address(), 5, "pending-w");
    // One in flight, and four that wait.
    for n in 1..=5 {
        writer.publish(2, "pending", n, &[0; 4_000]);
    }
    assert_eq!(slow.read_publish().payload.len(), 4_000);
    slow.nothing_more();
    writer.publish(2, "pending", 6, &[0; 4_000]);
    slow.closed(0x97);
}

/// Whether the place of a connection that is slow to go is free when the one that takes its session over is in.
fn old_is_gone(takeover_s_max: u32) -> bool {
    let settings = Settings { takeover_s_max, ..Settings::default() };
    let limits = ConnectionLimits { connections_max: 3, ..ConnectionLimits::default() };
    let broker = Broker::start(Options { settings, limits, ..Options::default() });
    // Who does not read is told good-bye for a second.
    let mut deaf = Client::clean(broker.address(), 5, "taken");
    deaf.subscribe(&[("flood", 0)]);
    let mut writer = Client::clean(broker.address(), 5, "taken-w");
    let load = publish(5, 0, "flood", 0, &[], &[0; 256 * 1024]);
    (0..160).for_each(|_| writer.send(&load));
    writer.nothing_more();
    let _new = Client::clean(broker.address(), 5, "taken");
    let mut third = Client::open(broker.address(), 5);
    third.send_anyway(&Connect::new(5, "taken-third").bytes());
    third.try_read().is_ok()
}

#[test]
fn a_new_connection_waits_so_long_for_the_old_one() {
    assert!(old_is_gone(60));
    // It may be gone by itself if this test is held up.
    assert!((0..20).any(|_| !old_is_gone(0)));
}
