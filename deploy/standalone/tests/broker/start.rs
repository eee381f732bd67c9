//! Start and stop: one clear line when it cannot start, exit 0 when it is asked to stop.

use mqtt_codec::Version;

use crate::client::{Client, Options};
use crate::process::Place;

#[test]
fn what_keeps_it_from_starting_is_told() {
    let place = Place::new(1);
    let broker = place.start();
    let (status, said) = place.run_to_end(&[]);
    assert!(!status.success());
    let line = format!("127.0.0.1:{} is in use; another broker may be running", place.port);
    assert!(said.contains(&line), "{said}");
    let mut other = Place::new(1);
    other.data = place.data.clone();
    let (status, said) = other.run_to_end(&[]);
    assert!(
        !status.success() && said.starts_with("error: ") && said.lines().count() == 1,
        "{said}"
    );
    drop(broker);
    other.shards = 2;
    let (status, said) = other.run_to_end(&[]);
    assert!(!status.success() && said.contains("has 1 shards, not 2"), "{said}");
    other.host = "0.0.0.0";
    let (status, said) = other.run_to_end(&[]);
    assert!(!status.success());
    let line = format!("refusing to serve 0.0.0.0:{} without authentication", other.port);
    assert!(said.contains(&line), "{said}");
    let (status, _) = other.run_to_end(&["--no-such-flag"]);
    assert!(!status.success());
}

#[test]
fn sigterm_drains_and_ends_well() {
    let place = Place::new(1);
    let broker = place.start();
    let mut client =
        Client::connect(place.port, &Options::clean("c", Version::V5)).expect("connects");
    let status = broker.terminate();
    let goodbye = client.read().expect("told why");
    assert_eq!((goodbye.first, goodbye.body[0]), (0xE0, 0x8B));
    assert!(status.success());
}
