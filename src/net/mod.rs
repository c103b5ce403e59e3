//! HTTP: the one way out for deliveries and admin calls, and the server of every port.
//!
//! Invariants: every connection goes through `connect`, which resolves, checks every address by the egress policy and
//! connects only to a checked one, or asks the proxy that a flag names for it; no redirects are followed, no proxy is
//! taken from the environment; every call has a deadline that covers all of it and a bound on what it reads.
//!
//! `serve` bounds connections, can close one without an answer and gives each request an id (`request_id`); `serve_tls` shows a certificate
//! from files. `threads` gives a part of the process threads of its own.
//!
//! Left to others: what to send and what an answer means.

mod client;
mod connect;
#[cfg(test)]
mod http2;
mod linger;
mod proxy;
pub mod request_id;
mod resolve;
pub mod serve;
mod serve_tls;
pub mod threads;
mod tls;

pub use client::{Answer, HttpClient, SendError};
pub use connect::Egress;
pub use proxy::{Bypass, Proxy};
pub use serve_tls::{ServerTls, ServerTlsError};
pub use tls::{TlsError, TlsOptions};
