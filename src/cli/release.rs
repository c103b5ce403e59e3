//! `hookstream release`: takes the Lease and removes the finalizers of all objects before an uninstall.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use strum::IntoEnumIterator;

use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{ControllerArgs, EgressArgs, LeaseArgs, OperatorNamespaceArgs, SelectionArgs};
use super::kubeconfig::{ApiServer, create_client, follow_config, load_config};
use super::logging::LogArgs;
use super::output::print_line;
use crate::cluster::kubernetes::{Kubernetes, KubernetesOptions, LeaderElection, WatchLiveness, watch};
use crate::cluster::{ObjectForm, ResourceKind, Subscribers, WriteTarget};
use crate::controller::{self, Context};
use crate::core::duration;
use crate::leadership::{Leadership, LeaseAtExit};
use crate::metrics::Metrics;
use crate::net::HttpClient;
use crate::ops::Readiness;

/// Prepare an uninstall: stop a running controller from leading, and remove the finalizers of all objects. Leaves the
/// external objects in place, unless --delete is given.
///
/// Example: hookstream release --all && helm uninstall hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Release every object of every kind. Required, so that nothing is released by mistake.
    #[arg(long, required = true)]
    all: bool,
    /// Delete the external objects first, as the deletion of the custom resources would.
    #[arg(long)]
    delete: bool,
    /// How long to keep the Lease afterwards, 1s to 1h. No controller can lead in this time: uninstall it meanwhile.
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration::parse)]
    hold: Duration,
    /// A namespace to work in; may be repeated. Default: all.
    #[arg(long, value_delimiter = ',', env = "HOOKSTREAM_NAMESPACE")]
    namespace: Vec<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    own: OperatorNamespaceArgs,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub async fn run(args: Args) -> CommandResult {
    args.log.install()?;
    if !(1..=3600).contains(&args.hold.as_secs()) {
        return Err(Failure::new("--hold must be between 1s and 1h"));
    }
    let lease = args.lease.options(&args.own.operator_namespace, &args.selection)?.by_force();
    let (lease_name, wait) = (format!("{}/{}", lease.namespace, lease.name), lease.terms.duration);
    let config = load_config().await?;
    let client = create_client(config.clone())?;
    // Fail at once with the cause; the election would retry for a minute and only log it.
    let server = ApiServer::of(&config);
    match client.apiserver_version().await {
        // A response proves that it is there, even without the right to read the version.
        Ok(_) | Err(kube::Error::Api(_)) => {}
        Err(error) => return Err(Failure::new(server.describe(&error))),
    }
    let (leadership, election) = LeaderElection::new(follow_config(config), lease);
    let metrics = Arc::new(Metrics::default());
    let options = KubernetesOptions {
        namespace: args.own.operator_namespace,
        key_ring_secret: args.own.key_ring_secret,
        namespaces: args.namespace,
        label_selector: args.selection.label_selector(),
        require_secret_label: false,
        token_audience: String::new(),
        watch_timeout: Duration::from_secs(200),
    };
    let kubernetes = Arc::new(Kubernetes::new(client, &options, leadership.clone()));

    print_line(&format!(
        "taking the Lease {lease_name}; a running controller stops leading within {} s",
        wait.as_secs()
    ));
    let mut election =
        election.start(metrics.clone()).or_fail(|| "starting the thread of the Lease".into())?;
    tokio::select! {
        _ = leadership.wait_until_gained(0) => {}
        () = election.ended() => return Err(Failure::new("the thread of the Lease stopped unexpectedly")),
        // Another replica keeps renewing the Lease, or the API server rejects our writes; the log shows the reason.
        () = tokio::time::sleep(wait * 4 + Duration::from_secs(30)) => {
            return Err(Failure::new(format!("the Lease {lease_name} could not be taken: check that you may update it")));
        }
    }

    let mut failed = HashSet::new();
    if args.delete {
        let egress = args.egress.build(true, Vec::new()).await?;
        let http = HttpClient::new(egress).or_fail(|| "loading the system's certificates".into())?;
        let controller = args.controller.options();
        failed = delete_external_objects(&kubernetes, &options, http, controller, metrics, leadership).await;
    }
    let result = remove_finalizers(&kubernetes, &options, &failed).await;
    election.stop(LeaseAtExit::Hold(args.hold)).await;
    let count = result?;
    print_line(&format!(
        "{count} objects released; no controller can lead for {} s (kubectl delete lease {} -n {} ends this)",
        args.hold.as_secs(),
        lease_name.rsplit('/').next().unwrap_or_default(),
        lease_name.split('/').next().unwrap_or_default(),
    ));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Deletes the external objects. Returns the uids of the custom resources for which this failed. They keep their
/// finalizer, so that the controller can still delete their external objects.
async fn delete_external_objects(
    kubernetes: &Arc<Kubernetes>,
    options: &KubernetesOptions,
    http: HttpClient,
    controller: controller::ControllerOptions,
    metrics: Arc<Metrics>,
    leadership: Leadership,
) -> HashSet<String> {
    let liveness = WatchLiveness::new(options.watch_timeout, metrics.clone());
    let installed = Readiness::default().add_gate("the CRDs are installed");
    let cluster_watch =
        watch(kubernetes, options, Subscribers::default(), liveness, installed, ObjectForm::Packed);
    let watch_task = tokio::spawn(cluster_watch.run);
    cluster_watch.view.wait_until_listed().await;
    let context = Context::new(kubernetes.clone(), cluster_watch.view, http, controller, metrics, leadership);
    let mut failed = HashSet::new();
    controller::delete_all_external(&context, |target, result| {
        if let Err(error) = result {
            eprintln!("hookstream: {}: {error}", display_name(target));
            failed.insert(target.uid.clone());
        }
    })
    .await;
    watch_task.abort();
    failed
}

/// Removes the finalizers except from the objects in `kept`. Connections come last, so that an interrupted run can be
/// repeated. Returns the number of released objects.
async fn remove_finalizers(
    kubernetes: &Kubernetes,
    options: &KubernetesOptions,
    kept: &HashSet<String>,
) -> Result<usize, Failure> {
    let mut count = 0;
    let kinds = ResourceKind::iter()
        .filter(|kind| *kind != ResourceKind::Connection)
        .chain([ResourceKind::Connection]);
    for kind in kinds {
        // Keep the Connections too if objects are kept, because these objects still need them.
        if kind == ResourceKind::Connection && !kept.is_empty() {
            break;
        }
        let targets = kubernetes.list_finalized(kind, options).await;
        let targets = targets.or_fail(|| "listing the objects".into())?;
        for target in targets.iter().filter(|target| !kept.contains(&target.uid)) {
            kubernetes.remove_finalizer(target).await.or_fail(|| display_name(target))?;
            count += 1;
        }
    }
    Ok(count)
}

fn display_name(target: &WriteTarget) -> String {
    let kind: &'static str = target.kind.into();
    format!("{kind} {}", target.key)
}
