//! A strict, blocking MQTT client: it reads what the broker sends byte by byte and hides nothing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mqtt_codec::encode::{self, PublishFrame};
use mqtt_codec::{Connect, PacketType, Properties, QoS, ReasonCode, Version, Will};

/// Longer than anything takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A packet from the broker: first byte and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

/// A received PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Client {
    stream: TcpStream,
    version: Version,
    /// CONNACK said that a session was there.
    pub(crate) present: bool,
}

/// How to connect.
pub(crate) struct Options<'a> {
    pub(crate) id: &'a str,
    pub(crate) version: Version,
    pub(crate) clean: bool,
    /// Session expiry of MQTT 5; 0 = none.
    pub(crate) expiry_s: u32,
    pub(crate) will: Option<(&'a str, &'a [u8])>,
}

impl<'a> Options<'a> {
    pub(crate) fn clean(id: &'a str, version: Version) -> Self {
        Self { id, version, clean: true, expiry_s: 0, will: None }
    }

    pub(crate) fn persistent(id: &'a str, version: Version) -> Self {
        Self { id, version, clean: false, expiry_s: 3_600, will: None }
    }
}

// === impl Client ===

impl Client {
    pub(crate) fn connect(port: u16, options: &Options<'_>) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        let mut bytes = Vec::new();
        let will = options.will.map(|(topic, payload)| Will {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic,
            properties: Properties::default(),
            payload,
        });
        let connect = Connect {
            version: options.version,
            clean_start: options.clean,
            keep_alive_s: 0,
            properties: Properties::default(),
            client_id: options.id,
            will,
            username: None,
            password: None,
        };
        encode::connect(&mut bytes, &connect);
        if options.version == Version::V5 && options.expiry_s > 0 {
            add_session_expiry(&mut bytes, options.expiry_s);
        }
        let mut client = Self { stream, version: options.version, present: false };
        client.stream.write_all(&bytes)?;
        let connack = client.read()?;
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "refused: {connack:?}");
        client.present = connack.body[0] == 1;
        Ok(client)
    }

    pub(crate) fn read(&mut self) -> io::Result<Packet> {
        let mut first = [0];
        self.stream.read_exact(&mut first)?;
        let mut len = 0;
        for shift in [0, 7, 14, 21] {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            len |= usize::from(byte[0] & 0x7F) << shift;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        Ok(Packet { first: first[0], body })
    }

    pub(crate) fn subscribe(&mut self, filter: &str, options: u8) -> io::Result<u8> {
        let mut bytes = Vec::new();
        let none = Properties::default();
        encode::subscribe(&mut bytes, self.version, 77, none, &[(filter, options)]);
        self.stream.write_all(&bytes)?;
        let suback = self.read()?;
        assert_eq!((suback.first, &suback.body[..2]), (0x90, &[0, 77][..]), "{suback:?}");
        Ok(*suback.body.last().expect("a code"))
    }

    /// Sends a PUBLISH and does not wait.
    pub(crate) fn send(&mut self, message: &Message) -> io::Result<()> {
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
        self.stream.write_all(&bytes)
    }

    pub(crate) fn acknowledge(&mut self, packet_type: PacketType, id: u16) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode::acknowledgement(&mut bytes, self.version, packet_type, id, ReasonCode::SUCCESS);
        self.stream.write_all(&bytes)
    }

    /// Publishes and waits until the handshake is through.
    pub(crate) fn publish(&mut self, message: &Message) -> io::Result<()> {
        self.send(message)?;
        match message.qos {
            0 => return Ok(()),
            1 => self.expect_ack(0x40, message.id)?,
            _ => {
                self.expect_ack(0x50, message.id)?;
                self.acknowledge(PacketType::Pubrel, message.id)?;
                self.expect_ack(0x70, message.id)?;
            }
        }
        Ok(())
    }

    fn expect_ack(&mut self, first: u8, id: u16) -> io::Result<()> {
        let packet = self.read()?;
        assert_eq!((packet.first, &packet.body[..2]), (first, &id.to_be_bytes()[..]));
        assert!(packet.body.get(2).is_none_or(|reason| *reason < 0x80), "refused: {packet:?}");
        Ok(())
    }

    /// The next message, its handshake answered.
    pub(crate) fn receive(&mut self) -> io::Result<Message> {
        loop {
            let packet = self.read()?;
            match packet.first >> 4 {
                3 => {
                    let message = self.message(&packet);
                    match message.qos {
                        1 => self.acknowledge(PacketType::Puback, message.id)?,
                        2 => self.acknowledge(PacketType::Pubrec, message.id)?,
                        _ => {}
                    }
                    return Ok(message);
                }
                6 => {
                    let id = u16::from_be_bytes([packet.body[0], packet.body[1]]);
                    self.acknowledge(PacketType::Pubcomp, id)?;
                }
                other => panic!("unexpected packet type {other}"),
            }
        }
    }

    fn message(&self, packet: &Packet) -> Message {
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
    pub(crate) fn ping(&mut self) -> io::Result<()> {
        self.stream.write_all(&[0xC0, 0])?;
        assert_eq!(self.read()?.first, 0xD0);
        Ok(())
    }

    /// DISCONNECT; waits until the broker has closed, so that nothing is cut off by a reset.
    pub(crate) fn disconnect(mut self) -> io::Result<()> {
        self.stream.write_all(&[0xE0, 0])?;
        self.stream.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// Puts a session expiry into an encoded CONNECT of MQTT 5 without properties.
fn add_session_expiry(bytes: &mut Vec<u8>, expiry_s: u32) {
    assert!(bytes[1] < 0x70, "one byte of length");
    bytes[1] += 5;
    // Fixed header 2, name 6, level 1, flags 1, keep-alive 2: the property length stands at 12.
    bytes[12] = 5;
    let mut property = vec![0x11];
    property.extend_from_slice(&expiry_s.to_be_bytes());
    bytes.splice(13..13, property);
}

/// A message to publish.
pub(crate) fn message(topic: &str, qos: u8, id: u16, payload: &[u8]) -> Message {
    let (topic, payload) = (topic.to_owned(), payload.to_vec());
    Message { dup: false, qos, retain: false, topic, id, payload }
}
