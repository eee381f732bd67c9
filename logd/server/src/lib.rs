//! The storage daemon: Raft groups of this node, delivery to attached sessions, wills and timers.
//!
//! Everything runs on one thread with one current-thread runtime (design T1), beside the I/O thread of
//! the log. Gateways reach it through links; handlers only post to the owner task, [`core`].

mod app;
mod backlog;
mod core;
mod delivery;
mod effects;
mod ended_publishers;
mod entries;
mod grpc_tls;
mod hub;
mod programs;
mod queues;
mod registrations;
mod replay;
mod service;
mod status;
mod wills;
mod windows;

pub use app::{Config, Running, StartError, start};
pub use grpc_tls::GrpcTls;
pub use status::Status;
