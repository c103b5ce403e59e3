//! `POST .../hooks/{name}/test` and `/ping`: runs a hook once on request, and shows what it sent and received as the history
//! shows a delivery.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{HookPath, find};
use crate::api::{EventHook, HandlerKind};
use crate::cluster::Permission;
use crate::core::event::{Event, parse_test_data};
use crate::core::hook::{CompiledHook, validate};
use crate::worker::api::kong::{kong_ping, not_pingable};
use crate::worker::api::query::{self, invalid_parameter};
use crate::worker::api::state::{ApiState, MAX_EVENT_ID, RESOURCE, event_not_found, store_problem};
use crate::worker::body::{BodySender, ReadBody, read_body};
use crate::worker::handlers::{FunctionResult, HandlerOutcome, TestRun, posted_event};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;
use crate::worker::store::Exchange;

/// The RBAC resource of the permissions for test runs.
const HOOKS: &str = "eventhooks";

/// What a hook is run on: a stored event, or data. Without either, data without members.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {
    /// The id of a stored event of the namespace.
    event: Option<String>,
    /// The data of an event that is not stored: an object.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    data: Option<Box<RawValue>>,
    /// The name of that event. Without it, the event that the hook names, or `test`.
    name: Option<String>,
}

/// What a test run did.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestResponse {
    /// True if a delivery with this outcome would be delivered.
    delivered: bool,
    /// Why not, as in an attempt: `Status`, `Timeout`, `SecretMissing`, ...
    reason: Option<String>,
    detail: Option<String>,
    /// The status of the receiver's response.
    status: Option<u16>,
    duration_ms: u64,
    source: String,
    event: String,
    /// The request and the response, bounded and without secrets. Null if the handler sends none, or could not build one.
    exchange: Option<Exchange>,
    /// The results of the Lua functions. Empty for other handlers.
    functions: Vec<FunctionResponse>,
}

/// The result of a Lua function.
#[derive(Serialize, JsonSchema)]
struct FunctionResponse {
    /// True if it ran to its end.
    ok: bool,
    result: Option<Value>,
    error: Option<String>,
}

/// Runs the handler with a stored event or with data of the body.
pub async fn test(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<HookPath>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TestResponse>, HttpProblem> {
    api.authorize(&headers, Permission::new(&path.namespace, "create", HOOKS).with_subresource("test"))
        .await?;
    query::reject_parameters(uri.query())?;
    let namespace = path.namespace.as_str().into();
    let sender = BodySender::Authorized { memory: api.memory.requests(), namespace: &namespace };
    let max = api.max_event_bytes;
    let body = read_body(body, &headers, max, sender).await;
    let ReadBody { bytes: body, memory: _reserved } =
        body.map_err(|error| HttpProblem::unreadable_body(&error, || HttpProblem::event_too_big(max)))?;
    let request = parse_request(&body)?;
    // The request shows the event's data.
    if request.event.is_some() {
        let payload = Permission::new(&path.namespace, "get", RESOURCE).with_subresource("payload");
        api.authorize(&headers, payload).await?;
    }
    let (_, hook) = compile(&api, &path)?;
    let event = match request.event {
        Some(id) => stored_event(&api, &path.namespace, &id).await?,
        None => given_event(&hook, request.data, request.name)?,
    };
    Ok(Json(run(&api, &hook, event).await))
}

/// Sends Kong's ping to the hook's receiver.
pub async fn ping(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<HookPath>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<TestResponse>, HttpProblem> {
    api.authorize(&headers, Permission::new(&path.namespace, "create", HOOKS).with_subresource("ping"))
        .await?;
    query::reject_parameters(uri.query())?;
    let (object, hook) = compile(&api, &path)?;
    let kind = hook.handler.kind();
    if kind != HandlerKind::Webhook {
        return Err(not_pingable(kind));
    }
    let event = kong_ping(&object, &hook)?;
    Ok(Json(run(&api, &hook, event).await))
}

fn parse_request(body: &[u8]) -> Result<TestRequest, HttpProblem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let request: TestRequest = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("the body must be {{\"data\": {{...}}}} or {{\"event\": \"ID\"}}: {error}");
        HttpProblem::new(400, "BadBody", detail)
    })?;
    if request.event.is_some() && (request.data.is_some() || request.name.is_some()) {
        return Err(HttpProblem::new(
            400,
            "BadBody",
            "event excludes data and name: a stored event has both",
        ));
    }
    let is_valid =
        |text: &Option<String>| text.as_ref().is_none_or(|t| (1..=MAX_EVENT_ID).contains(&t.len()));
    if !is_valid(&request.event) || !is_valid(&request.name) {
        return Err(invalid_parameter("event, name", &format!("must have 1 to {MAX_EVENT_ID} bytes")));
    }
    Ok(request)
}

async fn stored_event(api: &ApiState, namespace: &str, id: &str) -> Result<Event, HttpProblem> {
    let found = api.store.explain(namespace, id).await.map_err(|error| store_problem(&error))?;
    found.map(|found| (*found.event).clone()).ok_or_else(event_not_found)
}

/// Creates the event that the body describes. The data keeps its text, so that numbers keep their notation.
fn given_event(
    hook: &CompiledHook,
    data: Option<Box<RawValue>>,
    name: Option<String>,
) -> Result<Event, HttpProblem> {
    let data = data.as_ref().map_or("{}", |data| data.get());
    let (data, named) = parse_test_data(data.as_bytes())?;
    let name = name.as_deref().or(hook.event.as_deref()).or(named.as_deref());
    Ok(posted_event(hook, name, data))
}

/// Returns the hook's object and its compiled spec.
fn compile(api: &ApiState, path: &HookPath) -> Result<(EventHook, CompiledHook), HttpProblem> {
    let guard = find(api, path)?;
    let object = guard.0.as_ref().map_err(|invalid| {
        HttpProblem::new(409, "InvalidObject", format!("the hook cannot be read: {}", invalid.error))
    })?;
    let hook = validate(object).map_err(|invalid| {
        HttpProblem::new(409, (&invalid).into(), format!("the hook's spec is invalid: {invalid}"))
    })?;
    Ok((object.clone(), hook))
}

async fn run(api: &ApiState, hook: &CompiledHook, event: Event) -> TestResponse {
    let (source, name) = (event.source.clone(), event.event.clone());
    let started = Instant::now();
    let TestRun { outcome, exchange, functions } = api.runner.run_once(hook, event).await;
    let delivered = outcome.is_success();
    TestResponse {
        delivered,
        reason: (!delivered).then(|| outcome.label().to_owned()),
        status: outcome.status(),
        detail: detail_of(outcome),
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        source,
        event: name,
        exchange: exchange.map(|exchange| *exchange),
        functions: functions.into_iter().map(FunctionResponse::from).collect(),
    }
}

fn detail_of(outcome: HandlerOutcome) -> Option<String> {
    match outcome {
        HandlerOutcome::Answered { detail, .. } => detail,
        HandlerOutcome::Completed => None,
        HandlerOutcome::Failed { detail, .. }
        | HandlerOutcome::PartlyFailed { detail, .. }
        | HandlerOutcome::Undeliverable { detail, .. }
        | HandlerOutcome::NotReady { detail, .. }
        | HandlerOutcome::Postponed { detail, .. } => Some(detail),
    }
}

impl From<FunctionResult> for FunctionResponse {
    fn from(result: FunctionResult) -> Self {
        match result {
            FunctionResult::Result { ok, result } => {
                FunctionResponse { ok, result: Some(result), error: None }
            }
            FunctionResult::Error { ok, error } => FunctionResponse { ok, result: None, error: Some(error) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_names_an_event_or_data() {
        assert!(parse_request(b"").unwrap().event.is_none());
        let given = parse_request(br#"{"data": {"n": 1.50}, "name": "paid"}"#).unwrap();
        assert_eq!((given.data.unwrap().get(), given.name.as_deref()), (r#"{"n": 1.50}"#, Some("paid")));
        for (body, part) in [
            ("[]", "the body must be"),
            (r#"{"event": "1", "data": {}}"#, "event excludes data"),
            (r#"{"event": ""}"#, "must have 1 to"),
            (r#"{"evnt": "1"}"#, "evnt"),
        ] {
            let problem = parse_request(body.as_bytes()).err().unwrap();
            assert!(problem.status == 400 && problem.detail.contains(part), "{body}: {}", problem.detail);
        }
    }
}
