//! Names into addresses, without taking every thread that may block.
//!
//! The system's resolver blocks, for up to a minute where a zone's servers do not answer, and goes on when nobody waits
//! for it any more. Reads of the store and filters need such threads too.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::sync::Semaphore;

/// Names that are looked up at a time; the runtime has 512 threads that may block.
const AT_ONCE: usize = 128;

static LOOKUPS: Semaphore = Semaphore::const_new(AT_ONCE);

/// The addresses of a host; of one that is an address, itself.
pub async fn lookup_host((host, port): (&str, u16)) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)].into_iter());
    }
    // The permit travels with the lookup, which does not end with whoever waits for it.
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
    async fn lookups_that_hang_leave_threads_to_others() {
        let local = lookup_host(("localhost", 7)).await.unwrap().next().unwrap();
        assert!(local.ip().is_loopback() && local.port() == 7);
        let hanging = LOOKUPS.acquire_many(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let short = Duration::from_millis(50);
        tokio::time::timeout(short, lookup_host(("localhost", 7))).await.expect_err("it waits its turn");
        for address in ["127.0.0.1", "::1"] {
            let found = lookup_host((address, 7)).await.unwrap().next().unwrap();
            assert_eq!(found.ip().to_string(), address, "an address waits for nobody");
        }
        drop(hanging);
        lookup_host(("localhost", 7)).await.unwrap();
    }
}
