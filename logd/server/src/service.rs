//! The contract over gRPC: links of gateways in other processes. Handlers do nothing but open lanes; what
//! comes on them goes to the owner task.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fluxmq_client::contract::{Event, Request};
use fluxmq_client::transport::{Ending, LINK_KEY, STREAM_WINDOW_BYTES, causes, incoming, outgoing};
use fluxmq_client::wire::{MESSAGE_BYTES_MAX, Message};
use fluxmq_client::{LogdLink, Sender};
use fluxmq_proto::v1::log_server::{Log, LogServer};
use fluxmq_proto::v1::routes_server::{Routes, RoutesServer};
use fluxmq_proto::v1::sessions_server::{Sessions, SessionsServer};
use fluxmq_proto::v1::{
    AttachReply, AttachRequest, PublishReply, PublishRequest, RoutesReply, RoutesRequest,
};
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request as Call, Response, Status, Streaming};

/// Links whose second and third lane are still to come.
const OPENING_MAX: usize = 256;
/// How long those may take.
const OPENING_MAX_TIME: Duration = Duration::from_secs(10);
/// A connection that says nothing is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A link that is being opened.
struct Opening {
    /// What goes out on the lanes that are still to come.
    publish: Option<UnboundedReceiver<Event>>,
    deliver: Option<UnboundedReceiver<Event>>,
    mailbox: UnboundedSender<Request>,
    ending: Ending,
    /// Handed to the owner when all lanes are there.
    link: Option<LogdLink>,
}

/// The three services; clones are the same.
#[derive(Clone)]
struct Service {
    opening: Arc<Mutex<HashMap<u64, Opening>>>,
    /// Weak: the owner stops when nobody of this process can connect any more.
    accepted: WeakUnboundedSender<LogdLink>,
}

type Replies<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;
type Answer<M> = Result<Response<Replies<M>>, Status>;

/// How it is served.
///
/// # Errors
/// Certificates or keys that are none, in one line.
pub(crate) fn server(tls: Option<ServerTlsConfig>) -> Result<Server, String> {
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    match tls {
        Some(tls) => server.tls_config(tls).map_err(|error| causes(&error)),
        None => Ok(server),
    }
}

/// Serves the contract on a listener until the process ends. Links go to `accepted`.
pub(crate) async fn serve(
    mut server: Server,
    listener: std::net::TcpListener,
    accepted: WeakUnboundedSender<LogdLink>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => TcpIncoming::from(listener).with_nodelay(Some(true)),
        Err(error) => return tracing::error!(%error, "the gRPC listener cannot be used"),
    };
    let service = Service { opening: Arc::default(), accepted };
    let served = server
        .add_service(
            RoutesServer::new(service.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            LogServer::new(service.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            SessionsServer::new(service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .serve_with_incoming(listener)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "gRPC has ended");
    }
}

// === impl Service ===

impl Service {
    /// Opens the second or third lane of the link that `metadata` names.
    fn lane<In, Out>(
        &self,
        metadata: &MetadataMap,
        messages: Streaming<In>,
        take: impl FnOnce(&mut Opening) -> Option<UnboundedReceiver<Event>>,
    ) -> Answer<Out>
    where
        In: Message<Request> + Send,
        Out: Message<Event> + Send,
    {
        let id = metadata.get(LINK_KEY).and_then(|v| v.to_str().ok()?.parse().ok());
        let id: u64 = id.ok_or_else(|| Status::invalid_argument("fluxmq-link is missing"))?;
        let mut opening = self.opening.lock();
        let unknown = || Status::not_found("no such link, or its lane is open already");
        let link = opening.get_mut(&id).ok_or_else(unknown)?;
        let frames = take(link).ok_or_else(unknown)?;
        let (mailbox, ending) = (link.mailbox.clone(), link.ending.clone());
        if link.publish.is_none() && link.deliver.is_none() {
            let complete = opening.remove(&id).and_then(|link| link.link);
            let accepted = self.accepted.upgrade();
            let handed = complete.zip(accepted).map(|(link, accepted)| accepted.send(link));
            if !matches!(handed, Some(Ok(()))) {
                return Err(Status::unavailable("this node is stopping"));
            }
        }
        drop(opening);
        Ok(open(messages, mailbox, frames, ending))
    }
}

/// Starts the pump of what comes; gives the stream of what goes.
fn open<In, Out>(
    messages: Streaming<In>,
    mailbox: UnboundedSender<Request>,
    frames: UnboundedReceiver<Event>,
    ending: Ending,
) -> Response<Replies<Out>>
where
    In: Message<Request> + Send,
    Out: Message<Event> + Send,
{
    tokio::spawn(incoming(messages, mailbox, ending.clone()));
    let replies = outgoing::<Event, Out>(frames, ending).map(Ok);
    Response::new(Box::pin(replies))
}

#[tonic::async_trait]
impl Routes for Service {
    type JoinStream = Replies<RoutesReply>;

    async fn join(&self, call: Call<Streaming<RoutesRequest>>) -> Answer<RoutesReply> {
        let (publish, publish_frames) = unbounded_channel();
        let (deliver, deliver_frames) = unbounded_channel();
        let (control, control_frames) = unbounded_channel();
        let (mailbox, from) = unbounded_channel();
        let ending = Ending::default();
        let link = LogdLink { to: Sender::new([publish, deliver, control]), from, local: false };
        let opening = Opening {
            publish: Some(publish_frames),
            deliver: Some(deliver_frames),
            mailbox: mailbox.clone(),
            ending: ending.clone(),
            link: Some(link),
        };
        // Nobody can guess the link of another.
        let id = RandomState::new().hash_one(0u8);
        {
            let mut all = self.opening.lock();
            if all.len() >= OPENING_MAX {
                return Err(Status::resource_exhausted("too many links are being opened"));
            }
            all.insert(id, opening);
        }
        let all = self.opening.clone();
        tokio::spawn(async move {
            tokio::time::sleep(OPENING_MAX_TIME).await;
            if let Some(late) = all.lock().remove(&id) {
                late.ending.end();
            }
        });
        let mut response = open(call.into_inner(), mailbox, control_frames, ending);
        let name = id.to_string().parse().map_err(|_| Status::internal("a link without a name"))?;
        response.metadata_mut().insert(LINK_KEY, name);
        Ok(response)
    }
}

#[tonic::async_trait]
impl Log for Service {
    type PublishStream = Replies<PublishReply>;

    async fn publish(&self, call: Call<Streaming<PublishRequest>>) -> Answer<PublishReply> {
        let (metadata, _, messages) = call.into_parts();
        self.lane(&metadata, messages, |link| link.publish.take())
    }
}

#[tonic::async_trait]
impl Sessions for Service {
    type AttachStream = Replies<AttachReply>;

    async fn attach(&self, call: Call<Streaming<AttachRequest>>) -> Answer<AttachReply> {
        let (metadata, _, messages) = call.into_parts();
        self.lane(&metadata, messages, |link| link.deliver.take())
    }
}
