//! The connector: resolves a name, checks what it resolved to, connects to what was checked.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::resolve;
use crate::core::egress::{Denied, Policy};

/// A connector under an egress policy.
#[derive(Clone, Debug)]
pub struct Egress {
    policy: Arc<Policy>,
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
}

impl Egress {
    pub fn new(policy: Policy) -> Self {
        Egress { policy: Arc::new(policy) }
    }

    async fn connect(&self, uri: Uri) -> Result<TcpStream, ConnectError> {
        let host =
            uri.host().ok_or(ConnectError::NoHost)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let addresses = resolve::lookup_host((host.as_str(), port))
            .await
            .map_err(|source| ConnectError::Resolve { host: host.clone(), source })?;
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
