//! Listen addresses.

use std::fmt;
use std::net::{Ipv6Addr, ToSocketAddrs as _};
use std::str::FromStr;

use tokio::net::TcpListener;

use crate::cli::failure::{Failure, OrFail};

/// The value of every flag that names a listen address: `HOST:PORT`, or `:PORT` for every address of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    #[error("must be HOST:PORT or :PORT, such as 127.0.0.1:8080 or :8080")]
    Malformed,
    #[error("must be HOST:PORT without a scheme, such as 127.0.0.1:8080")]
    Scheme,
    #[error("the port must be a number from 0 to 65535")]
    Port,
    #[error("an IPv6 address needs brackets, such as [::1]:8080")]
    Ipv6,
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") {
            return Err(ListenAddressError::Scheme);
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(ListenAddressError::Ipv6);
        }
        let (host, port) = text.rsplit_once(':').ok_or(ListenAddressError::Malformed)?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err() {
            return Err(ListenAddressError::Port);
        }
        match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) if host.parse::<Ipv6Addr>().is_ok() => {}
            None if !host.contains(|c: char| "[]:/@".contains(c) || c.is_whitespace()) => {}
            _ => return Err(ListenAddressError::Malformed),
        }
        Ok(ListenAddress(text.to_owned()))
    }
}

impl fmt::Display for ListenAddress {
    /// Writes the address as the user gave it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ListenAddress {
    /// Returns the address with a host: `:8080` becomes `0.0.0.0:8080`, which listens on every address.
    pub fn with_host(&self) -> String {
        if self.0.starts_with(':') { format!("0.0.0.0{}", self.0) } else { self.0.clone() }
    }

    /// Returns true if the address is reachable only from this machine. The error names the flag.
    pub fn is_loopback(&self, flag: &str) -> Result<bool, Failure> {
        let mut addresses = self.with_host().to_socket_addrs().or_fail(|| format!("{flag} {self}"))?;
        Ok(addresses.all(|address| address.ip().is_loopback()))
    }

    /// Binds the address. The error names the flag.
    pub async fn bind(&self, flag: &str) -> Result<TcpListener, Failure> {
        TcpListener::bind(self.with_host()).await.or_fail(|| format!("listening on {self} ({flag})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_hosts_and_ports() {
        for (text, with_host) in [
            (":8090", "0.0.0.0:8090"),
            ("localhost:9000", "localhost:9000"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("[::]:80", "[::]:80"),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.with_host().as_str()), (text, with_host));
        }
        for (text, error) in [
            ("here", ListenAddressError::Malformed),
            ("", ListenAddressError::Malformed),
            ("8090", ListenAddressError::Malformed),
            ("a b:1", ListenAddressError::Malformed),
            ("a:1:2", ListenAddressError::Malformed),
            ("[a]:1", ListenAddressError::Malformed),
            ("http://127.0.0.1:80", ListenAddressError::Scheme),
            ("host:", ListenAddressError::Port),
            ("host:http", ListenAddressError::Port),
            ("host:+1", ListenAddressError::Port),
            ("host:65536", ListenAddressError::Port),
            ("::1", ListenAddressError::Ipv6),
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn finds_loopback_addresses() {
        for (text, is_loopback) in [
            ("localhost:1", true),
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            (":1", false),
            ("[::]:1", false),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.is_loopback("--listen").unwrap(), is_loopback, "{text}");
        }
    }
}
