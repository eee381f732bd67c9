//! Start, run, drain.

use std::sync::Arc;

use fluxmq_process::health::Health;
use fluxmq_process::metrics::Metrics;
use fluxmq_process::startup::Startup;
use fluxmq_process::{Program, Settings, admin};
use mqtt_gateway::{Config, Reload, Serving, Upstream};
use tokio::task::LocalSet;

/// Runs the broker until it is asked to stop; `reload` reads the settings again.
///
/// # Errors
/// What keeps it from starting, a line each.
pub(crate) fn run(
    settings: &Settings,
    reload: impl Fn() -> Result<Settings, Vec<String>> + Send + Sync + 'static,
) -> Result<(), Vec<String>> {
    let startup = Startup::begin(Program::Fluxmq, settings)?;
    let ours = [("grpc", &settings.grpc.listen), ("admin", &settings.admin.listen)];
    let wanted: Vec<_> = mqtt_gateway::addresses(settings).into_iter().chain(ours).collect();
    let grpc_tls = logd::GrpcTls::read(settings)?;
    let mut listeners = startup.bind(settings, &wanted)?;
    let grpc = listeners.duplicates("grpc").into_iter().map(Arc::new).collect();
    let config = logd::Config { grpc, grpc_tls, ..settings.into() };
    let logd = logd::start(config).map_err(|e| vec![e.to_string()])?;
    startup.announce(Some(&settings.node.data_dir), &listeners);
    let runtime = startup.runtime()?;
    let serving = Serving {
        upstream: Upstream::Here(logd.connect()),
        config: Config::new(settings, &mut listeners),
        health: Health::default(),
        counted: gateway_core::metrics::Metrics::default(),
        reload: Some(Reload::new(settings.clone(), reload)),
    };
    let health = serving.health.clone();
    health.alive_when_turns("gateway", runtime.handle().clone());
    logd.status().report_to(&health);
    let mut metrics = Metrics::new(Program::Fluxmq);
    metrics.add(serving.counted.clone());
    metrics.add(logd.status());
    admin::serve(listeners.take("admin"), health, metrics).map_err(|e| vec![e.to_string()])?;
    let served = LocalSet::new().block_on(&runtime, serving.run(|| startup.ready()));
    served.map_err(|e| vec![e.to_string()])
}
