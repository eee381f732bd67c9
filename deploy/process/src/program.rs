//! Which of our processes this is.

use std::fmt;

/// A process of ours. Settings, listeners and defaults differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// All of the broker in one process.
    Fluxmq,
    /// The storage daemon.
    Logd,
    /// The MQTT gateway.
    MqttGateway,
}

// === impl Program ===

impl Program {
    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fluxmq => "fluxmq",
            Self::Logd => "logd",
            Self::MqttGateway => "mqtt-gateway",
        }
    }

    /// How anonymous clients are allowed where others can reach a listener. Only `fluxmq` has a flag for it.
    pub(crate) fn how_to_allow_anonymous(self) -> &'static str {
        match self {
            Self::Fluxmq => "say --allow-anonymous",
            Self::Logd | Self::MqttGateway => "set security.allow_anonymous: true",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
