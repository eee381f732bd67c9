//! Retained messages for persistent sessions (R9).

use std::collections::BTreeMap;

use mqtt_codec::Version;

use crate::client::{Client, Message, Options, message};
use crate::process::{Place, Tiers};

/// More than a page and more than a window.
const TOPICS: u16 = 700;

fn retain(client: &mut Client, topic: &str, qos: u8) {
    let mut kept = message(topic, qos, 1, topic.as_bytes());
    kept.retain = true;
    client.publish(&kept).expect("acknowledged");
}

/// kill -9 in the middle, twice: what comes from four shards comes whole, and again only what may have been on its way.
#[test]
fn a_replay_goes_on_after_kill() {
    for tiers in [Tiers::One, Tiers::Two] {
        let place = Place::of(tiers, 4);
        let mut broker = place.start();
        let mut publisher =
            Client::connect(place.port, &Options::clean("p", Version::V5)).expect("connects");
        for n in 0..TOPICS {
            retain(&mut publisher, &format!("kept/{}/{n}", n % 5), 1 + (n % 2) as u8);
        }
        let owner = Options::persistent("owner", Version::V5);
        let mut session = Client::connect(place.port, &owner).expect("connects");
        session.subscribe("kept/#", 2).expect("answered");
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for stop in [50, 400, usize::from(TOPICS)] {
            while seen.len() < stop {
                let got = session.receive().expect("delivered");
                assert!(got.retain && got.payload == got.topic.as_bytes(), "{got:?}");
                let times = seen.entry(got.topic).or_default();
                *times += 1;
                assert!(*times == 1 || got.dup, "what comes again says so");
            }
            if stop < usize::from(TOPICS) {
                broker.kill();
                broker = place.start();
                session = Client::connect(place.port, &owner).expect("connects");
                assert!(session.present);
            }
        }
        session.disconnect().expect("sent");
        assert_eq!(seen.len(), usize::from(TOPICS));
    }
}

/// A session that is away, with a gateway that dies: its next connection, on another gateway, has the rest.
#[test]
fn a_replay_goes_on_at_another_gateway() {
    let place = Place::of(Tiers::Two, 4);
    let broker = place.start();
    let (other, port) = place.start_another_gateway();
    let mut publisher =
        Client::connect(place.port, &Options::clean("p", Version::V311)).expect("connects");
    (0..TOPICS).for_each(|n| retain(&mut publisher, &format!("moved/{n}"), 1));
    let owner = Options::persistent("owner", Version::V311);
    let mut session = Client::connect(port, &owner).expect("connects");
    session.subscribe("moved/+", 1).expect("answered");
    let mut topics: Vec<String> =
        (0..100).map(|_| session.receive().expect("delivered").topic).collect();
    other.kill();
    let mut session = Client::connect(place.port, &owner).expect("connects");
    topics.sort();
    topics.dedup();
    while topics.len() < usize::from(TOPICS) {
        let got = session.receive().expect("delivered");
        match topics.binary_search(&got.topic) {
            Ok(_) => assert!(got.dup, "what comes again says so"),
            Err(at) => topics.insert(at, got.topic),
        }
    }
    drop(broker);
}

/// A new topic beyond a limit is refused and counted; what replaces, deletes or is published without being retained is not.
#[test]
fn no_more_is_retained_than_the_limits_say() {
    let place = Place::new(1);
    let limits = |messages| {
        [
            ("FLUXMQ_STORAGE_RETAINED_MESSAGES_MAX", messages),
            ("FLUXMQ_STORAGE_RETAINED_BYTES_MAX", "2000"),
        ]
    };
    let broker = place.start_configured(&[], &limits("2"));
    let kept = |topic: &str, qos, bytes: usize| Message {
        retain: true,
        ..message(topic, qos, u16::from(topic.as_bytes()[0]), &vec![7; bytes])
    };
    let old = Options::clean("old", Version::V311);
    let mut client =
        Client::connect(place.port, &Options::clean("new", Version::V5)).expect("connects");
    let mut answer = |message: &Message| {
        client.send(message).expect("sent");
        client.read().expect("answered").body.get(2).copied().unwrap_or(0)
    };
    assert_eq!(answer(&kept("a", 1, 10)), 0);
    assert_eq!(answer(&kept("big", 1, 3_000)), 0x97, "too many bytes");
    assert_eq!(answer(&kept("b", 2, 10)), 0);
    assert_eq!(answer(&kept("c", 2, 10)), 0x97, "too many");
    assert_eq!(answer(&kept("a", 1, 3_000)), 0, "what replaces is taken");
    // Before 5.0 the connection ends; QoS 0 has no answer.
    let mut client = Client::connect(place.port, &old).expect("connects");
    client.send(&kept("c", 0, 10)).expect("sent");
    client.ping().expect("it stands");
    client.send(&kept("c", 1, 10)).expect("sent");
    client.read().expect_err("closed");
    let read = |place: &Place| {
        let mut reader =
            Client::connect(place.port, &Options::clean("r", Version::V5)).expect("connects");
        reader.subscribe("#", 0).expect("answered");
        let mut topics = vec![reader.receive().expect("kept").topic];
        while let Some(packet) =
            reader.read_within(std::time::Duration::from_millis(100)).expect("open")
        {
            topics.push(reader.message(&packet).topic);
        }
        topics.sort();
        topics
    };
    assert_eq!(read(&place), ["a", "b"]);
    // One is deleted: there is room. With other limits there is more.
    let mut client =
        Client::connect(place.port, &Options::clean("new", Version::V5)).expect("connects");
    assert!(client.publish(&kept("a", 1, 0)).is_ok());
    assert!(client.publish(&kept("c", 1, 10)).is_ok());
    broker.kill();
    let _broker = place.start_configured(&[], &limits("3"));
    let mut client =
        Client::connect(place.port, &Options::clean("new", Version::V5)).expect("connects");
    assert!(client.publish(&kept("d", 1, 10)).is_ok());
    assert_eq!(read(&place), ["b", "c", "d"]);
}
