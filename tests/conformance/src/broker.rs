//! Gateway and `logd` in memory, on a thread of this process.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use fluxmq_process::health::Health;
use gateway_core::admission::ConnectionLimits;
use gateway_core::listener::ListenerConfig;
use gateway_core::metrics::Metrics;
use gateway_core::security::SecurityConfig;
use mqtt_gateway::{Config, Serving, Settings, Upstream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// What a broker is to be like.
#[derive(Clone, Default)]
pub struct Options {
    /// MQTT.
    pub settings: Settings,
    /// Users and rules.
    pub security: SecurityConfig,
    /// Listeners; none = one of plain TCP.
    pub listeners: Vec<ListenerConfig>,
    /// Limits over all listeners.
    pub limits: ConnectionLimits,
}

/// A broker that runs until it is dropped.
pub struct Broker {
    /// Where its listeners listen.
    pub addresses: Vec<SocketAddr>,
    /// Where programs reach the log.
    pub grpc: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Broker ===

impl Broker {
    /// Starts a broker.
    ///
    /// # Panics
    /// If it does not start: a test cannot go on then.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let (ready, started) = channel();
        let (stop, stopped) = oneshot::channel();
        let log = TcpListener::bind("127.0.0.1:0").expect("a free port");
        log.set_nonblocking(true).expect("a socket");
        let grpc = log.local_addr().expect("bound");
        let thread = std::thread::spawn(move || run(options, log, &ready, stopped));
        let addresses = started.recv().expect("the broker starts");
        Self { addresses, grpc, stop: Some(stop), thread: Some(thread) }
    }

    /// The broker without configuration that tests share which change nothing for each other.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Options::default()))
    }

    /// Where the first listener listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Asks it to shut down, as SIGTERM does, and waits until all clients are gone.
    pub fn drain(mut self) {
        self.stop_and_wait();
    }

    fn stop_and_wait(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop_and_wait();
    }
}

fn run(
    options: Options,
    log: TcpListener,
    ready: &Sender<Vec<SocketAddr>>,
    stopped: oneshot::Receiver<()>,
) {
    let grpc = vec![Arc::new(log)];
    let config =
        logd::Config { data_dir: None, shards: 2, grpc, alone: true, ..logd::Config::default() };
    let logd = logd::start(config).expect("logd starts in memory");
    let mut addresses = Vec::new();
    let plain = vec![ListenerConfig::default()];
    let listeners = if options.listeners.is_empty() { plain } else { options.listeners };
    let bound = listeners.into_iter().map(|listener| {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        addresses.push(socket.local_addr().expect("bound"));
        (socket, listener)
    });
    let config = Config {
        listeners: bound.collect(),
        settings: options.settings,
        security: options.security,
        limits: options.limits,
    };
    let stop = async { drop(stopped.await) };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ready = || ready.send(addresses).expect("the test waits");
    let serving = Serving {
        upstream: Upstream::Here(logd.connect()),
        config,
        health: Health::default(),
        counted: Metrics::default(),
        reload: None,
    };
    LocalSet::new().block_on(&runtime, serving.run_until(stop, ready)).expect("it serves");
}
