//! `hookstream import auth0`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::super::settings::EgressArgs;
use super::super::{Failure, OrFail, Outcome, say};
use super::{http, pacer, secret};
use crate::admin::auth0::{
    Auth0Access, Credentials, HookClient, Manifest, StreamClient, Tokens, address, hook_manifest,
    stream_manifest,
};
use crate::admin::limit::{Lane, errand};
use crate::admin::{AdminError, ExternalClient};
use crate::api::to_yaml;
use crate::core::bucket::Rate;

/// What the smallest tenants are allowed.
const RATE: Rate = Rate { requests: 2, interval: Duration::from_secs(1), burst: 5 };

/// Print EventStreams and Hooks for what an Auth0 tenant has.
///
/// Each takes its stream or hook over as it is (adopt, mode: Match) once it is applied, and writes nothing by that. Auth0
/// shows no secrets: comments name the Secrets that are yours to create. Needs the scopes read:event_streams and read:hooks.
///
/// Example: hookstream import auth0 --domain acme.eu.auth0.com --token-file token --connection auth0 > streams.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(group(clap::ArgGroup::new("credentials").required(true).args(["token_file", "client_id"])))]
pub struct Args {
    /// The tenant's host name.
    #[arg(long, value_name = "HOST", env = "HOOKSTREAM_AUTH0_DOMAIN")]
    domain: String,
    /// A file with a token of the Management API.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The client of a machine-to-machine application, instead of a token.
    #[arg(long, value_name = "ID", requires = "client_secret_file", env = "HOOKSTREAM_AUTH0_CLIENT_ID")]
    client_id: Option<String>,
    /// A file with that client's secret.
    #[arg(long, value_name = "FILE", requires = "client_id", env = "HOOKSTREAM_AUTH0_CLIENT_SECRET_FILE")]
    client_secret_file: Option<PathBuf>,
    /// The audience to ask a token for. Default: https://DOMAIN/api/v2/
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_AUTH0_AUDIENCE")]
    audience: Option<String>,
    /// A file with the certificate authorities to trust instead of the system's (PEM).
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_ADMIN_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// The Connection that the manifests are to name.
    #[arg(long, value_name = "NAME", default_value = "auth0", env = "HOOKSTREAM_CONNECTION")]
    connection: String,
    #[command(flatten)]
    egress: EgressArgs,
}

pub async fn run(args: Args) -> Outcome {
    let access = access(&args).await?;
    // One errand: its calls wait for their turn.
    errand(Lane::Change, print(&args, access)).await
}

async fn print(args: &Args, access: Auth0Access) -> Outcome {
    let asking = || format!("--domain {}", args.domain);
    for stream in StreamClient::new(access.clone()).list().await.or_fail(asking)?.items {
        match stream_manifest(&stream, &args.connection) {
            Some(made) => show(&made)?,
            None => left_out(StreamClient::id(&stream), "a destination"),
        }
    }
    let client = HookClient::new(access);
    let listed = match client.list().await {
        Err(error @ (AdminError::EndOfLife(_) | AdminError::NotFound(_))) => {
            eprintln!("hookstream: the tenant serves no Hooks: {error}");
            return Ok(ExitCode::SUCCESS);
        }
        other => other.or_fail(asking)?.items,
    };
    for id in listed.iter().filter_map(HookClient::id) {
        // Deleted since the list: nothing is left to declare.
        let Some(hook) = client.observe(id).await.or_fail(asking)? else { continue };
        match hook_manifest(&hook, &args.connection) {
            Some(made) => show(&made)?,
            None => left_out(Some(id), "something"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(made: &Manifest) -> Result<(), Failure> {
    let yaml = to_yaml(&made.object).or_fail(|| "writing YAML".into())?;
    say("---");
    if let Some((name, keys)) = &made.secret {
        say(&format!(
            "# Auth0 does not show what is in Secret {name}: create it, with the keys {}",
            keys.join(", ")
        ));
    }
    say(yaml.trim_end());
    Ok(())
}

fn left_out(id: Option<&str>, what: &str) {
    eprintln!(
        "hookstream: {} has {what} that this version does not know: left out",
        id.unwrap_or("one without an id")
    );
}

async fn access(args: &Args) -> Result<Auth0Access, Failure> {
    let base = address(&args.domain).ok_or_else(|| {
        Failure::new(format!("--domain {}: must be a host name, such as acme.eu.auth0.com", args.domain))
    })?;
    let credentials = match (&args.token_file, &args.client_id, &args.client_secret_file) {
        (Some(token), None, None) => Credentials::Ready(secret(token)?),
        (None, Some(id), Some(file)) => Credentials::Client {
            id: id.clone(),
            secret: secret(file)?,
            audience: args.audience.clone().unwrap_or_else(|| format!("https://{}/api/v2/", args.domain)),
        },
        _ => return Err(Failure::new("give --token-file, or --client-id and --client-secret-file")),
    };
    let login = Tokens::default().login(&base, credentials);
    let http = pacer().client(http(&args.egress, args.ca_file.as_deref()).await?, "import", Some(RATE));
    Ok(Auth0Access { http, base, login })
}
