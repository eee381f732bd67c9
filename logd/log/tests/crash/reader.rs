//! An independent reader of the format: written from `docs/formats/log.md`, shares no code with the crate.
//!
//! It works the other way round: it looks for valid records at every aligned place of every segment, orders them by
//! sequence, and only then asks whether they make a log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) type Payload = Vec<u8>;

/// What a shard's files say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// (term, candidate, committed)
    pub(crate) vote: Option<(u64, Option<u64>, bool)>,
    /// index → (term, payload), the message region below the floor included.
    pub(crate) entries: BTreeMap<u64, (u64, Payload)>,
    /// Index behind the purge floor, and the floor's term.
    pub(crate) purged: (u64, u64),
    /// Index behind the last entry or the floor.
    pub(crate) next: u64,
    pub(crate) committed_next: u64,
    /// (index, term) → state.
    pub(crate) snapshots: BTreeMap<(u64, u64), Vec<u8>>,
    /// File and place of the newest record.
    pub(crate) last_record: Option<(PathBuf, u64, u64)>,
}

struct Segment {
    path: PathBuf,
    salt: u64,
    previous_salt: u64,
    first_sequence: u64,
    base: u64,
    committed_next: u64,
    purged: (u64, u64),
}

struct Record {
    segment: usize,
    at: usize,
    kind: u8,
    first: u64,
    last: u64,
    crc: u32,
    previous_crc: u32,
    committed_next: u64,
    body: Vec<u8>,
    end: usize,
}

fn crc(start: u32, parts: &[&[u8]]) -> u32 {
    static TABLES: std::sync::OnceLock<[Vec<u32>; 4]> = std::sync::OnceLock::new();
    let t = TABLES.get_or_init(|| {
        let step = |c: u32, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
        [8, 16, 24, 32].map(|bits| (0..256).map(|i| (0..bits).fold(i, step)).collect())
    });
    let mut c = !start;
    for part in parts {
        let (words, rest) = part.split_at(part.len() & !3);
        for w in words.chunks_exact(4) {
            let x = (c ^ u32_of(w, 0)).to_le_bytes().map(usize::from);
            c = t[3][x[0]] ^ t[2][x[1]] ^ t[1][x[2]] ^ t[0][x[3]];
        }
        for b in rest {
            c = t[0][((c ^ u32::from(*b)) & 0xff) as usize] ^ (c >> 8);
        }
    }
    !c
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_of(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Reads one shard out of all files of a disk. An error is damage (or a file that should not be there).
pub(crate) fn read(files: &[(PathBuf, Vec<u8>)], shard_dir: &Path) -> Result<View, String> {
    let mut view = View { vote: votes(files, shard_dir)?, ..View::default() };
    let mut segments = Vec::new();
    let mut contents = Vec::new();
    let copies = compacted(files, &shard_dir.join("log"))?;
    for (path, bytes) in files {
        if path.parent() == Some(&shard_dir.join("log"))
            && path.extension().is_some_and(|e| e == "seg")
        {
            let segment = segment(path, bytes)?;
            // A compacted one stands for it.
            if !copies.iter().any(|c| c.replaces.contains(&segment.salt)) {
                segments.push(segment);
                contents.push(bytes);
            }
        }
    }
    let mut records = BTreeMap::new();
    for (i, segment) in segments.iter().enumerate() {
        for (sequence, record) in find_records(i, segment, contents[i]) {
            if records.insert(sequence, record).is_some() {
                return Err(format!("two records of sequence {sequence}"));
            }
        }
    }
    replay(&mut view, &segments, &records)?;
    for copied in &copies {
        if copies.iter().any(|c| c.replaces.contains(&copied.salt)) {
            continue;
        }
        if copied.range.1 >= view.purged.0 {
            return Err(format!("copies of {:?}, which is not below the floor", copied.range));
        }
        // What a segment still says of its range was void or dead when it was unlinked.
        view.entries.retain(|index, _| *index < copied.range.0 || *index > copied.range.1);
        view.entries.extend(copied.entries.clone());
    }
    snapshots(&mut view, files, &shard_dir.join("snap"))?;
    Ok(view)
}

struct Copies {
    salt: u64,
    range: (u64, u64),
    replaces: Vec<u64>,
    entries: BTreeMap<u64, (u64, Payload)>,
}

/// The compacted segments, each read from its first record to its table.
fn compacted(files: &[(PathBuf, Vec<u8>)], log_dir: &Path) -> Result<Vec<Copies>, String> {
    let mut out = Vec::new();
    for (path, bytes) in files {
        if path.parent() != Some(log_dir) || path.extension().is_none_or(|e| e != "cmp") {
            continue;
        }
        let what = |what: &str| format!("{}: {what}", path.display());
        let valid = bytes.len() >= 4096
            && &bytes[..8] == b"LOGDCMP1"
            && u32_of(bytes, 4092) == crc(0, &[&bytes[..4092]])
            && u64_of(bytes, 64) == bytes.len() as u64;
        if !valid {
            return Err(what("header"));
        }
        let salt = u64_of(bytes, 32);
        let name = format!("{:020}-{salt:016x}.cmp", u64_of(bytes, 40));
        if path.file_name().unwrap() != name.as_str() {
            return Err(what("not its name"));
        }
        let seed = crc(0, &[&salt.to_le_bytes()]);
        let mut entries = BTreeMap::new();
        let mut starts = Vec::new();
        let mut at = 4096;
        let table = loop {
            let h = bytes.get(at..at + 64).ok_or_else(|| what("no table"))?;
            let end = at + u32_of(h, 4) as usize;
            let whole = &h[..3] == b"LGB" && end <= bytes.len();
            if !whole || u32_of(h, 8) != crc(seed, &[&bytes[at + 12..end]]) {
                return Err(what(&format!("record at {at}")));
            }
            let body = &bytes[at + 64..end];
            match h[3] {
                5 => starts.push((u64_of(h, 24), at as u64)),
                6 if at == u32_of(bytes, 72) as usize && end == bytes.len() => break body,
                _ => return Err(what(&format!("kind {} at {at}", h[3]))),
            }
            copies_of(body, &mut entries).map_err(|e| what(&e))?;
            at = end;
        };
        let points = u32_of(bytes, 76) as usize;
        for (n, start) in starts.iter().enumerate() {
            if (u64_of(table, n * 16), u64::from(u32_of(table, n * 16 + 8))) != *start {
                return Err(what("table"));
            }
        }
        if starts.len() != points {
            return Err(what("length of its table"));
        }
        let salts = u32_of(bytes, 80) as usize;
        let replaces = (0..salts).map(|n| u64_of(table, points * 16 + n * 8)).collect();
        let range = (u64_of(bytes, 40), u64_of(bytes, 48));
        out.push(Copies { salt, range, replaces, entries });
    }
    Ok(out)
}

fn copies_of(body: &[u8], entries: &mut BTreeMap<u64, (u64, Payload)>) -> Result<(), String> {
    let mut at = 0;
    while body.len() - at >= 28 {
        let header = &body[at..];
        let index = u64_of(header, 16);
        let size = if header[5] & 1 == 1 { 36 } else { 28 };
        let end = at + size + u32_of(header, 0) as usize;
        let payload = body.get(at + size..end).ok_or("short copy")?;
        if u32_of(body, at + size - 4) != crc(0, &[payload]) {
            return Err(format!("copy of {index}"));
        }
        if entries.keys().next_back().is_some_and(|before| *before >= index) {
            return Err(format!("copy of {index} out of order"));
        }
        entries.insert(index, (u64_of(header, 8), payload.to_vec()));
        at = end;
    }
    Ok(())
}

fn segment(path: &Path, bytes: &[u8]) -> Result<Segment, String> {
    let valid = bytes.len() >= 4096
        && &bytes[..8] == b"LOGDSEG1"
        && u32_of(bytes, 4092) == crc(0, &[&bytes[..4092]])
        && u64_of(bytes, 64) == bytes.len() as u64;
    if !valid {
        return Err(format!("{}: header", path.display()));
    }
    let segment = Segment {
        path: path.to_owned(),
        salt: u64_of(bytes, 32),
        previous_salt: u64_of(bytes, 72),
        first_sequence: u64_of(bytes, 80),
        base: u64_of(bytes, 40),
        committed_next: u64_of(bytes, 96),
        purged: (u64_of(bytes, 104), u64_of(bytes, 112)),
    };
    let name = format!("{:020}-{:016x}.seg", segment.base, segment.salt);
    if path.file_name().unwrap() != name.as_str() {
        return Err(format!("{}: not its name", path.display()));
    }
    Ok(segment)
}

fn find_records(number: usize, segment: &Segment, bytes: &[u8]) -> Vec<(u64, Record)> {
    let seed = crc(0, &[&segment.salt.to_le_bytes()]);
    let mut found = Vec::new();
    for at in (4096..bytes.len().saturating_sub(63)).step_by(8) {
        let h = &bytes[at..at + 64];
        if &h[..3] != b"LGB" || u32_of(h, 12) != crc(seed, &[&h[..8], &h[16..]]) {
            continue;
        }
        let end = at + u32_of(h, 4) as usize;
        if end > bytes.len() || u32_of(h, 8) != crc(seed, &[&bytes[at + 12..end]]) {
            continue;
        }
        let record = Record {
            segment: number,
            at,
            kind: h[3],
            first: u64_of(h, 24),
            last: u64_of(h, 32),
            crc: u32_of(h, 8),
            previous_crc: u32_of(h, 40),
            committed_next: u64_of(h, 48),
            body: bytes[at + 64..end].to_vec(),
            end,
        };
        found.push((u64_of(h, 16), record));
    }
    found
}

/// Whether the records make one log, and what it says.
fn replay(
    view: &mut View,
    segments: &[Segment],
    records: &BTreeMap<u64, Record>,
) -> Result<(), String> {
    let mut order: Vec<&Segment> = segments.iter().collect();
    order.sort_by_key(|s| s.first_sequence);
    let Some(newest) = order.last() else { return Ok(()) };
    // The floor as the newest segment knows it decides which holes are fine.
    let mut floor = newest.purged.0;
    for record in records.values().filter(|r| r.kind == 3) {
        floor = floor.max(u64_of(&record.body, 0));
    }
    let mut expected: Option<(u64, u32)> = None;
    let mut previous: Option<&Segment> = None;
    for segment in order {
        if previous.map_or(0, |p| p.salt) != segment.previous_salt && segment.base > floor {
            return Err(format!("{}: one before it is missing", segment.path.display()));
        }
        if previous.is_some_and(|p| p.salt == segment.previous_salt)
            && expected.is_some_and(|(sequence, _)| sequence != segment.first_sequence)
        {
            return Err(format!("{}: records missing before it", segment.path.display()));
        }
        if segment.purged.0 > view.purged.0 {
            view.purged = segment.purged;
        }
        view.next = view.next.max(segment.purged.0);
        view.committed_next = segment.committed_next;
        view.entries.split_off(&segment.base);
        let mut sequence = segment.first_sequence;
        while let Some(record) = records.get(&sequence) {
            if segments[record.segment].salt != segment.salt {
                break;
            }
            if expected.is_some_and(|(e, crc)| e == sequence && crc != record.previous_crc) {
                return Err(format!("record {sequence} is not chained"));
            }
            apply(view, record).map_err(|e| format!("record {sequence}: {e}"))?;
            view.last_record = Some((segment.path.clone(), record.at as u64, record.end as u64));
            expected = Some((sequence + 1, record.crc));
            sequence += 1;
        }
        if expected.is_none_or(|(e, _)| e < segment.first_sequence) {
            expected = Some((segment.first_sequence, 0));
        }
        previous = Some(segment);
    }
    match (records.keys().next_back(), expected) {
        (Some(last), Some((next, _))) if *last >= next => {
            Err(format!("record {next} is missing, {last} is there"))
        }
        _ => Ok(()),
    }
}

fn apply(view: &mut View, record: &Record) -> Result<(), String> {
    view.committed_next = record.committed_next;
    match record.kind {
        1 => {
            let mut at = 0;
            for index in record.first..=record.last {
                let header = record.body.get(at..at + 28).ok_or("short entry")?;
                let len = u32_of(header, 0) as usize;
                let size = if header[5] & 1 == 1 { 36 } else { 28 };
                let payload = record.body.get(at + size..at + size + len).ok_or("short payload")?;
                let stored = u32_of(&record.body, at + size - 4);
                if u64_of(header, 16) != index || stored != crc(0, &[payload]) {
                    return Err(format!("entry {index}"));
                }
                view.entries.insert(index, (u64_of(header, 8), payload.to_vec()));
                at += size + len;
            }
            view.next = record.last + 1;
        }
        2 => {
            view.entries.split_off(&record.first);
            view.next = record.first;
        }
        3 => {
            view.purged = (u64_of(&record.body, 0), u64_of(&record.body, 8));
            view.next = view.next.max(view.purged.0);
        }
        4 => {}
        other => return Err(format!("kind {other}")),
    }
    Ok(())
}

fn votes(
    files: &[(PathBuf, Vec<u8>)],
    dir: &Path,
) -> Result<Option<(u64, Option<u64>, bool)>, String> {
    let mut newest = (0, None);
    for name in ["vote-0", "vote-1"] {
        let file = files.iter().find(|(path, _)| *path == dir.join(name));
        let bytes = &file.ok_or_else(|| format!("{name} is missing"))?.1;
        if bytes.len() != 64
            || &bytes[..8] != b"LOGDVOTE"
            || u32_of(bytes, 60) != crc(0, &[&bytes[..60]])
        {
            return Err(format!("{name} is unreadable"));
        }
        let flags = bytes[10];
        let candidate = (flags & 2 != 0).then(|| u64_of(bytes, 40));
        let vote = (flags & 4 == 0).then(|| (u64_of(bytes, 32), candidate, flags & 1 != 0));
        if u64_of(bytes, 16) >= newest.0 {
            newest = (u64_of(bytes, 16), vote);
        }
    }
    Ok(newest.1)
}

fn snapshots(view: &mut View, files: &[(PathBuf, Vec<u8>)], dir: &Path) -> Result<(), String> {
    for (path, manifest) in files.iter().filter(|(path, _)| path.ends_with("MANIFEST")) {
        let place = path.parent().unwrap();
        let name = place.file_name().unwrap().to_str().unwrap();
        let Some((index, term)) = name.split_once('-').filter(|_| !name.starts_with("tmp")) else {
            continue;
        };
        if place.parent() != Some(dir) {
            continue;
        }
        let state = &files.iter().find(|(p, _)| *p == place.join("state")).ok_or("no state")?.1;
        let end = manifest.len() - 4;
        if &manifest[..8] != b"LOGDSNAP" || u32_of(manifest, end) != crc(0, &[&manifest[..end]]) {
            return Err(format!("{name}: manifest"));
        }
        let blocks = u32_of(manifest, 12) as usize;
        if state.len() as u64 != u64_of(manifest, 48) || state.len().div_ceil(1 << 20) != blocks {
            return Err(format!("{name}: length"));
        }
        for (i, block) in state.chunks(1 << 20).enumerate() {
            if u32_of(manifest, 64 + i * 4) != crc(0, &[block]) {
                return Err(format!("{name}: block {i}"));
            }
        }
        view.snapshots.insert((index.parse().unwrap(), term.parse().unwrap()), state.clone());
    }
    Ok(())
}
