//! Start, run, drain.

use std::sync::Arc;

use fluxmq_process::startup::Startup;
use fluxmq_process::{Program, Settings};
use mqtt_gateway::{Upstream, serve};
use tokio::task::LocalSet;

/// Runs the broker until it is asked to stop.
///
/// # Errors
/// What keeps it from starting, a line each.
pub(crate) fn run(settings: &Settings) -> Result<(), Vec<String>> {
    let startup = Startup::begin(Program::Fluxmq, settings)?;
    let wanted = [("mqtt", &settings.mqtt.listen), ("grpc", &settings.grpc.listen)];
    let mut listeners = startup.bind(settings, &wanted)?;
    startup.announce(Some(&settings.node.data_dir), &listeners);
    let grpc = listeners.take("grpc").into_iter().map(Arc::new).collect();
    let config = logd::Config { grpc, ..settings.into() };
    let logd = logd::start(config).map_err(|e| vec![e.to_string()])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| vec![format!("cannot start the runtime: {e}")])?;
    let upstream = Upstream::Here(logd.connect());
    let serve = serve(upstream, listeners.take("mqtt"), || startup.ready());
    LocalSet::new().block_on(&runtime, serve).map_err(|e| vec![e.to_string()])
}
