//! The hosts that require HTTP/1.1 although they offer HTTP/2.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::uri::Authority;
use parking_lot::Mutex;

/// Maximum hosts; the one that was added first is forgotten, and is found again by one more request.
const MAX_HOSTS: usize = 1024;
/// The time after which a host is tried with HTTP/2 again, because its configuration may have changed.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// A bounded set of hosts with their ports, each with the time when it was added.
#[derive(Debug, Default)]
pub(super) struct Http1Hosts(Mutex<HashMap<Authority, Instant>>);

impl Http1Hosts {
    pub fn contains(&self, host: &Authority) -> bool {
        self.0.lock().get(host).is_some_and(|added| added.elapsed() < FORGET_AFTER)
    }

    pub fn add(&self, host: Authority) {
        let mut hosts = self.0.lock();
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(&host) {
            let oldest = hosts.iter().min_by_key(|(_, added)| **added).map(|(host, _)| host.clone());
            oldest.map(|host| hosts.remove(&host));
        }
        hosts.insert(host, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_hosts_is_bounded() {
        let (hosts, host) =
            (Http1Hosts::default(), |n: usize| Authority::try_from(format!("h{n}:443")).unwrap());
        for n in 0..MAX_HOSTS + 10 {
            hosts.add(host(n));
        }
        assert_eq!(hosts.0.lock().len(), MAX_HOSTS);
        assert!(hosts.contains(&host(MAX_HOSTS + 9)) && !hosts.contains(&host(0)));
    }
}
