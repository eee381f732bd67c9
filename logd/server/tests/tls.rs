//! TLS between programs and `logd`: who is believed, and who is not.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::net::TcpListener;
use std::sync::Arc;

use fluxmq_client::{Client, ClientError, ClientOptions, QueueOptions, Tls};
use logd::{Config, GrpcTls, Running, start};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Who signs, and its certificate as PEM.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: Vec<u8>,
}

// === impl Authority ===

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key, PEM.
    fn issue(&self) -> (Vec<u8>, Vec<u8>) {
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// A `logd` in memory, and its port.
fn node(authority: &Authority, client_authorities: Option<Vec<u8>>) -> (Running, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (certificate, key) = authority.issue();
    let grpc_tls = Some(GrpcTls { certificate, key, client_authorities });
    let config =
        Config { data_dir: None, grpc: vec![Arc::new(listener)], grpc_tls, ..Config::default() };
    (start(config).unwrap(), port)
}

async fn connect(url: String, tls: Option<Tls>) -> Result<Client, ClientError> {
    Client::connect_with(ClientOptions { urls: vec![url], tls, ..ClientOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_stores_and_reads_over_tls() {
    let (ours, others) = (Authority::new(), Authority::new());
    let (_logd, port) = node(&ours, None);
    let url = format!("https://localhost:{port}");
    let tls =
        |authority: &Authority| Some(Tls { authorities: authority.pem.clone(), identity: None });
    let client = connect(url.clone(), tls(&ours)).await.unwrap();
    client.declare("q", &QueueOptions::work()).await.unwrap();
    let publisher = client.publisher("q").await.unwrap();
    publisher.publish("m").await.unwrap().stored().await.unwrap();
    let mut consumer = client.consumer("q").open().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().message().payload(), b"m"[..]);
    for (url, tls, why) in [
        (url.clone(), tls(&others), "certificate"),
        (url.clone(), None, "authorities"),
        (format!("https://127.0.0.1:{port}"), tls(&ours), "certificate"),
        (format!("http://localhost:{port}"), None, ""),
    ] {
        let refused = connect(url, tls).await.err().unwrap().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_of_a_client_authority_is_refused() {
    let (server, clients) = (Authority::new(), Authority::new());
    let (_logd, port) = node(&server, Some(clients.pem.clone()));
    let url = format!("https://localhost:{port}");
    let tls = |identity| Some(Tls { authorities: server.pem.clone(), identity });
    let client = connect(url.clone(), tls(Some(clients.issue()))).await.unwrap();
    assert!(client.declare("q", &QueueOptions::work()).await.unwrap());
    assert!(connect(url.clone(), tls(Some(server.issue()))).await.is_err(), "of another authority");
    assert!(connect(url, tls(None)).await.is_err(), "without one");
}

#[test]
fn what_is_no_certificate_keeps_it_from_starting() {
    let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
    let grpc_tls = Some(GrpcTls { certificate: pem.clone(), key: pem, client_authorities: None });
    let failed = start(Config { data_dir: None, grpc_tls, ..Config::default() }).err().unwrap();
    assert!(failed.to_string().starts_with("TLS of gRPC: "), "{failed}");
}
