//! Every key there is: type, default, limits and what it does. `docs/configuration.md` is written from here.

use super::declare;
use super::security::{ClientCertificate, ClientIds, Origins, Rules, Text, Users};
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
        /// Messages that may wait for one MQTT session; beyond it the oldest are dropped and counted, those in flight spared.
        /// Looked at once a second and when it connects. Of a session whose filters overlap, the filter with the most counts.
        session_backlog_messages: u64 = 1_000_000, 1..=u64::MAX;
        /// Bytes of the messages that may wait for one MQTT session, likewise.
        session_backlog_bytes: u64 = 1024 * 1024 * 1024, 1..=u64::MAX;
        /// Retained messages of one shard. A publish that would make it one more is refused (MQTT 5: 0x97; before 5.0 the
        /// connection is closed; of QoS 0 nobody is told) and counted. What replaces or deletes one is always taken.
        retained_messages_max: u64 = 1_000_000, 0..=10_000_000;
        /// Bytes of the retained messages of one shard, likewise.
        retained_bytes_max: u64 = 1024 * 1024 * 1024, 0..=u64::MAX;
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
        client_id_bytes_max: u32 = 1_024, 23..=4_096;
        /// Longest keep-alive, s. MQTT 5 clients that ask for more, or for none, are told this one.
        keep_alive_s_max: u16 = 3_600, 5..=65_535;
        /// Time a connection may take until its CONNECT is complete, s; then it is closed.
        connect_s_max: u32 = 10, 1..=3_600;
        /// Time a new connection waits for the one whose session it takes over, s.
        takeover_s_max: u32 = 2, 0..=60;
        /// Topic aliases used towards a client that allows as many; 0 = none.
        topic_alias_out_max: u16 = 16, 0..=1_024;
        /// Longest time a session outlives its connection, s; MQTT 5 clients that ask for more are told this one. The
        /// largest value means for ever.
        session_expiry_s_max: u32 = u32::MAX, 0..=u32::MAX;
        /// Highest QoS clients may publish with, told as Maximum QoS; more ends the connection (0x9B), and a subscription
        /// is granted at most this.
        qos_max: u16 = 2, 0..=2;
        /// Retained messages are kept, told as Retain Available; else a retained publish ends the connection (0x9A).
        retain_available: bool = true;
        /// Filters may have wildcards, told as Wildcard Subscription Available; else refused (0xA2).
        wildcard_available: bool = true;
        /// Subscriptions may have identifiers, told as Subscription Identifiers Available; else refused (0xA1).
        subscription_ids_available: bool = true;
        /// Who sends no client identifier is given one; else he is refused (0x85).
        empty_client_id: bool = true;
        /// Seconds between two publications of `$SYS` topics; 0 = there are none.
        sys_interval_s: u32 = 10, 0..=86_400;
        /// Where MQTT 5 clients are sent when the server shuts down (0x9C and Server Reference); empty = nowhere (0x8B).
        server_reference: Text = Text::default();
        /// Messages a client may send in a second; who sends more is not read for a while. 0 = any number.
        messages_per_s: u32 = 0, 0..=u32::MAX;
        /// Bytes of messages a client may send in a second; who sends more is not read for a while. 0 = any number.
        bytes_per_s: u32 = 0, 0..=u32::MAX;
        /// Filters a client may subscribe to in a second; who asks for more is not read for a while. 0 = any number.
        subscriptions_per_s: u32 = 0, 0..=u32::MAX;
        /// Connections at a time; one more is closed at once. 0 = any number.
        connections_max: u32 = 0, 0..=u32::MAX;
        /// Connections at a time from one address (of IPv6 the first 64 bits); one more is closed at once. 0 = any number.
        connections_per_address_max: u32 = 0, 0..=u32::MAX;
        /// New connections a second from one address; one more is closed at once. 0 = any number.
        connections_per_address_per_s: u32 = 0, 0..=u32::MAX;
        /// A proxy in front of all MQTT listeners says where connections come from (PROXY protocol version 2). They must be
        /// reachable through the proxy only.
        proxy_protocol: bool = false;
    }

    /// MQTT over WebSocket, subprotocol `mqtt`.
    mqtt_ws: MqttWsSettings / MqttWsLayer for [Fluxmq, MqttGateway] {
        /// Where it is served.
        listen: ListenAddress = ListenAddress::Loopback(8083);
        /// Path of the URL.
        path: Text = Text("/mqtt".into());
        /// From which pages a browser may connect: those of the same host on whatever port, any, or those listed. Programs
        /// name no origin and may connect unless there is a list.
        origins: Origins = Origins::SameHost;
    }

    /// MQTT over TLS 1.2 and 1.3, also over WebSocket. The files are read again when they change.
    mqtt_tls: MqttTlsSettings / MqttTlsLayer for [Fluxmq, MqttGateway] {
        /// Where MQTT over TLS is served.
        listen: ListenAddress = ListenAddress::Off;
        /// Where MQTT over WebSocket over TLS is served, with path and origins of `mqtt_ws`.
        listen_ws: ListenAddress = ListenAddress::Off;
        /// Certificate chain, a PEM file.
        certificate: Text = Text::default();
        /// Private key, a PEM file.
        key: Text = Text::default();
        /// Authorities that sign client certificates, a PEM file.
        client_authorities: Text = Text::default();
        /// Whether clients must have a certificate that such an authority signed.
        client_certificate: ClientCertificate = ClientCertificate::None;
        /// The common name of a client's certificate is its user name, and needs no password.
        user_from_certificate: bool = false;
        /// TLS 1.2 is refused.
        only_tls13: bool = false;
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
        /// Certificate chain, a PEM file. With it only TLS 1.2 and 1.3 are served there, and the addresses begin with
        /// `https://`. Read at the start.
        certificate: Text = Text::default();
        /// Private key, a PEM file.
        key: Text = Text::default();
        /// Authorities that sign the certificates of gateways and programs, a PEM file; who has none is refused. Who may come
        /// here may do anything: without it everybody may.
        client_authorities: Text = Text::default();
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
        /// Authorities that may have signed the certificate of `logd`, a PEM file; for `https://`. Read at the start.
        authorities: Text = Text::default();
        /// Our own certificate chain, a PEM file, for a `logd` with `grpc.client_authorities`.
        certificate: Text = Text::default();
        /// Its private key, a PEM file.
        key: Text = Text::default();
    }

    /// Who may come in.
    security: SecuritySettings / SecurityLayer for [Fluxmq, Logd, MqttGateway] {
        /// Let anyone in also where others can reach a listener. Without it such an address is refused at the start.
        allow_anonymous: bool = false;
        /// The users. Without any, everybody is let in under any name and password.
        users: Users = Users::default();
        /// Client identifiers that may be used, `%u` for the user name, `*` for anything: with `["%u", "%u:*"]` nobody takes over
        /// the session of another user. An MQTT client with another one is refused (0x87). None = any may be used by anybody.
        client_ids: ClientIds = ClientIds::default();
        /// What may be done; the first rule that fits decides. Where none fits it is denied once there is a user, else
        /// allowed.
        rules: Rules = Rules::default();
    }

    /// What the process writes to standard error.
    log: LogSettings / LogLayer for [Fluxmq, Logd, MqttGateway] {
        /// `error`, `warn`, `info`, `debug`, `trace` or `off`, also by module: `warn,mqtt_gateway=debug`.
        level: LogLevel = LogLevel::default();
    }
}
