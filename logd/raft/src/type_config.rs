//! openraft's types, filled in.

use std::fmt;

use bytes::Bytes;
use fluxmq_commands::Outcome;
use openraft::impls::leader_id_std::LeaderId;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;

/// The payload of a normal entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// tokio, with election timeouts from the seed of the group.
pub(crate) type Runtime = DeterministicRng<TokioRuntime>;

openraft::declare_raft_types!(
    /// One leader a term, entries that carry bytes, outcomes as response.
    pub(crate) TypeConfig:
        D = Payload,
        R = Vec<(u32, Outcome)>,
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, openraft::impls::BasicNode>;

/// openraft's identity of an entry as the log knows it.
pub(crate) fn to_log(id: &LogId) -> logd_log::LogId {
    logd_log::LogId { term: id.leader_id.term, leader_node: None, index: id.index }
}

/// And back.
pub(crate) fn from_log(id: logd_log::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

/// openraft's vote as the log knows it.
pub(crate) fn to_log_vote(vote: &Vote) -> logd_log::Vote {
    let LeaderId { term, voted_for } = vote.leader_id;
    logd_log::Vote { term, voted_for: Some(voted_for), committed: vote.committed }
}

/// And back.
pub(crate) fn from_log_vote(vote: logd_log::Vote) -> Vote {
    let voted_for = vote.voted_for.unwrap_or_default();
    Vote { leader_id: LeaderId { term: vote.term, voted_for }, committed: vote.committed }
}
