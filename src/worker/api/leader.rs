//! The leader of the controllers, which the responses of a short time share.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::shared::{Freshness, Shared};
use crate::cluster::{Cluster, LeaderReport};
use crate::core::time::Millis;

/// The last report is shared, and shown a while longer while the API server does not answer at once.
const FRESHNESS: Freshness = Freshness {
    max_age: Duration::from_secs(5),
    max_older_age: Duration::from_secs(60),
    wait_with_older: Duration::from_millis(20),
    wait_without: Some(Duration::from_secs(1)),
};

/// Reads the leader, at most once in five seconds. A read that fails reports that the leader is unknown.
#[derive(Default)]
pub struct LeaderCache(Arc<Shared<LeaderReport, Infallible>>);

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
    /// Returns the leader. The report is as old as `FRESHNESS` says.
    /// Without such a report the leader is unknown.
    pub async fn read(&self, cluster: &Arc<dyn Cluster>) -> LeaderReport {
        let cluster = cluster.clone();
        self.read_with(async move { cluster.leader().await }).await
    }

    async fn read_with(&self, read: impl Future<Output = LeaderReport> + Send + 'static) -> LeaderReport {
        match self.0.get_or_older(&FRESHNESS, async { Ok(read.await) }).await {
            Some(Ok(report)) => report,
            _ => LeaderReport::Unknown { message: "the Lease is being read".to_owned(), role: None },
        }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn report_of_an_earlier_minute_is_not_shown() {
        let leads = LeaderReport::Leads { holder: "a".to_owned(), since: None };
        for (age, is_shown) in [(1, true), (30, true), (61, false)] {
            let cache = LeaderCache::default();
            let at = Instant::now().checked_sub(Duration::from_secs(age)).unwrap();
            cache.0.set_last(at, leads.clone());
            let report = cache.read_with(std::future::pending()).await;
            assert_eq!(report == leads, is_shown, "{age} s: {report:?}");
        }
        let cache = LeaderCache::default();
        let read = leads.clone();
        assert_eq!(cache.read_with(async move { read }).await, leads);
    }
}
