//! The floor: the least an MQTT forwarder can cost on this machine. No trie, no rules, no limits, no
//! metrics, no durability; exact topics of well-behaved MQTT 3.1.1 clients. Every live row of the
//! benchmarks runs it beside the brokers, so that a figure can be read against what is possible.
//! `floor --null` is no forwarder at all: the server against which the generator's ceiling is measured.

mod null;

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

#[derive(Default)]
struct Peer {
    out: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
    next_id: RefCell<u16>,
}

/// Who subscribes, and the QoS granted.
type Subscribers = Vec<(Rc<Peer>, u8)>;

#[derive(Default)]
struct Shared {
    topics: RefCell<HashMap<Vec<u8>, Subscribers>>,
    read: RefCell<Vec<u8>>,
    woken: RefCell<Vec<Rc<Peer>>>,
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let is_null = arguments.next_if(|a| a == "--null").is_some();
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    if is_null {
        return null::serve(&address);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(address).await?;
        eprintln!("floor on {}", listener.local_addr()?);
        let shared = Rc::new(Shared { read: RefCell::new(vec![0; 65_536]), ..Shared::default() });
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            spawn_local(serve(socket, shared.clone()));
        }
    })
}

async fn serve(mut socket: TcpStream, shared: Rc<Shared>) {
    let peer = Rc::new(Peer::default());
    let mut rest = Vec::new();
    std::future::poll_fn(|cx| poll(&mut socket, &shared, &peer, &mut rest, cx)).await;
    for subscribers in shared.topics.borrow_mut().values_mut() {
        subscribers.retain(|(p, _)| !Rc::ptr_eq(p, &peer));
    }
}

fn poll(
    socket: &mut TcpStream,
    shared: &Shared,
    peer: &Rc<Peer>,
    rest: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    *peer.waker.borrow_mut() = Some(cx.waker().clone());
    loop {
        let mut out = peer.out.borrow_mut();
        while !out.is_empty() {
            match Pin::new(&mut *socket).poll_write(cx, &out) {
                Poll::Ready(Ok(n)) if n == out.len() => out.clear(),
                Poll::Ready(Ok(n)) => drop(out.drain(..n)),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let blocked = !out.is_empty();
        drop(out);
        let mut memory = shared.read.borrow_mut();
        let mut buffer = ReadBuf::new(&mut memory);
        match Pin::new(&mut *socket).poll_read(cx, &mut buffer) {
            Poll::Pending if blocked || peer.out.borrow().is_empty() => return Poll::Pending,
            Poll::Pending => continue,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(()),
        }
        let full = buffer.remaining() == 0;
        if rest.is_empty() {
            let done = handle(buffer.filled(), shared, peer);
            rest.extend_from_slice(&buffer.filled()[done..]);
        } else {
            rest.extend_from_slice(buffer.filled());
            let done = handle(rest, shared, peer);
            rest.drain(..done);
        }
        for woken in shared.woken.borrow_mut().drain(..) {
            if let Some(waker) = woken.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
        if full {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}

/// Handles every whole packet; returns the bytes done.
fn handle(bytes: &[u8], shared: &Shared, peer: &Rc<Peer>) -> usize {
    let mut at = 0;
    loop {
        let Some((header, len)) = length(&bytes[at..]) else {
            return at;
        };
        let Some(packet) = bytes.get(at..at + header + len) else {
            return at;
        };
        packet_in(packet, &packet[header..], shared, peer);
        at += packet.len();
    }
}

fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut len = 0;
    for n in 0..4 {
        let byte = *bytes.get(1 + n)?;
        len |= usize::from(byte & 0x7F) << (7 * n);
        if byte < 0x80 {
            return Some((2 + n, len));
        }
    }
    None
}

fn packet_in(packet: &[u8], body: &[u8], shared: &Shared, peer: &Rc<Peer>) {
    let mut out = peer.out.borrow_mut();
    match packet[0] >> 4 {
        1 => out.extend_from_slice(&[0x20, 2, 0, 0]),
        3 => {
            let qos = (packet[0] >> 1) & 3;
            let topic_len = usize::from(body[0]) << 8 | usize::from(body[1]);
            if qos > 0 {
                let id = &body[2 + topic_len..4 + topic_len];
                out.extend_from_slice(&[if qos == 1 { 0x40 } else { 0x50 }, 2, id[0], id[1]]);
            }
            drop(out);
            forward(packet, body, topic_len, qos, shared);
        }
        5 => out.extend_from_slice(&[0x62, 2, body[0], body[1]]),
        6 => out.extend_from_slice(&[0x70, 2, body[0], body[1]]),
        8 => {
            out.extend_from_slice(&[0x90, 3, body[0], body[1], body[body.len() - 1]]);
            let topic = body[4..body.len() - 1].to_vec();
            let entry = (peer.clone(), body[body.len() - 1]);
            shared.topics.borrow_mut().entry(topic).or_default().push(entry);
        }
        12 => out.extend_from_slice(&[0xD0, 0]),
        _ => {}
    }
}

fn forward(packet: &[u8], body: &[u8], topic_len: usize, qos: u8, shared: &Shared) {
    let topics = shared.topics.borrow();
    let Some(subscribers) = topics.get(&body[2..2 + topic_len]) else {
        return;
    };
    let mut woken = shared.woken.borrow_mut();
    for (peer, granted) in subscribers {
        let mut out = peer.out.borrow_mut();
        if out.is_empty() {
            woken.push(peer.clone());
        }
        if qos == 0 {
            out.extend_from_slice(packet);
        } else if *granted > 0 {
            let start = out.len() + (packet.len() - body.len()) + 2 + topic_len;
            out.extend_from_slice(packet);
            let mut id = peer.next_id.borrow_mut();
            *id = if *id == u16::MAX { 1 } else { *id + 1 };
            out[start..start + 2].copy_from_slice(&id.to_be_bytes());
        }
    }
}
