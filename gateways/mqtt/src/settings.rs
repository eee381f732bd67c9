//! What the MQTT gateway grants (design tenet 2): limits and capabilities. What the protocol can tell is told in
//! CONNACK; what is told is what holds.

use gateway_core::rate_limit::ClientRates;

/// Settings of the MQTT gateway. Whoever fills them keeps the ranges named; [`Settings::default`] is what holds
/// without configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a packet, told as Maximum Packet Size; a larger one ends the connection (0x95). At least 1,024. The
    /// default is 16 MiB and what stands around the payload.
    pub packet_bytes_max: u32,
    /// Publishes of QoS ≥ 1 that a client may have unanswered, told as Receive Maximum (design G2): 1 to 256. One more
    /// ends the connection (0x93). Before 5.0 clients cannot be told: only QoS 2 is counted.
    pub inflight_in_max: u16,
    /// Messages in flight to a client that names no Receive Maximum, and the most to any (R8): 1 to 1,000.
    pub window_max: u16,
    /// Messages of QoS ≥ 1 that may wait behind the window of a transient session (R8); one more ends it (0x97).
    pub pending_max: u32,
    /// Bytes of them, or four times the next message if that is more (ADR 0010).
    pub pending_bytes_max: u64,
    /// Bytes that may wait for a client that does not read, or four times the next message if that is more (ADR 0010).
    /// Beyond it QoS 0 is dropped and counted, QoS ≥ 1 waits behind the window.
    pub out_bytes_max: u64,
    /// Topic aliases a client may use, told as Topic Alias Maximum; 0 = none.
    pub topic_alias_max: u16,
    /// Topic aliases used towards a client that allows as many; 0 = none. The first topics sent get them.
    pub topic_alias_out_max: u16,
    /// Subscriptions of one client; one more is refused (0x97).
    pub subscriptions_max: u32,
    /// Levels of a topic name (0x90) or filter (0x8F).
    pub topic_levels_max: u32,
    /// Bytes of a client identifier; a longer one is refused (0x85). At least 23.
    pub client_id_bytes_max: u32,
    /// Longest keep-alive granted to MQTT 5 clients, s; who asks for more, or for none, is told this one. 0 = any.
    pub keep_alive_s_max: u16,
    /// Time a connection may take until its CONNECT is complete, authentication included, s.
    pub connect_s_max: u32,
    /// Time a new connection waits for the one it takes over, s.
    pub takeover_s_max: u32,
    /// Longest time a session outlives its connection, s; who asks for more is told this one. `u32::MAX` = for ever.
    pub session_expiry_s_max: u32,
    /// Highest QoS clients may publish with, told as Maximum QoS: 0 to 2. More ends the connection (0x9B); a
    /// subscription is granted at most this.
    pub qos_max: u8,
    /// Retained messages are kept, told as Retain Available; else retain = 1 ends the connection (0x9A).
    pub retain_available: bool,
    /// Filters may have wildcards, told as Wildcard Subscription Available; else refused (0xA2).
    pub wildcard_available: bool,
    /// Subscriptions may have identifiers, told as Subscription Identifiers Available; else refused (0xA1).
    pub subscription_ids_available: bool,
    /// Who sends no client identifier is given one; else he is refused (0x85).
    pub empty_client_id: bool,
    /// What one client may send in a second.
    pub rates: ClientRates,
    /// Seconds between two publications of `$SYS` topics; 0 = there are none.
    pub sys_interval_s: u32,
    /// Where clients are sent when this server shuts down (0x9C and Server Reference); empty = nowhere (0x8B).
    pub server_reference: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            packet_bytes_max: 16 * 1024 * 1024 + 64 * 1024,
            inflight_in_max: 256,
            window_max: 1_000,
            pending_max: 1_000,
            pending_bytes_max: 1024 * 1024,
            out_bytes_max: 1024 * 1024,
            topic_alias_max: 32,
            topic_alias_out_max: 16,
            subscriptions_max: 1_024,
            topic_levels_max: 128,
            client_id_bytes_max: 1_024,
            keep_alive_s_max: 3_600,
            connect_s_max: 10,
            takeover_s_max: 2,
            session_expiry_s_max: u32::MAX,
            qos_max: 2,
            retain_available: true,
            wildcard_available: true,
            subscription_ids_available: true,
            empty_client_id: true,
            rates: ClientRates::default(),
            sys_interval_s: 10,
            server_reference: String::new(),
        }
    }
}

impl From<&fluxmq_process::Settings> for Settings {
    fn from(settings: &fluxmq_process::Settings) -> Self {
        let mqtt = &settings.mqtt;
        Self {
            packet_bytes_max: mqtt.packet_bytes_max,
            inflight_in_max: mqtt.inflight_in_max,
            window_max: mqtt.window_max,
            pending_max: mqtt.pending_max,
            pending_bytes_max: mqtt.pending_bytes_max,
            out_bytes_max: mqtt.out_bytes_max,
            topic_alias_max: mqtt.topic_alias_max,
            subscriptions_max: mqtt.subscriptions_max,
            topic_levels_max: mqtt.topic_levels_max,
            client_id_bytes_max: mqtt.client_id_bytes_max,
            keep_alive_s_max: mqtt.keep_alive_s_max,
            connect_s_max: mqtt.connect_s_max,
            takeover_s_max: mqtt.takeover_s_max,
            topic_alias_out_max: mqtt.topic_alias_out_max,
            session_expiry_s_max: mqtt.session_expiry_s_max,
            qos_max: mqtt.qos_max.min(2) as u8,
            retain_available: mqtt.retain_available,
            wildcard_available: mqtt.wildcard_available,
            subscription_ids_available: mqtt.subscription_ids_available,
            empty_client_id: mqtt.empty_client_id,
            rates: ClientRates {
                messages_per_s: mqtt.messages_per_s,
                bytes_per_s: mqtt.bytes_per_s,
                subscriptions_per_s: mqtt.subscriptions_per_s,
            },
            sys_interval_s: mqtt.sys_interval_s,
            server_reference: mqtt.server_reference.0.clone(),
        }
    }
}

// === impl Settings ===

impl Settings {
    /// Whether `more` bytes have room where `waiting` wait and `max` is the limit: a few messages of any size do
    /// (ADR 0010).
    pub(crate) fn has_room(waiting: usize, more: usize, max: u64) -> bool {
        let limit = max.max(4 * more as u64);
        (waiting + more) as u64 <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_messages_of_any_size_have_room() {
        const MIB: usize = 1024 * 1024;
        let room = |waiting, more| Settings::has_room(waiting, more, MIB as u64);
        assert!(room(0, MIB) && room(3 * MIB, MIB) && !room(3 * MIB + 1, MIB));
        assert!(room(MIB - 100, 100) && !room(MIB - 99, 100), "small ones share the limit");
        assert!(room(0, 16 * MIB), "the largest fits four times");
    }
}
