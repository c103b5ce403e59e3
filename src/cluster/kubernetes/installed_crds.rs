//! Waits until the API server's discovery lists all our kinds.

use std::collections::HashSet;
use std::time::Duration;

use kube::Client;
use kube::api::ApiResource;
use strum::IntoEnumIterator;

use super::api_server::{api_resource, to_cluster_error};
use crate::api::{API_VERSION, GROUP};
use crate::cluster::ResourceKind;
use crate::ops::ReadinessGate;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Polls until all CRDs are installed. Meanwhile `pending` names the missing ones.
pub async fn wait_until_installed(client: &Client, pending: ReadinessGate) {
    let mut last_logged = String::new();
    loop {
        let why = match list_missing(client).await {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => format!(
                "the CRDs are installed (missing: {}; kubectl apply --server-side -f crds)",
                missing.join(", ")
            ),
            Err(error) => format!("the installed CRDs can be listed ({})", to_cluster_error(error)),
        };
        if why != last_logged {
            tracing::warn!("not ready until {why}");
            pending.describe(why.clone());
            last_logged = why;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    pending.open();
}

async fn list_missing(client: &Client) -> Result<Vec<String>, kube::Error> {
    let installed: HashSet<String> = match client.list_api_group_resources(API_VERSION).await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect(),
        // The group itself does not exist.
        Err(kube::Error::Api(status)) if status.code == 404 => HashSet::new(),
        Err(error) => return Err(error),
    };
    let expected = ResourceKind::iter().map(api_resource).map(|ApiResource { plural, .. }| plural);
    Ok(expected
        .filter(|plural| !installed.contains(plural))
        .map(|plural| format!("{plural}.{GROUP}"))
        .collect())
}
