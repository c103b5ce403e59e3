//! TLS options of the client: trusted authorities and the client certificate.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest, Sha256};

/// Deviations from the default: the certificate authorities of the system and no client certificate.
#[derive(Debug, Default)]
pub struct TlsOptions {
    /// The certificate authorities to trust instead, in PEM.
    pub ca: Option<Vec<u8>>,
    /// The client certificate with its chain, and its key, in PEM.
    pub client: Option<(Vec<u8>, SecretSlice<u8>)>,
    /// Accept any server certificate.
    pub insecure: bool,
}

/// Why TLS options cannot be used. The messages never contain the certificates or keys.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate authorities cannot be used: {0}")]
    Ca(String),
    #[error("the client certificate cannot be used: {0}")]
    Client(String),
    #[error("the system's certificate authorities cannot be read: {0}")]
    System(String),
}

impl TlsOptions {
    pub fn is_default(&self) -> bool {
        self.ca.is_none() && self.client.is_none() && !self.insecure
    }

    /// Returns a hash of the options, so that caches need not keep the key.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let client = self.client.as_ref();
        for part in [
            self.ca.as_deref(),
            client.map(|(certificate, _)| certificate.as_slice()),
            client.map(|(_, key)| key.expose_secret()),
        ] {
            hash.update([u8::from(part.is_some())]);
            hash.update((part.map_or(0, <[u8]>::len) as u64).to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.update([u8::from(self.insecure)]);
        hash.finalize().into()
    }

    /// Builds the configuration of a TLS client.
    pub(super) fn config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::System(e.to_string()))?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        } else if let Some(ca) = &self.ca {
            builder.with_root_certificates(roots(ca)?)
        } else {
            let verifier = rustls_platform_verifier::Verifier::new(provider)
                .map_err(|e| TlsError::System(e.to_string()))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        match &self.client {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => {
                let chain = certificates(chain).map_err(TlsError::Client)?;
                let key = PrivateKeyDer::from_pem_slice(key.expose_secret())
                    .map_err(|_| TlsError::Client("the key is not a private key in PEM format".into()))?;
                builder.with_client_auth_cert(chain, key).map_err(|e| TlsError::Client(e.to_string()))
            }
        }
    }
}

pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("it contains no certificate in PEM format".into()),
        Err(e) => Err(e.to_string()),
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(TlsError::Ca)? {
        roots.add(certificate).map_err(|e| TlsError::Ca(e.to_string()))?;
    }
    Ok(roots)
}

/// Accepts any certificate, for `insecureSkipVerify`. Still verifies handshake signatures, so that the peer must own the
/// key of its certificate.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::core::egress::EgressRules;
    use crate::net::{Egress, HttpClient, SendError};
    use http::Request;
    use http_body_util::Full;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::server::WebPkiClientVerifier;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    pub struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        pub fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        pub fn pem(&self) -> Vec<u8> {
            self.0.pem().into_bytes()
        }

        /// A certificate for 127.0.0.1 and its key, in PEM.
        fn issue(&self) -> (Vec<u8>, Vec<u8>) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            let certificate = params.signed_by(&key, &self.0).unwrap();
            (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
        }
    }

    /// Starts a TLS server that responds with 200, to clients with a certificate of `clients` if one is given.
    pub async fn start_server(authority: &Authority, clients: Option<&Authority>) -> String {
        let (chain, key) = authority.issue();
        let builder = rustls::ServerConfig::builder();
        let builder = match clients {
            Some(clients) => {
                let roots = Arc::new(roots(&clients.pem()).unwrap());
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots).build().unwrap())
            }
            None => builder.with_no_client_auth(),
        };
        let config = builder
            .with_single_cert(certificates(&chain).unwrap(), PrivateKeyDer::from_pem_slice(&key).unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(socket).await else { return };
                    let mut buffer = [0; 4096];
                    drop(stream.read(&mut buffer).await);
                    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(response).await.ok();
                    stream.flush().await.ok();
                });
            }
        });
        url
    }

    async fn status(tls: &TlsOptions, url: &str) -> Result<u16, SendError> {
        let client =
            HttpClient::new(Egress::new(EgressRules { loopback: true, ..EgressRules::default() })).unwrap();
        let request = Request::get(url).body(Full::default()).unwrap();
        let response = client.with_tls(tls).unwrap().send(request, Duration::from_secs(10), 1024).await?;
        Ok(response.status.as_u16())
    }

    #[tokio::test]
    async fn trusts_only_the_given_authorities() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (ours, theirs) = (Authority::new(), Authority::new());
        let url = start_server(&ours, None).await;
        let trusting = |ca: &Authority| TlsOptions { ca: Some(ca.pem()), ..TlsOptions::default() };
        assert!(matches!(status(&TlsOptions::default(), &url).await, Err(SendError::Tls(_))));
        assert!(matches!(status(&trusting(&theirs), &url).await, Err(SendError::Tls(_))));
        assert_eq!(status(&trusting(&ours), &url).await.unwrap(), 200);
        let both = TlsOptions { ca: Some([theirs.pem(), ours.pem()].concat()), ..TlsOptions::default() };
        assert_eq!(status(&both, &url).await.unwrap(), 200, "a bundle, as during a rotation of authorities");
        let insecure = TlsOptions { insecure: true, ..TlsOptions::default() };
        assert_eq!(status(&insecure, &url).await.unwrap(), 200);
    }

    #[tokio::test]
    async fn presents_the_client_certificate() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
        let url = start_server(&servers, Some(&clients)).await;
        let with = |issuer: Option<&Authority>| TlsOptions {
            ca: Some(servers.pem()),
            client: issuer.map(|issuer| {
                let (chain, key) = issuer.issue();
                (chain, SecretSlice::from(key))
            }),
            insecure: false,
        };
        assert_eq!(status(&with(Some(&clients)), &url).await.unwrap(), 200);
        assert!(status(&with(None), &url).await.is_err());
        assert!(status(&with(Some(&strangers)), &url).await.is_err());
    }

    #[test]
    fn reports_unusable_options() {
        let pem = Authority::new().issue();
        let config = |tls: TlsOptions| tls.config().map(drop).unwrap_err().to_string();
        let ca = |text: &str| TlsOptions { ca: Some(text.into()), ..TlsOptions::default() };
        assert!(config(ca("")).contains("no certificate"));
        assert!(
            config(ca("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----")).contains("authorities")
        );
        let client = |chain: Vec<u8>, key: Vec<u8>| TlsOptions {
            client: Some((chain, SecretSlice::from(key))),
            ..TlsOptions::default()
        };
        assert!(config(client(pem.0.clone(), b"no key".to_vec())).contains("private key"));
        assert!(config(client(b"nothing".to_vec(), pem.1.clone())).contains("no certificate"));
        assert!(!format!("{:?}", client(pem.0, pem.1)).contains("PRIVATE"));
    }
}
