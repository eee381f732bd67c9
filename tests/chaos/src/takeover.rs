//! The last CONNECT wins, on whatever gateway: nothing lost, nothing twice, and the old owner is out of it (G1).

use std::collections::{BTreeMap, HashSet};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Options, Packet, message};
use crate::pair::Pair;
use crate::process::Part;
use crate::proxy::Lane;

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Client ids.
    pub ids: u64,
    /// Takeovers of each.
    pub takeovers: u64,
    /// Of how long each stays.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Takeovers.
    pub takeovers: u64,
    /// Messages of QoS 2 that were published.
    pub messages: u64,
    /// Never delivered, or out of order.
    pub lost: u64,
    /// Delivered again.
    pub twice: u64,
    /// Delivered by the old owner after the CONNACK of the new one.
    pub late: u64,
    /// Wills that watchers on both gateways had to get, in all.
    pub wills_due: u64,
    /// Wills that did not come, came again, or were not due.
    pub wills_wrong: u64,
}

/// The client's half of a session.
#[derive(Default)]
struct Half {
    /// Packet ids of QoS 2 that wait for PUBREL.
    held: HashSet<u16>,
    next: u64,
    lost: u64,
    twice: u64,
}

// === impl Half ===

impl Half {
    /// Notes a packet; the answer it asks for.
    fn take(&mut self, client: &Client, packet: &Packet) -> Vec<u8> {
        match packet.kind() {
            3 => {
                let got = client.message(packet);
                assert_eq!(got.qos, 2, "as published and subscribed");
                if self.held.insert(got.id) {
                    let n = got.number();
                    self.twice += u64::from(n < self.next);
                    self.lost += n.saturating_sub(self.next);
                    self.next = self.next.max(n + 1);
                }
                client.acknowledgement(PacketType::Pubrec, got.id)
            }
            6 => {
                self.held.remove(&packet.id());
                client.acknowledgement(PacketType::Pubcomp, packet.id())
            }
            _ => Vec::new(),
        }
    }
}

/// What movers share with publishers and watchers.
struct Shared {
    /// Nothing is published before all have subscribed.
    begin: Barrier,
    /// Messages published to each id.
    published: Vec<AtomicU64>,
    moved: AtomicU64,
    all_moved: AtomicBool,
    all_published: AtomicU64,
    stop: AtomicBool,
}

const PUBLISHERS: u64 = 8;

/// Ids connect from both gateways in turn and leave every connection standing, while they are published to.
///
/// # Panics
/// A client saw the protocol broken.
#[must_use]
pub fn alive(pair: &Pair, plan: Plan) -> Outcome {
    let shared = Shared {
        begin: Barrier::new((plan.ids + PUBLISHERS) as usize),
        published: (0..plan.ids).map(|_| AtomicU64::new(0)).collect(),
        moved: AtomicU64::new(0),
        all_moved: AtomicBool::new(false),
        all_published: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let (ports, shared) = (pair.ports, &shared);
    let mut outcome = Outcome::default();
    let watchers = [0, 1].map(|gateway| {
        let mut watcher = pair.transient(gateway, &format!("watcher-{gateway}"));
        watcher.subscribe("will/+", 1).expect("answered");
        watcher
    });
    thread::scope(|scope| {
        let watchers = watchers.map(|watcher| scope.spawn(move || watch(watcher, &shared.stop)));
        let movers: Vec<_> = (0..plan.ids)
            .map(|id| scope.spawn(move || move_about(ports, id, plan, shared)))
            .collect();
        for n in 0..PUBLISHERS {
            scope.spawn(move || publish(ports, n, plan.ids, shared));
        }
        for mover in movers {
            let (half, late) = mover.join().expect("a strict client");
            outcome.lost += half.lost;
            outcome.twice += half.twice;
            outcome.late += late;
        }
        // What the last one caused is on its way.
        thread::sleep(Duration::from_millis(500));
        shared.stop.store(true, SeqCst);
        for seen in watchers.map(|watcher| watcher.join().expect("a strict client")) {
            for id in 0..plan.ids {
                for n in 0..=plan.takeovers {
                    // The last connection says DISCONNECT; wills that wait are off once the session is resumed.
                    let due = u64::from(delay_s(id) == 0 && n < plan.takeovers);
                    outcome.wills_due += due;
                    outcome.wills_wrong += seen.get(&(id, n)).copied().unwrap_or(0).abs_diff(due);
                }
            }
        }
    });
    outcome.takeovers = shared.moved.load(SeqCst);
    outcome.messages = shared.published.iter().map(|n| n.load(SeqCst)).sum();
    outcome
}

/// Every second id has a will that waits longer than the session is away.
fn delay_s(id: u64) -> u32 {
    if id.is_multiple_of(2) { 0 } else { 600 }
}

/// Wills by id and number of the connection.
fn watch(mut watcher: Client, stop: &AtomicBool) -> BTreeMap<(u64, u64), u64> {
    let mut seen = BTreeMap::new();
    loop {
        let packet = watcher.read_within(Duration::from_millis(100)).expect("it stands");
        let Some(packet) = packet else {
            if stop.load(SeqCst) {
                return seen;
            }
            continue;
        };
        if let Some(will) = watcher.answer(&packet).expect("it stands") {
            let id = will.topic.strip_prefix("will/").and_then(|id| id.parse().ok());
            *seen.entry((id.expect("ours"), will.number())).or_default() += 1;
        }
    }
}

fn publish(ports: [u16; 2], number: u64, ids: u64, shared: &Shared) {
    let port = ports[(number % 2) as usize];
    let name = format!("publisher-{number}");
    let mut client = Client::reach(port, &Options::persistent(&name, Version::V311));
    let mut packet_id = 0;
    shared.begin.wait();
    while !shared.all_moved.load(SeqCst) {
        for id in (number..ids).step_by(PUBLISHERS as usize) {
            packet_id = packet_id % 1_000 + 1;
            let n = shared.published[id as usize].load(SeqCst);
            let sent = message(&format!("to/{id}"), 2, packet_id, &n.to_be_bytes());
            client.publish(&sent).expect("acknowledged");
            shared.published[id as usize].store(n + 1, SeqCst);
        }
    }
    shared.all_published.fetch_add(1, SeqCst);
}

/// One id; what it saw, and how many messages came late.
fn move_about(ports: [u16; 2], id: u64, plan: Plan, shared: &Shared) -> (Half, u64) {
    let mut random = fastrand::Rng::with_seed(plan.seed ^ id);
    let (name, will) = (format!("mover-{id}"), format!("will/{id}"));
    let (mut half, mut late) = (Half::default(), 0);
    let mut current: Option<Client> = None;
    for n in 0..=plan.takeovers {
        let payload = n.to_be_bytes();
        let mut options = Options::persistent(&name, Version::V5);
        options.will = Some((&will, &payload));
        options.will_delay_s = delay_s(id);
        let mut client = Client::reach(ports[((n + id) % 2) as usize], &options);
        match current.take() {
            None => {
                assert_eq!(client.subscribe(&format!("to/{id}"), 2).expect("answered"), 2);
                shared.begin.wait();
            }
            Some(old) => {
                assert!(client.present, "the session is there");
                shared.moved.fetch_add(1, SeqCst);
                late += leave(old, &mut half);
            }
        }
        stay(&mut client, &mut half, random.u64(1..4));
        current = Some(client);
    }
    if shared.moved.load(SeqCst) == plan.ids * plan.takeovers {
        shared.all_moved.store(true, SeqCst);
    }
    let mut client = current.expect("the last one");
    while shared.all_published.load(SeqCst) < PUBLISHERS
        || half.next < shared.published[id as usize].load(SeqCst)
        || !half.held.is_empty()
    {
        stay(&mut client, &mut half, 1);
    }
    client.disconnect().expect("it stands");
    (half, late)
}

/// Takes at least so many messages, or as many as come within a moment.
fn stay(client: &mut Client, half: &mut Half, messages: u64) {
    let enough = half.next + messages;
    while half.next < enough {
        let Some(packet) = client.read_within(Duration::from_millis(200)).expect("it stands")
        else {
            return;
        };
        let answer = half.take(client, &packet);
        client.write(&answer).expect("it stands");
    }
}

/// The new owner has its CONNACK. What lies in the old one's socket came before; what comes later is counted.
fn leave(mut old: Client, half: &mut Half) -> u64 {
    while let Ok(Some(packet)) = old.read_within(Duration::ZERO) {
        // An answer would go nowhere.
        half.take(&old, &packet);
    }
    let mut late = 0;
    while let Ok(packet) = old.read() {
        late += u64::from(packet.kind() == 3);
    }
    late
}

/// In which state the old gateway is when its client turns up at the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// It is stopped and goes on later.
    Stopped,
    /// Its link to `logd` is cut and stands again later.
    CutOff,
    /// It is killed.
    Dead,
}

/// What is wrong after a takeover from a gateway that could not be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Messages that came with another packet id, or not at all.
    pub ids_changed: u64,
    /// Messages the old gateway passed on that were published after the takeover.
    pub fetched_after: u64,
    /// Messages that an acknowledgement to the old gateway settled.
    pub settled_by_old: u64,
}

/// A new connection goes on after this, whether the old one is gone or not (G1).
const WAIT: Duration = Duration::from_secs(2);

/// Messages before the takeover, half of them QoS 2, and after it.
const BEFORE: u64 = 60;
const AFTER: u64 = 20;

/// A session moves from the first gateway, which is `old`, to the second. Then its old connection acknowledges what it
/// had, and the first gateway comes back.
///
/// # Panics
/// The protocol is broken.
#[must_use]
pub fn from(pair: &mut Pair, old: Old) -> Faults {
    let name = format!("mover-{old:?}");
    let topic = format!("to/{name}");
    let mut here = pair.session(0, &name);
    assert_eq!(here.subscribe(&topic, 2).expect("answered"), 2);
    let mut publisher = pair.session(1, &format!("publisher-{old:?}"));
    let mut publish = |numbers: std::ops::Range<u64>| {
        for n in numbers {
            let (qos, id) = (1 + (n % 2) as u8, 1 + (n % 60) as u16);
            publisher.publish(&message(&topic, qos, id, &n.to_be_bytes())).expect("acknowledged");
        }
    };
    publish(0..BEFORE);
    let first = unanswered(&mut here, BEFORE);
    match old {
        Old::Stopped => pair.first.stop_part(Part::Front, true),
        Old::CutOff => pair.proxies[0].cut(),
        Old::Dead => pair.first.kill_part(Part::Front),
    }
    let answers: Vec<u8> = first
        .iter()
        .flat_map(|(n, id)| {
            let kind = if n % 2 == 0 { PacketType::Puback } else { PacketType::Pubrec };
            here.acknowledgement(kind, *id)
        })
        .collect();
    if old == Old::CutOff {
        here.write(&answers).expect("its gateway is there");
        here.ping().expect("its gateway has them");
    }
    let mut there = pair.session(1, &name);
    assert!(there.present, "the session is there");
    publish(BEFORE..BEFORE + AFTER);
    let second = unanswered(&mut there, BEFORE + AFTER);
    let mut faults = Faults::default();
    faults.ids_changed += first.iter().filter(|(n, id)| second.get(n) != Some(id)).count() as u64;
    match old {
        Old::Stopped => {
            here.write(&answers).expect("its socket has room");
            pair.first.stop_part(Part::Front, false);
        }
        Old::CutOff => pair.proxies[0].restore(),
        Old::Dead => pair.revive_first(),
    }
    while let Ok(packet) = here.read() {
        faults.fetched_after +=
            u64::from(packet.kind() == 3 && here.message(&packet).number() >= BEFORE);
    }
    // What the old one sent is in the log by now, if it was taken: this goes behind it.
    publish(BEFORE + AFTER..BEFORE + AFTER + 1);
    drop(there);
    let mut third = pair.session(1, &name);
    let again = unanswered(&mut third, BEFORE + AFTER + 1);
    faults.settled_by_old +=
        second.iter().filter(|(n, id)| again.get(n) != Some(id)).count() as u64;
    faults
}

/// The packet ids of what is owed, by number, up to `count` or as many as come; nothing is answered.
fn unanswered(client: &mut Client, count: u64) -> BTreeMap<u64, u16> {
    let mut ids = BTreeMap::new();
    while (ids.len() as u64) < count {
        let packet = client.read_within(Duration::from_secs(2)).expect("it stands");
        let Some(packet) = packet else { break };
        if packet.kind() == 3 {
            let got = client.message(&packet);
            ids.insert(got.number(), got.id);
        }
    }
    ids
}

/// The old gateway is not told for a while: whether the new connection has its CONNACK before that.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn before_the_old_is_gone(pair: &Pair) -> bool {
    let mut first = pair.transient(0, "told late");
    pair.proxies[0].hold_down(Lane::Deliver, true);
    let began = Instant::now();
    let (tx, rx) = channel();
    let early = thread::scope(|scope| {
        scope.spawn(move || {
            let client = pair.transient(1, "told late");
            let waited = began.elapsed();
            // Nobody waits for one that came when it should.
            let _ = tx.send(waited);
            drop(client);
        });
        let early = rx.recv_timeout(Duration::from_millis(300)).is_ok_and(|waited| waited < WAIT);
        pair.proxies[0].hold_down(Lane::Deliver, false);
        early
    });
    while first.read().is_ok() {}
    early
}

/// The one connection of a transient client is the last one: the one before is told so. True when it was.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn transient(pair: &Pair) -> bool {
    let mut first = pair.transient(0, "same");
    first.subscribe("same", 1).expect("answered");
    let mut second = pair.transient(1, "same");
    let last = first.read().expect("told");
    second.subscribe("same", 1).expect("answered");
    let mut publisher = pair.transient(0, "publisher-to-same");
    publisher.publish(&message("same", 1, 1, b"x")).expect("acknowledged");
    let got = second.receive().expect("delivered");
    (last.first, last.body[0]) == (0xE0, 0x8E) && got.payload == b"x"
}
