//! One connection: reads whole packets, hands them to its role, writes what the role leaves.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::socket::{Socket, Tls};
use super::wire::{self, Version};

const READ_BYTES: usize = 256 * 1024;

/// What a connection is for.
pub(crate) trait Role {
    /// A read brought something; its packets follow.
    fn batch(&mut self) {}
    /// A packet came: first byte and body.
    fn packet(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()>;
    /// Room to send: appends what may go out now.
    fn fill(&mut self, out: &mut Vec<u8>);
    /// Nothing more is to come or to go.
    fn is_done(&self) -> bool;
}

/// A waker others can use.
pub(crate) type Bell = Rc<RefCell<Option<Waker>>>;

/// Wakes the connection behind `bell`.
pub(crate) fn ring(bell: &Bell) {
    if let Some(waker) = bell.borrow().as_ref() {
        waker.wake_by_ref();
    }
}

/// How a client introduces itself.
#[derive(Clone, Copy)]
pub(crate) struct Introduction<'a> {
    pub(crate) version: Version,
    pub(crate) client_id: &'a str,
    pub(crate) persistent: bool,
    /// Subscribes to it with the QoS beside it.
    pub(crate) filter: Option<(&'a str, u8)>,
}

/// A connection that is open, and what was read behind the last answer.
pub(crate) struct Link {
    pub(crate) socket: Socket,
    pub(crate) rest: Vec<u8>,
}

// === impl Link ===

impl Link {
    /// Connects, says CONNECT and, where there is a filter, SUBSCRIBE; waits for the answers.
    pub(crate) async fn open(addr: SocketAddr, as_who: Introduction<'_>) -> Result<Self> {
        Self::open_over(addr, as_who, None).await
    }

    /// As [`Link::open`], over TLS where there is a configuration for it.
    pub(crate) async fn open_over(
        addr: SocketAddr,
        as_who: Introduction<'_>,
        tls: Option<&Tls>,
    ) -> Result<Self> {
        let Introduction { version, client_id, persistent, filter } = as_who;
        let socket = Socket::connect(addr, tls).await?;
        let mut link = Self { socket, rest: Vec::new() };
        let mut out = Vec::new();
        wire::connect(&mut out, version, client_id, persistent);
        link.socket.write_all(&out).await?;
        let connack = link.packet().await?;
        ensure!(connack[0] == 0x20 && connack.get(3) == Some(&0), "refused: {connack:?}");
        if let Some((filter, qos)) = filter {
            link.subscribe(version, filter, qos).await?;
        }
        Ok(link)
    }

    /// Subscribes and waits for the answer; a lower QoS than asked for is a refusal.
    async fn subscribe(&mut self, version: Version, filter: &str, qos: u8) -> Result<()> {
        let mut out = Vec::new();
        wire::subscribe(&mut out, version, filter, qos);
        self.socket.write_all(&out).await?;
        let suback = self.packet().await?;
        ensure!(
            suback[0] == 0x90 && suback.last() == Some(&qos),
            "subscription refused: {suback:?}"
        );
        Ok(())
    }

    /// The next whole packet.
    async fn packet(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some((packet, _)) = wire::packet(&self.rest) {
                let packet = packet.to_vec();
                self.rest.drain(..packet.len());
                return Ok(packet);
            }
            let read = self.socket.read_buf(&mut self.rest).await?;
            ensure!(read > 0, "the broker closed the connection");
        }
    }

    /// Says good-bye and waits until the broker has taken it.
    pub(crate) async fn close(mut self) {
        let _ = self.socket.write_all(&wire::DISCONNECT).await;
        let _ = self.socket.shutdown().await;
        self.rest.clear();
        while matches!(self.socket.read_buf(&mut self.rest).await, Ok(n) if n > 0) {
            self.rest.clear();
        }
    }

    /// Runs `role` until it is done.
    pub(crate) async fn drive<R: Role>(mut self, mut role: R, bell: Bell) -> Result<(Self, R)> {
        let rest = std::mem::take(&mut self.rest);
        let mut state = State { out: Vec::new(), written: 0, rest: Vec::new() };
        state.take(&rest, &mut role)?;
        // One buffer a connection: the generator is measured by its CPU, not by its memory.
        let mut memory = vec![0; READ_BYTES];
        std::future::poll_fn(|cx| {
            *bell.borrow_mut() = Some(cx.waker().clone());
            state.poll(&mut self.socket, &mut role, &mut memory, cx)
        })
        .await?;
        Ok((self, role))
    }
}

struct State {
    out: Vec<u8>,
    written: usize,
    rest: Vec<u8>,
}

// === impl State ===

impl State {
    fn poll<R: Role>(
        &mut self,
        socket: &mut Socket,
        role: &mut R,
        memory: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        loop {
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
                role.fill(&mut self.out);
            }
            while self.written < self.out.len() {
                match Pin::new(&mut *socket).poll_write(cx, &self.out[self.written..]) {
                    Poll::Ready(n) => self.written += n?,
                    Poll::Pending => break,
                }
            }
            if role.is_done() && self.written == self.out.len() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(memory);
            match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
                // What was handled may have made something to send.
                Poll::Pending if self.written < self.out.len() || self.out.is_empty() => {
                    return Poll::Pending;
                }
                Poll::Pending => continue,
                Poll::Ready(read) => read?,
            }
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(anyhow::anyhow!("the broker closed the connection")));
            }
            self.take(buffer.filled(), role)?;
        }
    }

    fn take<R: Role>(&mut self, bytes: &[u8], role: &mut R) -> Result<()> {
        role.batch();
        if self.rest.is_empty() {
            let done = packets(bytes, role, &mut self.out)?;
            self.rest.extend_from_slice(&bytes[done..]);
        } else {
            self.rest.extend_from_slice(bytes);
            let done = packets(&self.rest, role, &mut self.out)?;
            self.rest.drain(..done);
        }
        Ok(())
    }
}

fn packets<R: Role>(bytes: &[u8], role: &mut R, out: &mut Vec<u8>) -> Result<usize> {
    let mut at = 0;
    while let Some((packet, body)) = wire::packet(&bytes[at..]) {
        if packet[0] >> 4 == 0 {
            bail!("packet type 0");
        }
        role.packet(packet[0], body, out)?;
        at += packet.len();
    }
    Ok(at)
}
