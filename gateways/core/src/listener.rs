//! A listener: takes connections within its limits and opens the transport it is configured for. The same for every
//! protocol over TCP; there may be any number of each kind.

use std::future::Future;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::admission::{Admission, Admitted, ConnectionLimits};
use crate::counters::add;
use crate::proxy_protocol;
use crate::tls::{Tls, TlsConfig};
use crate::transport::{Peer, Transport};
use crate::websocket::{WebSocket, WebSocketConfig};
use crate::worker::{Worker, now_ms};

/// Pause after the process ran out of files: connections that end make room.
const OUT_OF_FILES: Duration = Duration::from_millis(100);
/// How often the files of certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);

/// A listener as it is configured. The default is plain TCP without limits of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerConfig {
    /// TLS; None = plain.
    pub tls: Option<TlsConfig>,
    /// WebSocket; None = the protocol's bytes directly.
    pub web_socket: Option<WebSocketConfig>,
    /// A proxy in front says where connections come from (PROXY protocol version 2). Whoever can reach the listener can
    /// then say so: it must be reachable through the proxy only.
    pub proxy_protocol: bool,
    /// Limits on the connections of this listener.
    pub limits: ConnectionLimits,
    /// Seconds until TLS, WebSocket and PROXY must be through; 0 = 10.
    pub open_s_max: u32,
}

/// A bound listener.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Rc<Tls>>,
    web_socket: Option<WebSocketConfig>,
    proxy_protocol: bool,
    open_max: Duration,
    own: Rc<Admission>,
    /// Limits that hold for all listeners together.
    all: Rc<Admission>,
}

/// A connection's places among those of its listener and among all.
pub type Places = (Admitted, Admitted);

// === impl Listener ===

impl Listener {
    /// A listener on `socket`, which does not block; `all` counts the connections of all listeners. Inside a runtime.
    ///
    /// # Errors
    /// Files of TLS that cannot be read, or a socket that is none, in a line.
    pub fn new(
        socket: StdListener,
        config: ListenerConfig,
        all: Rc<Admission>,
    ) -> Result<Rc<Self>, String> {
        let socket = TcpListener::from_std(socket).map_err(|e| e.to_string())?;
        // Browsers offer HTTP; what speaks a protocol directly may offer anything.
        let alpn: &[&str] = if config.web_socket.is_some() { &["http/1.1"] } else { &[] };
        let tls = config.tls.map(|tls| Tls::new(tls, alpn)).transpose()?;
        let open_s = if config.open_s_max == 0 { 10 } else { config.open_s_max };
        Ok(Rc::new(Self {
            socket,
            tls: tls.map(Rc::new),
            web_socket: config.web_socket,
            proxy_protocol: config.proxy_protocol,
            open_max: Duration::from_secs(open_s.into()),
            own: Admission::new(config.limits),
            all,
        }))
    }

    /// Takes connections for ever and gives each to `serve` on a task of its own; reads certificates again when their
    /// files change. Inside a `LocalSet`.
    pub async fn run<F>(
        self: Rc<Self>,
        worker: Rc<Worker>,
        serve: impl Fn(Transport, Box<Peer>, Places) -> F + Clone + 'static,
    ) where
        F: Future<Output = ()> + 'static,
    {
        if let Some(tls) = &self.tls {
            spawn_local(watch(tls.clone()));
        }
        loop {
            let (socket, address) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(OUT_OF_FILES).await;
                    continue;
                }
            };
            // Acknowledgements are small and must not wait for each other.
            let _ = socket.set_nodelay(true);
            let peer = Box::new(Peer { address: Some(address), certificate_user: None });
            if self.proxy_protocol {
                self.clone().open_later(socket, peer, None, serve.clone());
                continue;
            }
            let Some(places) = self.admit(&peer) else {
                add(&worker.counters.connections_refused, 1);
                continue;
            };
            if self.tls.is_none() && self.web_socket.is_none() {
                spawn_local(serve(Transport::Plain(socket), peer, places));
            } else {
                self.clone().open_later(socket, peer, Some(places), serve.clone());
            }
        }
    }

    /// Opens what must be opened first, on a task of its own, and has it served there.
    fn open_later<F>(
        self: Rc<Self>,
        socket: TcpStream,
        mut peer: Box<Peer>,
        places: Option<Places>,
        serve: impl Fn(Transport, Box<Peer>, Places) -> F + 'static,
    ) where
        F: Future<Output = ()> + 'static,
    {
        spawn_local(async move {
            let open = Box::pin(tokio::time::timeout(self.open_max, self.open(socket, &mut peer)));
            let transport = match open.await {
                Ok(Ok(transport)) => transport,
                Ok(Err(error)) => {
                    tracing::debug!(%error, peer = ?peer.address, "transport not opened");
                    return;
                }
                Err(_) => return,
            };
            let Some(places) = places.or_else(|| self.admit(&peer)) else { return };
            drop(self);
            serve(transport, peer, places).await;
        });
    }

    fn admit(&self, peer: &Peer) -> Option<Places> {
        let (address, now) = (peer.address.map(|a| a.ip()), now_ms());
        Some((self.own.admit(address, now)?, self.all.admit(address, now)?))
    }

    async fn open(&self, mut socket: TcpStream, peer: &mut Peer) -> io::Result<Transport> {
        if self.proxy_protocol
            && let Some(source) = proxy_protocol::read_header(&mut socket).await?
        {
            peer.address = Some(source);
        }
        let Some(tls) = &self.tls else {
            return Ok(match &self.web_socket {
                None => Transport::Plain(socket),
                Some(config) => {
                    Transport::WebSocket(Box::new(WebSocket::accept(socket, config).await?))
                }
            });
        };
        let stream = TlsAcceptor::from(tls.current()).accept(socket).await?;
        peer.certificate_user = tls.user(stream.get_ref().1.peer_certificates());
        Ok(match &self.web_socket {
            None => Transport::Tls(Box::new(stream)),
            Some(config) => {
                Transport::SecureWebSocket(Box::new(WebSocket::accept(stream, config).await?))
            }
        })
    }
}

/// Reads certificates again when their files change, as long as there is somebody else who uses them.
async fn watch(tls: Rc<Tls>) {
    loop {
        tokio::time::sleep(CERTIFICATES_EVERY).await;
        match tls.reload_if_changed() {
            Ok(true) => tracing::info!("certificates were read again"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "certificates stay as they were"),
        }
    }
}
