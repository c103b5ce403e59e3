//! Finds the replica of the controller that leads, by the Lease in the operator's namespace.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt};

use crate::cluster::LeaderReport;
use crate::core::time::Millis;

/// The role of the chart that may read the Lease, without the release's prefix.
const LEASE_ROLE: &str = "lease-read";
/// How long the API server may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The clocks of this machine and of the leader may differ by this time, in milliseconds.
const LEEWAY: i64 = 30_000;

/// The Lease that elects the leader of the controllers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseLocation {
    pub namespace: String,
    pub name: String,
}

/// Reads the Lease of this name alone: those of other releases, and of former ones, say nothing about this one.
pub(super) async fn find_leader(client: &Client, location: &LeaseLocation) -> LeaderReport {
    let LeaseLocation { namespace, name } = location;
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let unknown = |message: &str, role| LeaderReport::Unknown { message: message.to_owned(), role };
    match tokio::time::timeout(TIMEOUT, leases.get_opt(name)).await {
        Err(_) => unknown("the API server does not answer", None),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            unknown("the worker may not read the Lease", Some(LEASE_ROLE))
        }
        // The text of the error may name addresses, which are not the business of every reader.
        Ok(Err(error)) => {
            tracing::debug!(%error, "reading the lease failed");
            unknown("the Lease cannot be read", None)
        }
        Ok(Ok(Some(lease))) => read_leader(&lease, Millis::wall()),
        Ok(Ok(None)) => LeaderReport::None { message: format!("there is no Lease {name} in {namespace}") },
    }
}

/// Returns the leader that a Lease names: `Leads`, or `None` if it is released or has expired.
pub fn read_leader(lease: &Lease, now: Millis) -> LeaderReport {
    let name = lease.name_any();
    let spec = lease.spec.clone().unwrap_or_default();
    let Some(holder) = spec.holder_identity.filter(|holder| !holder.is_empty()) else {
        return LeaderReport::None { message: format!("no controller holds the Lease {name}") };
    };
    let seconds = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let expires = spec.renew_time.map(|time| time.0.as_millisecond() + seconds * 1000 + LEEWAY);
    if expires.is_some_and(|expires| expires < now.0) {
        return LeaderReport::None { message: format!("{holder} no longer renews the Lease {name}") };
    }
    LeaderReport::Leads { holder, since: spec.acquire_time.map(|time| Millis(time.0.as_millisecond())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_or_released_lease_has_no_leader() {
        let lease = |holder: &str, renewed: &str| -> Lease {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "hookstream-controller"},
                "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed,
                    "acquireTime": "2026-11-22T06:00:00.000000Z"}}))
            .unwrap()
        };
        let now = Millis::parse("2026-11-22T06:43:22Z").unwrap();
        let (present, old) = ("2026-11-22T06:43:20.000000Z", "2026-11-22T06:40:20.000000Z");
        let leads = LeaderReport::Leads { holder: "a".into(), since: Millis::parse("2026-11-22T06:00:00Z") };
        assert_eq!(read_leader(&lease("a", present), now), leads);
        for (holder, renewed, problem) in [
            ("", present, "no controller holds the Lease hookstream-controller"),
            ("a", old, "a no longer renews the Lease hookstream-controller"),
        ] {
            let none = LeaderReport::None { message: problem.to_owned() };
            assert_eq!(read_leader(&lease(holder, renewed), now), none);
        }
    }
}
