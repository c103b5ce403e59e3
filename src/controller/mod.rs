//! The controller: brings the objects at the vendors in line with the custom resources.
//!
//! Purpose: a reconcile is a pipeline, `dereference -> validate -> observe -> decide -> apply -> status`.
//! `reconcile` has the stages that all kinds share. `connection`, `eventhook`, `eventstream` and `auth0_hook` each reconcile one kind. `triggers`
//! turns watch events into reconcile requests. `supervise` wraps each reconcile with metrics, backoff and error reports.
//! `state` has the caches.
//!
//! Invariants: `reconcile` adds the finalizer before the first external write, and never to an object that owns
//! nothing. `decide` makes no calls. A status is written only when its meaning changes. An error and its backoff
//! concern one object.
//!
//! Out of scope: watches and writes of custom resources (`cluster`), calls to vendors (`admin`), comparison of JSON
//! (`core::plan`). `cluster` checks leadership before each write, and `admin::limit` before each call.

mod access;
mod auth0_hook;
mod backoff;
mod connection;
mod context;
mod error;
mod eventhook;
mod eventstream;
mod finalizer;
mod installation;
mod key_ring_check;
mod measure;
mod named_ids;
pub mod orphans;
mod preview;
mod reconcile;
mod release;
mod state;
mod status;
mod supervise;
mod telemetry;
mod triggers;
mod usage;

use std::sync::Arc;

use futures::StreamExt;
use kube::Resource;
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::reflector::{Lookup, ObjectRef};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

pub use context::{Context, ControllerOptions, Deadlines};
pub use error::SyncError;
pub use eventhook::find_differences;
pub use preview::{ObjectPreview, preview};
pub use reconcile::{FieldChange, Preview, VendorChange};
pub use release::delete_all_external;

use crate::cluster::{DeserializeGuard, ObjectChange, ObjectStore};

/// Concurrent reconciles of each kind.
const CONCURRENCY: u16 = 32;
/// Reconcile requests that a queue holds.
const QUEUE_CAPACITY: usize = 1024;

/// Runs until `stop`, then finishes the running reconciles. `changes` must come from the feeds of the context's view.
pub async fn run(context: Arc<Context>, changes: mpsc::Receiver<ObjectChange>, stop: CancellationToken) {
    let (hooks, hook_requests) = mpsc::channel(QUEUE_CAPACITY);
    let (connections, connection_requests) = mpsc::channel(QUEUE_CAPACITY);
    let (streams, stream_requests) = mpsc::channel(QUEUE_CAPACITY);
    let (auth0_hooks, auth0_hook_requests) = mpsc::channel(QUEUE_CAPACITY);
    let queues = triggers::RequestQueues { hooks, connections, streams, auth0_hooks };
    let (view, measured) = (context.view.clone(), context.clone());
    // Boxed: together these futures exceed a thread's stack.
    let hooks = run_kind(context.clone(), view.hooks, hook_requests, |object, context| {
        supervise::supervise(eventhook::reconcile, object, context)
    });
    let streams = run_kind(context.clone(), view.streams, stream_requests, |object, context| {
        supervise::supervise(eventstream::reconcile, object, context)
    });
    let auth0_hooks = run_kind(context.clone(), view.auth0_hooks, auth0_hook_requests, |object, context| {
        supervise::supervise(auth0_hook::reconcile, object, context)
    });
    let connections = run_kind(context.clone(), view.connections, connection_requests, |object, context| {
        supervise::supervise(connection::reconcile, object, context)
    });
    let requests = async {
        tokio::select! {
            () = triggers::run(context.clone(), changes, queues.clone()) => {}
            () = key_ring_check::run(context, queues) => {}
        }
    };
    tokio::join!(
        // When the queues close, the appliers finish the running reconciles and end.
        stop.run_until_cancelled_owned(async { tokio::join!(requests, measure::run(&measured)) }),
        Box::pin(hooks),
        Box::pin(streams),
        Box::pin(auth0_hooks),
        Box::pin(connections),
    );
}

/// Runs the requested reconciles with kube-runtime's applier, which runs at most one reconcile of an object at a time.
async fn run_kind<K, F>(
    context: Arc<Context>,
    objects: ObjectStore<K>,
    requests: mpsc::Receiver<ObjectRef<DeserializeGuard<K>>>,
    reconcile: impl Fn(Arc<DeserializeGuard<K>>, Arc<Context>) -> F + Send + Sync,
) where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Action> + Send,
{
    let Some(store) = objects.whole() else {
        // A fault of the program. Its other part, the worker, needs no controller to deliver.
        tracing::error!(kind = %<K as Resource>::kind(&()), "the process keeps packed objects, which the controller cannot reconcile");
        return;
    };
    let queue = ReceiverStream::new(requests).map(Ok::<_, std::convert::Infallible>);
    applier(
        |object, context| {
            Box::pin(async { Ok::<Action, std::convert::Infallible>(reconcile(object, context).await) })
        },
        |_, never, _| match *never {},
        context,
        store,
        queue,
        Config::default().concurrency(CONCURRENCY),
    )
    .for_each(|_| async {})
    .await;
}
