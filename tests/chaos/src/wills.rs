//! Wills of a gateway that is killed, alone or with `logd`: each once, after its delay (G4).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mqtt_codec::Version;

use crate::client::{Client, Options};
use crate::pair::Pair;
use crate::process::Part;

/// How long the hub may take to notice that a gateway is dead: its lease and what is added to it.
const LEASE: Duration = Duration::from_millis(6_600);
/// What else may take time: a start of `logd`, a round of the timers, a machine with two cores.
const SLACK: Duration = Duration::from_millis(2_500);

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clients with a will.
    pub wills: u64,
    /// Their delays go from 0 to this, s.
    pub delay_s_max: u64,
    /// `logd` dies at the same moment.
    pub with_logd: bool,
    /// The gateway is started again at once, which ends its earlier epoch.
    pub restart: bool,
}

/// What two watchers on the other gateway saw.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Wills that one of them did not get.
    pub missing: u64,
    /// Wills that one of them got again.
    pub twice: u64,
    /// Wills before their delay was over.
    pub early: u64,
    /// Wills later than delay, lease and slack.
    pub late: u64,
    /// The least and the most that a will came after its delay, counted from the kill.
    pub after: Option<(Duration, Duration)>,
}

// === impl Outcome ===

impl Outcome {
    /// Each once and not too early. Whether one was too late is for a machine that has nothing else to do.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.missing + self.twice + self.early == 0
    }
}

/// Kills the first gateway with clients that have wills.
///
/// # Panics
/// A client is refused.
#[must_use]
pub fn run(pair: &mut Pair, plan: Plan) -> Outcome {
    let mut transient = pair.transient(1, "watcher");
    let mut session = pair.session(1, "watching session");
    for watcher in [&mut transient, &mut session] {
        watcher.subscribe("wills/+", 2).expect("answered");
    }
    let connect = |n: u64| {
        let (id, topic) = (format!("mortal-{n}"), format!("wills/{n}"));
        let mut options = Options::clean(&id, Version::V5);
        options.expiry_s = 3_600;
        options.will = Some((&topic, b"gone"));
        options.will_delay_s = (n % (plan.delay_s_max + 1)) as u32;
        Client::reach(pair.ports[0], &options)
    };
    let mortals: Vec<Client> = (0..plan.wills).map(connect).collect();
    let killed = Instant::now();
    pair.first.kill_part(Part::Front);
    pair.proxies[0].cut();
    pair.proxies[0].restore();
    if plan.with_logd {
        pair.first.kill_part(Part::Logd);
        pair.first.revive(&pair.place, Part::Logd);
    }
    if plan.restart {
        pair.first.revive(&pair.place, Part::Front);
    }
    let mut outcome = Outcome::default();
    let end = killed + LEASE + Duration::from_secs(plan.delay_s_max) + 2 * SLACK;
    // Both at once: when a will came is what counts.
    let seen = std::thread::scope(|scope| {
        let watches = [&mut transient, &mut session]
            .map(|watcher| scope.spawn(move || watch(watcher, plan, end)));
        watches.map(|watch| watch.join().expect("a strict client"))
    });
    seen.into_iter().for_each(|seen| seen.judge(killed, plan, &mut outcome));
    drop(mortals);
    outcome
}

/// When each came.
struct Seen(BTreeMap<u64, Vec<Instant>>);

/// Takes wills until all have come and a moment longer.
fn watch(watcher: &mut Client, plan: Plan, end: Instant) -> Seen {
    let mut seen = BTreeMap::<u64, Vec<Instant>>::new();
    loop {
        let all = seen.len() as u64 == plan.wills;
        let wait = if all { Duration::from_millis(700) } else { Duration::from_millis(100) };
        let packet = watcher.read_within(wait).expect("it stands");
        let Some(packet) = packet else {
            if all || Instant::now() > end {
                return Seen(seen);
            }
            continue;
        };
        if let Some(will) = watcher.answer(&packet).expect("it stands") {
            let n = will.topic.strip_prefix("wills/").and_then(|n| n.parse().ok());
            seen.entry(n.expect("ours")).or_default().push(Instant::now());
        }
    }
}

// === impl Seen ===

impl Seen {
    fn judge(self, killed: Instant, plan: Plan, outcome: &mut Outcome) {
        outcome.missing += plan.wills - self.0.len() as u64;
        for (n, came) in self.0 {
            outcome.twice += came.len() as u64 - 1;
            let delay = Duration::from_secs(n % (plan.delay_s_max + 1));
            let since = came[0] - killed;
            outcome.early += u64::from(since < delay);
            let after = since.saturating_sub(delay);
            outcome.late += u64::from(after > LEASE + SLACK);
            let (least, most) = outcome.after.unwrap_or((after, after));
            outcome.after = Some((least.min(after), most.max(after)));
        }
    }
}
