//! The bare relay: signs each event of a POST as Standard Webhooks asks, forwards it over a pooled connection and
//! responds with 202. With a log file, it appends each request to it and syncs it before it responds.

use super::synced_log::SyncedLog;
use crate::common::forwarder::Forwarder;
use crate::common::listener;

/// What all connections share.
struct Relay {
    forwarder: Forwarder,
    log: Option<SyncedLog>,
}

/// Runs until the process is killed. `log`: the path of the file to which requests are appended.
pub fn run(receiver: &str, log: Option<&str>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let relay: &'static Relay =
        Box::leak(Box::new(Relay { forwarder: Forwarder::new(receiver), log: log.map(SyncedLog::start) }));
    runtime.block_on(listener::serve(move |posted| async move {
        if let Some(log) = &relay.log {
            log.append(posted.body.clone()).await;
        }
        // Respond before the delivery, as the durable worker does.
        for event in posted.events() {
            tokio::spawn(relay.forwarder.forward(event));
        }
    }));
}
