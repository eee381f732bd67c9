//! WebSocket, TLS, PROXY protocol.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conformance::broker::{Broker, Options};
use conformance::wire::{Client, Connect, Socket, publish};
use gateway_core::admission::ConnectionLimits;
use gateway_core::authz::{Effect, RuleConfig};
use gateway_core::listener::ListenerConfig;
use gateway_core::security::SecurityConfig;
use gateway_core::tls::{ClientCertificate, TlsConfig};
use gateway_core::websocket::{Origins, WebSocketConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

/// A stream that a WebSocket or TLS can run over.
trait Under: Read + Write {
    fn tcp(&self) -> &TcpStream;
}

impl Under for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Under for TlsStream {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

struct Tls(TlsStream);

impl Read for Tls {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Tls {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Socket for Tls {
    fn wait_at_most(&self, limit: Duration) {
        self.0.sock.set_read_timeout(Some(limit)).expect("a socket");
    }
}

/// The client's side of a WebSocket (RFC 6455), written by hand.
struct WebSocket<S> {
    io: S,
    rest: Vec<u8>,
    /// Bytes of a frame that is written.
    frame_bytes: usize,
}

/// What an opening handshake says.
struct Opening<'a> {
    path: &'a str,
    protocol: Option<&'a str>,
    origin: Option<&'a str>,
}

const GOOD: Opening<'_> = Opening { path: "/mqtt", protocol: Some("mqtt"), origin: None };

impl<S: Under> WebSocket<S> {
    /// Sends the opening handshake; returns status and headers with it.
    fn open(mut io: S, opening: &Opening<'_>) -> (Self, u16, String) {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost:1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n",
            opening.path
        );
        for (name, value) in
            [("Sec-WebSocket-Protocol", opening.protocol), ("Origin", opening.origin)]
        {
            value.into_iter().for_each(|v| request += &format!("{name}: {v}\r\n"));
        }
        request += "\r\n";
        io.tcp().set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        io.write_all(request.as_bytes()).and_then(|()| io.flush()).expect("sent");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if io.read(&mut byte).unwrap_or(0) == 0 {
                break;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let status = head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
        (Self { io, rest: Vec::new(), frame_bytes: usize::MAX }, status, head)
    }

    fn frame(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        let mut bytes = vec![first];
        match payload.len() {
            n @ 0..=125 => bytes.push(0x80 | n as u8),
            n @ 126..=65_535 => {
                bytes.push(0x80 | 126);
                bytes.extend((n as u16).to_be_bytes());
            }
            n => {
                bytes.push(0x80 | 127);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        self.io.write_all(&bytes)?;
        self.io.flush()
    }

    fn read_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.io.read_exact(&mut head)?;
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                self.io.read_exact(&mut len)?;
                u16::from_be_bytes(len).into()
            }
            127 => {
                let mut len = [0; 8];
                self.io.read_exact(&mut len)?;
                usize::try_from(u64::from_be_bytes(len)).expect("short")
            }
            n => usize::from(n),
        };
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }
}

impl<S: Under> Read for WebSocket<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.read_frame()? {
                (0x82, payload) => self.rest = payload,
                (0x88, _) => return Ok(0),
                (first, _) => panic!("frame {first:#x}"),
            }
        }
        let count = buf.len().min(self.rest.len());
        buf[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

impl<S: Under> Write for WebSocket<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = buf.len().min(self.frame_bytes);
        self.frame(0x82, &buf[..count])?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Under> Socket for WebSocket<S> {
    fn wait_at_most(&self, limit: Duration) {
        self.io.tcp().set_read_timeout(Some(limit)).expect("a socket");
    }
}

fn tcp(at: SocketAddr) -> TcpStream {
    TcpStream::connect(at).expect("connects")
}

fn web_socket(origins: Origins) -> ListenerConfig {
    let web_socket = Some(WebSocketConfig { origins, ..WebSocketConfig::default() });
    ListenerConfig { web_socket, ..ListenerConfig::default() }
}

fn serve(listener: ListenerConfig) -> Broker {
    Broker::start(Options { listeners: vec![listener], ..Options::default() })
}

/// CONNECT, a subscription, messages of all sizes; over whatever the client runs.
fn talk(mut client: Client, id: &str) {
    let level = client.level;
    client.send(&Connect::new(level, id).bytes());
    assert_eq!(client.read().body[1], 0);
    client.subscribe(&[(id, 2)]);
    for (n, len) in [0usize, 1, 125, 126, 65_535, 65_536, 300_000].into_iter().enumerate() {
        let payload = vec![n as u8; len];
        client.publish(2 + 2 * (n as u8 % 2), id, 1, &payload);
        assert_eq!(client.receive().payload, payload);
    }
    client.disconnect();
}

/// 5.0: 6.0.0-1 6.0.0-2 6.0.0-3 6.0.0-4
/// 3.1.1: 6.0.0-1 6.0.0-2 6.0.0-3 6.0.0-4
#[test]
fn mqtt_travels_in_binary_frames_however_they_are_cut() {
    let broker = serve(web_socket(Origins::default()));
    for level in [3, 4, 5] {
        for frame_bytes in [1, 7, usize::MAX] {
            let (mut socket, status, head) = WebSocket::open(tcp(broker.address()), &GOOD);
            assert_eq!(status, 101, "{head}");
            assert!(head.to_lowercase().contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
            // 300,000 frames of one byte say no more than a few.
            if frame_bytes == 1 {
                socket.frame_bytes = 1;
                let mut client = Client::over(Box::new(socket), level);
                client.send(&Connect::new(level, "ws-one").bytes());
                assert_eq!(client.read().body[1], 0);
                client.nothing_more();
                continue;
            }
            socket.frame_bytes = frame_bytes.max(4_000);
            talk(Client::over(Box::new(socket), level), "ws");
        }
    }
    // Several packets in a frame, a ping of WebSocket between, an empty frame.
    let (mut socket, ..) = WebSocket::open(tcp(broker.address()), &GOOD);
    socket.frame(0x89, b"hello").expect("sent");
    assert_eq!(socket.read_frame().expect("a pong"), (0x8A, b"hello".to_vec()));
    socket.frame(0x82, b"").expect("sent");
    socket.frame(0x02, &Connect::new(4, "ws-many").bytes()[..5]).expect("sent");
    let rest = [&Connect::new(4, "ws-many").bytes()[5..], &[0xC0, 0, 0xC0, 0]].concat();
    socket.frame(0x80, &rest).expect("sent");
    let mut client = Client::over(Box::new(socket), 4);
    assert_eq!(client.read().first, 0x20);
    assert_eq!((client.read().first, client.read().first), (0xD0, 0xD0));
}

/// 5.0: 6.0.0-1
/// 3.1.1: 6.0.0-1
#[test]
fn a_text_frame_ends_the_connection() {
    let broker = serve(web_socket(Origins::default()));
    let (mut socket, status, _) = WebSocket::open(tcp(broker.address()), &GOOD);
    assert_eq!(status, 101);
    socket.frame(0x82, &Connect::new(4, "ws-text").bytes()).expect("sent");
    assert_eq!(socket.read_frame().expect("a CONNACK").0, 0x82);
    socket.frame(0x81, b"hello").expect("sent");
    match socket.read_frame() {
        Ok((first, reason)) => assert_eq!((first, &reason[..2]), (0x88, &[3, 0xEB][..]), "1003"),
        Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock),
    }
}

/// 5.0: 6.0.0-3 6.0.0-4
/// 3.1.1: 6.0.0-3 6.0.0-4
#[test]
fn the_opening_handshake_is_checked() {
    let page = "https://page.example";
    let these = Origins::These(vec![page.into()]);
    let (same, any) = (Origins::SameHost, Origins::Any);
    let opening = |path, protocol, origin| Opening { path, protocol, origin };
    for (origins, opening, want) in [
        (&same, GOOD, 101),
        (&same, opening("/", Some("mqtt"), None), 404),
        (&same, opening("/mqtt/x", Some("mqtt"), None), 404),
        (&same, opening("/mqtt?token=1", Some("mqtt"), None), 101),
        (&same, opening("/mqtt", None, None), 400),
        (&same, opening("/mqtt", Some("amqp"), None), 400),
        (&same, opening("/mqtt", Some("mqttv3.1, mqtt"), None), 101),
        (&same, opening("/mqtt", Some("mqtt"), Some("http://localhost:8080")), 101),
        (&same, opening("/mqtt", Some("mqtt"), Some(page)), 403),
        (&any, opening("/mqtt", Some("mqtt"), Some(page)), 101),
        (&these, opening("/mqtt", Some("mqtt"), Some(page)), 101),
        (&these, opening("/mqtt", Some("mqtt"), Some("https://other.example")), 403),
        (&these, opening("/mqtt", Some("mqtt"), None), 403),
    ] {
        let broker = serve(web_socket(origins.clone()));
        let (_, status, _) = WebSocket::open(tcp(broker.address()), &opening);
        let (path, protocol, origin) = (opening.path, opening.protocol, opening.origin);
        assert_eq!(status, want, "{path} {protocol:?} {origin:?} {origins:?}");
    }
    // Who speaks MQTT to it, or nothing, is not waited for.
    let listener = ListenerConfig { open_s_max: 1, ..web_socket(Origins::default()) };
    let broker = serve(listener);
    Client::open(broker.address(), 4).closed(0);
    let mut client = Client::open(broker.address(), 4);
    client.send(&Connect::new(4, "x").bytes());
    let _ = client.try_read(); // an HTTP error, perhaps
}

/// Authorities and certificates in a directory.
struct Certificates {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        let dir = TempDir::new().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("written");
        let authority = certificate.der().clone();
        Self { dir, issuer: Issuer::new(params, key), authority }
    }

    /// Writes `NAME.pem` and `NAME.key` for a common name.
    fn issue(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec!["localhost".into()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).expect("written");
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).expect("written");
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.dir.path().join(file)
    }

    fn config(&self, client_certificate: ClientCertificate) -> TlsConfig {
        TlsConfig {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_authorities: Some(self.path("ca.pem")),
            client_certificate,
            user_from_certificate: true,
            only_tls13: false,
        }
    }

    /// Opens TLS; None when it is refused at once (TLS 1.3 may refuse at the first read only).
    fn open(
        &self,
        at: SocketAddr,
        version: &'static rustls::SupportedProtocolVersion,
        own: Option<&str>,
    ) -> Option<TlsStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::pem_file_iter(self.path(&format!("{name}.pem")));
                let chain = chain.expect("read").collect::<Result<_, _>>().expect("certificates");
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key")));
                builder.with_client_auth_cert(chain, key.expect("read")).expect("a pair")
            }
        };
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut stream = StreamOwned::new(connection, tcp(at));
        stream.sock.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        stream.conn.complete_io(&mut stream.sock).ok()?;
        Some(stream)
    }
}

fn over(stream: TlsStream, level: u8) -> Client {
    Client::over(Box::new(Tls(stream)), level)
}

static V12: &rustls::SupportedProtocolVersion = &rustls::version::TLS12;
static V13: &rustls::SupportedProtocolVersion = &rustls::version::TLS13;

#[test]
fn tls_carries_mqtt_and_websocket() {
    let certificates = Certificates::new();
    certificates.issue("server", "server");
    let tls = Some(certificates.config(ClientCertificate::None));
    let plain = ListenerConfig { tls: tls.clone(), ..ListenerConfig::default() };
    let web = ListenerConfig { tls: tls.clone(), ..web_socket(Origins::default()) };
    let mut new = plain.clone();
    new.tls.as_mut().expect("set").only_tls13 = true;
    let broker = Broker::start(Options { listeners: vec![plain, web, new], ..Options::default() });
    for (n, version) in [V12, V13].into_iter().enumerate() {
        let stream = certificates.open(broker.addresses[0], version, None).expect("opened");
        talk(over(stream, 5), &format!("tls-{n}"));
        let stream = certificates.open(broker.addresses[1], version, None).expect("opened");
        let (socket, status, _) = WebSocket::open(stream, &GOOD);
        assert_eq!(status, 101);
        talk(Client::over(Box::new(socket), 4), &format!("wss-{n}"));
    }
    assert!(certificates.open(broker.addresses[2], V12, None).is_none(), "1.3 only");
    assert!(certificates.open(broker.addresses[2], V13, None).is_some());
    // Plain bytes to a TLS listener disturb nobody.
    let mut client = Client::open(broker.addresses[0], 4);
    client.send(&Connect::new(4, "x").bytes());
    let _ = client.try_read();
}

#[test]
fn a_client_certificate_is_asked_for_and_names_the_user() {
    let certificates = Certificates::new();
    for name in ["server", "ann", "bob"] {
        certificates.issue(name, name);
    }
    let stranger = Certificates::new();
    stranger.issue("eve", "eve");
    for file in ["eve.pem", "eve.key"] {
        std::fs::copy(stranger.path(file), certificates.path(file)).expect("copied");
    }
    let listener = |asked| ListenerConfig {
        tls: Some(certificates.config(asked)),
        ..ListenerConfig::default()
    };
    let rule = RuleConfig {
        effect: Effect::Allow,
        users: vec!["ann".into()],
        actions: Vec::new(),
        topics: vec!["%u/#".into()],
    };
    let deny = RuleConfig {
        effect: Effect::Deny,
        users: Vec::new(),
        topics: vec!["#".into()],
        ..rule.clone()
    };
    let security = SecurityConfig { rules: vec![rule, deny], ..SecurityConfig::default() };
    let listeners =
        vec![listener(ClientCertificate::Required), listener(ClientCertificate::Optional)];
    let broker = Broker::start(Options { listeners, security, ..Options::default() });
    for version in [V12, V13] {
        for at in &broker.addresses {
            for (name, code) in [("ann", 0x10), ("bob", 0x87)] {
                let stream = certificates.open(*at, version, Some(name)).expect("opened");
                let mut client = over(stream, 5);
                client.send(&Connect::new(5, "certified").bytes());
                assert_eq!(client.read().body[1], 0);
                assert_eq!(client.publish(2, "ann/x", 1, b"x"), code, "{name}");
                client.disconnect();
            }
            if let Some(stream) = certificates.open(*at, version, Some("eve")) {
                let mut client = over(stream, 5);
                client.send_anyway(&Connect::new(5, "eve").bytes());
                assert!(client.try_read().is_err(), "another authority's");
            }
        }
        if let Some(stream) = certificates.open(broker.addresses[0], version, None) {
            let mut client = over(stream, 5);
            client.send_anyway(&Connect::new(5, "none").bytes());
            assert!(client.try_read().is_err(), "none at all");
        }
        let stream = certificates.open(broker.addresses[1], version, None).expect("opened");
        let mut client = over(stream, 5);
        client.send(&Connect::new(5, "none").bytes());
        assert_eq!(client.read().body[1], 0, "a certificate is optional here");
        assert_eq!(client.publish(2, "ann/x", 1, b"x"), 0x87);
    }
}

#[test]
fn certificates_are_read_again_and_nobody_is_dropped() {
    let certificates = Certificates::new();
    certificates.issue("server", "first");
    let tls = gateway_core::tls::Tls::new(certificates.config(ClientCertificate::None), &[]);
    let tls = tls.expect("read");
    assert_eq!(tls.reload_if_changed(), Ok(false), "nothing changed");
    let before = tls.current();
    touch(&certificates.path("server.pem"), b"broken");
    assert!(tls.reload_if_changed().is_err());
    assert!(Arc::ptr_eq(&before, &tls.current()), "what was good stays");
    certificates.issue("server", "second");
    let now = std::time::SystemTime::now() + Duration::from_secs(5);
    std::fs::File::open(certificates.path("server.pem"))
        .and_then(|f| f.set_modified(now))
        .expect("set");
    assert_eq!(tls.reload_if_changed(), Ok(true));
    assert!(!Arc::ptr_eq(&before, &tls.current()));
}

/// Writes a file whose time is not the one before.
fn touch(file: &Path, bytes: &[u8]) {
    std::fs::write(file, bytes).expect("written");
    let later = std::time::SystemTime::now() + Duration::from_secs(2);
    std::fs::File::open(file).and_then(|f| f.set_modified(later)).expect("set");
}

#[test]
fn tls_files_that_are_wrong_are_named() {
    let certificates = Certificates::new();
    certificates.issue("server", "server");
    let good = certificates.config(ClientCertificate::Required);
    let none = certificates.path("none.pem");
    for bad in [
        TlsConfig { certificate: none.clone(), ..good.clone() },
        TlsConfig { key: none.clone(), ..good.clone() },
        TlsConfig { key: certificates.path("server.pem"), ..good.clone() },
        TlsConfig { client_authorities: Some(none), ..good.clone() },
    ] {
        let said = gateway_core::tls::Tls::new(bad, &[]).map(|_| ()).expect_err("it is wrong");
        assert!(said.contains(".pem"), "{said}");
    }
    assert!(
        gateway_core::tls::Tls::new(TlsConfig { client_authorities: None, ..good }, &[]).is_err()
    );
}

#[test]
fn a_proxy_says_where_a_connection_comes_from() {
    let limits = ConnectionLimits { connections_per_address_max: 1, ..ConnectionLimits::default() };
    let listener =
        ListenerConfig { proxy_protocol: true, limits, open_s_max: 1, ..ListenerConfig::default() };
    let broker = serve(listener);
    let header = |last: u8| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C".to_vec();
        bytes.extend([10, 0, 0, last, 127, 0, 0, 1, 1, 1, 2, 2]);
        bytes
    };
    let mut first = Client::open(broker.address(), 5);
    first.send(&[header(1), Connect::new(5, "proxied-1").bytes()].concat());
    assert_eq!(first.read().body[1], 0);
    let mut second = Client::open(broker.address(), 5);
    second.send(&[header(2), Connect::new(5, "proxied-2").bytes()].concat());
    assert_eq!(second.read().body[1], 0, "another address");
    let mut third = Client::open(broker.address(), 4);
    third.send_anyway(&[header(1), Connect::new(5, "proxied-3").bytes()].concat());
    third.closed(0); // a second connection from 10.0.0.1
    // Without a header there is no connection.
    let mut none = Client::open(broker.address(), 4);
    none.send(&Connect::new(4, "no-header").bytes());
    none.send(&publish(4, 0, "t", 0, &[], b"x"));
    none.closed(0);
    first.nothing_more();
}
