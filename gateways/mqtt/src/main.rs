//! `mqtt-gateway`: terminates MQTT connections and keeps nothing; what must last goes to `logd`.

use std::process::ExitCode;

use clap::Parser;
use fluxmq_process::command_line::MqttGatewayOptions;
use fluxmq_process::health::Health;
use fluxmq_process::metrics::Metrics;
use fluxmq_process::startup::{self, Startup};
use fluxmq_process::{Program, Settings, admin};
use mqtt_gateway::{Config, Serving, Upstream, addresses};
use tokio::task::LocalSet;

fn main() -> ExitCode {
    startup::exit(MqttGatewayOptions::parse().settings().and_then(|settings| run(&settings)))
}

fn run(settings: &Settings) -> Result<(), Vec<String>> {
    let startup = Startup::begin(Program::MqttGateway, settings)?;
    let admin_listener = [("admin", &settings.admin.listen)];
    let wanted: Vec<_> = addresses(settings).into_iter().chain(admin_listener).collect();
    let mut listeners = startup.bind(settings, &wanted)?;
    startup.announce(None, &listeners);
    let runtime = startup.runtime()?;
    let config = Config::new(settings, &mut listeners);
    let serving = Serving {
        upstream: Upstream::At { urls: settings.logd.urls.all().to_vec(), name: name(&config) },
        config,
        health: Health::default(),
        counted: gateway_core::metrics::Metrics::default(),
    };
    let health = serving.health.clone();
    health.alive_when_turns("gateway", runtime.handle().clone());
    let mut metrics = Metrics::new(Program::MqttGateway);
    metrics.add(serving.counted.clone());
    admin::serve(listeners.take("admin"), health, metrics).map_err(|e| vec![e.to_string()])?;
    let served = LocalSet::new().block_on(&runtime, serving.run(|| startup.ready()));
    served.map_err(|e| vec![e.to_string()])
}

/// Host and port: a gateway that is started again ends what it was before.
fn name(config: &Config) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first = config.listeners.first();
    let port = first.and_then(|(l, _)| l.local_addr().ok()).map_or(0, |at| at.port());
    format!("mqtt {}:{port}", host.trim())
}
