//! A worker in this process whose hooks are inserted into its view: reading 100,000 files would distort a measurement.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hookstream::api::{Connection, EventHook, EventStream, Hook};
use hookstream::cluster::files::{FileCluster, FileClusterOptions};
use hookstream::cluster::{
    Cluster, DeserializeGuard, ObjectChange, ObjectForm, Reflector, Subscribers, View,
};
use hookstream::core::egress::EgressRules;
use hookstream::memory::{ItemSizes, MemoryBudget, Split};
use hookstream::metrics::Metrics;
use hookstream::net::{Egress, HttpClient};
use hookstream::ops::Readiness;
use hookstream::sandbox::{self, Sandbox};
use hookstream::traces::Traces;
use hookstream::worker::store::sqlite::SqliteStore;
use hookstream::worker::store::{KeepResponses, Retention, Shares};
use hookstream::worker::{
    ApiExtension, Disk, HandshakeOrigins, Limits, Listening, LocalAccess, Worker, WorkerError,
};
use kube::runtime::watcher::Event;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::preload::WINDOW_TIME;

/// Returns the hook with a number.
pub type MakeHook = Box<dyn Fn(usize) -> DeserializeGuard<EventHook> + Send>;

/// What the worker has.
pub struct Options {
    pub hooks: usize,
    pub make: MakeHook,
    pub retention: Retention,
    pub local_access: Option<Arc<LocalAccess>>,
    /// Adds routes to the API port.
    pub extend: Option<Extend>,
}

/// Builds the extension of the API port for the worker's cluster.
pub type Extend = Box<dyn FnOnce(Arc<dyn Cluster>) -> ApiExtension + Send>;

impl Options {
    pub fn new(hooks: usize, make: MakeHook) -> Options {
        let retention = Retention {
            history_age: WINDOW_TIME,
            dead_letter_age: Duration::from_secs(86_400),
            unmatched_age: WINDOW_TIME,
            history_bytes: 1 << 30,
            dead_letter_bytes: 1 << 30,
        };
        Options { hooks, make, retention, local_access: None, extend: None }
    }
}

/// A running worker, with its data in `data` of the current folder.
pub struct MemoryWorker {
    pub ports: Listening,
    /// Changes hooks.
    pub hooks: Reflector<EventHook>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), WorkerError>>,
    _other_kinds: (Reflector<Connection>, Reflector<EventStream>, Reflector<Hook>),
}

impl MemoryWorker {
    /// Starts the worker and waits until it listens and has all hooks.
    pub async fn start(options: Options) -> MemoryWorker {
        rustls::crypto::ring::default_provider().install_default().ok();
        std::fs::create_dir_all("data").expect("a folder");
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {secret: secret}\n";
        std::fs::write("all.yaml", secret).expect("a manifest");
        let files = FileCluster::open(FileClusterOptions {
            manifests: vec!["all.yaml".into()],
            data: "data".into(),
            prune: false,
            token: None,
        });
        let cluster: Arc<dyn Cluster> = Arc::new(files.expect("the manifests"));
        let mut subscribers = Subscribers::default();
        let changes = subscribers.subscribe();
        let subscribers = Arc::new(subscribers);
        let (mut hooks, hook_cache) = Reflector::<EventHook>::with_form(
            ObjectForm::Packed,
            1,
            subscribers.clone(),
            ObjectChange::EventHook,
        );
        let (mut connections, connection_cache) =
            Reflector::<Connection>::new(1, subscribers.clone(), ObjectChange::Connection);
        let (mut streams, stream_cache) =
            Reflector::<EventStream>::new(1, subscribers.clone(), ObjectChange::EventStream);
        let (mut scripts, script_cache) = Reflector::<Hook>::new(1, subscribers, ObjectChange::Hook);
        let view = View::new(hook_cache, connection_cache, stream_cache, script_cache);
        let Options { hooks: number, make, retention, local_access, extend } = options;
        let extension = extend.map(|extend| extend(cluster.clone()));
        let worker = worker(cluster, view, retention, local_access, extension).await;
        let (stop, (sender, listening)) = (CancellationToken::new(), oneshot::channel());
        let until = stop.clone();
        let running = tokio::spawn(async move {
            worker.run(changes, until, |ports| sender.send(ports).expect("a receiver")).await
        });
        connections.apply(0, Event::Init).await;
        connections.apply(0, Event::InitDone).await;
        streams.apply(0, Event::Init).await;
        streams.apply(0, Event::InitDone).await;
        scripts.apply(0, Event::Init).await;
        scripts.apply(0, Event::InitDone).await;
        hooks.apply(0, Event::Init).await;
        for number in 0..number {
            hooks.apply(0, Event::InitApply(make(number))).await;
        }
        hooks.apply(0, Event::InitDone).await;
        let ports = listening.await.expect("the worker listens");
        MemoryWorker { ports, hooks, stop, running, _other_kinds: (connections, streams, scripts) }
    }

    /// Stops the worker and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("the worker does not panic").expect("a worker");
    }
}

async fn worker(
    cluster: Arc<dyn Cluster>,
    view: View,
    retention: Retention,
    local_access: Option<Arc<LocalAccess>>,
    api_extension: Option<ApiExtension>,
) -> Worker {
    let metrics = Arc::new(Metrics::default());
    let store = SqliteStore::open(Path::new("data")).expect("a store");
    let egress = Egress::new(EgressRules { loopback: true, ..EgressRules::default() });
    let program = env!("CARGO_BIN_EXE_hookstream").into();
    let sandbox = sandbox::SandboxOptions { program, ..sandbox::SandboxOptions::default() };
    let sizes = ItemSizes {
        event: 1 << 20,
        request: 1 << 20,
        attempt: 72 << 10,
        rendered: 4 << 20,
        script_reply: 28 << 20,
        admin_response: 16 << 20,
    };
    let memory = MemoryBudget::new(Split::new(512 << 20, &sizes).expect("a split"), &metrics);
    Worker {
        cluster,
        view,
        store: Arc::new(store),
        http: HttpClient::new(egress).expect("a client"),
        memory,
        metrics,
        traces: Traces::default(),
        sandbox: Sandbox::start(sandbox).await,
        starting: Readiness::default().add_gate("the ingest port is open"),
        tls: None,
        trusted_proxies: Vec::new(),
        local_access,
        api_extension,
        limits: Limits {
            max_event_bytes: 1 << 20,
            max_request_bytes: 1 << 20,
            dedup_window: WINDOW_TIME,
            relay_dedup_window: Duration::ZERO,
        },
        handshake: HandshakeOrigins::default(),
        webhook_origin: "bench".to_owned(),
        keep_responses: KeepResponses::default(),
        retention,
        disk: Disk::new(Path::new("data"), 100),
        shares: Shares::default(),
        grace: Duration::from_secs(3600),
        accept_new_store: false,
        listen: "127.0.0.1:0".into(),
        api_listen: "127.0.0.1:0".into(),
    }
}
