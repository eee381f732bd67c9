//! Shared subscriptions (R10): what the members held that die goes to others, nothing is lost, all have their share; and
//! QoS 0 goes to one member of all gateways.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mqtt_codec::{PacketType, Version};

use crate::client::{Client, DEADLINE, Message, Options, message};
use crate::pair::{Pair, receive_within};
use crate::process::Part;

const TOPIC: &str = "shared/work";
const FILTER: &str = "$share/group/shared/+";
/// Gateway of each member, and whether its session lasts.
const MEMBERS: [(usize, bool); 4] = [(0, false), (0, true), (1, false), (1, true)];
/// Messages of the publisher that are not acknowledged, at most.
const WINDOW: usize = 16;
/// Messages that a member holds before it dies.
const HELD: usize = 10;
/// How long it waits for them at most.
const HOLDS: Duration = Duration::from_millis(500);
/// How long after the end of a connection what it held is with another member.
pub const REDELIVERED_WITHIN: Duration = Duration::from_secs(1);
/// How long a gateway's lease lasts at most after it is killed (6 s, and 10 % that the hub adds).
pub const LEASE: Duration = Duration::from_millis(6_600);

/// What a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages of QoS 1.
    pub messages: u64,
    /// How often a member or a gateway is killed.
    pub kills: u64,
    /// Every so many kills it is a whole gateway.
    pub gateway_every: u64,
    /// The gateway stays dead until its lease is over.
    pub lease_ends: bool,
    /// Of what is left to chance.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Acknowledged to the publisher.
    pub acknowledged: u64,
    /// Of those, acknowledged by no member.
    pub lost: u64,
    /// Received more than once.
    pub repeated: u64,
    /// Received by each member while all were connected.
    pub shares: [u64; 4],
    /// Messages that were held by members whose connection ended, and how long until another had each, at most.
    pub held: (u64, Duration),
    /// The same of members whose gateway was killed, from the kill on.
    pub held_by_gateways: (u64, Duration),
    /// Of both, those that nobody else ever got.
    pub kept: u64,
    /// Members and gateways that were killed.
    pub kills: (u64, u64),
}

// === impl Outcome ===

impl Outcome {
    /// How far the share is from an equal one that is farthest from it, in percent.
    #[must_use]
    pub fn spread(&self) -> u64 {
        let mean = self.shares.iter().sum::<u64>() / 4;
        let farthest = self.shares.iter().map(|share| share.abs_diff(mean)).max();
        farthest.unwrap_or_default() * 100 / mean.max(1)
    }

    /// Whether all is as it has to be; how long what was held by a killed gateway may take, is said.
    #[must_use]
    pub fn is_good(&self, gateway_within: Duration) -> bool {
        self.lost + self.kept == 0
            && self.held.0 > 0
            && self.held.1 <= REDELIVERED_WITHIN
            && self.held_by_gateways.1 <= gateway_within
            && self.spread() <= 20
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, lost, repeated, shares, held, held_by_gateways, kept, kills } =
            self;
        writeln!(f, "{acknowledged} acknowledged, lost {lost}, received again {repeated}")?;
        writeln!(f, "{} members and {} gateways killed", kills.0, kills.1)?;
        writeln!(
            f,
            "shares while all were connected {shares:?}: within {} % of an equal one",
            self.spread()
        )?;
        writeln!(f, "held by a dead member {}: with another after {:?} at most", held.0, held.1)?;
        let (count, longest) = held_by_gateways;
        writeln!(f, "held by members of a dead gateway {count}: after {longest:?} at most")?;
        write!(f, "never with another: {kept}")
    }
}

/// What a member is to do.
const SERVE: u8 = 0;
const HOLD: u8 = 1;
const DIE: u8 = 2;
const STOP: u8 = 3;

/// Messages that a member had and did not acknowledge when its connection ended.
struct Gap {
    numbers: Vec<u64>,
    member: usize,
    at: Instant,
    with_gateway: bool,
}

#[derive(Default)]
struct Log {
    /// By number: who received it, and when.
    received: HashMap<u64, Vec<(usize, Instant)>>,
    /// By number: a member has acknowledged it.
    acknowledged: HashMap<u64, ()>,
    gaps: Vec<Gap>,
    shares: [u64; 4],
    gateway_killed: Option<Instant>,
}

#[derive(Default)]
struct Stage {
    log: Mutex<Log>,
    wishes: [AtomicU8; 4],
    connected: [AtomicBool; 4],
    /// Messages that each holds.
    held: [AtomicU64; 4],
    /// All serve.
    even: AtomicBool,
    published: AtomicU64,
    /// Messages that may be published now.
    allowed: AtomicU64,
    done: AtomicBool,
}

// === impl Stage ===

impl Stage {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, member: usize) -> u8 {
        self.wishes[member].load(SeqCst)
    }

    /// A member until it is told to stop.
    fn serve(&self, port: u16, member: usize) {
        let id = format!("member-{member}");
        let options = match MEMBERS[member].1 {
            true => Options::persistent(&id, Version::V5),
            false => Options::clean(&id, Version::V5),
        };
        while self.wish(member) != STOP {
            let Ok(mut client) = Client::connect(port, &options) else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            if !client.present && client.subscribe(FILTER, 1).is_err() {
                continue;
            }
            self.connected[member].store(true, SeqCst);
            let mut held = Vec::new();
            let lost = self.receive(&mut client, member, &mut held);
            drop(client);
            let at = Instant::now();
            let mut log = self.log();
            let killed = log.gateway_killed.filter(|_| lost);
            let at = killed.unwrap_or(at);
            log.gaps.push(Gap { numbers: held, member, at, with_gateway: lost });
            drop(log);
            self.held[member].store(0, SeqCst);
            self.connected[member].store(false, SeqCst);
            if !lost && self.wish(member) == DIE {
                self.wishes[member].store(SERVE, SeqCst);
            }
        }
    }

    /// Receives until it is told to die (false) or the connection is gone (true).
    fn receive(&self, client: &mut Client, member: usize, held: &mut Vec<u64>) -> bool {
        loop {
            if self.wish(member) >= DIE {
                return false;
            }
            let packet = match client.read_within(Duration::from_millis(5)) {
                Ok(Some(packet)) if packet.kind() == 3 => packet,
                Ok(None) => continue,
                Ok(Some(_)) | Err(_) => return true,
            };
            let got = client.message(&packet);
            let number = got.number();
            let hold = self.wish(member) != SERVE;
            if hold {
                held.push(number);
                self.held[member].store(held.len() as u64, SeqCst);
            }
            self.note(member, &got, number);
            if !hold {
                if client.acknowledge(PacketType::Puback, got.id).is_err() {
                    held.push(number);
                    return true;
                }
                self.log().acknowledged.insert(number, ());
            }
        }
    }

    fn note(&self, member: usize, got: &Message, number: u64) {
        let mut log = self.log();
        log.received.entry(number).or_default().push((member, Instant::now()));
        log.shares[member] += u64::from(self.even.load(SeqCst) && !got.dup);
    }

    /// Publishes all, on one gateway until that is gone, then on the other.
    fn publish(&self, ports: [u16; 2], messages: u64) {
        let mut unanswered: Vec<u64> = Vec::new();
        let (mut next, mut connection) = (0, 0);
        while next < messages || !unanswered.is_empty() {
            connection += 1;
            let id = format!("publisher-{connection}");
            let Ok(mut client) =
                Client::connect(ports[connection % 2], &Options::clean(&id, Version::V5))
            else {
                continue;
            };
            // What was not answered is said again.
            let mut again = std::mem::take(&mut unanswered);
            let mut step = || -> std::io::Result<()> {
                while next < messages || !again.is_empty() || !unanswered.is_empty() {
                    let may_send = next < self.allowed.load(SeqCst) || !again.is_empty();
                    if unanswered.is_empty() && !may_send {
                        std::thread::sleep(Duration::from_millis(1));
                        continue;
                    }
                    let room = WINDOW - unanswered.len();
                    for _ in 0..room {
                        if next >= self.allowed.load(SeqCst) && again.is_empty() {
                            break;
                        }
                        let number = again.pop().unwrap_or_else(|| {
                            next += 1;
                            next - 1
                        });
                        unanswered.push(number);
                        let id = (number % 60_000) as u16 + 1;
                        client.send(&message(TOPIC, 1, id, &number.to_be_bytes()))?;
                    }
                    let answer = client.read()?;
                    if answer.kind() == 14 {
                        return Err(answer.goodbye());
                    }
                    let reason = answer.body.get(2).copied().unwrap_or(0);
                    assert_eq!((answer.first, reason), (0x40, 0), "{answer:?}");
                    let of = |n: &u64| (n % 60_000) as u16 + 1 == answer.id();
                    let at = unanswered.iter().position(of).expect("it was asked");
                    unanswered.swap_remove(at);
                    self.published.fetch_add(1, SeqCst);
                }
                Ok(())
            };
            let _ = step();
            unanswered.append(&mut again);
        }
        self.done.store(true, SeqCst);
    }

    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < DEADLINE, "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn all_serve(&self) {
        self.wait_until("all members are connected", || {
            self.connected.iter().all(|connected| connected.load(SeqCst))
        });
        // What waited for those who were away is gone by then.
        let began = Instant::now();
        self.wait_until("time passes", || began.elapsed() > Duration::from_millis(50));
        self.even.store(true, SeqCst);
    }

    /// The members hold what they get, for a while.
    fn hold(&self, members: &[usize]) {
        self.even.store(false, SeqCst);
        members.iter().for_each(|member| self.wishes[*member].store(HOLD, SeqCst));
        let began = Instant::now();
        let full = |member: &usize| self.held[*member].load(SeqCst) >= HELD as u64;
        self.wait_until("they hold some", || {
            members.iter().all(full) || began.elapsed() > HOLDS || self.done.load(SeqCst)
        });
    }

    fn kill_member(&self, member: usize) {
        self.hold(&[member]);
        self.connected[member].store(false, SeqCst);
        self.wishes[member].store(DIE, SeqCst);
        self.wait_until("it is dead", || self.wish(member) == SERVE);
    }

    fn kill_gateway(&self, pair: &mut Pair, gateway: usize, lease_ends: bool) {
        let members: Vec<_> = (0..4).filter(|m| MEMBERS[*m].0 == gateway).collect();
        self.hold(&members);
        self.log().gateway_killed = Some(Instant::now());
        let broker = if gateway == 0 { &mut pair.first } else { &mut pair.second };
        broker.kill_part(Part::Front);
        self.wait_until("its members know", || {
            members.iter().all(|m| self.held[*m].load(SeqCst) == 0)
        });
        members.iter().for_each(|member| self.wishes[*member].store(SERVE, SeqCst));
        if lease_ends {
            self.wait_until("what they held is with others", || self.log().owed().is_empty());
        }
        match gateway {
            0 => pair.first.revive(&pair.place, Part::Front),
            _ => pair.second = pair.place.start_gateway(pair.ports[1], &pair.proxies[1].address),
        }
    }
}

// === impl Log ===

impl Log {
    /// When somebody else got a message of a gap, after it.
    fn with_another(&self, gap: &Gap, number: u64) -> Option<Duration> {
        let all = self.received.get(&number)?.iter();
        let later = all.filter(|(member, at)| *member != gap.member && *at > gap.at);
        later.map(|(_, at)| *at - gap.at).min()
    }

    /// Messages of gaps that nobody else got.
    fn owed(&self) -> Vec<u64> {
        let all = self.gaps.iter().flat_map(|gap| gap.numbers.iter().map(move |n| (gap, *n)));
        all.filter(|(gap, n)| self.with_another(gap, *n).is_none()).map(|(_, n)| n).collect()
    }

    fn outcome(&self, messages: u64, kills: (u64, u64)) -> Outcome {
        let mut outcome =
            Outcome { acknowledged: messages, shares: self.shares, kills, ..Outcome::default() };
        outcome.lost = (0..messages).filter(|n| !self.acknowledged.contains_key(n)).count() as u64;
        outcome.repeated = self.received.values().filter(|all| all.len() > 1).count() as u64;
        outcome.kept = self.owed().len() as u64;
        for gap in &self.gaps {
            let of =
                if gap.with_gateway { &mut outcome.held_by_gateways } else { &mut outcome.held };
            of.0 += gap.numbers.len() as u64;
            let times = gap.numbers.iter().filter_map(|n| self.with_another(gap, *n));
            of.1 = times.chain([of.1]).max().unwrap_or_default();
        }
        outcome
    }
}

/// Four members on two gateways, killed at random while messages of QoS 1 pass.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn run(pair: &mut Pair, plan: Plan) -> Outcome {
    let stage = Stage::default();
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let (ports, messages) = (pair.ports, plan.messages);
    let mut kills = (0, 0);
    std::thread::scope(|scope| {
        for (member, (gateway, _)) in MEMBERS.iter().enumerate() {
            let (stage, port) = (&stage, ports[*gateway]);
            scope.spawn(move || stage.serve(port, member));
        }
        stage.all_serve();
        let publisher = &stage;
        scope.spawn(move || publisher.publish(ports, messages));
        // Half of the messages between two kills pass while all are connected.
        let due = |kill: u64| messages * kill / (plan.kills + 1);
        stage.allowed.store(due(1), SeqCst);
        for kill in 1..=plan.kills {
            stage.wait_until("messages pass", || stage.published.load(SeqCst) >= due(kill));
            stage.allowed.store((due(kill) + due(kill + 1)) / 2, SeqCst);
            if kill % plan.gateway_every == 0 {
                kills.1 += 1;
                stage.kill_gateway(pair, random.usize(0..2), plan.lease_ends);
            } else {
                kills.0 += 1;
                stage.kill_member(random.usize(0..4));
            }
            stage.all_serve();
            stage.allowed.store(due(kill + 1), SeqCst);
        }
        stage.wait_until("all is published", || stage.done.load(SeqCst));
        // What is lost never comes: that is not waited for longer than for anything else.
        let began = Instant::now();
        let left = || messages - stage.log().acknowledged.len() as u64;
        stage.wait_until("all is received", || left() == 0 || began.elapsed() > DEADLINE / 2);
        stage.wishes.iter().for_each(|wish| wish.store(STOP, SeqCst));
    });
    stage.log().outcome(messages, kills)
}

/// What became of messages of QoS 0 to members of a shared subscription on two gateways, where others subscribe to the
/// same topics besides.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Zero {
    /// Messages that nobody got.
    pub missed: u64,
    /// Messages that came more than once.
    pub extra: u64,
    /// Gateways whose members got some.
    pub gateways: u64,
}

/// Publishes on both gateways to members of QoS 0 on both; each message is for one. The last one is a will.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn zero(pair: &Pair, count: u64) -> Zero {
    let mut members = [0, 0, 1].map(|gateway| {
        let mut member = pair.transient(gateway, &format!("zero-{gateway}-{}", fastrand::u32(..)));
        assert_eq!(member.subscribe("$share/zero/zero/+", 0).expect("answered"), 0);
        member
    });
    let mut others = [0, 1].map(|gateway| {
        let mut other = pair.transient(gateway, &format!("zero-other-{gateway}"));
        other.subscribe("zero/+", 0).expect("answered");
        other
    });
    for gateway in [0, 1] {
        let mut publisher = pair.transient(gateway, &format!("zero-publisher-{gateway}"));
        for n in (gateway as u64..count).step_by(2) {
            publisher.send(&message("zero/x", 0, 0, &n.to_be_bytes())).expect("sent");
        }
        publisher.ping().expect("it stands");
    }
    let number = count.to_be_bytes();
    let will = Some(("zero/will", &number[..]));
    let options = Options { will, ..Options::clean("zero-dies", Version::V5) };
    drop(Client::reach(pair.ports[0], &options));
    let mut got: HashMap<u64, u64> = HashMap::new();
    let mut by_gateway = [0; 2];
    let mut quiet = 0;
    while quiet < 3 {
        quiet += 1;
        for (at, member) in members.iter_mut().enumerate() {
            while let Some(message) = receive_within(member, Duration::from_millis(100)) {
                *got.entry(message.number()).or_default() += 1;
                by_gateway[at / 2] += 1;
                quiet = 0;
            }
        }
    }
    let mut missed = (0..=count).filter(|n| !got.contains_key(n)).count() as u64;
    for other in &mut others {
        let mut all = 0;
        while receive_within(other, Duration::from_millis(100)).is_some() {
            all += 1;
        }
        missed += (count + 1).abs_diff(all);
    }
    Zero {
        missed,
        extra: got.values().map(|times| times - 1).sum(),
        gateways: by_gateway.iter().filter(|n| **n > 0).count() as u64,
    }
}

/// Publishes with QoS 1 to a group with a member of QoS 0 on one gateway and one of QoS 1 on the other; how often each
/// message came, at least and at most.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn mixed(pair: &Pair, count: u64) -> (u64, u64) {
    let mut members = [0, 1].map(|gateway| pair.transient(gateway, &format!("mixed-{gateway}")));
    for (qos, member) in (0..).zip(&mut members) {
        assert_eq!(member.subscribe("$share/mixed/mixed", qos).expect("answered"), qos);
    }
    let mut got: HashMap<u64, u64> = (0..count).map(|n| (n, 0)).collect();
    for gateway in [0, 1] {
        let mut publisher = pair.transient(gateway, &format!("mixed-publisher-{gateway}"));
        for n in (gateway as u64..count).step_by(2) {
            publisher.publish(&message("mixed", 1, 1, &n.to_be_bytes())).expect("taken");
        }
    }
    for member in &mut members {
        while let Some(message) = receive_within(member, Duration::from_millis(150)) {
            *got.entry(message.number()).or_default() += 1;
        }
    }
    let times = || got.values().copied();
    (times().min().unwrap_or_default(), times().max().unwrap_or_default())
}
