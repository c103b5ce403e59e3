//! `hookstream import auth0`: prints manifests for the streams and Hooks of a tenant.

use std::path::PathBuf;
use std::time::Duration;

use super::report::ImportReport;
use super::{create_http_client, create_pacer, read_secret};
use crate::admin::auth0::{
    Auth0Access, Auth0Manifest, Credentials, HookClient, LoginCache, StreamClient, hook_manifest, is_relay,
    stream_manifest, tenant_url,
};
use crate::admin::limit::{Priority, with_priority};
use crate::admin::{AdminError, ExternalClient, ListFilter};
use crate::api::to_yaml;
use crate::cli::failure::{CommandResult, Failure, OrFail};
use crate::cli::flags::EgressArgs;
use crate::cli::output::print_line;
use crate::core::bucket::Rate;

/// The rate limit of the smallest tenants.
const RATE: Rate = Rate { requests: 2, interval: Duration::from_secs(1), burst: 5 };

/// Print EventStreams and Hooks for the existing objects of an Auth0 tenant.
///
/// When applied, each manifest adopts its stream or Hook (adopt, mode: Match) without changing it at the vendor. Auth0
/// returns no secrets: comments name the Secrets to create. Requires the scopes read:event_streams and read:hooks. Exit
/// code 1: standard error names objects that a manifest cannot express.
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
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_AUTH0_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The client id of a machine-to-machine application, instead of a token.
    #[arg(long, value_name = "ID", requires = "client_secret_file", env = "HOOKSTREAM_AUTH0_CLIENT_ID")]
    client_id: Option<String>,
    /// A file with that client's secret.
    #[arg(long, value_name = "FILE", requires = "client_id", env = "HOOKSTREAM_AUTH0_CLIENT_SECRET_FILE")]
    client_secret_file: Option<PathBuf>,
    /// The audience of the requested token. Default: https://DOMAIN/api/v2/
    #[arg(long, value_name = "URL", env = "HOOKSTREAM_AUTH0_AUDIENCE")]
    audience: Option<String>,
    /// A file with the certificate authorities to trust instead of the system's (PEM).
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_ADMIN_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// The name of the Connection in the manifests.
    #[arg(long, value_name = "NAME", default_value = "auth0", env = "HOOKSTREAM_CONNECTION")]
    connection: String,
    #[command(flatten)]
    egress: EgressArgs,
}

pub async fn run(args: Args) -> CommandResult {
    let access = create_access(&args).await?;
    // Run as one operation, so that its calls wait for the rate limit instead of failing.
    with_priority(Priority::Change, print_all(&args, access)).await
}

async fn print_all(args: &Args, access: Auth0Access) -> CommandResult {
    let action = || format!("--domain {}", args.domain);
    let mut report = ImportReport::default();
    let listed = StreamClient::new(access.clone()).list(ListFilter::all()).await;
    let listed = listed.map_err(|error| match error {
        // The error's own text names the Secret of a Connection.
        AdminError::Unauthorized(detail) => format!(
            "the tenant rejected the credentials (401): check --token-file, or --client-id and --client-secret-file: {}",
            detail.message
        ),
        other => other.to_string(),
    });
    for listed in listed.or_fail(action)?.items {
        let (name, stream) =
            (format!("stream {}", listed.id), StreamClient::normalize(listed.parse().or_fail(action)?));
        if is_relay(&stream) {
            eprintln!("hookstream: skipped {name}: it sends to a worker, so an EventStream manages it");
            continue;
        }
        match stream_manifest(&stream, &args.connection) {
            Some(manifest) => print_manifest(&manifest, &name, &mut report)?,
            None => report.skip(&name, "its destination is unknown to this version"),
        }
    }
    let client = HookClient::new(access);
    let listed = match client.list(ListFilter::all()).await {
        Err(error @ (AdminError::EndOfLife(_) | AdminError::NotFound(_))) => {
            eprintln!("hookstream: skipped Hooks, which the tenant does not serve: {error}");
            return Ok(report.exit_code());
        }
        other => other.or_fail(action)?.items,
    };
    for id in listed.iter().map(|listed| &*listed.id) {
        // Skip a Hook that was deleted since the list.
        let Some(hook) = client.observe(id).await.or_fail(action)? else { continue };
        let name = format!("Hook {id}");
        match hook_manifest(&hook, &args.connection) {
            Some(manifest) => print_manifest(&manifest, &name, &mut report)?,
            None => report.skip(&name, "its content is unknown to this version"),
        }
    }
    Ok(report.exit_code())
}

fn print_manifest(manifest: &Auth0Manifest, name: &str, report: &mut ImportReport) -> Result<(), Failure> {
    if report.skip_invalid(name, &manifest.object) {
        return Ok(());
    }
    let yaml = to_yaml(&manifest.object).or_fail(|| "writing YAML".into())?;
    print_line("---");
    if let Some((name, keys)) = &manifest.secret {
        print_line(&format!(
            "# Auth0 does not return secrets: create Secret {name} with the keys {}",
            keys.join(", ")
        ));
    }
    print_line(yaml.trim_end());
    Ok(())
}

async fn create_access(args: &Args) -> Result<Auth0Access, Failure> {
    let base = tenant_url(&args.domain).ok_or_else(|| {
        Failure::new(format!("--domain {}: must be a host name, such as acme.eu.auth0.com", args.domain))
    })?;
    let credentials = match (&args.token_file, &args.client_id, &args.client_secret_file) {
        (Some(token), None, None) => Credentials::StaticToken(read_secret(token)?),
        (None, Some(id), Some(file)) => Credentials::Client {
            id: id.clone(),
            secret: read_secret(file)?,
            audience: args.audience.clone().unwrap_or_else(|| format!("https://{}/api/v2/", args.domain)),
        },
        _ => return Err(Failure::new("give --token-file, or --client-id and --client-secret-file")),
    };
    let login = LoginCache::default().login(&base, credentials);
    let http = create_pacer().client(
        create_http_client(&args.egress, args.ca_file.as_deref()).await?,
        "import",
        Some(RATE),
    );
    Ok(Auth0Access { http, base, login })
}
