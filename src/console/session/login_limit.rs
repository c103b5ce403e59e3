//! Limits attempts to log in, per client and in total, so that tokens cannot be tried out and the API server is not asked
//! about arbitrary ones at any rate. Behind a trusted proxy, a client is the address that the proxy forwards.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::HeaderMap;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::net::serve::ClientAddress;

const WINDOW: Duration = Duration::from_secs(60);
/// Attempts of one address in a window.
const MAX_OF_ADDRESS: u32 = 10;
/// Attempts of all clients in a window.
const MAX_IN_TOTAL: u32 = 120;
/// The addresses of the clients that proxies have seen, the nearest last.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// The most addresses of it that are read: more proxies than these follow each other nowhere.
const MAX_HOPS: usize = 16;

/// Counts the attempts of the current window. Keeps at most `MAX_IN_TOTAL` addresses.
#[derive(Default)]
pub struct LoginLimit(Mutex<Option<Window>>);

struct Window {
    started: Instant,
    total: u32,
    by_address: HashMap<IpAddr, u32>,
    has_refused: bool,
}

/// Whether an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    /// `is_first`: none was refused in this window before, so that refusals cannot fill the log.
    Refused {
        is_first: bool,
    },
}

impl LoginLimit {
    /// Counts an attempt. `client`: None if many clients share its address, so that it has no limit of its own.
    pub fn admit(&self, client: Option<IpAddr>, now: Instant) -> Admission {
        let mut current = self.0.lock();
        let is_current =
            current.as_ref().is_some_and(|window| now.saturating_duration_since(window.started) < WINDOW);
        if !is_current {
            *current = None;
        }
        let window = current.get_or_insert_with(|| Window {
            started: now,
            total: 0,
            by_address: HashMap::new(),
            has_refused: false,
        });
        if window.count(client) {
            return Admission::Admitted;
        }
        Admission::Refused { is_first: !std::mem::replace(&mut window.has_refused, true) }
    }
}

impl Window {
    /// Counts an attempt. Returns false if it is one too many.
    fn count(&mut self, client: Option<IpAddr>) -> bool {
        if self.total >= MAX_IN_TOTAL {
            return false;
        }
        if let Some(client) = client {
            let count = self.by_address.entry(network(client)).or_default();
            if *count >= MAX_OF_ADDRESS {
                return false;
            }
            *count += 1;
        }
        self.total += 1;
        true
    }
}

/// Returns the address of a client. None: many share it, as of a proxy that forwards no address.
///
/// Only the addresses that trusted proxies have added count, because a client can send the header with any others: the
/// nearest one that is no trusted proxy is the client.
pub fn client_address(peer: Option<ClientAddress>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = peer?;
    let is_trusted =
        |address: IpAddr| trusted.iter().any(|network| network.contains(&address.to_canonical()));
    if !is_trusted(peer.address) {
        return Some(peer.address).filter(|_| !peer.is_shared);
    }
    // Bytes: a value with one that is no ASCII must not vanish together with the address that a proxy added to it.
    let values = headers.get_all(FORWARDED_FOR).iter().map(http::HeaderValue::as_bytes);
    let hops: Vec<&[u8]> = values.flat_map(|value| value.split(|byte| *byte == b',')).collect();
    for hop in hops.iter().rev().take(MAX_HOPS) {
        // What is no address may come from the client: nothing before it counts.
        let hop = std::str::from_utf8(hop).ok()?.trim();
        let with_port = || hop.parse::<SocketAddr>().map(|address| address.ip());
        let address = hop.parse::<IpAddr>().or_else(|_| with_port()).ok()?;
        if !is_trusted(address) {
            return Some(address);
        }
    }
    None
}

/// Counts an IPv6 client by its /64, because one client can use all addresses of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::from(u64::MAX) << 64)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn refuses_an_address_after_ten_attempts_until_the_window_ends() {
        let (limit, now) = (LoginLimit::default(), Instant::now());
        for _ in 0..MAX_OF_ADDRESS {
            assert_eq!(limit.admit(address("2001:db8::1"), now), Admission::Admitted);
        }
        let refused = |is_first| Admission::Refused { is_first };
        assert_eq!(limit.admit(address("2001:db8::2"), now), refused(true), "the same network");
        assert_eq!(limit.admit(address("2001:db8::2"), now), refused(false));
        assert_eq!(limit.admit(address("192.0.2.1"), now), Admission::Admitted, "another client");
        assert_eq!(limit.admit(address("2001:db8::1"), now + WINDOW), Admission::Admitted);
    }

    #[test]
    fn refuses_everyone_after_the_total() {
        let (limit, now) = (LoginLimit::default(), Instant::now());
        for _ in 0..MAX_IN_TOTAL {
            assert_eq!(
                limit.admit(None, now),
                Admission::Admitted,
                "a shared address has no limit of its own"
            );
        }
        assert_eq!(limit.admit(address("192.0.2.2"), now), Admission::Refused { is_first: true });
        assert_eq!(limit.admit(None, now + WINDOW), Admission::Admitted);
    }

    #[test]
    fn client_behind_a_trusted_proxy_is_the_forwarded_address() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()];
        let of = |peer: &str, is_shared, forwarded: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append(FORWARDED_FOR, http::HeaderValue::from_bytes(value).unwrap());
            }
            let peer = ClientAddress { address: peer.parse().unwrap(), is_shared };
            client_address(Some(peer), &headers, &trusted)
        };
        for (peer, is_shared, forwarded, want) in [
            ("192.0.2.1", false, &[&b"198.51.100.7"[..]][..], address("192.0.2.1")),
            ("127.0.0.1", true, &[b"198.51.100.7"], None),
            ("10.0.0.1", true, &[], None),
            ("10.0.0.1", true, &[b"198.51.100.7"], address("198.51.100.7")),
            ("10.0.0.1", true, &[b"198.51.100.7:4711"], address("198.51.100.7")),
            // What the client sent stands before what the proxies added.
            ("10.0.0.1", true, &[b"203.0.113.9, 198.51.100.7, 10.0.0.2"], address("198.51.100.7")),
            ("10.0.0.1", true, &[b"203.0.113.9", b"198.51.100.7"], address("198.51.100.7")),
            ("::ffff:10.0.0.1", true, &[b"2001:db8:1::5", b"::ffff:10.9.9.9"], None),
            ("10.0.0.1", true, &[b"198.51.100.7, unknown"], None),
            // A byte that is no ASCII hides neither the client nor what a proxy added.
            ("10.0.0.1", true, &[b"\xff, 198.51.100.7"], address("198.51.100.7")),
            ("10.0.0.1", true, &[b"203.0.113.9", b"\xff, 198.51.100.7"], address("198.51.100.7")),
            ("10.0.0.1", true, &[b"203.0.113.9", b"\xff"], None),
        ] {
            let shown: Vec<_> = forwarded.iter().map(|value| value.escape_ascii().to_string()).collect();
            assert_eq!(of(peer, is_shared, forwarded), want, "{peer} {shown:?}");
        }
        assert_eq!(client_address(None, &HeaderMap::new(), &trusted), None);
    }
}
