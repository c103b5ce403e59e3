//! The worker: accepts events, matches hooks, stores deliveries and sends them.
//!
//! `ingest -> index, decide -> store -> dispatch -> handlers -> settle`. `decide` evaluates filters, the store
//! evaluates gates, and `dispatch` settles: it commits the outcome of each attempt.
//!
//! Invariants: a 202 response follows the commit; the ingest port opens only after the hooks are loaded; an attempt
//! uses the hook's current spec; a backlog is kept on disk and uses bounded memory; a slow or failing receiver or
//! sender does not affect the others.
//!
//! Out of scope: reading hooks (`cluster`), retry decisions (`core::retry`).

mod api;
mod background;
mod body;
pub mod breaker_reports;
mod coalescing_queue;
mod condition_writer;
mod content_coding;
mod decide;
mod delivery_report;
mod dispatch;
pub mod handlers;
mod health_timeline;
mod hooks;
mod index;
mod ingest;
mod local_access;
mod namespaces;
mod problem;
mod report;
mod reporter;
mod request;
mod series;
pub mod store;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use api::{AcceptsOlderCounts, openapi_document};
pub use dispatch::ATTEMPT_OVERHEAD;
use index::HookIndex;
pub use ingest::{AllowedOrigin, Disk, HandshakeOrigins, Limits};
pub use local_access::LocalAccess;
use namespaces::Namespaces;
pub use request::{TOKEN_HEADER, token as bearer_token};
use store::{KeepResponses, Retention, Shares, Store, StoreError};

use crate::cluster::{Cluster, ObjectChange, View};
use crate::memory::MemoryBudget;
use crate::metrics::Metrics;
use crate::net::runtime::DedicatedRuntime;
use crate::net::{HttpClient, PortOptions, ServerTls, serve};
use crate::ops::ReadinessGate;
use crate::sandbox::Sandbox;
use crate::traces::Traces;

/// The worker's dependencies and settings.
pub struct Worker {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub store: Arc<dyn Store>,
    pub http: HttpClient,
    /// Runs Lua.
    pub sandbox: Sandbox,
    pub metrics: Arc<Metrics>,
    /// Opened when the ingest port is open.
    pub starting: ReadinessGate,
    pub limits: Limits,
    /// The senders that the handshake of webhooks admits.
    pub handshake: HandshakeOrigins,
    /// The origin that the handshake of deliveries states.
    pub webhook_origin: String,
    /// Which attempts keep their request and response.
    pub keep_responses: KeepResponses,
    /// Records spans.
    pub traces: Traces,
    /// Bounds the payloads in memory.
    pub memory: MemoryBudget,
    pub retention: Retention,
    /// Measures the store's disk. Above its limit the worker refuses events.
    pub disk: Disk,
    /// The parts of the disk that a backlog may use.
    pub shares: Shares,
    /// How long the deliveries of a deleted hook stay pending, in case the hook is recreated.
    pub grace: Duration,
    /// Adopts the store of another installation.
    pub accept_new_store: bool,
    /// Listen address of the ingest port.
    pub listen: String,
    /// Listen address of the API port.
    pub api_listen: String,
    /// Certificate of both ports. None: plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
    /// Proxies that many clients of both ports share.
    pub trusted_proxies: Vec<IpNet>,
    /// The requests that both ports accept without a token. None: clients authenticate.
    pub local_access: Option<Arc<LocalAccess>>,
    /// Adds routes to the API port, such as the console's.
    pub api_extension: Option<ApiExtension>,
}

/// The API port before it opens, for what extends it.
pub struct ApiPort {
    /// The routes of the API, with their authorization and limits. Accepts requests from within the process too.
    pub router: Router,
    /// The routes of the ingest port, once it is open.
    pub ingest: Arc<OnceLock<Router>>,
    /// Cancelled when the port closes. Responses without an end must end then.
    pub stop: CancellationToken,
}

/// Builds further routes of the API port. They must not overlap with those of the API.
pub type ApiExtension = Box<dyn FnOnce(ApiPort) -> Router + Send>;

/// The addresses of the open ports.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    pub ingest: SocketAddr,
    pub api: SocketAddr,
}

/// Why the worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Worker {
    /// Runs until `stop`. `changes` must come from the same feeds as the view. Calls `listening` once with the addresses
    /// of the ports.
    pub async fn run(
        self,
        changes: mpsc::Receiver<ObjectChange>,
        stop: CancellationToken,
        listening: impl FnOnce(Listening),
    ) -> Result<(), WorkerError> {
        let index = Arc::new(HookIndex::new(self.metrics.clone()));
        let (disk, metrics) = (Arc::new(self.disk), self.metrics.clone());
        let ready = async {
            self.view.wait_until_listed().await;
            background::claim_store(&*self.cluster, &*self.store, self.accept_new_store).await
        };
        tokio::select! {
            claimed = ready => claimed?,
            // The API server may be unavailable for hours, so a shutdown must not wait for it.
            () = stop.cancelled() => {
                self.store.close().await;
                return Ok(());
            }
        }
        let clock = background::start_clock(&*self.store).await?;
        for hook in self.view.hooks.all() {
            index.upsert(&hook);
        }

        let rendered = self.memory.rendered().clone();
        let (http, cluster) = (self.http, self.cluster.clone());
        let runner = handlers::HandlerRunner::new(http, cluster, self.sandbox, rendered, self.webhook_origin);
        let runner = Arc::new(runner.keeping(self.keep_responses));
        let reports = Arc::new(report::ReportQueues::default());
        let (dispatcher, dispatch) = dispatch::Dispatcher::new(dispatch::DispatcherParts {
            store: self.store.clone(),
            index: index.clone(),
            runner: runner.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            grace: self.grace,
            reports: reports.clone(),
            memory: self.memory.clone(),
        });
        // Each part is boxed. Unboxed, they would all be one value, and the frames that move it overflow a thread's stack.
        let reporting = reporter::run(
            reports.clone(),
            self.store.clone(),
            self.cluster.clone(),
            self.view.clone(),
            index.clone(),
        )
        .boxed();
        let namespaces =
            Arc::new(Namespaces::new(self.cluster.clone(), self.store.clone(), dispatch.clone()));
        let following = background::follow_changes(
            changes,
            index.clone(),
            self.view.clone(),
            dispatch.clone(),
            namespaces.clone(),
        )
        .boxed();
        let checking = {
            let (namespaces, index) = (namespaces.clone(), index.clone());
            async move { namespaces.check_periodically(&index).await }.boxed()
        };
        let (ingest_port, ingest_address) = listen(&self.listen).await?;
        let (api_port, api_address) = listen(&self.api_listen).await?;
        listening(Listening { ingest: ingest_address, api: api_address });
        let ports = PortOptions {
            trusted_proxies: self.trusted_proxies.into(),
            tls: self.tls,
            ..PortOptions::default()
        };
        let local_access = self.local_access;
        let hook_table =
            api::HookTableCache::new(self.view.clone(), index.clone(), reports.clone(), self.metrics.clone());
        let api = api::ApiState {
            cluster: self.cluster.clone(),
            view: self.view.clone(),
            store: self.store.clone(),
            index: index.clone(),
            dispatch: dispatch.clone(),
            metrics: self.metrics.clone(),
            namespaces: namespaces.clone(),
            runner,
            reports,
            max_event_bytes: self.limits.max_event_bytes,
            memory: self.memory.clone(),
            status: api::StatusSources::new(self.store.clone(), disk.clone()),
            hook_table,
        };
        let api = api::router(api, local_access.as_ref());
        let ingest_routes = Arc::new(OnceLock::new());
        let api = match self.api_extension {
            None => api,
            Some(extend) => {
                let port = ApiPort { router: api.clone(), ingest: ingest_routes.clone(), stop: stop.clone() };
                api.merge(extend(port))
            }
        };
        let (notified, measured) = (dispatch.clone(), index.clone());
        let listen_failed = |source| WorkerError::Listen { address: self.listen.clone(), source };
        let (threads, ingest_port) = DedicatedRuntime::start("ingest")
            .and_then(|threads| Ok((threads, ingest_port.into_std()?)))
            .map_err(listen_failed)?;
        let ingest = {
            let (store, metrics, stop, ports) =
                (self.store.clone(), self.metrics.clone(), stop.clone(), ports.clone());
            let (cluster, view, disk, limits) = (self.cluster, self.view, disk.clone(), self.limits);
            let (memory, handshake, traces) = (self.memory, self.handshake, self.traces);
            async move {
                let ingest = ingest::IngestState {
                    cluster,
                    view,
                    committer: ingest::Committer::start(store, dispatch, metrics.clone()),
                    index,
                    metrics,
                    traces,
                    memory,
                    limits,
                    handshake,
                    unknown_hooks: ingest::UnknownNames::default(),
                    unknown_streams: ingest::UnknownNames::default(),
                    disk,
                    namespaces,
                };
                let router = ingest::router(ingest, local_access.as_ref());
                // Set once: this block runs once.
                ingest_routes.set(router.clone()).ok();
                let port = TcpListener::from_std(ingest_port)?;
                serve::serve_port(port, router, ports, stop.cancelled_owned()).await;
                Ok(())
            }
            .boxed()
        };
        let notice = self.starting.notice();
        self.starting.open();

        let failed = self.store.failed();
        let work = async {
            let api = serve::serve_port(api_port, api, ports, stop.cancelled()).boxed();
            let (ingested, (), dispatched) =
                tokio::join!(threads.run(ingest), api, dispatcher.run(stop.clone()).boxed());
            ingested.unwrap_or(Ok(())).map_err(listen_failed)?;
            dispatched.map_err(WorkerError::from)
        }
        .boxed();
        let store = &*self.store;
        let background = async {
            tokio::join!(
                following,
                checking,
                background::follow_clock(store, &notified, clock).boxed(),
                background::expire_history(store, self.retention, &disk).boxed(),
                background::watch_space(store, &disk, &metrics, notice).boxed(),
                background::end_holds_of_deleted_hooks(store, &measured, &notified).boxed(),
                background::measure_backlog(store, &measured, self.shares, &disk, &metrics).boxed(),
                reporting,
                background::promote_candidates(store, &notified).boxed(),
                background::advance_replays(store, &notified).boxed()
            )
        }
        .boxed();
        let result = tokio::select! {
            result = work => result,
            error = failed => Err(WorkerError::from(error)),
            _ = background => Ok(()),
        };
        self.store.close().await;
        result
    }
}

async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), WorkerError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| WorkerError::Listen { address: address.to_owned(), source })
}
