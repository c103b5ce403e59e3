//! The bare program: accepts events into the same tables with as few statements as possible, forwards them, and moves them
//! to the finished ones. It checks nothing: no duplicates, gates, shares, leases or limits.

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::common::forwarder::Forwarder;
use crate::common::listener;
use crate::connection::connect;
use crate::groups::{Accepts, NewEvent, Outcomes};

/// The argument that makes this program the bare one.
pub const MODE: &str = "--bare-program";

/// What all connections share.
struct Program {
    forwarder: Forwarder,
    next: AtomicI64,
    accepts: mpsc::UnboundedSender<(Vec<NewEvent>, oneshot::Sender<()>)>,
    outcomes: mpsc::UnboundedSender<i64>,
}

/// Runs until the process is killed.
pub fn run(receiver: &str, url: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (accepts, accept_queue) = mpsc::unbounded_channel();
        let (outcomes, outcome_queue) = mpsc::unbounded_channel();
        tokio::spawn(Accepts::prepare(connect(url).await).await.run(accept_queue));
        tokio::spawn(Outcomes::prepare(connect(url).await).await.run(outcome_queue));
        let program: &'static Program = Box::leak(Box::new(Program {
            forwarder: Forwarder::new(receiver),
            next: AtomicI64::new(1),
            accepts,
            outcomes,
        }));
        listener::serve(move |posted| async move {
            let events: Vec<(i64, Bytes)> = posted
                .events()
                .into_iter()
                .map(|event| (program.next.fetch_add(1, Ordering::Relaxed), event))
                .collect();
            let rows = events.iter().map(|(seq, event)| NewEvent::new(*seq, event)).collect();
            let (done, committed) = oneshot::channel();
            program.accepts.send((rows, done)).expect("the writer");
            committed.await.expect("the group commits");
            for (seq, event) in events {
                tokio::spawn(async move {
                    program.forwarder.forward(event).await;
                    program.outcomes.send(seq).expect("the writer");
                });
            }
        })
        .await;
    });
}
