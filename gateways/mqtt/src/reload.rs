//! Settings that change while the gateway runs (SIGHUP): users and rules, limits of connections, and what new connections
//! get. All of it or nothing: when anything is wrong, what was holds on.

use std::rc::Rc;
use std::sync::Arc;

use fluxmq_process::Settings;
use fluxmq_process::signals::ReloadRequests;
use gateway_core::admission::Admission;
use gateway_core::security::{Decoy, Security};

use crate::config::{limits, security};
use crate::gateway::Gateway;

/// Reads the settings of the process again.
pub struct Reload {
    current: Settings,
    read: Arc<dyn Fn() -> Result<Settings, Vec<String>> + Send + Sync>,
}

// === impl Reload ===

impl Reload {
    /// `read` does it; `current` are those the process began with.
    pub fn new(
        current: Settings,
        read: impl Fn() -> Result<Settings, Vec<String>> + Send + Sync + 'static,
    ) -> Self {
        Self { current, read: Arc::new(read) }
    }

    /// Reads them at each request.
    pub(crate) async fn on_request(
        self,
        mut requests: ReloadRequests,
        gateway: Rc<Gateway>,
        admission: Rc<Admission>,
    ) {
        loop {
            requests.next().await;
            let read = self.read.clone();
            // A disk may take its time, and hashing does.
            let said = tokio::task::spawn_blocking(move || {
                read().map(|settings| (settings, Decoy::make()))
            });
            let said = said.await.unwrap_or_else(|error| Err(vec![error.to_string()]));
            let checked = said.and_then(|(settings, decoy)| {
                self.stays_closed(&settings)?;
                Ok((Security::with_decoy(security(&settings), decoy)?, settings))
            });
            match checked {
                Ok((security, settings)) => {
                    for key in self.current.fixed_differences(&settings) {
                        tracing::warn!(key, "a change of this takes a restart");
                    }
                    admission.set_limits(limits(&settings));
                    gateway.reload((&settings).into(), security);
                    tracing::info!("the settings are read again");
                }
                Err(problems) => {
                    for problem in problems {
                        tracing::error!(problem, "the settings are wrong: what was holds on");
                    }
                }
            }
        }
    }

    /// Others may be able to reach a listener: only at the start that is known.
    fn stays_closed(&self, settings: &Settings) -> Result<(), Vec<String>> {
        let open = |s: &Settings| s.security.users.0.is_empty() && !s.security.allow_anonymous;
        if open(settings) && !open(&self.current) {
            let said = "security.users: without any everybody would be let in; say allow_anonymous";
            return Err(vec![said.into()]);
        }
        Ok(())
    }
}
