//! The task of one connection (design T2): it reads into the thread's buffer, has every whole packet
//! handled, and writes what others and it left in the client's out-buffer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use gateway_core::counters::add;
use mqtt_codec::frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::{Client, Close};

/// An open connection, from CONNACK to the end. Resolves with the reason why it ended.
pub(crate) struct Connection<S> {
    io: S,
    client: Rc<Client>,
    /// An incomplete packet, or what came while the client had to wait.
    rest: Vec<u8>,
    packet_bytes_max: u32,
}

/// Bytes read at once while publishes have to wait.
const HELD_READ_BYTES: usize = 4 * 1024;

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// The socket is empty now.
    Some,
    /// The buffer is full: there may be more.
    Full,
}

// === impl Connection ===

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// `rest` is what was read behind CONNECT.
    pub(crate) fn new(io: S, client: Rc<Client>, rest: Vec<u8>, packet_bytes_max: u32) -> Self {
        Self { io, client, rest, packet_bytes_max }
    }

    /// The socket, to say good-bye on, and the client.
    pub(crate) fn into_parts(self) -> (S, Rc<Client>) {
        (self.io, self.client)
    }

    /// Handles every whole packet in `bytes`; returns how many bytes that were.
    fn handle(&self, bytes: &[u8]) -> Result<usize, Close> {
        let mut at = 0;
        while at < bytes.len() && !self.client.must_hold(bytes[at]) {
            let Some(header) = frame::peek(&bytes[at..], self.packet_bytes_max)
                .map_err(|e| self.client.broken(e))?
            else {
                break;
            };
            let end = at + header.total_len();
            if end > bytes.len() {
                break;
            }
            self.client.packet(&bytes[at..end])?;
            at = end;
        }
        Ok(at)
    }

    /// Handles what was kept.
    fn handle_rest(&mut self) -> Result<(), Close> {
        if self.rest.is_empty() {
            return Ok(());
        }
        self.client.worker.begin_batch();
        let done = self.handle(&self.rest)?;
        self.rest.drain(..done);
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
        Ok(())
    }

    /// One read and all that is in it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, Close>> {
        let client = self.client.clone();
        let mut shared = client.worker.read_buffer();
        // What cannot be handled is kept: little of it.
        let room = if client.must_wait() { HELD_READ_BYTES } else { shared.len() };
        let mut buffer = ReadBuf::new(&mut shared[..room]);
        match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Err(Close::Lost)),
            Ok(()) => {}
            Err(_) => return Poll::Ready(Err(Close::Lost)),
        }
        let read = if buffer.remaining() == 0 { Read::Full } else { Read::Some };
        let bytes = buffer.filled();
        add(&client.worker.counters.reads, 1);
        add(&client.worker.counters.bytes_read, bytes.len() as u64);
        client.heard();
        client.worker.begin_batch();
        if self.rest.is_empty() {
            let done = self.handle(bytes)?;
            self.rest.extend_from_slice(&bytes[done..]);
        } else {
            self.rest.extend_from_slice(bytes);
            self.handle_rest()?;
        }
        client.end_batch();
        Poll::Ready(Ok(read))
    }

    /// Writes until nothing is left or the socket is full; true when it is full.
    fn write_out(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let client = &self.client;
        loop {
            let written = client.out.borrow_mut().poll_write(&mut self.io, cx, &client.worker)?;
            if written.is_pending() {
                return Ok(true);
            }
            client.drained();
            if client.out.borrow().len() == 0 {
                return Ok(false);
            }
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        self.client.running(cx);
        if let Err(close) = self.handle_rest() {
            return Poll::Ready(close);
        }
        loop {
            if let Some(close) = self.client.closing() {
                return Poll::Ready(close);
            }
            let Ok(blocked) = self.write_out(cx) else {
                return Poll::Ready(Close::Lost);
            };
            // With nothing kept it may be that only a PINGREQ comes.
            if self.client.busy.get() || (!self.rest.is_empty() && self.client.must_wait()) {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Pending => {
                    // What was handled before may have left something to send.
                    if blocked || self.client.out.borrow().len() == 0 {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Ok(Read::Some)) => {}
                Poll::Ready(Ok(Read::Full)) => {
                    // There is more; the receivers of what came go first, or their buffers fill.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Err(close)) => return Poll::Ready(close),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Connection<S> {
    type Output = Close;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Close> {
        let close = ready!(self.poll_open(cx));
        self.client.worker.end_batch();
        Poll::Ready(close)
    }
}

/// Writes what is left in the out-buffer, as far as the client takes it.
pub(crate) async fn flush<S: AsyncWrite + Unpin>(io: &mut S, client: &Client) -> io::Result<()> {
    std::future::poll_fn(|cx| client.out.borrow_mut().poll_write(io, cx, &client.worker)).await
}
