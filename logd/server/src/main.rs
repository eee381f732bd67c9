//! `logd`: the storage daemon. Gateways reach it over gRPC.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use fluxmq_process::command_line::LogdOptions;
use fluxmq_process::startup::{self, Startup};
use fluxmq_process::{Program, Settings, signals};

fn main() -> ExitCode {
    startup::exit(LogdOptions::parse().settings().and_then(|settings| run(&settings)))
}

fn run(settings: &Settings) -> Result<(), Vec<String>> {
    let startup = Startup::begin(Program::Logd, settings)?;
    let wanted = [("grpc", &settings.grpc.listen)];
    let mut listeners = startup.bind(settings, &wanted)?;
    startup.announce(Some(&settings.node.data_dir), &listeners);
    let grpc = listeners.take("grpc").into_iter().map(Arc::new).collect();
    // Gateways are processes of their own: they may come back.
    let config = logd::Config { grpc, alone: false, ..settings.into() };
    let logd = logd::start(config).map_err(|e| vec![e.to_string()])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| vec![format!("cannot start the runtime: {e}")])?;
    startup.ready();
    let stopped = runtime.block_on(signals::stop_requested());
    drop(logd);
    stopped.map_err(|e| vec![e.to_string()])
}
