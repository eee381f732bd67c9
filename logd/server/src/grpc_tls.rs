//! TLS between the tiers, and towards programs: by files that the configuration names.

use fluxmq_process::Settings;
use fluxmq_process::startup::pem_file;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// TLS of the gRPC listeners, all PEM.
#[derive(Clone)]
pub struct GrpcTls {
    /// Certificate chain, our own first.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// Who signs the certificates of those who come; None = nobody is asked for one.
    pub client_authorities: Option<Vec<u8>>,
}

impl std::fmt::Debug for GrpcTls {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcTls").finish_non_exhaustive()
    }
}

// === impl GrpcTls ===

impl GrpcTls {
    /// Reads the files that `settings` name.
    ///
    /// # Errors
    /// A file that cannot be read or is no PEM; a certificate without a key, or the reverse.
    pub fn read(settings: &Settings) -> Result<Option<Self>, Vec<String>> {
        let grpc = &settings.grpc;
        let certificate = pem_file("grpc.certificate", &grpc.certificate)?;
        let key = pem_file("grpc.key", &grpc.key)?;
        let client_authorities = pem_file("grpc.client_authorities", &grpc.client_authorities)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Ok(Some(Self { certificate, key, client_authorities }))
            }
            (None, None) if client_authorities.is_none() => Ok(None),
            (None, None) => {
                Err(vec!["grpc.client_authorities needs grpc.certificate and grpc.key".into()])
            }
            _ => Err(vec!["grpc.certificate and grpc.key need each other".into()]),
        }
    }

    pub(crate) fn config(&self) -> ServerTlsConfig {
        let identity = Identity::from_pem(&self.certificate, &self.key);
        let config = ServerTlsConfig::new().identity(identity);
        match &self.client_authorities {
            Some(pem) => config.client_ca_root(Certificate::from_pem(pem)),
            None => config,
        }
    }
}
