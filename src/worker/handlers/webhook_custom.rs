//! Handler `webhookCustom`: sends a request that the user composes, with texts filled from the event.
//!
//! Headers and body of an attempt share one output budget. Rendering that may take long runs on a blocking thread, so that
//! it does not delay other hooks, and ends at the attempt's deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use super::request::{OutgoingRequest, RequestDraft};
use super::{HandlerOutcome, HandlerRunner, data_unreadable, rendering_failed, script_failed};
use crate::api;
use crate::core::delivery_reason::AttemptFailure;
use crate::core::event::data::Data;
use crate::core::hook::{
    CompiledHook, RenderedBody, RenderedContent, RequestContent, WebhookCustom, context,
};
use crate::core::output::{MAX_OUTPUT, OutputBudget};
use crate::core::template::RenderError;
use crate::worker::store::PendingDelivery;

/// The most work (see `RequestContent::max_work`) of a rendering on an async thread. More may take over a millisecond,
/// which would delay the other tasks of the thread.
const MAX_INLINE_WORK: usize = 128 << 10;

pub async fn prepare_request(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    custom: &WebhookCustom,
    pending: &PendingDelivery,
    timeout: Duration,
) -> Result<OutgoingRequest, HandlerOutcome> {
    let deadline = Instant::now() + timeout;
    let mut draft = RequestDraft::new(&*runner.cluster, hook, pending);
    // Read Secrets first: one of them may define the content type, and it replaces the header of the spec.
    draft.add_secret_headers(&custom.headers_from).await?;
    let content_type = draft.content_type().map(ToOwned::to_owned);
    let rendered = render_content(runner, hook, custom, pending, content_type, deadline).await?;
    for (name, value) in &rendered.headers {
        draft.add_header(name, value)?;
    }
    let body = match rendered.body {
        RenderedBody::None => Bytes::new(),
        RenderedBody::Text(text) | RenderedBody::Form(text) => Bytes::from(text),
        RenderedBody::Json(text) => {
            if draft.content_type().is_none() {
                draft.set_content_type("application/json");
            }
            Bytes::from(text)
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
    content_type: Option<String>,
    deadline: Instant,
) -> Result<RenderedContent, HandlerOutcome> {
    let content = &custom.content;
    let may_block =
        content.has_templates() && content.max_work(pending.event.data.get().len()) > MAX_INLINE_WORK;
    // Parse the event only if a template uses it.
    let context = match content.has_templates() {
        true => {
            let event = pending.event.clone();
            let context = run_off_thread(may_block, move || context(&event)).await?;
            Arc::new(context.map_err(|error| data_unreadable(&error))?)
        }
        false => Arc::new(Data::Null),
    };
    let scripts = content.scripts();
    let texts = match scripts.is_empty() {
        true => Vec::new(),
        false => runner
            .sandbox
            .render(&hook.uid, &scripts, &context, deadline.saturating_duration_since(Instant::now()))
            .await
            .map_err(|error| script_failed("template", &error))?,
    };
    // The sandbox's texts may be long although the event is short.
    let may_block = may_block || texts.iter().map(String::len).sum::<usize>() > MAX_INLINE_WORK;
    let content = content.clone();
    let render = move || render_within(&content, &context, texts, content_type.as_deref(), deadline);
    run_off_thread(may_block, render).await?.map_err(|error| rendering_failed(&error, hook.delivery.timeout))
}

/// Renders headers and body within the output budget and the deadline of an attempt.
fn render_within(
    content: &RequestContent,
    context: &Data<'_>,
    texts: Vec<String>,
    content_type: Option<&str>,
    deadline: Instant,
) -> Result<RenderedContent, RenderError> {
    let is_late = || Instant::now() >= deadline;
    content.render(context, texts, content_type, &mut OutputBudget::new(MAX_OUTPUT, &is_late))
}

/// Runs a computation: on a blocking thread if it may block its thread, otherwise at once, which costs less.
async fn run_off_thread<T: Send + 'static>(
    may_block: bool,
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HandlerOutcome> {
    if !may_block {
        return Ok(compute());
    }
    // Fails if the computation panics, which affects this attempt only.
    tokio::task::spawn_blocking(compute).await.map_err(|error| HandlerOutcome::Failed {
        reason: AttemptFailure::ScriptFailed,
        detail: format!("template: {error}"),
    })
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
