//! The admin API: from a request to its answer.

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

use super::error::ApiError;
use super::store::Hook;
use super::validate::{self, Handler};
use super::{Kong, MAX_BODY, MissingDelete, ReadBack, body, emit};
use crate::core::catalogue;

/// The workspace that is addressed without a prefix, or by its name.
const DEFAULT_WORKSPACE: &str = "default";

/// Every request that is not under `/__emulator/`.
pub(super) async fn admin(State(kong): State<Arc<Kong>>, request: Request) -> Response {
    let work =
        async |request, lag| kong.answer(request, lag).await.unwrap_or_else(IntoResponse::into_response);
    kong.control.around(request, work).await
}

/// One request to the event hooks of a workspace.
struct Call<'a> {
    workspace: &'a str,
    parts: &'a Parts,
    body: &'a Bytes,
    lag: Duration,
}

impl Kong {
    async fn answer(&self, request: Request, lag: Duration) -> Result<Response, ApiError> {
        let (parts, body) = request.into_parts();
        self.authorise(&parts)?;
        let body = axum::body::to_bytes(body, MAX_BODY)
            .await
            .map_err(|_| ApiError::plain(StatusCode::PAYLOAD_TOO_LARGE, "Request entity too large"))?;
        let segments: Vec<String> =
            parts.uri.path().split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
        let mut segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let mut workspace = DEFAULT_WORKSPACE;
        if let Some(first) = segments.first().copied().filter(|first| *first != "event-hooks") {
            let declared = self.options.workspaces.iter().map(String::as_str);
            workspace = declared
                .chain([DEFAULT_WORKSPACE])
                .find(|name| *name == first)
                .ok_or_else(ApiError::not_found)?;
            segments.remove(0);
        }
        self.route(Call { workspace, parts: &parts, body: &body, lag }, &segments).await
    }

    async fn route(&self, call: Call<'_>, segments: &[&str]) -> Result<Response, ApiError> {
        let method = &call.parts.method;
        match *segments {
            [] if method == Method::GET => Ok(self.information()),
            ["event-hooks"] => match *method {
                Method::GET => self.list(&call),
                Method::POST => self.create(&call),
                _ => Err(ApiError::method_not_allowed()),
            },
            ["event-hooks", "sources", ref names @ ..] if names.len() <= 2 => match *method {
                Method::GET => tell_sources(names),
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

    fn authorise(&self, parts: &Parts) -> Result<(), ApiError> {
        let Some(token) = &self.options.token else { return Ok(()) };
        let given = parts.headers.get(&self.token_header).map(|value| value.as_bytes());
        match given {
            Some(given) if bool::from(given.ct_eq(token.as_bytes())) => Ok(()),
            _ => Err(ApiError::unauthorized()),
        }
    }

    fn information(&self) -> Response {
        Json(json!({
            "version": self.version.text,
            "edition": "enterprise",
            "tagline": "Welcome to kong (an emulator by Hookstream)",
            "hostname": "hookstream-emulator",
        }))
        .into_response()
    }

    fn shown(&self, hook: &Hook) -> Json<Value> {
        let mut shown = hook.shown(self.version.updated_at);
        if let Some(secret) = shown.pointer_mut("/config/secret").filter(|secret| !secret.is_null()) {
            match self.options.secrets {
                ReadBack::Plain => {}
                ReadBack::Masked => *secret = "********".into(),
                ReadBack::Omitted => *secret = Value::Null,
            }
        }
        Json(shown)
    }

    fn list(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let (mut size, mut after) = (100, None);
        for (name, value) in
            url::form_urlencoded::parse(call.parts.uri.query().unwrap_or_default().as_bytes())
        {
            match &*name {
                "size" => size = read_size(&value)?,
                "offset" => after = Some(read_offset(&value)?),
                // Unknown filters are ignored.
                _ => {}
            }
        }
        let (page, more) = self.store.page(call.workspace, after, size);
        let data: Vec<Value> = page.iter().map(|hook| self.shown(hook).0).collect();
        let mut answer = json!({"data": data, "next": null});
        if let (true, Some(last), Some(answer)) = (more, page.last(), answer.as_object_mut()) {
            let offset = STANDARD.encode(json!([last.id]).to_string());
            let encoded: String = url::form_urlencoded::byte_serialize(offset.as_bytes()).collect();
            // Without the workspace's prefix, as in the open-source code.
            answer.insert("next".into(), format!("/event-hooks?offset={encoded}&size={size}").into());
            answer.insert("offset".into(), offset.into());
        }
        Ok(Json(answer).into_response())
    }

    fn create(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let mut members = self.members(call, None)?;
        let id = match members.remove("id").filter(|id| !id.is_null()) {
            None => new_id(),
            Some(_) if !self.options.client_id => return Err(field("id", "unknown field")),
            Some(id) => id
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| field("id", "expected a valid UUID"))?,
        };
        let hook = self.new_hook(call, id, members)?;
        self.add(&hook)?;
        Ok((StatusCode::CREATED, self.shown(&hook)).into_response())
    }

    fn read(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let hook = self.store.read(call.workspace, parse_id(id)?).ok_or_else(ApiError::not_found)?;
        Ok(self.shown(&hook).into_response())
    }

    /// Creates or replaces. An id in the body gives way to the one in the path.
    fn put(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let id = parse_id(id)?;
        let mut members = self.members(call, None)?;
        members.remove("id");
        let new = self.new_hook(call, id, members)?;
        let replaced = self.store.update(call.workspace, id, |old| {
            Ok(Hook { created_at: old.created_at, visible_at: old.visible_at, ..new.clone() })
        })?;
        let hook = match replaced {
            Some(hook) => hook,
            None => {
                self.add(&new)?;
                new
            }
        };
        Ok(self.shown(&hook).into_response())
    }

    fn patch(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let id = parse_id(id)?;
        let old = self.store.find(call.workspace, id).ok_or_else(|| ApiError::no_entity(id))?;
        let mut members = self.members(call, Some(old.fields.handler))?;
        members.remove("id");
        take_times(&mut members)?;
        let changed = self.store.update(call.workspace, id, |old| {
            let fields = validate::check(validate::merge(&old.fields, members), self.version.strict)?;
            Ok(Hook { fields, updated_at: now(), ..old.clone() })
        })?;
        Ok(self.shown(&changed.ok_or_else(|| ApiError::no_entity(id))?).into_response())
    }

    fn delete(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let there = self.store.remove(call.workspace, parse_id(id)?)?;
        if !there && self.options.missing_delete == MissingDelete::NotFound {
            return Err(ApiError::not_found());
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// Sends a ping and answers with its body. What Kong answers where no ping can go is not documented.
    async fn ping(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let hook = self.store.read(call.workspace, parse_id(id)?).ok_or_else(ApiError::not_found)?;
        if hook.fields.handler != Handler::Webhook {
            let message = format!("handler {} cannot be pinged", hook.fields.handler.name());
            return Err(ApiError::plain(StatusCode::BAD_REQUEST, &message));
        }
        let ping = emit::ping(&hook, self.version.updated_at);
        match self.emitter.send_now(&hook, &ping).await {
            Ok(_) => Ok(Json(ping).into_response()),
            Err(error) => Err(ApiError::plain(StatusCode::BAD_REQUEST, &error.to_string())),
        }
    }

    /// Runs the handler with the posted members as event. What Kong answers when the handler fails, or for the other
    /// handlers, is not documented.
    async fn test(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let hook = self.store.read(call.workspace, parse_id(id)?).ok_or_else(ApiError::not_found)?;
        let posted = body::parse(&call.parts.headers, call.body)?.members;
        let posted_event = posted.get("event").and_then(Value::as_str).map(str::to_owned);
        let event = hook.fields.event.clone().or(posted_event);
        let data = emit::payload(posted, &hook.fields.source, event.as_deref());
        let failed = |error: emit::SendError| ApiError::plain(StatusCode::BAD_REQUEST, &error.to_string());
        let result = match hook.fields.handler {
            Handler::Webhook | Handler::WebhookCustom => {
                let response = self.emitter.send_now(&hook, &data).await.map_err(failed)?;
                let answer = emit::read(response).await.map_err(failed)?;
                json!({"status": answer.status, "headers": answer.headers, "body": answer.body})
            }
            Handler::Log | Handler::Lambda => {
                self.called(&hook, &data);
                Value::Bool(true)
            }
        };
        Ok(Json(json!({"data": data, "result": result})).into_response())
    }

    fn members(&self, call: &Call<'_>, handler: Option<Handler>) -> Result<Map<String, Value>, ApiError> {
        let body::Body { mut members, is_form } = body::parse(&call.parts.headers, call.body)?;
        if is_form {
            validate::coerce(&mut members, handler);
        }
        Ok(members)
    }

    fn new_hook(&self, call: &Call<'_>, id: Uuid, mut members: Map<String, Value>) -> Result<Hook, ApiError> {
        let created_at = take_times(&mut members)?;
        let fields = validate::check(members, self.version.strict)?;
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

    /// Keeps a new hook; a webhook is pinged, through its queue, so that its receiver may be late without failing the
    /// create.
    fn add(&self, hook: &Hook) -> Result<(), ApiError> {
        self.store.insert(hook.clone())?;
        if hook.fields.handler == Handler::Webhook
            && let Err(error) = self.emitter.enqueue(hook, &emit::ping(hook, self.version.updated_at))
        {
            tracing::warn!(hook = %hook.id, %error, "not pinged");
        }
        Ok(())
    }
}

fn tell_sources(names: &[&str]) -> Result<Response, ApiError> {
    let value = catalogue::told(names).ok_or_else(ApiError::not_found)?;
    Ok(Json(json!({ "data": value })).into_response())
}

/// Kong sets both times itself but takes `created_at`; `updated_at` is set anew whatever was sent.
fn take_times(members: &mut Map<String, Value>) -> Result<Option<i64>, ApiError> {
    members.remove("updated_at");
    match members.remove("created_at") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| field("created_at", "expected an integer")),
    }
}

fn field(name: &str, mistake: &str) -> ApiError {
    ApiError::schema_violation(Map::from_iter([(name.to_owned(), mistake.into())]))
}

fn parse_id(text: &str) -> Result<Uuid, ApiError> {
    // `Uuid` also reads braces and URNs, which are no ids.
    let plain = Some(text).filter(|text| text.len() == 36);
    plain.and_then(|text| text.parse().ok()).ok_or_else(|| ApiError::invalid_primary_key(text))
}

/// A random (version 4) id, as Kong makes them.
fn new_id() -> Uuid {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn read_size(text: &str) -> Result<usize, ApiError> {
    let size: f64 = text.parse().map_err(|_| ApiError::invalid_size("size must be a number"))?;
    if size.fract() == 0.0 && (1.0..=1000.0).contains(&size) {
        Ok(size as usize)
    } else {
        Err(ApiError::invalid_size("size must be an integer between 1 and 1000"))
    }
}

fn read_offset(text: &str) -> Result<Uuid, ApiError> {
    let decoded = STANDARD.decode(text).ok();
    let list: Option<[Uuid; 1]> = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    list.map(|[id]| id).ok_or_else(|| ApiError::invalid_offset(text))
}

/// Percent-decodes a path segment: what form parsing would treat specially besides `%` is escaped first.
fn decode(segment: &str) -> String {
    let escaped = segment.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let decoded = url::form_urlencoded::parse(escaped.as_bytes()).next();
    decoded.map(|(name, _)| name.into_owned()).unwrap_or_default()
}
