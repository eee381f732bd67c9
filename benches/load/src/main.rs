//! `fluxmq-bench`: loads a message broker and says what a delivered message costs it.
//!
//! It shares no code with the broker, checks every message for loss, repeats and order, and prints its
//! own CPU time, because on a small machine the generator is part of the experiment.

#![allow(clippy::print_stdout)]

mod account;
mod depth;
mod grpc;
mod lane;
mod meter;
mod mqtt;
mod options;
#[cfg(feature = "peers")]
mod peers;
mod process;
mod queue;
mod report;
mod tally;

use std::process::ExitCode;

use clap::Parser;
use tokio::task::LocalSet;

use crate::options::{Options, Work};

fn main() -> ExitCode {
    process::raise_file_limit();
    match measure(Options::parse().work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(work: Work) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match work {
            Work::Flow(options) => mqtt::flow::run(options).await,
            Work::Idle(options) => mqtt::idle::run(options).await,
            Work::Storm(options) => mqtt::storm::run(options).await,
            Work::Backlog(options) => mqtt::backlog::run(options).await,
            Work::Retained(options) => mqtt::retained::run(options).await,
            Work::Ceiling(options) => mqtt::ceiling::run(options).await,
            Work::Grpc(options) => grpc::run(options).await,
            Work::Queue(options) => queue::run(options).await,
            Work::Depth(options) => depth::run(options).await,
            #[cfg(feature = "peers")]
            Work::Amqp(options) => peers::amqp::run(options).await,
            #[cfg(feature = "peers")]
            Work::Nats(options) => peers::nats::run(options).await,
        }
    })
}
