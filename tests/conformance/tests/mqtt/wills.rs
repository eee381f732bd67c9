//! Wills.

use std::time::{Duration, Instant};

use conformance::wire::{Client, Connect, four, packet, properties, text_property, user};

use crate::{BOTH, at};

/// 5.0: 3.1.2-7 3.1.2-8 3.1.2-10 3.1.2-14 3.14.4-3
/// 3.1.1: 3.1.2-8 3.1.2-10 3.1.2-12 3.1.2-16 3.14.4-3
#[test]
fn a_will_goes_out_when_the_connection_is_lost_and_not_after_disconnect() {
    for level in BOTH {
        for qos in 0..3 {
            let topic = format!("will/{level}/{qos}");
            let mut watcher = Client::clean(at(), level, &format!("will-r-{level}-{qos}"));
            watcher.subscribe(&[(&topic, 2)]);
            let connect = Connect::new(level, &format!("will-w-{level}-{qos}"))
                .will(&topic, b"gone", qos, false);
            Client::connect(at(), &connect).disconnect();
            drop(Client::connect(at(), &connect));
            let got = watcher.receive();
            assert_eq!((got.payload, got.qos, got.retain), (b"gone".to_vec(), qos, false));
            // A broken packet and a second CONNECT lose the connection as well.
            for bytes in [vec![0x00, 0], connect.bytes()] {
                let mut client = Client::connect(at(), &connect);
                client.send(&bytes);
                client.closed(0);
                assert_eq!(watcher.receive().payload, b"gone");
            }
            watcher.nothing_more();
            // Not retained.
            let mut late = Client::clean(at(), level, &format!("will-l-{level}-{qos}"));
            late.subscribe(&[(&topic, 2)]);
            late.nothing_more();
        }
    }
}

/// 5.0: 3.1.2-15
/// 3.1.1: 3.1.2-17
#[test]
fn a_will_may_be_retained() {
    for level in BOTH {
        let topic = format!("will-retained/{level}");
        let mut watcher = Client::clean(at(), level, &format!("will-retained-r-{level}"));
        watcher.subscribe(&[(&topic, 0)]);
        let connect =
            Connect::new(level, &format!("will-retained-w-{level}")).will(&topic, b"x", 1, true);
        drop(Client::connect(at(), &connect));
        assert!(!watcher.receive().retain);
        let mut late = Client::clean(at(), level, &format!("will-retained-l-{level}"));
        late.subscribe(&[(&topic, 0)]);
        let got = late.receive();
        assert_eq!((got.retain, got.payload), (true, b"x".to_vec()));
    }
}

/// 5.0: 3.1.3-10 3.1.2-8
#[test]
fn a_will_keeps_its_properties_and_their_order() {
    let mut watcher = Client::clean(at(), 5, "will-properties-r");
    watcher.subscribe(&[("will-properties", 1)]);
    let users = [user("b", "1"), user("a", "2"), user("b", "3")].concat();
    let mut connect = Connect::new(5, "will-properties").will("will-properties", b"x", 1, false);
    let will = connect.will.as_mut().expect("set");
    will.properties = [
        vec![0x01, 1],
        text_property(0x03, "text/plain"),
        four(0x02, 60),
        text_property(0x08, "back"),
        users.clone(),
    ]
    .concat();
    drop(Client::connect(at(), &connect));
    let got = watcher.receive();
    let joined: Vec<u8> =
        got.property(0x26).iter().flat_map(|p| [&[0x26][..], p].concat()).collect();
    assert_eq!(joined, users);
    assert_eq!(got.property(0x01), [vec![1]]);
    assert_eq!(got.property(0x02), [60u32.to_be_bytes().to_vec()]);
    assert_eq!(got.property(0x08).len(), 1);
    assert_eq!(got.property(0x18).len(), 0, "the delay is not the message's");
}

/// 5.0: 3.1.2-8 3.14.2-1
#[test]
fn disconnect_may_ask_for_the_will() {
    let mut watcher = Client::clean(at(), 5, "will-asked-r");
    watcher.subscribe(&[("will-asked", 1)]);
    let connect = Connect::new(5, "will-asked").will("will-asked", b"x", 1, false);
    let mut client = Client::connect(at(), &connect);
    client.send(&packet(0xE0, &[0x04]));
    client.closed(0);
    assert_eq!(watcher.receive().payload, b"x");
}

/// 5.0: 3.1.2-8 3.1.3-9 3.1.2-10
#[test]
fn a_will_waits_for_its_delay_and_for_no_longer_than_the_session() {
    let delayed = |id: &str, delay_s: u32, expiry_s: u32| {
        let mut connect = Connect::kept(5, id).will(&format!("delayed/{id}"), b"x", 1, false);
        connect.properties = four(0x11, expiry_s);
        connect.will.as_mut().expect("set").properties = four(0x18, delay_s);
        connect
    };
    let mut watcher = Client::clean(at(), 5, "delayed-r");
    watcher.subscribe(&[("delayed/+", 1)]);
    let started = Instant::now();
    drop(Client::connect(at(), &delayed("cancelled", 2, 60)));
    drop(Client::connect(at(), &delayed("short-session", 60, 1)));
    drop(Client::connect(at(), &delayed("two-seconds", 2, 60)));
    let again = Client::connect(at(), &Connect::kept(5, "cancelled"));
    let first = watcher.receive();
    assert_eq!(first.topic, "delayed/short-session");
    assert!(started.elapsed() >= Duration::from_millis(900));
    let second = watcher.receive();
    assert_eq!(second.topic, "delayed/two-seconds");
    assert!(started.elapsed() >= Duration::from_millis(1_900));
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        watcher.nothing_more();
    }
    drop(again);
}

/// 5.0: 3.1.4-2
#[test]
fn a_will_whose_payload_is_not_what_it_says_is_refused() {
    let mut connect = Connect::new(5, "will-format").will("w", &[0xFF], 0, false);
    connect.will.as_mut().expect("set").properties = vec![1, 1];
    let (mut client, connack) = Client::try_connect(at(), &connect);
    assert_eq!(connack.body[..2], [0, 0x99]);
    client.closed(0);
    let connect =
        Connect { properties: properties(&[])[1..].to_vec(), ..Connect::new(5, "will-sys") };
    let (mut client, connack) =
        Client::try_connect(at(), &connect.will("$SYS/broker/version", b"x", 0, false));
    assert_eq!(connack.body[1], 0x87);
    client.closed(0);
}
