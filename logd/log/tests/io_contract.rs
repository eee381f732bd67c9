//! What every `Io` promises, checked against all three.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use logd_log::io::{Crash, DiskIo, Fault, Io, MemoryIo, SimulatedIo};

fn everywhere(test: impl Fn(Arc<dyn Io>, &Path)) {
    let temporary = tempfile::tempdir().unwrap();
    test(Arc::new(DiskIo), temporary.path());
    let memory = MemoryIo::default();
    memory.create_dir(Path::new("/base")).unwrap();
    test(Arc::new(memory), Path::new("/base"));
    let simulated = SimulatedIo::new(1);
    simulated.create_dir(Path::new("/base")).unwrap();
    test(Arc::new(simulated), Path::new("/base"));
}

fn names(io: &dyn Io, dir: &Path) -> Vec<String> {
    io.list(dir).unwrap().into_iter().map(|e| e.name).collect()
}

#[test]
fn files_are_made_written_and_read() {
    everywhere(|io, base| {
        let path = base.join("f");
        let file = io.create(&path).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(&[b"ab", b"", b"cde"], 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 8);
        let mut buffer = [9; 10];
        assert_eq!(file.read_at(&mut buffer, 1).unwrap(), 7);
        assert_eq!(&buffer[..7], b"\0\0abcde");
        assert_eq!(file.read_at(&mut buffer, 100).unwrap(), 0);
        assert_eq!(io.create(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(io.open(&base.join("g")).err().unwrap().kind(), ErrorKind::NotFound);
        let again = io.open(&path).unwrap();
        assert_eq!(again.len().unwrap(), 8);
    });
}

#[test]
fn many_buffers_are_one_write() {
    everywhere(|io, base| {
        let file = io.create_zeroed(&base.join("f"), 100_000).unwrap();
        let pieces: Vec<Vec<u8>> =
            (0..3000_u32).map(|i| vec![u8::try_from(i % 256).unwrap(); 7]).collect();
        let slices: Vec<&[u8]> = pieces.iter().map(|p| &p[..]).collect();
        file.write_at(&slices, 11).unwrap();
        let mut read = vec![0; 21_000];
        assert_eq!(file.read_at(&mut read, 11).unwrap(), 21_000);
        assert!(read == pieces.concat());
        assert_eq!(file.len().unwrap(), 100_000);
    });
}

#[test]
fn a_map_shows_later_writes_and_outlives_the_name() {
    everywhere(|io, base| {
        let path = base.join("f");
        let file = io.create_zeroed(&path, 10_000).unwrap();
        let map = file.map().unwrap();
        assert_eq!(map.size(), 10_000);
        file.write_at(&[b"hello"], 5000).unwrap();
        let mut bytes = [0; 5];
        assert!(map.read_at(&mut bytes, 5000) && &bytes == b"hello");
        assert!(!map.read_at(&mut bytes, 9996));
        assert!(!map.read_at(&mut bytes, u64::MAX));
        assert_eq!(map.slice(9_000, 1_001), None);
        assert_eq!(map.slice(u64::MAX, 2), None);
        assert!(!map.slices_out());
        let slice = map.slice(5000, 5).unwrap();
        io.remove_file(&path).unwrap();
        assert_eq!(&slice[..], b"hello");
        drop(slice);
        assert!(!map.slices_out());
    });
}

#[test]
fn names_move_and_go() {
    everywhere(|io, base| {
        let dir = base.join("d");
        io.create_dir(&dir).unwrap();
        io.create_dir(&dir).unwrap();
        io.create(&dir.join("a")).unwrap().write_at(&[b"a"], 0).unwrap();
        io.create(&dir.join("b")).unwrap();
        io.rename(&dir.join("a"), &dir.join("b")).unwrap();
        assert_eq!(names(&*io, &dir), ["b"]);
        assert_eq!(io.open(&dir.join("b")).unwrap().len().unwrap(), 1);
        io.create_dir(&dir.join("x")).unwrap();
        io.create(&dir.join("x").join("y")).unwrap();
        io.rename(&dir.join("x"), &dir.join("z")).unwrap();
        assert_eq!(names(&*io, &dir.join("z")), ["y"]);
        io.sync_dir(&dir).unwrap();
        assert!(io.remove_dir(&dir.join("z")).is_err());
        io.remove_file(&dir.join("z").join("y")).unwrap();
        io.remove_dir(&dir.join("z")).unwrap();
        assert_eq!(io.remove_file(&dir.join("q")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(io.list(&dir.join("q")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(names(&*io, &dir), ["b"]);
    });
}

#[test]
fn a_lock_is_exclusive_until_dropped() {
    everywhere(|io, base| {
        let path = base.join("LOCK");
        let lock = io.lock(&path).unwrap();
        assert_eq!(io.lock(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
        drop(lock);
        drop(io.lock(&path).unwrap());
        assert!(io.free_space(base).unwrap().free > 0);
        assert_ne!(io.random(), io.random());
    });
}

// === the simulated disk alone ===

fn simulated() -> SimulatedIo {
    let io = SimulatedIo::new(4);
    io.record();
    io
}

#[test]
fn only_what_was_synced_survives() {
    let io = simulated();
    let (a, b) = (Path::new("/a"), Path::new("/b"));
    let file = io.create(a).unwrap();
    file.write_at(&[b"one"], 0).unwrap();
    file.sync_data().unwrap();
    assert!(io.crash(Crash::Lost).files().is_empty(), "its name is not durable");
    io.sync_dir(Path::new("/")).unwrap();
    file.write_at(&[b"two"], 0).unwrap();
    io.rename(a, b).unwrap();
    let lost = io.crash(Crash::Lost).files();
    assert_eq!(lost, [(a.to_owned(), b"one".to_vec())]);
    assert_eq!(io.crash(Crash::Kept).files(), [(b.to_owned(), b"two".to_vec())]);
}

#[test]
fn unsynced_sectors_survive_each_on_their_own() {
    let io = simulated();
    let file = io.create_zeroed(Path::new("/a"), 4096).unwrap();
    io.sync_dir(Path::new("/")).unwrap();
    file.write_at(&[&[1; 2048]], 256).unwrap();
    let mut mixed = false;
    for seed in 0..50 {
        let bytes = io.crash(Crash::Torn { seed }).files().remove(0).1;
        let kept: Vec<bool> =
            [256, 512, 1024, 1536, 2048].iter().map(|at| bytes[*at] == 1).collect();
        assert_eq!(bytes[511], bytes[256]);
        assert!(bytes[512..1024].iter().all(|b| *b == bytes[512]));
        assert!(bytes[2304..].iter().all(|b| *b == 0));
        mixed |= kept.contains(&true) && kept.contains(&false);
    }
    assert!(mixed);
}

#[test]
fn a_full_disk_takes_what_fits() {
    let io = simulated();
    io.set_capacity(1000);
    let error = io.create_zeroed(Path::new("/big"), 1001).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(io.files().is_empty());
    let file = io.create(Path::new("/a")).unwrap();
    assert!(file.write_at(&[&[1; 1500]], 0).is_err());
    assert_eq!(file.len().unwrap(), 1000);
    file.write_at(&[&[2; 10]], 0).unwrap();
}

#[test]
fn a_failed_sync_loses_what_it_was_for() {
    let io = simulated();
    let path = Path::new("/a");
    let file = io.create_zeroed(path, 10).unwrap();
    io.sync_dir(Path::new("/")).unwrap();
    file.write_at(&[b"x"], 0).unwrap();
    io.fail(path, Fault::Sync).unwrap();
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_err(), "sticky");
    for crash in [Crash::Lost, Crash::Torn { seed: 3 }] {
        assert_eq!(io.crash(crash).files()[0].1[0], 0);
    }
}

#[test]
fn a_replay_ends_where_the_recording_did() {
    let io = simulated();
    let file = io.create(Path::new("/a")).unwrap();
    file.write_at(&[b"abc"], 0).unwrap();
    io.flip(Path::new("/a"), 0, 9).unwrap();
    io.create(Path::new("/b")).unwrap();
    let mut replay = io.replay();
    while replay.step() {}
    assert_eq!(replay.ops(), io.ops());
    let files = replay.crash(Crash::Kept).files();
    assert_eq!(files.len(), 2);
    assert_eq!(files[0].1, b"abc", "flips are not part of a recording");
}
