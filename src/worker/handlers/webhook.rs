//! Handler `webhook`: posts the event in Kong's format or as a CloudEvent.

use std::time::Duration;

use http::Method;

use super::rendered_memory::{self, counted_output};
use super::request::{OutgoingRequest, RequestDraft};
use super::{HandlerOutcome, HandlerRunner};
use crate::api::Format;
use crate::core::event::BinaryEvent;
use crate::core::hook::{CompiledHook, Webhook};
use crate::worker::store::PendingDelivery;

pub async fn prepare_request(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    webhook: &Webhook,
    pending: &PendingDelivery,
    timeout: Duration,
) -> Result<OutgoingRequest, HandlerOutcome> {
    let mut draft = RequestDraft::new(runner, hook, pending);
    // No format needs an output budget: they are linear in the event, whose size ingest limits, and have no templates. Many
    // long attributes may exceed what the dispatcher counts.
    let (body, event_headers) = match webhook.format {
        Format::Kong => {
            draft.set_content_type("application/json");
            (pending.event.to_kong(), Vec::new())
        }
        Format::CloudEvents => {
            draft.set_content_type("application/cloudevents+json; charset=utf-8");
            (pending.event.to_cloudevent(), Vec::new())
        }
        Format::CloudEventsBinary => {
            let BinaryEvent { headers, content_type, body } = pending.event.to_binary_cloudevent();
            if let Some(content_type) = content_type {
                draft.add_header("content-type", &content_type)?;
            }
            (body, headers)
        }
    };
    for (name, value) in &webhook.headers {
        draft.add_header(name, value)?;
    }
    draft.add_secret_headers(&webhook.headers_from).await?;
    // After the headers of the spec, which could otherwise replace an attribute of the event.
    for (name, value) in &event_headers {
        draft.add_header(name, value)?;
    }
    let memory = match body.len().checked_sub(counted_output(pending)).filter(|bytes| *bytes > 0) {
        Some(bytes) => Some(rendered_memory::reserve(runner, hook, bytes, timeout).await?),
        None => None,
    };
    draft.finish(Method::POST, rendered_memory::attach(body, memory)).await
}
