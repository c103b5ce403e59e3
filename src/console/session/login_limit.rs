//! Limits attempts to log in, per client and in total, so that tokens cannot be tried out and the API server is not asked
//! about arbitrary ones at any rate.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::serve::ClientAddress;

const WINDOW: Duration = Duration::from_secs(60);
/// Attempts of one address in a window.
const MAX_OF_ADDRESS: u32 = 10;
/// Attempts of all clients in a window.
const MAX_IN_TOTAL: u32 = 120;

/// Counts the attempts of the current window. Keeps at most `MAX_IN_TOTAL` addresses.
#[derive(Default)]
pub struct LoginLimit(Mutex<Option<Window>>);

struct Window {
    started: Instant,
    total: u32,
    by_address: HashMap<IpAddr, u32>,
}

impl LoginLimit {
    /// Counts an attempt. Returns false if it must be refused.
    pub fn admit(&self, client: Option<ClientAddress>, now: Instant) -> bool {
        let mut current = self.0.lock();
        let is_current =
            current.as_ref().is_some_and(|window| now.saturating_duration_since(window.started) < WINDOW);
        if !is_current {
            *current = None;
        }
        let window =
            current.get_or_insert_with(|| Window { started: now, total: 0, by_address: HashMap::new() });
        if window.total >= MAX_IN_TOTAL {
            return false;
        }
        // Many users share the address of a proxy.
        if let Some(client) = client.filter(|client| !client.is_shared) {
            let count = window.by_address.entry(network(client.address)).or_default();
            if *count >= MAX_OF_ADDRESS {
                return false;
            }
            *count += 1;
        }
        window.total += 1;
        true
    }
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

    fn client(text: &str, is_shared: bool) -> Option<ClientAddress> {
        Some(ClientAddress { address: text.parse().unwrap(), is_shared })
    }

    #[test]
    fn refuses_an_address_after_ten_attempts_until_the_window_ends() {
        let (limit, now) = (LoginLimit::default(), Instant::now());
        for _ in 0..MAX_OF_ADDRESS {
            assert!(limit.admit(client("2001:db8::1", false), now));
        }
        assert!(!limit.admit(client("2001:db8::2", false), now), "the same network");
        assert!(limit.admit(client("192.0.2.1", false), now), "another client");
        assert!(limit.admit(client("2001:db8::1", false), now + WINDOW));
    }

    #[test]
    fn refuses_everyone_after_the_total() {
        let (limit, now) = (LoginLimit::default(), Instant::now());
        for _ in 0..MAX_IN_TOTAL {
            assert!(limit.admit(client("192.0.2.1", true), now), "a proxy has no limit of its own");
        }
        assert!(!limit.admit(client("192.0.2.2", false), now));
        assert!(!limit.admit(None, now));
        assert!(limit.admit(None, now + WINDOW));
    }
}
