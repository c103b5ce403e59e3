//! `webhookCustom`: a request of the user's making, its texts filled from the event.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::request::{Draft, Outgoing};
use super::{Sender, Sent, script_failed};
use crate::api;
use crate::core::hook::{Filled, FilledBody, Hook, WebhookCustom, context, form};
use crate::worker::store::Pending;

const FORM: &str = "application/x-www-form-urlencoded";

pub async fn request(
    sender: &Sender,
    hook: &Hook,
    custom: &WebhookCustom,
    pending: &Pending,
    within: Duration,
) -> Result<Outgoing, Sent> {
    let filled = fill(sender, hook, custom, pending, within).await?;
    let mut draft = Draft::new(&*sender.cluster, hook, pending);
    for (name, value) in &filled.headers {
        draft.header(name, value)?;
    }
    draft.headers_from(&custom.headers_from).await?;
    let body = match filled.body {
        FilledBody::None => Bytes::new(),
        FilledBody::Text(text) => Bytes::from(text),
        FilledBody::Payload(payload) => {
            let as_form = draft.has_content_type().is_some_and(|value| {
                let kind = value.split(';').next().unwrap_or_default();
                kind.trim().eq_ignore_ascii_case(FORM)
            });
            if draft.has_content_type().is_none() {
                draft.content_type("application/json");
            }
            Bytes::from(if as_form { form(&payload) } else { payload.to_string() })
        }
    };
    draft.finish(&sender.http, method(custom.method), body).await
}

/// Only what takes Lua goes to the sandbox, all of it at once.
async fn fill(
    sender: &Sender,
    hook: &Hook,
    custom: &WebhookCustom,
    pending: &Pending,
    within: Duration,
) -> Result<Filled, Sent> {
    // Parsed for templates only.
    let context = match custom.content.has_templates() {
        true => context(&pending.event),
        false => Value::Null,
    };
    let scripts = custom.content.scripts();
    let rendered = match scripts.is_empty() {
        true => Vec::new(),
        false => sender
            .sandbox
            .render(&hook.uid, &scripts, &context, within)
            .await
            .map_err(|error| script_failed("template", &error))?,
    };
    custom.content.fill(&context, rendered).map_err(|at| script_failed("template", &at.into()))
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
