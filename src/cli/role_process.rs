//! Runs the process of `run`, `controller`, `worker` and `standalone`: starts the roles and ports, and stops them in order.

use std::future::Future;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::database_readiness::follow_database;
use super::failure::{CommandResult, Failure, OrFail};
use super::flags::{ListenAddress, WorkerArgs};
use super::signals::stop_signal;
use crate::cluster::{Cluster, ObjectChange, View};
use crate::console::{self, ConsoleOptions};
use crate::controller;
use crate::leadership::{Leadership, LeaseAtExit, RunningElection};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::net::{Egress, HttpClient, PortOptions, raise_open_files_limit, serve};
use crate::ops::{self, Liveness, Readiness};
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::traces::Traces;
use crate::worker::store::postgres::PostgresStore;
use crate::worker::store::postgres::connect::PostgresOptions;
use crate::worker::store::postgres::standalone::SharedDatabase;
use crate::worker::store::sqlite::SqliteStore;
use crate::worker::store::{Shares, Store, StoreError};
use crate::worker::{ApiExtension, Disk, Listening, LocalAccess, Worker, WorkerError};

/// How long a stop waits for running reconciles: as long as one admin API call may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// A process with the controller, the worker, or both.
pub struct RoleProcess<'a, F> {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    /// Keeps the view in sync.
    pub watch: F,
    pub metrics: Arc<Metrics>,
    pub readiness: Readiness,
    pub liveness: Liveness,
    pub egress: Egress,
    pub ops_listen: &'a ListenAddress,
    pub controller: Option<ControllerRole>,
    pub worker: Option<WorkerRole<'a>>,
}

/// The dependencies and settings of the controller.
pub struct ControllerRole {
    pub options: controller::ControllerOptions,
    pub changes: mpsc::Receiver<ObjectChange>,
    pub leadership: Leadership,
    /// None without replicas: the controller always leads.
    pub election: Option<StartElection>,
}

/// Starts competing for the leadership.
pub type StartElection = Box<dyn FnOnce(Arc<Metrics>) -> io::Result<RunningElection> + Send>;

/// The dependencies and settings of the worker.
pub struct WorkerRole<'a> {
    pub args: &'a WorkerArgs,
    /// The folder of the embedded store. None: `database` is given.
    pub data: Option<&'a Path>,
    /// The connections of a process that uses the database for more than events. None: the store connects by its flags.
    pub database: Option<SharedDatabase>,
    pub listen: &'a ListenAddress,
    pub api_listen: &'a ListenAddress,
    /// The requests that both ports accept without a token. None: clients authenticate.
    pub local_access: Option<LocalAccess>,
    pub changes: mpsc::Receiver<ObjectChange>,
}

/// Runs the process until a stop signal, or until a role, a watch or the ops port fails.
pub async fn run<F>(process: RoleProcess<'_, F>) -> CommandResult
where
    F: Future<Output = ()> + Send + 'static,
{
    let stop = stop_signal()?;
    raise_open_files_limit();
    let RoleProcess { cluster, view, metrics, readiness, .. } = process;
    let memory = match &process.worker {
        Some(role) => Some(MemoryBudget::new(role.args.memory()?, &metrics)),
        None => None,
    };
    let collector = process.worker.as_ref().map(|role| role.args.traces.collector()).transpose()?.flatten();
    let http = HttpClient::new(process.egress).or_fail(|| "loading the system's certificates".into())?;

    let ops = process.ops_listen.bind("--ops-listen").await?;
    let tls = process.worker.as_ref().map(|role| role.args.tls.load()).transpose()?.flatten();
    let router = ops::router(readiness.clone(), process.liveness, metrics.clone());
    let ops = tokio::spawn(async move {
        serve::serve_port(ops, router, PortOptions::ops(), std::future::pending::<()>()).await
    });
    // Open the store after the ops port, because a format migration copies the store and the liveness probe must
    // succeed meanwhile. Open it before the controller starts, because two processes on one data folder must not both
    // write to the vendor.
    let store = match &process.worker {
        Some(role) => {
            let opened = readiness.add_gate("the store is open");
            let bytes = memory.as_ref().map_or(0, MemoryBudget::store_bytes);
            let store = open_store(role, bytes, metrics.clone()).await?;
            opened.open();
            Some(store)
        }
        None => None,
    };
    let database = store.as_ref().and_then(|open| open.database.clone());
    let watch = tokio::spawn(process.watch);

    let listed = readiness.add_gate("the objects are listed");
    // Add the gates before anything runs. Otherwise the process would be ready for a moment.
    let ingest_gate = process.worker.is_some().then(|| readiness.add_gate("the ingest port is open"));
    let stopping = CancellationToken::new();
    let controller = process.controller.map(|role| {
        let leadership = role.leadership.clone();
        let (cluster, view, http, metrics) = (cluster.clone(), view.clone(), http.clone(), metrics.clone());
        let mut options = role.options;
        if let Some(memory) = &memory {
            options.admin_memory = memory.admin_bytes();
        }
        let context = controller::Context::new(cluster, view, http, options, metrics, leadership);
        // Run the controller in a separate task, so that its panic ends the process instead of silently stopping only
        // the controller.
        tokio::spawn(run_controller(Arc::new(context), role.changes, role.election, stopping.clone()))
    });
    let controller = async {
        match controller {
            Some(task) => task.await.unwrap_or_else(|error| {
                Err(internal_failure(&format!("the controller stopped unexpectedly: {error}")))
            }),
            None => Ok(()),
        }
    };
    if let Some(role) = &process.worker {
        metrics.hooks.set_limit(role.args.hook_metrics);
    }
    let (traces, export) = match collector {
        Some(collector) => {
            let (traces, export) = Traces::start(collector, http.clone(), metrics.clone());
            (traces, Some(export))
        }
        None => (Traces::default(), None),
    };
    let worker = match (process.worker, store, ingest_gate, memory) {
        (Some(role), Some(OpenStore { store, shares, disk, .. }), Some(ingest_gate), Some(memory)) => {
            let local_access = role.local_access.map(Arc::new);
            let console = role.args.console.then(|| ConsoleOptions {
                cluster: cluster.clone(),
                local_access: local_access.clone(),
                is_tls: tls.is_some(),
                trusted_proxies: role.args.trusted_proxies.clone(),
            });
            Some((
                Worker {
                    cluster,
                    view: view.clone(),
                    store,
                    http,
                    sandbox: Sandbox::start(SandboxOptions {
                        input_memory: memory.scripts().clone(),
                        reply_memory: memory.script_replies().clone(),
                        ..role.args.scripts.options()
                    })
                    .await,
                    metrics,
                    starting: ingest_gate,
                    limits: role.args.limits(),
                    handshake: role.args.handshake(),
                    webhook_origin: role.args.webhook_origin.name.clone(),
                    keep_responses: role.args.keep_responses(),
                    traces,
                    memory,
                    retention: role.args.retention(),
                    disk,
                    shares,
                    grace: role.args.hook_grace,
                    accept_new_store: role.args.accept_new_store,
                    listen: role.listen.with_host(),
                    api_listen: role.api_listen.with_host(),
                    tls,
                    trusted_proxies: role.args.trusted_proxies.clone(),
                    local_access,
                    api_extension: console.map(|options| -> ApiExtension {
                        Box::new(move |port| console::router(port, options))
                    }),
                },
                role.changes,
            ))
        }
        _ => None,
    };
    let worker = async {
        match worker {
            Some((worker, changes)) => {
                let result = run_worker(worker, changes, stopping.clone()).await;
                if let Some(export) = export {
                    export.finish().await;
                }
                result
            }
            None => Ok(()),
        }
    };
    // When one role fails, the other stops in order.
    let (controller, worker) =
        (stop_all_on_error(controller, &stopping), stop_all_on_error(worker, &stopping));
    let listing = async {
        view.wait_until_listed().await;
        listed.open();
        std::future::pending::<()>().await;
    };
    let availability = async {
        match &database {
            Some(database) => follow_database(database, &readiness).await,
            None => std::future::pending().await,
        }
    };
    let stop_request = async {
        stop.await;
        tracing::info!("stopping");
        // Fail readiness first, so that load balancers stop sending requests. This gate is never opened.
        let _stopping = readiness.add_gate("the process is restarted (it is stopping)");
        stopping.cancel();
        std::future::pending::<()>().await;
    };
    let roles = async {
        let (controller, worker) = tokio::join!(controller, worker);
        worker.and(controller)
    };
    tokio::select! {
        result = roles => result.map(|()| ExitCode::SUCCESS),
        ended = watch => Err(internal_failure(&format!("the watches stopped unexpectedly{}", panic_message(ended)))),
        ended = ops => Err(internal_failure(&format!("the ops port stopped unexpectedly{}", panic_message(ended)))),
        () = listing => Ok(ExitCode::SUCCESS),
        () = availability => Ok(ExitCode::SUCCESS),
        () = stop_request => Ok(ExitCode::SUCCESS),
    }
}

/// Runs a role. If it fails, requests all roles to stop. An absent role completes immediately without stopping the
/// others.
async fn stop_all_on_error(
    role: impl Future<Output = Result<(), Failure>>,
    stopping: &CancellationToken,
) -> Result<(), Failure> {
    let result = role.await;
    if result.is_err() {
        stopping.cancel();
    }
    result
}

/// Creates a failure with exit code 3, for which a restart helps.
fn internal_failure(message: &str) -> Failure {
    Failure { code: 3, message: message.to_owned() }
}

/// Returns `: ` and the message of a task that panicked.
fn panic_message<T>(ended: Result<T, tokio::task::JoinError>) -> String {
    ended.err().map(|error| format!(": {error}")).unwrap_or_default()
}

/// Runs the controller. It joins the election once the objects are listed, and releases the lease once no reconcile runs.
async fn run_controller(
    context: Arc<controller::Context>,
    changes: mpsc::Receiver<ObjectChange>,
    election: Option<StartElection>,
    stopping: CancellationToken,
) -> Result<(), Failure> {
    let (view, metrics, cluster) = (context.view.clone(), context.metrics.clone(), context.cluster.clone());
    let mut reconciles = std::pin::pin!(controller::run(context, changes, stopping.clone()));
    let Some(election) = election else {
        metrics.set_leader(true);
        reconciles.await;
        return Ok(());
    };
    tokio::select! {
        () = &mut reconciles => return Ok(()),
        () = view.wait_until_listed() => {}
        // No reconcile runs before the first list, so stop without waiting for an API server that may be unavailable.
        () = stopping.cancelled() => return Ok(()),
    }
    let mut election = election(metrics).or_fail(|| "starting the election".into())?;
    tokio::select! {
        () = &mut reconciles => {
            cluster.flush_events().await;
            election.stop(LeaseAtExit::Release).await;
        }
        () = election.ended() => return Err(internal_failure("the election stopped unexpectedly")),
        () = async { stopping.cancelled().await; tokio::time::sleep(DRAIN_TIMEOUT).await } => election.stop(LeaseAtExit::Expire).await,
    }
    Ok(())
}

/// Runs the worker until it is requested to stop.
async fn run_worker(
    worker: Worker,
    changes: mpsc::Receiver<ObjectChange>,
    stopping: CancellationToken,
) -> Result<(), Failure> {
    let announce = |open: Listening| {
        tracing::info!(address = %open.api, "api listening");
        tracing::info!(address = %open.ingest, "ingest listening");
    };
    match worker.run(changes, stopping, announce).await {
        Ok(()) => Ok(()),
        Err(error @ WorkerError::Listen { .. }) => Err(Failure::new(error.to_string())),
        // Fail with exit code 3 and not as for a bad flag: accepted events are on disk, and a restart continues with
        // them.
        Err(error @ WorkerError::Store(_)) => Err(internal_failure(&error.to_string())),
    }
}

/// An open store with its limits.
struct OpenStore {
    store: Arc<dyn Store>,
    /// The same store if it is in a database.
    database: Option<Arc<PostgresStore>>,
    shares: Shares,
    disk: Disk,
}

/// Opens the store with its limits and metrics.
async fn open_store(role: &WorkerRole<'_>, memory: u64, metrics: Arc<Metrics>) -> Result<OpenStore, Failure> {
    match (&role.database, role.args.store.database()?, role.data) {
        (Some(database), _, _) => {
            let opened = PostgresStore::open_shared(database, &worker_name(role)).await;
            Ok(use_database(role, opened.map_err(|error| database_failure(&error))?))
        }
        (None, Some(options), _) => open_database(role, &options).await,
        (None, None, Some(data)) => tokio::task::block_in_place(|| open_file(role, data, memory, metrics)),
        (None, None, None) => Err(Failure::new("give --data, or --store-url")),
    }
}

async fn open_database(role: &WorkerRole<'_>, options: &PostgresOptions) -> Result<OpenStore, Failure> {
    let opened = PostgresStore::open(options, &worker_name(role)).await;
    Ok(use_database(role, opened.map_err(|error| database_failure(&error))?))
}

fn use_database(role: &WorkerRole<'_>, store: PostgresStore) -> OpenStore {
    let disk = role.args.database_disk();
    let shares = role.args.shares(role.args.store.store_size);
    store.set_shares(shares);
    let store = Arc::new(store);
    OpenStore { store: store.clone(), database: Some(store), shares, disk }
}

/// Returns the failure of a start that cannot use its database.
pub fn database_failure(error: &StoreError) -> Failure {
    Failure {
        // A restart helps when the database is available again.
        code: if matches!(error, StoreError::Unavailable(_)) { 3 } else { 2 },
        message: format!("--store-url: {error}"),
    }
}

/// Returns a name that no other running worker has: processes of one host listen on different addresses.
fn worker_name(role: &WorkerRole<'_>) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let address = role.listen.with_host();
    match address.ends_with(":0") {
        // The system chooses a free port.
        true => format!("{host}/{address}/{}", std::process::id()),
        false => format!("{host}/{address}"),
    }
}

fn open_file(
    role: &WorkerRole<'_>,
    data: &Path,
    memory: u64,
    metrics: Arc<Metrics>,
) -> Result<OpenStore, Failure> {
    let flag = || format!("--data {}", data.display());
    if !data.is_dir() {
        return Err(Failure::new(format!("{} is not a folder: create it, or mount a volume there", flag())));
    }
    let store = SqliteStore::open_within(data, memory).map_err(|error| Failure {
        // A damaged store is no wrong flag.
        code: if matches!(error, StoreError::Damaged { .. }) { 3 } else { 2 },
        message: format!("{}: {error}", flag()),
    })?;
    let disk = role.args.disk(data);
    let shares = role.args.shares(disk.size().or_fail(flag)?);
    store.set_shares(shares);
    store.set_metrics(metrics);
    Ok(OpenStore { store: Arc::new(store), database: None, shares, disk })
}
