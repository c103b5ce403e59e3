//! `hookstream standalone`: both roles without a cluster.

use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;
use url::Url;

use super::logging::LogArgs;
use super::roles::{ControllerRole, Roles, WorkerRole};
use super::settings::{ControllerArgs, EgressArgs, WorkerArgs, is_loopback, with_host};
use super::{Failure, OrFail, Outcome, roles};
use crate::cluster::Subscribers;
use crate::cluster::files::{Files, Options};
use crate::leadership::Leadership;
use crate::ops::{Liveness, Readiness};

/// Run controller and worker without a cluster: manifests come from files, state is kept in a folder.
///
/// Example: hookstream standalone --manifests deploy/samples/quickstart --data /var/lib/hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (EventHook, Connection, Secret). Edits are seen within 2 s.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH", env = "HOOKSTREAM_MANIFESTS", value_delimiter = ',')]
    manifests: Vec<PathBuf>,
    /// The folder for state: accepted events, what the vendors were told, keys. Made where it does not exist.
    #[arg(long, value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    /// Where events and relays come in. Other than a loopback address needs --token-file.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS", env = "HOOKSTREAM_LISTEN")]
    listen: String,
    /// Where deliveries are listed, explained and replayed. Other than a loopback address needs --token-file.
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDRESS", env = "HOOKSTREAM_API_LISTEN")]
    api_listen: String,
    /// Where /livez, /readyz and /metrics are.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS", env = "HOOKSTREAM_OPS_LISTEN")]
    ops_listen: String,
    /// Delete at the vendor what was removed from the manifests. Default: it stays.
    #[arg(long, env = "HOOKSTREAM_PRUNE")]
    prune: bool,
    /// A file with the bearer token that API callers must show. Default: none is asked for, on loopback addresses only.
    #[arg(long, value_name = "FILE", env = "HOOKSTREAM_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub async fn run(args: Args) -> Outcome {
    args.log.start()?;
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let egress = args.egress.open(true, Vec::new()).await?;
    for (flag, address, could) in
        [("--listen", &args.listen, "publish"), ("--api-listen", &args.api_listen, "read and replay")]
    {
        if token.is_none() && !is_loopback(flag, address)? {
            let why = format!(
                "is no loopback address, and without --token-file anybody could {could}: give a token file, or listen on 127.0.0.1"
            );
            return Err(Failure::new(format!("{flag} {address} {why}")));
        }
    }
    std::fs::create_dir_all(&args.data).or_fail(|| format!("--data {}", args.data.display()))?;
    let options = Options { manifests: args.manifests, data: args.data.clone(), prune: args.prune, token };
    let files = Arc::new(Files::open(options).or_fail(|| "--manifests".into())?);

    let mut controller = args.controller.options();
    if controller.ingest_url.is_none() {
        controller.ingest_url = Some(own_address(&args.listen, args.worker.tls.is_given())?);
    }
    let mut subscribers = Subscribers::default();
    let controller_changes = subscribers.subscribe();
    let worker_changes = subscribers.subscribe();
    let (view, watch) = files.watch(subscribers);
    roles::run(Roles {
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
            candidacy: None,
        }),
        worker: Some(WorkerRole {
            args: &args.worker,
            data: &args.data,
            listen: &args.listen,
            api_listen: &args.api_listen,
            changes: worker_changes,
        }),
    })
    .await
}

/// The token in a file, without the line end that `echo` leaves.
fn read_token(path: &std::path::Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path).or_fail(|| format!("--token-file {}", path.display()))?;
    match text.trim() {
        "" => Err(Failure::new(format!("--token-file {}: the file is empty", path.display()))),
        token => Ok(SecretString::from(token)),
    }
}

fn own_address(listen: &str, tls: bool) -> Result<Url, Failure> {
    let why = || format!("--listen {listen}");
    let url = Url::parse(&format!("{}://{}", if tls { "https" } else { "http" }, with_host(listen)))
        .or_fail(why)?;
    // Port 0 is chosen by the system after this: nobody could be told of it.
    if url.port_or_known_default() == Some(0) {
        return Err(Failure::new(format!(
            "--listen {listen}: give a port, or say with --ingest-url how Kong reaches it"
        )));
    }
    Ok(url)
}
