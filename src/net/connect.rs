//! The connector: resolves a host, checks its addresses against the egress policy, and connects only to allowed ones.

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

use super::api_server::ApiServerGuard;
use super::proxy::{Proxy, ProxyError};
use super::resolve;
use crate::core::egress::{EgressDenial, EgressRules};

/// Timeout of local name resolution if a proxy is configured; after it the proxy resolves the name. Where only the proxy
/// can resolve external names, a local lookup may take longer than the deadline of a delivery.
const RESOLVE_BEFORE_PROXY: Duration = Duration::from_secs(2);

/// Timeout of a TCP connection to one address. A host that drops packets then fails as unreachable, within the deadline of
/// an admin call and of a delivery, and the next address of its name is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// A connector that enforces an egress policy, optionally through a proxy.
#[derive(Clone, Debug)]
pub struct Egress {
    policy: Arc<EgressRules>,
    /// Denies the API server, in a cluster.
    api_server: Option<Arc<ApiServerGuard>>,
    proxy: Option<Arc<Proxy>>,
}

/// Why no connection was established.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the address has no host")]
    NoHost,
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: std::io::Error },
    #[error("{host} resolves to no address")]
    NoAddress { host: String },
    /// The policy denies every address.
    #[error("the egress policy denies {host}: {denied}")]
    Denied { host: String, denied: EgressDenial },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("cannot reach {authority} through the proxy {proxy}: {problem}")]
    Proxy { authority: String, proxy: String, problem: ProxyError },
}

impl Egress {
    pub fn new(policy: EgressRules) -> Self {
        Egress { policy: Arc::new(policy), api_server: None, proxy: None }
    }

    /// Denies all addresses of the API server, also those that its name resolves to later.
    pub fn deny_api_server(self, host: &str, port: u16) -> Self {
        Egress { api_server: Some(Arc::new(ApiServerGuard::new(host, port))), ..self }
    }

    /// Uses a proxy. The policy does not apply to the proxy's own address, which the administrator configured.
    pub fn via_proxy(self, proxy: Proxy) -> Self {
        Egress { proxy: Some(Arc::new(proxy)), ..self }
    }

    async fn connect(&self, uri: Uri) -> Result<TcpStream, ConnectError> {
        let host =
            uri.host().ok_or(ConnectError::NoHost)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        if let Some(api_server) = &self.api_server
            && let Err(denied) = api_server.check_host(&host, port).await
        {
            return Err(ConnectError::Denied { host, denied });
        }
        let resolution = async {
            let found = resolve::lookup_host((host.as_str(), port)).await;
            found
                .map(Iterator::collect)
                .map_err(|source| ConnectError::Resolve { host: host.clone(), source })
        };
        let Some(proxy) = &self.proxy else {
            return self.connect_directly(host.clone(), resolution.await?).await;
        };
        let found: Vec<SocketAddr> = match tokio::time::timeout(RESOLVE_BEFORE_PROXY, resolution).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        if proxy.is_bypassed(&host, &found) {
            return self.connect_directly(host, found).await;
        }
        let authority = self.proxy_authority(host, port, &found)?;
        proxy.connect(&authority).await.map_err(|problem| ConnectError::Proxy {
            authority,
            proxy: format!("{}:{}", proxy.host, proxy.port),
            problem,
        })
    }

    fn check(&self, address: SocketAddr) -> Result<(), EgressDenial> {
        self.api_server.as_ref().map_or(Ok(()), |api_server| api_server.check(address))?;
        self.policy.check(address)
    }

    /// Returns the target to request from the proxy: the name, because the proxy may resolve it differently. If the policy
    /// denies some of its addresses, returns an allowed address instead.
    pub(super) fn proxy_authority(
        &self,
        host: String,
        port: u16,
        found: &[SocketAddr],
    ) -> Result<String, ConnectError> {
        let mut allowed = None;
        let mut denied = None;
        for address in found {
            match self.check(*address) {
                Ok(()) => allowed = allowed.or(Some(*address)),
                Err(reason) => denied = denied.or(Some(reason)),
            }
        }
        match (allowed, denied) {
            (None, Some(denied)) => Err(ConnectError::Denied { host, denied }),
            (Some(address), Some(_)) => Ok(address.to_string()),
            (_, None) if host.contains(':') => Ok(format!("[{host}]:{port}")),
            (_, None) => Ok(format!("{host}:{port}")),
        }
    }

    async fn connect_directly(
        &self,
        host: String,
        addresses: Vec<SocketAddr>,
    ) -> Result<TcpStream, ConnectError> {
        let mut failure = ConnectError::NoAddress { host: host.clone() };
        for address in addresses {
            if let Err(denied) = self.check(address) {
                // Prefer to report the failure of an attempted address over a denied one.
                if !matches!(failure, ConnectError::Connect { .. }) {
                    failure = ConnectError::Denied { host: host.clone(), denied };
                }
                continue;
            }
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            match connecting.unwrap_or_else(|_| Err(no_answer())) {
                Ok(stream) => {
                    // Nagle's algorithm would delay small requests until the previous one is acknowledged.
                    stream.set_nodelay(true).map_err(|source| ConnectError::Connect { address, source })?;
                    return Ok(stream);
                }
                Err(source) => failure = ConnectError::Connect { address, source },
            }
        }
        Err(failure)
    }
}

fn no_answer() -> std::io::Error {
    let text = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
    std::io::Error::new(std::io::ErrorKind::TimedOut, text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unanswered_connection_fails_within_its_own_bound() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // The kernel drops connection requests while the backlog is full.
        let wait = Duration::from_millis(200);
        let mut waiting = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, wait) {
            waiting.push(stream);
        }
        let egress = Egress::new(EgressRules { loopback: true, ..EgressRules::default() });
        let error = egress.connect(format!("http://{address}/").parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Connect { .. }), "{error}");
        assert!(error.to_string().contains("no answer within 1 s"), "{error}");
    }
}
