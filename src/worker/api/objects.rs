//! `GET .../objects`: the objects of every kind with their readiness and what the vendor has of them, from memory.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use http::{HeaderMap, Uri};
use kube::Resource;
use schemars::JsonSchema;
use serde::Serialize;

use super::keyset::{Position, Positioned, page};
use super::listing;
use super::query::{
    CONTINUE, LIMIT, Page, Parameter, invalid_parameter, parse_page_parameter, parse_parameters,
};
use super::readiness::{ObjectResponse, VendorObject, readiness, ready_of};
use super::route::{ApiRoute, schema};
use super::scope::{ListScope, covers};
use super::state::{ApiState, RESOURCE};
use crate::api::{Connection, EventStream, LastError, Reenable, ServerStatus};
use crate::cluster::{DeserializeGuard, ObjectKey, ObjectStore, Permission};
use crate::worker::problem::HttpProblem;

/// The kinds, in the order of the list.
const KINDS: [&str; 4] = ["Connection", "EventHook", "EventStream", "Hook"];
const READY: [&str; 3] = ["True", "False", "Unknown"];
/// The reasons of Ready for a difference at the vendor that is not repaired: a policy forbids the write, or the vendor did not
/// keep it.
const DRIFT: [&str; 2] = ["Differs", "NotKept"];
/// The order of the list, in its tokens.
const ORDER: &str = "kind";

const PARAMETERS: [Parameter; 4] = [
    Parameter::list("kind", "One or several of Connection, EventHook, EventStream, Hook"),
    Parameter::list("ready", "One or several of True, False, Unknown"),
    LIMIT,
    CONTINUE,
];

pub fn routes() -> Vec<ApiRoute> {
    let all = |path, id, summary| {
        ApiRoute::get(path, id, summary, "list deliveries", schema::<ObjectListResponse>, get(list))
            .parameters(&PARAMETERS)
    };
    vec![
        all(
            "/v1/objects",
            "listObjectsOfAll",
            "List the objects of all namespaces, their readiness and what the vendor has of them",
        ),
        all(
            "/v1/namespaces/{namespace}/objects",
            "listObjects",
            "List objects, their readiness and what the vendor has of them",
        ),
    ]
}

/// A page of objects, sorted by kind, namespace and name.
#[derive(Serialize, JsonSchema)]
struct ObjectListResponse {
    items: Vec<ManagedObjectResponse>,
    /// The token of the next page; null on the last page.
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// An object with its readiness and what the vendor has of it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManagedObjectResponse {
    #[serde(flatten)]
    object: ObjectResponse,
    /// The Connection that it names.
    connection: Option<String>,
    /// The vendor's id.
    external_id: Option<String>,
    /// The admin API that has it.
    endpoint: Option<String>,
    /// What differs at the vendor and is not repaired: the message of the reasons `Differs` and `NotKept`. Null: nothing is
    /// known to differ.
    drift: Option<String>,
    last_error: Option<LastErrorResponse>,
    /// Only for an EventStream.
    stream: Option<StreamResponse>,
    /// Only for a Connection: the version that the admin API reports.
    version: Option<String>,
}

/// The last error of a vendor's admin API.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LastErrorResponse {
    http_status: Option<i32>,
    code: Option<String>,
    message: String,
    request_id: Option<String>,
    time: Option<String>,
}

/// The state of an event stream at Auth0.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StreamResponse {
    /// `enabled` or `disabled`. Null: not known yet.
    server_status: Option<&'static str>,
    /// True if Auth0 disabled it, because its receiver failed.
    disabled_by_vendor: bool,
    /// True if the controller enables it again when the worker answers; otherwise a user must (`hookstream.dev/resume`).
    recovers: bool,
    /// When the controller last enabled it after Auth0 had disabled it.
    reenabled_time: Option<String>,
}

/// The query of a list of objects.
#[derive(Debug, Default, PartialEq)]
struct ObjectQuery {
    /// Empty: all.
    kinds: Vec<String>,
    /// Empty: all.
    ready: Vec<String>,
    limit: usize,
    after: Option<Position>,
}

/// A rendered object, and its position.
struct Candidate {
    rank: i64,
    key: ObjectKey,
    object: ManagedObjectResponse,
}

impl Positioned for Candidate {
    fn position(&self) -> (i64, &str, &str) {
        (self.rank, &self.key.namespace, &self.key.name)
    }
}

/// Lists the objects of one namespace, or of all with the permission in all of them.
async fn list(
    State(api): State<Arc<ApiState>>,
    ListScope(scope): ListScope,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<ObjectListResponse>, HttpProblem> {
    api.authorize_list(&headers, Permission::new(&scope, "list", RESOURCE)).await?;
    let query = parse_query(uri.query())?;
    let listed = scope.clone();
    listing::build(&listed, move || build_list(&api, &scope, &query)).await.map(Json)
}

fn parse_query(query: Option<&str>) -> Result<ObjectQuery, HttpProblem> {
    let (mut parsed, mut part) = (ObjectQuery::default(), Page::default());
    for (name, value) in parse_parameters(query, &PARAMETERS)? {
        match name {
            "kind" => parsed.kinds = parse_choices(name, &value, &KINDS)?,
            "ready" => parsed.ready = parse_choices(name, &value, &READY)?,
            "continue" => parsed.after = Some(Position::parse(&value, ORDER)?),
            _ => parse_page_parameter(name, &value, &mut part)?,
        }
    }
    parsed.limit = part.limit;
    Ok(parsed)
}

fn parse_choices(name: &str, value: &str, choices: &[&str]) -> Result<Vec<String>, HttpProblem> {
    let parse = |text: &str| match choices.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(invalid_parameter(name, &format!("must be one of {}", choices.join(", ")))),
    };
    value.split(',').map(parse).collect()
}

fn build_list(api: &ApiState, scope: &str, query: &ObjectQuery) -> ObjectListResponse {
    let view = &api.view;
    let mut found = Vec::new();
    // In the order of `KINDS`. A kind before that of the last page's end, or behind a full page, is not rendered.
    for (rank, kind) in (0_i64..).zip(KINDS) {
        let is_selected = query.kinds.is_empty() || query.kinds.iter().any(|wanted| wanted == kind);
        let is_shown = query.after.as_ref().is_none_or(|after| after.rank <= rank);
        if !is_selected || !is_shown || found.len() > query.limit {
            continue;
        }
        match kind {
            "Connection" => collect(&view.connections, (rank, kind), scope, query, &mut found),
            "EventHook" => collect(&view.hooks, (rank, kind), scope, query, &mut found),
            "EventStream" => collect(&view.streams, (rank, kind), scope, query, &mut found),
            _ => collect(&view.auth0_hooks, (rank, kind), scope, query, &mut found),
        }
    }
    let (shown, next) = page(found, None, query.limit);
    ObjectListResponse {
        items: shown.into_iter().map(|candidate| candidate.object).collect(),
        next: next.map(|next| next.token(ORDER)),
    }
}

/// Adds one page of a kind, and one object more if there are more.
fn collect<K>(
    store: &ObjectStore<K>,
    (rank, kind): (i64, &'static str),
    scope: &str,
    query: &ObjectQuery,
    found: &mut Vec<Candidate>,
) where
    K: Resource<DynamicType = ()> + VendorObject + Clone + 'static,
{
    let mut selected: Vec<Selected<K>> = Vec::new();
    for guard in store.all() {
        let is_covered = covers(scope, guard.meta().namespace.as_deref().unwrap_or_default());
        // An object that is being deleted is not synced any more.
        if !is_covered || guard.meta().deletion_timestamp.is_some() {
            continue;
        }
        let ready = || ready_of(&guard);
        if query.ready.is_empty() || query.ready.iter().any(|wanted| wanted == ready()) {
            selected.push(Selected { rank, guard });
        }
    }
    let (shown, _) = page(selected, query.after.as_ref(), query.limit + 1);
    found.extend(shown.into_iter().map(|selected| {
        let object = ManagedObjectResponse::of(kind, &selected.guard);
        Candidate { rank, key: ObjectKey::of(&*selected.guard), object }
    }));
}

struct Selected<K> {
    rank: i64,
    guard: Arc<DeserializeGuard<K>>,
}

impl<K: Resource<DynamicType = ()>> Positioned for Selected<K> {
    fn position(&self) -> (i64, &str, &str) {
        let meta = self.guard.meta();
        let name = meta.name.as_deref().unwrap_or_default();
        (self.rank, meta.namespace.as_deref().unwrap_or_default(), name)
    }
}

impl ManagedObjectResponse {
    fn of<K>(kind: &'static str, guard: &DeserializeGuard<K>) -> Self
    where
        K: Resource<DynamicType = ()> + VendorObject,
    {
        let object = readiness(kind, guard);
        let found = guard.0.as_ref().ok();
        let external = found.and_then(VendorObject::external);
        ManagedObjectResponse {
            connection: found.and_then(VendorObject::connection).map(ToOwned::to_owned),
            external_id: external.map(|external| external.id.clone()),
            endpoint: external.map(|external| external.endpoint.clone()),
            drift: DRIFT.contains(&&*object.reason).then(|| object.message.clone()),
            last_error: found.and_then(VendorObject::last_error).map(LastErrorResponse::of),
            stream: found.and_then(VendorObject::stream).map(StreamResponse::of),
            version: found.and_then(VendorObject::connection_object).and_then(version_of),
            object,
        }
    }
}

fn version_of(connection: &Connection) -> Option<String> {
    connection.status.as_ref()?.version.clone()
}

impl LastErrorResponse {
    fn of(error: &LastError) -> Self {
        LastErrorResponse {
            http_status: error.http_status,
            code: error.code.clone(),
            message: error.message.clone(),
            request_id: error.request_id.clone(),
            time: error.time.clone(),
        }
    }
}

impl StreamResponse {
    fn of(stream: &EventStream) -> Self {
        let status = stream.status.as_ref();
        let server_status = status.and_then(|status| status.server_status);
        // Disabled although the controller configured it as enabled.
        let is_enabled = status.and_then(|status| status.applied.as_ref()?.enabled) == Some(true);
        let worker = stream.spec.destination.worker.as_ref();
        let never = worker.and_then(|worker| worker.recovery.as_ref()?.reenable) == Some(Reenable::Never);
        StreamResponse {
            server_status: server_status.map(Into::into),
            disabled_by_vendor: server_status == Some(ServerStatus::Disabled) && is_enabled,
            recovers: worker.is_some() && !never,
            reenabled_time: status.and_then(|status| status.reenabled_at.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::worker::index::testing::hook;

    #[test]
    fn parses_kinds_and_readiness() {
        let parsed = parse_query(Some("kind=Hook,EventStream&ready=False&ready=Unknown&limit=3")).unwrap();
        assert_eq!(parsed.kinds, ["Hook", "EventStream"]);
        assert_eq!((parsed.ready, parsed.limit), (vec!["False".to_owned(), "Unknown".to_owned()], 3));
        for query in ["kind=Secret", "ready=true", "x=1", "continue=1"] {
            assert_eq!(parse_query(Some(query)).unwrap_err().status, 400, "{query}");
        }
    }

    #[test]
    fn difference_that_is_not_repaired_is_drift() {
        for (reason, is_drift) in [("Differs", true), ("NotKept", true), ("Unreachable", false)] {
            let mut guard = hook("h", "u", json!({"connectionRef": {"name": "kong"}}));
            let condition = json!({"type": "Ready", "status": "False", "reason": reason, "message": "field x",
                "lastTransitionTime": "2023-11-14T22:13:20Z"});
            let status = json!({"conditions": [condition], "lastError": {"httpStatus": 500, "message": "m"}});
            guard.0.as_mut().unwrap().status = Some(serde_json::from_value(status).unwrap());
            let shown = ManagedObjectResponse::of("EventHook", &guard);
            assert_eq!(shown.drift.as_deref(), is_drift.then_some("field x"), "{reason}");
            assert_eq!(shown.last_error.unwrap().http_status, Some(500));
            assert_eq!(shown.connection.as_deref(), Some("kong"));
        }
    }

    #[test]
    fn stream_that_a_user_disabled_is_not_disabled_by_the_vendor() {
        let stream = |enabled: bool, server: &str, recovery: Value| {
            let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventStream",
                "metadata": {"name": "s", "namespace": "n"},
                "spec": {"connectionRef": {"name": "c"}, "name": "s", "subscriptions": [],
                    "destination": {"worker": {"recovery": recovery}}},
                "status": {"serverStatus": server, "reenabledAt": "2026-01-02T03:04:05Z",
                    "applied": {"destination": "Worker", "enabled": enabled}}});
            StreamResponse::of(&serde_json::from_value(object).unwrap())
        };
        let disabled = stream(true, "disabled", json!({}));
        assert!(disabled.disabled_by_vendor && disabled.recovers && disabled.reenabled_time.is_some());
        assert!(!stream(false, "disabled", json!({})).disabled_by_vendor);
        assert!(!stream(true, "enabled", json!({})).disabled_by_vendor);
        assert!(!stream(true, "disabled", json!({"reenable": "Never"})).recovers);
    }
}
