//! Start, run, drain.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fluxmq_process::signals;
use fluxmq_process::startup::Startup;
use fluxmq_process::{Program, Settings};
use gateway_core::backend::Backend;
use gateway_core::worker::Worker;
use mqtt_gateway::Gateway;
use tokio::task::{LocalSet, spawn_local};

/// How long clients may take to be gone after SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs the broker until it is asked to stop.
///
/// # Errors
/// What keeps it from starting, a line each.
pub(crate) fn run(settings: &Settings) -> Result<(), Vec<String>> {
    let startup = Startup::begin(Program::Fluxmq, settings)?;
    let mut listeners = startup.bind(settings, &[("mqtt", &settings.mqtt.listen)])?;
    let logd = logd::start(settings.into()).map_err(|e| vec![e.to_string()])?;
    startup.announce(Some(&settings.node.data_dir), &listeners);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| vec![format!("cannot start the runtime: {e}")])?;
    let mqtt = listeners.take("mqtt");
    let served = LocalSet::new().block_on(&runtime, serve(&logd, mqtt, &startup));
    served.map_err(|e| vec![e.to_string()])
}

async fn serve(
    logd: &logd::Running,
    listeners: Vec<TcpListener>,
    startup: &Startup,
) -> std::io::Result<()> {
    let worker = Rc::new(Worker::default());
    let mut link = logd.connect();
    let registered = Backend::register(link.to, &mut link.from, "local", &*worker).await;
    let backend = registered.ok_or(std::io::ErrorKind::BrokenPipe)?;
    worker.set_backend(backend.clone());
    let router = worker.clone();
    let events = spawn_local(async move { backend.run(link.from, &*router).await });
    let gateway = Gateway::new(worker.clone());
    for listener in listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        spawn_local(gateway.clone().accept(listener));
    }
    spawn_local(tick(worker, startup.began()));
    startup.ready();
    tokio::select! {
        stop = signals::stop_requested() => stop?,
        _ = events => return Err(std::io::Error::other("logd has stopped")),
    }
    let _ = tokio::time::timeout(DRAIN_MAX, gateway.drain()).await;
    Ok(())
}

/// Turns the timer wheel once a second.
async fn tick(worker: Rc<Worker>, started: Instant) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        worker.wheel.advance(u32::try_from(started.elapsed().as_secs()).unwrap_or(u32::MAX));
    }
}
