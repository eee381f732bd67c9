//! `fluxmq` as a black box: real processes, real sockets. What kills them is in `tests/chaos`.

mod backlog;
mod live;
mod metrics;
mod reload;
mod retained;
mod security;
mod sessions;
mod settings;
mod start;
mod startup;

use chaos::{client, process};
