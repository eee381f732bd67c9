//! The admin endpoint of a running broker: every metric is documented, and each one moves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use mqtt_codec::{Properties, Version, encode};

use crate::client::{Client, Message, Options, message};
use crate::process::{Broker, Place, free_port};

/// Longer than counts take to get to the page.
const DEADLINE: Duration = Duration::from_secs(20);

/// Whether a metric is what it must be.
type IsRight = fn(f64) -> bool;

/// Metrics that do not move, and what each must be.
const FIXED: &[(&str, IsRight)] = &[
    ("fluxmq_build_info", |v| v == 1.0),
    ("process_start_time_seconds", |v| v > 1.7e9),
    ("process_max_fds", |v| v >= 1_024.0),
    ("fluxmq_logd_shards", |v| v == 1.0),
    ("fluxmq_logd_shards_led", |v| v == 1.0),
    ("fluxmq_log_free_bytes", |v| v > 1e6),
    ("fluxmq_log_torn_tails_total", |v| v == 1.0),
    // `logd/raft/tests/hold.rs` moves it.
    ("fluxmq_log_held_ms_total", |v| v == 0.0),
];

pub(crate) type Page = BTreeMap<String, f64>;

/// What `path` says: status and body.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the admin endpoint listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("answered");
    let (head, body) = said.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

pub(crate) fn page(port: u16) -> Page {
    let (status, body) = get(port, "/metrics");
    assert_eq!(status, 200);
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            let name = name.split('{').next().unwrap_or(name);
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// A connection that does as it likes: MQTT 5, clean, with properties.
fn raw(port: u16, id: &str, properties: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    let mut body = b"\0\x04MQTT\x05\x02\0\0".to_vec();
    body.push(properties.len() as u8);
    body.extend_from_slice(properties);
    body.extend_from_slice(&[0, id.len() as u8]);
    body.extend_from_slice(id.as_bytes());
    send(&mut stream, 0x10, &body);
    assert_eq!(receive(&mut stream), 0x20);
    stream
}

fn send(stream: &mut TcpStream, first: u8, body: &[u8]) {
    assert!(body.len() < 128, "one byte of length");
    let mut packet = vec![first, body.len() as u8];
    packet.extend_from_slice(body);
    stream.write_all(&packet).expect("sent");
}

/// Reads a packet of less than 128 bytes; its first byte.
fn receive(stream: &mut TcpStream) -> u8 {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a packet");
    stream.read_exact(&mut vec![0; head[1].into()]).expect("whole");
    head[0]
}

fn subscribe(stream: &mut TcpStream, filter: &str, qos: u8) {
    let mut body = vec![0, 1, 0, 0, filter.len() as u8];
    body.extend_from_slice(filter.as_bytes());
    body.push(qos);
    send(stream, 0x82, &body);
    assert_eq!(receive(stream), 0x90);
}

/// Leaves half a record at the end of the newest segment of shard 0, as a power cut does.
fn tear(data: &Path) {
    let log = data.join("shard-0/log");
    let files = std::fs::read_dir(&log).expect("the log of shard 0");
    let segments = files.map(|f| f.expect("readable").path());
    let mut segments: Vec<_> =
        segments.filter(|p| p.extension().is_some_and(|e| e == "seg")).collect();
    segments.sort();
    let newest = segments.last().expect("a segment");
    let mut bytes = std::fs::read(newest).expect("readable");
    let end = bytes.iter().rposition(|b| *b != 0).expect("it is not empty") + 1;
    let at = end.next_multiple_of(8);
    bytes[at..at + 32].fill(0xA5);
    std::fs::write(newest, bytes).expect("written");
}

#[test]
fn every_metric_is_documented_and_moves() {
    let place = Place::new(1);
    assert!(place.start().terminate().success());
    tear(&place.data);
    let admin = free_port();
    let address = format!("127.0.0.1:{admin}");
    // Limits that others never reach; a gateway of its own beside that of the process.
    let limits = [
        ("FLUXMQ_MQTT_SUBSCRIPTIONS_PER_S", "20"),
        ("FLUXMQ_MQTT_CONNECTIONS_MAX", "100"),
        ("FLUXMQ_STORAGE_SESSION_BACKLOG_MESSAGES", "30"),
        ("FLUXMQ_STORAGE_RETAINED_MESSAGES_MAX", "1"),
    ];
    let broker = place.start_configured(&["--admin", &address, "--grpc", &place.grpc()], &limits);
    let before = page(admin);
    let documented: BTreeSet<String> = include_str!("../../../../docs/telemetry.md")
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned()))
        .filter(|name| name.contains('_'))
        .collect();
    let there: BTreeSet<String> = before.keys().cloned().collect();
    assert_eq!(documented, there, "docs/telemetry.md on the left, the page on the right");
    for (name, is_right) in FIXED {
        assert!(is_right(before[*name]), "{name} is {}", before[*name]);
    }
    let held = make_everything_happen(place.port);
    let other = other_gateway(&place);
    let crowd: Vec<_> = (0..101).map(|_| TcpStream::connect(("127.0.0.1", place.port))).collect();
    let still = |name: &str| !FIXED.iter().any(|(fixed, _)| *fixed == name);
    let began = Instant::now();
    loop {
        let now = page(admin);
        let unmoved: Vec<_> =
            before.iter().filter(|(name, v)| still(name) && now[*name] == **v).collect();
        if unmoved.is_empty() {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "these have not moved: {unmoved:?}");
    }
    drop((held, other, crowd, broker));
}

/// Another gateway: messages go there and come from there, until it stops taking them. And a client that
/// subscribes faster than it may.
fn other_gateway(place: &Place) -> Broker {
    let (gateway, port) = place.start_another_gateway();
    let mut there = Client::connect(port, &Options::clean("there", Version::V5)).expect("connects");
    there.subscribe("there", 1).expect("subscribed");
    let mut here =
        Client::connect(place.port, &Options::clean("here", Version::V5)).expect("connects");
    here.subscribe("here", 1).expect("subscribed");
    here.publish(&message("there", 1, 1, b"m")).expect("taken");
    assert_eq!(there.receive().expect("delivered").topic, "there");
    there.publish(&message("here", 1, 1, b"m")).expect("taken");
    assert_eq!(here.receive().expect("delivered").topic, "here");
    // More at once than a second allows, however slow this machine is.
    let filters: Vec<_> = (0..40).map(|n| format!("many/{n}")).collect();
    let filters: Vec<_> = filters.iter().map(|filter| (&**filter, 0)).collect();
    let mut many = Vec::new();
    encode::subscribe(&mut many, Version::V5, 77, Properties::default(), &filters);
    here.write(&many).expect("sent");
    here.suback().expect("subscribed");
    gateway.pause();
    for _ in 0..8 {
        here.publish(&message("there", 0, 0, &[0; 512 * 1024])).expect("sent");
    }
    gateway
}

/// Clients of every kind; returns the ones that are to stay.
fn make_everything_happen(port: u16) -> Vec<TcpStream> {
    let mut publisher =
        Client::connect(port, &Options::clean("publisher", Version::V5)).expect("connects");
    // Live and durable deliveries of every QoS; a retained message; something owed to who is away.
    let mut session =
        Client::connect(port, &Options::persistent("session", Version::V5)).expect("connects");
    session.subscribe("all/#", 2).expect("subscribed");
    for qos in 0..=2 {
        publisher.publish(&message("all/x", qos, 7, b"m")).expect("taken");
        session.receive().expect("delivered");
    }
    // A message of a queue.
    let mut worker =
        Client::connect(port, &Options::clean("worker", Version::V5)).expect("connects");
    worker.subscribe("$queue/q", 1).expect("subscribed");
    publisher.publish(&message("$queue/q", 1, 7, b"m")).expect("taken");
    worker.receive().expect("delivered");
    session.disconnect().expect("closed");
    let mut kept = message("all/kept", 1, 8, &[1; 100_000]);
    kept.retain = true;
    // Enough for a second segment.
    for _ in 0..40 {
        publisher.publish(&kept).expect("taken");
    }
    // One retained message more than may be.
    publisher.send(&Message { topic: "all/more".into(), ..kept }).expect("sent");
    assert_eq!(publisher.read().expect("answered").body[2], 0x97);
    // A retained message for a session, and the end of one that published with QoS 2.
    let mut late =
        Client::connect(port, &Options::persistent("late", Version::V5)).expect("connects");
    late.subscribe("all/kept", 1).expect("subscribed");
    assert!(late.receive().expect("delivered").retain);
    late.publish(&message("all/x", 2, 9, b"m")).expect("taken");
    late.disconnect().expect("closed");
    drop(Client::connect(port, &Options::clean("late", Version::V5)).expect("connects"));
    // A takeover, and one who breaks the protocol.
    let mut older = raw(port, "twice", &[]);
    let newer = raw(port, "twice", &[]);
    assert_eq!(receive(&mut older), 0xE0);
    let mut wrong = raw(port, "wrong", &[]);
    send(&mut wrong, 0xF7, &[1, 2]);
    let _ = wrong.read_to_end(&mut Vec::new());
    // A payload that is said to be UTF-8 and is not.
    let mut broken = raw(port, "broken", &[]);
    send(&mut broken, 0x30, b"\0\x04live\x02\x01\x01\xFF");
    // One who takes packets up to 40 bytes only, and a message that has expired when it comes.
    let mut small = raw(port, "small", &[0x27, 0, 0, 0, 40]);
    subscribe(&mut small, "live/small", 0);
    publisher.publish(&message("live/small", 0, 0, &[0; 100])).expect("sent");
    let mut expired = b"\0\x0Alive/small\x05\x02\0\0\0\0".to_vec();
    expired.push(b'm');
    let mut other = raw(port, "other", &[]);
    send(&mut other, 0x30, &expired);
    // One who reads nothing: QoS 0 is dropped. One who answers nothing: the window and what waits behind it are full.
    let mut deaf = raw(port, "deaf", &[]);
    subscribe(&mut deaf, "live/deaf", 0);
    for _ in 0..160 {
        publisher.publish(&message("live/deaf", 0, 0, &[0; 256 * 1024])).expect("sent");
    }
    let mut mute = raw(port, "mute", &[]);
    subscribe(&mut mute, "live/mute", 1);
    for _ in 0..2_100 {
        publisher.publish(&message("live/mute", 1, 9, b"m")).expect("taken");
    }
    publisher.ping().expect("it lives");
    vec![newer, broken, small, other, deaf, mute]
}

#[test]
fn readiness_tells_of_a_full_disk_and_health_does_not() {
    let place = Place::new(1);
    let admin = free_port();
    let memory = ["--data-dir", "memory", "--admin", &format!("127.0.0.1:{admin}")];
    let small = [
        ("FLUXMQ_STORAGE_MEMORY_BYTES_MAX", "67108864"),
        ("FLUXMQ_STORAGE_LOW_WATER_BYTES", "16777216"),
        ("FLUXMQ_STORAGE_SEGMENT_BYTES_MAX", "4194304"),
    ];
    let broker = place.start_configured(&memory, &small);
    assert_eq!(get(admin, "/readyz"), (200, "ready\n".into()));
    assert_eq!(get(admin, "/healthz"), (200, "alive\n".into()));
    assert_eq!(get(admin, "/").0, 404);
    let mut away =
        Client::connect(place.port, &Options::persistent("away", Version::V5)).expect("connects");
    away.subscribe("t", 1).expect("subscribed");
    away.disconnect().expect("closed");
    let mut publisher =
        Client::connect(place.port, &Options::clean("p", Version::V5)).expect("connects");
    let mut taken = 0;
    loop {
        publisher.send(&message("t", 1, 1, &[0; 1024 * 1024])).expect("sent");
        let answer = publisher.read().expect("answered");
        if answer.body.get(2).is_some_and(|reason| *reason >= 0x80) {
            break;
        }
        taken += 1;
        assert!(taken < 64, "more was taken than there is");
    }
    let (status, said) = get(admin, "/readyz");
    assert!(status == 503 && said.starts_with("not ready\ndisk: is full: "), "{status} {said}");
    assert_eq!(get(admin, "/healthz"), (200, "alive\n".into()));
    drop(broker);
}
