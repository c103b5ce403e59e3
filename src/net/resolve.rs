//! Resolves host names with a bound on blocking threads.
//!
//! The system's resolver blocks a thread, for up to a minute if a zone's servers do not respond, and cannot be cancelled.
//! Store reads and filters need the same thread pool.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::sync::Semaphore;

/// Maximum concurrent lookups. The runtime has 512 blocking threads.
const MAX_LOOKUPS: usize = 128;

static LOOKUPS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// Returns the addresses of a host. Returns an IP address unchanged, without a lookup.
pub async fn lookup_host((host, port): (&str, u16)) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)].into_iter());
    }
    // Move the permit into the lookup, which continues if the caller is cancelled.
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let host = host.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        (host, port).to_socket_addrs()
    });
    found.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn bounds_concurrent_lookups() {
        let local = lookup_host(("localhost", 7)).await.unwrap().next().unwrap();
        assert!(local.ip().is_loopback() && local.port() == 7);
        let hanging = LOOKUPS.acquire_many(u32::try_from(MAX_LOOKUPS).unwrap()).await.unwrap();
        let short = Duration::from_millis(50);
        tokio::time::timeout(short, lookup_host(("localhost", 7))).await.expect_err("it waits for a permit");
        for address in ["127.0.0.1", "::1"] {
            let found = lookup_host((address, 7)).await.unwrap().next().unwrap();
            assert_eq!(found.ip().to_string(), address, "an address needs no permit");
        }
        drop(hanging);
        lookup_host(("localhost", 7)).await.unwrap();
    }
}
