//! Handler `webhookCustom`: sends a request that the user composes, with texts filled from the event.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::request::{OutgoingRequest, RequestDraft};
use super::{HandlerOutcome, HandlerRunner, script_failed};
use crate::api;
use crate::core::hook::{CompiledHook, RenderedBody, RenderedContent, WebhookCustom, context, form_encode};
use crate::worker::store::PendingDelivery;

const FORM: &str = "application/x-www-form-urlencoded";

pub async fn prepare_request(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    custom: &WebhookCustom,
    pending: &PendingDelivery,
    timeout: Duration,
) -> Result<OutgoingRequest, HandlerOutcome> {
    let filled = render_content(runner, hook, custom, pending, timeout).await?;
    let mut draft = RequestDraft::new(&*runner.cluster, hook, pending);
    for (name, value) in &filled.headers {
        draft.add_header(name, value)?;
    }
    draft.add_secret_headers(&custom.headers_from).await?;
    let body = match filled.body {
        RenderedBody::None => Bytes::new(),
        RenderedBody::Text(text) => Bytes::from(text),
        RenderedBody::Payload(payload) => {
            let is_form = draft.content_type().is_some_and(|value| {
                let media_type = value.split(';').next().unwrap_or_default();
                media_type.trim().eq_ignore_ascii_case(FORM)
            });
            if draft.content_type().is_none() {
                draft.set_content_type("application/json");
            }
            Bytes::from(if is_form { form_encode(&payload) } else { payload.to_string() })
        }
    };
    draft.finish(&runner.http, method(custom.method), body).await
}

/// Renders headers and body. Only texts with Lua go to the sandbox, all in one call.
async fn render_content(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    custom: &WebhookCustom,
    pending: &PendingDelivery,
    timeout: Duration,
) -> Result<RenderedContent, HandlerOutcome> {
    // Parse the event only if a template uses it.
    let context = match custom.content.has_templates() {
        true => context(&pending.event),
        false => Value::Null,
    };
    let scripts = custom.content.scripts();
    let rendered = match scripts.is_empty() {
        true => Vec::new(),
        false => runner
            .sandbox
            .render(&hook.uid, &scripts, &context, timeout)
            .await
            .map_err(|error| script_failed("template", &error))?,
    };
    custom.content.render(&context, rendered).map_err(|at| script_failed("template", &at.into()))
}

fn method(method: api::Method) -> Method {
    match method {
        api::Method::Get => Method::GET,
        api::Method::Post => Method::POST,
        api::Method::Put => Method::PUT,
        api::Method::Patch => Method::PATCH,
        api::Method::Delete => Method::DELETE,
    }
}
