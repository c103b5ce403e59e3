//! The admin API: routing and the handlers of each operation.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use uuid::Uuid;

use super::context::Kong;
use super::error::ApiError;
use super::options::{MissingDelete, ReadBack};
use super::store::Hook;
use super::validate::{self, HookHandler};
use super::{body, emit};
use crate::core::catalogue;

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 4 << 20;
/// The workspace of paths without a prefix.
const DEFAULT_WORKSPACE: &str = "default";

/// Handles every request that is not under `/__emulator/`.
pub(super) async fn handle_admin(State(kong): State<Arc<Kong>>, request: Request) -> Response {
    let next = async |request, lag| {
        kong.handle_request(request, lag).await.unwrap_or_else(IntoResponse::into_response)
    };
    kong.control.handle(request, next).await
}

/// A request to the event hooks of a workspace.
struct EmulatedRequest<'a> {
    workspace: &'a str,
    parts: &'a Parts,
    body: &'a Bytes,
    /// Reads must not see a created hook for this time (fault `lagMs`).
    lag: Duration,
}

impl Kong {
    /// Authorizes a request, resolves its workspace and routes it.
    async fn handle_request(&self, request: Request, lag: Duration) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        self.check_token(&parts)?;
        let body = axum::body::to_bytes(body, MAX_BODY)
            .await
            .map_err(|_| ApiError::without_code(StatusCode::PAYLOAD_TOO_LARGE, "Request entity too large"))?;
        let segments: Vec<String> =
            parts.uri.path().split('/').filter(|segment| !segment.is_empty()).map(decode_segment).collect();
        let mut segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let mut workspace = DEFAULT_WORKSPACE;
        if let Some(first) = segments.first().copied().filter(|first| *first != "event-hooks") {
            let configured = self.options.workspaces.iter().map(String::as_str);
            workspace = configured
                .chain([DEFAULT_WORKSPACE])
                .find(|name| *name == first)
                .ok_or_else(ApiError::not_found)?;
            segments.remove(0);
        }
        self.route(EmulatedRequest { workspace, parts: &parts, body: &body, lag }, &segments).await
    }

    async fn route(&self, call: EmulatedRequest<'_>, segments: &[&str]) -> Result<Response, ApiError> {
        let method = &call.parts.method;
        match *segments {
            [] if method == Method::GET => Ok(self.node_information()),
            ["event-hooks"] => match *method {
                Method::GET => self.list(&call),
                Method::POST => self.create(&call),
                _ => Err(ApiError::method_not_allowed()),
            },
            ["event-hooks", "sources", ref names @ ..] if names.len() <= 2 => match *method {
                Method::GET => list_sources(names),
                _ => Err(ApiError::method_not_allowed()),
            },
            ["event-hooks", id] => match *method {
                Method::GET => self.read(&call, id),
                Method::PUT if self.options.put => self.put(&call, id),
                Method::PATCH if self.options.patch => self.patch(&call, id),
                Method::DELETE => self.delete(&call, id),
                _ => Err(ApiError::method_not_allowed()),
            },
            ["event-hooks", id, "ping"] if method == Method::GET => self.ping(&call, id).await,
            ["event-hooks", id, "test"] if method == Method::POST => self.test(&call, id).await,
            [] | ["event-hooks", _, "ping" | "test"] => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::not_found()),
        }
    }

    fn check_token(&self, parts: &Parts) -> Result<(), ApiError> {
        let Some(token) = &self.options.token else { return Ok(()) };
        let token_header = parts.headers.get(&self.token_header).map(|value| value.as_bytes());
        match token_header {
            Some(token_header) if bool::from(token_header.ct_eq(token.as_bytes())) => Ok(()),
            _ => Err(ApiError::unauthorized()),
        }
    }

    fn node_information(&self) -> Response {
        Json(json!({
            "version": self.version.text,
            "edition": "enterprise",
            "tagline": "Welcome to kong (an emulator by Hookstream)",
            "hostname": "hookstream-emulator",
        }))
        .into_response()
    }

    /// Returns a hook as the API shows it, with its secret as configured by `secrets`.
    fn to_json(&self, hook: &Hook) -> Json<Value> {
        let mut object = hook.to_json(self.version.has_updated_at);
        if let Some(secret) = object.pointer_mut("/config/secret").filter(|secret| !secret.is_null()) {
            match self.options.secrets {
                ReadBack::Plain => {}
                ReadBack::Masked => *secret = "********".into(),
                ReadBack::Omitted => *secret = Value::Null,
            }
        }
        Json(object)
    }

    fn list(&self, call: &EmulatedRequest<'_>) -> Result<Response, ApiError> {
        let (mut size, mut after) = (100, None);
        for (name, value) in
            url::form_urlencoded::parse(call.parts.uri.query().unwrap_or_default().as_bytes())
        {
            match &*name {
                "size" => size = parse_size(&value)?,
                "offset" => after = Some(parse_offset(&value)?),
                // Unknown filters are ignored.
                _ => {}
            }
        }
        let (page, more) = self.store.page(call.workspace, after, size);
        let data: Vec<Value> = page.iter().map(|hook| self.to_json(hook).0).collect();
        let mut answer = json!({"data": data, "next": null});
        if let (true, Some(last), Some(answer)) = (more, page.last(), answer.as_object_mut()) {
            let offset = STANDARD.encode(json!([last.id]).to_string());
            let encoded: String = url::form_urlencoded::byte_serialize(offset.as_bytes()).collect();
            // The path has no workspace prefix, as in the open-source code.
            answer.insert("next".into(), format!("/event-hooks?offset={encoded}&size={size}").into());
            answer.insert("offset".into(), offset.into());
        }
        Ok(Json(answer).into_response())
    }

    fn create(&self, call: &EmulatedRequest<'_>) -> Result<Response, ApiError> {
        let mut members = self.parse_members(call, None)?;
        let id = match members.remove("id").filter(|id| !id.is_null()) {
            None => new_id(),
            Some(_) if !self.options.client_id => return Err(invalid_field("id", "unknown field")),
            Some(id) => id
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| invalid_field("id", "expected a valid UUID"))?,
        };
        let hook = self.new_hook(call, id, members)?;
        self.store_and_ping(&hook)?;
        Ok((StatusCode::CREATED, self.to_json(&hook)).into_response())
    }

    fn read(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let hook = self.store.read(call.workspace, parse_id(id)?).ok_or_else(ApiError::not_found)?;
        Ok(self.to_json(&hook).into_response())
    }

    /// Creates or replaces a hook. The id in the path overrides one in the body.
    fn put(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let id = parse_id(id)?;
        let mut members = self.parse_members(call, None)?;
        members.remove("id");
        let new = self.new_hook(call, id, members)?;
        let replaced = self.store.update(call.workspace, id, |old| {
            Ok(Hook { created_at: old.created_at, visible_at: old.visible_at, ..new.clone() })
        })?;
        let hook = match replaced {
            Some(hook) => hook,
            None => {
                self.store_and_ping(&new)?;
                new
            }
        };
        Ok(self.to_json(&hook).into_response())
    }

    fn patch(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let id = parse_id(id)?;
        let old = self.store.find(call.workspace, id).ok_or_else(|| ApiError::entity_not_found(id))?;
        let mut members = self.parse_members(call, Some(old.fields.handler))?;
        members.remove("id");
        take_timestamps(&mut members)?;
        let changed = self.store.update(call.workspace, id, |old| {
            let fields =
                validate::check(validate::merge(&old.fields, members), self.version.has_secure_defaults)?;
            Ok(Hook { fields, updated_at: now(), ..old.clone() })
        })?;
        Ok(self.to_json(&changed.ok_or_else(|| ApiError::entity_not_found(id))?).into_response())
    }

    fn delete(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let existed = self.store.remove(call.workspace, parse_id(id)?)?;
        if !existed && self.options.missing_delete == MissingDelete::NotFound {
            return Err(ApiError::not_found());
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Sends a ping and returns its payload. Kong's response when the ping cannot be sent is not documented.
    async fn ping(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let hook = self.store.read(call.workspace, parse_id(id)?).ok_or_else(ApiError::not_found)?;
        if hook.fields.handler != HookHandler::Webhook {
            let message = format!("handler {} cannot be pinged", hook.fields.handler.name());
            return Err(ApiError::without_code(StatusCode::BAD_REQUEST, &message));
        }
        let ping = emit::ping_payload(&hook, self.version.has_updated_at);
        match self.emitter.send_now(&hook, &ping).await {
            Ok(_) => Ok(Json(ping).into_response()),
            Err(error) => Err(ApiError::without_code(StatusCode::BAD_REQUEST, &error.to_string())),
        }
    }

    /// Runs the handler with the posted members as the event. Kong's responses for a failed handler, and for `log` and
    /// `lambda`, are not documented.
    async fn test(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let hook = self.store.read(call.workspace, parse_id(id)?).ok_or_else(ApiError::not_found)?;
        let posted = body::parse(&call.parts.headers, call.body)?.members;
        let posted_event = posted.get("event").and_then(Value::as_str).map(str::to_owned);
        let event = hook.fields.event.clone().or(posted_event);
        let data = emit::event_payload(posted, &hook.fields.source, event.as_deref());
        let failed =
            |error: emit::EmitError| ApiError::without_code(StatusCode::BAD_REQUEST, &error.to_string());
        let result = match hook.fields.handler {
            HookHandler::Webhook | HookHandler::WebhookCustom => {
                let response = self.emitter.send_now(&hook, &data).await.map_err(failed)?;
                let answer = emit::read_response(response).await.map_err(failed)?;
                json!({"status": answer.status, "headers": answer.headers, "body": answer.body})
            }
            HookHandler::Log | HookHandler::Lambda => {
                self.record_call(&hook, &data);
                Value::Bool(true)
            }
        };
        Ok(Json(json!({"data": data, "result": result})).into_response())
    }

    fn parse_members(
        &self,
        call: &EmulatedRequest<'_>,
        handler: Option<HookHandler>,
    ) -> Result<Map<String, Value>, ApiError> {
        let body::Body { mut members, is_form } = body::parse(&call.parts.headers, call.body)?;
        if is_form {
            validate::coerce(&mut members, handler);
        }
        Ok(members)
    }

    fn new_hook(
        &self,
        call: &EmulatedRequest<'_>,
        id: Uuid,
        mut members: Map<String, Value>,
    ) -> Result<Hook, ApiError> {
        let created_at = take_timestamps(&mut members)?;
        let fields = validate::check(members, self.version.has_secure_defaults)?;
        let now = now();
        Ok(Hook {
            id,
            workspace: call.workspace.to_owned(),
            created_at: created_at.unwrap_or(now),
            updated_at: now,
            fields,
            visible_at: (!call.lag.is_zero()).then(|| Instant::now() + call.lag),
        })
    }

    /// Stores a new hook. Queues a ping for a webhook, so that an unreachable receiver does not fail the create.
    fn store_and_ping(&self, hook: &Hook) -> Result<(), ApiError> {
        self.store.insert(hook.clone())?;
        if hook.fields.handler == HookHandler::Webhook
            && let Err(error) =
                self.emitter.enqueue(hook, &emit::ping_payload(hook, self.version.has_updated_at))
        {
            tracing::warn!(hook = %hook.id, %error, "ping could not be queued");
        }
        Ok(())
    }
}

fn list_sources(names: &[&str]) -> Result<Response, ApiError> {
    let value = catalogue::describe(names).ok_or_else(ApiError::not_found)?;
    Ok(Json(json!({ "data": value })).into_response())
}

/// Removes both timestamps from the body and returns `created_at`. Kong accepts a given `created_at`, but always sets
/// `updated_at` itself.
fn take_timestamps(members: &mut Map<String, Value>) -> Result<Option<i64>, ApiError> {
    members.remove("updated_at");
    match members.remove("created_at") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_i64().map(Some).ok_or_else(|| invalid_field("created_at", "expected an integer"))
        }
    }
}

fn invalid_field(name: &str, mistake: &str) -> ApiError {
    ApiError::schema_violation(Map::from_iter([(name.to_owned(), mistake.into())]))
}

fn parse_id(text: &str) -> Result<Uuid, ApiError> {
    // `Uuid` also parses braces and URNs, which are not valid ids.
    let hyphenated = Some(text).filter(|text| text.len() == 36);
    hyphenated.and_then(|text| text.parse().ok()).ok_or_else(|| ApiError::invalid_primary_key(text))
}

/// Returns a random (version 4) id, as Kong does.
fn new_id() -> Uuid {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid()
}

/// Returns the time in Unix seconds.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn parse_size(text: &str) -> Result<usize, ApiError> {
    let size: f64 = text.parse().map_err(|_| ApiError::invalid_size("size must be a number"))?;
    if size.fract() == 0.0 && (1.0..=1000.0).contains(&size) {
        Ok(size as usize)
    } else {
        Err(ApiError::invalid_size("size must be an integer between 1 and 1000"))
    }
}

fn parse_offset(text: &str) -> Result<Uuid, ApiError> {
    let decoded = STANDARD.decode(text).ok();
    let list: Option<[Uuid; 1]> = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    list.map(|[id]| id).ok_or_else(|| ApiError::invalid_offset(text))
}

/// Percent-decodes a path segment. Escapes the characters other than `%` that form parsing would interpret.
fn decode_segment(segment: &str) -> String {
    let escaped = segment.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let decoded = url::form_urlencoded::parse(escaped.as_bytes()).next();
    decoded.map(|(name, _)| name.into_owned()).unwrap_or_default()
}
