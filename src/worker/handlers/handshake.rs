//! The handshake that a hook with `handler.webhook.handshake` performs with its receiver before the first delivery.
//!
//! It takes the way of the deliveries: address, client, TLS options, egress policy, timeout and limits are the same. It
//! carries no headers, signature or token of the hook, because the receiver has not proven yet that it expects deliveries.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Uri};

use super::permission::{HookVersion, PermissionScope, ReceiverPermission};
use super::request::{RequestDraft, retry_after_of};
use super::{HandlerOutcome, HandlerRunner, timeout};
use crate::core::delivery_reason::AttemptFailure;
use crate::core::digest::hash_parts;
use crate::core::hook::CompiledHook;
use crate::core::webhook_handshake::{
    HandshakeAnswer, REQUEST_ORIGIN, REQUEST_RATE, evaluate, requested_rate,
};
use crate::worker::store::PendingDelivery;

/// The longest handshake. With it, an attempt still ends before the breaker counts its probe as lost.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

impl HandlerRunner {
    /// Makes sure that the hook's receiver permits deliveries. Performs the handshake if there is no valid grant for this
    /// version of the hook and its present address. An error is the outcome of the attempt.
    pub async fn obtain_permission(
        &self,
        hook: &CompiledHook,
        pending: &PendingDelivery,
        version: HookVersion,
        permission: &ReceiverPermission,
        now: Instant,
    ) -> Result<(), HandlerOutcome> {
        let mut draft = RequestDraft::new(self, hook, pending);
        let target = draft.target_uri().await?;
        let hash = hash_parts(&[target.to_string().as_bytes()]);
        let scope = PermissionScope { version, target: hash };
        permission.obtain(scope, now, self.perform_handshake(hook, draft, target)).await
    }

    /// Performs the handshake for one request, whether or not there was one before. An error is never a response.
    pub(super) async fn perform_handshake_once(
        &self,
        hook: &CompiledHook,
        pending: &PendingDelivery,
    ) -> Result<(), HandlerOutcome> {
        let mut draft = RequestDraft::new(self, hook, pending);
        let target = draft.target_uri().await?;
        self.perform_handshake(hook, draft, target).await.map(drop).map_err(|outcome| match outcome {
            HandlerOutcome::Answered { status, .. } => refused(&format!("the receiver answered {status}")),
            other => other,
        })
    }

    /// Returns the granted requests a minute, if they are limited.
    async fn perform_handshake(
        &self,
        hook: &CompiledHook,
        mut draft: RequestDraft<'_>,
        target: Uri,
    ) -> Result<Option<NonZeroU32>, HandlerOutcome> {
        draft.set_own_header(REQUEST_ORIGIN, &self.webhook_origin);
        if let Some(rate) = requested_rate(hook.delivery.rate) {
            draft.set_own_header(REQUEST_RATE, &rate.to_string());
        }
        let mut request = draft.without_credentials(Method::OPTIONS, target, Bytes::new()).await?;
        let mut secrets = std::mem::take(&mut request.secrets);
        let timeout = timeout(hook).min(MAX_TIMEOUT);
        let response = request.exchange(timeout, &mut secrets).await.map_err(name_handshake)?;
        let status = response.status.as_u16();
        match evaluate(status, &response.headers, &self.webhook_origin) {
            HandshakeAnswer::Granted(rate) => {
                let rate_text = rate.map_or_else(|| "*".to_owned(), |rate| rate.to_string());
                tracing::info!(namespace = %hook.namespace, hook = %hook.name, rate = rate_text, "webhook handshake granted");
                Ok(rate)
            }
            // A terminal status is about an event, and this request carries none: the delivery must not die of it.
            HandshakeAnswer::Unavailable if !hook.delivery.retry.terminal_statuses.contains(&status) => {
                let retry_after = retry_after_of(&response.headers);
                let detail = Some("in the webhook handshake (OPTIONS)".to_owned());
                Err(HandlerOutcome::Answered { status, retry_after, detail })
            }
            HandshakeAnswer::Unavailable => Err(refused(&format!("the receiver answered {status}"))),
            HandshakeAnswer::Refused(refusal) => Err(refused(&refusal.to_string())),
        }
    }
}

fn refused(why: &str) -> HandlerOutcome {
    let detail = format!("webhook handshake (OPTIONS): {why}");
    HandlerOutcome::Failed { reason: AttemptFailure::HandshakeRefused, detail }
}

/// Says in the failure of a request that it was the handshake.
fn name_handshake(outcome: HandlerOutcome) -> HandlerOutcome {
    let name = |detail: String| format!("webhook handshake (OPTIONS): {detail}");
    match outcome {
        HandlerOutcome::Failed { reason, detail } => HandlerOutcome::Failed { reason, detail: name(detail) },
        HandlerOutcome::Undeliverable { reason, detail } => {
            HandlerOutcome::Undeliverable { reason, detail: name(detail) }
        }
        other => other,
    }
}
