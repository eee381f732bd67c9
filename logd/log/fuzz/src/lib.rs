//! Arbitrary bytes as segments, votes, indexes and manifests: opening never panics, and what opened works.
//!
//! Byte 0 chooses what is replaced and whether checksums are put right afterwards, so that the fuzzer gets behind them.
//!
//! The fuzzer calls [`recovery`], and so does `tests/replay.rs` of the crate with every file of the corpus.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use logd_log::io::{Crash, Io, SimulatedIo};
use logd_log::{
    AbortOnFatal, Disk, DiskConfig, Entry, EntryKind, LogId, OpenOptions, Priority, Vote,
};

fn config() -> DiskConfig {
    DiskConfig {
        segment_bytes_first: 16 * 1024,
        segment_bytes_max: 16 * 1024,
        low_water_bytes: Some(0),
        node_id: Some(1),
        cluster_id: Some(2),
        ..DiskConfig::default()
    }
}

fn entry(index: u64, len: usize) -> Entry {
    Entry {
        index,
        term: 1,
        leader_node: None,
        kind: EntryKind::Normal,
        payload: vec![1; len].into(),
    }
}

/// A shard with two sealed segments, one of them below the floor, and a snapshot.
fn template() -> SimulatedIo {
    static TEMPLATE: OnceLock<SimulatedIo> = OnceLock::new();
    let io = TEMPLATE.get_or_init(|| {
        let io = SimulatedIo::new(1);
        let disk = Disk::manual(Arc::new(io.clone()), "/d", config(), Arc::new(AbortOnFatal))
            .expect("new");
        let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("new");
        log.save_vote(Vote { term: 1, voted_for: Some(1), committed: true }, Box::new(|_| ()));
        for index in 0..32 {
            log.append(vec![entry(index, 900)], Priority::Normal, Box::new(|_| ())).expect("room");
            disk.run_round();
        }
        let last = LogId { term: 1, leader_node: None, index: 17 };
        let mut writer = log.snapshots().begin(last, "meta".into()).expect("room");
        writer.write(&[7; 300]).expect("room");
        writer.commit().expect("room");
        log.purge(last, Box::new(|_| ()));
        disk.run_round();
        io
    });
    io.crash(Crash::Lost)
}

fn crc(seed: u32, parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

/// Puts the checksums of a segment right, and with `chain` sequences and the chain.
fn mend_segment(bytes: &mut [u8], chain: bool) {
    if bytes.len() < 4096 {
        return;
    }
    let sum = crc(0, &[&bytes[..4092]]);
    bytes[4092..4096].copy_from_slice(&sum);
    let seed = u32::from_le_bytes(crc(0, &[&bytes[32..40]]));
    let mut at = 4096;
    let mut sequence = u64::from_le_bytes(bytes[80..88].try_into().expect("8 bytes"));
    let mut previous: [u8; 4] = bytes[88..92].try_into().expect("4 bytes");
    while at + 64 <= bytes.len() && &bytes[at..at + 3] == b"LGB" {
        let total = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("4 bytes")) as usize;
        if chain {
            bytes[at + 16..at + 24].copy_from_slice(&sequence.to_le_bytes());
            bytes[at + 40..at + 44].copy_from_slice(&previous);
        }
        let sum = crc(seed, &[&bytes[at..at + 8], &bytes[at + 16..at + 64]]);
        bytes[at + 12..at + 16].copy_from_slice(&sum);
        if total < 64 || at + total > bytes.len() {
            return;
        }
        previous = crc(seed, &[&bytes[at + 12..at + total]]);
        bytes[at + 8..at + 12].copy_from_slice(&previous);
        sequence = sequence.wrapping_add(1);
        at += total;
    }
}

fn mend(path: &Path, bytes: &mut [u8], salt: &[u8], chain: bool) {
    let len = bytes.len();
    if path.extension().is_some_and(|e| e == "seg") {
        mend_segment(bytes, chain);
    } else if path.extension().is_some_and(|e| e == "idx") {
        let seed = u32::from_le_bytes(crc(0, &[salt]));
        for page in bytes.chunks_exact_mut(4096) {
            let sum = crc(seed, &[&page[..4092]]);
            page[4092..].copy_from_slice(&sum);
        }
    } else if len >= 4 {
        let sum = crc(0, &[&bytes[..len - 4]]);
        bytes[len - 4..].copy_from_slice(&sum);
    }
}

/// The salt in the name of a segment's index.
fn salt_of(path: &Path) -> [u8; 8] {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let salt = stem.split_once('-').and_then(|(_, salt)| u64::from_str_radix(salt, 16).ok());
    salt.unwrap_or_default().to_le_bytes()
}

/// What an input can replace, by its number.
fn files(io: &SimulatedIo) -> Vec<(PathBuf, Vec<u8>)> {
    io.files().into_iter().filter(|(path, _)| !path.ends_with("LOCK")).collect()
}

/// Inputs to begin with: in the headers and first records of every file each field at an edge, with and without checksums
/// put right.
pub fn seeds() -> Vec<Vec<u8>> {
    const EDGES: [u32; 5] = [0, 1, 0x7FFF_FFFF, u32::MAX, 0x0101_0101];
    let mut seeds = Vec::new();
    for (number, (_, bytes)) in files(&template()).iter().enumerate().take(32) {
        // The first 128 bytes, and the first record of a segment or the second page of an index.
        for (place, mode) in [(0_u8, 0_u8), (0, 1), (0, 3), (64, 4), (64, 5), (64, 7)] {
            let from = usize::from(place) * 64;
            let Some(old) = bytes.get(from..(from + 160).min(bytes.len())) else { continue };
            for at in (0..old.len().saturating_sub(4)).step_by(4) {
                for edge in EDGES {
                    let mut seed = vec![(number as u8) << 3 | mode, place];
                    seed.extend_from_slice(&old[..at]);
                    seed.extend_from_slice(&edge.to_le_bytes());
                    seeds.push(seed);
                }
            }
        }
    }
    seeds
}

/// One input.
pub fn recovery(input: &[u8]) {
    let [choice, place, data @ ..] = input else { return };
    let io = template();
    let files = files(&io);
    let (path, old) = &files[usize::from(choice >> 3) % files.len()];
    let mut bytes = old.clone();
    let from = if choice & 4 == 0 { 0 } else { (usize::from(*place) * 64).min(bytes.len()) };
    let end = (from + data.len()).min(bytes.len());
    bytes[from..end].copy_from_slice(&data[..end - from]);
    if choice & 1 == 1 {
        mend(path, &mut bytes, &salt_of(path), choice & 2 == 2);
    }
    let file = io.open(path).expect("it is there");
    file.write_at(&[&bytes], 0).expect("room");
    use_it(&io, false);
    use_it(&io, true);
}

fn use_it(io: &SimulatedIo, accept_damage: bool) {
    let Ok(disk) = Disk::manual(Arc::new(io.clone()), "/d", config(), Arc::new(AbortOnFatal))
    else {
        return;
    };
    let Ok((log, _)) = disk.open_shard(0, OpenOptions { accept_damage }) else { return };
    let _ = log.read_entries(0..u64::MAX, 1 << 20);
    log.save_committed(Some(u64::MAX));
    for index in 0..40 {
        let _ = log.entry(index);
        let _ = log.log_id(index);
    }
    let _ = log.committed();
    if let Ok(Some(info)) = log.snapshots().latest()
        && let Ok(mut reader) = log.snapshots().read(info.last)
    {
        while let Ok(Some(_)) = reader.next_block() {}
    }
    log.save_vote(Vote { term: 9, voted_for: None, committed: false }, Box::new(|_| ()));
    log.truncate_after(log.last().map(|last| last.index / 2), Box::new(|_| ()));
    let next = log.last().map_or(0, |last| last.index + 1);
    let appended = log.append(vec![entry(next, 5000)], Priority::Normal, Box::new(|_| ()));
    if let Some(last) = log.last() {
        log.purge(last, Box::new(|_| ()));
    }
    disk.run_round();
    log.reclaim(&|_| false);
    let last = log.last();
    drop((log, disk));
    // What was taken is there; nothing was damaged by going on.
    let disk = Disk::manual(Arc::new(io.clone()), "/d", config(), Arc::new(AbortOnFatal))
        .expect("as before");
    let (log, recovered) =
        disk.open_shard(0, OpenOptions::default()).expect("what we wrote is good");
    assert_eq!(recovered.torn_bytes, 0);
    if appended.is_ok() {
        assert_eq!(log.last(), last);
    }
}
