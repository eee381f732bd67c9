//! The command line of `fluxmq`.

use std::path::PathBuf;

use clap::Parser;
use fluxmq_process::listen::ListenAddress;

/// A message broker for MQTT, AMQP, HTTP and CoAP over a replicated log, in one process.
#[derive(Parser, Debug)]
#[command(version)]
pub(crate) struct Options {
    /// Settings in YAML.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the log lives, or `memory`: nothing survives the process.
    #[arg(long, value_name = "DIR|memory")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Data shards; fixed when the data directory is made.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) shards: u32,
    /// MQTT 3.1.1 and 5 over TCP, or `off` [default: 127.0.0.1:1883 and [::1]:1883].
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt: Option<ListenAddress>,
    /// MQTT over WebSocket.
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt_ws: Option<ListenAddress>,
    /// AMQP 0.9.1 and 1.0.
    #[arg(long, value_name = "ADDR")]
    pub(crate) amqp: Option<ListenAddress>,
    /// HTTP.
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<ListenAddress>,
    /// `CoAP`.
    #[arg(long, value_name = "ADDR")]
    pub(crate) coap: Option<ListenAddress>,
    /// The gRPC API.
    #[arg(long, value_name = "ADDR")]
    pub(crate) grpc: Option<ListenAddress>,
    /// Health and metrics over HTTP.
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<ListenAddress>,
    /// Let anyone in also where others can reach the listener.
    #[arg(long)]
    pub(crate) allow_anonymous: bool,
}
