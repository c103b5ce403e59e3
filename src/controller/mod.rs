//! The controller: keeps the vendors' admin APIs true to the custom resources.
//!
//! Purpose: a reconcile is a pipeline: dereference, validate, plan, apply, status. `reconcile` is the pipeline, generic
//! over kinds; a small file a kind says what it wants; `observed` puts telemetry, panics, backoff and the reporting of
//! failures around it.
//!
//! Invariants: the finalizer stands before the first external write, and none where nothing external exists; only
//! dereference, apply and status touch the network; status is written only when its meaning changes; an error is one
//! object's, and its backoff too.
//!
//! Left to others: how objects come and go (`cluster`), what a vendor speaks (`admin`), what differs (`core::plan`).
//! Leadership is asked where writes go out: `cluster` before each of the controller's, `admin::limit` before each call.

mod auth0_hook;
mod backoff;
mod connection;
mod context;
mod eventhook;
mod eventstream;
mod let_go;
mod observed;
mod outcome;
mod preview;
mod problem;
mod reconcile;
mod requests;
mod status;

use std::sync::Arc;

use futures::StreamExt;
use kube::Resource;
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

pub use context::{Context, Options, Patience};
pub use let_go::delete_all_external;
pub use preview::{Looked, preview};
pub use problem::Problem;
pub use reconcile::{Change as VendorChange, Preview};

use crate::cluster::{Change, Guarded};

/// Reconciles at once; the rest wait their turn.
const CONCURRENCY: u16 = 32;
const QUEUE: usize = 1024;

/// Runs until `stop`, then until what is under way is done. `changes` are those of the same feeds as the context's view.
pub async fn run(context: Arc<Context>, changes: mpsc::Receiver<Change>, stop: CancellationToken) {
    let (hooks, hook_requests) = mpsc::channel(QUEUE);
    let (connections, connection_requests) = mpsc::channel(QUEUE);
    let (streams, stream_requests) = mpsc::channel(QUEUE);
    let (auth0_hooks, auth0_hook_requests) = mpsc::channel(QUEUE);
    let queues = requests::Queues { hooks, connections, streams, auth0_hooks };
    let view = context.view.clone();
    // Boxed: together they outgrow a thread's stack where one frame hands them to the next.
    let hooks = drive(context.clone(), view.hooks, hook_requests, |o, c| {
        observed::observed(eventhook::reconcile, o, c)
    });
    let streams = drive(context.clone(), view.streams, stream_requests, |o, c| {
        observed::observed(eventstream::reconcile, o, c)
    });
    let auth0_hooks = drive(context.clone(), view.auth0_hooks, auth0_hook_requests, |o, c| {
        observed::observed(auth0_hook::reconcile, o, c)
    });
    let connections = drive(context.clone(), view.connections, connection_requests, |o, c| {
        observed::observed(connection::reconcile, o, c)
    });
    tokio::join!(
        // Without requests the appliers end what is under way, and then themselves.
        stop.run_until_cancelled_owned(requests::forward(context, changes, queues)),
        Box::pin(hooks),
        Box::pin(streams),
        Box::pin(auth0_hooks),
        Box::pin(connections),
    );
}

/// Feeds requests to kube-runtime's applier, which runs one reconcile an object at a time.
async fn drive<K, F>(
    context: Arc<Context>,
    store: Store<Guarded<K>>,
    requests: mpsc::Receiver<ObjectRef<Guarded<K>>>,
    reconcile: impl Fn(Arc<Guarded<K>>, Arc<Context>) -> F + Send + Sync,
) where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Action> + Send,
{
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
