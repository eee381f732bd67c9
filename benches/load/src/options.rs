//! The command line of `fluxmq-bench`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::account::STAMP_BYTES;
use crate::mqtt::wire::Version;
#[cfg(feature = "peers")]
use crate::peers::options::{AmqpOptions, NatsOptions};

/// Loads a message broker and says what a delivered message costs it.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) work: Work,
}

#[derive(Subcommand)]
pub(crate) enum Work {
    /// MQTT: publishers send to subscribers.
    Flow(FlowOptions),
    /// MQTT: connections with one subscription each that do nothing.
    Idle(IdleOptions),
    /// MQTT: many connections at once, each with a subscription of its own.
    Storm(StormOptions),
    /// MQTT: messages gather for a session that is away, then it drains them.
    Backlog(BacklogOptions),
    /// MQTT: retained messages are set, read by new subscriptions, and cleared.
    Retained(RetainedOptions),
    /// MQTT: what this generator can do at most, against `floor --null`.
    Ceiling(CeilingOptions),
    /// Our contract over gRPC: a persistent session gathers messages, then drains them.
    Grpc(GrpcOptions),
    /// Work queues by the Rust client: publishers with confirms, consumers that acknowledge each message.
    Queue(QueueWork),
    /// Queues that are deep, many, or settled in no order: memory, restart, drain, disk. Starts `logd` itself.
    Depth(DepthOptions),
    #[cfg(feature = "peers")]
    /// AMQP 0.9.1: producers send to consumers through queues.
    Amqp(AmqpOptions),
    #[cfg(feature = "peers")]
    /// NATS: publishers send to subscribers.
    Nats(NatsOptions),
}

/// Where the broker is and what is counted.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// Address of the broker; several take turns with the connections.
    #[arg(long = "addr", default_value = "127.0.0.1:1883")]
    pub(crate) addrs: Vec<SocketAddr>,
    /// Process whose CPU time and memory are counted; repeat it for all processes of the broker.
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
    /// Address of the broker's page of metrics (GET /metrics); its growth goes into the JSON.
    #[arg(long)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Where the figures go as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

// === impl Target ===

impl Target {
    /// The address for connection number `n`.
    pub(crate) fn addr(&self, n: usize) -> SocketAddr {
        self.addrs[n % self.addrs.len()]
    }
}

/// How much is sent, and how fast.
#[derive(Args, Clone)]
pub(crate) struct Load {
    /// Publishers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    /// Subscribers or consumers: of each topic or queue in `pairs`, in all otherwise.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Bytes of payload, at least 24.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..))]
    pub(crate) size: u32,
    /// Messages of each publisher.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) messages: u64,
    /// Messages of a publisher that may be undelivered (not acknowledged ones) or unanswered.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) window: u32,
    /// Messages a second of all publishers together, by the clock (open loop); 0 = as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// Seconds after which the run fails.
    #[arg(long, default_value_t = 120)]
    pub(crate) limit_s: u64,
}

const _: () = assert!(STAMP_BYTES <= 24, "the smallest payload holds a stamp");

// === impl Load ===

impl Load {
    /// Messages a second of one publisher.
    pub(crate) fn rate_of_one(&self) -> f64 {
        self.rate as f64 / f64::from(self.publishers)
    }

    /// For the title of a run.
    pub(crate) fn pace(&self) -> String {
        match self.rate {
            0 => format!("window {}, closed loop", self.window),
            rate => format!("{rate}/s, open loop, window {}", self.window),
        }
    }
}

/// Who gets what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// A topic for each publisher, read by its own subscribers (many of them: fan-out).
    Pairs,
    /// Every subscriber gets everything from all publishers.
    FanIn,
    /// The subscribers share the messages: each goes to one of them.
    Shared,
}

// === impl Shape ===

impl Shape {
    /// Messages that are to be delivered in all.
    pub(crate) fn deliveries(self, load: &Load) -> u64 {
        let all = load.messages * u64::from(load.publishers);
        match self {
            Self::Shared => all,
            Self::Pairs | Self::FanIn => all * u64::from(load.subscribers),
        }
    }

    /// Receivers of a publisher that are told apart.
    pub(crate) fn places(self, load: &Load) -> u32 {
        if self == Self::Shared { 1 } else { load.subscribers }
    }
}

#[derive(Args, Clone)]
pub(crate) struct FlowOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Who gets what.
    #[arg(long, value_enum, default_value_t = Shape::Pairs)]
    pub(crate) shape: Shape,
    /// QoS of publishes and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// Version of the protocol.
    #[arg(long, value_enum, default_value_t = Version::V311)]
    pub(crate) mqtt: Version,
    /// Sessions of the subscribers outlive their connections.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Further subscribers of every topic, as the others, that never read. What they get is not counted.
    #[arg(long, default_value_t = 0)]
    pub(crate) deaf: u32,
}

#[derive(Args, Clone)]
pub(crate) struct IdleOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Connections, each with a subscription of its own.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: u32,
    /// Version of the protocol.
    #[arg(long, value_enum, default_value_t = Version::V311)]
    pub(crate) mqtt: Version,
}

#[derive(Args, Clone)]
pub(crate) struct StormOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Connections, each with a subscription of its own.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: u32,
    /// Connections that are being made at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) at_once: u32,
    /// Version of the protocol.
    #[arg(long, value_enum, default_value_t = Version::V311)]
    pub(crate) mqtt: Version,
    /// Sessions outlive their connections.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// What client ids and topics begin with; another one for each of several processes.
    #[arg(long, default_value = "storm")]
    pub(crate) name: String,
    /// Over TLS: the authority that signed the broker's certificate for localhost, a PEM file.
    #[arg(long)]
    pub(crate) tls: Option<PathBuf>,
    /// Keeps the connections open until standard input ends.
    #[arg(long)]
    pub(crate) hold: bool,
}

#[derive(Args, Clone)]
pub(crate) struct BacklogOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Bytes of payload, at least 8.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..))]
    pub(crate) size: u32,
    /// Messages.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) messages: u64,
    /// Publishes that may be unanswered.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) window: u32,
    /// The broker's data directory, to see what it writes.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Version of the protocol.
    #[arg(long, value_enum, default_value_t = Version::V311)]
    pub(crate) mqtt: Version,
    /// Seconds after which the run fails.
    #[arg(long, default_value_t = 120)]
    pub(crate) limit_s: u64,
}

#[derive(Args, Clone)]
pub(crate) struct RetainedOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Topics with a retained message.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) topics: u64,
    /// Subscriptions to all of them, one connection after the other.
    #[arg(long, default_value_t = 10)]
    pub(crate) subscribers: u32,
    /// Bytes of payload.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..))]
    pub(crate) size: u32,
    /// Publishes that may be unanswered.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub(crate) window: u32,
    /// Version of the protocol.
    #[arg(long, value_enum, default_value_t = Version::V311)]
    pub(crate) mqtt: Version,
    /// Seconds after which the run fails.
    #[arg(long, default_value_t = 120)]
    pub(crate) limit_s: u64,
}

#[derive(Args, Clone)]
pub(crate) struct CeilingOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) load: Load,
    /// QoS of publishes and deliveries.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
}

#[derive(Args, Clone)]
pub(crate) struct GrpcOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Bytes of payload, at least 8.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    pub(crate) size: u32,
    /// Messages.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) messages: u64,
    /// Publishes in a frame.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) frame: u32,
    /// Publishes that may be unanswered; never more than 4 MiB.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) window: u32,
    /// Seconds after which the run fails.
    #[arg(long, default_value_t = 120)]
    pub(crate) limit_s: u64,
}

#[derive(Args, Clone)]
pub(crate) struct QueueWork {
    #[command(flatten)]
    pub(crate) target: Target,
    /// The window is what a publisher may have unconfirmed, and the prefetch of a consumer; subscribers are those of
    /// each queue.
    #[command(flatten)]
    pub(crate) load: Load,
    /// Queues; publishers take turns with them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) queues: u32,
}

/// What is done with deep queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DepthWork {
    /// Filled in turn, `logd` started again, drained in order.
    Deep,
    /// Filled, then settled in no order.
    Random,
    /// Queues bound to one topic that is published to.
    Bound,
}

#[derive(Args, Clone)]
pub(crate) struct DepthOptions {
    /// What is done.
    #[arg(value_enum)]
    pub(crate) work: DepthWork,
    /// The binary of `logd`.
    #[arg(long)]
    pub(crate) logd: PathBuf,
    /// Its data directory; it begins empty.
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// Its shards.
    #[arg(long, default_value_t = 1)]
    pub(crate) shards: u32,
    /// Queues.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) queues: u32,
    /// Messages in all.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) messages: u64,
    /// Bytes of payload, at least 8.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..))]
    pub(crate) size: u32,
    /// Seconds after which the run fails.
    #[arg(long, default_value_t = 600)]
    pub(crate) limit_s: u64,
    /// Where the figures go as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}
