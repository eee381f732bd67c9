//! kill -9 while publishers write: what was acknowledged is there, in order, QoS 2 once.
//!
//! Whoever is killed: `fluxmq`, both processes, or one of them while the other goes on.
//! `KILL_ROUNDS` sets the rounds (default 3).

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Options, message};
use crate::process::{Broker, Place, Tiers};

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

/// Publishes until the broker is gone, or until `all` says so. A persistent session, so that QoS 2 goes on
/// where it was.
fn publish(port: u16, number: u8, mut account: Account, all: &Progress) -> Account {
    let id = format!("publisher-{number}");
    let mut run = || -> io::Result<()> {
        let mut client = Client::connect(port, &Options::persistent(&id, Version::V311))?;
        // What is not acknowledged is sent again under its packet id, in order (MQTT-4.4.0-1).
        let mut next = account.acknowledged;
        let packet_id = |n: u64| (n % WINDOW) as u16 + 1;
        while !all.stop.load(Ordering::Relaxed) {
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
                    all.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                other => panic!("unexpected packet {other:#x}"),
            }
        }
        Ok(())
    };
    if let Err(ended) = run() {
        assert_ne!(ended.kind(), io::ErrorKind::WouldBlock, "the broker answers");
        assert!(!all.must_stay, "the connection was dropped: {ended}");
    }
    account
}

/// What publishers share with who kills.
#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    stop: AtomicBool,
    /// Nobody may lose his connection.
    must_stay: bool,
}

// === impl Progress ===

impl Progress {
    fn wait_for(&self, count: u64) {
        while self.acknowledged.load(Ordering::Relaxed) < count {
            thread::yield_now();
        }
    }
}

fn accounts() -> Vec<Account> {
    let new = |qos| Account { qos, acknowledged: 0, sent: 0, received: BTreeSet::new() };
    vec![new(1), new(2)]
}

fn spawn(
    accounts: &mut Vec<Account>,
    port: u16,
    all: &Arc<Progress>,
) -> Vec<thread::JoinHandle<Account>> {
    let publisher = |(n, account)| {
        let all = all.clone();
        thread::spawn(move || publish(port, n as u8, account, &all))
    };
    accounts.drain(..).enumerate().map(publisher).collect()
}

fn rounds() -> u64 {
    std::env::var("KILL_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(3)
}

#[test]
fn acknowledged_means_safe() {
    for (tiers, shards) in [(Tiers::One, 1), (Tiers::One, 4), (Tiers::Two, 1), (Tiers::Two, 4)] {
        let place = Place::of(tiers, shards);
        let reader = Options::persistent("reader", Version::V311);
        let mut accounts = accounts();
        let mut unanswered = 0;
        for round in 0..rounds() {
            let broker = place.start();
            if round == 0 {
                let mut session = Client::connect(place.port, &reader).expect("connects");
                session.subscribe("kill/#", 2).expect("answered");
            }
            let all = Arc::new(Progress::default());
            let threads = spawn(&mut accounts, place.port, &all);
            // At another moment in each round.
            all.wait_for(KILL_AFTER + round * 37);
            broker.kill();
            accounts.extend(threads.into_iter().map(|t| t.join().expect("strict client")));
            unanswered += u64::from(accounts.iter().any(|a| a.sent > a.acknowledged));
        }
        let rounds = rounds();
        println!("{tiers:?}, {shards} shards: {unanswered} of {rounds} kills unanswered");
        check(&place, &reader, &accounts, place.start());
    }
}

#[test]
fn nobody_is_dropped_and_nothing_lost_when_logd_alone_is_killed() {
    for shards in [1, 4] {
        let place = Place::of(Tiers::Two, shards);
        let mut broker = place.start();
        let reader = Options::persistent("reader", Version::V311);
        let mut session = Client::connect(place.port, &reader).expect("connects");
        session.subscribe("kill/#", 2).expect("answered");
        drop(session);
        let mut accounts = accounts();
        let all = Arc::new(Progress { must_stay: true, ..Progress::default() });
        let threads = spawn(&mut accounts, place.port, &all);
        for round in 1..=rounds() {
            all.wait_for(round * (KILL_AFTER + 37));
            broker.restart_logd(&place);
        }
        all.wait_for((rounds() + 1) * (KILL_AFTER + 37));
        all.stop.store(true, Ordering::Relaxed);
        accounts.extend(threads.into_iter().map(|t| t.join().expect("strict client")));
        check(&place, &reader, &accounts, broker);
    }
}

#[test]
fn acknowledged_means_safe_when_the_gateway_alone_is_killed() {
    let place = Place::of(Tiers::Two, 1);
    let mut broker = place.start();
    let reader = Options::persistent("reader", Version::V311);
    let mut session = Client::connect(place.port, &reader).expect("connects");
    session.subscribe("kill/#", 2).expect("answered");
    let mut accounts = accounts();
    for round in 0..rounds() {
        let all = Arc::new(Progress::default());
        let threads = spawn(&mut accounts, place.port, &all);
        all.wait_for(KILL_AFTER + round * 37);
        broker.restart_gateway(&place);
        accounts.extend(threads.into_iter().map(|t| t.join().expect("strict client")));
    }
    check(&place, &reader, &accounts, broker);
}

/// Drains the session and compares it with the publishers' accounts.
fn check(place: &Place, reader: &Options<'_>, accounts: &[Account], broker: Broker) {
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
