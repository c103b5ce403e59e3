//! What the cluster knows without the worker: Connections, objects that are not Ready, hooks that do not deliver.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Resource, ResourceExt};
use serde::Deserialize;

use super::print::{HookStatus, Items, ObjectLists, ObjectStatus};
use crate::api::{Connection, DeliveryReport, EventHook, EventStream, Hook};
use crate::cli::service::ServiceCluster;
use crate::core::conditions::DELIVERING;
use crate::core::shown_readiness::{ShownReadiness, find_condition};
use crate::core::time::Millis;

/// The entries of a list, as in the worker's response.
const MAX_ITEMS: usize = 200;
/// Objects of one request, and the most requests for one kind.
const PAGE: u32 = 500;
const MAX_PAGES: usize = 40;

/// The state of the objects.
pub struct ClusterStatus {
    pub objects: ObjectLists,
    /// Why some objects are missing.
    pub problems: Vec<String>,
}

impl ClusterStatus {
    /// Reads the objects of a namespace, or of all. None: no kind can be read.
    pub async fn read(cluster: &ServiceCluster, namespace: Option<&str>) -> Option<ClusterStatus> {
        let kinds = [
            ApiResource::erase::<Connection>(&()),
            ApiResource::erase::<EventHook>(&()),
            ApiResource::erase::<EventStream>(&()),
            ApiResource::erase::<Hook>(&()),
        ];
        let (count, mut problems) = (kinds.len(), Vec::new());
        let (mut connections, mut not_ready, mut not_delivering) = (Vec::new(), Vec::new(), Vec::new());
        for kind in kinds {
            let objects = match list(cluster, namespace, &kind).await {
                Ok(objects) => objects,
                Err(why) => {
                    problems.push(format!("listing {}: {why}", kind.plural));
                    continue;
                }
            };
            // An object that is being deleted is not synced any more.
            for object in objects.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
                let status = object_status(&kind.kind, object);
                if kind.kind == Connection::kind(&()) {
                    connections.push(status);
                } else if status.ready != "True" {
                    not_ready.push(status);
                }
                not_delivering.extend(hook_status(object));
            }
        }
        not_delivering.sort_by(|a: &HookStatus, b: &HookStatus| {
            (a.expected, &a.namespace, &a.name).cmp(&(b.expected, &b.namespace, &b.name))
        });
        let objects = ObjectLists {
            connections: bounded(connections),
            not_ready: bounded(not_ready),
            not_delivering: Items::bounded(not_delivering, MAX_ITEMS),
        };
        (problems.len() < count).then_some(ClusterStatus { objects, problems })
    }
}

/// Sorts objects, those that need attention first.
fn bounded(mut objects: Vec<ObjectStatus>) -> Items<ObjectStatus> {
    let is_last = |object: &ObjectStatus| object.ready == "True" || object.expected;
    objects.sort_by(|a, b| {
        (is_last(a), &a.kind, &a.namespace, &a.name).cmp(&(is_last(b), &b.kind, &b.namespace, &b.name))
    });
    Items::bounded(objects, MAX_ITEMS)
}

async fn list(
    cluster: &ServiceCluster,
    namespace: Option<&str>,
    kind: &ApiResource,
) -> Result<Vec<DynamicObject>, String> {
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(cluster.client.clone(), namespace, kind),
        None => Api::all_with(cluster.client.clone(), kind),
    };
    let (mut objects, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
    for _ in 0..MAX_PAGES {
        let page = api.list(&params).await.map_err(|error| cluster.server.describe(&error))?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
    Ok(objects)
}

/// Returns a member of an object's status. None: it is missing, or of another version.
fn status_member<T: for<'de> Deserialize<'de>>(object: &DynamicObject, name: &str) -> Option<T> {
    T::deserialize(object.data.get("status")?.get(name)?).ok()
}

fn conditions(object: &DynamicObject) -> Vec<Condition> {
    status_member(object, "conditions").unwrap_or_default()
}

fn object_status(kind: &str, object: &DynamicObject) -> ObjectStatus {
    let conditions = conditions(object);
    let readiness = ShownReadiness::of(&conditions, object.metadata.generation);
    ObjectStatus {
        kind: kind.to_owned(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        ready: readiness.ready.to_owned(),
        reason: readiness.reason.to_owned(),
        message: readiness.message.to_owned(),
        since: readiness.since.map(|since| since.0.to_string()),
        expected: readiness.expected,
    }
}

/// Returns the state of a hook whose condition Delivering is False.
fn hook_status(object: &DynamicObject) -> Option<HookStatus> {
    let conditions = conditions(object);
    let condition =
        find_condition(&conditions, DELIVERING).filter(|condition| condition.status == "False")?;
    let report: DeliveryReport = status_member(object, "delivery").unwrap_or_default();
    // The worker wrote it before it became unreachable.
    let next_probe = report.next_probe.filter(|at| Millis::parse(at).is_some_and(|at| at > Millis::now()));
    Some(HookStatus {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        since: condition.last_transition_time.0.to_string(),
        pending: report.pending.and_then(|pending| u64::try_from(pending).ok()).unwrap_or_default(),
        next_probe_time: next_probe,
        expected: condition.reason == "Paused",
    })
}
