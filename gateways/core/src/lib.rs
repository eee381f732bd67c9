//! What every protocol gateway shares: routing of live messages, the session registry, the streams
//! to `logd`, limits and listeners. It knows no protocol; a connection is a [`message::Subscriber`].
//!
//! Everything here belongs to one routing thread (design T1, T2) and is neither `Send` nor locked.

pub mod admission;
pub mod authz;
pub mod backend;
pub mod counters;
mod filter_trie;
pub mod listener;
pub mod message;
pub mod metrics;
pub mod proxy_protocol;
pub mod rate_limit;
pub mod replays;
pub mod route_cache;
pub mod route_table;
pub mod scram;
pub mod security;
mod seen;
pub mod shared_group;
pub mod timer_wheel;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod websocket;
pub mod worker;
