//! Finds the leader of the controllers by the Lease.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;

use crate::cli::kubeconfig::ApiServer;
use crate::cluster::LeaderReport;
use crate::cluster::kubernetes::read_leader;
use crate::core::time::Millis;

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

/// Reads the Lease in the operator's namespace, which is that of the worker's Service. None: it is unknown, so the Leases of all
/// namespaces are read.
pub async fn find_leader(
    client: &Client,
    server: &ApiServer,
    namespace: Option<&str>,
    now: Millis,
) -> Leader {
    let leases: Api<Lease> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let found = match leases.list(&ListParams::default()).await {
        Ok(found) => found,
        Err(error) => {
            let problem = format!("reading the Lease: {}", server.describe(&error));
            return Leader { is_unknown: true, ..Leader::none(problem) };
        }
    };
    // The operator's own namespace contains its Lease, by default with this name.
    let ours = found.items.iter().filter(|lease| lease.name_any().contains("hookstream"));
    let leaders: Vec<Leader> = ours.map(|lease| Leader::of(lease, now)).collect();
    let unhealthy = leaders.iter().find(|leader| !leader.is_healthy());
    unhealthy.or(leaders.first()).cloned().unwrap_or_else(|| Leader {
        is_unknown: true,
        ..Leader::none(match namespace {
            Some(namespace) => format!("no Lease in namespace {namespace} has hookstream in its name"),
            None => "no Lease has hookstream in its name".to_owned(),
        })
    })
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
}
