//! What is stored: entries, their identities, votes.

use bytes::Bytes;

/// Identity of an entry: its index and the term, and where the vote type wants it the leader, that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Leader node, only for the advanced leader id of Raft.
    pub leader_node: Option<u64>,
    /// Raft index, counted from 0.
    pub index: u64,
}

/// Kind of an entry; the values are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A new leader's first entry.
    Blank = 1,
    /// A batch of commands.
    Normal = 2,
    /// A change of membership.
    Membership = 3,
}

/// One Raft entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Raft index, counted from 0; at most [`crate::limits::INDEX_MAX`].
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Leader node, only for the advanced leader id of Raft.
    pub leader_node: Option<u64>,
    /// What the payload is.
    pub kind: EntryKind,
    /// At most [`crate::limits::ENTRY_PAYLOAD_MAX`] bytes.
    pub payload: Bytes,
}

impl Entry {
    /// Its identity.
    pub fn log_id(&self) -> LogId {
        LogId { term: self.term, leader_node: self.leader_node, index: self.index }
    }
}

/// A Raft vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vote {
    /// Term voted in.
    pub term: u64,
    /// Node voted for.
    pub voted_for: Option<u64>,
    /// A quorum granted it.
    pub committed: bool,
}

/// Who asks for room in the log (S9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Producers: refused at the low-water mark.
    Normal,
    /// Settlements, deletes, membership, what frees space: may use the reserve.
    Freeing,
    /// What was decided elsewhere (a leader's entries on a follower, what was admitted before): never refused for want
    /// of space; where there is none it waits, unacknowledged, until there is.
    Decided,
}
