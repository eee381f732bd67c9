//! TLS 1.2 and 1.3 by rustls: certificates from PEM files, read again when they change, and users from client
//! certificates (design §9).

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is asked of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Nothing.
    #[default]
    None,
    /// A certificate, if they have one, that our authorities signed.
    Optional,
    /// Such a certificate, or there is no connection.
    Required,
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificate chain, PEM, our own first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities that sign client certificates, PEM; needed where they are asked for.
    pub client_authorities: Option<PathBuf>,
    /// What is asked of clients.
    pub client_certificate: ClientCertificate,
    /// The common name of a client's certificate is its user name, and needs no password.
    pub user_from_certificate: bool,
    /// TLS 1.2 is refused.
    pub only_tls13: bool,
}

/// The TLS of a listener as it stands in its files now.
pub struct Tls {
    config: TlsConfig,
    /// Protocols to choose from (ALPN); empty = the client's offer is not looked at.
    alpn: Vec<Vec<u8>>,
    current: RefCell<Arc<ServerConfig>>,
    changed: Cell<Option<SystemTime>>,
}

// === impl Tls ===

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A line that names the file and what is wrong with it.
    pub fn new(config: TlsConfig, alpn: &[&str]) -> Result<Self, String> {
        let alpn: Vec<_> = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let changed = Cell::new(last_change(&config));
        let current = RefCell::new(server_config(&config, &alpn)?);
        Ok(Self { config, alpn, current, changed })
    }

    /// What a new connection is to use. Connections that are open keep what they have.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.borrow().clone()
    }

    /// Reads the files again if one of them changed; true when that gave a new certificate. What cannot be read leaves
    /// things as they were, and is tried again at the next change.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn reload_if_changed(&self) -> Result<bool, String> {
        let now = last_change(&self.config);
        if now.is_none() || now == self.changed.replace(now) {
            return Ok(false);
        }
        let fresh = server_config(&self.config, &self.alpn)?;
        *self.current.borrow_mut() = fresh;
        Ok(true)
    }

    /// The user a client's certificate names, where users are taken from certificates.
    #[must_use]
    pub fn user(&self, certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
        if !self.config.user_from_certificate {
            return None;
        }
        let (_, certificate) = X509Certificate::from_der(certificates?.first()?).ok()?;
        let mut names = certificate.subject().iter_common_name();
        names.next()?.as_str().ok().filter(|n| !n.is_empty()).map(str::to_owned)
    }
}

fn last_change(config: &TlsConfig) -> Option<SystemTime> {
    let files = [Some(&config.certificate), Some(&config.key), config.client_authorities.as_ref()];
    let changes = files.into_iter().flatten().map(|f| f.metadata().and_then(|m| m.modified()));
    changes.collect::<Result<Vec<_>, _>>().ok()?.into_iter().max()
}

fn server_config(config: &TlsConfig, alpn: &[Vec<u8>]) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let both = [&version::TLS13, &version::TLS12];
    let versions = if config.only_tls13 { &both[..1] } else { &both[..] };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?;
    let builder = match config.client_certificate {
        ClientCertificate::None => builder.with_no_client_auth(),
        asked => {
            let file = config.client_authorities.as_deref();
            let file =
                file.ok_or("client certificates are asked for without client authorities")?;
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|e| said(file, &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = match asked {
                ClientCertificate::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| said(file, &e))?)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|e| said(&config.key, &e))?;
    let mut server = builder
        .with_single_cert(certificates(&config.certificate)?, key)
        .map_err(|e| said(&config.certificate, &e))?;
    server.alpn_protocols = alpn.to_vec();
    Ok(Arc::new(server))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|e| said(file, &e))?.collect();
    let all = all.map_err(|e| said(file, &e))?;
    if all.is_empty() { Err(said(file, &"no certificate in it")) } else { Ok(all) }
}

fn said(file: &Path, what: &dyn std::fmt::Display) -> String {
    format!("{}: {what}", file.display())
}
