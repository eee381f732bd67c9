//! A TCP proxy between a gateway and `logd`: it delays or holds what passes, lane by lane, and cuts the link.
//!
//! A gateway opens a connection for each lane, in this order; that is how the proxy tells them apart.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A connection of a link.
#[derive(Clone, Copy, Debug)]
pub enum Lane {
    /// Routes, leases, barriers: the hub's stream.
    Control = 0,
    /// Commands and relayed messages.
    Publish = 1,
    /// Sessions, deliveries, retained messages.
    Deliver = 2,
}

/// One direction of a lane.
#[derive(Default)]
struct Flow {
    delay_ms: AtomicU64,
    held: AtomicBool,
}

#[derive(Default)]
struct State {
    /// From `logd`, and to it.
    down: [Flow; 3],
    up: [Flow; 3],
    open: Mutex<Vec<TcpStream>>,
    is_cut: AtomicBool,
    accepted: AtomicUsize,
}

/// A proxy; its threads end with the connections.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    state: Arc<State>,
}

// === impl Proxy ===

impl Proxy {
    /// Passes on what comes to `target`.
    ///
    /// # Panics
    /// There is no free port.
    #[must_use]
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let state: Arc<State> = Arc::default();
        let (here, target) = (state.clone(), target.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if here.is_cut.load(SeqCst) {
                    continue;
                }
                // While `logd` is away its clients find nobody.
                if let Ok(to) = TcpStream::connect(&target) {
                    pass_both(&here, stream, to);
                }
            }
        });
        Self { address, state }
    }

    /// Delays what comes from `logd` on a lane.
    pub fn delay_down(&self, lane: Lane, delay_ms: u64) {
        self.state.down[lane as usize].delay_ms.store(delay_ms, SeqCst);
    }

    /// Holds what comes from `logd` on a lane, or lets it go.
    pub fn hold_down(&self, lane: Lane, hold: bool) {
        self.state.down[lane as usize].held.store(hold, SeqCst);
    }

    /// Holds what goes to `logd` on a lane, or lets it go.
    pub fn hold_up(&self, lane: Lane, hold: bool) {
        self.state.up[lane as usize].held.store(hold, SeqCst);
    }

    /// Ends all connections and takes no new ones.
    ///
    /// # Panics
    /// Never: no thread panics with the lock.
    pub fn cut(&self) {
        self.state.is_cut.store(true, SeqCst);
        for stream in self.state.open.lock().expect("no panics").drain(..) {
            // Whoever is gone already is gone.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes connections again.
    pub fn restore(&self) {
        self.state.accepted.store(0, SeqCst);
        self.state.is_cut.store(false, SeqCst);
    }
}

fn pass_both(state: &Arc<State>, gateway: TcpStream, logd: TcpStream) {
    let lane = state.accepted.fetch_add(1, SeqCst) % 3;
    let clone = |s: &TcpStream| s.try_clone().expect("a socket");
    for stream in [&gateway, &logd] {
        stream.set_nodelay(true).expect("a socket");
        state.open.lock().expect("no panics").push(clone(stream));
    }
    pass(state, lane, true, clone(&gateway), clone(&logd));
    pass(state, lane, false, logd, gateway);
}

/// Two threads: one reads and notes when, one writes when it is time.
fn pass(state: &Arc<State>, lane: usize, up: bool, mut from: TcpStream, to: TcpStream) {
    let (tx, rx) = channel();
    thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            if tx.send((Instant::now(), bytes[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    let state = state.clone();
    thread::spawn(move || {
        let flow = if up { &state.up[lane] } else { &state.down[lane] };
        write(flow, &rx, &to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn write(flow: &Flow, rx: &Receiver<(Instant, Vec<u8>)>, mut to: &TcpStream) {
    while let Ok((came, bytes)) = rx.recv() {
        let due = came + Duration::from_millis(flow.delay_ms.load(SeqCst));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        while flow.held.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}
