//! What must outlive a connection.

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Options, message};
use crate::process::{Place, Tiers};

const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
const BOTH: [Tiers; 2] = [Tiers::One, Tiers::Two];

#[test]
fn a_session_finds_what_it_is_owed_also_after_kill() {
    for (tiers, shards) in [(Tiers::One, 1), (Tiers::One, 4), (Tiers::Two, 1), (Tiers::Two, 4)] {
        for version in VERSIONS {
            let place = Place::of(tiers, shards);
            let broker = place.start();
            let owner = Options::persistent("owner", version);
            let mut session = Client::connect(place.port, &owner).expect("connects");
            assert!(!session.present);
            assert_eq!(session.subscribe("q/#", 2).expect("answered"), 2);
            drop(session);
            let mut publisher =
                Client::connect(place.port, &Options::clean("p", version)).expect("connects");
            for n in 0..50u16 {
                let sent = message("q/x", 1 + (n % 2) as u8, n + 1, &n.to_be_bytes());
                publisher.publish(&sent).expect("acknowledged");
            }
            broker.kill();
            let _broker = place.start();
            let mut session = Client::connect(place.port, &owner).expect("connects");
            assert!(session.present, "the session is there");
            for n in 0..50u16 {
                let got = session.receive().expect("delivered");
                assert_eq!((got.payload, got.qos), (n.to_be_bytes().to_vec(), 1 + (n % 2) as u8));
            }
        }
    }
}

#[test]
fn what_is_settled_does_not_come_again_and_what_is_not_does() {
    BOTH.into_iter().for_each(|tiers| settled_in(Place::of(tiers, 1)));
}

fn settled_in(place: Place) {
    let broker = place.start();
    let owner = Options::persistent("owner", Version::V311);
    let mut session = Client::connect(place.port, &owner).expect("connects");
    session.subscribe("q", 1).expect("answered");
    let mut publisher =
        Client::connect(place.port, &Options::clean("p", Version::V311)).expect("connects");
    for n in 1..=3u16 {
        publisher.publish(&message("q", 1, n, &[n as u8])).expect("acknowledged");
    }
    let first = session.receive().expect("delivered");
    assert_eq!((first.payload, first.dup), (vec![1], false));
    // The others came and are not answered.
    session.disconnect().expect("sent");
    let mut session = Client::connect(place.port, &owner).expect("connects");
    for n in 2..=3u8 {
        let got = session.receive().expect("delivered");
        assert_eq!((got.payload, got.id), (vec![n], u16::from(n)), "ids are kept");
    }
    session.disconnect().expect("sent");
    // Nobody waits for settlements; but what is acknowledged later in the same log lies behind them.
    let mut retained = message("r", 1, 9, b"x");
    retained.retain = true;
    publisher.publish(&retained).expect("acknowledged");
    broker.kill();
    let _broker = place.start();
    let mut session = Client::connect(place.port, &owner).expect("connects");
    session.ping().expect("nothing lies before the answer");
}

#[test]
fn a_publish_number_survives_the_connection() {
    BOTH.into_iter().for_each(|tiers| numbered_in(Place::of(tiers, 4)));
}

fn numbered_in(place: Place) {
    let broker = place.start();
    let reader = Options::persistent("reader", Version::V5);
    let mut session = Client::connect(place.port, &reader).expect("connects");
    session.subscribe("q2", 2).expect("answered");
    let writer = Options::persistent("writer", Version::V5);
    let mut publisher = Client::connect(place.port, &writer).expect("connects");
    let mut sent = message("q2", 2, 9, b"once");
    publisher.send(&sent).expect("sent");
    assert_eq!(publisher.read().expect("answered").first, 0x50);
    drop(publisher);
    broker.kill();
    let _broker = place.start();
    let mut publisher = Client::connect(place.port, &writer).expect("connects");
    assert!(publisher.present);
    sent.dup = true;
    publisher.publish(&sent).expect("acknowledged");
    publisher.publish(&message("q2", 2, 9, b"next")).expect("the id is free again");
    let mut session = Client::connect(place.port, &reader).expect("connects");
    assert_eq!(session.receive().expect("delivered").payload, b"once");
    assert_eq!(session.receive().expect("delivered").payload, b"next");
}

#[test]
fn pubrel_follows_a_pubrec_that_was_taken() {
    BOTH.into_iter().for_each(|tiers| pubrel_in(Place::of(tiers, 1)));
}

fn pubrel_in(place: Place) {
    let broker = place.start();
    let reader = Options::persistent("reader", Version::V311);
    let mut session = Client::connect(place.port, &reader).expect("connects");
    session.subscribe("q", 2).expect("answered");
    let mut publisher =
        Client::connect(place.port, &Options::clean("p", Version::V311)).expect("connects");
    publisher.publish(&message("q", 2, 1, b"x")).expect("acknowledged");
    let packet = session.read().expect("delivered");
    assert_eq!(packet.first, 0x34);
    let id = u16::from_be_bytes([packet.body[3], packet.body[4]]);
    session.acknowledge(PacketType::Pubrec, id).expect("sent");
    assert_eq!(session.read().expect("answered").first, 0x62);
    drop(session);
    broker.kill();
    let _broker = place.start();
    let mut session = Client::connect(place.port, &reader).expect("connects");
    let packet = session.read().expect("resumed");
    assert_eq!((packet.first, packet.body), (0x62, id.to_be_bytes().to_vec()), "not the message");
}

#[test]
fn retained_messages_and_wills() {
    BOTH.into_iter().for_each(|tiers| retained_and_wills_in(Place::of(tiers, 4)));
}

fn retained_and_wills_in(place: Place) {
    let broker = place.start();
    let mut publisher =
        Client::connect(place.port, &Options::clean("p", Version::V5)).expect("connects");
    for (topic, payload) in [("r/a", b"1"), ("r/b", b"2"), ("r/a", b"3")] {
        let mut sent = message(topic, 1, 1, payload);
        sent.retain = true;
        publisher.publish(&sent).expect("acknowledged");
    }
    let mut deleted = message("r/b", 1, 1, b"");
    deleted.retain = true;
    publisher.publish(&deleted).expect("acknowledged");
    broker.kill();
    let _broker = place.start();
    let mut watcher =
        Client::connect(place.port, &Options::clean("w", Version::V5)).expect("connects");
    watcher.subscribe("r/#", 1).expect("answered");
    let got = watcher.receive().expect("retained");
    assert_eq!((got.topic.as_str(), &got.payload[..], got.retain), ("r/a", &b"3"[..], true));
    watcher.subscribe("will", 1).expect("answered");
    let mut options = Options::clean("mortal", Version::V5);
    options.will = Some(("will", b"gone"));
    drop(Client::connect(place.port, &options).expect("connects"));
    let got = watcher.receive().expect("the will");
    assert_eq!((got.topic.as_str(), &got.payload[..]), ("will", &b"gone"[..]));
    Client::connect(place.port, &options).expect("connects").disconnect().expect("sent");
    publisher = Client::connect(place.port, &Options::clean("p", Version::V5)).expect("connects");
    publisher.publish(&message("will", 1, 1, b"after")).expect("acknowledged");
    assert_eq!(watcher.receive().expect("delivered").payload, b"after", "no second will");
}
