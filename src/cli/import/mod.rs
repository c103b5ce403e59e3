//! `hookstream import`: manifests made from what a vendor has.

mod auth0;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::settings::{EgressArgs, parse_url};
use super::{Failure, OrFail, Outcome, say};
use crate::admin::ExternalClient;
use crate::admin::kong::{KongAccess, KongClient, Learned, TOKEN_HEADER, is_relay, manifests};
use crate::admin::limit::Pacer;
use crate::api::to_yaml;
use crate::core::bucket::Rate;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::{HttpClient, TlsOptions};

/// As often as a page is turned: a list is a few calls.
const RATE: Rate = Rate { requests: 10, interval: Duration::from_secs(1), burst: 10 };

/// Print manifests for what a vendor has, each with its `adopt`.
///
/// Example: hookstream import kong --admin-url http://127.0.0.1:8001 > hooks.yaml
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum Vendor {
    Kong(KongArgs),
    Auth0(auth0::Args),
}

/// Print EventHooks for the event hooks of a Kong gateway.
///
/// Each takes its hook over as it is (adopt, mode: Match) once it is applied, and writes nothing by that. Secrets are not
/// printed unless asked for: their Secrets are named, and yours to create.
///
/// Example: hookstream import kong --admin-url https://kong-admin:8444 --token-file token --connection kong > hooks.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct KongArgs {
    /// Address of the admin API.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_ADMIN_URL")]
    admin_url: Url,
    /// The workspace. Default: the one without a prefix.
    #[arg(long, value_name = "NAME", env = "HOOKSTREAM_WORKSPACE")]
    workspace: Option<String>,
    /// A file with the RBAC token. Default: none is sent.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_ADMIN_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The header that carries the token.
    #[arg(long, value_name = "NAME", default_value = TOKEN_HEADER, env = "HOOKSTREAM_TOKEN_HEADER")]
    token_header: String,
    /// A file with the certificate authorities to trust instead of the system's (PEM).
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_ADMIN_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// The Connection that the manifests are to name.
    #[arg(long, value_name = "NAME", default_value = "kong", env = "HOOKSTREAM_CONNECTION")]
    connection: String,
    /// Print the Secrets, too, with what the gateway has.
    #[arg(long, env = "HOOKSTREAM_SECRETS")]
    secrets: bool,
    #[command(flatten)]
    egress: EgressArgs,
}

pub async fn run(vendor: Vendor) -> Outcome {
    match vendor {
        Vendor::Kong(args) => kong(args).await,
        Vendor::Auth0(args) => auth0::run(args).await,
    }
}

async fn kong(args: KongArgs) -> Outcome {
    let client = client(&args).await?;
    let listed = client.list().await.or_fail(|| format!("--admin-url {}", args.admin_url))?;
    for item in &listed.items {
        let id = KongClient::id(item).unwrap_or("without an id");
        if is_relay(item) {
            eprintln!("hookstream: {id} relays to a worker, some EventHook has made it: left out");
            continue;
        }
        let Some(made) = manifests(item, &args.connection) else {
            eprintln!("hookstream: {id} has a handler that this version does not know: left out");
            continue;
        };
        for object in made.secret.filter(|_| args.secrets).iter().chain([&made.hook]) {
            say(&format!("---\n{}", to_yaml(object).or_fail(|| "writing YAML".into())?.trim_end()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn client(args: &KongArgs) -> Result<KongClient, Failure> {
    let token = match &args.token_file {
        None => None,
        Some(path) => Some((args.token_header.clone(), secret(path)?)),
    };
    let http = http(&args.egress, args.ca_file.as_deref()).await?;
    let pacer = pacer();
    Ok(KongClient::new(KongAccess {
        http: pacer.client(http, "import", None),
        admin_url: args.admin_url.clone(),
        workspace: args.workspace.clone().filter(|name| name != "default"),
        token,
        learned: Arc::new(Learned::default()),
    }))
}

/// The text of a file, without the line end that `echo` leaves.
fn secret(path: &Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path).or_fail(|| path.display().to_string())?;
    Ok(SecretString::from(text.trim()))
}

async fn http(egress: &EgressArgs, ca: Option<&Path>) -> Result<HttpClient, Failure> {
    let ca = ca.map(|path| std::fs::read(path).or_fail(|| path.display().to_string())).transpose()?;
    HttpClient::new(egress.open(true, Vec::new()).await?)
        .and_then(|http| http.with(&TlsOptions { ca, ..TlsOptions::default() }))
        .or_fail(|| "reading certificates".into())
}

fn pacer() -> Arc<Pacer> {
    Pacer::new(RATE, Leadership::always(), Arc::new(Metrics::default()))
}
