//! `webhook`: the event as JSON by POST.

use bytes::Bytes;
use http::Method;

use super::request::{Draft, Outgoing};
use super::{Sender, Sent};
use crate::api::Format;
use crate::core::hook::{Hook, Webhook};
use crate::worker::store::Pending;

pub async fn request(
    sender: &Sender,
    hook: &Hook,
    webhook: &Webhook,
    pending: &Pending,
) -> Result<Outgoing, Sent> {
    let (body, content_type) = match webhook.format {
        Format::Kong => (pending.event.to_kong(), "application/json"),
        Format::CloudEvents => (pending.event.to_cloudevent(), "application/cloudevents+json; charset=utf-8"),
    };
    let mut draft = Draft::new(&*sender.cluster, hook, pending);
    draft.content_type(content_type);
    for (name, value) in &webhook.headers {
        draft.header(name, value)?;
    }
    draft.headers_from(&webhook.headers_from).await?;
    draft.finish(&sender.http, Method::POST, Bytes::from(body)).await
}
