//! The roles, wired: what `run`, `controller`, `worker` and `standalone` have in common.

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::settings::{WorkerArgs, with_host};
use super::{Failure, OrFail, Outcome, say, stop_signal};
use crate::cluster::{Change, Cluster, View};
use crate::controller;
use crate::core::egress;
use crate::metrics::Metrics;
use crate::net::{Egress, HttpClient, serve};
use crate::ops::{self, Readiness};
use crate::worker::store::Shares;
use crate::worker::store::sqlite::SqliteStore;
use crate::worker::{Listening, Worker, WorkerError};

/// A process with one role or both.
pub struct Roles<'a, F> {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    /// Keeps the view true.
    pub watch: F,
    pub egress: egress::Policy,
    pub ops_listen: &'a str,
    pub controller: Option<(controller::Options, mpsc::Receiver<Change>)>,
    pub worker: Option<WorkerRole<'a>>,
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
    let metrics = Arc::new(Metrics::default());
    let readiness = Readiness::default();
    let http =
        HttpClient::new(Egress::new(roles.egress)).or_fail(|| "reading the system's certificates".into())?;

    let ops = listen(roles.ops_listen, "--ops-listen").await?;
    // Before the controller: two processes on one data folder must not both write to the vendor.
    let store = match &roles.worker {
        Some(role) => Some(open_store(role, metrics.clone())?),
        None => None,
    };
    let router = ops::router(readiness.clone(), metrics.clone());
    tokio::spawn(async move { serve::serve(ops, router, std::future::pending::<()>()).await });
    tokio::spawn(roles.watch);

    let listed = readiness.pending("the objects are listed (are the CRDs installed?)");
    // Before anything runs: between two registrations the process would look ready.
    let starting = roles.worker.is_some().then(|| readiness.pending("the ingest port is open"));
    let view = roles.view.clone();
    tokio::spawn(async move {
        view.ready().await;
        listed.done();
    });
    if let Some((options, changes)) = roles.controller {
        let context = controller::Context::new(
            roles.cluster.clone(),
            roles.view.clone(),
            http.clone(),
            options,
            metrics.clone(),
        );
        tokio::spawn(controller::run(Arc::new(context), changes));
    }

    let stopping = CancellationToken::new();
    let stopped = {
        let stopping = stopping.clone();
        let readiness = readiness.clone();
        async move {
            stop.await;
            tracing::info!("stopping");
            // First: whoever balances the load looks at this, and nothing is ever done for it.
            let _never_done = readiness.pending("the process is started again: it stops");
            stopping.cancel();
        }
    };
    let (Some(role), Some((store, shares)), Some(starting)) = (roles.worker, store, starting) else {
        stopped.await;
        return Ok(ExitCode::SUCCESS);
    };
    tokio::spawn(stopped);
    let worker = Worker {
        cluster: roles.cluster,
        view: roles.view,
        store: Arc::new(store),
        http,
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
    };
    let listening = |open: Listening| {
        say(&format!("hookstream: api listening on http://{}", open.api));
        say(&format!("hookstream: ingest listening on http://{}", open.ingest));
    };
    match worker.run(role.changes, stopping, listening).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
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
