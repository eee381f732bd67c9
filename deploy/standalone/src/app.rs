//! Start, run, drain.

use std::rc::Rc;
use std::time::{Duration, Instant};

use fluxmq_process::listen::{ListenAddress, bind_all, refuse_exposed};
use fluxmq_process::{file_limit, logging, signals};
use gateway_core::worker::Worker;
use mqtt_gateway::Gateway;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use crate::options::Options;

/// Where MQTT clients look first.
const MQTT_PORT: u16 = 1883;
/// How long clients may take to be gone after SIGTERM.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs the broker until it is asked to stop.
///
/// # Errors
/// What keeps it from starting, a line each.
pub(crate) fn run(options: Options) -> Result<(), Vec<String>> {
    let started = Instant::now();
    logging::start("warn").map_err(|e| vec![e])?;
    let mqtt = options.mqtt.unwrap_or(ListenAddress::Loopback(MQTT_PORT));
    let wanted = [("mqtt", &mqtt)];
    if !options.allow_anonymous {
        refuse_exposed(&wanted)?;
    }
    file_limit::raise();
    let bound = bind_all(&wanted)?;
    println(format_args!("fluxmq {}", env!("CARGO_PKG_VERSION")));
    for (name, listeners) in wanted.iter().map(|(n, _)| n).zip(&bound) {
        for listener in listeners {
            if let Ok(at) = listener.local_addr() {
                println(format_args!("{name} on {at}"));
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| vec![format!("cannot start the runtime: {e}")])?;
    let work = async {
        let worker = Rc::new(Worker::default());
        let gateway = Gateway::new(worker.clone());
        for listener in bound.into_iter().flatten() {
            let listener = TcpListener::from_std(listener)?;
            spawn_local(gateway.clone().accept(listener));
        }
        spawn_local(tick(worker, started));
        println(format_args!("ready in {} ms", started.elapsed().as_millis()));
        signals::stop_requested().await?;
        let _ = tokio::time::timeout(DRAIN_MAX, gateway.drain()).await;
        Ok(())
    };
    LocalSet::new().block_on(&runtime, work).map_err(|e: std::io::Error| vec![e.to_string()])
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
