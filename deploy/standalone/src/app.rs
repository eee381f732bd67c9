//! Start, run, drain.

use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fluxmq_process::listen::{ListenAddress, bind_all, refuse_exposed};
use fluxmq_process::{file_limit, logging, signals};
use gateway_core::backend::Backend;
use gateway_core::worker::Worker;
use mqtt_gateway::Gateway;
use tokio::task::{LocalSet, spawn_local};

use crate::options::Options;

/// Where MQTT clients look first.
const MQTT_PORT: u16 = 1883;
/// Where the log lives without `--data-dir`.
const DATA_DIR: &str = "fluxmq-data";
/// How long clients may take to be gone after SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs the broker until it is asked to stop.
///
/// # Errors
/// What keeps it from starting, a line each.
pub(crate) fn run(options: Options) -> Result<(), Vec<String>> {
    let started = Instant::now();
    logging::start("warn").map_err(|e| vec![e])?;
    if options.config.is_some() {
        return Err(vec!["--config is not built yet; use the flags (fluxmq --help)".into()]);
    }
    let mqtt = options.mqtt.unwrap_or(ListenAddress::Loopback(MQTT_PORT));
    let wanted = [("mqtt", &mqtt)];
    if !options.allow_anonymous {
        refuse_exposed(&wanted)?;
    }
    file_limit::raise();
    let bound = bind_all(&wanted)?;
    let data_dir = options.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR));
    let memory = data_dir.as_os_str() == "memory";
    let config =
        logd::Config { data_dir: (!memory).then(|| data_dir.clone()), shards: options.shards };
    let logd = logd::start(config).map_err(|e| vec![e.to_string()])?;
    println(format_args!("fluxmq {}", env!("CARGO_PKG_VERSION")));
    match memory {
        true => println(format_args!("data in memory: nothing survives this process")),
        false => println(format_args!("data in {}", data_dir.display())),
    }
    let listeners: Vec<TcpListener> = bound.into_iter().flatten().collect();
    for listener in &listeners {
        if let Ok(at) = listener.local_addr() {
            println(format_args!("mqtt on {at}"));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| vec![format!("cannot start the runtime: {e}")])?;
    let served = LocalSet::new().block_on(&runtime, serve(&logd, listeners, started));
    served.map_err(|e| vec![e.to_string()])
}

async fn serve(
    logd: &logd::Running,
    listeners: Vec<TcpListener>,
    started: Instant,
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
    spawn_local(tick(worker, started));
    println(format_args!("ready in {} ms", started.elapsed().as_millis()));
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

/// The start-up lines are the only ones on standard output.
#[allow(clippy::print_stdout)]
fn println(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}
