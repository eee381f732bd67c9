//! A shard's Raft group: openraft (pinned, `docs/adr/0001-openraft-pin.md`) over [`logd_log`], applying
//! to [`logd_broker`]. Nobody outside sees openraft's types.
//!
//! A [`Group`] takes batches of commands, makes one entry of all that queue while the entry before is on
//! its way (S5), and answers each batch when its entry is applied. It runs on one current-thread runtime. The other
//! voters are reached through [`Peers`], by frames that only a group understands.

mod arrival;
mod batcher;
mod clocks;
mod compact;
mod confirm;
mod group;
mod hold;
mod inbound;
mod leadership;
mod log_store;
mod machine;
mod membership;
mod merge;
mod network;
mod options;
mod peer;
mod propose;
mod transfer;
mod transport;
mod type_config;

pub use batcher::{CommandBatch, Reply, SubmitError};
pub use group::{Group, GroupError};
pub use machine::Observer;
pub use options::{Clock, Compaction, Encoding, Formation, GroupOptions, Members, Voters};
pub use peer::FRAME_BYTES_MAX;
pub use transport::{NoAnswer, PeerAnswer, PeerCall, Peers};
