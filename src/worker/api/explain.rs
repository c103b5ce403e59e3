//! `GET .../events/{id}/explain`: what became of an event. What it matched is in the store; why other hooks did not is
//! found now, by today's hooks.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use kube::ResourceExt;

use super::shapes::{Delivery, Explained, Explanation, Other};
use super::{Api, ByEvent, RESOURCE, query, store_problem, why};
use crate::cluster::Access;
use crate::core::time::Millis;
use crate::worker::problem::Problem;
use crate::worker::report::told;
use crate::worker::request::InPath;
use crate::worker::{route, store};

/// Hooks that are told of besides the deliveries: a namespace may have a hundred thousand.
const MAX_OTHERS: usize = 500;
/// Filters are asked for so long, all in all.
const ASK_WITHIN: Duration = Duration::from_secs(1);

pub async fn explain(
    State(api): State<Arc<Api>>,
    InPath(ByEvent { namespace, event }): InPath<ByEvent>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Explanation>, Problem> {
    api.may(&headers, Access::new(&namespace, "get", RESOURCE)).await?;
    query::none(uri.query())?;
    let found = api.store.explain(&namespace, &event).await.map_err(|error| store_problem(&error))?;
    let found = found.ok_or_else(|| {
        let detail = "no event of this id was accepted in this namespace, or its time in the history is over";
        Problem::new(404, "NotFound", detail)
    })?;
    // Filters are asked, each for some milliseconds.
    let explained = move || explained(&api, &namespace, found, Millis::now());
    let explained = tokio::task::spawn_blocking(explained).await;
    explained.map(Json).map_err(|_| Problem::new(500, "Failed", "the event could not be explained"))
}

fn explained(api: &Api, namespace: &str, found: store::Explained, now: Millis) -> Explanation {
    let mut explanation = Explanation::of(&found.event, found.accepted);
    // By name too: a delivery that another hook of the name took up is that one's.
    let mut named: HashSet<Arc<str>> = HashSet::new();
    for record in found.deliveries {
        named.insert(record.hook.name.clone());
        let known = api.routes.get(&record.hook.uid);
        let object = api.view.hook(namespace, &record.hook.name);
        let told = object.as_ref().and_then(|hook| told(hook.0.as_ref().ok()?));
        let standing = why::Standing::of(known.as_ref().map(|known| known.hook.as_deref()), told);
        let text = why::became(&record, &standing, now);
        explanation.deliveries.push(Explained { delivery: Delivery::from(record), explanation: text });
    }
    let began = Instant::now();
    let mut hooks = api.view.hooks.state();
    hooks.retain(|hook| {
        hook.namespace().as_deref() == Some(namespace) && !named.contains(hook.name_any().as_str())
    });
    hooks.sort_by_cached_key(|hook| hook.name_any());
    explanation.others_left_out = hooks.len().saturating_sub(MAX_OTHERS);
    for hook in hooks.into_iter().take(MAX_OTHERS) {
        let known = hook.uid().and_then(|uid| api.routes.get(&uid));
        let ask = || {
            let in_time = began.elapsed() < ASK_WITHIN;
            known.as_ref().filter(|_| in_time).map(|known| route::decide(known, &found.event))
        };
        let (reason, text) = why::not(&found.event, found.accepted, &hook, ask);
        explanation.others.push(Other { hook: hook.name_any(), reason: reason.into(), explanation: text });
    }
    explanation
}
