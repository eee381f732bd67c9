//! Links over gRPC. A link has three lanes on a connection each; when one ends, all do. The pumps here serve
//! both sides: mailbox to stream ([`outgoing`]) and stream to mailbox ([`incoming`]).

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fluxmq_proto::v1::log_client::LogClient;
use fluxmq_proto::v1::routes_client::RoutesClient;
use fluxmq_proto::v1::sessions_client::SessionsClient;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request as Call, Streaming};

use crate::contract::{Event, Request};
use crate::link::{Link, Sender};
use crate::wire::{MESSAGE_BYTES_MAX, Message};

/// Metadata that names the link on its second and third lane.
pub const LINK_KEY: &str = "fluxmq-link";
/// Bytes of a stream and of a connection that may be on their way; more than any window of the contract.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A connection that says nothing is asked whether it lives, and given up when it does not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Frames taken from a mailbox at once.
const FRAMES: usize = 1_024;

/// The end of a link, known to all its lanes.
#[derive(Clone, Debug)]
pub struct Ending(Arc<watch::Sender<bool>>);

impl Default for Ending {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

// === impl Ending ===

impl Ending {
    /// Ends the link.
    pub fn end(&self) {
        self.0.send_replace(true);
    }

    /// Resolves when the link has ended.
    pub async fn ended(&self) {
        // The sender lives in self: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|ended| *ended).await;
    }
}

/// Ends the link when the lane it is part of is dropped.
struct EndOnDrop(Ending);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The messages of a lane: whatever is in the mailbox when the stream asks for more.
pub fn outgoing<F: Send + 'static, M: Message<F>>(
    frames: UnboundedReceiver<F>,
    ending: Ending,
) -> impl Stream<Item = M> + Send + 'static {
    let state = (frames, Vec::new(), VecDeque::new(), EndOnDrop(ending));
    unfold(state, |(mut frames, mut taken, mut queue, ending)| async move {
        if queue.is_empty() {
            tokio::select! {
                biased;
                n = frames.recv_many(&mut taken, FRAMES) => if n == 0 { return None },
                () = ending.0.ended() => return None,
            }
            queue.extend(taken.drain(..));
        }
        Some((M::pack(&mut queue), (frames, taken, queue, ending)))
    })
}

/// Gives what comes on a lane to a mailbox until either ends; then the link ends.
pub async fn incoming<F: Send, M: Message<F>>(
    mut messages: Streaming<M>,
    mailbox: UnboundedSender<F>,
    ending: Ending,
) {
    let _guard = EndOnDrop(ending.clone());
    let mut ended = pin!(ending.ended());
    loop {
        let message = tokio::select! {
            biased;
            () = &mut ended => return,
            message = messages.message() => message,
        };
        let Ok(Some(message)) = message else { return };
        let mut open = true;
        let unpacked = message.unpack(&mut |frame| open &= mailbox.send(frame).is_ok());
        if let Err(error) = unpacked {
            tracing::warn!(%error, "a link is closed");
            return;
        }
        if !open {
            return;
        }
    }
}

/// A link cannot be made, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {why}")]
pub struct ConnectError {
    /// Where to.
    pub url: String,
    /// What is wrong.
    pub why: String,
}

/// TLS towards `logd`, 1.2 or 1.3; used for addresses that begin with `https://`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities that may have signed the certificate of `logd`, PEM.
    pub authorities: Vec<u8>,
    /// Our own certificate chain and its private key, both PEM, for a `logd` that asks who comes.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

// === impl Tls ===

impl Tls {
    fn config(&self) -> ClientTlsConfig {
        let config =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authorities));
        match &self.identity {
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
            None => config,
        }
    }
}

impl std::fmt::Debug for Tls {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("has_identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

/// Connects to a `logd`.
///
/// # Errors
/// The address is none, or `https://` without `tls`; nobody answers there within 3 s, or he speaks another contract, or his
/// certificate is not believed, or he does not believe ours.
pub async fn connect(url: &str, tls: Option<&Tls>) -> Result<Link, ConnectError> {
    let failed = |why: String| ConnectError { url: url.to_owned(), why };
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|_| failed("not an address such as http://127.0.0.1:7400".into()))?
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if url.starts_with("https://") {
        let tls = tls.ok_or_else(|| {
            failed("https:// needs to be told which authorities to believe".into())
        })?;
        endpoint = endpoint.tls_config(tls.config()).map_err(|error| failed(causes(&error)))?;
    }
    let link = tokio::time::timeout(CONNECT_MAX * 2, join(&endpoint)).await;
    link.map_err(|_| failed("no answer".into()))?.map_err(failed)
}

async fn join(endpoint: &Endpoint) -> Result<Link, String> {
    let ending = Ending::default();
    let (publish, publish_frames) = unbounded_channel::<Request>();
    let (deliver, deliver_frames) = unbounded_channel::<Request>();
    let (control, control_frames) = unbounded_channel::<Request>();
    let (mailbox, from) = unbounded_channel::<Event>();

    let mut routes = RoutesClient::new(channel(endpoint).await?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let call = Call::new(outgoing(control_frames, ending.clone()));
    let answer = routes.join(call).await.map_err(said)?;
    let name = answer.metadata().get(LINK_KEY).cloned().ok_or("it names no link")?;
    tokio::spawn(incoming(answer.into_inner(), mailbox.clone(), ending.clone()));

    let mut log = LogClient::new(channel(endpoint).await?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let call = named(outgoing(publish_frames, ending.clone()), &name);
    let answer = log.publish(call).await.map_err(said)?;
    tokio::spawn(incoming(answer.into_inner(), mailbox.clone(), ending.clone()));

    let mut sessions = SessionsClient::new(channel(endpoint).await?)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let call = named(outgoing(deliver_frames, ending.clone()), &name);
    let answer = sessions.attach(call).await.map_err(said)?;
    tokio::spawn(incoming(answer.into_inner(), mailbox, ending));

    Ok(Link { to: Sender::new([publish, deliver, control]), from })
}

/// A connection of its own: streams of one share a window.
async fn channel(endpoint: &Endpoint) -> Result<Channel, String> {
    endpoint.connect().await.map_err(|error| causes(&error))
}

/// What lies below a transport error, which by itself says nothing, in one line.
#[must_use]
pub fn causes(error: &tonic::transport::Error) -> String {
    let mut all = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if all.last() != Some(&said) {
            all.push(said);
        }
        cause = error.source();
    }
    if all.is_empty() { error.to_string() } else { all.join(": ") }
}

fn named<T>(stream: T, link: &MetadataValue<tonic::metadata::Ascii>) -> Call<T> {
    let mut call = Call::new(stream);
    call.metadata_mut().insert(LINK_KEY, link.clone());
    call
}

fn said(status: tonic::Status) -> String {
    status.message().to_owned()
}
