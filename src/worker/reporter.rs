//! Reports the dispatcher's state: holds to the store, delivery health to the objects' status.

use std::sync::Arc;

use super::condition_writer::ConditionWriter;
use super::index::HookIndex;
use super::report::{ReportQueues, store_holds};
use super::store::Store;
use crate::cluster::{Cluster, View};

/// Writes queued reports. Never ends.
pub async fn run(
    reports: Arc<ReportQueues>,
    store: Arc<dyn Store>,
    cluster: Arc<dyn Cluster>,
    view: View,
    index: Arc<HookIndex>,
) {
    let writer = ConditionWriter::new(cluster, view, store.clone(), index, reports.clone());
    tokio::join!(store_holds(&reports.holds, &*store), writer.run(&reports.health));
}
