//! Listen addresses.

use std::net::ToSocketAddrs as _;

use tokio::net::TcpListener;

use crate::cli::failure::{Failure, OrFail};

/// Binds an address. The error names the flag.
pub async fn bind(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(with_host(address)).await.or_fail(|| format!("{flag} {address}"))
}

/// Returns true if a listen address is reachable only from this machine.
pub fn is_loopback(flag: &str, listen: &str) -> Result<bool, Failure> {
    let mut addresses = with_host(listen)
        .to_socket_addrs()
        .map_err(|e| Failure::new(format!("{flag} {listen}: {e}: give HOST:PORT")))?;
    Ok(addresses.all(|a| a.ip().is_loopback()))
}

/// Completes `:8080` to `0.0.0.0:8080`, which listens on every address.
pub fn with_host(listen: &str) -> String {
    if listen.starts_with(':') { format!("0.0.0.0{listen}") } else { listen.to_owned() }
}
