//! The command line of the peers' protocols.

use clap::{Args, ValueEnum};

use crate::options::{Load, Shape, Target};

/// What a queue keeps, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueueKind {
    /// In memory; no confirms, no acknowledgements.
    Transient,
    /// Durable classic queue, persistent messages, confirms and acknowledgements.
    Classic,
    /// Quorum queue, persistent messages, confirms and acknowledgements.
    Quorum,
}

#[derive(Args, Clone)]
pub(crate) struct AmqpOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Who gets what: `shared` is one queue for all.
    #[arg(long, value_enum, default_value_t = Shape::Shared)]
    pub(crate) shape: Shape,
    /// What the queues keep.
    #[arg(long, value_enum, default_value_t = QueueKind::Classic)]
    pub(crate) queue: QueueKind,
    /// Messages a consumer may hold unacknowledged.
    #[arg(long, default_value_t = 200)]
    pub(crate) prefetch: u16,
}

/// What NATS keeps of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NatsKind {
    /// Nothing: core NATS.
    Core,
    /// A JetStream work queue in files, acknowledged both ways.
    Jetstream,
}

#[derive(Args, Clone)]
pub(crate) struct NatsOptions {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) load: Load,
    /// Who gets what.
    #[arg(long, value_enum, default_value_t = Shape::Pairs)]
    pub(crate) shape: Shape,
    /// What is kept.
    #[arg(long, value_enum, default_value_t = NatsKind::Core)]
    pub(crate) kind: NatsKind,
}
