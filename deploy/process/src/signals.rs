//! How a process is asked to stop, and to read its settings again.

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
        // A process that has nothing to read again goes on.
        drop(signal(SignalKind::hangup())?);
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

/// The requests of this process to read its settings again (SIGHUP).
pub struct ReloadRequests(Signal);

// === impl ReloadRequests ===

impl ReloadRequests {
    /// Begins to hear SIGHUP. Must be called on a runtime.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Resolves at the next one; several that come at once are one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
