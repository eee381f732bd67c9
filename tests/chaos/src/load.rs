//! Clients that go on through everything: publishers, subscribers, and one that keeps messages and sessions.
//! Each is a thread, strict about the protocol, and tells the ledger before it goes on.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Message, Options, Packet, message};
use crate::ledger::{Kind, Ledger, Pen};

/// Messages a publisher has unanswered.
pub const WINDOW: u64 = 64;
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(4);
/// Kept topics.
pub const TOPICS: u64 = 500;

/// What who kills says to all clients.
#[derive(Default)]
pub struct Signals {
    /// Nothing new is begun; what is under way is finished.
    pub pause: AtomicBool,
    /// All end.
    pub stop: AtomicBool,
}

// === impl Signals ===

impl Signals {
    fn is_on(flag: &AtomicBool) -> bool {
        flag.load(SeqCst)
    }
}

/// What is seen of a publisher from outside.
#[derive(Default)]
pub struct Counts {
    /// Messages that were begun.
    pub sent: AtomicU64,
    /// Messages that are through.
    pub acknowledged: AtomicU64,
}

// === impl Counts ===

impl Counts {
    /// Messages on their way.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        // In this order: it is never less than nothing.
        let acknowledged = self.acknowledged.load(SeqCst);
        self.sent.load(SeqCst).saturating_sub(acknowledged)
    }
}

/// A publisher with a persistent session, so that QoS 2 goes on where it was. Its topic is `load/` and its name.
pub struct Publisher {
    /// Client id and last level of the topic.
    pub name: String,
    /// 1 or 2.
    pub qos: u8,
    /// 3.1.1 or 5.
    pub version: Version,
    /// Gateways it connects to, one after the other.
    pub ports: Vec<u16>,
    /// What is seen of it.
    pub counts: Arc<Counts>,
    /// Transient subscribers: none may be further behind than [`AHEAD`], or the broker ends it (R8).
    pub paced_by: Vec<Seen>,
}

/// Publishers and how far a subscriber is with each.
pub type Seen = Arc<Vec<(String, AtomicU64)>>;

/// Messages a publisher may be ahead of a transient subscriber; of four together less than a receiver may have waiting.
const AHEAD: u64 = 200;

/// The state of a publisher: numbers below `acknowledged` are, those from there to `sent` may be.
struct Account {
    acknowledged: u64,
    sent: u64,
    /// Numbers whose PUBREC came: PUBREL is sent again, not PUBLISH.
    received: BTreeSet<u64>,
}

fn packet_id(number: u64) -> u16 {
    (number % WINDOW) as u16 + 1
}

// === impl Publisher ===

impl Publisher {
    /// Publishes until all is to stop and everything is acknowledged.
    #[must_use]
    pub fn spawn(self, ledger: &Ledger, signals: &Arc<Signals>) -> JoinHandle<()> {
        let (mut pen, signals) = (ledger.pen(), signals.clone());
        thread::spawn(move || {
            let mut account = Account { acknowledged: 0, sent: 0, received: BTreeSet::new() };
            let mut ports = self.ports.iter().cycle();
            let mut connected_once = false;
            loop {
                let port = *ports.next().expect("a port");
                let Ok(mut client) =
                    Client::connect(port, &Options::persistent(&self.name, self.version))
                else {
                    thread::sleep(RETRY);
                    continue;
                };
                assert!(!connected_once || client.present, "the session of {} is lost", self.name);
                connected_once = true;
                match self.run(&mut client, &mut account, &mut pen, &signals) {
                    Ok(()) => return,
                    Err(e) => assert!(!is_silence(&e), "{} gets no answer", self.name),
                }
            }
        })
    }

    fn run(
        &self,
        client: &mut Client,
        account: &mut Account,
        pen: &mut Pen,
        signals: &Signals,
    ) -> io::Result<()> {
        // What is not acknowledged is sent again under its packet id, in order (MQTT-4.4.0-1).
        let mut next = account.acknowledged;
        loop {
            let mut out = Vec::new();
            let paused = Signals::is_on(&signals.pause);
            let end = if paused { account.sent } else { self.allowed().max(account.sent) };
            while next < end.min(account.acknowledged + WINDOW) {
                out.extend(self.packet(client, account, next));
                next += 1;
                if next > account.sent {
                    pen.note(Kind::Sent, &self.name, next - 1);
                    account.sent = next;
                }
            }
            self.counts.sent.store(account.sent, SeqCst);
            pen.keep();
            client.write(&out)?;
            if account.acknowledged == account.sent {
                if Signals::is_on(&signals.stop) {
                    return Ok(());
                }
                // Nothing is under way; a closed connection is seen here.
                if let Some(packet) = client.read_within(Duration::from_millis(2))? {
                    if packet.kind() == 14 {
                        return Err(packet.goodbye());
                    }
                    panic!("{} gets {packet:?}", self.name);
                }
                continue;
            }
            let mut packet = Some(client.read()?);
            let mut out = Vec::new();
            while let Some(came) = packet {
                self.answered(client, account, pen, &came, &mut out)?;
                packet = client.take_packet();
            }
            pen.keep();
            self.counts.acknowledged.store(account.acknowledged, SeqCst);
            client.write(&out)?;
        }
    }

    fn allowed(&self) -> u64 {
        let own = |seen: &Seen| {
            let own = seen.iter().find(|(name, _)| *name == self.name);
            own.map_or(0, |(_, seen)| seen.load(SeqCst))
        };
        self.paced_by.iter().map(own).min().map_or(u64::MAX, |seen| seen + AHEAD)
    }

    fn packet(&self, client: &Client, account: &Account, number: u64) -> Vec<u8> {
        if account.received.contains(&number) {
            return client.acknowledgement(PacketType::Pubrel, packet_id(number));
        }
        let topic = format!("load/{}", self.name);
        let mut sent = message(&topic, self.qos, packet_id(number), &number.to_be_bytes());
        sent.dup = number < account.sent;
        client.frame(&sent)
    }

    fn answered(
        &self,
        client: &Client,
        account: &mut Account,
        pen: &mut Pen,
        packet: &Packet,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        if packet.kind() == 14 {
            return Err(packet.goodbye());
        }
        let id = packet.id();
        match packet.first {
            0x50 => {
                self.check_refusal(packet)?;
                let window = account.acknowledged..account.sent;
                account.received.extend(window.into_iter().find(|n| packet_id(*n) == id));
                out.extend(client.acknowledgement(PacketType::Pubrel, id));
            }
            0x40 | 0x70 => {
                // PUBCOMP may say that the id is not known any more: the first PUBREL was taken.
                if packet.first == 0x40 {
                    self.check_refusal(packet)?;
                }
                let expected = packet_id(account.acknowledged);
                assert_eq!(id, expected, "{}: acknowledged in order", self.name);
                account.received.remove(&account.acknowledged);
                pen.note(Kind::Acknowledged, &self.name, account.acknowledged);
                account.acknowledged += 1;
            }
            _ => panic!("{} gets {packet:?}", self.name),
        }
        Ok(())
    }
}

// === impl Publisher ===

impl Publisher {
    /// A gateway whose epoch has ended refuses what it had under way, and says good-bye: it is sent again.
    fn check_refusal(&self, packet: &Packet) -> io::Result<()> {
        match packet.body.get(2).copied().unwrap_or(0) {
            0..0x80 => Ok(()),
            0x80 => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => panic!("{} is refused: {packet:?}", self.name),
        }
    }
}

/// Nothing came though the connection stands.
fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// How a subscriber lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its session outlives its connections.
    Persistent,
    /// The same; connected only while it is told to be.
    Away,
    /// Its one connection must stand to the end.
    Transient,
}

/// Subscribes to `load/#` with QoS 2.
pub struct Subscriber {
    /// Client id.
    pub name: String,
    /// How it lives.
    pub life: Life,
    /// Gateways it connects to, one after the other.
    pub ports: Vec<u16>,
    /// How far it is.
    pub seen: Seen,
    /// Whether one that is away is to be connected.
    pub attached: Arc<AtomicBool>,
}

// === impl Subscriber ===

impl Subscriber {
    /// Counters for publishers of these names.
    #[must_use]
    pub fn counters(names: &[String]) -> Seen {
        Arc::new(names.iter().map(|name| (name.clone(), AtomicU64::new(0))).collect())
    }

    /// Connects, subscribes, and receives until all is to stop.
    #[must_use]
    pub fn spawn(self, ledger: &Ledger, signals: &Arc<Signals>) -> JoinHandle<()> {
        let (mut pen, signals) = (ledger.pen(), signals.clone());
        let mut client = Client::reach(self.ports[0], &self.options());
        client.subscribe("load/#", 2).expect("subscribed");
        thread::spawn(move || {
            // Packet ids of QoS 2 that wait for PUBREL: the client's half of the session.
            let mut held = HashSet::new();
            let mut client = Some(client);
            let mut ports = self.ports.iter().cycle();
            while !Signals::is_on(&signals.stop) {
                if self.life == Life::Away && !self.attached.load(SeqCst) {
                    client.take().map(Client::disconnect);
                    thread::sleep(RETRY);
                    continue;
                }
                let Some(open) = client.as_mut() else {
                    let port = *ports.next().expect("a port");
                    client = Client::connect(port, &self.options()).ok();
                    let present = client.as_ref().is_none_or(|c| c.present);
                    assert!(present, "the session of {} is lost", self.name);
                    thread::sleep(RETRY);
                    continue;
                };
                if let Err(lost) = self.receive(open, &mut held, &mut pen) {
                    let stays = self.life == Life::Transient;
                    assert!(!stays || Signals::is_on(&signals.stop), "{}: {lost}", self.name);
                    client = None;
                }
            }
        })
    }

    fn options(&self) -> Options<'_> {
        match self.life {
            Life::Transient => Options::clean(&self.name, Version::V5),
            Life::Persistent => Options::persistent(&self.name, Version::V311),
            Life::Away => Options::persistent(&self.name, Version::V5),
        }
    }

    /// Takes what comes within a moment.
    fn receive(
        &self,
        client: &mut Client,
        held: &mut HashSet<u16>,
        pen: &mut Pen,
    ) -> io::Result<()> {
        let mut packet = client.read_within(Duration::from_millis(5))?;
        let mut out = Vec::new();
        let mut news = Vec::new();
        while let Some(came) = packet {
            match came.kind() {
                3 => {
                    let got = client.message(&came);
                    let fresh = got.qos < 2 || held.insert(got.id);
                    let answer = if got.qos == 2 { PacketType::Pubrec } else { PacketType::Puback };
                    out.extend(client.acknowledgement(answer, got.id));
                    if fresh {
                        news.push(self.note(pen, &got));
                    }
                }
                6 => {
                    held.remove(&came.id());
                    out.extend(client.acknowledgement(PacketType::Pubcomp, came.id()));
                }
                14 => return Err(came.goodbye()),
                _ => panic!("{} gets {came:?}", self.name),
            }
            packet = client.take_packet();
        }
        pen.keep();
        for (at, number) in news {
            self.seen[at].1.fetch_max(number + 1, SeqCst);
        }
        client.write(&out)
    }

    fn note(&self, pen: &mut Pen, got: &Message) -> (usize, u64) {
        let publisher = got.topic.strip_prefix("load/").expect("what it subscribed to");
        let at = self.seen.iter().position(|(name, _)| name == publisher).expect("one of ours");
        pen.note(Kind::Received, &format!("{}<{publisher}", self.name), got.number());
        (at, got.number())
    }
}

/// What the clerk did to each of its subjects last, by the number of the operation.
pub type Done = HashMap<String, u64>;

/// Publishes retained messages and makes, subscribes and unsubscribes persistent sessions, one operation after the
/// other. An operation that is not answered is done again.
pub struct Clerk {
    /// Where it connects.
    pub port: u16,
    /// Chooses what it does.
    pub random: fastrand::Rng,
    /// Operations that are through.
    pub count: Arc<AtomicU64>,
}

/// Whether operation `number` on a kept topic deletes what is kept.
#[must_use]
pub fn deletes(number: u64) -> bool {
    number % 5 == 4
}

/// Whether operation `number` on a session subscribes; else it unsubscribes.
#[must_use]
pub fn subscribes(number: u64) -> bool {
    number % 3 != 2
}

/// Sessions and kept topics are told apart by this.
pub const SESSION: &str = "session-";
/// What a kept topic begins with.
pub const KEPT: &str = "keep/";

// === impl Clerk ===

impl Clerk {
    /// Works until all is to stop.
    #[must_use]
    pub fn spawn(mut self, ledger: &Ledger, signals: &Arc<Signals>) -> JoinHandle<()> {
        let (mut pen, signals) = (ledger.pen(), signals.clone());
        thread::spawn(move || {
            let mut done = Done::new();
            let mut sessions = 0;
            let mut kept = None;
            while !Signals::is_on(&signals.stop) {
                if Signals::is_on(&signals.pause) {
                    thread::sleep(RETRY);
                    continue;
                }
                let subject = if self.random.u8(..4) > 0 {
                    format!("{KEPT}{}", self.random.u64(..TOPICS))
                } else {
                    // An old one now and then.
                    let fresh = self.random.bool() || sessions == 0;
                    sessions += u64::from(fresh);
                    let n = if fresh { sessions - 1 } else { self.random.u64(..sessions) };
                    format!("{SESSION}{n}")
                };
                let number = done.get(&subject).map_or(0, |last| last + 1);
                pen.note(Kind::Sent, &subject, number);
                pen.keep();
                while self.operate(&mut kept, &subject, number).is_err() {
                    kept = None;
                    thread::sleep(RETRY);
                }
                pen.note(Kind::Acknowledged, &subject, number);
                pen.keep();
                done.insert(subject, number);
                self.count.fetch_add(1, SeqCst);
            }
        })
    }

    fn operate(&self, kept: &mut Option<Client>, subject: &str, number: u64) -> io::Result<()> {
        if subject.starts_with(SESSION) {
            let mut client =
                Client::connect(self.port, &Options::persistent(subject, Version::V5))?;
            if subscribes(number) {
                assert_eq!(client.subscribe(&format!("to/{subject}"), 1)?, 1);
            } else {
                client.unsubscribe(&format!("to/{subject}"))?;
            }
            return client.disconnect();
        }
        let client = match kept {
            Some(client) => client,
            None => {
                let options = Options::clean("clerk", Version::V5);
                kept.insert(Client::connect(self.port, &options)?)
            }
        };
        let payload = number.to_be_bytes();
        let payload = if deletes(number) { &[][..] } else { &payload[..] };
        let mut publish = message(subject, 1, 1, payload);
        publish.retain = true;
        client.send(&publish)?;
        let answer = client.read()?;
        // A gateway whose epoch has ended refuses what it had under way, and says good-bye.
        if answer.kind() == 14 || answer.body.get(2).is_some_and(|reason| *reason >= 0x80) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        assert_eq!((answer.first, answer.id()), (0x40, 1), "{answer:?}");
        Ok(())
    }
}
