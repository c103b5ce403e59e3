//! Test and ping: a hook run once, now, for who asks.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::{Api, OfHook, RESOURCE, shape};
use crate::api::{EventHook, HandlerKind};
use crate::cluster::Access;
use crate::core::hook::{Hook, validate};
use crate::worker::handlers::{Sent, Tested, ping_event, posted_event, shown_data};
use crate::worker::problem::Problem;
use crate::worker::request::{self, InPath};

/// Runs the handler with the posted members as the event's data. Kong's answer: the data, with its source and event, and
/// the result.
pub async fn test(
    State(api): State<Arc<Api>>,
    InPath(of): InPath<OfHook>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    api.may(&headers, Access::new(&of.namespace, "create", RESOURCE).part("test")).await?;
    let max = api.max_event_bytes;
    let body = request::read(body, request::content_length(&headers), max, &api.room).await;
    let body = body.map_err(|error| Problem::unread(&error, || Problem::too_big(max)))?;
    let posted: Map<String, Value> = match body.is_empty() {
        true => Map::new(),
        false => serde_json::from_slice(&body).map_err(|error| {
            Problem::new(400, "NotJson", format!("the body must be a JSON object, the event's data: {error}"))
        })?,
    };
    let hook = api.runnable(&of)?.1;
    let event = hook.event.as_deref().or(posted.get("event").and_then(Value::as_str));
    let event = posted_event(&hook, event, raw(&body));
    let data = shown_data(&event);
    let result = api.sender.test(&hook, event).await.map_err(not_sent)?;
    Ok(Json(json!({"data": data, "result": result})))
}

/// Sends Kong's ping to the hook's address and answers with its body.
pub async fn ping(
    State(api): State<Arc<Api>>,
    InPath(of): InPath<OfHook>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    api.may(&headers, Access::new(&of.namespace, "create", RESOURCE).part("ping")).await?;
    let (object, hook) = api.runnable(&of)?;
    let kind = hook.handler.kind();
    if kind != HandlerKind::Webhook {
        let kind: &str = kind.into();
        let detail = format!("handler {kind} cannot be pinged: only Webhook can, for others use test");
        return Err(Problem::new(400, "NotPingable", detail));
    }
    let mut shown = shape::shown(&object);
    // As it is sent.
    if let Some(headers) = shown.pointer_mut("/config/headers").and_then(Value::as_object_mut)
        && !headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        headers.insert("content-type".into(), "application/json".into());
    }
    let event = ping_event(&hook, &shown);
    let answer = shown_data(&event);
    match api.sender.test(&hook, event).await.map_err(not_sent)? {
        Tested::Answer { status, .. } if !(200..300).contains(&status) => {
            Err(Problem::new(502, "Status", format!("the receiver answered {status}")))
        }
        _ => Ok(Json(answer.into())),
    }
}

impl Api {
    /// The hook, as it is written and as it is understood.
    fn runnable(&self, of: &OfHook) -> Result<(EventHook, Hook), Problem> {
        let guarded = self.hook(of)?;
        let object =
            guarded.0.as_ref().map_err(|_| Problem::new(404, "NotFound", "the hook cannot be read"))?;
        let hook = validate(object).map_err(|invalid| {
            Problem::new(409, (&invalid).into(), format!("its spec is not valid: {invalid}"))
        })?;
        Ok((object.clone(), hook))
    }
}

/// The posted text as it came, so that numbers stay as they were; nothing posted is an empty object.
fn raw(body: &[u8]) -> Box<RawValue> {
    serde_json::from_slice(body).or_else(|_| to_raw_value(&json!({}))).unwrap_or_default()
}

/// Nothing was sent, or nobody answered.
fn not_sent(sent: Sent) -> Problem {
    match sent {
        Sent::NotNow { reason, detail } => Problem::new(409, reason, detail),
        Sent::Failed { reason, detail }
        | Sent::Partly { reason, detail, .. }
        | Sent::Hopeless { reason, detail } => Problem::new(502, reason, detail),
        Sent::Answer { .. } | Sent::Done => Problem::new(502, "Failed", "the handler did not answer"),
    }
}
