//! A routing thread's life: register at `logd`, serve, drain.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fluxmq_client::{Link, Tls};
use fluxmq_process::health::Health;
use fluxmq_process::signals::{ReloadRequests, StopRequests};
use gateway_core::admission::Admission;
use gateway_core::backend::Backend;
use gateway_core::listener::Listener;
use gateway_core::metrics::Metrics;
use gateway_core::security::Security;
use gateway_core::upstream;
use gateway_core::worker::Worker;
use tokio::task::spawn_local;

use crate::config::Config;
use crate::gateway::Gateway;
use crate::reload::Reload;

/// How long clients may take to be gone after SIGTERM, and what they published to be answered.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Where `logd` is.
pub enum Upstream {
    /// In this process, which ends with it.
    Here(Link),
    /// In others: the first that answers.
    At {
        /// Their addresses.
        urls: Vec<String>,
        /// TLS for those that begin with `https://`.
        tls: Option<Tls>,
        /// Name of this gateway. A second one of that name ends the first.
        name: String,
    },
}

/// What a gateway needs and whom it tells.
pub struct Serving {
    /// Where `logd` is.
    pub upstream: Upstream,
    /// What is served.
    pub config: Config,
    /// Told whether the link to `logd` stands.
    pub health: Health,
    /// Gets what is counted.
    pub counted: Metrics,
    /// Reads the settings of the process again, at each SIGHUP; None: it is not listened for.
    pub reload: Option<Reload>,
}

// === impl Serving ===

impl Serving {
    /// Serves MQTT until the process is asked to stop; `ready` is called when clients may come. Must run
    /// inside a `LocalSet`.
    ///
    /// # Errors
    /// Users, rules or files of TLS that are wrong, a listener that cannot be used, or the `logd` of this process has
    /// stopped.
    pub async fn run(self, ready: impl FnOnce()) -> io::Result<()> {
        let stop = StopRequests::listen()?.first();
        self.run_until(stop, ready).await
    }

    /// As [`Self::run`], but until `stop` resolves.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_until(
        self,
        stop: impl Future<Output = ()>,
        ready: impl FnOnce(),
    ) -> io::Result<()> {
        let Self { upstream, config, health, counted, reload } = self;
        let worker = Rc::new(Worker::default());
        let security =
            Security::new(config.security).map_err(|all| io::Error::other(all.join("; ")))?;
        let gateway = Gateway::new(worker.clone(), config.settings, security);
        let all = Admission::new(config.limits);
        let mut listeners = Vec::new();
        for (socket, listener) in config.listeners {
            listeners.push(Listener::new(socket, listener, all.clone()).map_err(io::Error::other)?);
        }
        if let Some(reload) = reload {
            let requests = ReloadRequests::listen()?;
            spawn_local(reload.on_request(requests, gateway.clone(), all.clone()));
        }
        let mut stop = std::pin::pin!(stop);
        let (at, name, link) = match upstream {
            Upstream::Here(link) => ((Vec::new(), None), "local".to_owned(), link),
            Upstream::At { urls, tls, name } => {
                let link = tokio::select! {
                    link = upstream::reach(&urls, tls.as_ref()) => link,
                    () = &mut stop => return Ok(()),
                };
                ((urls, tls), name, link)
            }
        };
        let registered = tokio::select! {
            registered = Backend::register(link, &name, &*worker) => registered,
            () = &mut stop => return Ok(()),
        };
        let (backend, from) = registered.ok_or(io::ErrorKind::BrokenPipe)?;
        worker.set_backend(backend.clone());
        let alone = at.0.is_empty();
        let keep = upstream::keep(backend.clone(), worker.clone(), at, from);
        let mut events = std::pin::pin!(spawn_local(keep));
        for listener in listeners {
            spawn_local(gateway.clone().accept(listener));
        }
        spawn_local(tick(worker, counted, link_up(&health)));
        ready();
        tokio::select! {
            () = stop => {}
            _ = &mut events => return Err(io::Error::other("logd has stopped")),
        }
        health.drain();
        let drained = async {
            gateway.drain().await;
            backend.all_answered().await;
            if alone {
                return; // `logd` is told by the end of this process
            }
            backend.leave();
            let _ = events.await;
        };
        let _ = tokio::time::timeout(DRAIN_MAX, drained).await;
        Ok(())
    }
}

/// What `health` asks: whether the link stands.
fn link_up(health: &Health) -> Arc<AtomicBool> {
    let up = Arc::new(AtomicBool::new(true));
    let seen = up.clone();
    health.ready_when("link to logd", move || {
        if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("is down".into()) }
    });
    up
}

/// Once a second: deadlines of connections, the lease, what takes too long, metrics.
async fn tick(worker: Rc<Worker>, counted: Metrics, up: Arc<AtomicBool>) {
    let began = Instant::now();
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        counted.take(&worker.counters);
        worker.wheel.advance(u32::try_from(began.elapsed().as_secs()).unwrap_or(u32::MAX));
        if let Some(backend) = worker.backend() {
            backend.tick();
            up.store(backend.may_serve(), Ordering::Relaxed);
        }
    }
}
