//! The addresses of the API server, which no request may reach: it could trust the operator's network identity.
//!
//! Its name may resolve late, to several addresses, and to others over time. So the name is resolved again, and every
//! address that it had recently counts.

use std::net::{IpAddr, SocketAddr};

use super::egress::{EgressDenial, effective_addresses, is_private};
use super::time::Millis;

/// How long resolved addresses are valid, in milliseconds.
const VALID_FOR: i64 = 30_000;
/// How long a failed lookup is not repeated while no address is known, in milliseconds.
const RETRY_AFTER: i64 = 1_000;
/// How long an address counts after the name last resolved to it, in milliseconds. Servers behind a name that resolves to
/// some of many addresses are found over several lookups.
const KEPT_FOR: i64 = 600_000;
/// The most addresses that are kept; the oldest are dropped first.
const MAX_ADDRESSES: usize = 64;

/// The name of the API server, and the addresses that it resolved to. Times are arguments, of a clock that never jumps.
#[derive(Clone, Debug)]
pub struct ApiServer {
    host: String,
    port: u16,
    /// The addresses, each with the time at which the name last resolved to it.
    seen: Vec<(SocketAddr, Millis)>,
    /// The time of the last lookup. None: there was none.
    looked_up: Option<Millis>,
    /// True if the host is an address, which needs no lookup.
    is_address: bool,
}

impl ApiServer {
    /// Creates the state for a host name, or for an address, which may be in brackets.
    pub fn new(host: &str, port: u16) -> Self {
        let host = normalize(host);
        let address = host.parse::<IpAddr>().ok().map(|ip| (SocketAddr::new(ip, port), Millis(i64::MAX)));
        let (seen, is_address) = (address.into_iter().collect(), address.is_some());
        ApiServer { host, port, seen, looked_up: None, is_address }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// True if the name must be resolved before the next decision.
    pub fn needs_lookup(&self, now: Millis) -> bool {
        let pause = if self.seen.is_empty() { RETRY_AFTER } else { VALID_FOR };
        !self.is_address && self.looked_up.is_none_or(|at| now.0.saturating_sub(at.0) >= pause)
    }

    /// Records the addresses that a lookup found; none if it failed. Then the earlier ones stay.
    pub fn record_lookup(&mut self, found: &[SocketAddr], now: Millis) {
        self.looked_up = Some(now);
        if found.is_empty() {
            return;
        }
        self.seen.retain(|(address, at)| now.0.saturating_sub(at.0) < KEPT_FOR && !found.contains(address));
        self.seen.splice(0..0, found.iter().map(|address| (*address, now)));
        self.seen.truncate(MAX_ADDRESSES);
    }

    /// Checks the host and port of a request. A proxy may resolve a name that this process cannot resolve.
    pub fn check_host(&self, host: &str, port: u16) -> Result<(), EgressDenial> {
        let is_same = port == self.port && normalize(host) == self.host;
        if is_same { Err(EgressDenial::ApiServer) } else { Ok(()) }
    }

    /// Checks one address. While no address of the API server is known, every private address with its port could be its
    /// address.
    pub fn check(&self, address: SocketAddr) -> Result<(), EgressDenial> {
        if address.port() != self.port {
            return Ok(());
        }
        let reached = effective_addresses(address.ip());
        let is_reached = |(known, _): &(SocketAddr, Millis)| {
            effective_addresses(known.ip()).iter().any(|ip| reached.contains(ip))
        };
        if self.seen.iter().any(is_reached) {
            return Err(EgressDenial::ApiServer);
        }
        if self.seen.is_empty() && reached.iter().any(|ip| is_private(*ip) || ip.is_loopback()) {
            return Err(EgressDenial::ApiServerUnknown);
        }
        Ok(())
    }
}

/// Returns a host in lower case, without brackets and without the dot at its end.
fn normalize(host: &str) -> String {
    host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn lookup(server: &mut ApiServer, found: &[&str], now: i64) {
        let found: Vec<_> = found.iter().map(|address| at(address)).collect();
        server.record_lookup(&found, Millis(now));
    }

    const DENIED: Result<(), EgressDenial> = Err(EgressDenial::ApiServer);
    const UNKNOWN: Result<(), EgressDenial> = Err(EgressDenial::ApiServerUnknown);

    #[test]
    fn denies_every_address_of_the_name() {
        let mut server = ApiServer::new("api.example.com", 6443);
        lookup(&mut server, &["10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:6443"], 0);
        for address in ["10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:6443", "[::ffff:10.0.0.2]:6443"] {
            assert_eq!(server.check(at(address)), DENIED, "{address}");
        }
        for address in ["10.0.0.1:443", "10.0.0.3:6443", "93.184.216.34:6443"] {
            assert_eq!(server.check(at(address)), Ok(()), "{address}");
        }
    }

    #[test]
    fn denies_private_addresses_with_its_port_while_its_address_is_unknown() {
        let mut server = ApiServer::new("api.example.com", 6443);
        lookup(&mut server, &[], 0);
        for address in ["10.0.0.1:6443", "[fd00::1]:6443", "127.0.0.1:6443", "[64:ff9b::a00:1]:6443"] {
            assert_eq!(server.check(at(address)), UNKNOWN, "{address}");
        }
        assert_eq!(server.check(at("10.0.0.1:443")), Ok(()), "another port");
        assert_eq!(server.check(at("93.184.216.34:6443")), Ok(()), "a public address");
        assert!(!server.needs_lookup(Millis(999)) && server.needs_lookup(Millis(1_000)));
        lookup(&mut server, &["10.0.0.1:6443"], 1_000);
        assert_eq!(server.check(at("10.0.0.1:6443")), DENIED);
        assert_eq!(server.check(at("10.0.0.9:6443")), Ok(()));
    }

    #[test]
    fn remembers_the_addresses_of_recent_lookups() {
        let mut server = ApiServer::new("api.example.com", 443);
        assert!(server.needs_lookup(Millis(0)), "before the first decision");
        lookup(&mut server, &["10.0.0.1:443"], 0);
        assert!(!server.needs_lookup(Millis(29_999)) && server.needs_lookup(Millis(30_000)));
        lookup(&mut server, &["10.0.0.2:443"], 30_000);
        assert_eq!(server.check(at("10.0.0.1:443")), DENIED, "it rotates");
        lookup(&mut server, &[], 60_000);
        assert_eq!(server.check(at("10.0.0.2:443")), DENIED, "a failed lookup forgets nothing");
        assert!(!server.needs_lookup(Millis(60_001)));
        lookup(&mut server, &["10.0.0.2:443"], 600_000);
        assert_eq!(server.check(at("10.0.0.1:443")), Ok(()), "no longer its address");
        for n in 0..200 {
            lookup(&mut server, &[&format!("10.1.0.{n}:443")], 600_000);
        }
        assert_eq!(server.seen.len(), MAX_ADDRESSES);
        assert_eq!(server.check(at("10.1.0.199:443")), DENIED);
    }

    #[test]
    fn denies_the_host_name_in_every_notation() {
        let server = ApiServer::new("API.example.com.", 6443);
        for host in ["api.example.com", "API.EXAMPLE.COM", "api.example.com."] {
            assert_eq!(server.check_host(host, 6443), DENIED, "{host}");
            assert_eq!(server.check_host(host, 443), Ok(()), "{host}");
        }
        assert_eq!(server.check_host("b.example.com", 6443), Ok(()));
    }

    #[test]
    fn address_needs_no_lookup() {
        for (host, address) in [("10.96.0.1", "10.96.0.1:443"), ("[fd00::1]", "[fd00::1]:443")] {
            let server = ApiServer::new(host, 443);
            assert!(!server.needs_lookup(Millis(0)) && !server.needs_lookup(Millis(i64::MAX)));
            assert_eq!(server.check(at(address)), DENIED);
        }
    }
}
