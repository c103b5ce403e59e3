//! TLS of the ports that listen: a certificate and its key from files, read again when they are replaced.

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

/// How often the files are looked at, by a connection that comes. Whoever replaces them leaves the old certificate some
/// time to live.
const LOOK: Duration = Duration::from_secs(10);
/// A peer that does not shake hands within this time is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What the ports show.
pub struct ServerTls {
    cert: PathBuf,
    key: PathBuf,
    look: Duration,
    current: Mutex<Current>,
}

struct Current {
    pems: Pems,
    looked: Instant,
    config: Arc<ServerConfig>,
}

/// The two files as they were read.
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
    #[error("{}: this is no private key in PEM", .path.display())]
    Key { path: PathBuf },
    #[error("certificate and key do not belong together: {0}")]
    Pair(rustls::Error),
}

impl ServerTls {
    /// Reads both files; later ones are read when a connection comes.
    pub fn open(cert: &Path, key: &Path) -> Result<Self, ServerTlsError> {
        Self::looking(cert, key, LOOK)
    }

    fn looking(cert: &Path, key: &Path, look: Duration) -> Result<Self, ServerTlsError> {
        let pems = read(cert, key)?;
        let config = config(cert, key, &pems)?;
        let current = Mutex::new(Current { pems, looked: Instant::now(), config });
        Ok(ServerTls { cert: cert.to_owned(), key: key.to_owned(), look, current })
    }

    /// Shakes hands with a peer.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.current());
        tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await.map_err(io::Error::from)?
    }

    /// Two small files, at most every few seconds: not worth a task of its own.
    fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock();
        if current.looked.elapsed() < self.look {
            return current.config.clone();
        }
        current.looked = Instant::now();
        let newer = read(&self.cert, &self.key).and_then(|pems| {
            let same = pems.cert == current.pems.cert
                && pems.key.expose_secret() == current.pems.key.expose_secret();
            if same {
                Ok(None)
            } else {
                config(&self.cert, &self.key, &pems).map(|config| Some((pems, config)))
            }
        });
        match newer {
            Ok(None) => {}
            Ok(Some((pems, config))) => {
                tracing::info!("the certificate was replaced");
                (current.pems, current.config) = (pems, config);
            }
            // Read between the writing of one file and of the other, for example.
            Err(error) => tracing::warn!(%error, "the certificate cannot be used; the one before stays"),
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

    fn write(folder: &Path) -> String {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("tls.key"), pair.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.join("tls.crt"), pair.cert.pem()).unwrap();
        pair.cert.pem()
    }

    /// True where the port shows this certificate, and answers.
    async fn shows(port: u16, certificate: &str) -> bool {
        let root = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
        client
            .get(format!("https://localhost:{port}/"))
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    }

    #[tokio::test]
    async fn a_replaced_certificate_is_shown_and_a_broken_one_is_not() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let first = write(folder.path());
        let tls = ServerTls::looking(&cert, &key, Duration::ZERO).unwrap();
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/", get(|| async { "ok" }));
        let never = std::future::pending::<()>();
        tokio::spawn(serve::serve_tls(listener, router, Some(Arc::new(tls)), never));

        assert!(shows(port, &first).await);
        let second = write(folder.path());
        assert!(shows(port, &second).await);
        assert!(!shows(port, &first).await);
        std::fs::write(&key, "no key").unwrap();
        assert!(shows(port, &second).await);
        // Plain HTTP is no handshake; it harms nobody.
        let plain = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        assert!(plain.get(format!("http://localhost:{port}/")).send().await.is_err());
        assert!(shows(port, &second).await);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let open = || ServerTls::open(&cert, &key).err().unwrap().to_string();
        assert!(open().contains("tls.crt"), "{}", open());
        write(folder.path());
        std::fs::write(&key, "no key").unwrap();
        assert!(open().ends_with("tls.key: this is no private key in PEM"), "{}", open());
        write(folder.path());
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&cert, other.cert.pem()).unwrap();
        assert!(open().starts_with("certificate and key do not belong together"), "{}", open());
    }
}
