//! The command lines, fixed: others build on them. Each flag is a key of the settings by another name.

use std::path::PathBuf;

use clap::Parser;

use crate::listen::ListenAddress;
use crate::program::Program;
use crate::settings::{DataDir, LogdUrls, Settings};

/// A message broker for MQTT, AMQP, HTTP and CoAP over a replicated log, in one process.
///
/// Every ADDR is HOST:PORT, several of them separated by commas, or `off`. Without flags it serves this machine only and
/// keeps its data in ./fluxmq-data. Every key of the file is also an environment variable, FLUXMQ_SECTION_KEY; a flag
/// goes before a variable, a variable before the file.
#[derive(Parser, Clone, Debug, Default)]
#[command(name = "fluxmq", version)]
pub struct FluxmqOptions {
    /// Settings in YAML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the log lives, or `memory`: nothing survives the process [default: fluxmq-data].
    #[arg(long, value_name = "DIR|memory")]
    pub data_dir: Option<DataDir>,
    /// Data shards, 1 to 64; fixed when the data directory is made [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: Option<u32>,
    /// MQTT 3.1.1 and 5 over TCP [default: 127.0.0.1:1883 and [::1]:1883].
    #[arg(long, value_name = "ADDR")]
    pub mqtt: Option<ListenAddress>,
    /// MQTT over WebSocket, path /mqtt [default: port 8083].
    #[arg(long, value_name = "ADDR")]
    pub mqtt_ws: Option<ListenAddress>,
    /// AMQP 0.9.1 and 1.0 [default: port 5672; not built yet].
    #[arg(long, value_name = "ADDR")]
    pub amqp: Option<ListenAddress>,
    /// HTTP [default: port 8080; not built yet].
    #[arg(long, value_name = "ADDR")]
    pub http: Option<ListenAddress>,
    /// CoAP [default: port 5683; not built yet].
    #[arg(long, value_name = "ADDR")]
    pub coap: Option<ListenAddress>,
    /// The gRPC API [default: port 7400].
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<ListenAddress>,
    /// Health and metrics over HTTP: /healthz /readyz /metrics [default: port 8081].
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<ListenAddress>,
    /// Let anyone in also where others can reach the listener.
    #[arg(long)]
    pub allow_anonymous: bool,
}

/// The storage daemon of FluxMQ: a replicated log. Gateways reach it over gRPC.
///
/// Every ADDR is HOST:PORT, several of them separated by commas, or `off`. Every key of the file is also an environment
/// variable, FLUXMQ_SECTION_KEY; a flag goes before a variable, a variable before the file.
#[derive(Parser, Debug, Default)]
#[command(name = "logd", version)]
pub struct LogdOptions {
    /// Settings in YAML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the log lives, or `memory`: nothing survives the process [default: fluxmq-data].
    #[arg(long, value_name = "DIR|memory")]
    pub data_dir: Option<DataDir>,
    /// Data shards, 1 to 64; fixed when the data directory is made [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: Option<u32>,
    /// The gRPC API [default: 127.0.0.1:7400 and [::1]:7400].
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<ListenAddress>,
    /// Health and metrics over HTTP: /healthz /readyz /metrics [default: port 8081].
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<ListenAddress>,
}

/// The MQTT gateway of FluxMQ: it terminates connections and keeps nothing; what must last goes to logd.
///
/// Every ADDR is HOST:PORT, several of them separated by commas, or `off`. Every key of the file is also an environment
/// variable, FLUXMQ_SECTION_KEY; a flag goes before a variable, a variable before the file.
#[derive(Parser, Clone, Debug, Default)]
#[command(name = "mqtt-gateway", version)]
pub struct MqttGatewayOptions {
    /// Settings in YAML.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where logd serves gRPC [default: http://127.0.0.1:7400].
    #[arg(long, value_name = "URL[,URL…]")]
    pub logd: Option<LogdUrls>,
    /// MQTT 3.1.1 and 5 over TCP [default: 127.0.0.1:1883 and [::1]:1883].
    #[arg(long, value_name = "ADDR")]
    pub mqtt: Option<ListenAddress>,
    /// MQTT over WebSocket, path /mqtt [default: port 8083].
    #[arg(long, value_name = "ADDR")]
    pub mqtt_ws: Option<ListenAddress>,
    /// Health and metrics over HTTP: /healthz /readyz /metrics [default: port 8091].
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<ListenAddress>,
}

/// Sets `field` if the flag was given.
fn set<T>(field: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *field = value;
    }
}

// === impl FluxmqOptions ===

impl FluxmqOptions {
    /// The settings of the process: flags over environment over file over defaults.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn settings(self) -> Result<Settings, Vec<String>> {
        let file = self.config.clone();
        Settings::load(Program::Fluxmq, file.as_deref(), std::env::vars_os(), |settings| {
            set(&mut settings.node.data_dir, self.data_dir);
            set(&mut settings.node.shards, self.shards);
            set(&mut settings.mqtt.listen, self.mqtt);
            set(&mut settings.mqtt_ws.listen, self.mqtt_ws);
            set(&mut settings.amqp.listen, self.amqp);
            set(&mut settings.http.listen, self.http);
            set(&mut settings.coap.listen, self.coap);
            set(&mut settings.grpc.listen, self.grpc);
            set(&mut settings.admin.listen, self.admin);
            settings.security.allow_anonymous |= self.allow_anonymous;
        })
    }
}

// === impl LogdOptions ===

impl LogdOptions {
    /// The settings of the process: flags over environment over file over defaults.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn settings(self) -> Result<Settings, Vec<String>> {
        let file = self.config.clone();
        Settings::load(Program::Logd, file.as_deref(), std::env::vars_os(), |settings| {
            set(&mut settings.node.data_dir, self.data_dir);
            set(&mut settings.node.shards, self.shards);
            set(&mut settings.grpc.listen, self.grpc);
            set(&mut settings.admin.listen, self.admin);
        })
    }
}

// === impl MqttGatewayOptions ===

impl MqttGatewayOptions {
    /// The settings of the process: flags over environment over file over defaults.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn settings(self) -> Result<Settings, Vec<String>> {
        let file = self.config.clone();
        Settings::load(Program::MqttGateway, file.as_deref(), std::env::vars_os(), |settings| {
            set(&mut settings.logd.urls, self.logd);
            set(&mut settings.mqtt.listen, self.mqtt);
            set(&mut settings.mqtt_ws.listen, self.mqtt_ws);
            set(&mut settings.admin.listen, self.admin);
        })
    }
}
