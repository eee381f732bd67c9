//! One connection: reads whole packets, hands them to its role, writes what the role leaves.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::wire;

const READ_BYTES: usize = 256 * 1024;

/// What a connection is for.
pub(crate) trait Role {
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

/// Connects, says CONNECT and, where there is a filter, SUBSCRIBE; waits for the answers.
pub(crate) async fn open(
    addr: SocketAddr,
    client_id: &str,
    filter: Option<(&str, u8)>,
) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(addr).await?;
    socket.set_nodelay(true)?;
    let mut out = Vec::new();
    wire::connect(&mut out, client_id);
    if let Some((filter, qos)) = filter {
        wire::subscribe(&mut out, filter, qos);
    }
    socket.write_all(&out).await?;
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).await?;
    ensure!(connack == [0x20, 2, 0, 0], "refused: {connack:?}");
    if let Some((_, qos)) = filter {
        let mut suback = [0; 5];
        socket.read_exact(&mut suback).await?;
        ensure!(suback == [0x90, 3, 0, 1, qos], "subscription refused: {suback:?}");
    }
    Ok(socket)
}

/// Runs `role` on `socket` until it is done.
pub(crate) async fn drive<R: Role>(mut socket: TcpStream, mut role: R, bell: Bell) -> Result<R> {
    let mut state = State { out: Vec::new(), written: 0, rest: Vec::new() };
    // One buffer a connection: the generator is measured by its CPU, not by its memory.
    let mut memory = vec![0; READ_BYTES];
    std::future::poll_fn(|cx| {
        *bell.borrow_mut() = Some(cx.waker().clone());
        state.poll(&mut socket, &mut role, &mut memory, cx)
    })
    .await?;
    Ok(role)
}

struct State {
    out: Vec<u8>,
    written: usize,
    rest: Vec<u8>,
}

impl State {
    fn poll<R: Role>(
        &mut self,
        socket: &mut TcpStream,
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
    while let Some((header, len)) = wire::length(&bytes[at..]) {
        let Some(packet) = bytes.get(at..at + header + len) else {
            break;
        };
        if packet[0] >> 4 == 0 {
            bail!("packet type 0");
        }
        role.packet(packet[0], &packet[header..], out)?;
        at += packet.len();
    }
    Ok(at)
}
