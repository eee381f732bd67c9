//! The MQTT gateway of one routing thread: accepts connections and lets each run to its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use fluxmq_names::{Kind, place};
use gateway_core::counters::add;
use gateway_core::listener::{Listener, Places};
use gateway_core::security::Security;
use gateway_core::transport::{Peer, Transport};
use gateway_core::worker::{Connections, Worker};
use mqtt_codec::encode::{self, property};
use mqtt_codec::{PropertyId, ReasonCode, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::client::{Client, Close};
use crate::connection::{Connection, flush};
use crate::handshake::handshake;
use crate::settings::Settings;
use crate::sys_topics;

/// How long a client that is being told good-bye may take to read it.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Bytes read from a client that is being told good-bye.
const UNREAD_BYTES_MAX: usize = 1024 * 1024;

/// MQTT on one routing thread.
pub(crate) struct Gateway {
    pub(crate) worker: Rc<Worker>,
    settings: RefCell<Rc<Settings>>,
    security: RefCell<Rc<Security>>,
    /// Connected clients by client id.
    clients: RefCell<HashMap<Rc<str>, Rc<Client>>>,
    /// `$SYS` topics are published.
    tells_of_itself: Cell<bool>,
    /// Connections that are being told good-bye.
    farewells: Cell<usize>,
    /// Some connection is gone: for those who take over.
    pub(crate) departures: Notify,
}

// === impl Gateway ===

impl Gateway {
    /// A gateway on the thread of `worker`. Must be used inside a `LocalSet`.
    #[must_use]
    pub(crate) fn new(worker: Rc<Worker>, settings: Settings, security: Rc<Security>) -> Rc<Self> {
        let gateway = Rc::new(Self {
            worker,
            settings: RefCell::new(Rc::new(settings)),
            security: RefCell::new(security),
            clients: RefCell::default(),
            tells_of_itself: Cell::new(false),
            farewells: Cell::new(0),
            departures: Notify::new(),
        });
        gateway.worker.set_connections(gateway.clone());
        gateway
    }

    /// What holds for connections that come now.
    pub(crate) fn settings(&self) -> Rc<Settings> {
        self.settings.borrow().clone()
    }

    /// Users and rules.
    pub(crate) fn security(&self) -> Rc<Security> {
        self.security.borrow().clone()
    }

    /// Users and rules are others from now on, for who is connected as well; the settings are for who comes: what a client
    /// was told holds for it.
    pub(crate) fn reload(&self, settings: Settings, security: Rc<Security>) {
        self.settings.replace(Rc::new(settings));
        self.security.replace(security.clone());
        let clients: Vec<_> = self.clients.borrow().values().cloned().collect();
        clients.iter().for_each(|client| client.judge_again(&security));
    }

    /// Serves the connections of `listener` for ever.
    pub(crate) async fn accept(self: Rc<Self>, listener: Rc<Listener>) {
        if self.settings().sys_interval_s > 0 && !self.tells_of_itself.replace(true) {
            spawn_local(sys_topics::publish(Rc::downgrade(&self)));
        }
        let worker = self.worker.clone();
        listener.run(worker, move |io, peer, places| serve(io, peer, places, self.clone())).await;
    }

    /// Ends all connections so that clients come back elsewhere (G5); waits until they are gone.
    pub(crate) async fn drain(&self) {
        self.worker.drain();
        // Only with the first may a client be told where to go (MQTT 5 §4.13).
        let elsewhere = !self.settings().server_reference.is_empty();
        let reason = if elsewhere {
            ReasonCode::USE_ANOTHER_SERVER
        } else {
            ReasonCode::SERVER_SHUTTING_DOWN
        };
        loop {
            let departure = self.departures.notified();
            let left: Vec<_> = self.clients.borrow().values().cloned().collect();
            if left.is_empty() && self.farewells.get() == 0 {
                return;
            }
            left.iter().for_each(|c| c.close(Close::ByServer(reason)));
            drop(left);
            departure.await;
        }
    }

    /// A connection is being told good-bye until what is returned is dropped.
    fn leaving(&self) -> Leaving<'_> {
        self.farewells.set(self.farewells.get() + 1);
        Leaving { gateway: self }
    }

    /// How many clients are connected.
    pub(crate) fn connected(&self) -> usize {
        self.clients.borrow().len()
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

/// A connection that is being told good-bye.
struct Leaving<'a> {
    gateway: &'a Gateway,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.gateway.farewells.set(self.gateway.farewells.get() - 1);
        self.gateway.departures.notify_waiters();
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
            client.close(Close::ByServer(ReasonCode::SESSION_TAKEN_OVER));
        }
    }

    fn lost(&self) {
        for client in self.clients.borrow().values() {
            client.close(Close::ByServer(ReasonCode::SERVER_BUSY));
        }
    }
}

/// One connection from accept to close. The parts that run once are boxed, so that the task of an idle connection is no
/// larger than it must be.
async fn serve(mut io: Transport, peer: Box<Peer>, places: Places, gateway: Rc<Gateway>) {
    let Some((client, rest)) = Box::pin(handshake(&mut io, &gateway, peer)).await else {
        return;
    };
    let mut connection = Connection::new(io, client, rest, gateway.settings().packet_bytes_max);
    let why = (&mut connection).await;
    Box::pin(farewell(connection, why, gateway)).await;
    drop(places);
}

async fn farewell<S>(connection: Connection<S>, why: Close, gateway: Rc<Gateway>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut io, client) = connection.into_parts();
    client.close(why);
    client.leave_routes();
    client.leave_queues();
    client.leave_session(why);
    client.publish_will(why);
    let _leaving = gateway.leaving();
    let end = Instant::now() + FAREWELL_MAX;
    let mut said = false;
    if let Some((reason, text)) = why.told() {
        tracing::debug!(client_id = %client.terms.client_id, reason = reason.name(), text, "disconnected");
        if client.is_v5() {
            say_why(&client, reason, text);
        }
        said =
            tokio::time::timeout_at(end, say_last(&mut io, &client)).await.is_ok_and(|s| s.is_ok());
    }
    // Nothing goes to this connection any more: another may have its client id (G1).
    gateway.remove(&client);
    client.give_up_client_id();
    if said {
        let _ = tokio::time::timeout_at(end, read_to_end(&mut io)).await;
    }
}

/// Writes what is left and closes our side.
async fn say_last<S: AsyncWrite + Unpin>(io: &mut S, client: &Client) -> std::io::Result<()> {
    flush(io, client).await?;
    io.shutdown().await
}

/// Reads what the client had under way. A socket that is closed with something unread is reset, and what the client has
/// not yet read is lost, the reason among it.
async fn read_to_end<S: AsyncRead + Unpin>(io: &mut S) {
    let mut unread = [0; 512];
    let mut left = UNREAD_BYTES_MAX;
    while let Ok(1..) = io.read(&mut unread).await {
        left = left.saturating_sub(unread.len());
        if left == 0 {
            return;
        }
    }
}

/// Puts DISCONNECT behind what goes out; what would make it too large is left out (MQTT-3.14.2-3).
fn say_why(client: &Client, reason: ReasonCode, text: &str) {
    let mut properties = Vec::new();
    if reason == ReasonCode::USE_ANOTHER_SERVER {
        let reference = Value::Text(&client.settings.server_reference);
        property(&mut properties, PropertyId::SERVER_REFERENCE, reference);
    }
    if !text.is_empty() {
        property(&mut properties, PropertyId::REASON_STRING, Value::Text(text));
    }
    // Type, length, reason code and the length of the properties take 6 bytes at most.
    if properties.len() + 6 > client.terms.packet_bytes_max as usize {
        properties.clear();
    }
    let mut out = client.out.borrow_mut();
    encode::disconnect(out.writer(&client.worker), client.terms.version, reason, &properties);
}

#[cfg(test)]
mod tests {
    use gateway_core::admission::{Admission, ConnectionLimits};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// What an idle connection owns, besides its socket, its subscription and the allocator's rounding.
    #[tokio::test]
    async fn an_idle_connection_is_small() {
        let gateway =
            Gateway::new(Rc::new(Worker::default()), Settings::default(), Security::open());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).await;
        let all = Admission::new(ConnectionLimits::default());
        let place = || all.admit(None, 0).expect("no limit");
        let places = (place(), place());
        let io = Transport::Plain(socket.expect("connects"));
        let task = serve(io, Box::default(), places, gateway);
        let sizes = (size_of_val(&task), size_of::<Client>());
        // With the counts of its Rc the client fills the allocator's class of 384 bytes.
        assert!(sizes.0 <= 264 && sizes.1 <= 368, "task, client: {sizes:?}");
    }
}
