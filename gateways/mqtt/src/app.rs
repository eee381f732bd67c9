//! A routing thread's life: register at `logd`, serve, drain.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fluxmq_client::Link;
use fluxmq_process::signals;
use gateway_core::backend::Backend;
use gateway_core::upstream;
use gateway_core::worker::Worker;
use tokio::task::spawn_local;

use crate::gateway::Gateway;

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
        /// Name of this gateway. A second one of that name ends the first.
        name: String,
    },
}

/// Serves MQTT on `listeners` until the process is asked to stop; `ready` is called when clients may come.
/// Must run inside a `LocalSet`.
///
/// # Errors
/// A listener cannot be used, or the `logd` of this process has stopped.
pub async fn serve(
    upstream: Upstream,
    listeners: Vec<TcpListener>,
    ready: impl FnOnce(),
) -> io::Result<()> {
    let worker = Rc::new(Worker::default());
    let gateway = Gateway::new(worker.clone());
    let stop = signals::stop_requested();
    let mut stop = std::pin::pin!(stop);
    let (urls, name, link) = match upstream {
        Upstream::Here(link) => (Vec::new(), "local".to_owned(), link),
        Upstream::At { urls, name } => {
            let link = tokio::select! {
                link = upstream::reach(&urls) => link,
                stop = &mut stop => return stop,
            };
            (urls, name, link)
        }
    };
    let registered = tokio::select! {
        registered = Backend::register(link, &name, &*worker) => registered,
        stop = &mut stop => return stop,
    };
    let (backend, from) = registered.ok_or(io::ErrorKind::BrokenPipe)?;
    worker.set_backend(backend.clone());
    let events = spawn_local(upstream::keep(backend.clone(), worker.clone(), urls, from));
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        spawn_local(gateway.clone().accept(listener));
    }
    spawn_local(tick(worker, Instant::now()));
    ready();
    tokio::pin!(events);
    tokio::select! {
        stop = stop => stop?,
        _ = &mut events => return Err(io::Error::other("logd has stopped")),
    }
    let drained = async {
        gateway.drain().await;
        backend.all_answered().await;
        backend.leave();
        let _ = events.await;
    };
    let _ = tokio::time::timeout(DRAIN_MAX, drained).await;
    Ok(())
}

/// Once a second: deadlines of connections, the lease, what takes too long.
async fn tick(worker: Rc<Worker>, began: Instant) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        worker.wheel.advance(u32::try_from(began.elapsed().as_secs()).unwrap_or(u32::MAX));
        worker.backend().into_iter().for_each(|backend| backend.tick());
    }
}
