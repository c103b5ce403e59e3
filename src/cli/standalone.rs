//! `hookstream standalone`: controller and worker without a cluster.

use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;
use url::Url;

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{ControllerArgs, EgressArgs, ListenAddress, WorkerArgs, parse_host};
use super::logging::LogArgs;
use super::role_process::{self, ControllerRole, RoleProcess, WorkerRole};
use crate::cluster::Subscribers;
use crate::cluster::files::{FileCluster, FileClusterOptions};
use crate::leadership::Leadership;
use crate::ops::{Liveness, Readiness};
use crate::worker::LocalAccess;

/// Run controller and worker without a cluster, with manifests from files and state in a folder.
///
/// Example: hookstream standalone --manifests deploy/samples/quickstart --data /var/lib/hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (EventHook, Connection, Secret). Edits are applied within 2 s.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH", env = "HOOKSTREAM_MANIFESTS", value_delimiter = ',')]
    manifests: Vec<PathBuf>,
    /// The folder for state: accepted events, status of the objects, keys. Created if it does not exist.
    #[arg(long, value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    /// The listen address of the ingest port, for events and relays. A non-loopback address requires --token-file.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS", env = "HOOKSTREAM_LISTEN")]
    listen: ListenAddress,
    /// The listen address of the API port, which lists, explains and replays deliveries. A non-loopback address requires
    /// --token-file.
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDRESS", env = "HOOKSTREAM_API_LISTEN")]
    api_listen: ListenAddress,
    /// The listen address of /livez, /readyz and /metrics.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS", env = "HOOKSTREAM_OPS_LISTEN")]
    ops_listen: ListenAddress,
    /// Delete external objects whose manifest was removed. Default: leave them in place.
    #[arg(long, env = "HOOKSTREAM_PRUNE")]
    prune: bool,
    /// A file with the bearer token that clients must send. Default: clients need no token, and --listen and
    /// --api-listen must be loopback addresses.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Host names and addresses, such as host.docker.internal, at which clients reach both ports without a token. localhost,
    /// loopback addresses and the host of --ingest-url are always accepted; all other hosts are rejected, because a web page
    /// could have them.
    #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = parse_host, conflicts_with = "token_file", env = "HOOKSTREAM_ALLOWED_HOSTS")]
    allowed_hosts: Vec<String>,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub async fn run(args: Args) -> CommandResult {
    args.log.install()?;
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let egress = args.egress.build(true, Vec::new()).await?;
    for (flag, address, risk) in
        [("--listen", &args.listen, "publish"), ("--api-listen", &args.api_listen, "read and replay")]
    {
        if token.is_none() && !address.is_loopback(flag)? {
            let why = format!(
                "is not a loopback address, and without --token-file any client could {risk}: give a token file, or listen on 127.0.0.1"
            );
            return Err(Failure::new(format!("{flag} {address} {why}")));
        }
    }
    let is_open = token.is_none();
    std::fs::create_dir_all(&args.data).or_fail(|| format!("--data {}", args.data.display()))?;
    let options =
        FileClusterOptions { manifests: args.manifests, data: args.data.clone(), prune: args.prune, token };
    let files = Arc::new(FileCluster::open(options).or_fail(|| "--manifests".into())?);
    files.create_installation_id().or_fail(|| "--data".into())?;

    let mut controller = args.controller.options();
    if controller.ingest_url.is_none() {
        controller.ingest_url = Some(own_url(&args.listen, args.worker.tls.is_given())?);
    }
    let ingest_host = controller.ingest_url.as_ref().and_then(Url::host_str).map(ToOwned::to_owned);
    let local_access = is_open.then(|| LocalAccess::new(args.allowed_hosts.into_iter().chain(ingest_host)));
    let mut subscribers = Subscribers::default();
    let controller_changes = subscribers.subscribe();
    let worker_changes = subscribers.subscribe();
    let (view, watch) = files.watch(subscribers);
    role_process::run(RoleProcess {
        cluster: files,
        view,
        watch,
        metrics: Arc::default(),
        readiness: Readiness::default(),
        liveness: Liveness::default(),
        egress,
        ops_listen: &args.ops_listen,
        controller: Some(ControllerRole {
            options: controller,
            changes: controller_changes,
            leadership: Leadership::always(),
            election: None,
        }),
        worker: Some(WorkerRole {
            args: &args.worker,
            data: &args.data,
            listen: &args.listen,
            api_listen: &args.api_listen,
            local_access,
            changes: worker_changes,
        }),
    })
    .await
}

/// Reads a token from a file. Strips the line end that `echo` appends.
fn read_token(path: &std::path::Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path).or_fail(|| format!("--token-file {}", path.display()))?;
    match text.trim() {
        "" => Err(Failure::new(format!("--token-file {}: the file is empty", path.display()))),
        token => Ok(SecretString::from(token)),
    }
}

/// Returns the URL at which Kong on this machine reaches the ingest port.
fn own_url(listen: &ListenAddress, tls: bool) -> Result<Url, Failure> {
    let url = Url::parse(&format!("{}://{}", if tls { "https" } else { "http" }, listen.with_host()))
        .or_fail(|| format!("--listen {listen}"))?;
    // The system chooses the port only when it binds the address, so this URL could not be configured at Kong.
    if url.port_or_known_default() == Some(0) {
        return Err(Failure::new(format!(
            "--listen {listen}: give a port, or give the URL at which Kong reaches it with --ingest-url"
        )));
    }
    Ok(url)
}
