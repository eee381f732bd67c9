//! What can be wrong with a packet.

use crate::reason::ReasonCode;

/// Kinds of defects, by the reason code they are answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// 0x81: the bytes cannot be parsed.
    Malformed,
    /// 0x82: a value that is not allowed there.
    Protocol,
    /// 0x84 (3.1.1: CONNACK 0x01): the protocol or its version is not spoken here.
    UnsupportedVersion,
    /// 0x85 (3.1.1: CONNACK 0x02).
    ClientId,
    /// 0x8F: a topic filter that is not well-formed.
    TopicFilter,
    /// 0x90: a topic name that is not well-formed.
    TopicName,
    /// 0x94: a topic alias of 0.
    TopicAlias,
    /// 0x95: larger than the receiver takes.
    TooLarge,
}

/// A packet that breaks the rules; what and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DecodeError {
    /// The kind of defect.
    pub defect: Defect,
    /// Lower-case description, for logs and reason strings.
    pub what: &'static str,
}

// === impl DecodeError ===

impl DecodeError {
    pub(crate) const fn malformed(what: &'static str) -> Self {
        Self { defect: Defect::Malformed, what }
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self { defect: Defect::Protocol, what }
    }

    pub(crate) const fn new(defect: Defect, what: &'static str) -> Self {
        Self { defect, what }
    }

    /// The MQTT 5 reason code that says so.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        match self.defect {
            Defect::Malformed => ReasonCode::MALFORMED_PACKET,
            Defect::Protocol => ReasonCode::PROTOCOL_ERROR,
            Defect::UnsupportedVersion => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Defect::ClientId => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Defect::TopicFilter => ReasonCode::TOPIC_FILTER_INVALID,
            Defect::TopicName => ReasonCode::TOPIC_NAME_INVALID,
            Defect::TopicAlias => ReasonCode::TOPIC_ALIAS_INVALID,
            Defect::TooLarge => ReasonCode::PACKET_TOO_LARGE,
        }
    }
}
