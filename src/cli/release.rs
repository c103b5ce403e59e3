//! `hookstream release`: lets go of everything before an uninstall.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use strum::IntoEnumIterator;

use super::logging::LogArgs;
use super::settings::{ControllerArgs, EgressArgs, LeaseArgs};
use super::{Failure, OrFail, Outcome, say};
use crate::cluster::kubernetes::{Candidacy, Ending, Kubernetes, Options, Pulse, watch};
use crate::cluster::{Kind, Subscribers, Target};
use crate::controller::{self, Context};
use crate::core::duration;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::HttpClient;
use crate::ops::Readiness;

/// Let go of everything before an uninstall: a running controller stands down, our finalizers go, the vendors' objects
/// stay.
///
/// Example: hookstream release --all && helm uninstall hookstream
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Every object of every kind. There is no other way: it is asked for so that nobody does it by mistake.
    #[arg(long, required = true)]
    all: bool,
    /// Delete what the objects have at the vendors first, as their own deletion would.
    #[arg(long)]
    delete: bool,
    /// So long no controller takes over afterwards, 1s to 1h: the time to uninstall it.
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration::parse)]
    hold: Duration,
    /// A namespace to work in; may be given several times. Default: all.
    #[arg(long, value_delimiter = ',', env = "HOOKSTREAM_NAMESPACE")]
    namespace: Vec<String>,
    /// The operator's own namespace, where its Lease and its key ring are.
    #[arg(long, default_value = "hookstream-system", env = "POD_NAMESPACE")]
    operator_namespace: String,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    #[command(flatten)]
    egress: EgressArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub async fn run(args: Args) -> Outcome {
    args.log.start()?;
    if !(1..=3600).contains(&args.hold.as_secs()) {
        return Err(Failure::new("--hold: must be between 1s and 1h"));
    }
    let lease = args.lease.options(&args.operator_namespace)?.by_force();
    let (lease_name, wait) = (format!("{}/{}", lease.namespace, lease.name), lease.terms.duration);
    let config = super::cluster::config().await?;
    let client = Client::try_from(config.clone()).or_fail(|| "the cluster's configuration".into())?;
    let (leadership, candidacy) = Candidacy::new(config, lease);
    let metrics = Arc::new(Metrics::default());
    let options = Options {
        namespace: args.operator_namespace,
        namespaces: args.namespace,
        require_secret_label: false,
        token_audience: String::new(),
        watch_timeout: Duration::from_secs(200),
    };
    let kubernetes = Arc::new(Kubernetes::new(client, &options, leadership.clone()));

    say(&format!(
        "taking the Lease {lease_name}: a controller that runs stands down within {} s",
        wait.as_secs()
    ));
    let mut competing =
        candidacy.compete(metrics.clone()).or_fail(|| "starting the thread of the Lease".into())?;
    tokio::select! {
        _ = leadership.gained(0) => {}
        () = competing.ended() => return Err(Failure::new("the thread of the Lease ended")),
        // Whoever renews against us has taken it back; whoever refuses us has told so in the log.
        () = tokio::time::sleep(wait * 4 + Duration::from_secs(30)) => {
            return Err(Failure::new(format!("the Lease {lease_name} could not be taken: may you update it?")));
        }
    }

    let mut failed = HashSet::new();
    if args.delete {
        let egress = args.egress.open(true, Vec::new()).await?;
        let http = HttpClient::new(egress).or_fail(|| "reading the system's certificates".into())?;
        let controller = args.controller.options();
        failed = delete(&kubernetes, &options, http, controller, metrics, leadership).await;
    }
    let result = let_go(&kubernetes, &options.namespaces, &failed).await;
    competing.stop(Ending::Hold(args.hold)).await;
    let count = result?;
    say(&format!(
        "{count} objects let go; no controller leads for {} s (kubectl delete lease {} -n {} ends that)",
        args.hold.as_secs(),
        lease_name.rsplit('/').next().unwrap_or_default(),
        lease_name.split('/').next().unwrap_or_default(),
    ));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Deletes at the vendors. Those that failed, by their uid: they keep their finalizer, so that nothing is forgotten.
async fn delete(
    kubernetes: &Arc<Kubernetes>,
    options: &Options,
    http: HttpClient,
    controller: controller::Options,
    metrics: Arc<Metrics>,
    leadership: Leadership,
) -> HashSet<String> {
    let pulse = Pulse::new(options.watch_timeout, metrics.clone());
    let installed = Readiness::default().pending("the CRDs are installed");
    let watching = watch(kubernetes, options, Subscribers::default(), pulse, installed);
    let watched = tokio::spawn(watching.run);
    watching.view.ready().await;
    let context = Context::new(kubernetes.clone(), watching.view, http, controller, metrics, leadership);
    let mut failed = HashSet::new();
    controller::delete_all_external(&context, |target, result| {
        if let Err(problem) = result {
            eprintln!("hookstream: {}: {problem}", name(target));
            failed.insert(target.uid.clone());
        }
    })
    .await;
    watched.abort();
    failed
}

/// Takes the finalizers off, those of Connections last: whoever is stopped half-way can begin again.
async fn let_go(
    kubernetes: &Kubernetes,
    namespaces: &[String],
    kept: &HashSet<String>,
) -> Result<usize, Failure> {
    let mut count = 0;
    let kinds = Kind::iter().filter(|kind| *kind != Kind::Connection).chain([Kind::Connection]);
    for kind in kinds {
        // What is kept needs its Connection.
        if kind == Kind::Connection && !kept.is_empty() {
            break;
        }
        let held = kubernetes.held(kind, namespaces).await.or_fail(|| "listing the objects".into())?;
        for target in held.iter().filter(|target| !kept.contains(&target.uid)) {
            kubernetes.let_go(target).await.or_fail(|| name(target))?;
            count += 1;
        }
    }
    Ok(count)
}

fn name(target: &Target) -> String {
    let kind: &'static str = target.kind.into();
    format!("{kind} {}", target.key)
}
