//! Writes statuses: only when their meaning changes, with one Event for each change of the Ready condition. Also has
//! the `Managed` trait of all kinds, and parses malformed objects that are being deleted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::context::Context;
use super::error::SyncError;
use crate::api::{
    CLEANUP_MEMBERS, Connection, ConnectionStatus, EventHook, EventHookStatus, EventStream,
    EventStreamStatus, Handled, Hook, HookStatus, LastError, RECONCILE_REQUESTED_AT, bound_status,
    bounded_token,
};
use crate::cluster::{ClusterError, ResourceKind, WriteTarget};
use crate::core::conditions::{
    ConditionMessage, DELIVERING, ObjectReadiness, SUSPENDED, equals_ignoring_times,
};
use crate::core::time::Millis;

/// The conditions that the controller writes for every kind.
const COMMON_CONDITIONS: [&str; 5] = ["Ready", "Synced", "Reconciling", "Stalled", SUSPENDED];

/// A kind that the controller reconciles.
pub trait Managed:
    kube::Resource<DynamicType = ()>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    const KIND: ResourceKind;
    type Status: Default + Clone + Serialize + Send;

    fn status(&self) -> Option<&Self::Status>;
    fn conditions(status: &Self::Status) -> &[Condition];
    /// Returns the members of the status that every kind has.
    fn shared(status: &mut Self::Status) -> SharedStatus<'_>;
    /// The smallest spec that can be parsed. For an object that cannot be parsed as a whole, `parse_for_cleanup` adds
    /// `CLEANUP_MEMBERS` to it.
    fn minimal_spec() -> Value;
}

/// Parses the parts of a malformed object that cleaning up needs. None if these parts are malformed too. A guessed
/// policy could delete an external object that should stay. A guessed Connection, or a guessed id, could orphan one that
/// should be deleted.
pub fn parse_for_cleanup<K: Managed>(stored: &Value) -> Option<K> {
    let metadata = stored.get("metadata")?;
    let mut spec = K::minimal_spec();
    let members = spec.as_object_mut()?;
    // A Connection has no external object, so its deletion depends on none of its members.
    let needed: &[&str] = if K::KIND == ResourceKind::Connection { &[] } else { &CLEANUP_MEMBERS };
    for member in needed {
        if let Some(value) = stored.pointer(&format!("/spec/{member}")) {
            members.insert((*member).to_owned(), value.clone());
        }
    }
    // Without a status, the external object is found by the uid and the Connection.
    let mut status = serde_json::Map::new();
    for member in ["external", "formerLocations"] {
        if let Some(value) = stored.pointer(&format!("/status/{member}")) {
            status.insert(member.to_owned(), value.clone());
        }
    }
    let status = Some(status).filter(|status| !status.is_empty());
    let object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": metadata,
                        "spec": spec, "status": status});
    serde_json::from_value(object).ok()
}

/// The members that the status of every kind has.
pub struct SharedStatus<'a> {
    pub observed_generation: &'a mut Option<i64>,
    pub conditions: &'a mut Vec<Condition>,
    pub handled: &'a mut Option<Handled>,
    pub last_error: &'a mut Option<Box<LastError>>,
}

macro_rules! managed {
    ($kind:ident, $status:ty, $bare:tt) => {
        impl Managed for $kind {
            const KIND: ResourceKind = ResourceKind::$kind;
            fn minimal_spec() -> Value {
                json!($bare)
            }
            type Status = $status;
            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }
            fn conditions(status: &$status) -> &[Condition] {
                &status.conditions
            }
            fn shared(status: &mut $status) -> SharedStatus<'_> {
                SharedStatus {
                    observed_generation: &mut status.observed_generation,
                    conditions: &mut status.conditions,
                    handled: &mut status.handled,
                    last_error: &mut status.last_error,
                }
            }
        }
    };
}

managed!(EventHook, EventHookStatus, {"source": "", "handler": {}});
managed!(Connection, ConnectionStatus, {});
managed!(
    EventStream,
    EventStreamStatus,
    {"connectionRef": {"name": ""}, "name": "", "subscriptions": [], "destination": {}}
);
managed!(
    Hook,
    HookStatus,
    {"connectionRef": {"name": ""}, "name": "", "triggerId": "credentials-exchange"}
);

/// True if the controller carries out `hookstream.dev/resume` for this kind. For the other kinds, the worker carries
/// out and acknowledges the request.
fn is_resumed_here(kind: ResourceKind) -> bool {
    kind == ResourceKind::EventStream
}

/// Returns the token of the annotation that requests a reconcile, as `status.handled` records it.
pub fn reconcile_request<K: kube::Resource>(object: &K) -> Option<String> {
    object.annotations().get(RECONCILE_REQUESTED_AT).map(|token| bounded_token(token))
}

/// Writes the status. `status` has the kind's own members; this fills in the shared ones.
pub async fn write<K: Managed>(
    context: &Context,
    object: &K,
    mut status: K::Status,
    readiness: &ObjectReadiness,
    last_error: Option<LastError>,
) -> Result<(), ClusterError> {
    let generation = object.meta().generation;
    let shared = K::shared(&mut status);
    let before = std::mem::take(shared.conditions);
    *shared.observed_generation = generation;
    // Keep the conditions that only this kind has.
    let own = before
        .iter()
        .filter(|c| !COMMON_CONDITIONS.contains(&c.type_.as_str()) && c.type_ != DELIVERING)
        .cloned();
    *shared.conditions = readiness.conditions(&before, generation, Millis::now());
    shared.conditions.extend(own);
    *shared.last_error = last_error.map(Box::new);
    // Acknowledge the request now that it was carried out, whether it succeeded or not.
    let handled = shared.handled.get_or_insert_default();
    handled.reconcile_requested_at = reconcile_request(object);
    if !is_resumed_here(K::KIND) {
        handled.resume = None;
    }
    if *handled == Handled::default() {
        *shared.handled = None;
    }
    write_if_changed(context, &WriteTarget::of(K::KIND, object), object.status(), &before, status, readiness)
        .await
}

/// Writes the status without a report: conditions, generation and acknowledgements stay as they are. Makes a fact durable
/// before a step that depends on it.
pub async fn write_members<K: Managed>(
    context: &Context,
    object: &K,
    status: K::Status,
) -> Result<(), ClusterError> {
    let members = |status: Value| controller_members(status, is_resumed_here(K::KIND));
    let mut value = members(serde_json::to_value(&status).unwrap_or_default());
    bound_status(K::KIND.into(), &mut value);
    let old =
        members(object.status().map(|s| serde_json::to_value(s).unwrap_or_default()).unwrap_or_default());
    if equals_ignoring_times(&old, &value) {
        return Ok(());
    }
    context.cluster.write_status(&WriteTarget::of(K::KIND, object), value).await
}

/// Reports a suspended object: the condition `Suspended` and the current generation. All other members stay, and requests
/// are not acknowledged, because nothing was observed. `is_synced`: the spec was synced before, except for `suspend`; the
/// object then stays ready. Otherwise it is not ready, because the vendor need not have what the spec says.
pub async fn write_suspended<K: Managed>(
    context: &Context,
    object: &K,
    is_synced: bool,
) -> Result<(), ClusterError> {
    let generation = object.meta().generation;
    let mut status = object.status().cloned().unwrap_or_default();
    let shared = K::shared(&mut status);
    let before = shared.conditions.clone();
    *shared.observed_generation = generation;
    let is_ready = before.iter().any(|c| {
        // A suspended object that was reported as ready is ready in later reconciles, also after a restart.
        c.type_ == "Ready" && c.status == "True" && (is_synced || c.observed_generation == generation)
    });
    let text = match is_ready {
        true => "suspend: true; the vendor was last seen in step with this spec",
        false => "suspend: true; this spec is not synced: set suspend: false",
    };
    let readiness = ObjectReadiness::Suspended(ConditionMessage::new("Suspended", text));
    for condition in readiness.conditions(&before, generation, Millis::now()) {
        match shared.conditions.iter_mut().find(|c| c.type_ == condition.type_) {
            Some(old) if is_ready && condition.type_ != SUSPENDED => old.observed_generation = generation,
            Some(old) => *old = condition,
            None => shared.conditions.push(condition),
        }
    }
    let target = WriteTarget::of(K::KIND, object);
    write_if_changed(context, &target, object.status(), &before, status, &readiness).await
}

/// Writes an error to the status. Of an object that cannot be parsed, replaces only the conditions and the observed
/// generation. The rest of the status names the external object, and the controller needs that name once the object can be parsed again.
pub async fn write_error<K: Managed>(
    context: &Context,
    target: &WriteTarget,
    object: Option<&K>,
    error: &SyncError,
) -> Result<(), ClusterError> {
    let readiness = error.readiness();
    let last_error = error.admin().map(|error| error.last_error(Millis::now()));
    match object {
        Some(object) => {
            write(context, object, object.status().cloned().unwrap_or_default(), &readiness, last_error).await
        }
        None => {
            let stored = context.cluster.read_object(target).await?;
            let generation = stored.pointer("/metadata/generation").and_then(Value::as_i64);
            let mut before = stored.get("status").cloned().unwrap_or_else(|| json!({}));
            let conditions = before.get_mut("conditions").map(Value::take);
            let old: Vec<Condition> = conditions
                .as_ref()
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|c| serde_json::from_value(c.clone()).ok())
                .filter(|c: &Condition| COMMON_CONDITIONS.contains(&c.type_.as_str()))
                .collect();
            let with_conditions = |status: &Value, conditions: &[Condition]| {
                let mut status = status.clone();
                if let Some(status) = status.as_object_mut() {
                    status.insert("conditions".into(), json!(conditions));
                }
                status
            };
            let old_status = with_conditions(&before, &old);
            // Without it, kstatus would wait for the controller instead of reporting the failure.
            if let Some(status) = before.as_object_mut() {
                status.insert("observedGeneration".into(), json!(generation));
            }
            let now = with_conditions(&before, &readiness.conditions(&old, generation, Millis::now()));
            write_if_changed(context, target, Some(&old_status), &old, now, &readiness).await
        }
    }
}

/// Writes the status if its meaning changed. Publishes an Event if the reason or message of Ready, or of Suspended,
/// changed.
async fn write_if_changed<S: Serialize>(
    context: &Context,
    target: &WriteTarget,
    before: Option<&S>,
    conditions: &[Condition],
    status: S,
    readiness: &ObjectReadiness,
) -> Result<(), ClusterError> {
    let members = |status: Value| controller_members(status, is_resumed_here(target.kind));
    let mut value = members(serde_json::to_value(&status).unwrap_or_default());
    // Before the comparison: otherwise a shortened status would differ from the stored one at every reconcile.
    bound_status(target.kind.into(), &mut value);
    let old = members(before.map(|s| serde_json::to_value(s).unwrap_or_default()).unwrap_or_default());
    if equals_ignoring_times(&old, &value) {
        return Ok(());
    }
    context.cluster.write_status(target, value).await?;
    // A suspended object may stay ready; its own condition then has the news.
    let (reported, warning) = match readiness {
        ObjectReadiness::Ready(_) => ("Ready", false),
        ObjectReadiness::Suspended(_) => (SUSPENDED, false),
        ObjectReadiness::Reconciling(_) | ObjectReadiness::Stalled(_) => ("Ready", true),
    };
    let old = conditions.iter().find(|c| c.type_ == reported);
    let note = readiness.message();
    if old.is_none_or(|c| c.reason != note.reason || c.message != note.message) {
        context.cluster.publish_event(target, warning, note).await;
    }
    Ok(())
}

/// Publishes a Kubernetes Event that is independent of the conditions.
pub async fn publish_event<K: Managed>(
    context: &Context,
    object: &K,
    warning: bool,
    note: &ConditionMessage,
) {
    context.cluster.publish_event(&WriteTarget::of(K::KIND, object), warning, note).await;
}

/// Removes the members that the worker writes: its condition, its report, and the acknowledgement of `resume` if the worker resumes.
fn controller_members(mut status: Value, is_resumed_here: bool) -> Value {
    if let Some(status) = status.as_object_mut() {
        status.remove("delivery");
    }
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|c| c.get("type").and_then(Value::as_str) != Some(DELIVERING));
    }
    if let Some(handled) = status.get_mut("handled").and_then(Value::as_object_mut) {
        if !is_resumed_here {
            handled.remove("resume");
        }
        if handled.is_empty()
            && let Some(status) = status.as_object_mut()
        {
            status.remove("handled");
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_parts_of_a_malformed_object_that_cleanup_needs() {
        let stored = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": "h", "namespace": "n", "uid": "u"},
            "spec": {"source": 7, "connectionRef": {"name": "kong"}, "deletionPolicy": "Orphan",
                "managementPolicy": "ObserveOnly", "adopt": {"id": "a", "mode": "Match"}},
            "status": {"observedGeneration": "x", "external": {"id": "i", "connection": "c", "endpoint": "e"},
                "formerLocations": [{"id": "i", "connection": "c", "endpoint": "f", "since": "2026-11-29T00:00:00Z"}]}});
        let hook: EventHook = parse_for_cleanup(&stored).unwrap();
        assert_eq!(hook.spec.connection_ref.unwrap().name, "kong");
        assert_eq!(hook.spec.deletion_policy, Some(crate::api::DeletionPolicy::Orphan));
        assert_eq!(hook.spec.management_policy, Some(crate::api::ManagementPolicy::ObserveOnly));
        assert_eq!(hook.spec.adopt.unwrap().id, "a");
        let status = hook.status.unwrap();
        assert_eq!((status.external.unwrap().id.as_str(), status.former_locations.len()), ("i", 1));

        let mut without_status = stored.clone();
        without_status["status"] = Value::Null;
        assert!(parse_for_cleanup::<EventHook>(&without_status).unwrap().status.is_none());
        for (member, unknown) in [
            ("/spec/deletionPolicy", json!("AskMe")),
            ("/spec/managementPolicy", json!("CreateOnly")),
            ("/spec/connectionRef", json!("kong")),
            ("/spec/adopt", json!({"id": "a", "mode": "Guess"})),
            ("/status/external", json!({"id": 7})),
            ("/status/formerLocations", json!([{"id": 7}])),
        ] {
            let mut other = stored.clone();
            *other.pointer_mut(member).unwrap() = unknown;
            assert!(parse_for_cleanup::<EventHook>(&other).is_none(), "{member} is not guessed");
        }

        let connection: Connection =
            parse_for_cleanup(&json!({"metadata": {"name": "c"}, "spec": {"kong": 1}})).unwrap();
        assert_eq!(connection.name_any(), "c");
        assert!(parse_for_cleanup::<Connection>(&json!({})).is_none());
    }
}
