//! `hookstream emulate auth0`: the flags of the Auth0 emulator.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;

use super::{listen_and_announce, read_file};
use crate::api::AssertionAlgorithm;
use crate::cli::failure::{CommandResult, Failure, OrFail};
use crate::cli::flags::{ListenAddress, ServerTlsArgs};
use crate::cli::logging::LogArgs;
use crate::cli::signals::stop_signal;
use crate::core::duration;
use crate::emulator::{Auth0Options, ClientKey, TenantRateLimit, serve_auth0};

/// Emulate an Auth0 tenant: /oauth/token, /api/v2/event-streams and /api/v2/hooks.
///
/// POST {"type", "data": {...}} to /__emulator/events to emit an event to the streams that subscribe to it. POST to
/// /__emulator/faults to make requests fail. GET /__emulator/requests, /__emulator/deliveries or /__emulator/state to
/// see the results. docs/emulators.md describes these routes.
///
/// Example: hookstream emulate auth0 --listen 127.0.0.1:8002 --client-id me --client-secret s3cret --time-scale 0.01
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(group(clap::ArgGroup::new("credential").args(["client_secret", "client_public_key"])))]
pub struct Args {
    /// The listen address, such as 127.0.0.1:9000 or :9000; port 0 selects a free port.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8002",
        env = "HOOKSTREAM_EMULATE_AUTH0_LISTEN"
    )]
    listen: ListenAddress,
    /// The tenant's name in events (a0tenant).
    #[arg(long, value_name = "NAME", default_value = "emulator.eu.auth0.com", env = "HOOKSTREAM_TENANT")]
    tenant: String,
    /// The client id that may request tokens. Default: any client may, and any bearer token is accepted.
    #[arg(long, value_name = "ID", requires = "credential", env = "HOOKSTREAM_CLIENT_ID")]
    client_id: Option<String>,
    /// The client's secret.
    #[arg(
        long,
        value_name = "SECRET",
        requires = "client_id",
        env = "HOOKSTREAM_CLIENT_SECRET",
        hide_env_values = true
    )]
    client_secret: Option<String>,
    /// A file with the RSA public key (PEM) that verifies the client's assertions (private_key_jwt), instead of a secret.
    #[arg(long, value_name = "FILE", requires = "client_id", env = "HOOKSTREAM_CLIENT_PUBLIC_KEY")]
    client_public_key: Option<PathBuf>,
    /// The algorithm of the client's assertions.
    #[arg(long, value_name = "ALGORITHM", value_parser = ["RS256", "RS384", "PS256"], default_value = "RS256", env = "HOOKSTREAM_CLIENT_KEY_ALGORITHM")]
    client_key_algorithm: String,
    /// A static access token that is also accepted. Without --client-id it is the only accepted token.
    #[arg(long, env = "HOOKSTREAM_EMULATE_AUTH0_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The audience that token requests must name. Default: any that ends with /api/v2/
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_AUDIENCE")]
    audience: Option<String>,
    /// The lifetime of a token (units h, m, s, ms).
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse, env = "HOOKSTREAM_TOKEN_LIFETIME")]
    token_lifetime: Duration,
    /// The rate limit of the Management API in requests per second. Further requests get 429; x-ratelimit- headers
    /// report the limit. Default: no limit.
    #[arg(long, value_name = "REQUESTS", env = "HOOKSTREAM_RATE_LIMIT")]
    rate_limit: Option<f64>,
    /// The burst of the rate limit in requests. Default: the rate per second, at least 1.
    #[arg(long, value_name = "REQUESTS", requires = "rate_limit", env = "HOOKSTREAM_RATE_BURST")]
    rate_burst: Option<u32>,
    /// The number of consecutive failed deliveries that disables a stream.
    #[arg(long, value_name = "NUMBER", default_value_t = 500, env = "HOOKSTREAM_DISABLE_AFTER")]
    disable_after: u64,
    /// The total number of failed deliveries that disables a stream and prevents enabling it.
    #[arg(long, value_name = "NUMBER", default_value_t = 5_000, env = "HOOKSTREAM_DISABLE_AFTER_TOTAL")]
    disable_after_total: u64,
    /// The maximum number of streams; creating more returns 409. Default: 20000; Auth0 does not publish its limit.
    #[arg(long, value_name = "NUMBER", env = "HOOKSTREAM_MAX_STREAMS")]
    max_streams: Option<usize>,
    /// Answer every request to /api/v2/hooks with this status, as after the end of life of Hooks. Default: Hooks work.
    #[arg(long, value_name = "STATUS", value_parser = ["403", "404", "410"], env = "HOOKSTREAM_HOOKS_GONE")]
    hooks_gone: Option<String>,
    /// A factor for the delays between the attempts of a delivery, which are 1, 2 and 4 s.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, env = "HOOKSTREAM_TIME_SCALE")]
    time_scale: f64,
    /// A file with the certificate authorities (PEM) to trust for https receivers instead of the system's.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_CA")]
    ca: Option<PathBuf>,
    /// A file that keeps streams, hooks and failed deliveries across restarts. It contains secrets.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_EMULATE_AUTH0_STATE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    tls: ServerTlsArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub async fn run(args: Args) -> CommandResult {
    args.log.install()?;
    let stop = stop_signal()?;
    let tls = args.tls.load()?;
    let ca = args.ca.as_ref().map(|path| read_file(path, "--ca")).transpose()?;
    let key =
        args.client_public_key.as_ref().map(|path| read_key(path, &args.client_key_algorithm)).transpose()?;
    let (listener, ready) = listen_and_announce("auth0", &args.listen, tls.is_some()).await?;
    let rate_limit = args.rate_limit.map(|per_second| TenantRateLimit {
        per_second,
        burst: args.rate_burst.unwrap_or_else(|| per_second.max(1.0) as u32),
    });
    let defaults = Auth0Options::default();
    let options = Auth0Options {
        tenant: args.tenant,
        client: args.client_id.clone().zip(args.client_secret),
        client_key: args.client_id.zip(key),
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

/// Reads the public key of the client.
fn read_key(path: &PathBuf, algorithm: &str) -> Result<ClientKey, Failure> {
    let pem = read_file(path, "--client-public-key")?;
    let algorithm: AssertionAlgorithm = algorithm.parse().or_fail(|| "--client-key-algorithm".into())?;
    ClientKey::new(&pem, algorithm).ok_or_else(|| {
        Failure::new(format!(
            "--client-public-key {}: is not an RSA public key in PEM format",
            path.display()
        ))
    })
}
