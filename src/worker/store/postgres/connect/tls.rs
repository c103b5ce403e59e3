//! The TLS configuration of a connection.

use std::path::Path;

use secrecy::SecretSlice;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::options::{PostgresOptions, TlsMode};
use crate::net::{TlsOptions, VerifiedName};

/// Reads the files and builds the connector of a new connection. Files are read each time, so that they can be rotated.
pub fn connector(options: &PostgresOptions) -> Result<MakeRustlsConnect, String> {
    let ca = options.ca_file.as_deref().map(|file| read(file, "the certificate authorities")).transpose()?;
    let client = match &options.client_certificate {
        Some((certificate, key)) => Some((
            read(certificate, "the client certificate")?,
            SecretSlice::from(read(key, "the key of the client certificate")?),
        )),
        None => None,
    };
    let insecure = match options.tls {
        TlsMode::Disable | TlsMode::Prefer => true,
        // As for PostgreSQL's own programs, authorities that are given are enforced.
        TlsMode::Require => ca.is_none(),
        TlsMode::VerifyCa | TlsMode::VerifyFull => false,
    };
    let name = match options.tls {
        TlsMode::VerifyFull => VerifiedName::Host,
        _ => VerifiedName::Any,
    };
    let mut config = TlsOptions { ca, client, insecure }.config_for(name).map_err(|e| e.to_string())?;
    // Servers from version 17 require it when the client starts with TLS.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

fn read(file: &Path, what: &str) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{what} cannot be read: {}: {error}", file.display()))
}
