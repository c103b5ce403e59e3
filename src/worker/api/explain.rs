//! `GET .../events/{id}/explain`: the deliveries of an event, and why other hooks have none. The deliveries come from
//! the store. For the other hooks, the current specs are evaluated.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use kube::ResourceExt;

use super::catalogue::{HIDDEN_VALUE, filter_result};
use super::hold::HoldFinder;
use super::responses::{DeliveryResponse, ExplainResponse, ExplainedDelivery, UnmatchedHook};
use super::state::{ApiState, EventPath, RESOURCE, event_not_found, store_problem};
use super::why::UnmatchedReason;
use super::{listing, query, why};
use crate::cluster::Permission;
use crate::core::filter::FilterInput;
use crate::core::time::Millis;
use crate::worker::decide::{Decision, decide, decide_again};
use crate::worker::problem::HttpProblem;
use crate::worker::report::delivering_condition;
use crate::worker::request::ValidPath;
use crate::worker::store;

/// The most hooks without a delivery that a response lists. A namespace may have a hundred thousand.
const MAX_UNMATCHED: usize = 500;
/// The time limit for evaluating filters, for all hooks of one response together.
const EVALUATE_TIMEOUT: Duration = Duration::from_secs(1);

pub async fn explain(
    State(api): State<Arc<ApiState>>,
    ValidPath(EventPath { namespace, event }): ValidPath<EventPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<ExplainResponse>, HttpProblem> {
    let access = Permission::new(&namespace, "get", RESOURCE);
    api.authorize(&headers, access).await?;
    let deliveries_only = query::parse_deliveries_only(uri.query())?;
    let shows_values = api.is_authorized(&headers, access.with_subresource("payload")).await?;
    let found = api.store.explain(&namespace, &event).await.map_err(|error| store_problem(&error))?;
    let found = found.ok_or_else(event_not_found)?;
    let others = match deliveries_only {
        true => None,
        false => Some(find_others(&api, &namespace, &found).await?),
    };
    // On a blocking thread: each filter may take some milliseconds.
    let response = move || build_response(&api, &namespace, found, others, shows_values, Millis::now());
    let response = tokio::task::spawn_blocking(response).await;
    response.map(Json).map_err(|_| HttpProblem::new(500, "Failed", "the event could not be explained"))
}

/// The hooks without a delivery of the event.
struct OtherHooks {
    /// Those that the response lists, by name.
    names: Vec<Arc<str>>,
    left_out: usize,
}

/// Finds the hooks of the namespace that have no delivery of the event. Among the lists, whose threads are few and divided between
/// tenants: the first reader of the table builds it, and the explanations of one tenant must not block a thread each meanwhile.
async fn find_others(
    api: &Arc<ApiState>,
    namespace: &str,
    found: &store::EventExplanation,
) -> Result<OtherHooks, HttpProblem> {
    // Compare names and not uids, because another hook of the same name may have adopted the delivery.
    let with_delivery: HashSet<Arc<str>> =
        found.deliveries.iter().map(|record| record.hook.name.clone()).collect();
    let source = found.event.family().to_owned();
    let deliveries_left_out = found.left_out;
    // It is unknown which of these hooks have one of the deliveries that were left out, so list none of them.
    let limit = if deliveries_left_out > 0 { 0 } else { MAX_UNMATCHED };
    let (api, listed) = (api.clone(), namespace.to_owned());
    let read = move || api.hook_table.read(|table| table.others(&listed, &with_delivery, &source, limit));
    let (names, total) = listing::build(namespace, read).await?;
    let left_out = total.saturating_sub(deliveries_left_out).saturating_sub(limit);
    Ok(OtherHooks { names, left_out })
}

/// Builds the response. `others`: None without the hooks that have no delivery. `shows_values`: the client may read the event's
/// data, so that errors of filters may have values of it.
fn build_response(
    api: &ApiState,
    namespace: &str,
    found: store::EventExplanation,
    others: Option<OtherHooks>,
    shows_values: bool,
    now: Millis,
) -> ExplainResponse {
    let hide_values = |decision| match decision {
        Decision::Undecided(_) if !shows_values => Decision::Undecided(HIDDEN_VALUE.into()),
        decision => decision,
    };
    let mut response = ExplainResponse::of(&found.event, found.accepted);
    let started = Instant::now();
    let mut holds = HoldFinder::new(api, now);
    for record in found.deliveries {
        let hook = api.index.get(&record.hook.uid);
        let object = api.view.hook(namespace, &record.hook.name);
        let condition = object.as_ref().and_then(|hook| delivering_condition(hook.0.as_ref().ok()?));
        let health = why::HookHealth::of(hook.as_ref().map(|hook| hook.spec()), condition);
        // Evaluated again, to name the expression and the value: the store keeps only the reason.
        let undecided = match &hook {
            Some(hook) if why::is_undecided(&record) && started.elapsed() < EVALUATE_TIMEOUT => {
                match hide_values(decide_again(hook, &found.event)) {
                    Decision::Undecided(why) => Some(why),
                    Decision::Deliver(_) | Decision::Skip => None,
                }
            }
            _ => None,
        };
        let health = health.with_breaker(api.reports.breakers.get(&record.hook.uid));
        let explanation = why::explain_delivery(&record, &health, undecided.as_deref(), now);
        let held = holds.find(&record);
        let delivery = DeliveryResponse::from(record).with_hold(held);
        response.deliveries.push(ExplainedDelivery { delivery, explanation });
    }
    response.deliveries_left_out = found.left_out;
    let Some(others) = others else { return response };
    response.others_left_out = others.left_out;
    let input = FilterInput::new(&found.event);
    for object in others.names.iter().filter_map(|name| api.view.hook(namespace, name)) {
        let hook = object.uid().and_then(|uid| api.index.get(&uid));
        let evaluate = || {
            let in_time = started.elapsed() < EVALUATE_TIMEOUT;
            hook.as_ref().filter(|_| in_time).map(|hook| hide_values(decide(hook, &found.event)))
        };
        let (reason, explanation) = why::explain_unmatched(&found.event, found.accepted, &object, evaluate);
        let filter = hook.as_ref().and_then(|hook| hook.hook.as_ref().ok()?.filter.as_ref());
        // Only where the filter decided, and with its parts, which show a user which one did.
        let is_evaluated = matches!(reason, UnmatchedReason::Filtered | UnmatchedReason::MatchesNow)
            && started.elapsed() < EVALUATE_TIMEOUT;
        let filter = filter.filter(|_| is_evaluated).map(|filter| {
            let result = filter_result(filter, &input);
            if shows_values { result } else { result.without_values() }
        });
        response.others.push(UnmatchedHook {
            hook: object.name_any(),
            reason: reason.into(),
            explanation,
            filter,
        });
    }
    response
}
