//! How the I/O thread talks back to the owner.

use std::fmt;

use crate::error::{FatalError, WriteError};

/// Called once when an operation is durable or has failed.
pub type Callback = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// A finished operation whose callback is still to be run.
pub struct Completion {
    /// Shard whose log it was.
    pub shard: u64,
    callback: Callback,
    result: Result<(), WriteError>,
}

impl Completion {
    pub(crate) fn new(shard: u64, callback: Callback, result: Result<(), WriteError>) -> Self {
        Self { shard, callback, result }
    }

    /// Runs the callback, on the thread that calls this.
    pub fn run(self) {
        (self.callback)(self.result);
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("shard", &self.shard)
            .field("result", &self.result)
            .finish()
    }
}

/// The owner of a disk; called on the I/O thread, so nothing here may block on the log.
pub trait Hooks: Send + Sync + 'static {
    /// A round begins: wake the runtime so that its batchers close their entries into it (S2).
    fn round_started(&self) {}

    /// All that a round finished, together and in order per shard. The default runs the callbacks here.
    fn completed(&self, completions: Vec<Completion>) {
        for completion in completions {
            completion.run();
        }
    }

    /// A write or a sync failed: nothing of this disk can be trusted any more, and a failed sync is never repeated.
    /// The default says so on standard error and aborts the process. Where it returns (tests), the disk refuses everything from then on.
    fn fatal(&self, error: &FatalError) {
        eprintln!("fatal: {error}");
        std::process::abort();
    }
}

/// Runs callbacks on the I/O thread and aborts on a fatal error.
#[derive(Debug, Clone, Copy, Default)]
pub struct AbortOnFatal;

impl Hooks for AbortOnFatal {}
