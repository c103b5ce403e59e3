//! Limits of one listening port.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::serve_tls::ServerTls;

/// The most connections of one port. Further ones wait in the kernel's accept queue.
const MAX_CONNECTIONS: usize = 1024;
/// The fewest connections of a port, however few files the process may open.
const MIN_CONNECTIONS: usize = 16;
/// Two ports together use at most half of the files that the process may open. The other half is for deliveries, the store and
/// the API server.
const DESCRIPTOR_SHARE: usize = 4;
/// The most connections of the port for probes and metrics.
const MAX_OPS_CONNECTIONS: usize = 64;

/// The number of open files that the process requests. More than it needs, and few enough for code that visits every
/// possible one.
const OPEN_FILES: u64 = 65_536;

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From accepting a connection (or from the end of the TLS handshake) to the first byte of a request.
    pub silent: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// From a response to the first byte of the next request.
    pub idle: Duration,
    /// Between two parts of a response that the peer reads.
    pub write: Duration,
    /// How long a body may take before its rate counts, and the most time that it may get ahead.
    pub body_grace: Duration,
    /// The minimum average rate of a body, in bytes per second.
    pub body_rate: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            silent: Duration::from_secs(10),
            head: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
            body_grace: Duration::from_secs(10),
            body_rate: 1024,
        }
    }
}

/// The limits of one port.
#[derive(Clone)]
pub struct PortOptions {
    pub max_connections: usize,
    /// Proxies that open connections for many clients. The limit for each peer address does not apply to them.
    pub trusted_proxies: Arc<[IpNet]>,
    pub timeouts: Timeouts,
    /// The certificate. None: plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
}

impl Default for PortOptions {
    fn default() -> Self {
        let most = open_files_limit().map_or(MAX_CONNECTIONS, |files| files / DESCRIPTOR_SHARE);
        PortOptions {
            max_connections: most.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS),
            trusted_proxies: Arc::default(),
            timeouts: Timeouts::default(),
            tls: None,
        }
    }
}

impl PortOptions {
    /// Returns the limits of the port for probes and metrics.
    pub fn ops() -> Self {
        PortOptions { max_connections: MAX_OPS_CONNECTIONS, ..PortOptions::default() }
    }

    /// Returns true if this address is shared by many clients: a loopback address, or a proxy that a flag names.
    pub(super) fn is_shared(&self, peer: IpAddr) -> bool {
        peer.is_loopback() || self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

/// Raises the soft limit of open files up to the hard limit. Shells commonly set 1024, which the connections of one port would
/// use up, so that deliveries could not connect.
pub fn raise_open_files_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "raising the limit of open files failed");
        }
    }
}

/// Returns the number of files that the process may open; None if it is unlimited.
fn open_files_limit() -> Option<usize> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok())
}
