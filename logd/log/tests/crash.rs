//! The log against a simulated disk: a crash after every operation of a recorded run, and random runs with tears, flips,
//! failing and full disks. The verdict is that of an independent reader of the format.
//!
//! `LOGD_SEEDS=10000 cargo test -p logd-log --release --test crash` is the long run.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

#[path = "crash/reader.rs"]
mod reader;
#[path = "crash/workload.rs"]
mod workload;

use logd_log::io::{Crash, SimulatedIo};
use logd_log::{Entry, EntryKind, OpenError, Priority};

use reader::View;
use workload::{Asked, Model, Neighbour, Run, is_segment, open, random, view_of};

fn seeds(default: u64) -> u64 {
    std::env::var("LOGD_SEEDS").map_or(default, |n| n.parse().expect("LOGD_SEEDS is a number"))
}

/// The crate opens the disk and sees what the independent reader saw.
fn opens_as(io: &SimulatedIo, view: &View, what: &str) -> Model {
    let (_disk, log, _, _) = match open(io) {
        Ok(opened) => opened,
        Err(error) => panic!("{what}: refused: {error}"),
    };
    let vote = log.read_vote().map(|v| (v.term, v.voted_for, v.committed));
    assert_eq!(vote, view.vote, "{what}");
    assert_eq!(log.purged().map_or((0, 0), |p| (p.index + 1, p.term)), view.purged, "{what}");
    assert_eq!(log.last().map_or(0, |l| l.index + 1), view.next, "{what}");
    let entries = log.read_entries(0..u64::MAX, usize::MAX).unwrap();
    let above = view.entries.range(view.purged.0..);
    assert_eq!(entries.len(), above.clone().count(), "{what}");
    for (entry, (index, (term, payload))) in entries.iter().zip(above) {
        assert_eq!((entry.index, entry.term), (*index, *term), "{what}");
        assert!(entry.payload[..] == payload[..], "{what}: payload of {index}");
        assert_eq!(log.log_id(*index).unwrap().map(|id| id.term), Some(*term), "{what}");
    }
    log.save_committed(view.next.checked_sub(1));
    for (index, (_, payload)) in view.entries.range(..view.purged.0).step_by(7) {
        let message = log.entry(*index).unwrap();
        assert!(message.is_some_and(|m| m[..] == payload[..]), "{what}: message {index}");
    }
    if let Some(((index, term), state)) = view.snapshots.iter().next_back() {
        let store = log.snapshots();
        let info = store.latest().unwrap().unwrap();
        assert_eq!((info.last.index, info.last.term), (*index, *term), "{what}");
        let mut reader = store.read(info.last).unwrap();
        let block = reader.next_block().unwrap().unwrap_or_default();
        assert!(block[..] == state[..], "{what}");
    }
    Model::of(view)
}

/// What is on the disk is what was asked for, up to some point not before the last acknowledgement.
struct Judge {
    start: Model,
    at: usize,
}

impl Judge {
    fn new(start: Model) -> Self {
        Self { start, at: 0 }
    }

    fn check(&mut self, run: &Run, ops: u64, view: &View, what: &str) {
        let (acknowledged, asked) = window(run, ops);
        for asked in &run.asked[self.at..acknowledged] {
            self.start.apply(asked);
        }
        self.at = acknowledged;
        let mut model = self.start.clone();
        let mut upto = acknowledged;
        // On a full disk a purge goes before what waits for space.
        let overtaken = |model: &Model, upto: usize| {
            let purges = run.asked[upto..asked].iter().filter(|a| matches!(a, Asked::Purge { .. }));
            purges.into_iter().any(|purge| {
                let mut model = model.clone();
                model.apply(purge);
                model.is(view)
            })
        };
        while !model.is(view) && !overtaken(&model, upto) {
            assert!(
                upto < asked,
                "{what}: the disk is no state between {acknowledged} (acknowledged) and {asked} (asked): \
                 vote {:?} purged {:?} next {}, acknowledged were vote {:?} purged {:?} next {:?}",
                view.vote,
                view.purged,
                view.next,
                self.start.vote,
                self.start.purged,
                self.start.entries.keys().next_back(),
            );
            model.apply(&run.asked[upto]);
            upto += 1;
        }
        let snapshot = run.snapshots.iter().rfind(|s| s.0 <= ops);
        if let Some((_, index, term, state)) = snapshot {
            let newest = view.snapshots.iter().next_back();
            let (found, bytes) = newest.unwrap_or_else(|| panic!("{what}: no snapshot"));
            assert!(*found >= (*index, *term), "{what}: snapshot {found:?} is older");
            assert!(*found != (*index, *term) || bytes == state, "{what}: snapshot differs");
        }
        for (_, index, payload) in run.pinned_at(ops) {
            let entry = view.entries.get(index);
            assert!(
                entry.is_some_and(|e| e.1[..] == payload[..]),
                "{what}: live message {index} is gone"
            );
        }
    }
}

/// What was acknowledged before an operation of the disk, and what was asked by then.
fn window(run: &Run, ops: u64) -> (usize, usize) {
    let after = run.history.partition_point(|step| step.0 <= ops);
    let acknowledged = after.checked_sub(1).map_or(0, |i| run.history[i].2);
    let asked = run.history.get(after).map_or(run.asked.len(), |step| step.1);
    (acknowledged, asked)
}

/// Whether the shard was ever there when the disk crashed.
fn created(io: &SimulatedIo) -> bool {
    io.files().iter().any(|(path, _)| is_segment(path))
}

/// A disk that was recovered takes more.
fn goes_on(io: &SimulatedIo, what: &str) {
    let (disk, log, _, _) = open(io).unwrap_or_else(|error| panic!("{what}: {error}"));
    let index = log.last().map_or(0, |last| last.index + 1);
    let entry = Entry {
        index,
        term: 1 << 20,
        leader_node: None,
        kind: EntryKind::Blank,
        payload: "more".into(),
    };
    log.append(vec![entry], Priority::Freeing, Box::new(|r| r.unwrap())).unwrap();
    disk.run_round();
    let view = view_of(&io.crash(Crash::Lost)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(view.entries.get(&index).map(|e| &e.1[..]), Some(&b"more"[..]), "{what}");
}

#[test]
fn a_crash_after_every_operation() {
    let io = SimulatedIo::new(5);
    io.record();
    let mut run = Run::new(io.clone(), 12).unwrap();
    let enough =
        |run: &Run| run.io.ops() >= 5_000 && run.counts.get("install").is_some_and(|n| *n > 1);
    while !enough(&run) {
        run.step();
    }
    for what in [
        "append", "vote", "truncate", "commit", "purge", "unlink", "compact", "snapshot", "install",
    ] {
        assert!(run.counts.get(what).is_some_and(|n| *n > 1), "{what} too rare: {:?}", run.counts);
    }
    assert!(run.merged > 1, "segments were merged {} times", run.merged);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for part in 0..threads {
            let run = &run;
            scope.spawn(move || crash_each(run, part, threads));
        }
    });
    println!("{} operations, {:?}", run.io.ops(), run.counts);
}

fn crash_each(run: &Run, part: u64, parts: u64) {
    let mut replay = run.io.replay();
    let mut judge = Judge::new(Model::default());
    while replay.step() {
        let ops = replay.ops();
        if ops % parts != part {
            continue;
        }
        // Every operation under one of these, the strictest most often; all of them in the long run.
        let crashes = [
            Crash::Reordered { seed: ops },
            Crash::Lost,
            Crash::Torn { seed: ops },
            Crash::Reordered { seed: ops + 7 },
            Crash::Kept,
        ];
        let pick = usize::try_from(ops / parts).unwrap() % crashes.len();
        let all = std::env::var_os("LOGD_SEEDS").is_some();
        for (i, crash) in crashes.into_iter().enumerate() {
            if i != pick && !all {
                continue;
            }
            let what = format!("operation {ops}, {crash:?}");
            let disk = replay.crash(crash);
            if !created(&disk) {
                assert_eq!(window(run, ops).0, 0, "{what}: no segment");
                open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
                continue;
            }
            let view = view_of(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            judge.check(run, ops, &view, &what);
            Neighbour::check(&disk, run.neighbour_at(ops), &what);
            opens_as(&disk, &view, &what);
            if ops.is_multiple_of(16) {
                goes_on(&disk, &what);
            }
        }
    }
}

/// Lives of a disk, each ended by a crash and begun by recovery.
#[test]
fn random_lives_with_torn_and_reordered_crashes() {
    for seed in 0..seeds(150) {
        let mut rng = seed;
        let mut io = SimulatedIo::new(seed);
        let mut start = Model::default();
        for life in 0..4 {
            let Ok(mut run) = Run::new(io.clone(), seed * 31 + life) else { panic!("seed {seed}") };
            for _ in 0..random(&mut rng, 150) {
                run.step();
            }
            let crash = match random(&mut rng, 4) {
                0 => Crash::Torn { seed: rng },
                1 => Crash::Lost,
                _ => Crash::Reordered { seed: rng },
            };
            let what = format!("seed {seed}, life {life}, {crash:?}");
            let ops = run.io.ops();
            io = run.io.crash(crash);
            let view = view_of(&io).unwrap_or_else(|error| panic!("{what}: {error}"));
            Judge::new(start).check(&run, ops, &view, &what);
            Neighbour::check(&io, run.neighbour_at(ops), &what);
            start = opens_as(&io, &view, &what);
        }
    }
}

/// One flipped bit anywhere: the log is as it was, or it refuses. Only the last record may be lost: its damage cannot be
/// told from a torn write, and it is counted.
#[test]
fn a_flipped_bit_is_never_taken_for_data() {
    let (mut refused, mut survived, mut cut) = (0, 0, 0);
    for seed in 0..seeds(300) {
        let mut rng = seed ^ 0x5eed;
        let mut run = Run::new(SimulatedIo::new(seed), seed).unwrap();
        for _ in 0..100 + random(&mut rng, 200) {
            run.step();
        }
        let io = run.io.crash(Crash::Lost);
        let view = view_of(&io).unwrap();
        let files = io.files();
        let (path, bytes) = &files[usize::try_from(random(&mut rng, files.len() as u64)).unwrap()];
        // Mostly where records are, seldom in the zeroes behind.
        let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |at| at as u64 + 1);
        let range = if random(&mut rng, 8) == 0 { bytes.len().max(1) as u64 } else { used };
        let at = random(&mut rng, range);
        io.flip(path, at, u8::try_from(random(&mut rng, 8)).unwrap()).unwrap();
        let what = format!("seed {seed}: {} at {at}", path.display());
        let hit = view
            .last_record
            .as_ref()
            .filter(|(file, start, end)| file == path && (*start..*end).contains(&at));
        match open(&io) {
            Err(OpenError::Damaged(_)) => refused += 1,
            Err(other) => panic!("{what}: {other}"),
            Ok((_disk, log, recovered, _)) if hit.is_some() => {
                assert!(recovered.torn_bytes > 0, "{what}");
                let next = log.last().map_or(0, |last| last.index + 1);
                for entry in log.read_entries(0..u64::MAX, usize::MAX).unwrap() {
                    if let Some(known) = view.entries.get(&entry.index) {
                        assert!(entry.index < next);
                        let same = known.0 == entry.term && known.1[..] == entry.payload[..];
                        assert!(same || was_asked(&run, &entry), "{what}");
                    }
                }
                cut += 1;
            }
            Ok((_disk, log, _, _)) => {
                let read = log.read_entries(0..u64::MAX, usize::MAX);
                let vote = log.read_vote().map(|v| (v.term, v.voted_for, v.committed));
                assert_eq!(vote, view.vote, "{what}");
                let entries = read.unwrap_or_else(|error| panic!("{what}: {error}"));
                let above: Vec<_> = view.entries.range(view.purged.0..).collect();
                assert_eq!(entries.len(), above.len(), "{what}");
                for (entry, (index, (term, payload))) in entries.iter().zip(above) {
                    assert_eq!((entry.index, entry.term), (*index, *term), "{what}");
                    assert!(entry.payload[..] == payload[..], "{what}");
                }
                log.save_committed(view.next.checked_sub(1));
                for (index, (_, payload)) in view.entries.range(..view.purged.0) {
                    if let Ok(read) = log.entry(*index) {
                        assert!(
                            read.is_some_and(|r| r[..] == payload[..]),
                            "{what}: message {index}"
                        );
                    }
                }
                survived += 1;
            }
        }
    }
    println!("flips: {refused} refused, {survived} harmless, {cut} cut the last record");
    assert!(refused > 0 && survived > 0 && cut > 0);
}

/// A record that was cut may have been a truncation: then what it removed is back, as it was asked for once.
fn was_asked(run: &Run, entry: &Entry) -> bool {
    run.asked.iter().any(|asked| {
        matches!(asked, Asked::Entry { index, term, payload }
            if (*index, *term) == (entry.index, entry.term) && *payload == entry.payload)
    })
}

/// A disk that fills at any byte refuses cleanly, keeps what it acknowledged, and takes more when space was freed.
#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let (mut refused, mut freed) = (0, 0);
    for seed in 0..seeds(150) {
        let mut rng = seed ^ 0xf011;
        let io = SimulatedIo::new(seed);
        let mut run = Run::new(io.clone(), seed).unwrap();
        io.set_capacity(60_000 + random(&mut rng, 150_000));
        let mut before = 0;
        for _ in 0..300 {
            let full = run.refused;
            run.step();
            assert!(!run.failed(), "seed {seed}: a full disk is no reason to die");
            freed += u64::from(
                before < run.refused && run.refused == full && run.asked.len().is_multiple_of(2),
            );
            before = full;
        }
        refused += run.refused;
        run.disk.run_round();
        run.step();
        let crash = Crash::Reordered { seed: rng };
        let disk = io.crash(crash);
        let what = format!("seed {seed}, {crash:?}");
        let view = view_of(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        Judge::new(Model::default()).check(&run, io.ops(), &view, &what);
        Neighbour::check(&disk, run.neighbour_at(io.ops()), &what);
        opens_as(&disk, &view, &what);
    }
    assert!(refused > 0 && freed > 0, "the disks never filled");
}

/// After the first failing write or sync nothing more is acknowledged, and what was is there.
#[test]
fn an_error_ends_the_disk_and_loses_nothing() {
    let mut failed = 0;
    for seed in 0..seeds(150) {
        let mut rng = seed ^ 0xe10;
        let io = SimulatedIo::new(seed);
        let mut run = Run::new(io.clone(), seed).unwrap();
        io.fail_at(io.ops() + random(&mut rng, 300));
        for _ in 0..200 {
            run.step();
        }
        failed += u64::from(run.failed());
        let crash = Crash::Reordered { seed: rng };
        let disk = io.crash(crash);
        let what = format!("seed {seed}, {crash:?}");
        let view = view_of(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        Judge::new(Model::default()).check(&run, io.ops(), &view, &what);
        Neighbour::check(&disk, run.neighbour_at(io.ops()), &what);
        opens_as(&disk, &view, &what);
    }
    assert!(failed > 0);
}

/// The same seed makes the same run, or none of the above could be looked into.
#[test]
fn a_seed_decides_everything() {
    let files = |seed| {
        let mut run = Run::new(SimulatedIo::new(seed), seed).unwrap();
        for _ in 0..300 {
            run.step();
        }
        (run.io.ops(), run.io.crash(Crash::Reordered { seed }).files())
    };
    assert!(files(3) == files(3));
    assert!(files(3) != files(4));
}
