//! The worker: takes events in, matches hooks, keeps what it accepted and delivers it.
//!
//! `ingest -> route -> store -> dispatch -> handlers`. Filters are asked in route, gates in the store.
//!
//! Invariants: an answer of 202 comes after the commit; the ingest port opens only when the hooks are known; a delivery
//! reads its hook as it is now; a backlog waits on disk and costs bounded memory; nothing that a receiver or sender does
//! harms another.
//!
//! Left to others: where hooks come from (`cluster`), what an outcome leads to (`core::retry`).

mod api;
mod dispatch;
pub mod handlers;
mod ingest;
mod namespaces;
mod outbox;
mod problem;
mod report;
mod request;
mod route;
pub mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use ingest::{Disk, Limits};
use namespaces::Namespaces;
pub use request::TOKEN_HEADER;
use route::Routes;
use store::{Retention, Shares, Store, StoreError};

use crate::api::CaKind;
use crate::cluster::{Change, Cluster, View};
use crate::core::time::Millis;
use crate::metrics::Metrics;
use crate::net::threads::Threads;
use crate::net::{HttpClient, ServerTls, serve};
use crate::ops::Pending;
use crate::sandbox::Sandbox;

/// How often what retention lets go is removed.
const SWEEP: Duration = Duration::from_secs(30);
/// How often what waits is measured.
const MEASURE: Duration = Duration::from_secs(15);
/// How often it is looked for quiet periods that end.
const LOOK: Duration = Duration::from_millis(500);
/// A pause between two removals, so that they never stand in the way of ingest for long.
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// What the worker needs.
pub struct Worker {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub store: Arc<dyn Store>,
    pub http: HttpClient,
    /// Where Lua runs.
    pub sandbox: Sandbox,
    pub metrics: Arc<Metrics>,
    /// Done when the ingest port is open.
    pub starting: Pending,
    pub limits: Limits,
    pub retention: Retention,
    /// How full the store's disk may be, and which parts of it may wait.
    pub disk: Disk,
    pub shares: Shares,
    /// How long deliveries of a deleted hook wait, should it come back.
    pub grace: Duration,
    /// Take over the store of another installation.
    pub accept_new_store: bool,
    /// Where the ingest port listens.
    pub listen: String,
    /// Where the API port listens.
    pub api_listen: String,
    /// What both ports show; None: they speak plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
}

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
    /// Works until `stop`. `changes` are those of the same feeds as the view. `listening` is told the addresses.
    pub async fn run(
        self,
        mut changes: mpsc::Receiver<Change>,
        stop: CancellationToken,
        listening: impl FnOnce(Listening),
    ) -> Result<(), WorkerError> {
        let routes = Arc::new(Routes::new(self.metrics.clone()));
        let (disk, metrics) = (Arc::new(self.disk), self.metrics.clone());
        let begun = async {
            self.view.ready().await;
            claim(&*self.cluster, &*self.store, self.accept_new_store).await
        };
        tokio::select! {
            claimed = begun => claimed?,
            // The API server may be away for as long as it likes.
            () = stop.cancelled() => {
                self.store.close().await;
                return Ok(());
            }
        }
        for hook in self.view.hooks.state() {
            routes.put(&hook);
        }

        let sender = Arc::new(handlers::Sender::new(self.http, self.cluster.clone(), self.sandbox));
        let reports = Arc::new(report::Reports::default());
        let (dispatcher, handle) = dispatch::Dispatcher::new(dispatch::Parts {
            store: self.store.clone(),
            routes: routes.clone(),
            sender: sender.clone(),
            metrics: self.metrics.clone(),
            grace: self.grace,
            reports: reports.clone(),
        });
        let reporting = report::run(reports, self.store.clone(), self.cluster.clone(), self.view.clone());
        let namespaces = Arc::new(Namespaces::new(self.cluster.clone(), self.store.clone(), handle.clone()));
        let follow = {
            let (routes, view, handle) = (routes.clone(), self.view.clone(), handle.clone());
            let namespaces = namespaces.clone();
            async move {
                while let Some(change) = changes.recv().await {
                    follow(&routes, &view, &handle, &namespaces, change).await;
                }
            }
        };
        let following = {
            let (namespaces, routes) = (namespaces.clone(), routes.clone());
            async move { namespaces.follow(&routes).await }
        };
        let (ingest_port, ingest_address) = listen(&self.listen).await?;
        let (api_port, api_address) = listen(&self.api_listen).await?;
        listening(Listening { ingest: ingest_address, api: api_address });
        let api = api::router(api::Api {
            cluster: self.cluster.clone(),
            view: self.view.clone(),
            store: self.store.clone(),
            routes: routes.clone(),
            dispatch: handle.clone(),
            metrics: self.metrics.clone(),
            namespaces: namespaces.clone(),
            sender,
            max_event_bytes: self.limits.max_event_bytes,
            room: self.limits.room(),
        });
        let replays = {
            let (store, handle) = (self.store.clone(), handle.clone());
            async move { api::step_replays(&*store, &handle).await }
        };
        let (promoted, measured) = (handle.clone(), routes.clone());
        let unopened = |source| WorkerError::Listen { address: self.listen.clone(), source };
        let (threads, ingest_port) = Threads::start("ingest")
            .and_then(|threads| Ok((threads, ingest_port.into_std()?)))
            .map_err(unopened)?;
        let ingest = {
            let (store, metrics, stop, tls) =
                (self.store.clone(), self.metrics.clone(), stop.clone(), self.tls.clone());
            let (cluster, view, disk, limits) = (self.cluster, self.view, disk.clone(), self.limits);
            async move {
                let router = ingest::router(ingest::Ingest {
                    cluster,
                    view,
                    committer: ingest::Committer::start(store, handle, metrics.clone()),
                    routes,
                    metrics,
                    room: limits.room(),
                    limits,
                    unknown: ingest::Unknown::default(),
                    unknown_streams: ingest::Unknown::default(),
                    disk,
                    namespaces,
                });
                let port = TcpListener::from_std(ingest_port)?;
                serve::serve_tls(port, router, tls, stop.cancelled_owned()).await;
                Ok(())
            }
        };
        self.starting.done();

        let failed = self.store.failed();
        let work = async {
            let api = serve::serve_tls(api_port, api, self.tls.clone(), stop.cancelled());
            let (ingested, (), dispatched) =
                tokio::join!(threads.run(ingest), api, dispatcher.run(stop.clone()));
            ingested.unwrap_or(Ok(())).map_err(unopened)?;
            dispatched.map_err(WorkerError::from)
        };
        let promoting = promote(&*self.store, &promoted);
        let background = async {
            tokio::join!(
                follow,
                following,
                sweep(&*self.store, self.retention),
                measure(&*self.store, &measured, self.shares, &disk, &metrics),
                reporting,
                promoting,
                replays
            )
        };
        let result = tokio::select! {
            result = work => result,
            error = failed => Err(WorkerError::from(error)),
            _ = background => Ok(()),
        };
        self.store.close().await;
        result
    }
}

/// Makes sure that the store is this installation's, before anything of it is delivered.
async fn claim(cluster: &dyn Cluster, store: &dyn Store, accept_new: bool) -> Result<(), StoreError> {
    loop {
        match cluster.installation().await {
            Ok(Some(installation)) => return store.belongs_to(&installation, accept_new).await,
            Ok(None) => {
                tracing::warn!(
                    "whose store this is cannot be checked: the account may not get the operator's namespace"
                );
                return Ok(());
            }
            Err(error) => tracing::warn!(%error, "whose store this is cannot be checked yet"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
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

async fn follow(
    routes: &Routes,
    view: &View,
    dispatch: &dispatch::Handle,
    namespaces: &Namespaces,
    change: Change,
) {
    let concerned = match change {
        Change::EventHook(key) => match view.hook(&key.namespace, &key.name) {
            Some(hook) => {
                // A new hook may be of a new namespace: what waits in the old one is not its own to take up.
                if routes.get(hook.uid().unwrap_or_default().as_str()).is_none() {
                    namespaces.look(&key.namespace).await;
                }
                routes.put(&hook)
            }
            None => routes.remove(&key),
        },
        // Deliveries may wait for it.
        Change::Secret(key) => routes.using(CaKind::Secret, &key),
        Change::ConfigMap(key) => routes.using(CaKind::ConfigMap, &key),
        Change::Connection(_) | Change::EventStream(_) | Change::Hook(_) => Vec::new(),
    };
    for uid in concerned {
        dispatch.hook_changed(uid).await;
    }
}

/// Sends trailing candidates on their way when the quiet period before them is over.
async fn promote(store: &dyn Store, dispatch: &dispatch::Handle) {
    loop {
        let now = Millis::now();
        let wait = match store.next_promotion().await {
            Ok(Some(at)) if at <= now => Duration::ZERO,
            // A period that begins meanwhile may end before this one.
            Ok(Some(at)) => at.since(now).min(LOOK),
            Ok(None) | Err(_) => LOOK,
        };
        tokio::time::sleep(wait).await;
        match store.promote(Millis::now()).await {
            Ok(hooks) => {
                for hook in hooks {
                    dispatch.raised(hook).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "what was snoozed could not be sent on its way");
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Tells the metrics how much waits.
async fn measure(store: &dyn Store, routes: &Routes, shares: Shares, disk: &Disk, metrics: &Metrics) {
    loop {
        if let Ok(stats) = store.stats().await {
            let oldest = stats.oldest.map_or(Duration::ZERO, |at| Millis::now().since(at));
            metrics.backlog(stats.waiting, stats.waiting_bytes, oldest, stats.bytes);
            for (of, used, share) in [
                ("hook", stats.fullest_hook, shares.hook_bytes),
                ("namespace", stats.fullest_namespace, shares.namespace_bytes),
            ] {
                metrics.share(of, used as f64 / share.max(1) as f64);
            }
        }
        for ((namespace, name), series) in metrics.hooks.all() {
            let Some(uid) = routes.uid_of(&namespace, &name) else { continue };
            if let Ok(stats) = store.hook_stats(&uid).await {
                let oldest = stats.oldest.map_or(Duration::ZERO, |at| Millis::now().since(at));
                series.backlog(stats.waiting, stats.waiting_bytes, oldest);
            }
        }
        disk.used().into_iter().for_each(|used| metrics.disk(used));
        tokio::time::sleep(MEASURE).await;
    }
}

async fn sweep(store: &dyn Store, retention: Retention) {
    loop {
        tokio::time::sleep(SWEEP).await;
        loop {
            match store.sweep(retention, Millis::now()).await {
                Ok(true) => tokio::time::sleep(SWEEP_PAUSE).await,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "what is past its retention could not be removed");
                    break;
                }
            }
        }
    }
}
