//! `hookstream emulate kong`: the flags of the Kong emulator.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use super::listen_and_announce;
use crate::api::SignatureEncoding;
use crate::cli::failure::{CommandResult, OrFail};
use crate::cli::flags::{ListenAddress, ServerTlsArgs};
use crate::cli::logging::LogArgs;
use crate::cli::signals::stop_signal;
use crate::emulator::{KongOptions, MissingDelete, ReadBack, serve_kong};

/// Emulate Kong's admin API for event hooks.
///
/// POST {"source", "event", "data": {...}} to /__emulator/events to send an event to the hooks that match. POST to
/// /__emulator/faults to make requests fail. GET /__emulator/requests or /__emulator/calls to see the results.
/// docs/emulators.md describes these routes.
///
/// Example: hookstream emulate kong --listen 127.0.0.1:8001 --workspace team-a
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The listen address, such as 127.0.0.1:9000 or :9000; port 0 selects a free port.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8001",
        env = "HOOKSTREAM_EMULATE_KONG_LISTEN"
    )]
    listen: ListenAddress,
    /// The gateway's version, which GET / returns. It determines defaults (from 3.14: SHA-256, ssl_verify on).
    #[arg(long, value_name = "VERSION", default_value = "3.14", env = "HOOKSTREAM_GATEWAY_VERSION")]
    gateway_version: String,
    /// The RBAC token that every admin request must carry. Default: no token is required.
    #[arg(long, env = "HOOKSTREAM_EMULATE_KONG_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The header that carries the token.
    #[arg(long, value_name = "NAME", default_value = "Kong-Admin-Token", env = "HOOKSTREAM_TOKEN_HEADER")]
    token_header: String,
    /// A workspace in addition to default; may be repeated.
    #[arg(long, value_name = "NAME", env = "HOOKSTREAM_EMULATE_KONG_WORKSPACE", value_delimiter = ',')]
    workspace: Vec<String>,
    /// The status that deleting a missing hook returns.
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
    /// Reject a POST that contains an id with 400.
    #[arg(long, env = "HOOKSTREAM_NO_CLIENT_ID")]
    no_client_id: bool,
    /// Answer PATCH with 405.
    #[arg(long, env = "HOOKSTREAM_NO_PATCH")]
    no_patch: bool,
    /// How reads return a hook's signing secret. Kong does not document this.
    #[arg(long, value_enum, default_value_t = SecretDisplay::Plain, value_name = "FORM", env = "HOOKSTREAM_EMULATE_KONG_SECRETS")]
    secrets: SecretDisplay,
    /// A file that keeps the hooks across restarts. It contains their secrets.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_EMULATE_KONG_STATE")]
    state: Option<PathBuf>,
    /// The format of x-kong-signature. Kong does not document it.
    #[arg(long, value_enum, default_value_t = EncodingFlag::PrefixedHex, value_name = "ENCODING", env = "HOOKSTREAM_SIGNATURE_ENCODING")]
    signature_encoding: EncodingFlag,
    #[command(flatten)]
    tls: ServerTlsArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum SecretDisplay {
    /// Unchanged.
    Plain,
    /// As asterisks.
    Masked,
    /// As null.
    Omitted,
}

#[derive(Clone, Copy, ValueEnum)]
enum EncodingFlag {
    /// sha256=<hex>
    PrefixedHex,
    /// The hex alone.
    Hex,
}

pub async fn run(args: Args) -> CommandResult {
    args.log.install()?;
    let stop = stop_signal()?;
    let tls = args.tls.load()?;
    let (listener, ready) = listen_and_announce("kong", &args.listen, tls.is_some()).await?;
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
        secrets: match args.secrets {
            SecretDisplay::Plain => ReadBack::Plain,
            SecretDisplay::Masked => ReadBack::Masked,
            SecretDisplay::Omitted => ReadBack::Omitted,
        },
        state: args.state,
        signature_encoding: match args.signature_encoding {
            EncodingFlag::PrefixedHex => SignatureEncoding::PrefixedHex,
            EncodingFlag::Hex => SignatureEncoding::Hex,
        },
        tls,
    };
    let serve = serve_kong(listener, options, async {
        ready.await;
        stop.await;
    });
    serve.await.or_fail(|| "kong emulator".into())?;
    Ok(ExitCode::SUCCESS)
}
