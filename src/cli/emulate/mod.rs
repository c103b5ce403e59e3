//! `hookstream emulate`: runs emulators of the vendors' admin APIs.

mod auth0;
mod kong;

use std::path::PathBuf;

use tokio::net::TcpListener;

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::ListenAddress;
use super::output::print_line;

/// Emulate a vendor's admin API, for tests and demos.
///
/// Example: hookstream emulate kong --listen 127.0.0.1:8001
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum EmulateCommand {
    Kong(kong::Args),
    Auth0(auth0::Args),
}

pub async fn run(command: EmulateCommand) -> CommandResult {
    match command {
        EmulateCommand::Kong(args) => kong::run(args).await,
        EmulateCommand::Auth0(args) => auth0::run(args).await,
    }
}

fn read_file(path: &PathBuf, flag: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).or_fail(|| format!("{flag} {}", path.display()))
}

/// Binds the address. Also returns a future that prints the address; await it before the first accept. The socket
/// listens already when the line appears, so a script that waits for the line can connect.
async fn listen_and_announce(
    vendor: &str,
    address: &ListenAddress,
    tls: bool,
) -> Result<(TcpListener, impl Future<Output = ()>), Failure> {
    let listener = address.bind("--listen").await?;
    let address = listener.local_addr().or_fail(|| "listening".into())?;
    let scheme = if tls { "https" } else { "http" };
    let line = format!("hookstream: {vendor} emulator listening on {scheme}://{address}");
    Ok((listener, async move { print_line(&line) }))
}
