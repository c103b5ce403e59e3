//! `hookstream emulate auth0`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;

use super::super::settings::ServerTlsArgs;
use super::{announce, read};
use crate::cli::logging::LogArgs;
use crate::cli::{OrFail, Outcome, stop_signal};
use crate::core::duration;
use crate::emulator::{Auth0Options, RateLimit, serve_auth0};

/// Emulate an Auth0 tenant: /oauth/token, /api/v2/event-streams and /api/v2/hooks.
///
/// POST {"type", "data": {...}} to /__emulator/events to have an event happen; it is delivered to the streams that are
/// subscribed to it. /__emulator/faults makes requests fail, /__emulator/requests, /__emulator/deliveries and
/// /__emulator/state show what came of them: see docs/emulators.md.
///
/// Example: hookstream emulate auth0 --listen 127.0.0.1:8002 --client-id me --client-secret s3cret --time-scale 0.01
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8002", env = "HOOKSTREAM_LISTEN")]
    listen: SocketAddr,
    /// The tenant's name as events tell it (a0tenant).
    #[arg(long, value_name = "NAME", default_value = "emulator.eu.auth0.com", env = "HOOKSTREAM_TENANT")]
    tenant: String,
    /// The application that may get tokens. Default: any may, and any bearer token passes.
    #[arg(long, value_name = "ID", requires = "client_secret", env = "HOOKSTREAM_CLIENT_ID")]
    client_id: Option<String>,
    /// Its secret.
    #[arg(
        long,
        value_name = "SECRET",
        requires = "client_id",
        env = "HOOKSTREAM_CLIENT_SECRET",
        hide_env_values = true
    )]
    client_secret: Option<String>,
    /// A ready access token that passes, too; with it alone no other token does.
    #[arg(long, env = "HOOKSTREAM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The audience that tokens must be asked for. Default: any that ends with /api/v2/
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_AUDIENCE")]
    audience: Option<String>,
    /// How long a token passes (units h, m, s, ms).
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse, env = "HOOKSTREAM_TOKEN_LIFETIME")]
    token_lifetime: Duration,
    /// Requests a second to the Management API, told by x-ratelimit- headers; above it 429. Default: no limit.
    #[arg(long, value_name = "REQUESTS", env = "HOOKSTREAM_RATE_LIMIT")]
    rate_limit: Option<f64>,
    /// Requests at once. Default: as many as a second, at least 1.
    #[arg(long, value_name = "REQUESTS", requires = "rate_limit", env = "HOOKSTREAM_RATE_BURST")]
    rate_burst: Option<u32>,
    /// Failed deliveries in a row that disable a stream.
    #[arg(long, value_name = "NUMBER", default_value_t = 500, env = "HOOKSTREAM_DISABLE_AFTER")]
    disable_after: u64,
    /// Failed deliveries in all that disable a stream, and that forbid to enable it.
    #[arg(long, value_name = "NUMBER", default_value_t = 5_000, env = "HOOKSTREAM_DISABLE_AFTER_TOTAL")]
    disable_after_total: u64,
    /// More streams than this answer 409. Default: 20000; Auth0's number is not published.
    #[arg(long, value_name = "NUMBER", env = "HOOKSTREAM_MAX_STREAMS")]
    max_streams: Option<usize>,
    /// Answer every request to /api/v2/hooks with this status, as after their end of life. Default: hooks work.
    #[arg(long, value_name = "STATUS", value_parser = ["403", "404", "410"], env = "HOOKSTREAM_HOOKS_GONE")]
    hooks_gone: Option<String>,
    /// Multiplies the waits between the attempts of a delivery: 1, 2 and 4 s.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, env = "HOOKSTREAM_TIME_SCALE")]
    time_scale: f64,
    /// Trust these authorities (PEM) of https receivers, and no others. Default: the system's.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_CA")]
    ca: Option<PathBuf>,
    /// Keep streams, hooks and failed deliveries in this file over a restart. It holds secrets.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_STATE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    tls: ServerTlsArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub async fn run(args: Args) -> Outcome {
    args.log.start()?;
    let stop = stop_signal()?;
    let tls = args.tls.open()?;
    let ca = args.ca.as_ref().map(|path| read(path, "--ca")).transpose()?;
    let (listener, ready) = announce("auth0", args.listen, tls.is_some()).await?;
    let rate_limit = args.rate_limit.map(|per_second| RateLimit {
        per_second,
        burst: args.rate_burst.unwrap_or_else(|| per_second.max(1.0) as u32),
    });
    let defaults = Auth0Options::default();
    let options = Auth0Options {
        tenant: args.tenant,
        client: args.client_id.zip(args.client_secret),
        token: args.token.filter(|token| !token.is_empty()),
        audience: args.audience,
        token_lifetime: args.token_lifetime,
        rate_limit,
        disable_after: args.disable_after,
        disable_after_total: args.disable_after_total,
        max_streams: args.max_streams.unwrap_or(defaults.max_streams),
        hooks_gone: args.hooks_gone.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok()),
        time_scale: args.time_scale,
        ca,
        state: args.state,
        tls,
    };
    let serve = serve_auth0(listener, options, async {
        ready.await;
        stop.await;
    });
    serve.await.or_fail(|| "auth0 emulator".into())?;
    Ok(ExitCode::SUCCESS)
}
