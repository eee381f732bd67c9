//! A shard's Raft group: openraft (pinned, `docs/adr/0001-openraft-pin.md`) over [`logd_log`], applying
//! to [`logd_broker`]. Nobody outside sees openraft's types.
//!
//! A [`Group`] takes batches of commands, makes one entry of all that queue while the entry before is on
//! its way (S5), and answers each batch when its entry is applied. It runs on one current-thread runtime.

mod batcher;
mod group;
mod log_store;
mod machine;
mod membership;
mod network;
mod type_config;

pub use batcher::{CommandBatch, Reply, SubmitError};
pub use group::{Group, GroupError, GroupOptions};
pub use machine::Observer;
