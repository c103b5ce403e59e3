//! The roles, wired: what `run`, `controller`, `worker` and `standalone` have in common.

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::settings::{WorkerArgs, with_host};
use super::{Failure, OrFail, Outcome, say, stop_signal};
use crate::cluster::kubernetes::{Candidacy, Ending};
use crate::cluster::{Change, Cluster, View};
use crate::controller;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::{Egress, HttpClient, serve};
use crate::ops::{self, Liveness, Readiness};
use crate::sandbox::Sandbox;
use crate::worker::store::Shares;
use crate::worker::store::sqlite::SqliteStore;
use crate::worker::{Listening, Worker, WorkerError};

/// What is under way at a stop may take as long as a call to an admin API.
const DRAIN: Duration = Duration::from_secs(20);

/// A process with one role or both.
pub struct Roles<'a, F> {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    /// Keeps the view true.
    pub watch: F,
    pub metrics: Arc<Metrics>,
    pub readiness: Readiness,
    pub liveness: Liveness,
    pub egress: Egress,
    pub ops_listen: &'a str,
    pub controller: Option<ControllerRole>,
    pub worker: Option<WorkerRole<'a>>,
}

/// The controller's part.
pub struct ControllerRole {
    pub options: controller::Options,
    pub changes: mpsc::Receiver<Change>,
    pub leadership: Leadership,
    /// Where replicas compete.
    pub candidacy: Option<Candidacy>,
}

/// The worker's part.
pub struct WorkerRole<'a> {
    pub args: &'a WorkerArgs,
    pub data: &'a Path,
    pub listen: &'a str,
    pub api_listen: &'a str,
    pub changes: mpsc::Receiver<Change>,
}

/// Runs until the process is asked to stop, or until something ends it.
pub async fn run<F>(roles: Roles<'_, F>) -> Outcome
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = stop_signal()?;
    let Roles { cluster, view, metrics, readiness, .. } = roles;
    let http = HttpClient::new(roles.egress).or_fail(|| "reading the system's certificates".into())?;

    let ops = listen(roles.ops_listen, "--ops-listen").await?;
    let tls = roles.worker.as_ref().map(|role| role.args.tls.open()).transpose()?.flatten();
    let router = ops::router(readiness.clone(), roles.liveness, metrics.clone());
    let ops = tokio::spawn(async move { serve::serve(ops, router, std::future::pending::<()>()).await });
    // After the ops port: a store that is copied before its format changes takes its time, in which the process lives.
    // Before the controller: two processes on one data folder must not both write to the vendor.
    let store = match &roles.worker {
        Some(role) => {
            let opened = readiness.pending("the store is open");
            let store = tokio::task::block_in_place(|| open_store(role, metrics.clone()))?;
            opened.done();
            Some(store)
        }
        None => None,
    };
    let watch = tokio::spawn(roles.watch);

    let listed = readiness.pending("the objects are listed");
    // Before anything runs: between two registrations the process would look ready.
    let starting = roles.worker.is_some().then(|| readiness.pending("the ingest port is open"));
    let stopping = CancellationToken::new();
    let controller = roles.controller.map(|role| {
        let leadership = role.leadership.clone();
        let (cluster, view, http, metrics) = (cluster.clone(), view.clone(), http.clone(), metrics.clone());
        let context = controller::Context::new(cluster, view, http, role.options, metrics, leadership);
        // A task of its own: a panic ends the process, and not quietly the controller alone.
        tokio::spawn(control(Arc::new(context), role.changes, role.candidacy, stopping.clone()))
    });
    let controller = async {
        match controller {
            Some(task) => {
                task.await.unwrap_or_else(|error| Err(broken(&format!("the controller ended: {error}"))))
            }
            None => Ok(()),
        }
    };
    if let Some(role) = &roles.worker {
        metrics.hooks.at_most(role.args.hook_metrics);
    }
    let worker = match (roles.worker, store, starting) {
        (Some(role), Some((store, shares)), Some(starting)) => Some((
            Worker {
                cluster,
                view: view.clone(),
                store: Arc::new(store),
                http,
                sandbox: Sandbox::start(role.args.scripts.options()).await,
                metrics,
                starting,
                limits: role.args.limits(),
                retention: role.args.retention(),
                disk: role.args.disk(role.data),
                shares,
                grace: role.args.hook_grace,
                accept_new_store: role.args.accept_new_store,
                listen: with_host(role.listen),
                api_listen: with_host(role.api_listen),
                tls,
            },
            role.changes,
        )),
        _ => None,
    };
    let worker = async {
        match worker {
            Some((worker, changes)) => deliver(worker, changes, stopping.clone()).await,
            None => Ok(()),
        }
    };
    // Whichever ends, the other stops too, in good order.
    let (controller, worker) = (until(controller, &stopping), until(worker, &stopping));
    let first_listed = async {
        view.ready().await;
        listed.done();
        std::future::pending::<()>().await;
    };
    let asked = async {
        stop.await;
        tracing::info!("stopping");
        // First: whoever balances the load looks at this, and nothing is ever done for it.
        let _never_done = readiness.pending("the process is started again: it stops");
        stopping.cancel();
        std::future::pending::<()>().await;
    };
    let both = async {
        let (controller, worker) = tokio::join!(controller, worker);
        worker.and(controller)
    };
    tokio::select! {
        result = both => result.map(|()| ExitCode::SUCCESS),
        ended = watch => Err(broken(&format!("the watches ended{}", why(ended)))),
        ended = ops => Err(broken(&format!("the ops port ended{}", why(ended)))),
        () = first_listed => Ok(ExitCode::SUCCESS),
        () = asked => Ok(ExitCode::SUCCESS),
    }
}

/// A role that was there ends only when it is told to; one that is not there is done at once, and stops nobody.
async fn until(
    role: impl Future<Output = Result<(), Failure>>,
    stopping: &CancellationToken,
) -> Result<(), Failure> {
    let result = role.await;
    if result.is_err() {
        stopping.cancel();
    }
    result
}

fn broken(what: &str) -> Failure {
    Failure { code: 3, message: what.to_owned() }
}

fn why<T>(ended: Result<T, tokio::task::JoinError>) -> String {
    ended.err().map(|error| format!(": {error}")).unwrap_or_default()
}

/// The controller, as long as it may: it competes once it knows the objects, and lets the Lease go when nothing of its own
/// is under way any more.
async fn control(
    context: Arc<controller::Context>,
    changes: mpsc::Receiver<Change>,
    candidacy: Option<Candidacy>,
    stopping: CancellationToken,
) -> Result<(), Failure> {
    let (view, metrics, cluster) = (context.view.clone(), context.metrics.clone(), context.cluster.clone());
    let mut work = std::pin::pin!(controller::run(context, changes, stopping.clone()));
    let Some(candidacy) = candidacy else {
        metrics.leads(true);
        work.await;
        return Ok(());
    };
    tokio::select! {
        () = &mut work => return Ok(()),
        () = view.ready() => {}
        // Nothing was listed, so nothing is under way; and the API server may be away for as long as it likes.
        () = stopping.cancelled() => return Ok(()),
    }
    let mut competing = candidacy.compete(metrics).or_fail(|| "starting the thread of the Lease".into())?;
    tokio::select! {
        () = &mut work => {
            cluster.flush_events().await;
            competing.stop(Ending::LetGo).await;
        }
        () = competing.ended() => return Err(broken("the thread of the Lease ended")),
        () = async { stopping.cancelled().await; tokio::time::sleep(DRAIN).await } => competing.stop(Ending::RunOut).await,
    }
    Ok(())
}

/// The worker, until it is told to stop.
async fn deliver(
    worker: Worker,
    changes: mpsc::Receiver<Change>,
    stopping: CancellationToken,
) -> Result<(), Failure> {
    let listening = |open: Listening| {
        say(&format!("hookstream: api listening on http://{}", open.api));
        say(&format!("hookstream: ingest listening on http://{}", open.ingest));
    };
    match worker.run(changes, stopping, listening).await {
        Ok(()) => Ok(()),
        Err(error @ WorkerError::Listen { .. }) => Err(Failure::new(error.to_string())),
        // Another code than a bad flag's: what was accepted is on disk, and a restart goes on with it.
        Err(error @ WorkerError::Store(_)) => Err(Failure { code: 3, message: error.to_string() }),
    }
}

fn open_store(role: &WorkerRole<'_>, metrics: Arc<Metrics>) -> Result<(SqliteStore, Shares), Failure> {
    let what = || format!("--data {}", role.data.display());
    let store = SqliteStore::open(role.data).or_fail(what)?;
    let size = role.args.disk(role.data).size().or_fail(what)?;
    let shares = role.args.shares(size);
    store.set_shares(shares);
    store.observe(metrics);
    Ok((store, shares))
}

/// Listens, or says which flag names the address that could not be taken.
pub async fn listen(address: &str, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(with_host(address)).await.or_fail(|| format!("{flag} {address}"))
}
