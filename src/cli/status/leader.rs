//! Finds the leader of the controllers by the Lease.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::cli::kubeconfig::ApiServer;
use crate::cluster::LeaderReport;
use crate::cluster::kubernetes::read_leader;
use crate::core::time::Millis;

/// The default of `--lease-name`: the name of the Lease if the Service's name does not tell the release.
const DEFAULT_LEASE: &str = "hookstream-controller";

/// The leader, as far as it can be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    /// The replica that holds the Lease. Null: none does, or it is unknown.
    pub holder: Option<String>,
    /// Why there is none.
    pub problem: Option<String>,
    /// True if the user may not read the Lease.
    pub is_unknown: bool,
}

impl Leader {
    /// Returns false if no controller leads.
    pub fn is_healthy(&self) -> bool {
        self.holder.is_some() || self.is_unknown
    }

    fn of(lease: &Lease, now: Millis) -> Leader {
        match read_leader(lease, now) {
            LeaderReport::Leads { holder, .. } => {
                Leader { holder: Some(holder), problem: None, is_unknown: false }
            }
            LeaderReport::None { message } => Leader::none(message),
            LeaderReport::Unknown { message, .. } => Leader { is_unknown: true, ..Leader::none(message) },
            LeaderReport::NoElection => Leader { is_unknown: true, holder: None, problem: None },
        }
    }

    fn none(problem: String) -> Leader {
        Leader { holder: None, problem: Some(problem), is_unknown: false }
    }
}

/// The leader as the worker reports it.
#[derive(Deserialize)]
pub struct ReportedLeader {
    state: String,
    holder: Option<String>,
    message: Option<String>,
}

impl ReportedLeader {
    pub fn answer(&self) -> LeaderAnswer {
        match (self.state.as_str(), &self.holder) {
            ("leads", Some(holder)) => {
                LeaderAnswer::Known(Leader { holder: Some(holder.clone()), problem: None, is_unknown: false })
            }
            ("none", _) => LeaderAnswer::Known(Leader::none(self.message.clone().unwrap_or_default())),
            ("noElection", _) => LeaderAnswer::NoElection,
            _ => LeaderAnswer::Unknown,
        }
    }
}

/// What the worker's report says about the leader.
#[derive(Debug, PartialEq, Eq)]
pub enum LeaderAnswer {
    /// The leader, or that there is none.
    Known(Leader),
    /// The controllers need no leader, so there is no Lease.
    NoElection,
    /// The worker does not know, for example because it may not read the Lease.
    Unknown,
}

/// Reads the one Lease of the installation to which the worker's Service belongs. `service`: the namespace and the name of the
/// Service; None: it is unknown, so the Lease is found by its name in all namespaces.
pub async fn find_leader(
    client: &Client,
    server: &ApiServer,
    service: Option<(&str, &str)>,
    now: Millis,
) -> Leader {
    let unknown = |problem| Leader { is_unknown: true, ..Leader::none(problem) };
    let Some((namespace, service)) = service else { return find_in_all(client, server, now).await };
    let name = lease_name(service);
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    match leases.get_opt(&name).await {
        Ok(Some(lease)) => Leader::of(&lease, now),
        Ok(None) => unknown(format!("namespace {namespace} has no Lease {name}")),
        Err(error) => unknown(format!("reading the Lease {name}: {}", server.describe(&error))),
    }
}

/// Returns the name of the Lease of the release with this Service. There is no second name to try: the Lease of another release
/// in the namespace, such as the default's, says nothing about this one.
fn lease_name(service: &str) -> String {
    service
        .strip_suffix("-api")
        .map_or_else(|| DEFAULT_LEASE.to_owned(), |release| format!("{release}-controller"))
}

async fn find_in_all(client: &Client, server: &ApiServer, now: Millis) -> Leader {
    let unknown = |problem| Leader { is_unknown: true, ..Leader::none(problem) };
    let leases: Api<Lease> = Api::all(client.clone());
    let params = ListParams::default().fields(&format!("metadata.name={DEFAULT_LEASE}"));
    let found = match leases.list(&params).await {
        Ok(found) => found.items,
        Err(error) => return unknown(format!("reading the Lease: {}", server.describe(&error))),
    };
    match found.as_slice() {
        [] => unknown(format!("no namespace has a Lease {DEFAULT_LEASE}")),
        [lease] => Leader::of(lease, now),
        several => {
            let namespaces: Vec<String> = several.iter().filter_map(ResourceExt::namespace).collect();
            let namespaces = namespaces.join(", ");
            unknown(format!("several namespaces have a Lease {DEFAULT_LEASE} ({namespaces}): use --service"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_lease_has_no_leader() {
        let lease = |holder: &str, renewed: &str| -> Lease {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "hookstream-controller"},
                "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}}))
            .unwrap()
        };
        let now = Millis::parse("2026-11-22T06:43:22Z").unwrap();
        let current = Leader::of(&lease("a", "2026-11-22T06:43:20.000000Z"), now);
        assert_eq!(current.holder.as_deref(), Some("a"));
        for (holder, renewed, problem) in [
            ("", "2026-11-22T06:43:20.000000Z", "no controller holds the Lease hookstream-controller"),
            ("a", "2026-11-22T06:40:20.000000Z", "a no longer renews the Lease hookstream-controller"),
        ] {
            let leader = Leader::of(&lease(holder, renewed), now);
            assert_eq!((leader.problem.as_deref(), leader.is_healthy()), (Some(problem), false));
        }
    }

    #[test]
    fn names_the_lease_of_the_release_and_no_similar_one() {
        assert_eq!(lease_name("hookstream-api"), "hookstream-controller");
        assert_eq!(lease_name("blue-hookstream-api"), "blue-hookstream-controller");
        assert_eq!(lease_name("gateway"), "hookstream-controller");
    }

    #[test]
    fn report_of_a_worker_that_may_not_read_the_lease_is_no_answer() {
        let reported = |json: serde_json::Value| -> ReportedLeader { serde_json::from_value(json).unwrap() };
        let leads = reported(serde_json::json!({"state": "leads", "holder": "a", "message": null}));
        assert!(
            matches!(leads.answer(), LeaderAnswer::Known(leader) if leader.holder.as_deref() == Some("a"))
        );
        let none = reported(serde_json::json!({"state": "none", "holder": null, "message": "m"}));
        assert_eq!(none.answer(), LeaderAnswer::Known(Leader::none("m".to_owned())));
        for (state, answer) in [
            ("noElection", LeaderAnswer::NoElection),
            ("unknown", LeaderAnswer::Unknown),
            ("later", LeaderAnswer::Unknown),
        ] {
            let other = reported(serde_json::json!({"state": state, "holder": null, "message": "m"}));
            assert_eq!(other.answer(), answer, "{state}");
        }
    }
}
