//! MQTT 3.1, 3.1.1 and 5.0 packets, sans I/O: bytes to borrowed packets and back.
//!
//! A server reads into a buffer and calls [`frame::peek`] for the length of the next packet: None asks for
//! more bytes, an error ends the connection before the packet has been read. The first packet is given to
//! [`Connect::decode`], which finds the [`Version`]; all later ones to [`Packet::decode_body`]. Packets
//! borrow from the buffer; but for a CONNECT nothing is copied or allocated while decoding. Answers are
//! appended to a `Vec<u8>` by the functions in [`encode`], PUBLISH by [`encode::PublishFrame`]. A client
//! does the same with [`ServerPacket::decode`].
//!
//! ```
//! use mqtt_codec::{DecodeError, Packet, PacketType, QoS, ReasonCode, Version, encode, frame};
//!
//! /// Answers all whole packets in `input`; returns how many bytes they took.
//! fn answer(input: &[u8], version: Version, out: &mut Vec<u8>) -> Result<usize, DecodeError> {
//!     let mut at = 0;
//!     while let Some(header) = frame::peek(&input[at..], 1 << 20)? {
//!         let Some(bytes) = input.get(at..at + header.total_len()) else { break };
//!         match Packet::decode_body(&header, &bytes[header.header_len..], version)? {
//!             Packet::Publish(p) if p.qos == QoS::AtLeastOnce => {
//!                 let success = ReasonCode::SUCCESS;
//!                 encode::acknowledgement(out, version, PacketType::Puback, p.packet_id, success);
//!             }
//!             Packet::Pingreq => encode::pingresp(out),
//!             _ => {}
//!         }
//!         at += bytes.len();
//!     }
//!     Ok(at)
//! }
//!
//! let input = [0xC0, 0, 0x32, 6, 0, 1, b't', 0, 7, b'x', 0x30, 9];
//! let mut out = Vec::new();
//! assert_eq!(answer(&input, Version::V311, &mut out), Ok(10));
//! assert_eq!(out, [0xD0, 0, 0x40, 2, 0, 7]);
//! ```
//!
//! Everything that can be checked without a session is checked here: UTF-8 (MQTT 5 §1.5.4), flags,
//! reserved bits, lengths, properties and their ranges, topic names and filters (§4.7). What depends on
//! the session (unknown aliases, packet ids in use, receive maximum, empty client ids) is the caller's.
//! [`DecodeError::reason`] is the MQTT 5 reason code of the defect. No input makes this crate panic.

mod ack;
mod connect;
mod disconnect;
pub mod encode;
mod error;
pub mod frame;
mod from_server;
mod packet;
mod properties;
mod publish;
mod reason;
mod subscribe;
pub mod topic;
mod wire;

pub use ack::Acknowledgement;
pub use connect::{Connect, Will};
pub use disconnect::{Auth, Disconnect};
pub use error::{DecodeError, Defect};
pub use from_server::{Connack, ServerPacket, Suback};
pub use packet::{Packet, PacketType};
pub use properties::{Properties, PropertyId, Value};
pub use publish::Publish;
pub use reason::ReasonCode;
pub use subscribe::{Subscribe, SubscribeOptions, Unsubscribe};
pub use topic::{matches, validate_filter, validate_topic};

/// Protocol version of a connection (MQTT 5 §3.1.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3.
    V3,
    /// MQTT 3.1.1, level 4.
    V311,
    /// MQTT 5.0.
    V5,
}

/// Quality of service (§4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// 0: sent once, no answer.
    AtMostOnce = 0,
    /// 1: PUBACK.
    AtLeastOnce = 1,
    /// 2: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

// === impl QoS ===

impl QoS {
    /// From the two bits of a flag byte; 3 is malformed (MQTT-3.3.1-4).
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}
