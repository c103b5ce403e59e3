//! TLS of the listening ports. Reads the certificate and its key from files, and reloads them when they are replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret, SecretSlice};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::certificates;

/// Minimum interval between checks of the files, which new connections trigger. Certificates are usually replaced long
/// before they expire.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The server certificate of the listening ports.
pub struct ServerTls {
    cert: PathBuf,
    key: PathBuf,
    check_interval: Duration,
    current: Mutex<Current>,
}

struct Current {
    pems: Pems,
    checked_at: Instant,
    config: Arc<ServerConfig>,
}

/// The contents of the two files.
struct Pems {
    cert: Vec<u8>,
    key: SecretSlice<u8>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerTlsError {
    #[error("reading {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {problem}", .path.display())]
    Certificate { path: PathBuf, problem: String },
    #[error("{}: not a private key in PEM format", .path.display())]
    Key { path: PathBuf },
    #[error("the certificate and the key do not match: {0}")]
    Pair(rustls::Error),
}

impl ServerTls {
    /// Reads both files. Later changes are read when a connection is accepted.
    pub fn open(cert: &Path, key: &Path) -> Result<Self, ServerTlsError> {
        Self::with_check_interval(cert, key, CHECK_INTERVAL)
    }

    fn with_check_interval(
        cert: &Path,
        key: &Path,
        check_interval: Duration,
    ) -> Result<Self, ServerTlsError> {
        let pems = read(cert, key)?;
        let config = config(cert, key, &pems)?;
        let current = Mutex::new(Current { pems, checked_at: Instant::now(), config });
        Ok(ServerTls { cert: cert.to_owned(), key: key.to_owned(), check_interval, current })
    }

    /// Performs the TLS handshake of an accepted connection.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current());
        tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.map_err(io::Error::from)?
    }

    /// Returns the current configuration. Reads the files in place: they are small and checked rarely, so that a separate
    /// task is not worthwhile.
    fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock();
        if current.checked_at.elapsed() < self.check_interval {
            return current.config.clone();
        }
        current.checked_at = Instant::now();
        let newer = read(&self.cert, &self.key).and_then(|pems| {
            let is_same = pems.cert == current.pems.cert
                && pems.key.expose_secret() == current.pems.key.expose_secret();
            if is_same {
                Ok(None)
            } else {
                config(&self.cert, &self.key, &pems).map(|config| Some((pems, config)))
            }
        });
        match newer {
            Ok(None) => {}
            Ok(Some((pems, config))) => {
                tracing::info!("certificate reloaded");
                (current.pems, current.config) = (pems, config);
            }
            // For example, only one of the two files has been replaced yet.
            Err(error) => {
                tracing::warn!(%error, "certificate reload failed, keeping the current certificate")
            }
        }
        current.config.clone()
    }
}

fn read(cert: &Path, key: &Path) -> Result<Pems, ServerTlsError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ServerTlsError::Read { path: path.to_owned(), source })
    };
    Ok(Pems { cert: read(cert)?, key: read(key)?.into() })
}

fn config(cert: &Path, key: &Path, pems: &Pems) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let chain = certificates(&pems.cert)
        .map_err(|problem| ServerTlsError::Certificate { path: cert.to_owned(), problem })?;
    let private = PrivateKeyDer::from_pem_slice(pems.key.expose_secret())
        .map_err(|_| ServerTlsError::Key { path: key.to_owned() })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ServerTlsError::Pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(ServerTlsError::Pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::serve;
    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    fn write_pair(folder: &Path) -> String {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.join("tls.crt"), pair.cert.pem()).unwrap();
        pair.cert.pem()
    }

    /// Returns true if the port presents this certificate and responds.
    async fn presents(port: u16, certificate: &str) -> bool {
        let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
        client
            .get(format!("https://localhost:{port}/"))
            .send()
            .await
            .is_ok_and(|response| response.status() == 200)
    }

    #[tokio::test]
    async fn reloads_a_replaced_certificate_and_ignores_a_broken_one() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let first = write_pair(folder.path());
        let tls = ServerTls::with_check_interval(&cert, &key, Duration::ZERO).unwrap();
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/", get(|| async { "ok" }));
        let never = std::future::pending::<()>();
        tokio::spawn(serve::serve_tls(listener, router, Some(Arc::new(tls)), never));

        assert!(presents(port, &first).await);
        let second = write_pair(folder.path());
        assert!(presents(port, &second).await);
        assert!(!presents(port, &first).await);
        std::fs::write(&key, "no key").unwrap();
        assert!(presents(port, &second).await);
        // Plain HTTP fails the handshake without affecting other connections.
        let plain = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        assert!(plain.get(format!("http://localhost:{port}/")).send().await.is_err());
        assert!(presents(port, &second).await);
    }

    #[test]
    fn reports_unusable_files() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let open_error = || ServerTls::open(&cert, &key).err().unwrap().to_string();
        assert!(open_error().contains("tls.crt"), "{}", open_error());
        write_pair(folder.path());
        std::fs::write(&key, "no key").unwrap();
        assert!(open_error().ends_with("tls.key: not a private key in PEM format"), "{}", open_error());
        write_pair(folder.path());
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&cert, other.cert.pem()).unwrap();
        assert!(open_error().starts_with("the certificate and the key do not match"), "{}", open_error());
    }
}
