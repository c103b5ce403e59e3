//! `hookstream run`, `controller` and `worker`: the roles against a Kubernetes cluster.

use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use kube::client::ClientBuilder;
use kube::{Client, Config};

use super::logging::LogArgs;
use super::roles::{ControllerRole, Roles, WorkerRole};
use super::settings::{ControllerArgs, EgressArgs, LeaseArgs, WorkerArgs, parse_watch_timeout};
use super::{Failure, OrFail, Outcome, roles};
use crate::cluster::Subscribers;
use crate::cluster::kubernetes::{Candidacy, Kubernetes, Options, Pulse, PulseLayer, watch};
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::ops::{Liveness, Readiness};

/// Between two looks at the watches.
const LOOK: Duration = Duration::from_secs(1);
/// How long the API server may take to tell its version.
const ANSWER: Duration = Duration::from_secs(5);

/// Run controller and worker in one process, against a cluster.
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

/// Run the controller: keeps the vendors' admin APIs true to the custom resources.
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
    /// How long one watch lasts before it is begun again, 5s to 290s; /livez fails when one hangs for twice as long.
    #[arg(long, default_value = "200s", value_name = "DURATION", value_parser = parse_watch_timeout, env = "HOOKSTREAM_WATCH_TIMEOUT")]
    watch_timeout: Duration,
    /// Where /livez, /readyz and /metrics are.
    #[arg(long, default_value = ":8081", value_name = "ADDRESS", env = "HOOKSTREAM_OPS_LISTEN")]
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
    #[arg(long, default_value = ":8080", value_name = "ADDRESS", env = "HOOKSTREAM_LISTEN")]
    listen: String,
    /// Where deliveries are listed, explained and replayed.
    #[arg(long, default_value = ":8082", value_name = "ADDRESS", env = "HOOKSTREAM_API_LISTEN")]
    api_listen: String,
    #[command(flatten)]
    worker: WorkerArgs,
}

pub async fn run(args: RunArgs) -> Outcome {
    start(args.cluster, Some((args.controller, args.lease)), Some(args.worker)).await
}

pub async fn controller(args: ControllerRoleArgs) -> Outcome {
    start(args.cluster, Some((args.controller, args.lease)), None).await
}

pub async fn worker(args: WorkerOnlyArgs) -> Outcome {
    start(args.cluster, None, Some(args.worker)).await
}

/// The cluster that KUBECONFIG names, else the one around this process.
pub async fn config() -> Result<Config, Failure> {
    let mut config = Config::infer().await.map_err(|error| {
        // Outside of a pod only what is wrong with the file helps.
        let why = match (std::env::var_os("KUBERNETES_SERVICE_HOST"), error.source()) {
            (None, Some(kubeconfig)) => kubeconfig.to_string(),
            _ => error.to_string(),
        };
        Failure::new(format!("no cluster: {why}: set KUBECONFIG, or run inside a cluster"))
    })?;
    // The library takes the environment's proxy, which is meant for other programs, and then fails on it.
    let named = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<Uri>().ok());
    if ["HTTPS_PROXY", "https_proxy"].into_iter().filter_map(named).any(|uri| Some(uri) == config.proxy_url) {
        config.proxy_url = None;
    }
    Ok(config)
}

async fn start(
    args: ClusterArgs,
    controller: Option<(ControllerArgs, LeaseArgs)>,
    worker: Option<WorkerRoleArgs>,
) -> Outcome {
    args.log.start()?;
    let controller = match controller {
        Some((controller, lease)) => Some((controller, lease.options(&args.operator_namespace)?)),
        None => None,
    };
    let config = config().await?;
    let refused = addresses_of(&config);
    let (metrics, readiness, liveness) =
        (Arc::new(Metrics::default()), Readiness::default(), Liveness::default());
    let pulse = Pulse::new(args.watch_timeout, metrics.clone());
    let builder = ClientBuilder::try_from(config.clone()).or_fail(|| "the cluster's configuration".into())?;
    let client = builder.with_layer(&PulseLayer(pulse.clone())).build();
    let with_worker = worker.is_some();
    let options = Options {
        namespace: args.operator_namespace,
        namespaces: args.namespace,
        require_secret_label: args.require_secret_label,
        token_audience: args.token_audience,
        watch_timeout: args.watch_timeout,
    };
    // A worker alone has nothing to lead.
    let mut leadership = Leadership::always();
    let mut subscribers = Subscribers::default();
    let controller = match controller {
        None => None,
        Some((controller, lease)) => {
            let (leads, candidacy) = Candidacy::new(config.clone(), lease);
            leadership = leads.clone();
            let (options, changes) = (controller.options(), subscribers.subscribe());
            Some(ControllerRole { options, changes, leadership: leads, candidacy: Some(candidacy) })
        }
    };
    let kubernetes = Arc::new(Kubernetes::new(client, &options, leadership));
    let worker = worker.as_ref().map(|w| WorkerRole {
        args: &w.worker,
        data: &w.data,
        listen: &w.listen,
        api_listen: &w.api_listen,
        changes: subscribers.subscribe(),
    });
    let installed = readiness.pending("the CRDs are installed");
    let watching = watch(&kubernetes, &options, subscribers, pulse.clone(), installed);
    let events = kubernetes.tell_events();
    let watchdog = watchdog(pulse, config, with_worker, liveness.clone());
    roles::run(Roles {
        cluster: kubernetes,
        view: watching.view,
        watch: async move {
            tokio::join!(watching.run, watchdog, events);
        },
        metrics,
        readiness,
        liveness,
        egress: args.egress.open(false, refused).await?,
        ops_listen: &args.ops_listen,
        controller,
        worker,
    })
    .await
}

/// Fails liveness while a watch hangs. A worker delivers without the API server, and a new one could not even begin: where
/// there is one, the API server must answer on a connection of its own first.
async fn watchdog(pulse: Arc<Pulse>, config: Config, with_worker: bool, liveness: Liveness) {
    loop {
        tokio::time::sleep(LOOK).await;
        let mut hanging = pulse.silent(Millis::steady());
        if !hanging.is_empty() && with_worker && !answers(&config).await {
            hanging.clear();
        }
        let say = |(path, silence): (String, Duration)| {
            format!("the watch of {path} has made no progress for {} s", silence.as_secs())
        };
        liveness.set(hanging.into_iter().map(say).collect());
    }
}

async fn answers(config: &Config) -> bool {
    let Ok(client) = Client::try_from(config.clone()) else { return false };
    matches!(tokio::time::timeout(ANSWER, client.apiserver_version()).await, Ok(Ok(_)))
}

/// The API server's addresses, which no delivery may reach.
fn addresses_of(config: &Config) -> Vec<SocketAddr> {
    let url = &config.cluster_url;
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}
