//! kill -9 while publishers write: what was acknowledged is there, in order, QoS 2 once.
//!
//! `KILL_ROUNDS` sets the rounds (default 3).

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Options, message};
use crate::process::Place;

/// Messages a publisher has unanswered.
const WINDOW: u64 = 64;
/// Acknowledged messages of all publishers after which the broker is killed.
const KILL_AFTER: u64 = 2_000;

/// A publisher's account: numbers below `acknowledged` are, those from there to `sent` may be.
struct Account {
    qos: u8,
    acknowledged: u64,
    sent: u64,
    /// Numbers whose PUBREC came: PUBREL is sent again, not PUBLISH.
    received: BTreeSet<u64>,
}

fn payload(publisher: u8, n: u64) -> Vec<u8> {
    let mut bytes = vec![publisher];
    bytes.extend_from_slice(&n.to_be_bytes());
    bytes
}

/// Publishes until the broker is gone. A persistent session, so that QoS 2 goes on where it was.
fn publish(port: u16, number: u8, mut account: Account, all: &AtomicU64) -> Account {
    let id = format!("publisher-{number}");
    let mut run = || -> io::Result<()> {
        let mut client = Client::connect(port, &Options::persistent(&id, Version::V311))?;
        // What is not acknowledged is sent again under its packet id, in order (MQTT-4.4.0-1).
        let mut next = account.acknowledged;
        let packet_id = |n: u64| (n % WINDOW) as u16 + 1;
        loop {
            while next < account.acknowledged + WINDOW {
                if account.received.contains(&next) {
                    client.acknowledge(PacketType::Pubrel, packet_id(next))?;
                } else {
                    let bytes = payload(number, next);
                    let mut sent = message("kill/x", account.qos, packet_id(next), &bytes);
                    sent.dup = next < account.sent;
                    client.send(&sent)?;
                }
                next += 1;
                account.sent = account.sent.max(next);
            }
            let packet = client.read()?;
            let id = u16::from_be_bytes([packet.body[0], packet.body[1]]);
            match packet.first {
                0x50 => {
                    let window = account.acknowledged..account.sent;
                    account.received.extend(window.into_iter().find(|n| packet_id(*n) == id));
                    client.acknowledge(PacketType::Pubrel, id)?;
                }
                0x40 | 0x70 => {
                    assert_eq!(id, packet_id(account.acknowledged), "acknowledged in order");
                    account.received.remove(&account.acknowledged);
                    account.acknowledged += 1;
                    all.fetch_add(1, Ordering::Relaxed);
                }
                other => panic!("unexpected packet {other:#x}"),
            }
        }
    };
    let ended = run().expect_err("it runs until the broker is gone");
    assert_ne!(ended.kind(), io::ErrorKind::WouldBlock, "the broker answers");
    account
}

fn rounds() -> u64 {
    std::env::var("KILL_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(3)
}

#[test]
fn acknowledged_means_safe() {
    for shards in [1, 4] {
        let place = Place::new(shards);
        let reader = Options::persistent("reader", Version::V311);
        let mut accounts: Vec<_> = [1u8, 2]
            .iter()
            .map(|qos| Account { qos: *qos, acknowledged: 0, sent: 0, received: BTreeSet::new() })
            .collect();
        let mut unanswered = 0;
        for round in 0..rounds() {
            let broker = place.start();
            if round == 0 {
                let mut session = Client::connect(place.port, &reader).expect("connects");
                session.subscribe("kill/#", 2).expect("answered");
            }
            let all = Arc::new(AtomicU64::new(0));
            let threads: Vec<_> = accounts
                .drain(..)
                .enumerate()
                .map(|(n, account)| {
                    let (all, port) = (all.clone(), place.port);
                    thread::spawn(move || publish(port, n as u8, account, &all))
                })
                .collect();
            // At another moment in each round.
            let kill_after = KILL_AFTER + round * 37;
            while all.load(Ordering::Relaxed) < kill_after {
                thread::yield_now();
            }
            broker.kill();
            accounts.extend(threads.into_iter().map(|t| t.join().expect("strict client")));
            unanswered += u64::from(accounts.iter().any(|a| a.sent > a.acknowledged));
        }
        println!("{shards} shards: {unanswered} of {} kills with publishes unanswered", rounds());
        check(&place, &reader, &accounts);
    }
}

/// Drains the session and compares it with the publishers' accounts.
fn check(place: &Place, reader: &Options<'_>, accounts: &[Account]) {
    let broker = place.start();
    let mut session = Client::connect(place.port, reader).expect("connects");
    assert!(session.present, "the session is there");
    // A last message of another publisher ends the backlog.
    let mut last =
        Client::connect(place.port, &Options::clean("last", Version::V311)).expect("connects");
    last.publish(&message("kill/last", 1, 1, &payload(9, 0))).expect("acknowledged");
    let mut seen = vec![0u64; accounts.len()];
    loop {
        let got = session.receive().expect("delivered");
        if got.topic == "kill/last" {
            break;
        }
        let publisher = usize::from(got.payload[0]);
        let n = u64::from_be_bytes(got.payload[1..].try_into().expect("eight bytes"));
        let next = &mut seen[publisher];
        if accounts[publisher].qos == 2 {
            assert_eq!(n, *next, "QoS 2: once and in order");
        }
        assert!(n <= *next, "{n} before {next}: lost or out of order");
        *next = (*next).max(n + 1);
    }
    for (account, seen) in accounts.iter().zip(seen) {
        assert!(seen >= account.acknowledged, "acknowledged {} and missing", account.acknowledged);
        assert!(seen <= account.sent, "never sent");
    }
    broker.kill();
}
