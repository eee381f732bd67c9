//! Messages between connected clients.

use mqtt_codec::Version;

use crate::client::{Client, Options, message};
use crate::process::Place;

#[test]
fn every_qos_and_version_reaches_every_other() {
    let place = Place::new(1);
    let _broker = place.start();
    let versions = [Version::V3, Version::V311, Version::V5];
    for from in versions {
        for to in versions {
            for qos in 0..3 {
                let mut subscriber =
                    Client::connect(place.port, &Options::clean("to", to)).expect("connects");
                assert_eq!(subscriber.subscribe("a/+", qos).expect("answered"), qos);
                let mut publisher =
                    Client::connect(place.port, &Options::clean("from", from)).expect("connects");
                let payloads = [vec![], vec![7; 300], vec![9; 1024 * 1024]];
                for (n, payload) in payloads.iter().enumerate() {
                    let sent = message("a/b", qos, n as u16 + 1, payload);
                    publisher.publish(&sent).expect("acknowledged");
                    let got = subscriber.receive().expect("delivered");
                    assert_eq!((got.qos, got.dup, got.retain), (qos, false, false));
                    assert_eq!((got.topic, &got.payload), ("a/b".into(), payload));
                }
            }
        }
    }
}

#[test]
fn a_newer_connection_takes_the_client_id() {
    let place = Place::new(1);
    let _broker = place.start();
    let mut older =
        Client::connect(place.port, &Options::clean("c", Version::V5)).expect("connects");
    let mut newer =
        Client::connect(place.port, &Options::clean("c", Version::V5)).expect("connects");
    let goodbye = older.read().expect("told why");
    assert_eq!((goodbye.first, goodbye.body[0]), (0xE0, 0x8E));
    assert!(older.read().is_err(), "closed");
    newer.ping().expect("alive");
}

#[test]
fn one_bad_client_disturbs_nobody() {
    use std::io::{Read, Write};
    let place = Place::new(1);
    let _broker = place.start();
    let mut good =
        Client::connect(place.port, &Options::clean("good", Version::V311)).expect("connects");
    for bytes in [
        &[0xFF; 64][..],
        &[0x10, 0xFF, 0xFF, 0xFF, 0xFF],
        &[0x30, 3, 0, 1, b'a'],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0, 0x36, 2, 0, 0],
    ] {
        let mut bad = std::net::TcpStream::connect(("127.0.0.1", place.port)).expect("connects");
        bad.write_all(bytes).expect("sent");
        bad.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("set");
        let mut rest = Vec::new();
        // Closed, perhaps after a CONNACK, perhaps by a reset.
        let _ = bad.read_to_end(&mut rest);
        assert!(rest.len() < 64);
        good.ping().expect("alive");
    }
}
