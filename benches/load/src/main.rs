//! `fluxmq-bench`: loads an MQTT broker and says what a delivered message costs it.
//!
//! It shares no code with the broker, checks every message for loss, repeats and order, and prints its
//! own CPU time, because on a small machine the generator is part of the experiment.

#![allow(clippy::print_stdout)]

mod backlog;
mod flow;
mod idle;
mod link;
mod process;
mod report;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Options {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Publishers send to subscribers: N topics with one publisher and --subscribers each.
    Flow(FlowOptions),
    /// Connections with one subscription each that do nothing.
    Idle(IdleOptions),
    /// Messages gather for a session that is away, then it drains them.
    Backlog(BacklogOptions),
}

/// What all workloads need.
#[derive(Args, Clone)]
struct Target {
    /// Address of the broker.
    #[arg(long, default_value = "127.0.0.1:1883")]
    addr: SocketAddr,
    /// Processes whose CPU time and memory are counted.
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args, Clone)]
struct FlowOptions {
    #[command(flatten)]
    target: Target,
    /// Topics, each with one publisher.
    #[arg(long, default_value_t = 2)]
    publishers: u32,
    /// Subscribers of each topic.
    #[arg(long, default_value_t = 1)]
    subscribers: u32,
    /// QoS of publishes and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Bytes of payload, at least 24.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..))]
    size: u32,
    /// Messages of each publisher.
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Messages of a publisher that may be undelivered (QoS 0) or unanswered (QoS 1, 2).
    #[arg(long, default_value_t = 200)]
    window: u32,
    /// Messages a second of all publishers together, by the clock (open loop); 0 = as fast as it goes.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Seconds after which the run fails.
    #[arg(long, default_value_t = 120)]
    limit_s: u64,
}

#[derive(Args, Clone)]
struct IdleOptions {
    #[command(flatten)]
    target: Target,
    /// Connections, each with a subscription of its own.
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
}

#[derive(Args, Clone)]
struct BacklogOptions {
    #[command(flatten)]
    target: Target,
    /// Bytes of payload, at least 8.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..))]
    size: u32,
    /// Messages.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// Publishes that may be unanswered.
    #[arg(long, default_value_t = 1_000)]
    window: u32,
    /// The broker's data directory, to see what it writes.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    process::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    match Options::parse().work {
        Work::Flow(options) => local.block_on(&runtime, flow::run(options)),
        Work::Idle(options) => local.block_on(&runtime, idle::run(options)),
        Work::Backlog(options) => local.block_on(&runtime, backlog::run(options)),
    }
}
