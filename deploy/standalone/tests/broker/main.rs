//! `fluxmq` as a black box: real processes, real sockets, kill -9.

mod backlog;
mod client;
mod gateways;
mod kill;
mod live;
mod metrics;
mod process;
mod retained;
mod sessions;
mod settings;
mod start;
mod startup;
