//! The vote of a shard: two 64-byte slot files, written in turn.
//!
//! Slot: `magic "LOGDVOTE" · version u16 · flags u16 (1 = committed, 2 = has a candidate, 4 = no vote yet) · 0 u32 ·
//! sequence u64 · shard u64 · term u64 · candidate u64 · 0 u64 … · crc u32 at 60`. A slot lies in one sector, so a crash
//! leaves the old or the new one; an unreadable slot is damage, and the shard refuses to start: the vote that it held
//! may have been given to somebody.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crashsafe;
use crate::entry::Vote;
use crate::error::Damage;
use crate::format::{Put, VERSION, u32_at, u64_at};
use crate::io::{File, Io};
use crate::limits::SEQUENCE_MAX;

const SLOT: usize = 64;
const MAGIC: &[u8; 8] = b"LOGDVOTE";
const COMMITTED: u16 = 1;
const CANDIDATE: u16 = 2;
const NONE: u16 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    sequence: u64,
    shard: u64,
    vote: Option<Vote>,
}

impl Slot {
    fn encode(&self) -> [u8; SLOT] {
        let vote = self.vote.unwrap_or_default();
        let mut flags = 0;
        for (set, flag) in [
            (vote.committed, COMMITTED),
            (vote.voted_for.is_some(), CANDIDATE),
            (self.vote.is_none(), NONE),
        ] {
            flags |= if set { flag } else { 0 };
        }
        let mut bytes = [0; SLOT];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.slice(MAGIC);
        put.u16(VERSION);
        put.u16(flags);
        put.u32(0);
        put.u64(self.sequence);
        put.u64(self.shard);
        put.u64(vote.term);
        put.u64(vote.voted_for.unwrap_or(0));
        let crc = crc32fast::hash(&bytes[..SLOT - 4]);
        bytes[SLOT - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != SLOT
            || &bytes[..8] != MAGIC
            || u32_at(bytes, SLOT - 4) != crc32fast::hash(&bytes[..SLOT - 4])
        {
            return None;
        }
        let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
        let vote = Vote {
            term: u64_at(bytes, 32),
            voted_for: (flags & CANDIDATE != 0).then(|| u64_at(bytes, 40)),
            committed: flags & COMMITTED != 0,
        };
        let vote = (flags & NONE == 0).then_some(vote);
        let sequence = Some(u64_at(bytes, 16)).filter(|sequence| *sequence < SEQUENCE_MAX)?;
        Some(Self { sequence, shard: u64_at(bytes, 24), vote })
    }
}

/// The open slot files.
pub(crate) struct VoteFiles {
    files: [Arc<dyn File>; 2],
    paths: [PathBuf; 2],
    shard: u64,
    sequence: u64,
}

fn paths(dir: &Path) -> [PathBuf; 2] {
    [dir.join("vote-0"), dir.join("vote-1")]
}

impl VoteFiles {
    /// Makes both slots of a new shard, saying that there is no vote.
    pub(crate) fn create(io: &dyn Io, dir: &Path, shard: u64) -> io::Result<()> {
        for (sequence, path) in (0..).zip(paths(dir)) {
            let slot = Slot { sequence, shard, vote: None };
            crashsafe::write_file(io, &path, &slot.encode())?;
        }
        Ok(())
    }

    /// Whether a vote was ever given; a directory without segments in which one was is damaged, not new.
    pub(crate) fn ever_voted(io: &dyn Io, dir: &Path) -> io::Result<bool> {
        for path in paths(dir) {
            let bytes = crashsafe::read_file(io, &path, SLOT)?;
            if bytes.and_then(|b| Slot::decode(&b)).is_some_and(|slot| slot.vote.is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens both slots and returns the newest vote.
    pub(crate) fn open(
        io: &dyn Io,
        dir: &Path,
        shard: u64,
    ) -> io::Result<Result<(Self, Option<Vote>), Damage>> {
        let paths = paths(dir);
        let mut slots = Vec::with_capacity(2);
        for path in &paths {
            let damage = |what: &str| Damage { file: path.clone(), offset: 0, what: what.into() };
            let Some(bytes) = crashsafe::read_file(io, path, 4096)? else {
                return Ok(Err(damage("the vote slot is missing")));
            };
            match Slot::decode(&bytes) {
                Some(slot) if slot.shard == shard => slots.push(slot),
                Some(_) => return Ok(Err(damage("the vote slot is of another shard"))),
                None => return Ok(Err(damage("the vote slot is unreadable"))),
            }
        }
        let newest = usize::from(slots[1].sequence > slots[0].sequence);
        if slots[newest].sequence != slots[1 - newest].sequence + 1
            || slots[newest].sequence % 2 != newest as u64
        {
            let file = paths[newest].clone();
            return Ok(Err(Damage { file, offset: 16, what: "vote slots out of step".into() }));
        }
        let files = [io.open(&paths[0])?, io.open(&paths[1])?];
        let sequence = slots[newest].sequence;
        Ok(Ok((Self { files, paths, shard, sequence }, slots[newest].vote)))
    }

    /// Writes the next vote over the older slot; not synced.
    pub(crate) fn write(&mut self, vote: Vote) -> io::Result<()> {
        self.sequence += 1;
        let slot = Slot { sequence: self.sequence, shard: self.shard, vote: Some(vote) };
        self.files[self.current()].write_at(&[&slot.encode()], 0)
    }

    /// Syncs the slot written last.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.files[self.current()].sync_data()
    }

    /// Syncs both, when they are opened: a killed process may have left a vote in the page cache.
    pub(crate) fn sync_both(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync_data())
    }

    /// The file written last.
    pub(crate) fn path(&self) -> &Path {
        &self.paths[self.current()]
    }

    fn current(&self) -> usize {
        usize::from(self.sequence % 2 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_round_trip_and_refuse_any_flip() {
        let vote = Vote { term: 7, voted_for: Some(3), committed: true };
        for vote in [None, Some(vote), Some(Vote { voted_for: None, committed: false, ..vote })] {
            let slot = Slot { sequence: 5, shard: 2, vote };
            let bytes = slot.encode();
            assert_eq!(Slot::decode(&bytes), Some(slot));
            for bit in 0..SLOT * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Slot::decode(&flipped), None, "bit {bit}");
            }
        }
        assert_eq!(Slot::decode(&[0; SLOT]), None);
    }
}
