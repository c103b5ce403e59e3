//! Hooks with the state of their deliveries: a list, one hook, and test runs.
//!
//! What the worker measures of a hook (percentiles, breaker, timeline) is of this process since its start. With several
//! workers, only the one that sends the hook's deliveries has it.

mod facts;
mod list;
mod query;
mod run;
mod show;
mod shown_state;
mod spec;
pub mod table;

use axum::routing::{get, post};
use kube::Resource;
use serde::Deserialize;

use super::route::{ApiRoute, schema};
use super::state::ApiState;
use crate::api::EventHook;
use crate::cluster::{DeserializeGuard, ObjectKey};
use crate::core::names::{is_namespace, is_object_name};
use crate::worker::problem::HttpProblem;
use crate::worker::request::PathNames;

pub fn routes() -> Vec<ApiRoute> {
    let all = |path, id, summary| {
        ApiRoute::get(path, id, summary, "list deliveries", schema::<list::HookListResponse>, get(list::list))
            .parameters(&query::HOOK_PARAMETERS)
    };
    vec![
        all("/v1/hooks", "listHooksOfAll", "List the hooks of all namespaces and the state of their deliveries"),
        all("/v1/namespaces/{namespace}/hooks", "listHooks", "List hooks and the state of their deliveries"),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/hooks/{name}",
            "showHook",
            "Show a hook: its spec, conditions, circuit breaker and the last changes of its state",
            "get deliveries",
            schema::<show::HookDetailResponse>,
            get(show::show),
        ),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/hooks/{name}/test",
            "testHook",
            "Run a hook once, with the data of the body or with a stored event (get deliveries/payload), and show the request and the response",
            "create eventhooks/test",
            schema::<run::TestResponse>,
            post(run::test),
        )
        .request::<run::TestRequest>(),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/hooks/{name}/ping",
            "pingHook",
            "Send Kong's ping to a webhook, and show the request and the response",
            "create eventhooks/ping",
            schema::<run::TestResponse>,
            post(run::ping),
        ),
    ]
}

/// A hook in a request's path.
#[derive(Deserialize)]
struct HookPath {
    namespace: String,
    name: String,
}

impl PathNames for HookPath {
    fn are_valid(&self) -> bool {
        is_namespace(&self.namespace) && is_object_name(&self.name)
    }
}

/// Finds a hook by its name.
fn find(api: &ApiState, path: &HookPath) -> Result<std::sync::Arc<DeserializeGuard<EventHook>>, HttpProblem> {
    let HookPath { namespace, name } = path;
    api.view.hook(namespace, name).ok_or_else(|| {
        let key = ObjectKey::new(namespace, name);
        HttpProblem::new(404, "NotFound", format!("there is no hook {} in this namespace", key.name))
    })
}

/// Returns the source and the event that a hook names, as far as its spec can be read.
fn source_of(guard: &DeserializeGuard<EventHook>) -> (Option<&str>, Option<&str>) {
    match &guard.0 {
        Ok(hook) => (Some(&hook.spec.source), hook.spec.event.as_deref()),
        Err(invalid) => {
            let selector = invalid.selector.as_ref();
            (
                selector.map(|selector| &*selector.source),
                selector.and_then(|selector| selector.event.as_deref()),
            )
        }
    }
}

/// Returns the hook's uid.
fn uid_of(guard: &DeserializeGuard<EventHook>) -> &str {
    guard.meta().uid.as_deref().unwrap_or_default()
}
