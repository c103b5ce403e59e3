//! `hookstream emulate`: emulators of the vendors' admin APIs.

mod auth0;
mod kong;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;

use super::{Failure, OrFail, Outcome, say};

/// Emulate a vendor's admin API, for tests and demos.
///
/// Example: hookstream emulate kong --listen 127.0.0.1:8001
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
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
