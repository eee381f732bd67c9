//! What every process of ours does around its work: settings, listeners, limits, logs, health, metrics and signals.
//! It knows nothing of logs, brokers or protocols.

pub mod admin;
pub mod command_line;
pub mod file_limit;
pub mod health;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod program;
pub mod settings;
pub mod signals;
pub mod startup;

pub use program::Program;
pub use settings::Settings;
