//! `mqtt-gateway`: terminates MQTT connections and keeps nothing; what must last goes to `logd`.

use std::process::ExitCode;

use clap::Parser;
use fluxmq_client::Tls;
use fluxmq_process::command_line::MqttGatewayOptions;
use fluxmq_process::health::Health;
use fluxmq_process::metrics::Metrics;
use fluxmq_process::startup::{self, Startup, pem_file};
use fluxmq_process::{Program, Settings, admin};
use mqtt_gateway::{Config, Reload, Serving, Upstream, addresses};
use tokio::task::LocalSet;

fn main() -> ExitCode {
    let options = MqttGatewayOptions::parse();
    let again = options.clone();
    let reload = move || again.clone().settings();
    startup::exit(options.settings().and_then(|settings| run(&settings, reload)))
}

fn run(
    settings: &Settings,
    reload: impl Fn() -> Result<Settings, Vec<String>> + Send + Sync + 'static,
) -> Result<(), Vec<String>> {
    let startup = Startup::begin(Program::MqttGateway, settings)?;
    let admin_listener = [("admin", &settings.admin.listen)];
    let wanted: Vec<_> = addresses(settings).into_iter().chain(admin_listener).collect();
    let (urls, tls) = (settings.logd.urls.all().to_vec(), tls(settings)?);
    let mut listeners = startup.bind(settings, &wanted)?;
    startup.announce(None, &listeners);
    let runtime = startup.runtime()?;
    let config = Config::new(settings, &mut listeners);
    let serving = Serving {
        upstream: Upstream::At { urls, tls, name: name(&config) },
        config,
        health: Health::default(),
        counted: gateway_core::metrics::Metrics::default(),
        reload: Some(Reload::new(settings.clone(), reload)),
    };
    let health = serving.health.clone();
    health.alive_when_turns("gateway", runtime.handle().clone());
    let mut metrics = Metrics::new(Program::MqttGateway);
    metrics.add(serving.counted.clone());
    admin::serve(listeners.take("admin"), health, metrics).map_err(|e| vec![e.to_string()])?;
    let served = LocalSet::new().block_on(&runtime, serving.run(|| startup.ready()));
    served.map_err(|e| vec![e.to_string()])
}

/// TLS towards `logd`.
fn tls(settings: &Settings) -> Result<Option<Tls>, Vec<String>> {
    let logd = &settings.logd;
    let secure = logd.urls.all().iter().any(|url| url.starts_with("https://"));
    let Some(authorities) = pem_file("logd.authorities", &logd.authorities)? else {
        let why =
            "logd.urls has an https:// address: set logd.authorities to who signed its certificate";
        return if secure { Err(vec![why.into()]) } else { Ok(None) };
    };
    let certificate = pem_file("logd.certificate", &logd.certificate)?;
    let identity = match (certificate, pem_file("logd.key", &logd.key)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(vec!["logd.certificate and logd.key need each other".into()]),
    };
    Ok(Some(Tls { authorities, identity }))
}

/// Host and port: a gateway that is started again ends what it was before.
fn name(config: &Config) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first = config.listeners.first();
    let port = first.and_then(|(l, _)| l.local_addr().ok()).map_or(0, |at| at.port());
    format!("mqtt {}:{port}", host.trim())
}
