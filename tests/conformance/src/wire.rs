//! MQTT as bytes: enough to say anything, right or wrong, and to see exactly what comes back.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything takes; a test that waits so long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A stream that can be made to give up waiting.
pub trait Socket: Read + Write {
    /// How long a read may take.
    fn wait_at_most(&self, limit: Duration);
}

impl Socket for TcpStream {
    fn wait_at_most(&self, limit: Duration) {
        self.set_read_timeout(Some(limit)).expect("a socket");
    }
}

/// A packet: first byte, and all behind the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Type and flags.
    pub first: u8,
    /// Variable header and payload.
    pub body: Vec<u8>,
}

/// A property: identifier and the bytes of its value, as they stand.
pub type Property = (u8, Vec<u8>);

/// A received PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the standard's
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub id: u16,
    pub properties: Vec<Property>,
    pub payload: Vec<u8>,
}

/// A CONNECT to be built.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the names are the standard's
pub struct Connect {
    pub level: u8,
    pub name: Vec<u8>,
    pub clean: bool,
    pub keep_alive: u16,
    pub properties: Vec<u8>,
    pub id: String,
    pub will: Option<Will>,
    pub user: Option<String>,
    pub password: Option<Vec<u8>>,
    /// Added to the flags.
    pub flags: u8,
}

/// The will of a CONNECT.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the names are the standard's
pub struct Will {
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
    pub topic: String,
    pub payload: Vec<u8>,
}

/// Bytes with their length before.
#[must_use]
pub fn string(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// Bytes with their length before.
#[must_use]
pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("short");
    [&len.to_be_bytes()[..], bytes].concat()
}

/// A variable byte integer.
#[must_use]
pub fn var_int(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(n % 128).expect("below 128");
        n /= 128;
        out.push(if n > 0 { low | 128 } else { low });
        if n == 0 {
            return out;
        }
    }
}

/// A whole packet.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &var_int(body.len()), body].concat()
}

/// Properties with their length.
#[must_use]
pub fn properties(bytes: &[u8]) -> Vec<u8> {
    [&var_int(bytes.len())[..], bytes].concat()
}

/// One property of a string.
#[must_use]
pub fn text_property(id: u8, text: &str) -> Vec<u8> {
    [&[id][..], &string(text)].concat()
}

/// One property of four bytes.
#[must_use]
pub fn four(id: u8, n: u32) -> Vec<u8> {
    [&[id][..], &n.to_be_bytes()].concat()
}

/// One property of two bytes.
#[must_use]
pub fn two(id: u8, n: u16) -> Vec<u8> {
    [&[id][..], &n.to_be_bytes()].concat()
}

/// A user property.
#[must_use]
pub fn user(name: &str, value: &str) -> Vec<u8> {
    [&[0x26][..], &string(name), &string(value)].concat()
}

/// A PUBLISH; `level` 5 writes `properties`.
#[must_use]
pub fn publish(
    level: u8,
    first: u8,
    topic: &str,
    id: u16,
    props: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut body = string(topic);
    if first & 6 != 0 {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if level == 5 {
        body.extend(properties(props));
    }
    body.extend_from_slice(payload);
    packet(0x30 | first, &body)
}

/// A SUBSCRIBE of filters with their options.
#[must_use]
pub fn subscribe(level: u8, id: u16, props: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.extend(properties(props));
    }
    for (filter, options) in filters {
        body.extend(string(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// An UNSUBSCRIBE.
#[must_use]
pub fn unsubscribe(level: u8, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    filters.iter().for_each(|f| body.extend(string(f)));
    packet(0xA2, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP by its first byte.
#[must_use]
pub fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// Length and properties at the start of `bytes`, and what stands behind.
///
/// # Panics
/// On properties that break the standard: a broker must not send them.
#[must_use]
pub fn read_properties(bytes: &[u8]) -> (Vec<Property>, &[u8]) {
    let (mut len, mut at) = (0usize, 0);
    for shift in [0, 7, 14, 21] {
        len |= usize::from(bytes[at] & 127) << shift;
        at += 1;
        if bytes[at - 1] < 128 {
            break;
        }
    }
    let (mut inner, rest) = bytes[at..].split_at(len);
    let mut all = Vec::new();
    while let Some(id) = inner.first() {
        inner = &inner[1..];
        let string = |b: &[u8]| 2 + usize::from(u16::from_be_bytes([b[0], b[1]]));
        let len = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0B => 1 + inner.iter().position(|b| *b < 128).expect("an end"),
            0x26 => string(inner) + string(&inner[string(inner)..]),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => string(inner),
            other => panic!("unknown property {other:#x}"),
        };
        all.push((*id, inner[..len].to_vec()));
        inner = &inner[len..];
    }
    (all, rest)
}

// === impl Connect ===

impl Connect {
    /// A clean CONNECT of `level` without anything.
    #[must_use]
    pub fn new(level: u8, id: &str) -> Self {
        Self {
            level,
            name: if level == 3 { b"MQIsdp".to_vec() } else { b"MQTT".to_vec() },
            clean: true,
            keep_alive: 0,
            properties: Vec::new(),
            id: id.into(),
            will: None,
            user: None,
            password: None,
            flags: 0,
        }
    }

    /// One whose session is kept: by Clean Session 0, in 5 by Clean Start 0 and an expiry of an hour.
    #[must_use]
    pub fn kept(level: u8, id: &str) -> Self {
        let properties = if level == 5 { four(0x11, 3_600) } else { Vec::new() };
        Self { clean: false, properties, ..Self::new(level, id) }
    }

    /// With a will.
    #[must_use]
    pub fn will(mut self, topic: &str, payload: &[u8], qos: u8, retain: bool) -> Self {
        let (topic, payload) = (topic.into(), payload.to_vec());
        self.will = Some(Will { qos, retain, properties: Vec::new(), topic, payload });
        self
    }

    /// As bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut flags = self.flags | u8::from(self.clean) << 1;
        let mut tail = string(&self.id);
        if let Some(will) = &self.will {
            flags |= 4 | will.qos << 3 | u8::from(will.retain) << 5;
            if self.level == 5 {
                tail.extend(properties(&will.properties));
            }
            tail.extend(string(&will.topic));
            tail.extend(binary(&will.payload));
        }
        if let Some(user) = &self.user {
            flags |= 0x80;
            tail.extend(string(user));
        }
        if let Some(password) = &self.password {
            flags |= 0x40;
            tail.extend(binary(password));
        }
        let mut body = binary(&self.name);
        body.extend([self.level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.level == 5 {
            body.extend(properties(&self.properties));
        }
        body.extend(tail);
        packet(0x10, &body)
    }
}

// === impl Packet ===

impl Packet {
    /// Number of the packet type.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The packet id at the start of the body.
    #[must_use]
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// Reason code of a PUBACK and its like, or of a DISCONNECT.
    #[must_use]
    pub fn reason(&self) -> u8 {
        let at = if self.kind() == 14 { 0 } else { 2 };
        self.body.get(at).copied().unwrap_or(0)
    }

    /// Codes of a SUBACK or UNSUBACK to a client of `level`.
    #[must_use]
    pub fn codes(&self, level: u8) -> Vec<u8> {
        if level == 5 {
            read_properties(&self.body[2..]).1.to_vec()
        } else {
            self.body[2..].to_vec()
        }
    }

    /// Properties of a CONNACK, DISCONNECT or AUTH with some.
    #[must_use]
    pub fn properties(&self) -> Vec<Property> {
        let at = if self.kind() == 2 { 2 } else { 1 };
        if self.body.len() <= at { Vec::new() } else { read_properties(&self.body[at..]).0 }
    }

    /// The value of a property of a CONNACK, DISCONNECT or AUTH.
    #[must_use]
    pub fn property(&self, id: u8) -> Option<Vec<u8>> {
        self.properties().into_iter().find(|p| p.0 == id).map(|p| p.1)
    }

    /// Read as a PUBLISH to a client of `level`.
    ///
    /// # Panics
    /// If it is none, or not well-formed.
    #[must_use]
    pub fn publish(&self, level: u8) -> Publish {
        assert_eq!(self.kind(), 3, "not a PUBLISH: {self:?}");
        let qos = (self.first >> 1) & 3;
        let end = 2 + usize::from(self.id());
        let topic = String::from_utf8(self.body[2..end].to_vec()).expect("utf-8");
        let mut rest = &self.body[end..];
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let (properties, payload) =
            if level == 5 { read_properties(rest) } else { (Vec::new(), rest) };
        Publish {
            dup: self.first & 8 != 0,
            qos,
            retain: self.first & 1 != 0,
            topic,
            id,
            properties,
            payload: payload.to_vec(),
        }
    }
}

// === impl Publish ===

impl Publish {
    /// All values of a property.
    #[must_use]
    pub fn property(&self, id: u8) -> Vec<Vec<u8>> {
        self.properties.iter().filter(|p| p.0 == id).map(|p| p.1.clone()).collect()
    }
}

/// A client.
pub struct Client {
    io: Box<dyn Socket>,
    /// The version it speaks.
    pub level: u8,
    /// Messages that came while something else was waited for.
    aside: VecDeque<Packet>,
}

// === impl Client ===

impl Client {
    /// An open socket; nothing is said.
    ///
    /// # Panics
    /// If there is no broker. All methods panic where a test cannot go on.
    #[must_use]
    pub fn open(at: SocketAddr, level: u8) -> Self {
        let io = TcpStream::connect(at).expect("connects");
        io.set_nodelay(true).expect("a socket");
        Self::over(Box::new(io), level)
    }

    /// Over a stream that is open.
    #[must_use]
    pub fn over(io: Box<dyn Socket>, level: u8) -> Self {
        io.wait_at_most(DEADLINE);
        Self { io, level, aside: VecDeque::new() }
    }

    /// Connects with `connect`; returns the CONNACK.
    #[must_use]
    pub fn try_connect(at: SocketAddr, connect: &Connect) -> (Self, Packet) {
        let mut client = Self::open(at, connect.level);
        client.send(&connect.bytes());
        let connack = client.read();
        assert_eq!(connack.first, 0x20, "not a CONNACK");
        (client, connack)
    }

    /// Connects with `connect` and is let in.
    #[must_use]
    pub fn connect(at: SocketAddr, connect: &Connect) -> Self {
        let (client, connack) = Self::try_connect(at, connect);
        assert_eq!(connack.body[1], 0, "refused: {connack:?}");
        client
    }

    /// Connects clean.
    #[must_use]
    pub fn clean(at: SocketAddr, level: u8, id: &str) -> Self {
        Self::connect(at, &Connect::new(level, id))
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).and_then(|()| self.io.flush()).expect("sent");
    }

    /// Sends bytes to a broker that may have closed.
    pub fn send_anyway(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).and_then(|()| self.io.flush());
    }

    /// The next packet, or why there is none.
    ///
    /// # Errors
    /// The broker closed, or nothing came within the deadline.
    pub fn try_read(&mut self) -> io::Result<Packet> {
        match self.aside.pop_front() {
            Some(packet) => Ok(packet),
            None => self.read_socket(),
        }
    }

    fn read_socket(&mut self) -> io::Result<Packet> {
        let mut byte = [0];
        self.io.read_exact(&mut byte)?;
        let first = byte[0];
        let mut len = 0usize;
        for shift in [0, 7, 14, 21] {
            self.io.read_exact(&mut byte)?;
            len |= usize::from(byte[0] & 127) << shift;
            if byte[0] < 128 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.io.read_exact(&mut body)?;
        Ok(Packet { first, body })
    }

    /// The next packet.
    #[must_use]
    pub fn read(&mut self) -> Packet {
        self.try_read().expect("a packet")
    }

    /// The next packet, which is a PUBLISH; not answered.
    #[must_use]
    pub fn read_publish(&mut self) -> Publish {
        let level = self.level;
        self.read().publish(level)
    }

    /// The next packet, which is a PUBLISH; answered to the end of its handshake.
    #[must_use]
    pub fn receive(&mut self) -> Publish {
        let publish = self.read_publish();
        match publish.qos {
            1 => self.send(&ack(0x40, publish.id)),
            2 => {
                self.send(&ack(0x50, publish.id));
                self.answer(0x62, publish.id);
                self.send(&ack(0x70, publish.id));
            }
            _ => {}
        }
        publish
    }

    /// Subscribes; returns the codes.
    pub fn subscribe(&mut self, filters: &[(&str, u8)]) -> Vec<u8> {
        self.send(&subscribe(self.level, 11, &[], filters));
        let suback = self.read();
        assert_eq!((suback.first, suback.id()), (0x90, 11), "{suback:?}");
        suback.codes(self.level)
    }

    /// Publishes with packet id `id` and sees the handshake through; returns the reason code.
    pub fn publish(&mut self, first: u8, topic: &str, id: u16, payload: &[u8]) -> u8 {
        self.publish_with(first, topic, id, &[], payload)
    }

    /// As [`Self::publish`], with properties in 5.
    pub fn publish_with(&mut self, first: u8, topic: &str, id: u16, p: &[u8], load: &[u8]) -> u8 {
        self.send(&publish(self.level, first, topic, id, p, load));
        match (first >> 1) & 3 {
            0 => 0,
            1 => self.answer(0x40, id).reason(),
            _ => {
                let received = self.answer(0x50, id).reason();
                if received < 0x80 {
                    self.send(&ack(0x62, id));
                    assert_eq!(self.answer(0x70, id).reason(), 0);
                }
                received
            }
        }
    }

    /// The next packet that is no PUBLISH begins with `first` and has packet id `id`; messages before it are read later.
    fn answer(&mut self, first: u8, id: u16) -> Packet {
        loop {
            let packet = self.read_socket().expect("a packet");
            if packet.kind() != 3 {
                assert_eq!((packet.first, packet.id()), (first, id), "{packet:?}");
                return packet;
            }
            self.aside.push_back(packet);
        }
    }

    /// The next packet begins with `first` and has packet id `id`.
    pub fn expect(&mut self, first: u8, id: u16) -> Packet {
        let packet = self.read();
        assert_eq!((packet.first, packet.id()), (first, id), "{packet:?}");
        packet
    }

    /// A ping comes back, and nothing else before: all that was sent is handled, and nothing more was owed.
    pub fn nothing_more(&mut self) {
        self.send(&[0xC0, 0]);
        let packet = self.read();
        assert_eq!(packet.first, 0xD0, "something came: {packet:?}");
    }

    /// The broker closes, in 5 after DISCONNECT with `reason` (0 = it need not say), and nothing else comes.
    pub fn closed(&mut self, reason: u8) {
        match self.try_read() {
            Ok(packet) => {
                assert_eq!((packet.kind(), self.level), (14, 5), "not a DISCONNECT: {packet:?}");
                assert!(reason == 0 || packet.reason() == reason, "{packet:x?}, not {reason:#x}");
                let end = self.try_read();
                assert!(end.is_err_and(is_end), "something follows DISCONNECT");
            }
            Err(error) => {
                assert!(is_end(error), "still open");
                assert!(reason == 0 || self.level < 5, "closed without DISCONNECT {reason:#x}");
            }
        }
    }

    /// Says DISCONNECT and waits until the broker has closed.
    pub fn disconnect(mut self) {
        self.send(&[0xE0, 0]);
        let end = self.try_read();
        assert!(end.is_err_and(is_end), "something came instead of the end");
    }
}

fn is_end(error: io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
