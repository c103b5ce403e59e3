//! Test and ping: runs a hook once on request.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{HookPath, RESOURCE, shape};
use crate::api::{EventHook, HandlerKind};
use crate::cluster::Permission;
use crate::core::event::{Event, InvalidEvent, parse_test_data};
use crate::core::hook::{CompiledHook, validate};
use crate::worker::api::state::ApiState;
use crate::worker::body::{BodySender, ReadBody, read_body};
use crate::worker::handlers::{HandlerOutcome, ShownTest, TestResult, ping_event, posted_event, shown_data};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

/// Runs the handler with the posted members as the event's data. The response has Kong's format: the data, with source
/// and event, and the result.
pub async fn test(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<HookPath>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ShownTest>, HttpProblem> {
    api.authorize(&headers, Permission::new(&path.namespace, "create", RESOURCE).with_subresource("test"))
        .await?;
    let max = api.max_event_bytes;
    let namespace = path.namespace.as_str().into();
    let sender = BodySender::Authorized { memory: api.memory.requests(), namespace: &namespace };
    let body = read_body(body, &headers, max, sender).await;
    let ReadBody { bytes: body, memory: _reserved } =
        body.map_err(|error| HttpProblem::unreadable_body(&error, || HttpProblem::event_too_big(max)))?;
    // The posted text stays unchanged, so that numbers keep their notation. An empty body is an empty object.
    let posted: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let (posted, named) = parse_test_data(posted).map_err(|error| match error {
        InvalidEvent::NotJson(problem) => HttpProblem::new(
            400,
            "NotJson",
            format!("the body must be a JSON object, the event's data: {problem}"),
        ),
        other => other.into(),
    })?;
    let hook = api.compile_hook(&path)?.1;
    let event = hook.event.as_deref().or(named.as_deref());
    let event = posted_event(&hook, event, posted);
    let data = shown_data(&event).map_err(|error| not_shown(&error))?;
    let result = api.runner.test(&hook, event).await.map_err(test_problem)?;
    Ok(Json(ShownTest { data, result }))
}

/// Sends Kong's ping to the hook's address. The response is the ping's body.
pub async fn ping(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<HookPath>,
    headers: HeaderMap,
) -> Result<Json<Box<RawValue>>, HttpProblem> {
    api.authorize(&headers, Permission::new(&path.namespace, "create", RESOURCE).with_subresource("ping"))
        .await?;
    let (object, hook) = api.compile_hook(&path)?;
    let kind = hook.handler.kind();
    if kind != HandlerKind::Webhook {
        return Err(not_pingable(kind));
    }
    let event = kong_ping(&object, &hook)?;
    let sent = shown_data(&event).map_err(|error| not_shown(&error))?;
    match api.runner.test(&hook, event).await.map_err(test_problem)? {
        TestResult::Answer { status, .. } if !(200..300).contains(&status) => {
            Err(HttpProblem::new(502, "Status", format!("the receiver answered {status}")))
        }
        _ => Ok(Json(sent)),
    }
}

/// Returns the problem for a hook whose handler has no ping.
pub fn not_pingable(kind: HandlerKind) -> HttpProblem {
    let kind: &str = kind.into();
    let detail = format!("handler {kind} cannot be pinged: use test, because only Webhook supports ping");
    HttpProblem::new(400, "NotPingable", detail)
}

/// Returns the event of Kong's ping to a webhook.
pub fn kong_ping(object: &EventHook, hook: &CompiledHook) -> Result<Event, HttpProblem> {
    let mut shown = shape::kong_hook(object);
    // Show the content type that is sent, even if the hook sets none.
    if let Some(headers) = shown.pointer_mut("/config/headers").and_then(Value::as_object_mut)
        && !headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        headers.insert("content-type".into(), "application/json".into());
    }
    ping_event(hook, &shown).map_err(|error| not_shown(&error))
}

impl ApiState {
    /// Returns the hook's object and its compiled spec.
    fn compile_hook(&self, path: &HookPath) -> Result<(EventHook, CompiledHook), HttpProblem> {
        let guarded = self.find_hook(path)?;
        let object =
            guarded.0.as_ref().map_err(|_| HttpProblem::new(404, "NotFound", "the hook cannot be read"))?;
        let hook = validate(object).map_err(|invalid| {
            HttpProblem::new(409, (&invalid).into(), format!("the hook's spec is invalid: {invalid}"))
        })?;
        Ok((object.clone(), hook))
    }
}

/// Returns the problem for data that cannot be written as JSON.
fn not_shown(error: &serde_json::Error) -> HttpProblem {
    HttpProblem::new(500, "Failed", format!("the event's data cannot be written: {error}"))
}

/// Returns the problem for a test without a response.
fn test_problem(outcome: HandlerOutcome) -> HttpProblem {
    match outcome {
        HandlerOutcome::NotReady { reason, detail } => HttpProblem::new(409, reason, detail),
        HandlerOutcome::Postponed { reason, detail } => HttpProblem::new(503, reason, detail),
        HandlerOutcome::Failed { reason, detail } | HandlerOutcome::PartlyFailed { reason, detail, .. } => {
            HttpProblem::new(502, reason.as_str(), detail)
        }
        HandlerOutcome::Undeliverable { reason, detail } => HttpProblem::new(502, reason.as_str(), detail),
        HandlerOutcome::Answered { .. } | HandlerOutcome::Completed => {
            HttpProblem::new(502, "Failed", "the handler returned no result")
        }
    }
}
