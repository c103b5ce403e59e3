//! `hookstream run`, `controller` and `worker`: the roles in a Kubernetes cluster.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Config;

use super::failure::{CommandResult, OrFail};
use super::flags::{
    ControllerArgs, EgressArgs, LeaseArgs, LeaseNameArgs, ListenAddress, OperatorNamespaceArgs,
    SelectionArgs, WorkerArgs, parse_watch_timeout,
};
use super::kubeconfig::{follow_config, load_config};
use super::logging::LogArgs;
use super::role_process::{self, ControllerRole, RoleProcess, StartElection, WorkerRole};
use crate::cluster::kubernetes::{
    ApiConfig, Kubernetes, KubernetesOptions, LeaderElection, WatchLiveness, WatchLivenessLayer, watch,
};
use crate::cluster::{ObjectForm, Subscribers};
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::ops::{Liveness, Readiness};

/// The time between two checks of the watches.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The deadline for the API server to return its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Run controller and worker in one process, in a Kubernetes cluster.
///
/// Example: hookstream run --ingest-url http://hookstream-ingest.hookstream-system.svc:8080
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    worker: WorkerRoleArgs,
}

/// Run the controller, which applies the custom resources to the vendors' admin APIs.
///
/// Example: hookstream controller --ingest-url http://hookstream-ingest.hookstream-system.svc:8080
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ControllerRoleArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    lease: LeaseArgs,
}

/// Run the worker, which accepts events and delivers them.
///
/// Example: hookstream worker --data /var/lib/hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct WorkerOnlyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    lease: LeaseNameArgs,
    #[command(flatten)]
    worker: WorkerRoleArgs,
}

/// Flags of all commands that run in a cluster.
#[derive(clap::Args)]
struct ClusterArgs {
    /// A namespace to work in; may be repeated. Default: all.
    #[arg(long, value_delimiter = ',', env = "HOOKSTREAM_NAMESPACE")]
    namespace: Vec<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    own: OperatorNamespaceArgs,
    /// Use only Secrets with the label hookstream.dev/use: "true".
    #[arg(long, env = "HOOKSTREAM_REQUIRE_SECRET_LABEL")]
    require_secret_label: bool,
    /// The audience that callers' tokens must be issued for.
    #[arg(long, default_value = "hookstream", value_name = "AUDIENCE", env = "HOOKSTREAM_TOKEN_AUDIENCE")]
    token_audience: String,
    /// The duration of one watch request, 5s to 290s. /livez fails if a watch makes no progress for twice this time.
    #[arg(long, default_value = "200s", value_name = "DURATION", value_parser = parse_watch_timeout, env = "HOOKSTREAM_WATCH_TIMEOUT")]
    watch_timeout: Duration,
    /// The listen address of /livez, /readyz and /metrics.
    #[arg(long, default_value = ":8081", value_name = "ADDRESS", env = "HOOKSTREAM_OPS_LISTEN")]
    ops_listen: ListenAddress,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// The worker's flags, with its data folder and ports.
#[derive(clap::Args)]
struct WorkerRoleArgs {
    /// The folder for accepted events, on a persistent volume.
    #[arg(long, default_value = "/var/lib/hookstream", value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    /// The listen address of the ingest port, for events and relays.
    #[arg(long, default_value = ":8080", value_name = "ADDRESS", env = "HOOKSTREAM_LISTEN")]
    listen: ListenAddress,
    /// The listen address of the API port, which lists, explains and replays deliveries.
    #[arg(long, default_value = ":8082", value_name = "ADDRESS", env = "HOOKSTREAM_API_LISTEN")]
    api_listen: ListenAddress,
    #[command(flatten)]
    worker: WorkerArgs,
}

pub async fn run(args: RunArgs) -> CommandResult {
    let location = args.lease.location.clone();
    start(args.cluster, location, Some((args.controller, args.lease)), Some(args.worker)).await
}

pub async fn controller(args: ControllerRoleArgs) -> CommandResult {
    let location = args.lease.location.clone();
    start(args.cluster, location, Some((args.controller, args.lease)), None).await
}

pub async fn worker(args: WorkerOnlyArgs) -> CommandResult {
    start(args.cluster, args.lease, None, Some(args.worker)).await
}

async fn start(
    args: ClusterArgs,
    location: LeaseNameArgs,
    controller: Option<(ControllerArgs, LeaseArgs)>,
    worker: Option<WorkerRoleArgs>,
) -> CommandResult {
    args.log.install()?;
    let lease_location = location.locate(&args.own.operator_namespace, &args.selection);
    let controller = match controller {
        Some((controller, lease)) => {
            Some((controller, lease.options(&args.own.operator_namespace, &args.selection)?))
        }
        None => None,
    };
    let config = load_config().await?;
    let (api_host, api_port) = api_server(&config);
    let (metrics, readiness, liveness) =
        (Arc::new(Metrics::default()), Readiness::default(), Liveness::default());
    let watch_liveness = WatchLiveness::new(args.watch_timeout, metrics.clone());
    let config = follow_config(config);
    let builder = config.client_builder().or_fail(|| "reading the cluster's configuration".into())?;
    let client = builder.with_layer(&WatchLivenessLayer(watch_liveness.clone())).build();
    let with_worker = worker.is_some();
    let options = KubernetesOptions {
        namespace: args.own.operator_namespace,
        key_ring_secret: args.own.key_ring_secret,
        namespaces: args.namespace,
        label_selector: args.selection.label_selector(),
        require_secret_label: args.require_secret_label,
        token_audience: args.token_audience,
        watch_timeout: args.watch_timeout,
    };
    // A worker without a controller needs no leader.
    let mut leadership = Leadership::always();
    let mut subscribers = Subscribers::default();
    let controller = match controller {
        None => None,
        Some((controller, lease)) => {
            let (gained, election) = LeaderElection::new(config.clone(), lease);
            leadership = gained.clone();
            let (options, changes) = (controller.options(), subscribers.subscribe());
            let election: StartElection = Box::new(|metrics| election.start(metrics));
            Some(ControllerRole { options, changes, leadership: gained, election: Some(election) })
        }
    };
    let kubernetes = Arc::new(Kubernetes::new(client, &options, leadership).with_lease(lease_location));
    let worker = worker.as_ref().map(|w| WorkerRole {
        args: &w.worker,
        data: Some(&w.data),
        database: None,
        listen: &w.listen,
        api_listen: &w.api_listen,
        local_access: None,
        changes: subscribers.subscribe(),
    });
    let installed = readiness.add_gate("the CRDs are installed");
    // A process without the controller reads an object when it changes, and for a user.
    let hook_form = if controller.is_some() { ObjectForm::Whole } else { ObjectForm::Packed };
    let cluster_watch =
        watch(&kubernetes, &options, subscribers, watch_liveness.clone(), installed, hook_form);
    let events = kubernetes.run_event_publisher();
    let liveness_checks = check_watches(watch_liveness, config, with_worker, liveness.clone());
    role_process::run(RoleProcess {
        cluster: kubernetes,
        view: cluster_watch.view,
        watch: async move {
            tokio::join!(cluster_watch.run, liveness_checks, events);
        },
        metrics,
        readiness,
        liveness,
        egress: args.egress.build(false, Vec::new()).await?.deny_api_server(&api_host, api_port),
        ops_listen: &args.ops_listen,
        controller,
        worker,
    })
    .await
}

/// Fails the liveness probe while a watch hangs. A running worker can deliver without the API server, but cannot start
/// without it. With a worker, the probe therefore fails only if the API server responds on a new connection.
async fn check_watches(
    watch_liveness: Arc<WatchLiveness>,
    config: ApiConfig,
    with_worker: bool,
    liveness: Liveness,
) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let mut hanging = watch_liveness.hanging(Millis::steady());
        if !hanging.is_empty() && with_worker && !responds(&config).await {
            hanging.clear();
        }
        let describe = |(path, idle): (String, Duration)| {
            format!("the watch of {path} has made no progress for {} s", idle.as_secs())
        };
        liveness.set(hanging.into_iter().map(describe).collect());
    }
}

/// Returns true if the API server responds on a new connection.
async fn responds(config: &ApiConfig) -> bool {
    let Ok(client) = config.connect().await else { return false };
    matches!(tokio::time::timeout(VERSION_TIMEOUT, client.apiserver_version()).await, Ok(Ok(_)))
}

/// Returns the API server's host and port, which no delivery may reach.
fn api_server(config: &Config) -> (String, u16) {
    let url = &config.cluster_url;
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    (url.host().unwrap_or_default().to_owned(), port)
}
