//! Whether our kinds are installed, asked of the API server's discovery.

use std::collections::HashSet;
use std::time::Duration;

use kube::Client;
use kube::api::ApiResource;
use strum::IntoEnumIterator;

use super::resource;
use crate::api::GROUP;
use crate::cluster::Kind;
use crate::ops::Pending;

const LOOK: Duration = Duration::from_secs(1);

/// Waits until all kinds are there; `pending` names those that are missing.
pub async fn wait(client: &Client, pending: Pending) {
    let mut told = String::new();
    loop {
        let why = match missing(client).await {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => format!(
                "the CRDs are installed (missing: {}; kubectl apply --server-side -f crds)",
                missing.join(", ")
            ),
            Err(error) => format!("the API server tells which CRDs are installed ({error})"),
        };
        if why != told {
            tracing::warn!("not ready until {why}");
            pending.say(why.clone());
            told = why;
        }
        tokio::time::sleep(LOOK).await;
    }
    pending.done();
}

async fn missing(client: &Client) -> Result<Vec<String>, kube::Error> {
    let there: HashSet<String> = match client.list_api_group_resources(&format!("{GROUP}/v1alpha1")).await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect(),
        // Not even the group.
        Err(kube::Error::Api(status)) if status.code == 404 => HashSet::new(),
        Err(error) => return Err(error),
    };
    let wanted = Kind::iter().map(resource).map(|ApiResource { plural, .. }| plural);
    Ok(wanted.filter(|plural| !there.contains(plural)).map(|plural| format!("{plural}.{GROUP}")).collect())
}
