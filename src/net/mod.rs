//! HTTP: the client of deliveries and admin calls, and the server of every port.
//!
//! Invariants: every outgoing connection goes through `connect`. It resolves the host, checks every address against the
//! egress policy, and connects only to an allowed address, or through the proxy that a flag names. Redirects are not
//! followed, and the proxy variables of the environment are ignored. Every call has a deadline for the whole exchange
//! and a bound on the response body.
//!
//! `serve` bounds the number of connections (`admission` chooses which one gives way on a full port), the time that a peer may
//! take (`timed_stream`, `request_body`) and the size of a head. It can close a connection without a response, and assigns
//! request ids (`request_id`). `serve_tls` reads the certificate from files. `runtime` runs a part of the process on separate threads.
//!
//! Out of scope: the content of requests and the meaning of responses.

mod admission;
mod api_server;
mod certificate_verifiers;
mod client;
mod connect;
mod connection_state;
mod http1_hosts;
#[cfg(test)]
mod http2_tests;
mod port_options;
pub mod problem;
mod proxy;
mod request_body;
pub mod request_id;
mod resolve;
pub mod runtime;
pub mod serve;
mod serve_connection;
#[cfg(test)]
mod serve_tests;
mod serve_tls;
mod status_recorder;
mod timed_stream;
mod tls;
mod tls_client;

pub use certificate_verifiers::VerifiedName;
pub use client::{HttpClient, HttpResponse, SendError, describe_cause};
pub use connect::Egress;
pub use port_options::{PortOptions, raise_open_files_limit};
pub use proxy::{Bypass, Proxy};
pub use serve_tls::{ServerTls, ServerTlsError};
pub use tls::{TlsError, TlsOptions, describe_tls_error};
