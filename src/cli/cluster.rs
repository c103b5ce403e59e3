//! `hookstream run`, `controller` and `worker`: the roles against a Kubernetes cluster.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use kube::{Client, Config};

use super::logging::LogArgs;
use super::roles::{Roles, WorkerRole};
use super::settings::{ControllerArgs, EgressArgs, WorkerArgs};
use super::{OrFail, Outcome, roles};
use crate::cluster::Subscribers;
use crate::cluster::kubernetes::{Kubernetes, Options, watch};

/// Run controller and worker in one process, against a cluster.
///
/// Example: hookstream run --ingest-url http://hookstream.hookstream-system.svc:8080
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    worker: WorkerRoleArgs,
}

/// Run the controller: keeps the vendors' admin APIs true to the custom resources.
///
/// Example: hookstream controller --ingest-url http://hookstream.hookstream-system.svc:8080
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ControllerRoleArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    controller: ControllerArgs,
}

/// Run the worker: takes events in and delivers them.
///
/// Example: hookstream worker --data /var/lib/hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct WorkerOnlyArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    worker: WorkerRoleArgs,
}

/// How the cluster is reached, by KUBECONFIG or from inside.
#[derive(clap::Args)]
struct ClusterArgs {
    /// A namespace to work in; may be given several times. Default: all.
    #[arg(long, value_delimiter = ',', env = "HOOKSTREAM_NAMESPACE")]
    namespace: Vec<String>,
    /// The operator's own namespace, where the key ring is kept.
    #[arg(long, default_value = "hookstream-system", env = "POD_NAMESPACE")]
    operator_namespace: String,
    /// Use only Secrets that are labelled hookstream.dev/use: "true".
    #[arg(long, env = "HOOKSTREAM_REQUIRE_SECRET_LABEL")]
    require_secret_label: bool,
    /// The audience that callers' tokens must have.
    #[arg(long, default_value = "hookstream", env = "HOOKSTREAM_TOKEN_AUDIENCE")]
    token_audience: String,
    /// Where /livez, /readyz and /metrics are.
    #[arg(long, default_value = ":8081", env = "HOOKSTREAM_OPS_LISTEN")]
    ops_listen: String,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// The worker's flags, with its places.
#[derive(clap::Args)]
struct WorkerRoleArgs {
    /// The folder for accepted events, on a volume that outlives the process.
    #[arg(long, default_value = "/var/lib/hookstream", value_name = "DIR", env = "HOOKSTREAM_DATA")]
    data: PathBuf,
    /// Where events and relays come in.
    #[arg(long, default_value = ":8080", env = "HOOKSTREAM_LISTEN")]
    listen: String,
    /// Where deliveries are listed, explained and replayed.
    #[arg(long, default_value = ":8082", env = "HOOKSTREAM_API_LISTEN")]
    api_listen: String,
    #[command(flatten)]
    worker: WorkerArgs,
}

pub async fn run(args: RunArgs) -> Outcome {
    start(args.cluster, Some(args.controller), Some(args.worker)).await
}

pub async fn controller(args: ControllerRoleArgs) -> Outcome {
    start(args.cluster, Some(args.controller), None).await
}

pub async fn worker(args: WorkerOnlyArgs) -> Outcome {
    start(args.cluster, None, Some(args.worker)).await
}

async fn start(
    args: ClusterArgs,
    controller: Option<ControllerArgs>,
    worker: Option<WorkerRoleArgs>,
) -> Outcome {
    args.log.start()?;
    let config = Config::infer().await.or_fail(|| "no cluster: set KUBECONFIG, or run inside one".into())?;
    let refused = addresses_of(&config);
    let client = Client::try_from(config).or_fail(|| "the cluster's configuration".into())?;
    let options = Options {
        namespace: args.operator_namespace,
        namespaces: args.namespace,
        require_secret_label: args.require_secret_label,
        token_audience: args.token_audience,
    };
    let kubernetes = Arc::new(Kubernetes::new(client, &options));
    let mut subscribers = Subscribers::default();
    let controller = controller.map(|c| (c.options(), subscribers.subscribe()));
    let worker = worker.as_ref().map(|w| WorkerRole {
        args: &w.worker,
        data: &w.data,
        listen: &w.listen,
        api_listen: &w.api_listen,
        changes: subscribers.subscribe(),
    });
    let watching = watch(&kubernetes, &options, subscribers);
    roles::run(Roles {
        cluster: kubernetes,
        view: watching.view,
        watch: watching.run,
        egress: args.egress.policy(false, refused),
        ops_listen: &args.ops_listen,
        controller,
        worker,
    })
    .await
}

/// The API server's addresses, which no delivery may reach.
fn addresses_of(config: &Config) -> Vec<SocketAddr> {
    let url = &config.cluster_url;
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}
