//! What is left when the vendor has what is wanted: the status, and a word to people where somebody else writes there.

use std::time::Duration;

use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::Outcome;
use super::kind::{Done, Synced, Vendor, Wanted};
use super::record::PENDING_CREATE;
use crate::admin::ExternalClient;
use crate::cluster::{Key, Metadata, Target};
use crate::controller::backoff::resync;
use crate::controller::context::Context;
use crate::controller::problem::Problem;
use crate::controller::{connection, status};
use crate::core::conditions::{Note, Standing};

/// What is not compared with a vendor is looked at now and then all the same.
pub const UNHURRIED: Duration = Duration::from_secs(3600);

/// Reconciling stops, as in Flux: conditions, external object and tokens stay as they are until it goes on.
pub fn suspended() -> Duration {
    UNHURRIED
}

/// Writes the status. `status` carries what the kind itself tells; the shared members are filled in. When the next
/// comparison is due.
pub async fn finish<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &Vendor<K::Client>,
    wanted: &Wanted<<K::Client as ExternalClient>::Desired>,
    outcome: Outcome,
    mut status: K::Status,
    ready: Note,
) -> Result<Duration, Problem> {
    let uid = object.uid().unwrap_or_default();
    let connection = &vendor.connection;
    context.remember_access(Key::of(&**connection), &vendor.access);
    context.tell_news(Key::of(&**connection), &vendor.access);
    tell::<K>(context, object, &outcome.done, &wanted.whole()).await;
    K::record(&mut status, Some(outcome.external), outcome.hashes);
    let standing = match (outcome.differs, outcome.pending) {
        (Some(note), _) => {
            context.metrics.drift_found(K::KIND.into());
            Standing::Stalled(note)
        }
        (None, Some(note)) => Standing::Waiting(note),
        (None, None) => Standing::Ready(ready),
    };
    status::write(context, object, status, &standing, None).await?;
    forget_record(context, object).await?;
    context.memory.works(&uid);
    Ok(resync(connection::resync_interval(connection, context)?, &uid))
}

/// The status names the object now: the record of its create has done its work.
async fn forget_record<K: Synced>(context: &Context, object: &K) -> Result<(), Problem> {
    let uid = object.uid().unwrap_or_default();
    let told = object.annotations().contains_key(PENDING_CREATE);
    if !told && context.memory.record(&uid, None).is_none() {
        return Ok(());
    }
    let annotations = [(PENDING_CREATE, None)].into_iter().collect();
    // Whoever changed the object meanwhile: the annotation is ours alone.
    let target = Target { resource_version: String::new(), ..Target::of(K::KIND, object) };
    context.cluster.write_metadata(&target, Metadata { finalizers: None, annotations }).await?;
    context.memory.recorded(&uid, None);
    Ok(())
}

/// A change that nobody asked for is told: somebody else writes there too. What the spec, a Secret or the Connection
/// asks for anew is no such change.
async fn tell<K: Synced>(context: &Context, object: &K, done: &Done, wanted: &serde_json::Value) {
    let hash: [u8; 32] = Sha256::digest(wanted.to_string()).into();
    let before = context.memory.told(&object.uid().unwrap_or_default(), hash);
    let mut status = object.status().cloned().unwrap_or_default();
    let parts = K::parts(&mut status);
    let current = *parts.observed_generation == object.meta().generation;
    let ready = parts.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    if !current || !ready || before.is_some_and(|before| before != hash) {
        return;
    }
    // After a restart nobody knows what was told before: another flag may be the reason.
    let by = if before.is_some() { " by somebody else" } else { "" };
    let message = match done {
        Done::Updated(fields) => {
            format!("the {} was changed{by}; repaired: {}", K::WHAT, fields.join(", "))
        }
        Done::Created => format!("the {} was deleted{by}; created again", K::WHAT),
        Done::Adopted | Done::Nothing => return,
    };
    context.metrics.drift_found(K::KIND.into());
    context.metrics.drift_repaired(K::KIND.into());
    status::tell(context, object, true, &Note::new("DriftRepaired", message)).await;
}
