//! Handlers: `log`, `lambda`, `webhook` and `webhook_custom` each deliver an event in one way. `request` builds and
//! sends HTTP requests, `oauth2` obtains their access tokens, `rendered_memory` counts large ones, `handshake` requests the
//! permission of receivers, which `permission` remembers, `test` runs a hook once for a user, `warnings` reports what works
//! and is unwise.
//!
//! Invariants: a handler makes one attempt and returns its outcome; it does not decide about retries; the secrets that it
//! uses never appear in the outcome.
//!
//! Out of scope: the time of an attempt (`dispatch`), retry decisions (`core::retry`).

mod handshake;
mod kept_exchange;
mod lambda;
mod log;
mod oauth2;
mod permission;
mod rendered_memory;
mod request;
mod test;
mod warnings;
mod webhook;
mod webhook_custom;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oauth2::AccessTokens;
pub use permission::{HookVersion, ReceiverPermission};
pub use request::OutgoingRequest;
pub use test::{FunctionResult, ShownTest, TestResult, TestRun, ping_event, posted_event, shown_data};
use warnings::Warnings;

use crate::cluster::Cluster;
use crate::core::delivery_reason::{AttemptFailure, DeliveryReason};
use crate::core::event::data::UnreadableData;
use crate::core::hook::{CompiledHook, Handler};
use crate::core::output::OutputError;
use crate::core::template::RenderError;
use crate::memory::MemoryPool;
use crate::net::HttpClient;
use crate::sandbox::{Sandbox, ScriptError, ScriptOwner};
use crate::traces::AttemptSpan;
use crate::worker::store::{Exchange, HandlerProgress, KeepResponses, PendingDelivery};

/// The outcome of one attempt.
#[derive(Clone, Debug)]
pub enum HandlerOutcome {
    /// The receiver answered. `detail`: the beginning of the body, unless the status is 2xx.
    Answered { status: u16, retry_after: Option<String>, detail: Option<String> },
    /// The handler succeeded, and there is no receiver that answers.
    Completed,
    /// The attempt failed; another one may succeed.
    Failed { reason: AttemptFailure, detail: String },
    /// The attempt failed after a part of the work that must not be repeated; `progress` records that part.
    PartlyFailed { reason: AttemptFailure, detail: String, progress: HandlerProgress },
    /// No attempt can succeed: the delivery is dead.
    Undeliverable { reason: DeliveryReason, detail: String },
    /// No attempt was made, because something that the hook needs is missing (a Secret, the sandbox). It may appear
    /// later.
    NotReady { reason: &'static str, detail: String },
    /// No attempt was made, because other attempts use all of something that the process has (memory, sandbox processes).
    /// The delivery is attempted again soon.
    Postponed { reason: &'static str, detail: String },
}

impl HandlerOutcome {
    /// Returns the status of the response, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            HandlerOutcome::Answered { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns true if the attempt succeeded.
    pub fn is_success(&self) -> bool {
        matches!(self, HandlerOutcome::Answered { status: 200..=299, .. } | HandlerOutcome::Completed)
    }

    /// Returns the outcome as a metric label.
    pub fn label(&self) -> &'static str {
        match self {
            HandlerOutcome::Answered { status: 200..=299, .. } | HandlerOutcome::Completed => "Delivered",
            HandlerOutcome::Answered { .. } => AttemptFailure::Status.as_str(),
            HandlerOutcome::Failed { reason, .. } | HandlerOutcome::PartlyFailed { reason, .. } => {
                reason.as_str()
            }
            HandlerOutcome::Undeliverable { reason, .. } => reason.as_str(),
            HandlerOutcome::NotReady { reason, .. } | HandlerOutcome::Postponed { reason, .. } => reason,
        }
    }
}

/// The least time for a request: templates or a token that used up the timeout must not make the receiver look dead.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// Runs the handlers of hooks.
pub struct HandlerRunner {
    http: HttpClient,
    cluster: Arc<dyn Cluster>,
    sandbox: Sandbox,
    /// The memory of rendered requests that are larger than their event.
    rendered: Arc<MemoryPool>,
    warnings: Warnings,
    tokens: Arc<AccessTokens>,
    /// The origin that is stated to receivers of hooks with a handshake.
    webhook_origin: String,
    keep: KeepResponses,
}

impl HandlerRunner {
    pub fn new(
        http: HttpClient,
        cluster: Arc<dyn Cluster>,
        sandbox: Sandbox,
        rendered: Arc<MemoryPool>,
        webhook_origin: String,
    ) -> Self {
        let (warnings, tokens) = (Warnings::default(), Arc::default());
        HandlerRunner {
            http,
            cluster,
            sandbox,
            rendered,
            warnings,
            tokens,
            webhook_origin,
            keep: KeepResponses::None,
        }
    }

    /// Keeps the requests and responses of these attempts. Without it, of none.
    pub fn keeping(self, keep: KeepResponses) -> Self {
        HandlerRunner { keep, ..self }
    }

    /// Makes one attempt, bounded by the hook's timeout. Returns the request and the response too, if they are kept. The
    /// receiver gets the context of `span`, or that of the event.
    pub async fn run(
        &self,
        hook: &CompiledHook,
        pending: &PendingDelivery,
        span: Option<&AttemptSpan>,
    ) -> (HandlerOutcome, Option<Box<Exchange>>) {
        let (timeout, started) = (timeout(hook), Instant::now());
        match &hook.handler {
            Handler::Log => (log::write(hook, pending).await, None),
            // Boxed, as the other futures that are large or rare: the size of every attempt is that of the largest one.
            Handler::Lambda(lambda) => {
                (Box::pin(lambda::run(self, hook, lambda, pending, timeout)).await, None)
            }
            Handler::Webhook(_) | Handler::WebhookCustom(_) => {
                match self.prepare_request(hook, pending).await {
                    Ok(mut request) => {
                        if let Some(span) = span {
                            request.set_trace_parent(span.context());
                        }
                        let remaining = timeout.saturating_sub(started.elapsed());
                        request.send(remaining.max(MIN_TIMEOUT), self.keep).await
                    }
                    Err(outcome) => (outcome, None),
                }
            }
        }
    }

    /// Builds the request of an attempt. On an error, no request is sent, and the error is the outcome of the attempt.
    pub async fn prepare_request(
        &self,
        hook: &CompiledHook,
        pending: &PendingDelivery,
    ) -> Result<OutgoingRequest, HandlerOutcome> {
        match &hook.handler {
            Handler::Webhook(webhook) => {
                webhook::prepare_request(self, hook, webhook, pending, timeout(hook)).await
            }
            Handler::WebhookCustom(custom) => {
                Box::pin(webhook_custom::prepare_request(self, hook, custom, pending, timeout(hook))).await
            }
            Handler::Log | Handler::Lambda(_) => Err(HandlerOutcome::Undeliverable {
                reason: DeliveryReason::NoTarget,
                detail: "this handler sends no request".into(),
            }),
        }
    }
}

/// Returns the hook's timeout for an attempt.
fn timeout(hook: &CompiledHook) -> Duration {
    hook.delivery.timeout.max(MIN_TIMEOUT)
}

/// Returns the owner of the hook's script invocations.
fn script_owner(hook: &CompiledHook) -> ScriptOwner<'_> {
    ScriptOwner { namespace: &hook.namespace, hook: &hook.uid }
}

/// Returns the outcome of an attempt on an event whose stored data cannot be read. Nothing is sent: a receiver could not
/// tell empty texts from the event's own.
fn data_unreadable(error: &UnreadableData) -> HandlerOutcome {
    let detail = format!("the event's data cannot be read: {error}");
    HandlerOutcome::Failed { reason: AttemptFailure::DataUnreadable, detail }
}

/// Returns the outcome of an attempt whose Lua failed. `what` names the script: a template, a function.
fn script_failed(what: &str, error: &ScriptError) -> HandlerOutcome {
    let detail = request::redact_and_cut(&format!("{what}: {error}"), &[]);
    let reason = match error {
        ScriptError::SandboxUnavailable(_) => {
            return HandlerOutcome::NotReady { reason: error.into(), detail };
        }
        ScriptError::SandboxBusy(_) => return HandlerOutcome::Postponed { reason: error.into(), detail },
        ScriptError::ScriptFailed(_) => AttemptFailure::ScriptFailed,
        ScriptError::ScriptTimeout(_) => AttemptFailure::ScriptTimeout,
        ScriptError::ScriptMemory => AttemptFailure::ScriptMemory,
        ScriptError::ScriptCrashed => AttemptFailure::ScriptCrashed,
        ScriptError::ScriptTooBig(_) => AttemptFailure::ScriptTooBig,
        // The same event has the same output at every attempt.
        ScriptError::OutputTooLarge => {
            return HandlerOutcome::Undeliverable { reason: DeliveryReason::OutputTooLarge, detail };
        }
    };
    HandlerOutcome::Failed { reason, detail }
}

/// Returns the outcome of an attempt whose headers and body could not be rendered within its limits.
fn rendering_failed(error: &RenderError, timeout: Duration) -> HandlerOutcome {
    let error = match error {
        RenderError::Template(diagnostic) => diagnostic.clone().into(),
        RenderError::Output(OutputError::TooLarge) => ScriptError::OutputTooLarge,
        RenderError::Output(OutputError::Late) => ScriptError::ScriptTimeout(timeout),
    };
    script_failed("template", &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_sandbox_postpones_a_delivery_and_an_unavailable_one_holds_the_hook() {
        let busy = script_failed("template", &ScriptError::SandboxBusy("no memory".into()));
        assert!(matches!(busy, HandlerOutcome::Postponed { reason: "SandboxBusy", .. }), "{busy:?}");
        assert_eq!(busy.label(), "SandboxBusy");
        let unavailable = script_failed("template", &ScriptError::SandboxUnavailable("no seccomp".into()));
        assert!(matches!(unavailable, HandlerOutcome::NotReady { .. }), "{unavailable:?}");
    }
}
