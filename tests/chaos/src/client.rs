//! A strict, blocking MQTT client: it reads what the broker sends byte by byte and hides nothing.
//!
//! # Panics
//! What breaks the protocol is a failed test: it panics. What a dead broker causes is an `io::Error`.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mqtt_codec::encode::{self, PublishFrame};
use mqtt_codec::{PacketType, Properties, PropertyId, QoS, ReasonCode, Value, Version};

/// Longer than anything takes; a test that waits so long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A packet from the broker: first byte and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Type and flags.
    pub first: u8,
    /// All behind the length.
    pub body: Vec<u8>,
}

// === impl Packet ===

impl Packet {
    /// The packet id of anything but a PUBLISH.
    #[must_use]
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// DISCONNECT as an error that says why.
    #[must_use]
    pub fn goodbye(&self) -> io::Error {
        let why = format!("DISCONNECT {:#x}", self.body.first().copied().unwrap_or(0));
        io::Error::new(io::ErrorKind::ConnectionAborted, why)
    }

    /// The type: 3 is PUBLISH.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }
}

/// A PUBLISH, received or to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// It may have been sent before.
    pub dup: bool,
    /// 0 to 2.
    pub qos: u8,
    /// It is, or is to be, kept.
    pub retain: bool,
    /// Where to.
    pub topic: String,
    /// Packet id; 0 with QoS 0.
    pub id: u16,
    /// What it says.
    pub payload: Vec<u8>,
}

// === impl Message ===

impl Message {
    /// The number that the last eight bytes of the payload are.
    ///
    /// # Panics
    /// It has fewer.
    #[must_use]
    pub fn number(&self) -> u64 {
        let at = self.payload.len().checked_sub(8).expect("a number");
        u64::from_be_bytes(self.payload[at..].try_into().expect("eight bytes"))
    }
}

/// A connection that is open.
pub struct Client {
    stream: TcpStream,
    /// What was read and not taken.
    input: Vec<u8>,
    version: Version,
    /// CONNACK said that a session was there.
    pub present: bool,
}

/// How to connect.
#[derive(Clone)]
pub struct Options<'a> {
    /// Client id.
    pub id: &'a str,
    /// 3.1.1 or 5.
    pub version: Version,
    /// Clean session or clean start.
    pub clean: bool,
    /// Session expiry of MQTT 5, s; 0 = none.
    pub expiry_s: u32,
    /// Topic and payload, QoS 1.
    pub will: Option<(&'a str, &'a [u8])>,
    /// How long the will waits, s.
    pub will_delay_s: u32,
    /// User name and password.
    pub user: Option<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    /// A session that ends with its connection.
    #[must_use]
    pub fn clean(id: &'a str, version: Version) -> Self {
        Self { id, version, clean: true, expiry_s: 0, will: None, will_delay_s: 0, user: None }
    }

    /// A session that outlives its connection.
    #[must_use]
    pub fn persistent(id: &'a str, version: Version) -> Self {
        Self { clean: false, expiry_s: 3_600, ..Self::clean(id, version) }
    }

    fn encode(&self) -> Vec<u8> {
        let is_v5 = self.version == Version::V5;
        let mut body = b"\0\x04MQTT".to_vec();
        let will = if self.will.is_some() { 4 | 1 << 3 } else { 0 };
        let level = if is_v5 { 5 } else { 4 };
        let user = if self.user.is_some() { 0xC0 } else { 0 };
        body.extend([level, u8::from(self.clean) << 1 | will | user, 0, 0]);
        let number = |id, n| {
            let mut out = Vec::new();
            if n > 0 {
                encode::property(&mut out, id, Value::Number(n));
            }
            out
        };
        let text = |body: &mut Vec<u8>, bytes: &[u8]| {
            body.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
            body.extend(bytes);
        };
        let properties = |body: &mut Vec<u8>, properties: Vec<u8>| {
            if is_v5 {
                body.push(u8::try_from(properties.len()).expect("short"));
                body.extend(properties);
            }
        };
        properties(&mut body, number(PropertyId::SESSION_EXPIRY, self.expiry_s));
        text(&mut body, self.id.as_bytes());
        if let Some((topic, payload)) = self.will {
            properties(&mut body, number(PropertyId::WILL_DELAY, self.will_delay_s));
            text(&mut body, topic.as_bytes());
            text(&mut body, payload);
        }
        if let Some((user, password)) = self.user {
            text(&mut body, user.as_bytes());
            text(&mut body, password.as_bytes());
        }
        let mut bytes = vec![0x10, u8::try_from(body.len()).expect("one byte of length")];
        assert!(bytes[1] < 0x80, "one byte of length");
        bytes.extend(body);
        bytes
    }
}

// === impl Client ===

impl Client {
    /// Connects and reads CONNACK.
    ///
    /// # Errors
    /// Nobody is there, or he went away. An MQTT 5 server that is busy or shuts down is `ConnectionRefused`.
    ///
    /// # Panics
    /// The connection is refused for another reason.
    pub fn connect(port: u16, options: &Options<'_>) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        let mut client =
            Self { stream, input: Vec::new(), version: options.version, present: false };
        client.stream.write_all(&options.encode())?;
        let connack = client.read()?;
        assert_eq!(connack.first, 0x20, "{connack:?}");
        let code = connack.body[1];
        // Server unavailable, busy, session taken over, use another server: they pass. A wrong user does not.
        let denied = code == 0x86 && options.user.is_some();
        if [3, 0x88, 0x89, 0x8E, 0x9C].contains(&code) || denied {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        assert_eq!(code, 0, "refused: {connack:?}");
        client.present = connack.body[0] == 1;
        Ok(client)
    }

    /// As [`Self::connect`], until somebody is there.
    ///
    /// # Panics
    /// Nobody comes.
    #[must_use]
    pub fn reach(port: u16, options: &Options<'_>) -> Self {
        let began = std::time::Instant::now();
        loop {
            match Self::connect(port, options) {
                Ok(client) => return client,
                Err(error) => assert!(began.elapsed() < DEADLINE, "{}: {error}", options.id),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next packet.
    ///
    /// # Errors
    /// The connection has ended, or nothing comes.
    pub fn read(&mut self) -> io::Result<Packet> {
        loop {
            if let Some(packet) = self.take_packet() {
                return Ok(packet);
            }
            let mut bytes = [0; 16 * 1024];
            let n = self.stream.read(&mut bytes)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&bytes[..n]);
        }
    }

    /// The next packet, if it comes within `wait`.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn read_within(&mut self, wait: Duration) -> io::Result<Option<Packet>> {
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let read = self.read();
        self.stream.set_read_timeout(Some(DEADLINE))?;
        match read {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// A whole packet that was read already.
    pub fn take_packet(&mut self) -> Option<Packet> {
        let mut len = 0;
        let mut at = 1;
        for shift in [0, 7, 14, 21] {
            let byte = *self.input.get(at)?;
            at += 1;
            len |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let body = self.input.get(at..at + len)?.to_vec();
        let first = self.input[0];
        self.input.drain(..at + len);
        Some(Packet { first, body })
    }

    /// Subscribes; the code of SUBACK.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> io::Result<u8> {
        self.ask_subscribe(filter, options)?;
        self.suback()
    }

    /// Sends SUBSCRIBE and does not wait.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn ask_subscribe(&mut self, filter: &str, options: u8) -> io::Result<()> {
        let mut bytes = Vec::new();
        let none = Properties::default();
        encode::subscribe(&mut bytes, self.version, 77, none, &[(filter, options)]);
        self.stream.write_all(&bytes)
    }

    /// Reads SUBACK; its code.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn suback(&mut self) -> io::Result<u8> {
        let suback = self.read()?;
        if suback.kind() == 14 {
            return Err(suback.goodbye());
        }
        assert_eq!((suback.first, suback.id()), (0x90, 77), "{suback:?}");
        Ok(*suback.body.last().expect("a code"))
    }

    /// Unsubscribes.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn unsubscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode::unsubscribe(&mut bytes, self.version, 78, &[filter]);
        self.stream.write_all(&bytes)?;
        let unsuback = self.read()?;
        if unsuback.kind() == 14 {
            return Err(unsuback.goodbye());
        }
        assert_eq!((unsuback.first, unsuback.id()), (0xB0, 78), "{unsuback:?}");
        Ok(())
    }

    /// The bytes of a PUBLISH to this broker.
    ///
    /// # Panics
    /// The QoS is none.
    #[must_use]
    pub fn frame(&self, message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = PublishFrame {
            dup: message.dup,
            qos: QoS::from_bits(message.qos).expect("0 to 2"),
            retain: message.retain,
            topic: &message.topic,
            packet_id: message.id,
            properties: &[],
            payload: &message.payload,
        };
        frame.write(&mut bytes, self.version);
        bytes
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a PUBLISH and does not wait.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        let bytes = self.frame(message);
        self.stream.write_all(&bytes)
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn acknowledge(&mut self, packet_type: PacketType, id: u16) -> io::Result<()> {
        let bytes = self.acknowledgement(packet_type, id);
        self.stream.write_all(&bytes)
    }

    /// The bytes of a PUBACK, PUBREC, PUBREL or PUBCOMP.
    #[must_use]
    pub fn acknowledgement(&self, packet_type: PacketType, id: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode::acknowledgement(&mut bytes, self.version, packet_type, id, ReasonCode::SUCCESS);
        bytes
    }

    /// Publishes and waits until the handshake is through; the reason of the first answer (0 with QoS 0).
    ///
    /// # Errors
    /// The connection has ended.
    pub fn publish(&mut self, message: &Message) -> io::Result<u8> {
        self.send(message)?;
        match message.qos {
            0 => Ok(0),
            1 => self.expect_ack(0x40, message.id),
            _ => {
                let reason = self.expect_ack(0x50, message.id)?;
                self.acknowledge(PacketType::Pubrel, message.id)?;
                self.expect_ack(0x70, message.id)?;
                Ok(reason)
            }
        }
    }

    /// Reads an acknowledgement, which must be the next packet; its reason.
    ///
    /// # Errors
    /// The connection has ended, or the server has said DISCONNECT.
    pub fn expect_ack(&mut self, first: u8, id: u16) -> io::Result<u8> {
        let packet = self.read()?;
        if packet.kind() == 14 {
            return Err(packet.goodbye());
        }
        assert_eq!((packet.first, packet.id()), (first, id), "{packet:?}");
        let reason = packet.body.get(2).copied().unwrap_or(0);
        assert!(reason < 0x80, "refused: {packet:?}");
        Ok(reason)
    }

    /// The next message, its handshake answered.
    ///
    /// # Errors
    /// The connection has ended, or nothing comes.
    pub fn receive(&mut self) -> io::Result<Message> {
        loop {
            let packet = self.read()?;
            if let Some(message) = self.answer(&packet)? {
                return Ok(message);
            }
        }
    }

    /// Reads and answers what comes until nothing does for so long.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn acknowledge_all_within(&mut self, wait: Duration) -> io::Result<()> {
        while let Some(packet) = self.read_within(wait)? {
            self.answer(&packet)?;
        }
        Ok(())
    }

    /// Answers a PUBLISH or PUBREL; the message of a PUBLISH.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn answer(&mut self, packet: &Packet) -> io::Result<Option<Message>> {
        match packet.kind() {
            3 => {
                let message = self.message(packet);
                match message.qos {
                    1 => self.acknowledge(PacketType::Puback, message.id)?,
                    2 => self.acknowledge(PacketType::Pubrec, message.id)?,
                    _ => {}
                }
                Ok(Some(message))
            }
            6 => {
                self.acknowledge(PacketType::Pubcomp, packet.id())?;
                Ok(None)
            }
            14 => Err(packet.goodbye()),
            other => panic!("unexpected packet type {other}"),
        }
    }

    /// A PUBLISH as a message.
    #[must_use]
    pub fn message(&self, packet: &Packet) -> Message {
        let body = &packet.body;
        let qos = (packet.first >> 1) & 3;
        let mut at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..at].to_vec()).expect("utf-8");
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([body[at], body[at + 1]]);
            at += 2;
        }
        if self.version == Version::V5 {
            assert!(body[at] < 0x80, "short properties");
            at += 1 + usize::from(body[at]);
        }
        Message {
            dup: packet.first & 8 != 0,
            qos,
            retain: packet.first & 1 != 0,
            topic,
            id,
            payload: body[at..].to_vec(),
        }
    }

    /// A ping comes back: everything sent before was handled.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn ping(&mut self) -> io::Result<()> {
        self.stream.write_all(&[0xC0, 0])?;
        assert_eq!(self.read()?.first, 0xD0);
        Ok(())
    }

    /// DISCONNECT; waits until the broker has closed, so that nothing is cut off by a reset.
    ///
    /// # Errors
    /// The connection has ended already.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.stream.write_all(&[0xE0, 0])?;
        self.stream.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// A message to publish.
#[must_use]
pub fn message(topic: &str, qos: u8, id: u16, payload: &[u8]) -> Message {
    let (topic, payload) = (topic.to_owned(), payload.to_vec());
    Message { dup: false, qos, retain: false, topic, id, payload }
}
