//! Handler `webhookCustom`: sends a request that the user composes, with texts filled from the event.
//!
//! Headers and body of an attempt share one output budget. The dispatcher counts an output of the size of the event. So
//! rendering first gets that budget; if it does not suffice, it is repeated with the largest one, whose memory is reserved
//! before. Rendering that may take long runs on a blocking thread, so that it does not delay other hooks, and ends at the
//! attempt's deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use super::rendered_memory::{self, counted_output};
use super::request::{OutgoingRequest, RequestDraft};
use super::{HandlerOutcome, HandlerRunner, data_unreadable, rendering_failed, script_failed, script_owner};
use crate::api;
use crate::core::delivery_reason::AttemptFailure;
use crate::core::event::data::Data;
use crate::core::hook::{
    CompiledHook, RenderedBody, RenderedContent, RequestContent, WebhookCustom, context,
};
use crate::core::output::{MAX_OUTPUT, OutputBudget, OutputError};
use crate::core::template::RenderError;
use crate::memory::Reservation;
use crate::sandbox::{RenderContext, RenderedTexts};
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
    let mut draft = RequestDraft::new(runner, hook, pending);
    // Read Secrets first: one of them may define the content type, and it replaces the header of the spec.
    draft.add_secret_headers(&custom.headers_from).await?;
    let content_type = draft.content_type().map(ToOwned::to_owned);
    let (rendered, memory) = render_content(runner, hook, custom, pending, content_type, deadline).await?;
    for (name, value) in &rendered.headers {
        draft.add_header(name, value)?;
    }
    let body = match rendered.body {
        RenderedBody::None => String::new(),
        RenderedBody::Text(text) | RenderedBody::Form(text) => text,
        RenderedBody::Json(text) => {
            if draft.content_type().is_none() {
                draft.set_content_type("application/json");
            }
            text
        }
    };
    let body = rendered_memory::attach(body.into_bytes(), memory);
    draft.finish(method(custom.method), body).await
}

/// Renders headers and body. Only texts with Lua go to the sandbox, all in one call. Returns the memory of an output that
/// is larger than what the dispatcher counts.
async fn render_content(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    custom: &WebhookCustom,
    pending: &PendingDelivery,
    content_type: Option<String>,
    deadline: Instant,
) -> Result<(RenderedContent, Option<Reservation>), HandlerOutcome> {
    let content = &custom.content;
    let event_bytes = pending.event.data.get().len();
    let mut may_block = content.has_templates() && content.max_work(event_bytes) > MAX_INLINE_WORK;
    // Parse the event only if a template uses it.
    let variables = match content.has_templates() {
        true => {
            let event = pending.event.clone();
            let context = run_off_thread(may_block, move || context(&event)).await?;
            Arc::new(context.map_err(|error| data_unreadable(&error))?)
        }
        false => Arc::new(Data::Null),
    };
    let remaining = || deadline.saturating_duration_since(Instant::now());
    let scripts = content.scripts();
    // Their memory stays reserved until they are part of the output.
    let RenderedTexts { texts, memory: _of_texts } = match scripts.is_empty() {
        true => RenderedTexts::default(),
        false => {
            let context = RenderContext { variables: variables.clone(), bytes: event_bytes };
            let rendered = runner.sandbox.render(script_owner(hook), &scripts, &context, remaining()).await;
            rendered.map_err(|error| script_failed("template", &error))?
        }
    };
    let failed = |error: RenderError| rendering_failed(&error, hook.delivery.timeout);
    let text_bytes = texts.iter().map(String::len).sum::<usize>();
    let rendering = Rendering { content: content.clone(), variables, content_type, deadline };
    let counted = counted_output(pending).min(MAX_OUTPUT);
    if text_bytes <= counted {
        let (rendering, texts) = (rendering.clone(), texts.clone());
        // The sandbox's texts may be long although the event is short.
        let is_long = may_block || text_bytes > MAX_INLINE_WORK;
        match run_off_thread(is_long, move || rendering.render(texts, counted)).await? {
            Ok(rendered) => return Ok((rendered, None)),
            Err(RenderError::Output(OutputError::TooLarge)) if counted < MAX_OUTPUT => may_block = true,
            Err(error) => return Err(failed(error)),
        }
    }
    let mut reserved = rendered_memory::reserve(runner, hook, MAX_OUTPUT - counted, remaining()).await?;
    let may_block = may_block || text_bytes > MAX_INLINE_WORK;
    let rendered = run_off_thread(may_block, move || rendering.render(texts, MAX_OUTPUT)).await?;
    let rendered = rendered.map_err(failed)?;
    reserved.shrink_to(rendered.byte_count().saturating_sub(counted) as u64);
    Ok((rendered, Some(reserved)))
}

/// The input of a rendering.
#[derive(Clone)]
struct Rendering {
    content: RequestContent,
    variables: Arc<Data<'static>>,
    content_type: Option<String>,
    deadline: Instant,
}

impl Rendering {
    /// Renders headers and body within an output of `limit` bytes and the deadline of the attempt.
    fn render(&self, texts: Vec<String>, limit: usize) -> Result<RenderedContent, RenderError> {
        let is_late = || Instant::now() >= self.deadline;
        let mut budget = OutputBudget::new(limit, &is_late);
        self.content.render(&self.variables, texts, self.content_type.as_deref(), &mut budget)
    }
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
