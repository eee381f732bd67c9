//! The scenarios at their full length, with what they measure.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use chaos::handshakes::{self, Case, STEPS, VICTIMS};
use chaos::pair::Pair;
use chaos::takeover::{self, Faults, Old};
use chaos::{barrier, relay, retained, shared, wills};

/// What design R2 says of a SUBACK while a gateway is stopped.
const SUBACK_MAX: Duration = Duration::from_secs(7);

fn is_quiet(pair: &Pair) -> bool {
    let complaints = pair.complaints();
    if !complaints.is_empty() {
        println!("complaints: {complaints:#?}");
    }
    complaints.is_empty()
}

fn range(all: &[Duration]) -> String {
    let (least, most) = (all.iter().min(), all.iter().max());
    let ms = |d: Option<&Duration>| d.map_or(0.0, Duration::as_secs_f64) * 1_000.0;
    format!("{:.1} to {:.1} ms", ms(least), ms(most))
}

pub(crate) fn subscribe(shards: u32, topics: u64) -> bool {
    let mut pair = Pair::start(shards);
    let fresh = barrier::fresh_topics(&pair, topics);
    println!("{fresh:?}");
    let mut good = fresh.missed + fresh.extra == 0;
    let (missed, extra) = barrier::below_one_level(&pair, 3_000);
    println!("3000 filters below one level: missed {missed}, unwanted {extra}");
    good &= missed + extra == 0;
    let direct = barrier::delayed_hub(&pair, 0, 100);
    let delayed = barrier::delayed_hub(&pair, 50, 100);
    println!("100 SUBACKs, no delay: {}; hub 50 ms late: {}", range(&direct), range(&delayed));
    good &= delayed.iter().all(|d| *d >= Duration::from_millis(50));
    for _ in 0..10 {
        let stopped = barrier::stopped_gateway(&mut pair, 5);
        println!("a gateway is stopped: SUBACKs after {}; {stopped:?}", range(&stopped.subacks));
        good &= stopped.subacks.iter().all(|d| *d <= SUBACK_MAX);
        good &= stopped.acknowledged_and_missed + stopped.passed_on_alone == 0;
    }
    good & is_quiet(&pair)
}

pub(crate) fn takeover(shards: u32, plan: takeover::Plan) -> bool {
    let mut pair = Pair::start(shards);
    let outcome = takeover::alive(&pair, plan);
    println!("{outcome:?}");
    let takeover::Outcome { lost, twice, late, wills_wrong, takeovers, .. } = outcome;
    let mut good = lost + twice + late + wills_wrong == 0 && takeovers == plan.ids * plan.takeovers;
    good &= takeover::transient(&pair) && !takeover::before_the_old_is_gone(&pair);
    for old in [Old::CutOff, Old::Stopped, Old::Dead] {
        let faults = takeover::from(&mut pair, old);
        println!("the old gateway is {old:?}: {faults:?}");
        good &= faults == Faults::default();
    }
    good & is_quiet(&pair)
}

pub(crate) fn wills(shards: u32, count: u64) -> bool {
    let mut good = true;
    for with_logd in [false, true] {
        for restart in [false, true] {
            let mut pair = Pair::start(shards);
            let plan = wills::Plan { wills: count, delay_s_max: 20, with_logd, restart };
            let outcome = wills::run(&mut pair, plan);
            println!("{plan:?}\n  {outcome:?}");
            good &= outcome.is_good() && outcome.late == 0 && is_quiet(&pair);
        }
    }
    good
}

pub(crate) fn handshakes(shards: u32, rounds: u64) -> bool {
    let mut pair = Pair::start(shards);
    let (mut cases, mut wrong) = (0, 0);
    for round in 0..rounds {
        for step in STEPS {
            for victim in VICTIMS {
                let revive_first = round % 2 == 1;
                cases += 1;
                let case = Case { step, victim, revive_first, number: cases };
                let found = handshakes::run(&mut pair, case);
                println!("{case:?}: {}", if found.is_empty() { "once" } else { "WRONG" });
                wrong += u64::from(!found.is_empty());
                found.iter().for_each(|what| println!("  {what}"));
            }
        }
    }
    println!("{cases} cases, {wrong} wrong");
    wrong == 0 && is_quiet(&pair)
}

pub(crate) fn routes(shards: u32, rounds: u64) -> bool {
    let pair = Pair::start(shards);
    let race = retained::race(&pair, rounds);
    println!("publish against subscribe: {race:?}");
    let mut good = race.lost + race.backwards == 0;
    let (mut under_way, mut overtaken, mut early, mut again) = (0, 0, 0, 0);
    let few = rounds.div_ceil(20);
    for n in 0..few {
        for at in [0, 1] {
            let got = retained::publish_under_way(&pair, at, &format!("under-way/{at}/{n}"));
            under_way += u64::from(got.last() != Some(&2) || !got.is_sorted());
        }
        let got = retained::page_overtaken(&pair, &format!("overtaken/{n}"));
        overtaken += u64::from(got != [2]);
        for held in [
            relay::held(&pair, &format!("held/{n}")),
            relay::lost_link(&pair, &format!("lost/{n}")),
        ] {
            early += u64::from(held.told_early);
            again += held.received.abs_diff(1);
        }
    }
    println!(
        "{few} times each: publish under way and not received {under_way}; page overtaken and \
         passed on {overtaken}; relayed and acknowledged before taken {early}, not once {again}"
    );
    good &= under_way + overtaken + early + again == 0;
    good & is_quiet(&pair)
}

pub(crate) fn shared(shards: u32, plan: shared::Plan) -> bool {
    let mut pair = Pair::start(shards);
    let outcome = shared::run(&mut pair, plan);
    println!("{outcome}");
    let after_the_lease = outcome.held_by_gateways.1.saturating_sub(shared::LEASE);
    println!("that is {after_the_lease:?} after the end of the lease of {:?}", shared::LEASE);
    let mut good = outcome.is_good(shared::LEASE + shared::REDELIVERED_WITHIN);
    let zero = shared::zero(&pair, 2_000);
    let mixed = shared::mixed(&pair, 200);
    println!("QoS 0: {zero:?}; QoS 1, members of 0 and 1: each {} to {} times", mixed.0, mixed.1);
    good &= zero == shared::Zero { gateways: 2, ..shared::Zero::default() } && mixed == (1, 1);
    good & is_quiet(&pair)
}
