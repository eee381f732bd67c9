//! Two gateways on one `logd`: subscribe on one and publish on the other, takeover, a gateway that dies.
//!
//! `GATEWAY_TOPICS` and `GATEWAY_TAKEOVERS` set how much is done (default 60 and 30).

use std::collections::HashSet;

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Options, message};
use crate::process::{Broker, Place, Tiers};

fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// `logd` and two gateways, with the port of the second.
fn two(shards: u32) -> (Place, Broker, Broker, u16) {
    let place = Place::of(Tiers::Two, shards);
    let broker = place.start();
    let (other, port) = place.start_another_gateway();
    (place, broker, other, port)
}

fn clean(port: u16, id: &str) -> Client {
    Client::connect(port, &Options::clean(id, Version::V5)).expect("connects")
}

/// A publish that begins after a SUBACK, on any gateway, reaches the subscriber (R4).
#[test]
fn what_is_published_behind_a_suback_elsewhere_is_received() {
    for shards in [1, 4] {
        let (place, _broker, _other, port) = two(shards);
        let (mut here, mut there) = (clean(place.port, "here"), clean(port, "there"));
        let mut durable =
            Client::connect(port, &Options::persistent("durable", Version::V5)).expect("connects");
        for n in 0..count("GATEWAY_TOPICS", 60) {
            let topic = format!("fresh/{n}/x");
            let filter = [topic.clone(), format!("fresh/{n}/+"), format!("fresh/{n}/#")];
            let qos = (n % 2) as u8;
            let (subscriber, publisher) = match n % 4 {
                0 | 1 => (&mut there, &mut here),
                2 => (&mut durable, &mut here),
                _ => (&mut here, &mut there),
            };
            assert_eq!(subscriber.subscribe(&filter[n % 3], 1).expect("answered"), 1);
            publisher.publish(&message(&topic, qos, 5, &n.to_be_bytes())).expect("taken");
            let got = subscriber.receive().expect("delivered");
            assert_eq!((got.topic, got.payload), (topic, n.to_be_bytes().to_vec()));
        }
    }
}

/// A client that goes from gateway to gateway and leaves every connection standing: QoS 2 once, in order.
#[test]
fn a_session_moves_between_gateways_under_qos_2() {
    let (place, _broker, _other, port) = two(4);
    let ports = [place.port, port];
    let mover = Options::persistent("mover", Version::V311);
    let mut session = Client::connect(port, &mover).expect("connects");
    session.subscribe("moved", 2).expect("answered");
    let takeovers = count("GATEWAY_TAKEOVERS", 30) as u64;
    let messages = takeovers * 7;
    let publisher = std::thread::spawn(move || {
        let mut publisher =
            Client::connect(ports[0], &Options::persistent("publisher", Version::V311))
                .expect("connects");
        for n in 0..messages {
            let id = (n % 1_000) as u16 + 1;
            publisher.publish(&message("moved", 2, id, &n.to_be_bytes())).expect("acknowledged");
        }
    });
    // Ids of messages whose PUBREL is still to come: the client's half of the session.
    let mut held = HashSet::new();
    let (mut next, mut moves) = (0, 0);
    let mut left = Vec::new();
    while next < messages {
        let packet = session.read().expect("delivered");
        let body = &packet.body;
        match packet.first >> 4 {
            3 => {
                let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let id = u16::from_be_bytes([body[at], body[at + 1]]);
                if held.insert(id) {
                    let n = u64::from_be_bytes(body[at + 2..].try_into().expect("eight bytes"));
                    assert_eq!(n, next, "once and in order");
                    next += 1;
                }
                session.acknowledge(PacketType::Pubrec, id).expect("sent");
            }
            6 => {
                let id = u16::from_be_bytes([body[0], body[1]]);
                held.remove(&id);
                session.acknowledge(PacketType::Pubcomp, id).expect("sent");
            }
            other => panic!("unexpected packet type {other}"),
        }
        if next > moves * 7 + 3 && moves < takeovers {
            moves += 1;
            let newer = Client::connect(ports[(moves % 2) as usize], &mover).expect("connects");
            assert!(newer.present, "the session is there");
            left.push(std::mem::replace(&mut session, newer));
        }
    }
    publisher.join().expect("strict client");
    // Everybody who lost the session was told so, or his connection was closed.
    for mut older in left {
        while older.read().is_ok() {}
    }
}

#[test]
fn the_client_id_of_a_transient_client_is_one_among_all_gateways() {
    let (place, _broker, _other, port) = two(1);
    let mut first = clean(place.port, "same");
    first.subscribe("t", 1).expect("answered");
    let mut second = clean(port, "same");
    let last = first.read().expect("told");
    assert_eq!((last.first, last.body[0]), (0xE0, 0x8E), "session taken over");
    second.subscribe("t", 1).expect("answered");
    clean(place.port, "p").publish(&message("t", 1, 1, b"x")).expect("acknowledged");
    assert_eq!(second.receive().expect("delivered").payload, b"x");
}

/// Wills of a gateway that is killed are published, once, when its epoch ends: here because it is started again.
#[test]
fn wills_of_a_dead_gateway_reach_who_is_connected_elsewhere() {
    let (place, mut broker, _other, port) = two(4);
    let mut watcher = clean(port, "watcher");
    watcher.subscribe("wills/+", 1).expect("answered");
    let topics: Vec<String> = (0..20).map(|n| format!("wills/{n}")).collect();
    let mortals: Vec<_> = topics
        .iter()
        .map(|topic| {
            let mut options = Options::clean(topic, Version::V5);
            options.will = Some((topic, b"gone"));
            Client::connect(place.port, &options).expect("connects")
        })
        .collect();
    broker.restart_gateway(&place);
    let mut seen = HashSet::new();
    while seen.len() < topics.len() {
        assert!(seen.insert(watcher.receive().expect("a will").topic), "each once");
    }
    watcher.ping().expect("nothing more lies before the answer");
    drop(mortals);
}
