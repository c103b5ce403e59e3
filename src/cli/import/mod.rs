//! `hookstream import`: prints manifests for the existing objects of a vendor.

mod auth0;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};
use url::Url;

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{EgressArgs, parse_url};
use super::output::print_line;
use crate::admin::kong::{
    DetectedCapabilities, KongAccess, KongClient, KongManifests, TOKEN_HEADER, hook_manifests, is_relay,
};
use crate::admin::limit::Pacer;
use crate::admin::{AdminError, ExternalClient, ListFilter, MAX_RESPONSE};
use crate::api::to_yaml;
use crate::controller::find_differences;
use crate::core::bucket::Rate;
use crate::core::redact::redact;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::{HttpClient, TlsOptions};
use report::ImportReport;

/// The rate of admin API calls. A list needs one call for each page.
const RATE: Rate = Rate { requests: 10, interval: Duration::from_secs(1), burst: 10 };

/// The memory of responses and of the objects of a list.
const RESPONSE_MEMORY: u64 = 32 * MAX_RESPONSE as u64;

/// Print manifests that adopt the existing objects of a vendor.
///
/// Example: hookstream import kong --admin-url http://127.0.0.1:8001 > hooks.yaml
#[derive(clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub enum ImportCommand {
    Kong(KongArgs),
    Auth0(auth0::Args),
}

/// Print EventHooks for the event hooks of a Kong gateway.
///
/// When applied, each manifest adopts its hook (adopt, mode: Match) without changing it at the vendor. Secrets are
/// printed only with --secrets; otherwise create the Secrets that the manifests name. Exit code 1: standard error names
/// hooks that an EventHook cannot express.
///
/// Example: hookstream import kong --admin-url https://kong-admin:8444 --token-file token --connection kong > hooks.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct KongArgs {
    /// The URL of the admin API.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_ADMIN_URL")]
    admin_url: Url,
    /// The workspace. Default: Kong's default workspace.
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
    /// The name of the Connection in the manifests.
    #[arg(long, value_name = "NAME", default_value = "kong", env = "HOOKSTREAM_CONNECTION")]
    connection: String,
    /// Also print Secrets with the secret values that the gateway returns.
    #[arg(long, env = "HOOKSTREAM_SECRETS")]
    secrets: bool,
    #[command(flatten)]
    egress: EgressArgs,
}

pub async fn run(command: ImportCommand) -> CommandResult {
    match command {
        ImportCommand::Kong(args) => kong(args).await,
        ImportCommand::Auth0(args) => auth0::run(args).await,
    }
}

async fn kong(args: KongArgs) -> CommandResult {
    let client = connect(&args).await?;
    let action = || format!("--admin-url {}", args.admin_url);
    let mut report = ImportReport::default();
    let listed = client.list(ListFilter::all()).await.map_err(|error| describe_error(&error, &args));
    for listed in listed.or_fail(action)?.items {
        let (name, item) =
            (format!("hook {}", listed.id), &KongClient::normalize(listed.parse().or_fail(action)?));
        if is_relay(item) {
            eprintln!("hookstream: skipped {name}: it relays to a worker, so an EventHook manages it");
            continue;
        }
        match hook_manifests(item, &args.connection) {
            Some(manifests) => print_hook(&args, item, &name, manifests, &mut report)?,
            None => report.skip(&name, "its handler is unknown to this version"),
        }
    }
    Ok(report.exit_code())
}

/// Describes a failure with this command's flags; the texts of the errors name fields of a Connection.
fn describe_error(error: &AdminError, args: &KongArgs) -> String {
    match error {
        AdminError::Unauthorized(_) if args.token_file.is_none() => {
            "the admin API requires a token (401): give --token-file".to_owned()
        }
        AdminError::Unauthorized(detail) => format!(
            "the admin API rejected the token (401): check --token-file and --token-header: {}",
            detail.message
        ),
        AdminError::NotFound(detail) => format!(
            "the admin API does not have this path (404): check --admin-url and --workspace, and that Kong is Enterprise: {}",
            detail.message
        ),
        other => other.to_string(),
    }
}

/// Prints the manifests of one hook. Reports a hook that an EventHook cannot express.
fn print_hook(
    args: &KongArgs,
    item: &Value,
    name: &str,
    manifests: KongManifests,
    report: &mut ImportReport,
) -> Result<(), Failure> {
    let KongManifests { hook, secret } = manifests;
    if report.skip_invalid(name, &hook) {
        return Ok(());
    }
    let data = secret.as_ref().and_then(|secret| secret.get("stringData")).and_then(Value::as_object);
    let object = serde_json::from_value(hook.clone()).or_fail(|| name.to_owned())?;
    match find_differences(&object, data.unwrap_or(&Map::new()), item) {
        // The text of the error may contain a value of the hook.
        Err(error) => {
            let values = data.into_iter().flat_map(Map::values).filter_map(Value::as_str);
            report.skip(name, &redact(&error.to_string(), values));
            return Ok(());
        }
        Ok(fields) if !fields.is_empty() => report.differs(name, &fields),
        Ok(_) => {}
    }
    for object in secret.filter(|_| args.secrets).iter().chain([&hook]) {
        print_line(&format!("---\n{}", to_yaml(object).or_fail(|| "writing YAML".into())?.trim_end()));
    }
    Ok(())
}

async fn connect(args: &KongArgs) -> Result<KongClient, Failure> {
    let token = match &args.token_file {
        None => None,
        Some(path) => Some((args.token_header.clone(), read_secret(path)?)),
    };
    let http = create_http_client(&args.egress, args.ca_file.as_deref()).await?;
    let pacer = create_pacer();
    Ok(KongClient::new(KongAccess {
        http: pacer.client(http, "import", None),
        admin_url: args.admin_url.clone(),
        workspace: args.workspace.clone().filter(|name| name != "default"),
        token,
        capabilities: Arc::new(DetectedCapabilities::default()),
    }))
}

/// Reads a secret from a file. Strips the line end that `echo` appends.
fn read_secret(path: &Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path).or_fail(|| path.display().to_string())?;
    Ok(SecretString::from(text.trim()))
}

async fn create_http_client(egress: &EgressArgs, ca: Option<&Path>) -> Result<HttpClient, Failure> {
    let ca = ca.map(|path| std::fs::read(path).or_fail(|| path.display().to_string())).transpose()?;
    HttpClient::new(egress.build(true, Vec::new()).await?)
        .and_then(|http| http.with_tls(&TlsOptions { ca, ..TlsOptions::default() }))
        .or_fail(|| "loading certificates".into())
}

fn create_pacer() -> Arc<Pacer> {
    Pacer::new(RATE, Leadership::always(), Arc::new(Metrics::default()), RESPONSE_MEMORY)
}
