//! Keeps the API server's addresses current, so that the connector can deny them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::resolve;
use crate::core::api_server::ApiServer;
use crate::core::egress::EgressDenial;
use crate::core::time::Millis;

/// How long a lookup of the API server's name may delay a connection.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Denies connections to the API server. Resolves its name again when the known addresses are old.
pub struct ApiServerGuard {
    server: Mutex<ApiServer>,
    /// Locked during a lookup: concurrent connections share its result.
    looking_up: tokio::sync::Mutex<()>,
    lookup: Box<Lookup>,
}

impl fmt::Debug for ApiServerGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServerGuard").field("server", &*self.server.lock()).finish_non_exhaustive()
    }
}

impl ApiServerGuard {
    pub fn new(host: &str, port: u16) -> Self {
        Self::with_lookup(
            host,
            port,
            Box::new(|host, port| {
                Box::pin(async move { Ok(resolve::lookup_host((host.as_str(), port)).await?.collect()) })
            }),
        )
    }

    fn with_lookup(host: &str, port: u16, lookup: Box<Lookup>) -> Self {
        ApiServerGuard {
            server: Mutex::new(ApiServer::new(host, port)),
            looking_up: tokio::sync::Mutex::default(),
            lookup,
        }
    }

    /// Checks the host and port of a request, after a lookup if the known addresses are old.
    pub async fn check_host(&self, host: &str, port: u16) -> Result<(), EgressDenial> {
        self.refresh().await;
        self.server.lock().check_host(host, port)
    }

    /// Checks one address.
    pub fn check(&self, address: SocketAddr) -> Result<(), EgressDenial> {
        self.server.lock().check(address)
    }

    async fn refresh(&self) {
        let needs_lookup = || self.server.lock().needs_lookup(Millis::steady());
        if !needs_lookup() {
            return;
        }
        let _looking_up = self.looking_up.lock().await;
        // Another connection may have looked it up meanwhile.
        if !needs_lookup() {
            return;
        }
        let (host, port) = {
            let server = self.server.lock();
            (server.host().to_owned(), server.port())
        };
        let found = match tokio::time::timeout(LOOKUP_TIMEOUT, (self.lookup)(host.clone(), port)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "the API server's name cannot be resolved");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        self.server.lock().record_lookup(&found, Millis::steady());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Creates a guard whose lookups have these results, one after the other; the last one repeats.
    fn guard(results: &'static [&'static [&'static str]]) -> (Arc<ApiServerGuard>, Arc<AtomicUsize>) {
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = lookups.clone();
        let lookup: Box<Lookup> = Box::new(move |_, _| {
            let result = results[count.fetch_add(1, Ordering::SeqCst).min(results.len() - 1)];
            Box::pin(async move {
                tokio::task::yield_now().await;
                match result {
                    [] => Err(io::Error::other("no such host")),
                    found => Ok(found.iter().map(|address| address.parse().unwrap()).collect()),
                }
            })
        });
        (Arc::new(ApiServerGuard::with_lookup("api.test", 6443, lookup)), lookups)
    }

    #[tokio::test]
    async fn resolves_the_name_before_the_first_decision_and_once() {
        let (guard, lookups) = guard(&[&["10.0.0.1:6443", "10.0.0.2:6443"]]);
        let check = || async { guard.check_host("receiver.test", 443).await };
        let (first, second) = tokio::join!(check(), check());
        assert_eq!((first, second), (Ok(()), Ok(())));
        assert_eq!(guard.check("10.0.0.2:6443".parse().unwrap()), Err(EgressDenial::ApiServer));
        assert_eq!(guard.check_host("API.test", 6443).await, Err(EgressDenial::ApiServer));
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn denies_its_name_and_private_addresses_while_it_does_not_resolve() {
        let (guard, _) = guard(&[&[]]);
        assert_eq!(guard.check_host("api.test", 6443).await, Err(EgressDenial::ApiServer));
        assert_eq!(guard.check_host("10.0.0.1", 6443).await, Ok(()));
        assert_eq!(guard.check("10.0.0.1:6443".parse().unwrap()), Err(EgressDenial::ApiServerUnknown));
        assert_eq!(guard.check("10.0.0.1:443".parse().unwrap()), Ok(()));
    }
}
