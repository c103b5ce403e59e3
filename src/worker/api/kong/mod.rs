//! Kong's read side: a namespace's hooks in the format of Kong's admin API, the catalogue of sources, test and ping.
//!
//! Tools that read event hooks from Kong can read them here. Hooks are changed in the cluster only. A hook is addressed by
//! its id in Kong, by its uid, or by its name.

mod list;
mod run;
mod shape;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::{get, post};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

pub use run::{kong_ping, not_pingable};

use super::route::{ApiRoute, schema};
use super::state::ApiState;
use crate::api::EventHook;
use crate::cluster::{DeserializeGuard, Permission};
use crate::core::catalogue;
use crate::core::names::{is_namespace, is_object_name};
use crate::worker::problem::HttpProblem;
use crate::worker::request::{PathNames, ValidPath};

/// The RBAC resource of the permissions for these routes.
const RESOURCE: &str = "eventhooks";

/// Kong defines the bodies, so they are any JSON here.
type JsonBody = serde_json::Map<String, Value>;

macro_rules! kong_path {
    ($path:literal) => {
        concat!("/kong/{namespace}/event-hooks", $path)
    };
}

pub fn routes() -> Vec<ApiRoute> {
    const LIST: &str = "list eventhooks";
    let read =
        |path, id, summary, handler| ApiRoute::get(path, id, summary, LIST, schema::<JsonBody>, handler);
    // Kong's documentation writes some of the paths with a trailing slash.
    let alias = |path, handler| ApiRoute { is_alias: true, ..read(path, "", "", handler) };
    vec![
        read(kong_path!(""), "kongListHooks", "List the hooks as Kong does", get(list::list))
            .parameters(&list::PARAMETERS),
        alias(kong_path!("/"), get(list::list)),
        read(
            kong_path!("/sources"),
            "kongListSources",
            "List the sources and their events",
            get(all_sources),
        ),
        alias(kong_path!("/sources/"), get(all_sources)),
        read(
            kong_path!("/sources/{source}"),
            "kongShowSource",
            "List the events of a source",
            get(one_source),
        ),
        alias(kong_path!("/sources/{source}/"), get(one_source)),
        read(kong_path!("/sources/{source}/{event}"), "kongShowEvent", "Describe an event", get(one_event)),
        read(kong_path!("/{id}"), "kongShowHook", "Show a hook as Kong does", get(list::show)),
        ApiRoute::post(
            kong_path!("/{id}/test"),
            "kongTestHook",
            "Run a hook once; the body is the event's data",
            "create eventhooks/test",
            schema::<JsonBody>,
            post(run::test),
        )
        .request::<JsonBody>(),
        ApiRoute::get(
            kong_path!("/{id}/ping"),
            "kongPingHook",
            "Send Kong's ping to a webhook",
            "create eventhooks/ping",
            schema::<JsonBody>,
            get(run::ping),
        ),
    ]
}

/// A hook in a request's path.
#[derive(Deserialize)]
struct HookPath {
    namespace: String,
    id: String,
}

impl PathNames for HookPath {
    fn are_valid(&self) -> bool {
        is_namespace(&self.namespace) && is_object_name(&self.id)
    }
}

/// A source, and optionally an event, in a request's path. Both may be any text; the answer to an unknown one is 404.
#[derive(Deserialize)]
struct SourcePath {
    namespace: String,
    source: String,
    event: Option<String>,
}

impl PathNames for SourcePath {
    fn are_valid(&self) -> bool {
        is_namespace(&self.namespace)
    }
}

async fn all_sources(
    State(api): State<Arc<ApiState>>,
    ValidPath(namespace): ValidPath<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, HttpProblem> {
    answer_from_catalogue(&api, &headers, &namespace, &[]).await
}

async fn one_source(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<SourcePath>,
    headers: HeaderMap,
) -> Result<Json<Value>, HttpProblem> {
    answer_from_catalogue(&api, &headers, &path.namespace, &[&path.source]).await
}

async fn one_event(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<SourcePath>,
    headers: HeaderMap,
) -> Result<Json<Value>, HttpProblem> {
    let event = path.event.as_deref().unwrap_or_default();
    answer_from_catalogue(&api, &headers, &path.namespace, &[&path.source, event]).await
}

async fn answer_from_catalogue(
    api: &ApiState,
    headers: &HeaderMap,
    namespace: &str,
    names: &[&str],
) -> Result<Json<Value>, HttpProblem> {
    api.authorize(headers, Permission::new(namespace, "list", RESOURCE)).await?;
    let found = catalogue::describe(names).ok_or_else(|| {
        let detail = "the catalogue has no such source or event; it does not list those of custom plugins";
        HttpProblem::new(404, "NotFound", detail)
    })?;
    Ok(Json(json!({ "data": found })))
}

impl ApiState {
    /// Returns the hooks of a namespace whose objects can be read.
    fn readable_hooks(&self, namespace: &str) -> Vec<Arc<DeserializeGuard<EventHook>>> {
        let is_readable = |hook: &Arc<DeserializeGuard<EventHook>>| hook.0.is_ok();
        self.view.hooks.in_namespace(namespace).filter(is_readable).collect()
    }

    /// Finds a hook by id, uid or name, in this order.
    fn find_hook(&self, path: &HookPath) -> Result<Arc<DeserializeGuard<EventHook>>, HttpProblem> {
        let hooks = self.readable_hooks(&path.namespace);
        let find = |matches: fn(&EventHook, &str) -> bool| {
            hooks.iter().find(|hook| hook.0.as_ref().is_ok_and(|hook| matches(hook, &path.id)))
        };
        let found = find(|hook, id| shape::id(hook) == id)
            .or_else(|| find(|hook, id| hook.metadata.uid.as_deref() == Some(id)))
            .or_else(|| find(|hook, id| hook.metadata.name.as_deref() == Some(id)));
        found.cloned().ok_or_else(|| {
            HttpProblem::new(404, "NotFound", format!("there is no hook {} in this namespace", path.id))
        })
    }
}
