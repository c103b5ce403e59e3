//! TLS options of the client: trusted authorities and the client certificate.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::{Digest, Sha256};

use super::certificate_verifiers::{AcceptAnyCertificate, ConfiguredAuthorities, VerifiedName};

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
        self.config_for(VerifiedName::Host)
    }

    /// Builds the configuration of a TLS client, for a protocol whose users may leave the name unverified.
    pub fn config_for(&self, name: VerifiedName) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::System(e.to_string()))?;
        let builder = if self.insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate::new(provider)))
        } else if let Some(ca) = &self.ca {
            let certificates = certificates(ca).map_err(TlsError::Ca)?;
            let verifier = ConfiguredAuthorities::new(certificates, name, provider).map_err(TlsError::Ca)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            let verifier = rustls_platform_verifier::Verifier::new(provider)
                .map_err(|e| TlsError::System(e.to_string()))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        match &self.client {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => {
                let chain = certificates(chain).map_err(TlsError::Client)?;
                let key = key.expose_secret();
                check_byte_order_mark(key).map_err(TlsError::Client)?;
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| TlsError::Client("the key is not a private key in PEM format".into()))?;
                let is_p521 = is_p521(key.secret_der());
                builder.with_client_auth_cert(chain, key).map_err(|e| match is_p521 {
                    true => TlsError::Client(UNSUPPORTED_P521.into()),
                    false => TlsError::Client(e.to_string()),
                })
            }
        }
    }
}

const UNSUPPORTED_P521: &str =
    "its key is on the curve P-521, which is not supported: use P-256, P-384, Ed25519 or RSA";
/// The object identifier of the curve P-521, 1.3.132.0.35, in DER.
const P521_OID: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

/// Returns true if a certificate or key in DER names the curve P-521.
fn is_p521(der: &[u8]) -> bool {
    der.windows(P521_OID.len()).any(|window| window == P521_OID)
}

/// Rejects a text that begins with a byte order mark, which some Windows editors add. A PEM parser would find nothing in
/// the first line and report a missing certificate.
fn check_byte_order_mark(text: &[u8]) -> Result<(), String> {
    let has_mark = [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| text.starts_with(mark));
    match has_mark {
        true => Err("it begins with a byte order mark (BOM): save it as UTF-8 without BOM".into()),
        false => Ok(()),
    }
}

/// Describes a failed handshake. Names P-521 where the two sides share no signature algorithm, because such a server sends
/// nothing but an alert.
pub fn describe_tls_error(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => format!(
            "{error}: the two sides share no protocol version, cipher suite or signature algorithm; a key on the curve P-521 \
             is not supported"
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. },
        ) => format!("{error}: a key on the curve P-521 is not supported"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not use TLS on this port: is it http instead of https?".into()
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "invalid peer certificate: no trusted authority has signed it (UnknownIssuer)".into()
        }
        // rustls shows other errors as Rust values.
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            format!("invalid peer certificate: {}", other.0)
        }
        _ => error.to_string(),
    }
}

pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    check_byte_order_mark(pem)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("it contains no certificate in PEM format".into()),
        Err(e) => Err(e.to_string()),
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
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A key on P-521 that was made for this test.
    const P521_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIAH0TDuUwIfr6ONehG\n\
        9xIzXg5yWEb3p315nV/zTRnvU0UZeKFHnKNYNaYHh/HtoxznflU1l8GV1S1xx2Kk\n\
        irchPkWhgYkDgYYABAECXrfx9jFUYQE9fzsgoeWNs/DLdqDZ7X/TgIqDy6QG0HjN\n\
        +EeWIwisU98RVjEFlcQo+ugsvMUZY9SxkHRpb16PnAGTCPWye3Sbw/b/5OWdsO8x\n\
        j7INtCRG5FLp3zmzWyCNyZvpz6gDEoJ6XpKd5ZfiXUipf4uPLtTXr4vy+QFKhyZI\n\
        Xg==\n\
        -----END PRIVATE KEY-----\n";

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
        pub fn issue(&self) -> (Vec<u8>, Vec<u8>) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            let certificate = params.signed_by(&key, &self.0).unwrap();
            (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
        }
    }

    /// Starts a TLS server that responds with 200, to clients with a certificate of `clients` if one is given.
    pub async fn start_server(authority: &Authority, clients: Option<&Authority>) -> String {
        start_server_with(authority.issue(), clients).await
    }

    async fn start_server_with(pair: (Vec<u8>, Vec<u8>), clients: Option<&Authority>) -> String {
        let (chain, key) = pair;
        let builder = rustls::ServerConfig::builder();
        let builder = match clients {
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(&clients.pem()).unwrap());
                let roots = Arc::new(roots);
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

    /// Returns a certificate that is marked as an authority, as `openssl req -x509` makes it, and its key.
    fn own_authority(name: &str, valid_until: i32) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(valid_until, 1, 1);
        (params.self_signed(&key).unwrap().pem().into_bytes(), key.serialize_pem().into_bytes())
    }

    #[tokio::test]
    async fn trusts_a_configured_certificate_that_is_marked_as_an_authority() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let own = own_authority("127.0.0.1", 4000);
        let trusting = |pem: &[u8]| TlsOptions { ca: Some(pem.to_owned()), ..TlsOptions::default() };
        let url = start_server_with(own.clone(), None).await;
        assert_eq!(status(&trusting(&own.0), &url).await.unwrap(), 200);
        let other = own_authority("127.0.0.1", 4000);
        assert!(matches!(status(&trusting(&other.0), &url).await, Err(SendError::Tls(_))), "not configured");
        let bundle = [other.0, own.0].concat();
        assert_eq!(status(&trusting(&bundle), &url).await.unwrap(), 200);
        for (name, until) in [("127.0.0.2", 4000), ("127.0.0.1", 2020)] {
            let own = own_authority(name, until);
            let url = start_server_with(own.clone(), None).await;
            let error = status(&trusting(&own.0), &url).await.unwrap_err();
            assert!(matches!(error, SendError::Tls(_)), "{name} until {until}: {error}");
        }
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
        let marked = |pem: &[u8]| [b"\xef\xbb\xbf", pem].concat();
        assert!(config(client(pem.0.clone(), marked(&pem.1))).contains("byte order mark"));
        assert!(config(ca(&String::from_utf8(marked(&pem.0)).unwrap())).contains("byte order mark"));
        let p521 = config(client(pem.0.clone(), P521_KEY.into()));
        assert!(p521.contains("P-521, which is not supported"), "{p521}");
        assert!(!format!("{:?}", client(pem.0, pem.1)).contains("PRIVATE"));
    }
}
