//! A byte stream over WebSocket: binary messages, whose borders mean nothing (MQTT-6.0.0-1, -2).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, Uri, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig as Limits};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// Bytes read from the socket at once; there is such a buffer for every connection.
const READ_BYTES: usize = 4 * 1024;
/// Bytes of a message written at once.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// From which pages a browser may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// From pages of the same host, on whatever port. Programs, which name no origin, may connect too.
    #[default]
    SameHost,
    /// From any page. Programs may connect too.
    Any,
    /// From these only (`https://example.com:8443`); who names no origin is refused.
    These(Vec<String>),
}

/// WebSocket of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// The path of the URL; another is answered with 404.
    pub path: String,
    /// The subprotocol that must be offered, and is chosen (MQTT-6.0.0-3, -4); else 400.
    pub subprotocol: String,
    /// From which pages; else 403.
    pub origins: Origins,
    /// Bytes of a message and of a frame; a larger one ends the connection.
    pub message_bytes_max: usize,
}

impl Default for WebSocketConfig {
    /// MQTT at `/mqtt`.
    fn default() -> Self {
        Self {
            path: "/mqtt".into(),
            subprotocol: "mqtt".into(),
            origins: Origins::default(),
            message_bytes_max: 16 * 1024 * 1024 + 64 * 1024,
        }
    }
}

/// A WebSocket as a stream of bytes.
pub struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// Received, not yet read.
    rest: Bytes,
}

// === impl WebSocket ===

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Takes the opening handshake.
    ///
    /// # Errors
    /// What a client did wrong; it was told by an HTTP status.
    pub async fn accept(io: S, config: &WebSocketConfig) -> io::Result<Self> {
        let limits = Limits::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(config.message_bytes_max))
            .max_frame_size(Some(config.message_bytes_max));
        // The size of the error is tungstenite's choice.
        #[allow(clippy::result_large_err)]
        let check = |request: &Request, response| check(request, response, config);
        let inner = accept_hdr_async_with_config(io, check, Some(limits)).await;
        Ok(Self { inner: inner.map_err(io::Error::other)?, rest: Bytes::new() })
    }

    /// The next bytes into `rest`; false at the end.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => {
                    self.rest = bytes;
                    if !self.rest.is_empty() {
                        return Poll::Ready(Ok(true));
                    }
                }
                // Answered by tungstenite itself, at the next flush.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                    let _ = Pin::new(&mut self.inner).poll_flush(cx);
                }
                Some(Ok(Message::Text(_))) => {
                    let reason = "only binary messages".into();
                    let frame = CloseFrame { code: CloseCode::Unsupported, reason };
                    let mut inner = Pin::new(&mut self.inner);
                    if inner.as_mut().poll_ready(cx).is_ready() {
                        let _ = inner.as_mut().start_send(Message::Close(Some(frame)));
                        let _ = inner.poll_flush(cx);
                    }
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(false)),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() && !ready!(self.poll_message(cx))? {
            return Poll::Ready(Ok(()));
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(count));
        if self.rest.is_empty() {
            self.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = Pin::new(&mut self.inner);
        // Until the last message has left nothing is added: the socket bounds what waits here.
        ready!(inner.as_mut().poll_ready(cx)).map_err(io::Error::other)?;
        ready!(inner.as_mut().poll_flush(cx)).map_err(io::Error::other)?;
        let count = bytes.len().min(WRITE_BYTES_MAX);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..count]));
        inner.as_mut().start_send(message).map_err(io::Error::other)?;
        // What the socket does not take now is flushed before the next message, or by `poll_flush`.
        match inner.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(io::Error::other)
    }
}

#[allow(clippy::result_large_err)] // tungstenite's choice
fn check(
    request: &Request,
    mut response: Response,
    config: &WebSocketConfig,
) -> Result<Response, ErrorResponse> {
    let refuse = |status, why: &str| {
        let mut refusal = ErrorResponse::new(Some(why.to_owned()));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    if request.uri().path() != config.path {
        return refuse(StatusCode::NOT_FOUND, "no such path");
    }
    let text = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
    if !may_come_from(text(header::ORIGIN), text(header::HOST), &config.origins) {
        return refuse(StatusCode::FORBIDDEN, "this origin may not connect");
    }
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = offers
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|p| p.trim() == config.subprotocol);
    let Ok(subprotocol) = HeaderValue::from_str(&config.subprotocol) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "no subprotocol");
    };
    if !offered {
        return refuse(StatusCode::BAD_REQUEST, "the subprotocol is not offered");
    }
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    Ok(response)
}

fn may_come_from(origin: Option<&str>, host: Option<&str>, origins: &Origins) -> bool {
    match (origins, origin) {
        (Origins::Any, _) | (Origins::SameHost, None) => true,
        (Origins::These(_), None) => false,
        (Origins::These(these), Some(origin)) => {
            these.iter().any(|o| o.eq_ignore_ascii_case(origin))
        }
        (Origins::SameHost, Some(origin)) => {
            let authority = |text: &str| text.parse::<Uri>().ok()?.host().map(str::to_lowercase);
            let (from, to) = (authority(origin), host.and_then(authority));
            from.is_some() && from == to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let these = Origins::These(vec!["https://a.example:8443".into()]);
        for (origin, host, rule, want) in [
            (None, Some("h:8083"), &Origins::SameHost, true),
            (Some("http://h:80"), Some("h:8083"), &Origins::SameHost, true),
            (Some("https://H"), Some("h:8083"), &Origins::SameHost, true),
            (Some("http://evil.example"), Some("h:8083"), &Origins::SameHost, false),
            (Some("null"), Some("h:8083"), &Origins::SameHost, false),
            (Some("http://h"), None, &Origins::SameHost, false),
            (Some("http://evil.example"), Some("h"), &Origins::Any, true),
            (Some("https://a.example:8443"), Some("h"), &these, true),
            (Some("https://a.example"), Some("h"), &these, false),
            (None, Some("h"), &these, false),
        ] {
            assert_eq!(may_come_from(origin, host, rule), want, "{origin:?} {host:?} {rule:?}");
        }
    }
}
