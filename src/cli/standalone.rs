//! `hookstream standalone`: controller and worker without a cluster.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use secrecy::SecretString;
use url::Url;
use uuid::Uuid;

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{ControllerArgs, EgressArgs, ListenAddress, WorkerArgs, parse_host};
use super::logging::LogArgs;
use super::role_process::{self, ControllerRole, RoleProcess, StartElection, WorkerRole};
use super::shared_state::DatabaseState;
use crate::cluster::Subscribers;
use crate::cluster::files::{FileCluster, FileClusterOptions, OpenError, SharedClusterOptions};
use crate::core::conditions::cut;
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::ops::{Liveness, Readiness};
use crate::worker::LocalAccess;
use crate::worker::store::postgres::connect::PostgresOptions;
use crate::worker::store::postgres::standalone::{DatabaseElection, SharedDatabase};

/// Run controller and worker without a cluster, with manifests from files and state in a folder or database.
///
/// Example: hookstream standalone --manifests deploy/samples/quickstart --data /var/lib/hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (EventHook, Connection, Secret). Edits are applied within 2 s.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH", env = "HOOKSTREAM_MANIFESTS", value_delimiter = ',')]
    manifests: Vec<PathBuf>,
    /// The folder for state: accepted events, status of the objects, keys. Created if it does not exist. Not needed with
    /// --store-url: then the database has all of it, and several standalones with the same manifests act as one.
    #[arg(long, value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: Option<PathBuf>,
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
    let (manifests, prune) = (args.manifests, args.prune);
    let opened = match (&args.data, args.worker.store.database()?) {
        (Some(data), _) => {
            std::fs::create_dir_all(data).or_fail(|| format!("--data {}", data.display()))?;
            let options = FileClusterOptions { manifests, data: data.clone(), prune, token };
            let files = Arc::new(FileCluster::open(options).or_fail(|| "--manifests".into())?);
            files.create_installation_id().await.or_fail(|| "--data".into())?;
            Opened { files, leadership: Leadership::always(), election: None, database: None }
        }
        (None, Some(options)) => {
            Opened::connect(&options, SharedClusterOptions { manifests, prune, token }).await?
        }
        (None, None) => {
            return Err(Failure::new(
                "give --data with a folder for the state, or --store-url with a PostgreSQL database",
            ));
        }
    };
    let Opened { files, leadership, election, database } = opened;

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
            leadership,
            election,
        }),
        worker: Some(WorkerRole {
            args: &args.worker,
            data: args.data.as_deref(),
            database,
            listen: &args.listen,
            api_listen: &args.api_listen,
            local_access,
            changes: worker_changes,
        }),
    })
    .await
}

/// The objects with their state, and what else depends on where that is.
struct Opened {
    files: Arc<FileCluster>,
    leadership: Leadership,
    election: Option<StartElection>,
    database: Option<SharedDatabase>,
}

impl Opened {
    /// Uses a state that other standalones share. One of them leads.
    async fn connect(options: &PostgresOptions, cluster: SharedClusterOptions) -> Result<Opened, Failure> {
        let database = SharedDatabase::connect(options).await;
        let database = database.map_err(|error| role_process::database_failure(&error))?;
        let state = database.standalone(process_name());
        let (leadership, handle) = Leadership::leased(Millis::steady);
        let backend = Arc::new(DatabaseState(state.clone()));
        let files = FileCluster::connect(cluster, backend, leadership.clone()).await;
        let files = Arc::new(files.map_err(|error| match error {
            OpenError::Manifests(error) => Failure::new(format!("--manifests: {error}")),
            OpenError::State(error) => Failure { code: 3, message: format!("--store-url: {error}") },
        })?);
        let prepared = files.clone();
        let before_leading = Box::new(move || -> BoxFuture<'static, Result<(), String>> {
            let files = prepared.clone();
            Box::pin(async move { files.prepare_to_lead().await.map_err(|error| error.to_string()) })
        });
        let election = DatabaseElection::new(state, handle, before_leading);
        let election: StartElection = Box::new(|metrics| Ok(election.start(metrics)));
        Ok(Opened { files, leadership, election: Some(election), database: Some(database) })
    }
}

/// Returns a name for the lease that is unique for each start, so that a lease of a crashed predecessor is not ours.
fn process_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{}/{}/{}", cut(&host, 64), std::process::id(), Uuid::now_v7().simple())
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
