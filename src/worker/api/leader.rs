//! The leader of the controllers, which the responses of a short time share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cluster::{Cluster, LeaderReport};
use crate::core::time::Millis;

/// How long a report is shared.
const MAX_AGE: Duration = Duration::from_secs(5);
/// How long a response waits for a new report, if there is an older one.
const MAX_RENEWAL_WAIT: Duration = Duration::from_millis(20);
/// How long the first response waits.
const MAX_FIRST_WAIT: Duration = Duration::from_secs(1);

/// Reads the leader, at most once in `MAX_AGE`.
#[derive(Default)]
pub struct LeaderCache {
    last: Arc<Mutex<Option<(Instant, LeaderReport)>>>,
    /// Held while it is read.
    reading: Arc<tokio::sync::Mutex<()>>,
}

/// The replica of the controller that leads.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderResponse {
    /// `leads`, `none`, `unknown`, or `noElection` if this process has all roles.
    state: &'static str,
    /// The replica: the name of its host, and a random part.
    holder: Option<String>,
    /// When it became the leader.
    since: Option<String>,
    /// Why there is none, or why it is unknown.
    message: Option<String>,
    /// The role of the chart that the worker needs to read it, without the release's prefix.
    role: Option<&'static str>,
}

impl LeaderCache {
    /// Returns the leader. The report is at most some seconds old, unless the API server does not answer.
    pub async fn read(&self, cluster: &Arc<dyn Cluster>) -> LeaderReport {
        if let Some(report) = self.fresh() {
            return report;
        }
        let (cluster, last, reading) = (cluster.clone(), self.last.clone(), self.reading.clone());
        // In a separate task, which goes on when this request has its answer. Concurrent requests share the read.
        let read = tokio::spawn(async move {
            let asked = Instant::now();
            let _guard = reading.lock().await;
            if let Some((at, report)) = &*last.lock()
                && *at >= asked
            {
                return report.clone();
            }
            let report = cluster.leader().await;
            *last.lock() = Some((Instant::now(), report.clone()));
            report
        });
        let older = self.last.lock().as_ref().map(|(_, report)| report.clone());
        let wait = if older.is_some() { MAX_RENEWAL_WAIT } else { MAX_FIRST_WAIT };
        let unknown = || LeaderReport::Unknown { message: "the Lease is being read".to_owned(), role: None };
        match tokio::time::timeout(wait, read).await {
            Ok(Ok(report)) => report,
            _ => older.unwrap_or_else(unknown),
        }
    }

    fn fresh(&self) -> Option<LeaderReport> {
        let last = self.last.lock();
        last.as_ref().filter(|(at, _)| at.elapsed() < MAX_AGE).map(|(_, report)| report.clone())
    }
}

impl From<LeaderReport> for LeaderResponse {
    fn from(report: LeaderReport) -> Self {
        let state = |state| LeaderResponse { state, holder: None, since: None, message: None, role: None };
        match report {
            LeaderReport::NoElection => state("noElection"),
            LeaderReport::Leads { holder, since } => {
                LeaderResponse { holder: Some(holder), since: since.map(Millis::rfc3339), ..state("leads") }
            }
            LeaderReport::None { message } => LeaderResponse { message: Some(message), ..state("none") },
            LeaderReport::Unknown { message, role } => {
                LeaderResponse { message: Some(message), role, ..state("unknown") }
            }
        }
    }
}
