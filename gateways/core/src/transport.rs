//! What a connection runs over: TCP, TLS, WebSocket, or WebSocket over TLS. To a protocol all are streams of bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::websocket::WebSocket;

/// Who is at the other end, before its protocol was spoken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where from; behind a proxy that says so, where from to the proxy.
    pub address: Option<SocketAddr>,
    /// The user of the certificate that TLS has checked, where the listener takes users from certificates.
    pub certificate_user: Option<String>,
}

/// An open transport. All but the plain one are behind a box: an idle plain connection must stay small (T2).
pub enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket over TCP.
    WebSocket(Box<WebSocket<TcpStream>>),
    /// WebSocket over TLS.
    SecureWebSocket(Box<WebSocket<TlsStream<TcpStream>>>),
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Plain($io) => $call,
            Transport::Tls($io) => $call,
            Transport::WebSocket($io) => $call,
            Transport::SecureWebSocket($io) => $call,
        }
    };
}

impl AsyncRead for Transport {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, bytes))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
