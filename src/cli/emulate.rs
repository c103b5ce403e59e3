//! `hookstream emulate`: emulators of the vendors' admin APIs.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use tokio::net::TcpListener;

use super::{Failure, OrFail, Outcome, say, stop_signal};
use crate::api::SignatureEncoding;
use crate::emulator::{KongOptions, MissingDelete, serve_kong};

/// Emulate a vendor's admin API, for tests and demos.
#[derive(clap::Subcommand)]
pub enum Vendor {
    Kong(KongArgs),
}

/// Emulate Kong's admin API for event hooks.
///
/// POST {"source", "event", "data": {...}} to /__emulator/events to send an event to the hooks that match;
/// /__emulator/faults makes requests fail, /__emulator/requests lists those that came.
///
/// Example: hookstream emulate kong --listen 127.0.0.1:8001 --workspace team-a
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct KongArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8001", env = "HOOKSTREAM_LISTEN")]
    listen: SocketAddr,
    /// The gateway's version, which GET / tells and defaults follow (3.14: SHA-256, ssl_verify on).
    #[arg(long, value_name = "VERSION", default_value = "3.14", env = "HOOKSTREAM_GATEWAY_VERSION")]
    gateway_version: String,
    /// The RBAC token that every admin request must carry. Default: none is asked for.
    #[arg(long, env = "HOOKSTREAM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The header that carries the token.
    #[arg(long, value_name = "NAME", default_value = "Kong-Admin-Token", env = "HOOKSTREAM_TOKEN_HEADER")]
    token_header: String,
    /// A workspace besides default; may be given several times.
    #[arg(long, value_name = "NAME", env = "HOOKSTREAM_WORKSPACE", value_delimiter = ',')]
    workspace: Vec<String>,
    /// What deleting a missing hook answers.
    #[arg(
        long,
        value_name = "STATUS",
        default_value = "204",
        value_parser = ["204", "404"],
        env = "HOOKSTREAM_MISSING_DELETE"
    )]
    missing_delete: String,
    /// Answer PUT with 405.
    #[arg(long, env = "HOOKSTREAM_NO_PUT")]
    no_put: bool,
    /// Refuse a POST that names an id, with 400.
    #[arg(long, env = "HOOKSTREAM_NO_CLIENT_ID")]
    no_client_id: bool,
    /// Answer PATCH with 405.
    #[arg(long, env = "HOOKSTREAM_NO_PATCH")]
    no_patch: bool,
    /// Keep the hooks in this file over a restart. It holds their secrets.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_STATE")]
    state: Option<PathBuf>,
    /// How x-kong-signature is written: Kong does not document it.
    #[arg(long, value_enum, default_value_t = Encoding::PrefixedHex, env = "HOOKSTREAM_SIGNATURE_ENCODING")]
    signature_encoding: Encoding,
}

#[derive(Clone, Copy, ValueEnum)]
enum Encoding {
    /// sha256=<hex>
    PrefixedHex,
    /// The hex alone.
    Hex,
}

pub async fn run(vendor: Vendor) -> Outcome {
    let Vendor::Kong(args) = vendor;
    // Deliveries and the lines of the log handler; the subscriber fails only where one is set already.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(tracing::Level::INFO)
        .with_target(false)
        .try_init()
        .ok();
    let stop = stop_signal()?;
    let listener = listen(args.listen).await?;
    let address = listener.local_addr().or_fail(|| "listening".into())?;
    let options = KongOptions {
        gateway_version: args.gateway_version,
        token: args.token.filter(|token| !token.is_empty()),
        token_header: args.token_header,
        workspaces: args.workspace,
        missing_delete: match args.missing_delete.as_str() {
            "404" => MissingDelete::NotFound,
            _ => MissingDelete::NoContent,
        },
        put: !args.no_put,
        client_id: !args.no_client_id,
        patch: !args.no_patch,
        state: args.state,
        signature_encoding: match args.signature_encoding {
            Encoding::PrefixedHex => SignatureEncoding::PrefixedHex,
            Encoding::Hex => SignatureEncoding::Hex,
        },
    };
    // Said before the first accept: the socket listens already, so whoever waits for this line can connect.
    let ready = async { say(&format!("hookstream: kong emulator listening on http://{address}")) };
    let serve = serve_kong(listener, options, async {
        ready.await;
        stop.await;
    });
    serve.await.or_fail(|| "kong emulator".into())?;
    Ok(ExitCode::SUCCESS)
}

/// Listens, or says which address could not be taken.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.or_fail(|| format!("listening on {address} (--listen)"))
}
