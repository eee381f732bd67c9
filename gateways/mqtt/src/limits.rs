//! What one MQTT client may take (design tenet 2). Advertised in CONNACK where the protocol can.

/// Publishes of QoS ≥ 1 that a client may have unanswered: Receive Maximum (design G2).
pub const INFLIGHT_IN_MAX: u16 = 256;
/// Messages in flight to a client that names no Receive Maximum, and the most to any (R8).
pub const WINDOW_MAX: u16 = 1_000;
/// Messages of QoS ≥ 1 that may wait behind the window of a transient session (R8).
pub const PENDING_MAX: usize = 1_000;
/// Bytes of them.
pub const PENDING_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that may wait for a client that does not read; beyond it R8 holds.
pub const OUT_BYTES_MAX: usize = 1024 * 1024;
/// Topic aliases a client may use.
pub const TOPIC_ALIAS_MAX: u16 = 32;
/// Subscriptions of one client.
pub const SUBSCRIPTIONS_MAX: usize = 1_024;
/// Levels of a topic name or filter.
pub const TOPIC_LEVELS_MAX: usize = 128;
/// Bytes of a packet, 16 MiB and what stands around the payload.
pub const PACKET_BYTES_MAX: u32 = 16 * 1024 * 1024 + 64 * 1024;
/// Bytes of a client identifier.
pub const CLIENT_ID_BYTES_MAX: usize = 1_024;
/// Longest keep-alive granted to MQTT 5 clients, seconds; a longer one is answered with it.
pub const KEEP_ALIVE_S_MAX: u16 = 3_600;
/// Seconds a connection may take until its CONNECT is complete.
pub const CONNECT_S_MAX: u64 = 10;
/// Seconds a new connection waits for the one it takes over.
pub const TAKEOVER_S_MAX: u64 = 2;
