//! Reports of external objects that stay at a vendor.

use kube::ResourceExt;

use super::kind::Synced;
use crate::api::{External, FormerLocation};
use crate::controller::context::Context;
use crate::controller::status;
use crate::core::conditions::ConditionMessage;

/// Reports an external object that a policy leaves at an address that the Connection no longer has.
pub async fn report_left_at_former_address<K: Synced>(
    context: &Context,
    object: &K,
    former: &FormerLocation,
    policy: &str,
) {
    let (id, endpoint) = (&former.id, &former.endpoint);
    let message = format!("{policy}: the {} {id} may remain at {endpoint}", K::WHAT);
    report_orphan(context, object, message).await;
}

/// Reports an external object at a former address that the controller no longer tries to delete.
pub async fn report_given_up_address<K: Synced>(
    context: &Context,
    object: &K,
    former: &FormerLocation,
    why: &str,
) {
    let (id, endpoint) = (&former.id, &former.endpoint);
    let message = format!("{why}; the {} {id} may still exist at {endpoint}: delete it there", K::WHAT);
    report_orphan(context, object, message).await;
}

/// Reports that the external object exists under the Connection's new address too, and that nothing was deleted.
pub async fn report_same_vendor<K: Synced>(
    context: &Context,
    object: &K,
    former: &External,
    external: &External,
) {
    let message = format!(
        "the {} {} exists at {} too: both addresses count as one vendor, and nothing was deleted at {}; if that is another vendor, delete it there",
        K::WHAT,
        external.id,
        external.endpoint,
        former.endpoint,
    );
    status::publish_event(context, object, false, &ConditionMessage::new("AddressChanged", message)).await;
}

/// Reports an external object that may be orphaned. Logs it too, because the API server accepts no Events in a
/// namespace that is being deleted.
pub async fn report_orphan<K: Synced>(context: &Context, object: &K, message: String) {
    if !context.cluster.publishes_to_log() {
        tracing::warn!(namespace = object.namespace(), name = object.name_any(), "{message}");
    }
    status::publish_event(context, object, true, &ConditionMessage::new("Orphaned", message)).await;
}
