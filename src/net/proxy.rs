//! The way through an HTTP proxy: CONNECT, for https and http targets alike.
//!
//! The proxy learns host and port of each target, and of https no more. It resolves names itself, so it is trusted to
//! lead where a name belongs; what can be resolved here is checked here first (`connect`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::prelude::*;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A proxy that hangs is given up after this time, also where nobody waits for it any more.
const WITHIN: Duration = Duration::from_secs(60);
/// The longest head of an answer to CONNECT.
const MAX_HEAD: usize = 8 << 10;

/// A proxy, and what is reached without it.
#[derive(Debug)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// A file with `user:password`. Read for every connection: a replaced one counts at once.
    pub credentials: Option<PathBuf>,
    pub bypass: Vec<Bypass>,
}

/// What is reached without the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// A host by its name; with a dot before it, every host below it.
    Name(String),
    /// Hosts whose addresses are all in one of these networks.
    Network(IpNet),
}

/// Why a proxy made no way.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("it cannot be reached: {0}")]
    Connect(std::io::Error),
    #[error("the credentials in {}: {problem} (--egress-proxy-auth)", .path.display())]
    Credentials { path: PathBuf, problem: String },
    #[error("it asks for credentials (407): give them in a file by --egress-proxy-auth")]
    CredentialsMissing,
    #[error("it does not take the credentials in {} (407)", .0.display())]
    CredentialsRefused(PathBuf),
    #[error("it answered {0}")]
    Refused(u16),
    #[error("it closed the connection without an answer")]
    Closed,
    #[error("it answered what is no HTTP: is it an HTTP proxy?")]
    Garbage,
    #[error("it did not answer within {} s", WITHIN.as_secs())]
    Hangs,
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
        let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if name.is_empty() || name.len() > 253 || !letters {
            return Err(
                "must be a host, the end of hosts' names such as .svc, or a network such as 10.0.0.0/8"
                    .into(),
            );
        }
        Ok(Bypass::Name(text.to_ascii_lowercase()))
    }
}

impl Bypass {
    fn fits(&self, host: &str, addresses: &[SocketAddr]) -> bool {
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
    /// True where a host is reached without the proxy. `addresses`: what its name is here.
    pub fn is_bypassed(&self, host: &str, addresses: &[SocketAddr]) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.bypass.iter().any(|bypass| bypass.fits(&host, addresses))
    }

    /// Asks the proxy for a way to `authority` (host and port).
    pub async fn connect(&self, authority: &str) -> Result<TcpStream, ProxyError> {
        tokio::time::timeout(WITHIN, self.ask(authority)).await.unwrap_or(Err(ProxyError::Hangs))
    }

    async fn ask(&self, authority: &str) -> Result<TcpStream, ProxyError> {
        let credentials = self.credentials().await?;
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
        match (status(&head(&mut stream).await?)?, &self.credentials) {
            (200..=299, _) => Ok(stream),
            (407, None) => Err(ProxyError::CredentialsMissing),
            (407, Some(path)) => Err(ProxyError::CredentialsRefused(path.clone())),
            (status, _) => Err(ProxyError::Refused(status)),
        }
    }

    /// What the file of credentials says now.
    pub async fn credentials(&self) -> Result<Option<SecretString>, ProxyError> {
        let Some(path) = &self.credentials else { return Ok(None) };
        let wrong = |problem: String| ProxyError::Credentials { path: path.clone(), problem };
        let text = tokio::fs::read_to_string(path).await.map_err(|error| wrong(error.to_string()))?;
        let text = text.trim_end_matches(['\r', '\n']);
        if !text.contains(':') || text.contains(char::is_control) {
            return Err(wrong("it must hold one line, user:password".into()));
        }
        Ok(Some(SecretString::from(text)))
    }
}

/// The head of the proxy's answer. Nothing comes after it before the target was spoken to.
async fn head(stream: &mut TcpStream) -> Result<Vec<u8>, ProxyError> {
    let (mut head, mut part) = (Vec::new(), [0; 1024]);
    loop {
        let read = stream.read(&mut part).await.map_err(|_| ProxyError::Closed)?;
        head.extend_from_slice(part.get(..read).unwrap_or_default());
        if head.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(head);
        }
        if read == 0 {
            return Err(if head.is_empty() { ProxyError::Closed } else { ProxyError::Garbage });
        }
        if head.len() > MAX_HEAD {
            return Err(ProxyError::Garbage);
        }
    }
}

/// The status of an answer. A way that is open must have nothing after the head: it would be lost.
fn status(head: &[u8]) -> Result<u16, ProxyError> {
    let line = head.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let rest = line.and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|rest| rest.get(1..));
    let code = rest.and_then(|rest| rest.strip_prefix(' ')).and_then(|rest| rest.get(..3));
    let status = code.and_then(|code| code.parse().ok()).ok_or(ProxyError::Garbage)?;
    if (200..300).contains(&status) && !head.ends_with(b"\r\n\r\n") {
        return Err(ProxyError::Garbage);
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::egress::Policy;
    use crate::net::tls::tests::{Authority, server as tls_server};
    use crate::net::{Answer, Egress, HttpClient, SendError, TlsOptions};
    use http::Request;
    use http_body_util::Full;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// A proxy that writes down what it is asked, and answers by this script; after a 200 it leads to one address.
    struct Played {
        address: SocketAddr,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Played {
        async fn start(
            leads_to: SocketAddr,
            answer: impl Fn(&str) -> &'static str + Send + 'static,
        ) -> Played {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let told = asked.clone();
            tokio::spawn(async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    let head = String::from_utf8(head(&mut client).await.unwrap()).unwrap();
                    let answer = answer(&head);
                    told.lock().push(head);
                    client.write_all(answer.as_bytes()).await.unwrap();
                    if answer.is_empty() {
                        tokio::spawn(async move {
                            std::future::pending::<()>().await;
                            drop(client);
                        });
                    } else if answer.contains(" 200 ") {
                        let mut target = TcpStream::connect(leads_to).await.unwrap();
                        tokio::spawn(async move {
                            tokio::io::copy_bidirectional(&mut client, &mut target).await.ok()
                        });
                    }
                }
            });
            Played { address, asked }
        }

        fn client(&self, policy: Policy, credentials: Option<PathBuf>, bypass: &[&str]) -> HttpClient {
            rustls::crypto::ring::default_provider().install_default().ok();
            let bypass = bypass.iter().map(|text| text.parse().unwrap()).collect();
            let (host, port) = (self.address.ip().to_string(), self.address.port());
            let proxy = Proxy { host, port, credentials, bypass };
            HttpClient::new(Egress::new(policy).through(proxy)).unwrap()
        }

        /// The first lines of what it was asked.
        fn asked(&self) -> Vec<String> {
            self.asked.lock().iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
        }
    }

    const OPEN: &str = "HTTP/1.1 200 Connection established\r\nvia: a proxy\r\n\r\n";

    fn loopback() -> Policy {
        Policy { loopback: true, ..Policy::default() }
    }

    /// A server that answers 200 to whatever comes.
    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                head(&mut socket).await.ok();
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
            }
        });
        address
    }

    async fn get(client: &HttpClient, url: &str, within: Duration) -> Result<Answer, SendError> {
        client.send(Request::get(url).body(Full::default()).unwrap(), within, 64).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_name_that_only_the_proxy_knows_is_its_to_resolve() {
        let proxy = Played::start(server().await, |_| OPEN).await;
        let client = proxy.client(Policy::default(), None, &[]);
        let answer = get(&client, "http://no-such-host.invalid:8080/a?b", LONG).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(proxy.asked(), ["CONNECT no-such-host.invalid:8080 HTTP/1.1"]);
    }

    #[tokio::test]
    async fn https_is_between_us_and_the_target() {
        let authority = Authority::new();
        let url = tls_server(&authority, None).await;
        let target = url.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let proxy = Played::start(target.parse().unwrap(), |_| OPEN).await;
        let client = proxy.client(loopback(), None, &[]);
        assert!(matches!(get(&client, &url, LONG).await, Err(SendError::Tls(_))), "nobody trusts it");
        let client = client.with(&TlsOptions { ca: Some(authority.pem()), ..TlsOptions::default() }).unwrap();
        assert_eq!(get(&client, &url, LONG).await.unwrap().status, 200);
        assert_eq!(
            proxy.asked(),
            [format!("CONNECT {target} HTTP/1.1"), format!("CONNECT {target} HTTP/1.1")]
        );
    }

    #[tokio::test]
    async fn what_the_policy_refuses_is_not_asked_for() {
        let proxy = Played::start(server().await, |_| OPEN).await;
        let api: SocketAddr = "10.96.0.1:443".parse().unwrap();
        let client = proxy.client(Policy { refused: vec![api], ..Policy::default() }, None, &[]);
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
        assert_eq!(proxy.asked(), [""; 0]);
    }

    #[test]
    fn of_a_name_some_of_whose_addresses_are_refused_one_that_is_not_is_asked_for() {
        let egress = Egress::new(Policy::default());
        let asked = |host: &str, found: &[&str]| {
            let found: Vec<SocketAddr> = found.iter().map(|text| text.parse().unwrap()).collect();
            egress.authority(host.to_owned(), 443, &found).map_err(|e| e.to_string())
        };
        assert_eq!(asked("a.test", &[]).unwrap(), "a.test:443");
        assert_eq!(asked("a.test", &["10.0.0.1:443", "[2001:db8::1]:443"]).unwrap(), "a.test:443");
        assert_eq!(asked("2001:db8::1", &["[2001:db8::1]:443"]).unwrap(), "[2001:db8::1]:443");
        assert_eq!(asked("a.test", &["127.0.0.1:443", "10.0.0.1:443"]).unwrap(), "10.0.0.1:443");
        assert!(asked("a.test", &["127.0.0.1:443", "[::1]:443"]).unwrap_err().contains("loopback"));
    }

    #[tokio::test]
    async fn credentials_come_from_a_file_that_may_be_replaced() {
        let proxy = Played::start(server().await, |head| {
            // us:er
            if head.contains("proxy-authorization: Basic dXM6ZXI=\r\n") {
                OPEN
            } else {
                "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
            }
        })
        .await;
        let says = async |file: Option<PathBuf>| {
            let client = proxy.client(loopback(), file, &[]);
            get(&client, "http://no-such-host.invalid/", LONG).await.map(|a| a.status.as_u16()).map_err(|e| {
                assert!(matches!(e, SendError::Proxy(_)), "{e:?}");
                e.to_string()
            })
        };
        assert!(says(None).await.unwrap_err().contains("407): give them in a file"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("auth");
        assert!(says(Some(file.clone())).await.unwrap_err().contains("No such file"));
        for (text, says_what) in
            [("user", "user:password"), ("a:b\nc", "one line"), ("us:wrong", "does not take")]
        {
            std::fs::write(&file, text).unwrap();
            let said = says(Some(file.clone())).await.unwrap_err();
            assert!(said.contains(says_what) && !said.contains("wrong"), "{said}");
        }
        std::fs::write(&file, "us:er\n").unwrap();
        assert_eq!(says(Some(file)).await, Ok(200));
    }

    #[tokio::test]
    async fn a_proxy_that_makes_no_way_has_a_reason() {
        let short = Duration::from_millis(300);
        for (answer, within, says) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\nno", LONG, "it answered 403"),
            ("HTTP/1.0 503 Service Unavailable\r\n\r\n", LONG, "it answered 503"),
            ("SSH-2.0-OpenSSH\r\n\r\n", LONG, "no HTTP"),
            ("HTTP/1.1 2\r\n\r\n", LONG, "no HTTP"),
            ("HTTP/1.1 204 OK\r\n\r\ntoo early", LONG, "no HTTP"),
            ("HTTP/1.1", LONG, "no HTTP"),
            ("", short, "no answer within"),
        ] {
            let proxy = Played::start("127.0.0.1:1".parse().unwrap(), move |_| answer).await;
            let error =
                get(&proxy.client(loopback(), None, &[]), "http://no-such-host.invalid/", within).await;
            let error = error.unwrap_err();
            assert!(error.to_string().contains(says), "{answer}: {error}");
            assert!(matches!(error, SendError::Proxy(_) | SendError::Timeout(_)), "{error:?}");
        }
        let gone = Played { address: "127.0.0.1:1".parse().unwrap(), asked: Arc::default() };
        let error = get(&gone.client(loopback(), None, &[]), "http://no-such-host.invalid/", LONG).await;
        assert!(error.unwrap_err().to_string().contains("127.0.0.1:1: it cannot be reached"));
    }

    #[tokio::test]
    async fn what_is_named_goes_without_the_proxy_and_under_the_policy() {
        let target = server().await;
        let proxy = Played::start(target, |_| OPEN).await;
        for bypass in ["localhost", "127.0.0.0/8"] {
            let client = proxy.client(loopback(), None, &[bypass, "::1"]);
            let url = format!("http://localhost:{}/", target.port());
            assert_eq!(get(&client, &url, LONG).await.unwrap().status, 200, "{bypass}");
        }
        let client = proxy.client(Policy::default(), None, &[".0.1", "127.0.0.0/8"]);
        let error = get(&client, &format!("http://{target}/"), LONG).await.unwrap_err();
        assert!(matches!(error, SendError::EgressDenied(_)), "{error:?}");
        // What is not resolved here has no address in any network.
        let client = proxy.client(loopback(), None, &[".svc", "0.0.0.0/0"]);
        let error = get(&client, "http://kong.shop.SVC./", LONG).await.unwrap_err();
        assert!(matches!(error, SendError::Resolve(_)), "{error:?}");
        assert_eq!(proxy.asked(), [""; 0]);
    }

    #[test]
    fn bypasses() {
        let parse = |text: &str| text.parse::<Bypass>();
        assert_eq!(parse(".SVC"), Ok(Bypass::Name(".svc".into())));
        assert_eq!(parse("10.0.0.1"), parse("10.0.0.1/32"));
        for text in ["", ".", "*.svc", "a b", "http://a"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
