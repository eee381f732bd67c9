//! Rounds of load in which a process is killed, stopped, drained or cut off at a random moment, half of them killed a
//! second time while they recover; then everything comes to rest and is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mqtt_codec::Version;

use crate::check::{self, Verdict};
use crate::disk::Disk;
use crate::inspector::Inspector;
use crate::ledger::Ledger;
use crate::load::{Clerk, Counts, Life, Publisher, Seen, Signals, Subscriber};
use crate::process::{Broker, Part, Place, Tiers};
use crate::proxy::Proxy;

/// Acknowledged messages in a round before anything happens.
const ACKNOWLEDGED_MIN: u64 = 2_000;
/// How long everything may take to come to rest.
const REST_MAX: Duration = Duration::from_secs(60);
/// Longer than a lease: a process that is stopped so long wakes up in another world.
const STOP_LONG: Duration = Duration::from_millis(7_500);

/// What happens to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// The one process is killed or stopped.
    Fluxmq,
    /// `logd`, under two gateways, is.
    Logd,
    /// One of two gateways is.
    Gateway,
    /// One of two gateways is asked to stop.
    Drain,
    /// The link between one of two gateways and `logd` is cut.
    Link,
    /// The disk of `logd`, under two gateways, is cut off. Needs root.
    Power,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Who is killed.
    pub target: Target,
    /// How often.
    pub rounds: u64,
    /// Of everything that is left to chance.
    pub seed: u64,
    /// Data shards.
    pub shards: u32,
    /// Whether processes may be stopped for longer than a lease.
    pub long_stops: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the ledger says.
    pub verdict: Verdict,
    /// Kills and stops.
    pub kills: u64,
    /// Those that came when publishes were unanswered.
    pub unanswered: u64,
    /// The least that was acknowledged in a round.
    pub acknowledged_min: u64,
    /// Panics and errors in what the processes said.
    pub complaints: Vec<String>,
}

// === impl Outcome ===

impl Outcome {
    /// Nothing is wrong, and the proof is one: publishes were unanswered when it happened.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.verdict.is_good()
            && self.complaints.is_empty()
            && self.unanswered * 10 >= self.kills * 9
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kills, unanswered, acknowledged_min, complaints, verdict } = self;
        write!(
            f,
            "{unanswered} of {kills} kills and stops with publishes unanswered; \
             at least {acknowledged_min} acknowledged in a round; complaints {complaints:?}\n{verdict}"
        )
    }
}

/// All that runs.
struct Stage {
    plan: Plan,
    random: fastrand::Rng,
    broker: Broker,
    place: Place,
    /// Before the gateway to which things happen.
    proxy: Option<Proxy>,
    /// Below `logd`.
    disk: Option<Disk>,
    /// The gateway that is not killed, and its port.
    other: Option<(Broker, u16)>,
    ledger: Ledger,
    signals: Arc<Signals>,
    publishers: Vec<(String, u8, Arc<Counts>)>,
    subscribers: Vec<(String, Seen)>,
    /// Whether who is mostly away is connected.
    attached: Arc<AtomicBool>,
    operations: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// Runs `plan`; a line for each round goes to `say`.
///
/// # Panics
/// A client saw the protocol broken, lost what it must not lose, or waited in vain.
#[must_use]
pub fn run(plan: Plan, say: &mut dyn FnMut(String)) -> Outcome {
    let mut stage = Stage::set(plan);
    let mut inspector = Inspector::new(plan.seed);
    let (mut unanswered, mut acknowledged_min) = (0, u64::MAX);
    for round in 0..plan.rounds {
        let before = stage.acknowledged();
        let more = stage.random.u64(..1_500);
        stage.wait_for(before + ACKNOWLEDGED_MIN + more);
        thread::sleep(Duration::from_micros(stage.random.u64(..8_000)));
        let (what, waiting) = stage.strike();
        unanswered += u64::from(waiting > 0);
        stage.rest();
        let acknowledged = stage.acknowledged() - before;
        acknowledged_min = acknowledged_min.min(acknowledged);
        let inspected = inspector.look(stage.calm_port(), &stage.ledger, round + 1 == plan.rounds);
        say(format!(
            "round {round}: {what} with {waiting} unanswered; acknowledged {acknowledged}, \
             {} operations, {inspected} inspected",
            stage.operations.load(SeqCst)
        ));
        stage.signals.pause.store(false, SeqCst);
    }
    let verdict = stage.end();
    // Of a disk that fails a process may complain.
    let complains = plan.target != Target::Power;
    let complaints = if complains { stage.place.complaints() } else { Vec::new() };
    let mut verdict = verdict;
    if stage.keeps_gateways() && !plan.long_stops {
        // Nobody had to send anything again.
        verdict.twice += verdict.repeated;
    }
    Outcome { verdict, kills: plan.rounds, unanswered, acknowledged_min, complaints }
}

// === impl Stage ===

impl Stage {
    fn set(plan: Plan) -> Self {
        let tiers = if plan.target == Target::Fluxmq { Tiers::One } else { Tiers::Two };
        let mut place = Place::of(tiers, plan.shards);
        let disk = (plan.target == Target::Power).then(|| Disk::new(place.dir.path()));
        if let Some(disk) = &disk {
            place.data = disk.mounted.join("data");
        }
        let proxy = (plan.target == Target::Link).then(|| Proxy::start(&place.grpc()));
        place.upstream = proxy.as_ref().map(|proxy| proxy.address.clone());
        let broker = place.start();
        let other = (tiers == Tiers::Two).then(|| place.start_another_gateway());
        let ledger = Ledger::start(place.dir.path());
        let mut stage = Self {
            plan,
            random: fastrand::Rng::with_seed(plan.seed),
            broker,
            place,
            proxy,
            disk,
            other,
            ledger,
            signals: Arc::default(),
            publishers: Vec::new(),
            subscribers: Vec::new(),
            attached: Arc::default(),
            operations: Arc::default(),
            threads: Vec::new(),
        };
        stage.add_clients();
        stage
    }

    fn add_clients(&mut self) {
        let here = self.place.port;
        let there = self.other.as_ref().map_or(here, |(_, port)| *port);
        let names: Vec<String> = (0..4).map(|n| format!("publisher-{n}")).collect();
        let mut lives = vec![
            ("attached", Life::Persistent, vec![here, there]),
            ("away", Life::Away, vec![there]),
        ];
        if self.plan.target != Target::Fluxmq {
            lives.push(("transient", Life::Transient, vec![there]));
        }
        if self.keeps_gateways() {
            lives.push(("transient-here", Life::Transient, vec![here]));
        }
        let mut paced_by = Vec::new();
        for (name, life, ports) in lives {
            let (name, seen) = (name.to_owned(), Subscriber::counters(&names));
            let attached = self.attached.clone();
            self.subscribers.push((name.clone(), seen.clone()));
            paced_by.extend((life == Life::Transient).then(|| seen.clone()));
            let subscriber = Subscriber { name, life, ports, seen, attached };
            self.threads.push(subscriber.spawn(&self.ledger, &self.signals));
        }
        for (n, name) in names.into_iter().enumerate() {
            let qos = 1 + (n % 2) as u8;
            let version = if n < 2 { Version::V311 } else { Version::V5 };
            // The first two are always where it happens.
            let ports = if n < 2 { vec![here] } else { vec![here, there] };
            let counts: Arc<Counts> = Arc::default();
            self.publishers.push((name.clone(), qos, counts.clone()));
            let paced_by = paced_by.clone();
            let publisher = Publisher { name, qos, version, ports, counts, paced_by };
            self.threads.push(publisher.spawn(&self.ledger, &self.signals));
        }
        let random = self.random.fork();
        let clerk = Clerk { port: here, random, count: self.operations.clone() };
        self.threads.push(clerk.spawn(&self.ledger, &self.signals));
    }

    /// Where nothing happens, if there is such a place.
    fn calm_port(&self) -> u16 {
        self.other.as_ref().map_or(self.place.port, |(_, port)| *port)
    }

    fn acknowledged(&self) -> u64 {
        self.publishers.iter().map(|(_, _, counts)| counts.acknowledged.load(SeqCst)).sum()
    }

    fn wait_for(&self, acknowledged: u64) {
        self.wait("the load goes on", || self.acknowledged() >= acknowledged);
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        while !done() {
            let ended = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!ended, "a client has given up");
            assert!(began.elapsed() < REST_MAX, "{what}: {}", self.account());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn account(&self) -> String {
        let sent = self.publishers.iter().map(|(name, _, counts)| {
            let (acknowledged, sent) = (&counts.acknowledged, &counts.sent);
            format!("{name} {} of {}", acknowledged.load(SeqCst), sent.load(SeqCst))
        });
        let seen = self.subscribers.iter().map(|(name, seen)| {
            let each: Vec<_> = seen.iter().map(|(_, n)| n.load(SeqCst)).collect();
            format!("{name} {each:?}")
        });
        sent.chain(seen).collect::<Vec<_>>().join(", ")
    }

    /// No gateway is killed: no client may lose its connection.
    fn keeps_gateways(&self) -> bool {
        matches!(self.plan.target, Target::Logd | Target::Link | Target::Power)
    }

    /// Does it; what was done, and how many publishes were unanswered there.
    fn strike(&mut self) -> (String, u64) {
        match self.plan.target {
            Target::Fluxmq | Target::Gateway => self.kill_or_stop(Part::Front),
            Target::Logd => self.kill_or_stop(Part::Logd),
            Target::Drain => self.drain(),
            Target::Link => self.cut_link(),
            Target::Power => self.cut_power(),
        }
    }

    fn kill_or_stop(&mut self, part: Part) -> (String, u64) {
        if self.random.u8(..4) == 0 {
            let long = self.plan.long_stops && self.random.u8(..6) == 0;
            let short = Duration::from_millis(self.random.u64(20..500));
            let wait = if long { STOP_LONG } else { short };
            self.broker.stop_part(part, true);
            let waiting = self.unanswered();
            thread::sleep(wait);
            self.broker.stop_part(part, false);
            return (format!("SIGSTOP for {} ms", wait.as_millis()), waiting);
        }
        self.broker.kill_part(part);
        let waiting = self.unanswered();
        let again = self.revive(part);
        (format!("kill -9{again}"), waiting)
    }

    /// Starts a process again; every second time it is killed once more while it recovers.
    fn revive(&mut self, part: Part) -> String {
        let mut again = String::new();
        if self.random.bool() {
            let after = Duration::from_micros(self.random.u64(..150_000));
            self.broker.begin(&self.place, part);
            thread::sleep(after);
            self.broker.kill_part(part);
            again = format!(", again {} ms after its start", after.as_millis());
        }
        self.broker.revive(&self.place, part);
        again
    }

    fn drain(&mut self) -> (String, u64) {
        let waiting =
            self.publishers.iter().take(2).map(|(_, _, counts)| counts.unanswered()).sum();
        let ended = self.broker.terminate_part(Part::Front);
        assert!(ended.success(), "a drained gateway ends with {ended}");
        self.broker.revive(&self.place, Part::Front);
        ("SIGTERM".into(), waiting)
    }

    fn cut_link(&mut self) -> (String, u64) {
        let proxy = self.proxy.as_ref().expect("a link that can be cut");
        proxy.cut();
        let waiting = self.unanswered();
        // Less than a lease.
        let wait = Duration::from_millis(self.random.u64(..400));
        thread::sleep(wait);
        proxy.restore();
        (format!("link cut for {} ms", wait.as_millis()), waiting)
    }

    fn cut_power(&mut self) -> (String, u64) {
        self.disk.as_ref().expect("a disk that can be cut off").cut();
        // It ends by itself at the first sync that fails, or now.
        self.broker.kill_part(Part::Logd);
        let waiting = self.unanswered();
        self.disk.as_ref().expect("a disk").mount_again();
        let again = self.revive(Part::Logd);
        (format!("power cut{again}"), waiting)
    }

    /// Publishes unanswered at the process that was just killed or stopped.
    fn unanswered(&self) -> u64 {
        // What it had written is read.
        thread::sleep(Duration::from_millis(5));
        self.publishers.iter().take(2).map(|(_, _, counts)| counts.unanswered()).sum()
    }

    /// Everything under way is finished, and everybody has everything.
    fn rest(&mut self) {
        self.signals.pause.store(true, SeqCst);
        let answered = || self.publishers.iter().all(|(_, _, counts)| counts.unanswered() == 0);
        self.wait("publishes are answered", answered);
        self.attached.store(true, SeqCst);
        let sent = |n: usize| self.publishers[n].2.acknowledged.load(SeqCst);
        let has_all = |seen: &[(String, AtomicU64)]| {
            seen.iter().enumerate().all(|(n, (_, seen))| seen.load(SeqCst) >= sent(n))
        };
        self.wait("all is received", || self.subscribers.iter().all(|(_, seen)| has_all(seen)));
        self.attached.store(false, SeqCst);
        // The clerk finishes what it is at.
        let mut before = u64::MAX;
        loop {
            let now = self.operations.load(SeqCst);
            if now == before {
                return;
            }
            before = now;
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(&mut self) -> Verdict {
        self.signals.pause.store(true, SeqCst);
        self.rest();
        self.signals.stop.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client that saw nothing wrong");
        }
        let publishers: Vec<_> =
            self.publishers.iter().map(|(name, qos, _)| (name.clone(), *qos)).collect();
        let subscribers: Vec<_> = self.subscribers.iter().map(|(name, _)| name.clone()).collect();
        check::judge(&self.ledger.records(), &publishers, &subscribers)
    }
}
