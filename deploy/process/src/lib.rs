//! What every process of ours does around its work: settings, listeners, limits, logs and signals.
//! It knows nothing of logs, brokers or protocols.

pub mod file_limit;
pub mod listen;
pub mod logging;

pub mod signals;
