//! `hookstream emulate`: emulators of the vendors' admin APIs.

mod auth0;
mod kong;

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretSlice;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Failure, OrFail, Outcome, say};
use crate::net;

/// Emulate a vendor's admin API, for tests and demos.
#[derive(clap::Subcommand)]
pub enum Vendor {
    Kong(kong::Args),
    Auth0(auth0::Args),
}

pub async fn run(vendor: Vendor) -> Outcome {
    match vendor {
        Vendor::Kong(args) => kong::run(args).await,
        Vendor::Auth0(args) => auth0::run(args).await,
    }
}

/// TLS for the emulator's own address.
#[derive(clap::Args)]
struct TlsArgs {
    /// Speak TLS with this certificate and its chain (PEM). Default: plain HTTP.
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "HOOKSTREAM_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "HOOKSTREAM_TLS_KEY")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    fn read(&self) -> Result<Option<TlsAcceptor>, Failure> {
        let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let key = SecretSlice::from(read(key, "--tls-key")?);
        let acceptor = net::acceptor(&read(chain, "--tls-cert")?, &key);
        acceptor.map(Some).or_fail(|| "--tls-cert, --tls-key".into())
    }
}

fn read(path: &PathBuf, flag: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).or_fail(|| format!("{flag} {}", path.display()))
}

/// Listens, and gives what to wait for before the first accept: a line that says where. The socket listens by then, so
/// whoever waits for the line can connect.
async fn announce(
    vendor: &str,
    address: SocketAddr,
    tls: bool,
) -> Result<(TcpListener, impl Future<Output = ()>), Failure> {
    let listener = listen(address).await?;
    let address = listener.local_addr().or_fail(|| "listening".into())?;
    let scheme = if tls { "https" } else { "http" };
    let line = format!("hookstream: {vendor} emulator listening on {scheme}://{address}");
    Ok((listener, async move { say(&line) }))
}

/// Listens, or says which address could not be taken.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.or_fail(|| format!("listening on {address} (--listen)"))
}
