//! Connections through an HTTP proxy, by CONNECT for https and http targets.
//!
//! The proxy sees the host and port of each target. Of https, it sees nothing else. It resolves names itself and is
//! trusted to connect to the right host. Names that resolve locally are checked against the egress policy first
//! (`connect`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::prelude::*;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Timeout of a CONNECT, which continues in the background if the caller is cancelled.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum bytes of the response head to CONNECT.
const MAX_HEAD: usize = 8 << 10;

/// A proxy and the targets that bypass it.
#[derive(Debug)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// A file with `user:password`. It is read for every connection, so that a replaced file takes effect immediately.
    pub credentials: Option<PathBuf>,
    pub bypass: Vec<Bypass>,
}

/// A target that is connected to without the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// A host name; with a leading dot, every subdomain.
    Name(String),
    /// Hosts whose addresses are all in this network.
    Network(IpNet),
}

/// Why a proxy did not open a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("it cannot be reached: {0}")]
    Connect(std::io::Error),
    #[error("the credentials in {}: {problem} (--egress-proxy-auth)", .path.display())]
    Credentials { path: PathBuf, problem: String },
    #[error("it requires credentials (407): provide a file with --egress-proxy-auth")]
    CredentialsMissing,
    #[error("it rejected the credentials in {} (407)", .0.display())]
    CredentialsRejected(PathBuf),
    #[error("it responded with status {0}")]
    UnexpectedStatus(u16),
    #[error("it closed the connection without a response")]
    Closed,
    #[error("its response is not HTTP: is it an HTTP proxy?")]
    NotHttp,
    #[error("no response within {} s", TIMEOUT.as_secs())]
    Timeout,
}

impl FromStr for Bypass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Bypass::Network(network));
        }
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Bypass::Network(address.into()));
        }
        let name = text.strip_prefix('.').unwrap_or(text);
        let has_valid_characters =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if name.is_empty() || name.len() > 253 || !has_valid_characters {
            return Err(
                "must be a host, a domain suffix such as .svc, or a network such as 10.0.0.0/8".into()
            );
        }
        Ok(Bypass::Name(text.to_ascii_lowercase()))
    }
}

impl Bypass {
    fn matches(&self, host: &str, addresses: &[SocketAddr]) -> bool {
        match self {
            Bypass::Name(name) if name.starts_with('.') => host.ends_with(name.as_str()),
            Bypass::Name(name) => host == name,
            Bypass::Network(network) => {
                !addresses.is_empty() && addresses.iter().all(|address| network.contains(&address.ip()))
            }
        }
    }
}

impl Proxy {
    /// Returns true if a host bypasses the proxy. `addresses` are those that it resolves to locally, possibly none.
    pub fn is_bypassed(&self, host: &str, addresses: &[SocketAddr]) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.bypass.iter().any(|bypass| bypass.matches(&host, addresses))
    }

    /// Opens a tunnel to `authority` (host and port).
    pub async fn connect(&self, authority: &str) -> Result<TcpStream, ProxyError> {
        tokio::time::timeout(TIMEOUT, self.open_tunnel(authority)).await.unwrap_or(Err(ProxyError::Timeout))
    }

    async fn open_tunnel(&self, authority: &str) -> Result<TcpStream, ProxyError> {
        let credentials = self.read_credentials().await?;
        let mut stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(ProxyError::Connect)?;
        stream.set_nodelay(true).map_err(ProxyError::Connect)?;
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n");
        if let Some(credentials) = &credentials {
            let basic = BASE64_STANDARD.encode(credentials.expose_secret());
            request.push_str(&format!("proxy-authorization: Basic {basic}\r\n"));
        }
        let request = SecretString::from(request + "\r\n");
        stream.write_all(request.expose_secret().as_bytes()).await.map_err(ProxyError::Connect)?;
        match (parse_status(&read_head(&mut stream).await?)?, &self.credentials) {
            (200..=299, _) => Ok(stream),
            (407, None) => Err(ProxyError::CredentialsMissing),
            (407, Some(path)) => Err(ProxyError::CredentialsRejected(path.clone())),
            (status, _) => Err(ProxyError::UnexpectedStatus(status)),
        }
    }

    /// Reads the credentials file; None if none is configured.
    pub async fn read_credentials(&self) -> Result<Option<SecretString>, ProxyError> {
        let Some(path) = &self.credentials else { return Ok(None) };
        let error = |problem: String| ProxyError::Credentials { path: path.clone(), problem };
        let text = tokio::fs::read_to_string(path).await.map_err(|e| error(e.to_string()))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if !text.contains(':') || text.contains(char::is_control) {
            return Err(error("it must contain one line, user:password".into()));
        }
        Ok(Some(SecretString::from(text)))
    }
}

/// Reads the head of the proxy's response. The target sends no bytes before the client has sent some.
async fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>, ProxyError> {
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let read = stream.read(&mut buffer).await.map_err(|_| ProxyError::Closed)?;
        head.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(head);
        }
        if read == 0 {
            return Err(if head.is_empty() { ProxyError::Closed } else { ProxyError::NotHttp });
        }
        if head.len() > MAX_HEAD {
            return Err(ProxyError::NotHttp);
        }
    }
}

/// Parses the status of a response head. Rejects a success with bytes after the head, because they would be lost.
fn parse_status(head: &[u8]) -> Result<u16, ProxyError> {
    let line = head.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let rest = line.and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|rest| rest.get(1..));
    let code = rest.and_then(|rest| rest.strip_prefix(' ')).and_then(|rest| rest.get(..3));
    let status = code.and_then(|code| code.parse().ok()).ok_or(ProxyError::NotHttp)?;
    if (200..300).contains(&status) && !head.ends_with(b"\r\n\r\n") {
        return Err(ProxyError::NotHttp);
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::egress::EgressRules;
    use crate::net::tls::tests::{Authority, start_server as start_tls_server};
    use crate::net::{Egress, HttpClient, HttpResponse, SendError, TlsOptions};
    use http::Request;
    use http_body_util::Full;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// A scripted proxy that records the requests. After a 200 it forwards to one address.
    struct ScriptedProxy {
        address: SocketAddr,
        requests: Arc<Mutex<Vec<String>>>,
    }

    impl ScriptedProxy {
        async fn start(
            target: SocketAddr,
            respond: impl Fn(&str) -> &'static str + Send + 'static,
        ) -> ScriptedProxy {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let requests = Arc::new(Mutex::new(Vec::new()));
            let log = requests.clone();
            tokio::spawn(async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    let head = String::from_utf8(read_head(&mut client).await.unwrap()).unwrap();
                    let response = respond(&head);
                    log.lock().push(head);
                    client.write_all(response.as_bytes()).await.unwrap();
                    if response.is_empty() {
                        tokio::spawn(async move {
                            std::future::pending::<()>().await;
                            drop(client);
                        });
                    } else if response.contains(" 200 ") {
                        let mut target = TcpStream::connect(target).await.unwrap();
                        tokio::spawn(async move {
                            tokio::io::copy_bidirectional(&mut client, &mut target).await.ok()
                        });
                    }
                }
            });
            ScriptedProxy { address, requests }
        }

        fn client(&self, policy: EgressRules, credentials: Option<PathBuf>, bypass: &[&str]) -> HttpClient {
            rustls::crypto::ring::default_provider().install_default().ok();
            let bypass = bypass.iter().map(|text| text.parse().unwrap()).collect();
            let (host, port) = (self.address.ip().to_string(), self.address.port());
            let proxy = Proxy { host, port, credentials, bypass };
            HttpClient::new(Egress::new(policy).via_proxy(proxy)).unwrap()
        }

        /// The first lines of the requests.
        fn request_lines(&self) -> Vec<String> {
            self.requests.lock().iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
        }
    }

    const OPEN: &str = "HTTP/1.1 200 Connection established\r\nvia: a proxy\r\n\r\n";

    fn loopback() -> EgressRules {
        EgressRules { loopback: true, ..EgressRules::default() }
    }

    /// Starts a server that responds to every request with 200.
    async fn start_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                read_head(&mut socket).await.ok();
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
            }
        });
        address
    }

    async fn get(client: &HttpClient, url: &str, timeout: Duration) -> Result<HttpResponse, SendError> {
        client.send(Request::get(url).body(Full::default()).unwrap(), timeout, 64).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn proxy_resolves_names_that_do_not_resolve_locally() {
        let proxy = ScriptedProxy::start(start_server().await, |_| OPEN).await;
        let client = proxy.client(EgressRules::default(), None, &[]);
        let response = get(&client, "http://no-such-host.invalid:8080/a?b", LONG).await.unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(proxy.request_lines(), ["CONNECT no-such-host.invalid:8080 HTTP/1.1"]);
    }

    #[tokio::test]
    async fn tls_is_end_to_end_through_the_proxy() {
        let authority = Authority::new();
        let url = start_tls_server(&authority, None).await;
        let target = url.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let proxy = ScriptedProxy::start(target.parse().unwrap(), |_| OPEN).await;
        let client = proxy.client(loopback(), None, &[]);
        assert!(
            matches!(get(&client, &url, LONG).await, Err(SendError::Tls(_))),
            "the authority is not trusted"
        );
        let client =
            client.with_tls(&TlsOptions { ca: Some(authority.pem()), ..TlsOptions::default() }).unwrap();
        assert_eq!(get(&client, &url, LONG).await.unwrap().status, 200);
        assert_eq!(
            proxy.request_lines(),
            [format!("CONNECT {target} HTTP/1.1"), format!("CONNECT {target} HTTP/1.1")]
        );
    }

    #[tokio::test]
    async fn requests_no_denied_target() {
        let proxy = ScriptedProxy::start(start_server().await, |_| OPEN).await;
        let api: SocketAddr = "10.96.0.1:443".parse().unwrap();
        let client =
            proxy.client(EgressRules { always_denied: vec![api], ..EgressRules::default() }, None, &[]);
        for url in [
            "http://169.254.169.254/latest",
            "http://[fd00:ec2::254]/",
            "http://127.0.0.1:1/",
            "http://localhost:1/",
            "http://0.0.0.0/",
            "https://10.96.0.1/",
        ] {
            let error = get(&client, url, LONG).await.unwrap_err();
            assert!(matches!(error, SendError::EgressDenied(_)), "{url}: {error:?}");
        }
        assert_eq!(proxy.request_lines(), [""; 0]);
    }

    #[test]
    fn requests_an_allowed_address_if_some_are_denied() {
        let egress = Egress::new(EgressRules::default());
        let authority = |host: &str, found: &[&str]| {
            let found: Vec<SocketAddr> = found.iter().map(|text| text.parse().unwrap()).collect();
            egress.proxy_authority(host.to_owned(), 443, &found).map_err(|e| e.to_string())
        };
        assert_eq!(authority("a.test", &[]).unwrap(), "a.test:443");
        assert_eq!(authority("a.test", &["10.0.0.1:443", "[2001:db8::1]:443"]).unwrap(), "a.test:443");
        assert_eq!(authority("2001:db8::1", &["[2001:db8::1]:443"]).unwrap(), "[2001:db8::1]:443");
        assert_eq!(authority("a.test", &["127.0.0.1:443", "10.0.0.1:443"]).unwrap(), "10.0.0.1:443");
        assert!(authority("a.test", &["127.0.0.1:443", "[::1]:443"]).unwrap_err().contains("loopback"));
    }

    #[tokio::test]
    async fn reads_credentials_from_a_replaceable_file() {
        let proxy = ScriptedProxy::start(start_server().await, |head| {
            // us:er
            if head.contains("proxy-authorization: Basic dXM6ZXI=\r\n") {
                OPEN
            } else {
                "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
            }
        })
        .await;
        let result = async |file: Option<PathBuf>| {
            let client = proxy.client(loopback(), file, &[]);
            get(&client, "http://no-such-host.invalid/", LONG).await.map(|a| a.status.as_u16()).map_err(|e| {
                assert!(matches!(e, SendError::Proxy(_)), "{e:?}");
                e.to_string()
            })
        };
        assert!(result(None).await.unwrap_err().contains("407): provide a file"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auth");
        assert!(result(Some(file.clone())).await.unwrap_err().contains("No such file"));
        for (text, expected) in [("user", "user:password"), ("a:b\nc", "one line"), ("us:wrong", "rejected")]
        {
            std::fs::write(&file, text).unwrap();
            let error = result(Some(file.clone())).await.unwrap_err();
            assert!(error.contains(expected) && !error.contains("wrong"), "{error}");
        }
        std::fs::write(&file, "us:er\n").unwrap();
        assert_eq!(result(Some(file)).await, Ok(200));
    }

    #[tokio::test]
    async fn classifies_proxy_failures() {
        let short_timeout = Duration::from_millis(300);
        for (response, timeout, expected) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\nno", LONG, "responded with status 403"),
            ("HTTP/1.0 503 Service Unavailable\r\n\r\n", LONG, "responded with status 503"),
            ("SSH-2.0-OpenSSH\r\n\r\n", LONG, "not HTTP"),
            ("HTTP/1.1 2\r\n\r\n", LONG, "not HTTP"),
            ("HTTP/1.1 204 OK\r\n\r\ntoo early", LONG, "not HTTP"),
            ("HTTP/1.1", LONG, "not HTTP"),
            ("", short_timeout, "no response within"),
        ] {
            let proxy = ScriptedProxy::start("127.0.0.1:1".parse().unwrap(), move |_| response).await;
            let error =
                get(&proxy.client(loopback(), None, &[]), "http://no-such-host.invalid/", timeout).await;
            let error = error.unwrap_err();
            assert!(error.to_string().contains(expected), "{response}: {error}");
            assert!(matches!(error, SendError::Proxy(_) | SendError::Timeout(_)), "{error:?}");
        }
        let unreachable = ScriptedProxy { address: "127.0.0.1:1".parse().unwrap(), requests: Arc::default() };
        let error =
            get(&unreachable.client(loopback(), None, &[]), "http://no-such-host.invalid/", LONG).await;
        assert!(error.unwrap_err().to_string().contains("127.0.0.1:1: it cannot be reached"));
    }

    #[tokio::test]
    async fn bypassed_targets_are_still_checked_by_the_policy() {
        let target = start_server().await;
        let proxy = ScriptedProxy::start(target, |_| OPEN).await;
        for bypass in ["localhost", "127.0.0.0/8"] {
            let client = proxy.client(loopback(), None, &[bypass, "::1"]);
            let url = format!("http://localhost:{}/", target.port());
            assert_eq!(get(&client, &url, LONG).await.unwrap().status, 200, "{bypass}");
        }
        let client = proxy.client(EgressRules::default(), None, &[".0.1", "127.0.0.0/8"]);
        let error = get(&client, &format!("http://{target}/"), LONG).await.unwrap_err();
        assert!(matches!(error, SendError::EgressDenied(_)), "{error:?}");
        // A name that does not resolve locally matches no network.
        let client = proxy.client(loopback(), None, &[".svc", "0.0.0.0/0"]);
        let error = get(&client, "http://kong.shop.SVC./", LONG).await.unwrap_err();
        assert!(matches!(error, SendError::Resolve(_)), "{error:?}");
        assert_eq!(proxy.request_lines(), [""; 0]);
    }

    #[test]
    fn parses_bypasses() {
        let parse = |text: &str| text.parse::<Bypass>();
        assert_eq!(parse(".SVC"), Ok(Bypass::Name(".svc".into())));
        assert_eq!(parse("10.0.0.1"), parse("10.0.0.1/32"));
        for text in ["", ".", "*.svc", "a b", "http://a"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
