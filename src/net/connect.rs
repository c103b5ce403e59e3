//! The connector: resolves a name, checks what it resolved to, connects to what was checked.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::proxy::{Proxy, ProxyError};
use super::resolve;
use crate::core::egress::{Denied, Policy};

/// With a proxy, a name that is not resolved here within this time is left to the proxy: where only the proxy knows the
/// names of the outside, asking here may take longer than a delivery.
const RESOLVE_BEFORE_PROXY: Duration = Duration::from_secs(2);

/// A connector under an egress policy, perhaps by way of a proxy.
#[derive(Clone, Debug)]
pub struct Egress {
    policy: Arc<Policy>,
    proxy: Option<Arc<Proxy>>,
}

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the address has no host")]
    NoHost,
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: std::io::Error },
    #[error("{host} resolves to nothing")]
    NoAddress { host: String },
    /// Every address was refused.
    #[error("{host} may not be reached: {denied}")]
    Denied { host: String, denied: Denied },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("no way to {authority} through the proxy {proxy}: {problem}")]
    Proxy { authority: String, proxy: String, problem: ProxyError },
}

impl Egress {
    pub fn new(policy: Policy) -> Self {
        Egress { policy: Arc::new(policy), proxy: None }
    }

    /// The same through a proxy. Its own address is not asked about: whoever names it means it.
    pub fn through(self, proxy: Proxy) -> Self {
        Egress { proxy: Some(Arc::new(proxy)), ..self }
    }

    async fn connect(&self, uri: Uri) -> Result<TcpStream, ConnectError> {
        let host =
            uri.host().ok_or(ConnectError::NoHost)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let resolving = async {
            let found = resolve::lookup_host((host.as_str(), port)).await;
            found
                .map(Iterator::collect)
                .map_err(|source| ConnectError::Resolve { host: host.clone(), source })
        };
        let Some(proxy) = &self.proxy else { return self.direct(host.clone(), resolving.await?).await };
        let found: Vec<SocketAddr> = match tokio::time::timeout(RESOLVE_BEFORE_PROXY, resolving).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        if proxy.is_bypassed(&host, &found) {
            return self.direct(host, found).await;
        }
        let authority = self.authority(host, port, &found)?;
        proxy.connect(&authority).await.map_err(|problem| ConnectError::Proxy {
            authority,
            proxy: format!("{}:{}", proxy.host, proxy.port),
            problem,
        })
    }

    /// What the proxy is asked for: the name, for it may know it better; where only some of its addresses may be reached,
    /// one of those.
    pub(super) fn authority(
        &self,
        host: String,
        port: u16,
        found: &[SocketAddr],
    ) -> Result<String, ConnectError> {
        let mut allowed = None;
        let mut refused = None;
        for address in found {
            match self.policy.check(*address) {
                Ok(()) => allowed = allowed.or(Some(*address)),
                Err(denied) => refused = refused.or(Some(denied)),
            }
        }
        match (allowed, refused) {
            (None, Some(denied)) => Err(ConnectError::Denied { host, denied }),
            (Some(address), Some(_)) => Ok(address.to_string()),
            (_, None) if host.contains(':') => Ok(format!("[{host}]:{port}")),
            (_, None) => Ok(format!("{host}:{port}")),
        }
    }

    async fn direct(&self, host: String, addresses: Vec<SocketAddr>) -> Result<TcpStream, ConnectError> {
        let mut failure = ConnectError::NoAddress { host: host.clone() };
        for address in addresses {
            if let Err(denied) = self.policy.check(address) {
                // An address that was refused tells less than one that was tried.
                if !matches!(failure, ConnectError::Connect { .. }) {
                    failure = ConnectError::Denied { host: host.clone(), denied };
                }
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Small signed requests would wait for the delayed acknowledgement of the one before.
                    stream.set_nodelay(true).map_err(|source| ConnectError::Connect { address, source })?;
                    return Ok(stream);
                }
                Err(source) => failure = ConnectError::Connect { address, source },
            }
        }
        Err(failure)
    }
}

impl Service<Uri> for Egress {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.connect(uri).await.map(TokioIo::new) })
    }
}
