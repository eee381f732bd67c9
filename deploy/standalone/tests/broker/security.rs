//! TLS listeners, users, rules and client ids from a YAML file, and a process that listens on a port twice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::security::hash_password;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::process::{binary, free_port, run};
use crate::settings::Configured;

/// CONNECT of 3.1.1 with a clean session; user and password where they are given.
fn connect(id: &str, user: Option<(&str, &str)>) -> Vec<u8> {
    let flags = if user.is_some() { 0xC2 } else { 0x02 };
    let mut body = b"\0\x04MQTT\x04".to_vec();
    body.extend([flags, 0, 0]);
    for text in [Some(id), user.map(|u| u.0), user.map(|u| u.1)].into_iter().flatten() {
        body.extend([0, text.len() as u8]);
        body.extend(text.as_bytes());
    }
    [&[0x10, body.len() as u8][..], &body].concat()
}

/// Sends `packet` and reads as many bytes as wanted.
fn ask<const N: usize>(io: &mut (impl Read + Write), packet: &[u8]) -> [u8; N] {
    io.write_all(packet).and_then(|()| io.flush()).expect("sent");
    let mut answer = [0; N];
    io.read_exact(&mut answer).expect("answered");
    answer
}

fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    stream
}

fn tls(
    port: u16,
    certificate: &CertificateDer<'static>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    StreamOwned::new(connection, tcp(port))
}

#[test]
fn tls_listeners_are_started_from_a_file() {
    let place = Configured::new();
    let (secure, web) = (free_port(), free_port());
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".into()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("signed");
    std::fs::write(place.dir.path().join("cert.pem"), certificate.pem()).expect("written");
    std::fs::write(place.dir.path().join("key.pem"), key.serialize_pem()).expect("written");
    let text = format!(
        "node:\n  data_dir: memory\nmqtt_tls:\n  listen: 127.0.0.1:{secure}\n  listen_ws: 127.0.0.1:{web}\n  \
         certificate: cert.pem\n  key: key.pem\n"
    );
    let started = run(&mut place.command(&text));
    assert!(started.said(&format!("mqtt-tls on 127.0.0.1:{secure}")), "{:?}", started.lines);
    assert!(started.said(&format!("mqtt-wss on 127.0.0.1:{web}")), "{:?}", started.lines);
    let mut io = tls(secure, certificate.der());
    assert_eq!(ask(&mut io, &connect("c", None)), [0x20, 2, 0, 0]);
    assert_eq!(ask(&mut io, &[0xC0, 0]), [0xD0, 0]);
    let upgrade = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\n\r\n";
    let status: [u8; 12] = ask(&mut tls(web, certificate.der()), upgrade.as_bytes());
    assert_eq!(&status, b"HTTP/1.1 101");
    // Without TLS nobody is understood there.
    let mut plain = tcp(secure);
    plain.write_all(&connect("c", None)).expect("sent");
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert_ne!(said.first(), Some(&0x20));
    drop(started);
    // The port is taken: the hint names the key, because there is no flag.
    let taken = std::net::TcpListener::bind(("127.0.0.1", secure)).expect("free again");
    let refused = run(&mut place.command(&text));
    assert_eq!(refused.code(), Some(1));
    let said = refused.stderr();
    assert!(said.contains("mqtt_tls.listen: off") && !said.contains("--mqtt-tls"), "{said}");
    drop(taken);
}

#[test]
fn users_rules_and_client_ids_are_read_from_a_file() {
    let place = Configured::new();
    let hash = |password: &str| hash_password(password.as_bytes()).expect("random bytes");
    let text = format!(
        "node:\n  data_dir: memory\nsecurity:\n  users:\n    - name: ann\n      password_hash: {}\n    - name: bob\n      \
         password_hash: {}\n  client_ids: ['%u', '%u:*']\n  rules:\n    - {{effect: deny, topics: ['secret/#']}}\n    - \
         {{effect: allow, users: [ann], actions: [subscribe], topics: ['#']}}\n",
        hash("one"),
        hash("two")
    );
    let started = run(&mut place.command(&text));
    assert!(started.ready(), "{}", started.stderr());
    let connack = |id: &str, user: Option<(&str, &str)>| {
        ask::<4>(&mut tcp(place.port), &connect(id, user))[3]
    };
    assert_eq!(connack("ann", Some(("ann", "one"))), 0);
    assert_eq!(connack("bob:7", Some(("bob", "two"))), 0);
    assert_eq!(connack("ann", Some(("ann", "two"))), 4, "the password of another");
    assert_eq!(connack("ann", None), 5, "nobody without a name");
    assert_eq!(connack("ann", Some(("bob", "two"))), 5, "the client id of another");
    let suback = |user: (&str, &str), filter: &str| {
        let mut io = tcp(place.port);
        assert_eq!(ask::<4>(&mut io, &connect(user.0, Some(user)))[3], 0);
        let body = [&[0, 1, 0, filter.len() as u8][..], filter.as_bytes(), &[1]].concat();
        ask::<5>(&mut io, &[&[0x82, body.len() as u8][..], &body].concat())[4]
    };
    assert_eq!(suback(("ann", "one"), "open/+"), 1);
    assert_eq!(suback(("ann", "one"), "secret/x"), 0x80, "the first rule that fits decides");
    assert_eq!(suback(("bob", "two"), "open/+"), 0x80, "nothing allows it");
}

#[test]
fn gateway_and_logd_believe_certificates_from_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".into()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("signed");
    let written = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("utf-8").to_owned()
    };
    let (cert, key) =
        (written("cert.pem", certificate.pem()), written("key.pem", key.serialize_pem()));
    let port = free_port();
    let logd = |listen: String, authorities: &str| {
        let mut command = binary("logd");
        command.args(["--data-dir", "memory", "--grpc", &listen, "--admin", "off"]);
        command.env("FLUXMQ_GRPC_CERTIFICATE", &cert).env("FLUXMQ_GRPC_KEY", &key);
        command.env("FLUXMQ_GRPC_CLIENT_AUTHORITIES", authorities);
        command
    };
    // Where others can come, they have to be known.
    let refused = run(&mut logd(format!("0.0.0.0:{port}"), ""));
    assert_eq!(refused.code(), Some(1));
    let said = refused.stderr();
    assert!(said.contains("set grpc.client_authorities or"), "{said}");
    let logd = run(&mut logd(format!("0.0.0.0:{port}"), &cert));
    assert!(logd.ready(), "{}", logd.stderr());
    let mqtt = free_port();
    let gateway = |authorities: &str, key: &str| {
        let mut command = binary("mqtt-gateway");
        command.args(["--logd", &format!("https://localhost:{port}")]);
        command.args([
            "--mqtt",
            &format!("127.0.0.1:{mqtt}"),
            "--admin",
            "off",
            "--mqtt-ws",
            "off",
        ]);
        command.env("FLUXMQ_LOGD_AUTHORITIES", authorities);
        command.env("FLUXMQ_LOGD_CERTIFICATE", &cert).env("FLUXMQ_LOGD_KEY", key);
        command
    };
    for (authorities, key, wanted) in [
        ("", &*key, "set logd.authorities"),
        (&*cert, "", "logd.certificate and logd.key need each other"),
        ("/none.pem", &*key, "logd.authorities: /none.pem: "),
    ] {
        let refused = run(&mut gateway(authorities, key));
        assert_eq!(refused.code(), Some(1));
        let said = refused.stderr();
        assert!(said.contains(wanted), "{said}");
    }
    let gateway = run(&mut gateway(&cert, &key));
    assert!(gateway.ready(), "{}", gateway.stderr());
    assert_eq!(ask(&mut tcp(mqtt), &connect("c", None)), [0x20, 2, 0, 0]);
}
