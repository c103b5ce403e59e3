//! Kong's read side: a namespace's hooks in the shape of Kong's admin API, its sources, and test and ping.
//!
//! Tools that read Kong's event hooks read these; what changes hooks is the cluster. A hook is meant by its id at Kong, by
//! its uid, or by its name.

mod list;
mod run;
mod shape;

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::HeaderMap;
use kube::Resource;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use crate::api::EventHook;
use crate::cluster::{Access, Guarded};
use crate::core::catalogue;
use crate::worker::problem::Problem;
use crate::worker::request::{InPath, Names, is_name};

/// The resource of all rights here.
const RESOURCE: &str = "eventhooks";

pub fn routes() -> Router<Arc<Api>> {
    let kong = |path: &str| format!("/kong/{{namespace}}/event-hooks{path}");
    // Kong's pages write some of the paths with a slash at the end.
    Router::new()
        .route(&kong(""), get(list::list))
        .route(&kong("/"), get(list::list))
        .route(&kong("/sources"), get(all_sources))
        .route(&kong("/sources/"), get(all_sources))
        .route(&kong("/sources/{source}"), get(one_source))
        .route(&kong("/sources/{source}/"), get(one_source))
        .route(&kong("/sources/{source}/{event}"), get(one_event))
        .route(&kong("/{id}"), get(list::show))
        .route(&kong("/{id}/test"), post(run::test))
        .route(&kong("/{id}/ping"), get(run::ping))
}

/// A hook in a request's path.
#[derive(Deserialize)]
struct OfHook {
    namespace: String,
    id: String,
}

impl Names for OfHook {
    fn possible(&self) -> bool {
        is_name(&self.namespace, 63) && is_name(&self.id, 253)
    }
}

/// Sources are any texts: what is not known is not found.
#[derive(Deserialize)]
struct OfSource {
    namespace: String,
    source: String,
    event: Option<String>,
}

impl Names for OfSource {
    fn possible(&self) -> bool {
        is_name(&self.namespace, 63)
    }
}

async fn all_sources(
    State(api): State<Arc<Api>>,
    InPath(namespace): InPath<String>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    tell(&api, &headers, &namespace, &[]).await
}

async fn one_source(
    State(api): State<Arc<Api>>,
    InPath(path): InPath<OfSource>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    tell(&api, &headers, &path.namespace, &[&path.source]).await
}

async fn one_event(
    State(api): State<Arc<Api>>,
    InPath(path): InPath<OfSource>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let event = path.event.as_deref().unwrap_or_default();
    tell(&api, &headers, &path.namespace, &[&path.source, event]).await
}

async fn tell(
    api: &Api,
    headers: &HeaderMap,
    namespace: &str,
    names: &[&str],
) -> Result<Json<Value>, Problem> {
    api.may(headers, Access::new(namespace, "list", RESOURCE)).await?;
    let found = catalogue::told(names).ok_or_else(|| {
        let detail = "no such source or event in the catalogue; those of custom plugins are not in it";
        Problem::new(404, "NotFound", detail)
    })?;
    Ok(Json(json!({ "data": found })))
}

impl Api {
    /// The hooks of a namespace that can be read.
    fn hooks(&self, namespace: &str) -> Vec<Arc<Guarded<EventHook>>> {
        let of_it = |hook: &Arc<Guarded<EventHook>>| {
            hook.meta().namespace.as_deref() == Some(namespace) && hook.0.is_ok()
        };
        self.view.hooks.state().into_iter().filter(of_it).collect()
    }

    /// The hook of this id, uid or name.
    fn hook(&self, of: &OfHook) -> Result<Arc<Guarded<EventHook>>, Problem> {
        let hooks = self.hooks(&of.namespace);
        let by = |test: fn(&EventHook, &str) -> bool| {
            hooks.iter().find(|hook| hook.0.as_ref().is_ok_and(|hook| test(hook, &of.id)))
        };
        let found = by(|hook, id| shape::id(hook) == id)
            .or_else(|| by(|hook, id| hook.metadata.uid.as_deref() == Some(id)))
            .or_else(|| by(|hook, id| hook.metadata.name.as_deref() == Some(id)));
        found.cloned().ok_or_else(|| {
            Problem::new(404, "NotFound", format!("there is no hook {} in this namespace", of.id))
        })
    }
}
