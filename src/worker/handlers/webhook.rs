//! Handler `webhook`: posts the event as JSON.

use bytes::Bytes;
use http::Method;

use super::request::{OutgoingRequest, RequestDraft};
use super::{HandlerOutcome, HandlerRunner};
use crate::api::Format;
use crate::core::hook::{CompiledHook, Webhook};
use crate::worker::store::PendingDelivery;

pub async fn prepare_request(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    webhook: &Webhook,
    pending: &PendingDelivery,
) -> Result<OutgoingRequest, HandlerOutcome> {
    // Both formats need no output budget: they are linear in the event, whose size ingest limits, and have no templates.
    let (body, content_type) = match webhook.format {
        Format::Kong => (pending.event.to_kong(), "application/json"),
        Format::CloudEvents => (pending.event.to_cloudevent(), "application/cloudevents+json; charset=utf-8"),
    };
    let mut draft = RequestDraft::new(&*runner.cluster, hook, pending);
    draft.set_content_type(content_type);
    for (name, value) in &webhook.headers {
        draft.add_header(name, value)?;
    }
    draft.add_secret_headers(&webhook.headers_from).await?;
    draft.finish(&runner.http, Method::POST, Bytes::from(body)).await
}
