//! Every key there is: type, default, limits and what it does. `docs/configuration.md` is written from here.

use super::declare;
use super::value::{DataDir, LogLevel, LogdUrls};
use crate::listen::ListenAddress;
use crate::program::Program::{Fluxmq, Logd, MqttGateway};

declare! {
    /// What this node keeps and where.
    node: NodeSettings / NodeLayer for [Fluxmq, Logd] {
        /// Directory of the log, made if it is missing; `memory` keeps everything in memory and nothing survives the process.
        data_dir: DataDir = DataDir::At("fluxmq-data".into());
        /// Data shards. Fixed when the data directory is made; another number is refused afterwards.
        shards: u32 = 1, 1..=64;
    }

    /// How the log is written. The defaults are measured; change them with a measurement.
    storage: StorageSettings / StorageLayer for [Fluxmq, Logd] {
        /// Under load a commit round begins at the earliest this long after the last began, µs; 0 = at once.
        /// More makes rounds larger and cheaper, and acknowledgements later.
        commit_interval_us: u64 = 300, 0..=1_000_000;
        /// Waiting bytes that begin a commit round before the interval is over.
        commit_bytes: u64 = 128 * 1024, 4_096..=64 * 1024 * 1024;
        /// Bytes that may wait for the disk in one shard; beyond it publishes are refused.
        queue_bytes_max: u64 = 256 * 1024 * 1024, 32 * 1024 * 1024..=16 * 1024 * 1024 * 1024;
        /// Capacity of a shard's first segment, bytes; every next one is twice as large, up to `segment_bytes_max`.
        segment_bytes_first: u64 = 1024 * 1024, 16 * 1024..=1024 * 1024 * 1024;
        /// Largest capacity of a segment, bytes.
        segment_bytes_max: u64 = 64 * 1024 * 1024, 16 * 1024..=1024 * 1024 * 1024;
        /// Free space of the disk below which publishes are refused, bytes; 0 = 5 % of the disk, at most 256 MiB.
        low_water_bytes: u64 = 0, 0..=u64::MAX;
        /// Bytes that the log may take with `data_dir: memory`.
        memory_bytes_max: u64 = 16 * 1024 * 1024 * 1024, 64 * 1024 * 1024..=u64::MAX;
    }

    /// MQTT 3.1, 3.1.1 and 5 over TCP, and what one MQTT client may take, over whatever transport.
    mqtt: MqttSettings / MqttLayer for [Fluxmq, MqttGateway] {
        /// Where it is served.
        listen: ListenAddress = ListenAddress::Loopback(1883);
        /// Bytes of a packet, told to clients as Maximum Packet Size; a larger one ends the connection (0x95). The default
        /// is 16 MiB of payload and what stands around it.
        packet_bytes_max: u32 = 16 * 1024 * 1024 + 64 * 1024, 1_024..=16 * 1024 * 1024 + 64 * 1024;
        /// Publishes of QoS ≥ 1 that a client may have unanswered, told as Receive Maximum; one more ends the connection (0x93).
        inflight_in_max: u16 = 256, 1..=256;
        /// Messages in flight to a client that names no Receive Maximum, and the most to any.
        window_max: u16 = 1_000, 1..=1_000;
        /// Messages of QoS ≥ 1 that may wait behind the window of a session without expiry; one more ends the connection (0x97).
        pending_max: u32 = 1_000, 1..=1_000_000;
        /// Bytes of the messages that wait behind that window.
        pending_bytes_max: u64 = 1024 * 1024, 1_024..=1024 * 1024 * 1024;
        /// Bytes that may wait for a client that does not read; beyond it QoS 0 is dropped and counted, and QoS ≥ 1 ends
        /// the connection (0x97).
        out_bytes_max: u64 = 1024 * 1024, 1_024..=1024 * 1024 * 1024;
        /// Topic aliases a client may use, told as Topic Alias Maximum; 0 = none.
        topic_alias_max: u16 = 32, 0..=1_024;
        /// Subscriptions of one client; one more is refused (0x97).
        subscriptions_max: u32 = 1_024, 1..=1_024;
        /// Levels of a topic filter; a longer one is refused (0x8F).
        topic_levels_max: u32 = 128, 1..=65_535;
        /// Bytes of a client identifier; a longer one is refused (0x85).
        client_id_bytes_max: u32 = 1_024, 23..=65_535;
        /// Longest keep-alive, s. MQTT 5 clients that ask for more, or for none, are told this one.
        keep_alive_s_max: u16 = 3_600, 5..=65_535;
        /// Time a connection may take until its CONNECT is complete, s; then it is closed.
        connect_s_max: u32 = 10, 1..=3_600;
        /// Time a new connection waits for the one whose session it takes over, s.
        takeover_s_max: u32 = 2, 0..=60;
    }

    /// MQTT over WebSocket, path `/mqtt`. Not built yet: the address is checked, nothing listens.
    mqtt_ws: MqttWsSettings / MqttWsLayer for [Fluxmq, MqttGateway] {
        /// Where it is served.
        listen: ListenAddress = ListenAddress::Loopback(8083);
    }

    /// AMQP 0.9.1 and 1.0 on one port. Not built yet: the address is checked, nothing listens.
    amqp: AmqpSettings / AmqpLayer for [Fluxmq] {
        /// Where it is served.
        listen: ListenAddress = ListenAddress::Loopback(5672);
    }

    /// The HTTP API. Not built yet: the address is checked, nothing listens.
    http: HttpSettings / HttpLayer for [Fluxmq] {
        /// Where it is served.
        listen: ListenAddress = ListenAddress::Loopback(8080);
    }

    /// CoAP. Not built yet: the address is checked, nothing listens.
    coap: CoapSettings / CoapLayer for [Fluxmq] {
        /// Where it is served (UDP).
        listen: ListenAddress = ListenAddress::Loopback(5683);
    }

    /// The gRPC contract between gateways, clients and the log.
    grpc: GrpcSettings / GrpcLayer for [Fluxmq, Logd] {
        /// Where it is served.
        listen: ListenAddress = ListenAddress::Loopback(7400);
    }

    /// Health and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`.
    admin: AdminSettings / AdminLayer for [Fluxmq, Logd, MqttGateway] {
        /// Where it is served. In `mqtt-gateway` the default port is 8091.
        listen: ListenAddress = ListenAddress::Loopback(8081);
    }

    /// The log a gateway of its own process works for.
    logd: LogdSettings / LogdLayer for [MqttGateway] {
        /// Where `logd` serves gRPC: one URL or several.
        urls: LogdUrls = LogdUrls::default();
    }

    /// Who may come in.
    security: SecuritySettings / SecurityLayer for [Fluxmq, Logd, MqttGateway] {
        /// Let anyone in also where others can reach a listener. Without it such an address is refused at the start.
        allow_anonymous: bool = false;
    }

    /// What the process writes to standard error.
    log: LogSettings / LogLayer for [Fluxmq, Logd, MqttGateway] {
        /// `error`, `warn`, `info`, `debug`, `trace` or `off`, also by module: `warn,mqtt_gateway=debug`.
        level: LogLevel = LogLevel::default();
    }
}
