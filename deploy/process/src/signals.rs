//! How a process is asked to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The requests to stop of this process, heard from the moment this exists. Make it before saying `ready`: until then a
/// signal ends the process as if nobody had thought of it.
pub struct StopRequests {
    term: Signal,
    int: Signal,
}

// === impl StopRequests ===

impl StopRequests {
    /// Begins to hear SIGTERM and SIGINT. Must be called on a runtime.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { term, int })
    }

    /// Resolves at the first SIGTERM or SIGINT; a second one ends the process at once, with 130.
    pub async fn first(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }

    async fn next(&mut self) {
        tokio::select! { _ = self.term.recv() => {}, _ = self.int.recv() => {} }
    }
}
