//! The MQTT gateway of one routing thread: accepts connections and lets each run to its end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use fluxmq_names::{Kind, place};
use gateway_core::counters::add;
use gateway_core::worker::{Connections, Worker};
use mqtt_codec::encode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::client::{Client, Close};
use crate::connection::{Connection, flush};
use crate::handshake::handshake;
use crate::limits;

/// How long a client that is being told good-bye may take to read it.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// MQTT on one routing thread.
pub(crate) struct Gateway {
    pub(crate) worker: Rc<Worker>,
    /// Connected clients by client id.
    clients: RefCell<HashMap<Rc<str>, Rc<Client>>>,
    /// Some connection is gone: for those who take over.
    pub(crate) departures: Notify,
}

// === impl Gateway ===

impl Gateway {
    /// A gateway on the thread of `worker`. Must be used inside a `LocalSet`.
    #[must_use]
    pub(crate) fn new(worker: Rc<Worker>) -> Rc<Self> {
        let departures = Notify::new();
        let gateway = Rc::new(Self { worker, clients: RefCell::default(), departures });
        gateway.worker.set_connections(gateway.clone());
        gateway
    }

    /// Accepts connections for ever.
    pub(crate) async fn accept(self: Rc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    // Acknowledgements are small and must not wait for each other.
                    let _ = socket.set_nodelay(true);
                    spawn_local(serve(socket, self.clone()));
                }
                Err(error) => {
                    // Most likely out of files: connections that end make room.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Ends all connections so that clients come back elsewhere (G5); waits until they are gone.
    pub(crate) async fn drain(&self) {
        self.worker.drain();
        let reason = mqtt_codec::ReasonCode::SERVER_SHUTTING_DOWN;
        loop {
            let departure = self.departures.notified();
            let left: Vec<_> = self.clients.borrow().values().cloned().collect();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|c| c.close(Close::ByServer(reason)));
            drop(left);
            departure.await;
        }
    }

    /// The connected client with `client_id`.
    pub(crate) fn find(&self, client_id: &str) -> Option<Rc<Client>> {
        self.clients.borrow().get(client_id).cloned()
    }

    /// Makes `client` the owner of its id.
    pub(crate) fn register(&self, client: &Rc<Client>) {
        add(&self.worker.counters.connections_opened, 1);
        self.clients.borrow_mut().insert(client.terms.client_id.clone(), client.clone());
    }

    pub(crate) fn remove(&self, client: &Rc<Client>) {
        let mut clients = self.clients.borrow_mut();
        if clients.get(&client.terms.client_id).is_some_and(|c| Rc::ptr_eq(c, client)) {
            clients.remove(&client.terms.client_id);
        }
        drop(clients);
        self.departures.notify_waiters();
    }
}

impl Connections for Gateway {
    fn register_all(&self) {
        let Some(backend) = self.worker.backend() else { return };
        for client in self.clients.borrow().values() {
            let client_id = &client.terms.client_id;
            let shard = place(Kind::Session, "/", client_id, backend.shards()).0;
            backend.register_again(client.token, shard, "/", client_id);
        }
    }

    fn taken(&self, client_id: &str, token: u64) {
        if let Some(client) = self.find(client_id).filter(|client| client.token == token) {
            client.close(Close::ByServer(mqtt_codec::ReasonCode::SESSION_TAKEN_OVER));
        }
    }

    fn lost(&self) {
        for client in self.clients.borrow().values() {
            client.close(Close::ByServer(mqtt_codec::ReasonCode::SERVER_BUSY));
        }
    }
}

/// One connection from accept to close. The parts that run once are boxed, so that the task of an
/// idle connection is no larger than it must be.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(mut io: S, gateway: Rc<Gateway>) {
    let Some((client, rest)) = Box::pin(handshake(&mut io, &gateway)).await else {
        return;
    };
    let mut connection = Connection::new(io, client, rest, limits::PACKET_BYTES_MAX);
    let why = (&mut connection).await;
    Box::pin(farewell(connection, why, gateway)).await;
}

async fn farewell<S>(connection: Connection<S>, why: Close, gateway: Rc<Gateway>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut io, client) = connection.into_parts();
    client.close(why);
    client.leave_routes();
    client.leave_session(why);
    client.publish_will(why);
    gateway.remove(&client);
    client.give_up_client_id();
    if let Close::ByServer(reason) = why {
        tracing::debug!(client_id = %client.terms.client_id, reason = reason.name(), "disconnected");
        if client.is_v5() {
            let mut out = client.out.borrow_mut();
            encode::disconnect(out.writer(&client.worker), client.terms.version, reason, &[]);
        }
        let goodbye = async {
            if flush(&mut io, &client).await.is_ok() {
                let _ = io.shutdown().await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL_MAX, goodbye).await;
    }
}
