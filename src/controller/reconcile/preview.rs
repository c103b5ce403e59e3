//! Predicts a sync by running its stages up to decide. Writes nothing, neither to the vendor nor to the cluster.

use std::sync::Arc;

use serde_json::Value;

use super::claim::ownership_key_ring;
use super::decide::{Action, Comparison, FormerAddress};
use super::field_change::FieldChange;
use super::kind::{DesiredObject, Synced, VendorAccess, value_at};
use super::run::SyncRun;
use crate::admin::ExternalClient;
use crate::cluster::ClusterError;
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::core::keys::{KEY_LENGTH, KeyRing};
use crate::core::relay_mark::is_same_relay;

/// The change that a sync would make to the external object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum VendorChange {
    Create,
    Update,
    /// It differs and stays unchanged, because a policy forbids the write.
    Differs,
    Unchanged,
}

/// The predicted effect of a sync on one object. Contains no secret values.
#[derive(Debug, PartialEq)]
pub struct Preview {
    pub change: VendorChange,
    /// The vendor's id, if it is known.
    pub id: Option<String>,
    /// The paths that differ.
    pub fields: Vec<String>,
    /// The values at these paths.
    pub values: Vec<FieldChange>,
    /// The paths of secrets that cannot be compared here.
    pub unverified: Vec<String>,
    pub note: Option<String>,
}

impl Preview {
    /// Returns a preview without changes. `note` is the reason.
    pub fn unchanged(note: &str) -> Self {
        Preview {
            change: VendorChange::Unchanged,
            id: None,
            fields: Vec::new(),
            values: Vec::new(),
            unverified: Vec::new(),
            note: Some(note.to_owned()),
        }
    }

    /// Describes the action. `expected_id` is the id under which the external object would be created, if it is known.
    /// A secret that cannot be compared counts as unchanged: a sync may write it, but perhaps with the same value.
    fn of(action: Action, expected_id: Option<String>) -> Self {
        let (comparison, change, note) = match action {
            Action::Create => {
                return Preview {
                    change: VendorChange::Create,
                    id: expected_id,
                    fields: Vec::new(),
                    values: Vec::new(),
                    unverified: Vec::new(),
                    note: None,
                };
            }
            Action::Update(comparison) => (comparison, VendorChange::Update, None),
            Action::Adopt(comparison) => {
                let unchanged = known_differences(&comparison).is_empty();
                let note = if unchanged { "adopted unchanged" } else { "adopted" };
                (comparison, VendorChange::Update, Some(note.to_owned()))
            }
            Action::TakeOver(comparison) => {
                let note = "takes over the object of an earlier custom resource with this name";
                (comparison, VendorChange::Update, Some(note.to_owned()))
            }
            Action::Keep(comparison) | Action::Observe(comparison) => {
                (comparison, VendorChange::Unchanged, None)
            }
            Action::ReportDifference(comparison, policy) => {
                let note = format!("{} forbids the write", policy.as_str());
                (comparison, VendorChange::Differs, Some(note))
            }
        };
        let fields = known_differences(&comparison);
        let change = if fields.is_empty() { VendorChange::Unchanged } else { change };
        let Comparison { found, unverified, .. } = comparison;
        Preview { change, id: Some(found.id), fields, values: Vec::new(), unverified, note }
    }
}

/// Returns the fields that are known to differ.
fn known_differences(comparison: &Comparison) -> Vec<String> {
    comparison.fields.iter().filter(|path| !comparison.unverified.contains(path)).cloned().collect()
}

/// The key ring, or a placeholder for it. Secrets that derive from a placeholder are never shown or compared.
pub struct PreviewKeys {
    pub key_ring: Arc<KeyRing>,
    pub is_placeholder: bool,
}

impl PreviewKeys {
    /// Loads the key ring. Makes a placeholder if there is none.
    pub async fn load(context: &Context) -> Result<Self, SyncError> {
        match context.key_ring().await {
            Ok(key_ring) => Ok(PreviewKeys { key_ring, is_placeholder: false }),
            Err(ClusterError::KeyRing(_)) => {
                let key_ring = KeyRing::from_data([("none", [0; KEY_LENGTH].as_slice())].into_iter());
                let key_ring = key_ring.map_err(|error| ClusterError::KeyRing(error.to_string()))?;
                Ok(PreviewKeys { key_ring: Arc::new(key_ring), is_placeholder: true })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the key ring, unless it is a placeholder.
    fn real(&self) -> Option<&KeyRing> {
        (!self.is_placeholder).then_some(&*self.key_ring)
    }
}

/// Returns what `sync` would do. `derived_from`: the keys from which the desired secrets derive, if they do.
pub async fn preview<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &VendorAccess<K::Client>,
    desired: &DesiredObject<<K::Client as ExternalClient>::Desired>,
    derived_from: Option<&PreviewKeys>,
) -> Result<Preview, SyncError> {
    // A preview of manifests has no key ring. Then the markers of the objects' own uids are believed.
    let owner_keys = match ownership_key_ring(context, object).await {
        Err(SyncError::Cluster(ClusterError::KeyRing(_))) => None,
        other => other?,
    };
    let mut run = SyncRun::new(context, object, vendor, desired, owner_keys)?;
    let former_address = match run.resolve_address().await? {
        Some((former, FormerAddress::Delete)) => Some((former, "is deleted")),
        Some((former, FormerAddress::Orphan)) => Some((former, "stays")),
        Some((_, FormerAddress::SameVendor)) | None => None,
    };
    let found = Box::pin(run.observe()).await?;
    let are_placeholders = derived_from.is_some_and(|keys| keys.is_placeholder);
    let keys = match run.has_hashes_to_check(found.as_ref()) && !are_placeholders {
        true => Some(PreviewKeys::load(context).await?),
        false => None,
    };
    let mut action = run.decide(found, keys.as_ref().and_then(PreviewKeys::real), are_placeholders)?;
    // The mark of a relay's URL is derived from the keys too.
    if let Some(comparison) = action.comparison_mut().filter(|_| are_placeholders) {
        let Comparison { found, fields, .. } = comparison;
        fields.retain(|path| {
            let old = value_at(&found.item, path).and_then(Value::as_str);
            let new = value_at(&desired.readable, path).and_then(Value::as_str);
            !old.zip(new).is_some_and(|(old, new)| is_same_relay(old, new))
        });
    }
    // Claim it as a sync would, so that a second object that adopts the same external object is reported.
    if let Action::Adopt(comparison) | Action::TakeOver(comparison) = &action {
        run.claim(&comparison.found.id)?;
    }
    let values = match action.comparison() {
        Some(comparison) => known_differences(comparison)
            .into_iter()
            .map(|path| FieldChange::new(path, &comparison.found.item, desired, object.secret_hashes()))
            .collect(),
        None => Vec::new(),
    };
    let mut preview = Preview::of(action, run.external.map(|external| external.id));
    let note = former_address
        .map(|(former, fate)| format!("{} at the former address {} {fate}", former.id, former.endpoint));
    preview.note = preview.note.or(note);
    preview.values = values;
    Ok(preview)
}

#[cfg(test)]
mod tests {
    use super::super::decide::{Found, ReadOnlyPolicy};
    use super::*;

    fn comparison(fields: &[&str], unverified: &[&str]) -> Comparison {
        let all = |paths: &[&str]| paths.iter().map(ToString::to_string).collect();
        let found = Found::new("x".into(), Arc::default());
        Comparison { found, fields: all(fields), unverified: all(unverified) }
    }

    #[test]
    fn describes_each_action() {
        use VendorChange::{Create, Differs, Unchanged, Update};
        let differs = || comparison(&["url", "token"], &["token"]);
        let unverified = || comparison(&["token"], &["token"]);
        let same = || comparison(&[], &[]);
        for (action, change, fields, note) in [
            (Action::Create, Create, 0, None),
            (Action::Update(differs()), Update, 1, None),
            (Action::Update(unverified()), Unchanged, 0, None),
            (Action::Adopt(differs()), Update, 1, Some("adopted")),
            (Action::Adopt(unverified()), Unchanged, 0, Some("adopted unchanged")),
            (Action::Adopt(same()), Unchanged, 0, Some("adopted unchanged")),
            (
                Action::TakeOver(differs()),
                Update,
                1,
                Some("takes over the object of an earlier custom resource with this name"),
            ),
            (Action::Keep(same()), Unchanged, 0, None),
            (Action::Observe(same()), Unchanged, 0, None),
            (
                Action::ReportDifference(differs(), ReadOnlyPolicy::ObserveOnly),
                Differs,
                1,
                Some("managementPolicy: ObserveOnly forbids the write"),
            ),
            (
                Action::ReportDifference(differs(), ReadOnlyPolicy::AdoptMatch),
                Differs,
                1,
                Some("adopt.mode: Match forbids the write"),
            ),
        ] {
            let preview = Preview::of(action, Some("expected".into()));
            let expected_id = if change == Create { "expected" } else { "x" };
            assert_eq!(
                (preview.change, preview.fields.len(), preview.note.as_deref()),
                (change, fields, note)
            );
            assert_eq!(preview.id.as_deref(), Some(expected_id));
        }
        assert_eq!(Preview::of(Action::Update(unverified()), None).unverified, ["token"]);
    }
}
