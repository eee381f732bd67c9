//! What every protocol gateway shares: routing of live messages, the session registry, the streams
//! to `logd`, limits and listeners. It knows no protocol; a connection is a [`message::Subscriber`].
//!
//! Everything here belongs to one routing thread (design T1, T2) and is neither `Send` nor locked.

pub mod backend;
pub mod counters;
mod filter_trie;
pub mod message;
pub mod metrics;
pub mod route_cache;
pub mod route_table;
mod seen;
pub mod timer_wheel;
pub mod upstream;
pub mod worker;
