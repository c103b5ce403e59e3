//! The status, written only when its meaning changes, with one Kubernetes Event a changed note.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::context::Context;
use super::problem::Problem;
use crate::api::{
    Connection, ConnectionStatus, EventHook, EventHookStatus, EventStream, EventStreamStatus, Handled, Hook,
    HookStatus, LastError, RECONCILE_REQUESTED_AT,
};
use crate::cluster::{ClusterError, Kind, Target};
use crate::core::conditions::{DELIVERING, Note, Standing, same_meaning};
use crate::core::time::Millis;

/// The conditions that the controller writes.
const OURS: [&str; 4] = ["Ready", "Synced", "Reconciling", "Stalled"];

/// A kind that is reconciled.
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
    const KIND: Kind;
    type Status: Default + Clone + Serialize + Send;

    fn status(&self) -> Option<&Self::Status>;
    fn parts(status: &mut Self::Status) -> Parts<'_>;
    /// The members of the spec that cleaning up needs. They are kept of an object that cannot be read, so that it can be
    /// deleted: the rest is replaced by what `bare` says.
    const CLEANUP: &'static [&'static str];
    /// The least that can be read as a spec.
    fn bare() -> Value;
}

/// What cleaning up needs of an object that cannot be read. None where that cannot be read either: to guess a policy
/// would delete what was to stay, to guess a Connection would leave what was to go.
pub fn salvage<K: Managed>(stored: &Value) -> Option<K> {
    let metadata = stored.get("metadata")?;
    let mut spec = K::bare();
    let members = spec.as_object_mut()?;
    for member in K::CLEANUP {
        if let Some(value) = stored.pointer(&format!("/spec/{member}")) {
            members.insert((*member).to_owned(), value.clone());
        }
    }
    let read = |status: Value| {
        let object = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": metadata,
                            "spec": spec, "status": status});
        serde_json::from_value::<K>(object).ok()
    };
    // Without it the vendor's object is found by the uid and the Connection.
    let external = stored.pointer("/status/external");
    external.and_then(|external| read(json!({ "external": external }))).or_else(|| read(Value::Null))
}

/// The members that every kind's status has.
pub struct Parts<'a> {
    pub observed_generation: &'a mut Option<i64>,
    pub conditions: &'a mut Vec<Condition>,
    pub handled: &'a mut Option<Handled>,
    pub last_error: &'a mut Option<Box<LastError>>,
}

macro_rules! managed {
    ($kind:ident, $status:ty, $cleanup:expr, $bare:tt) => {
        impl Managed for $kind {
            const KIND: Kind = Kind::$kind;
            const CLEANUP: &'static [&'static str] = &$cleanup;
            fn bare() -> Value {
                json!($bare)
            }
            type Status = $status;
            fn status(&self) -> Option<&$status> {
                self.status.as_ref()
            }
            fn parts(status: &mut $status) -> Parts<'_> {
                Parts {
                    observed_generation: &mut status.observed_generation,
                    conditions: &mut status.conditions,
                    handled: &mut status.handled,
                    last_error: &mut status.last_error,
                }
            }
        }
    };
}

managed!(EventHook, EventHookStatus, ["connectionRef", "deletionPolicy"], {"source": "", "handler": {}});
managed!(Connection, ConnectionStatus, [], {});
managed!(
    EventStream,
    EventStreamStatus,
    ["connectionRef", "deletionPolicy", "managementPolicy", "adopt"],
    {"connectionRef": {"name": ""}, "name": "", "subscriptions": [], "destination": {}}
);
managed!(
    Hook,
    HookStatus,
    ["connectionRef", "deletionPolicy", "managementPolicy", "adopt"],
    {"connectionRef": {"name": ""}, "name": "", "triggerId": "credentials-exchange"}
);

/// True where the controller carries out `hookstream.dev/resume` itself; else it is the worker's, and so is its
/// acknowledgement.
fn resumes(kind: Kind) -> bool {
    kind == Kind::EventStream
}

/// Writes how the object stands. `status` carries what the kind itself wants to tell; its shared members are filled in.
pub async fn write<K: Managed>(
    context: &Context,
    object: &K,
    mut status: K::Status,
    standing: &Standing,
    last_error: Option<LastError>,
) -> Result<(), ClusterError> {
    let generation = object.meta().generation;
    let parts = K::parts(&mut status);
    let before = std::mem::take(parts.conditions);
    *parts.observed_generation = generation;
    // Conditions of the kind's own, beside the four of every kind.
    let own = before.iter().filter(|c| !OURS.contains(&c.type_.as_str()) && c.type_ != DELIVERING).cloned();
    *parts.conditions = standing.conditions(&before, generation, Millis::now());
    parts.conditions.extend(own);
    *parts.last_error = last_error.map(Box::new);
    // The token of a command is acknowledged once it was carried out, whatever came of it.
    let handled = parts.handled.get_or_insert_default();
    handled.reconcile_requested_at = object.annotations().get(RECONCILE_REQUESTED_AT).cloned();
    if !resumes(K::KIND) {
        handled.resume = None;
    }
    if *handled == Handled::default() {
        *parts.handled = None;
    }
    store(context, &Target::of(K::KIND, object), object.status(), &before, status, standing).await
}

/// Writes a problem. An object that cannot be read keeps the status that it has, but for the conditions: what is known of
/// the vendor must be there when it can be read again.
pub async fn report<K: Managed>(
    context: &Context,
    target: &Target,
    object: Option<&K>,
    problem: &Problem,
) -> Result<(), ClusterError> {
    let standing = problem.standing();
    let last_error = problem.admin().map(|error| error.last_error(Millis::now()));
    match object {
        Some(object) => {
            write(context, object, object.status().cloned().unwrap_or_default(), &standing, last_error).await
        }
        None => {
            let stored = context.cluster.stored(target).await?;
            let generation = stored.pointer("/metadata/generation").and_then(Value::as_i64);
            let mut before = stored.get("status").cloned().unwrap_or_else(|| json!({}));
            let conditions = before.get_mut("conditions").map(Value::take);
            let old: Vec<Condition> = conditions
                .as_ref()
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|c| serde_json::from_value(c.clone()).ok())
                .filter(|c: &Condition| OURS.contains(&c.type_.as_str()))
                .collect();
            let with = |conditions: &[Condition]| {
                let mut status = before.clone();
                if let Some(status) = status.as_object_mut() {
                    status.insert("conditions".into(), json!(conditions));
                }
                status
            };
            let now = with(&standing.conditions(&old, generation, Millis::now()));
            store(context, target, Some(&with(&old)), &old, now, &standing).await
        }
    }
}

async fn store<S: Serialize>(
    context: &Context,
    target: &Target,
    before: Option<&S>,
    conditions: &[Condition],
    status: S,
    standing: &Standing,
) -> Result<(), ClusterError> {
    let part = |status: Value| controllers_part(status, resumes(target.kind));
    let value = part(serde_json::to_value(&status).unwrap_or_default());
    let old = part(before.map(|s| serde_json::to_value(s).unwrap_or_default()).unwrap_or_default());
    if same_meaning(&old, &value) {
        return Ok(());
    }
    context.cluster.write_status(target, value).await?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready");
    let note = standing.note();
    if ready.is_none_or(|c| c.reason != note.reason || c.message != note.message) {
        let warning = !matches!(standing, Standing::Ready(_));
        context.cluster.publish(target, warning, note).await;
    }
    Ok(())
}

/// Tells people of something that happened, apart from how the object stands.
pub async fn tell<K: Managed>(context: &Context, object: &K, warning: bool, note: &Note) {
    context.cluster.publish(&Target::of(K::KIND, object), warning, note).await;
}

/// Leaves out what the worker writes: its condition, and the acknowledgement of `resume` where it carries that out.
fn controllers_part(mut status: Value, resumes: bool) -> Value {
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|c| c.get("type").and_then(Value::as_str) != Some(DELIVERING));
    }
    if let Some(handled) = status.get_mut("handled").and_then(Value::as_object_mut) {
        if !resumes {
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
    fn what_cleaning_up_needs_is_read_of_what_cannot_be_read() {
        let stored = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": "h", "namespace": "n", "uid": "u"},
            "spec": {"source": 7, "connectionRef": {"name": "kong"}, "deletionPolicy": "Orphan"},
            "status": {"observedGeneration": "x", "external": {"id": "i", "connection": "c", "endpoint": "e"}}});
        let hook: EventHook = salvage(&stored).unwrap();
        assert_eq!(hook.spec.connection_ref.unwrap().name, "kong");
        assert_eq!(hook.spec.deletion_policy, Some(crate::api::DeletionPolicy::Orphan));
        assert_eq!(hook.status.unwrap().external.unwrap().id, "i");

        let mut other = stored.clone();
        other["status"]["external"]["id"] = json!(7);
        assert!(salvage::<EventHook>(&other).unwrap().status.is_none());
        other["spec"]["deletionPolicy"] = json!("AskMe");
        assert!(salvage::<EventHook>(&other).is_none(), "no policy is guessed");

        let connection: Connection =
            salvage(&json!({"metadata": {"name": "c"}, "spec": {"kong": 1}})).unwrap();
        assert_eq!(connection.name_any(), "c");
        assert!(salvage::<Connection>(&json!({})).is_none());
    }
}
