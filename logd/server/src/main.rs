//! `logd`: the storage daemon. Gateways reach it over gRPC.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use fluxmq_process::command_line::LogdOptions;
use fluxmq_process::health::Health;
use fluxmq_process::metrics::Metrics;
use fluxmq_process::signals::StopRequests;
use fluxmq_process::startup::{self, Startup};
use fluxmq_process::{Program, Settings, admin};

fn main() -> ExitCode {
    startup::exit(LogdOptions::parse().settings().and_then(|settings| run(&settings)))
}

fn run(settings: &Settings) -> Result<(), Vec<String>> {
    let startup = Startup::begin(Program::Logd, settings)?;
    let wanted = [("grpc", &settings.grpc.listen), ("admin", &settings.admin.listen)];
    let grpc_tls = logd::GrpcTls::read(settings)?;
    let mut listeners = startup.bind(settings, &wanted)?;
    let grpc = listeners.duplicates("grpc").into_iter().map(Arc::new).collect();
    // Gateways are processes of their own: they may come back.
    let config = logd::Config { grpc, grpc_tls, alone: false, ..settings.into() };
    let logd = logd::start(config).map_err(|e| vec![e.to_string()])?;
    startup.announce(Some(&settings.node.data_dir), &listeners);
    let runtime = startup.runtime()?;
    let (health, mut metrics) = (Health::default(), Metrics::new(Program::Logd));
    logd.status().report_to(&health);
    metrics.add(logd.status());
    let stopped = runtime.block_on(async {
        admin::serve(listeners.take("admin"), health.clone(), metrics)?;
        let stop = StopRequests::listen()?;
        startup.ready();
        stop.first().await;
        health.drain();
        Ok::<_, std::io::Error>(())
    });
    drop(logd);
    stopped.map_err(|e| vec![e.to_string()])
}
