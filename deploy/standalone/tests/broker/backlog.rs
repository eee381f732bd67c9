//! The limit on what waits for a persistent session (R8).

use std::time::{Duration, Instant};

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Options, message};
use crate::metrics::page;
use crate::process::{Broker, Place, free_port};

/// Longer than a look takes to come; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A broker with a limit of 100 messages, or of `bytes`, and ten in flight.
fn start(place: &Place, messages: &str, bytes: &str) -> (Broker, u16) {
    let admin = free_port();
    let variables = [
        ("FLUXMQ_STORAGE_SESSION_BACKLOG_MESSAGES", messages),
        ("FLUXMQ_STORAGE_SESSION_BACKLOG_BYTES", bytes),
        ("FLUXMQ_MQTT_WINDOW_MAX", "10"),
    ];
    let admin_at = format!("127.0.0.1:{admin}");
    (place.start_configured(&["--admin", &admin_at], &variables), admin)
}

fn session(place: &Place) -> Client {
    let options = Options::persistent("session", Version::V5);
    Client::connect(place.port, &options).expect("connects")
}

/// Publishes the numbers of a range, `size` bytes each.
fn publish(place: &Place, numbers: std::ops::Range<u16>, size: usize) {
    let options = Options::clean("publisher", Version::V5);
    let mut publisher = Client::connect(place.port, &options).expect("connects");
    for n in numbers {
        let mut payload = n.to_be_bytes().to_vec();
        payload.resize(size, 0);
        publisher.publish(&message("t/x", 1 + (n % 2) as u8, 1, &payload)).expect("taken");
    }
    publisher.disconnect().expect("closed");
}

fn wait_for(admin: u16, metric: &str, wanted: f64) {
    let began = Instant::now();
    loop {
        let now = page(admin)[metric];
        if now == wanted {
            return;
        }
        assert!(began.elapsed() < DEADLINE && now <= wanted.max(1e6), "{metric} is {now}");
    }
}

fn number(payload: &[u8]) -> u16 {
    u16::from_be_bytes([payload[0], payload[1]])
}

/// What is published now comes next.
fn nothing_more(place: &Place, session: &mut Client) {
    publish(place, 60_000..60_001, 2);
    assert_eq!(number(&session.receive().expect("delivered").payload), 60_000);
}

/// The oldest are dropped, counted, and gone from the log; the newest come in order, also after kill.
#[test]
fn a_session_that_is_away_keeps_the_newest() {
    let place = Place::new(2);
    let (broker, admin) = start(&place, "100", "1000000000");
    let mut away = session(&place);
    // Filters that match nothing of each other count together.
    away.subscribe("t/+", 2).expect("subscribed");
    away.subscribe("other", 2).expect("subscribed");
    away.disconnect().expect("closed");
    publish(&place, 0..300, 2);
    wait_for(admin, "fluxmq_logd_trimmed_total", 200.0);
    wait_for(admin, "fluxmq_logd_owed", 100.0);
    broker.kill();
    let (_broker, _) = start(&place, "100", "1000000000");
    let mut back = session(&place);
    for n in 200..300 {
        let got = back.receive().expect("delivered");
        assert_eq!((number(&got.payload), got.dup), (n, false));
    }
    nothing_more(&place, &mut back);
}

/// What may be in flight is spared, and finished under the ids it had.
#[test]
fn what_is_in_flight_is_not_dropped() {
    for attached in [true, false] {
        let place = Place::new(1);
        let (broker, admin) = start(&place, "100", "1000000000");
        let mut slow = session(&place);
        slow.subscribe("t/#", 2).expect("subscribed");
        publish(&place, 0..10, 2);
        let sent: Vec<_> = (0..10).map(|_| slow.read().expect("delivered")).collect();
        if !attached {
            drop(slow);
            publish(&place, 10..300, 2);
            wait_for(admin, "fluxmq_logd_trimmed_total", 200.0);
            slow = session(&place);
            for packet in &sent {
                let again = slow.read().expect("delivered");
                assert_eq!((again.first, &again.body), (packet.first | 8, &packet.body));
            }
        } else {
            publish(&place, 10..300, 2);
            wait_for(admin, "fluxmq_logd_trimmed_total", 200.0);
        }
        for packet in &sent {
            let id = u16::from_be_bytes([packet.body[5], packet.body[6]]);
            let qos2 = packet.first & 4 != 0;
            let answer = if qos2 { PacketType::Pubrec } else { PacketType::Puback };
            slow.acknowledge(answer, id).expect("sent");
        }
        for n in 210..300 {
            assert_eq!(number(&slow.receive().expect("delivered").payload), n);
        }
        nothing_more(&place, &mut slow);
        drop(broker);
    }
}

/// The limit in bytes, to a block of 128 messages.
#[test]
fn bytes_are_limited_too() {
    let place = Place::new(1);
    let (_broker, admin) = start(&place, "1000000", "300000");
    let mut away = session(&place);
    away.subscribe("t/x", 1).expect("subscribed");
    away.disconnect().expect("closed");
    publish(&place, 0..1_000, 1_000);
    let began = Instant::now();
    let left = loop {
        let now = page(admin)["fluxmq_logd_owed"];
        if now < 300.0 {
            break now as u16;
        }
        assert!(began.elapsed() < DEADLINE, "{now} left");
    };
    assert!((150..300).contains(&left), "{left} of about 1,000 bytes");
    let mut back = session(&place);
    let got: Vec<_> = (0..left).map(|_| back.receive().expect("delivered")).collect();
    let numbers: Vec<_> = got.iter().map(|m| number(&m.payload)).collect();
    assert_eq!(numbers, (1_000 - left..1_000).collect::<Vec<_>>());
    nothing_more(&place, &mut back);
}
