//! Re-enables streams that Auth0 disabled. Auth0 disables a stream whose receiver keeps failing.
//!
//! Repairing this like any other drift would fight Auth0. The controller therefore first reports that the stream is
//! disabled. It re-enables a stream into the worker when the worker answers, at most once an hour, and requests
//! redelivery of the failed deliveries. It re-enables any other stream only when a user sets `hookstream.dev/resume`.
//!
//! The controller writes to the status that the stream is disabled before it acts. If the process ends right after it
//! enabled the stream, the next process sees this and still requests the redelivery.

use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;

use super::worker_endpoint::WorkerEndpoint;
use crate::admin::auth0::{StreamBody, StreamClient};
use crate::admin::{AdminError, ExternalClient};
use crate::api::{EventStream, EventStreamStatus, Handled, RESUME, ServerStatus, bounded_token};
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::controller::reconcile::Synced;
use crate::controller::status;
use crate::core::conditions::ConditionMessage;
use crate::core::stream::{Destination, Recovery, Stream};
use crate::core::time::Millis;

/// Minimum time between two automatic re-enables of a stream.
const MIN_REENABLE_INTERVAL: Duration = Duration::from_secs(3600);
/// Time between two probes of a worker that does not answer.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// Requeue delay between the status write and the next step.
const NEXT_STEP_REQUEUE: Duration = Duration::from_millis(200);

/// One check of a stream's status at Auth0.
pub struct RecoveryRun<'a> {
    pub context: &'a Context,
    pub object: &'a EventStream,
    pub stream: &'a Stream,
    pub client: &'a StreamClient,
    pub desired: &'a StreamBody,
    pub worker: Option<&'a WorkerEndpoint>,
    /// Auth0's id of the stream.
    pub id: &'a str,
    /// The status at Auth0. None if it is absent or a value that this version does not know.
    pub server_status: Option<ServerStatus>,
}

/// The result of a check.
#[derive(Default)]
pub struct RecoveryResult {
    /// The reason why the stream stays as it is until a user acts.
    pub stalled: Option<ConditionMessage>,
    /// The next step of the controller, or the event that it waits for.
    pub waiting: Option<ConditionMessage>,
    /// Delay until the next check, if it is due before the resync.
    pub requeue: Option<Duration>,
}

impl RecoveryResult {
    fn stalled(message: ConditionMessage) -> Self {
        RecoveryResult { stalled: Some(message), ..Self::default() }
    }

    fn waiting(message: ConditionMessage, requeue: Duration) -> Self {
        RecoveryResult { waiting: Some(message), requeue: Some(requeue), ..Self::default() }
    }
}

/// Parses the status that Auth0 shows.
pub fn server_status(item: &Value) -> Option<ServerStatus> {
    match item.get("status").and_then(Value::as_str) {
        Some("enabled") => Some(ServerStatus::Enabled),
        Some("disabled") => Some(ServerStatus::Disabled),
        _ => None,
    }
}

impl RecoveryRun<'_> {
    /// Takes the step that is due and records it in the status.
    pub async fn run(&self, status: &mut EventStreamStatus) -> Result<RecoveryResult, SyncError> {
        let token = self.object.annotations().get(RESUME).map(|token| bounded_token(token));
        let handled = status.handled.as_ref().and_then(|h| h.resume.clone());
        // The first reconcile of an object records the token without acting on it.
        let is_resumed = self.object.status.is_some() && token.is_some() && token != handled;
        let before = status.server_status;
        let was_enabled_by_us = status.applied.as_ref().and_then(|a| a.enabled) == Some(true);
        status.server_status = self.server_status.or(before);

        let result = match (self.stream.enabled, self.server_status) {
            (_, None) | (false, Some(ServerStatus::Disabled)) => RecoveryResult::default(),
            (enabled, Some(_)) if self.object.policies().observes_only() && self.is_status(!enabled) => {
                report_difference(enabled)
            }
            (false, Some(ServerStatus::Enabled)) => {
                self.write_status(status).await?;
                RecoveryResult::default()
            }
            (true, Some(ServerStatus::Enabled)) => {
                if before == Some(ServerStatus::Disabled) && was_enabled_by_us {
                    self.finish_reenable(status).await?;
                }
                RecoveryResult::default()
            }
            // The spec disabled the stream until now, or the stream was just adopted: enable it.
            (true, Some(ServerStatus::Disabled)) if !was_enabled_by_us => {
                self.write_status(status).await?;
                RecoveryResult::default()
            }
            // The stream was enabled at the last check: write the status before acting.
            (true, Some(ServerStatus::Disabled)) if before != Some(ServerStatus::Disabled) => {
                let message = self.disabled_message("the operator is checking whether to enable it").await;
                // Return before recording the token, because the request is not carried out yet.
                return Ok(RecoveryResult::waiting(message, NEXT_STEP_REQUEUE));
            }
            (true, Some(ServerStatus::Disabled)) => self.reenable(status, is_resumed).await?,
        };
        let mut handled = status.handled.take().unwrap_or_default();
        handled.resume = token;
        status.handled = Some(handled).filter(|handled| *handled != Handled::default());
        Ok(result)
    }

    fn is_status(&self, enabled: bool) -> bool {
        self.server_status == Some(if enabled { ServerStatus::Enabled } else { ServerStatus::Disabled })
    }

    /// Enables a stream that was disabled at Auth0: immediately if a user resumed it, otherwise when the worker
    /// answers.
    async fn reenable(
        &self,
        status: &mut EventStreamStatus,
        is_resumed: bool,
    ) -> Result<RecoveryResult, SyncError> {
        if !is_resumed && let Some(result) = self.check_reenable(status).await {
            return Ok(result);
        }
        match self.write_status(status).await {
            Ok(()) => {
                self.finish_reenable(status).await?;
                Ok(RecoveryResult::default())
            }
            // After many failed deliveries, Auth0 enables the stream only after a request to redeliver them.
            Err(SyncError::Admin(AdminError::Rejected(detail) | AdminError::Conflict(detail))) => {
                self.request_redelivery().await?;
                self.record_reenable(status);
                let message = self
                    .disabled_message(&format!("Auth0 rejected the request to enable it: {}", detail.message))
                    .await;
                Ok(RecoveryResult::waiting(message, MIN_REENABLE_INTERVAL))
            }
            Err(error) => Err(error),
        }
    }

    /// Checks whether the controller may re-enable the stream automatically. Returns None if it may, otherwise the
    /// result with the reason.
    async fn check_reenable(&self, status: &EventStreamStatus) -> Option<RecoveryResult> {
        if !self.recovery().is_some_and(|recovery| recovery.reenable) {
            let advice = "set the annotation hookstream.dev/resume to a new value to enable it";
            return Some(RecoveryResult::stalled(self.disabled_message(advice).await));
        }
        let last = status.reenabled_at.as_deref().and_then(Millis::parse);
        let last = last.max(self.context.stream_failures.last_enabled(&self.uid()));
        if let Some(remaining) = remaining_wait(last, Millis::now()) {
            let plan = "the operator waits, because it enables a stream at most once an hour";
            return Some(RecoveryResult::waiting(self.disabled_message(plan).await, remaining));
        }
        if let Err(error) = self.probe_worker().await {
            let plan = format!(
                "the operator enables it again when the worker answers; the last probe failed: {error}"
            );
            return Some(RecoveryResult::waiting(self.disabled_message(&plan).await, PROBE_INTERVAL));
        }
        tracing::debug!(
            name = self.object.name_any(),
            "worker answered the probe, enabling the stream again"
        );
        None
    }

    async fn probe_worker(&self) -> Result<(), String> {
        match self.worker {
            Some(worker) => worker.probe(&self.context.http).await,
            None => Err("the stream has no worker".into()),
        }
    }

    fn record_reenable(&self, status: &mut EventStreamStatus) {
        let now = Millis::now();
        status.reenabled_at = Some(now.rfc3339());
        self.context.stream_failures.record_enabled(&self.uid(), now);
    }

    fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }

    /// The recovery settings of a stream into the worker.
    fn recovery(&self) -> Option<Recovery> {
        match self.stream.destination {
            Destination::Worker(recovery) => Some(recovery),
            _ => None,
        }
    }

    /// Writes the status of the spec (enabled or disabled) to Auth0.
    async fn write_status(&self, status: &mut EventStreamStatus) -> Result<(), SyncError> {
        let (snapshots, scope) = (&self.context.snapshots, self.client.list_scope());
        let fields = ["status".to_owned()];
        let call = self.client.update(self.id, self.desired, &fields);
        let item = snapshots.track_write(scope, self.id, call).await?;
        status.server_status = server_status(&item).or(status.server_status);
        snapshots.mark_present(self.client, self.id, &item);
        Ok(())
    }

    /// Requests redelivery and publishes an Event after the stream was enabled.
    async fn finish_reenable(&self, status: &mut EventStreamStatus) -> Result<(), SyncError> {
        let is_requested = self.request_redelivery().await?;
        self.record_reenable(status);
        let more = if is_requested { ", and redelivery of its failed deliveries is requested" } else { "" };
        let event =
            ConditionMessage::new("Reenabled", format!("the event stream at Auth0 is enabled again{more}"));
        status::publish_event(self.context, self.object, false, &event).await;
        Ok(())
    }

    /// Requests redelivery of the failed deliveries of a stream into the worker, if the spec says so. Returns true if
    /// Auth0 accepted the request. A rejection is not an error; it is published as an Event.
    async fn request_redelivery(&self) -> Result<bool, SyncError> {
        if !self.recovery().is_some_and(|r| r.redeliver) {
            return Ok(false);
        }
        match self.client.redeliver(self.id).await {
            Ok(()) => Ok(true),
            Err(
                error @ (AdminError::Rejected(_)
                | AdminError::Forbidden(_)
                | AdminError::NotFound(_)
                | AdminError::Conflict(_)),
            ) => {
                let message = format!("the request to redeliver the failed deliveries failed: {error}");
                let event = ConditionMessage::new("RedeliverFailed", message);
                status::publish_event(self.context, self.object, true, &event).await;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the message of a disabled stream: the next step (`plan`), then the newest delivery failure.
    async fn disabled_message(&self, plan: &str) -> ConditionMessage {
        let uid = self.uid();
        let failure = match self.context.stream_failures.failure(&uid) {
            Some(cached) => cached,
            None => {
                let newest = self.client.last_failure(self.id).await.ok().flatten();
                let text = newest.map(|why| format!("; newest failure: {why}")).unwrap_or_default();
                self.context.stream_failures.set_failure(&uid, text.clone());
                text
            }
        };
        let message = format!("Auth0 disabled the stream and sends no events; {plan}{failure}");
        ConditionMessage::new("DisabledByAuth0", message)
    }
}

/// Reports a status that differs from the spec and that `ObserveOnly` forbids to write.
fn report_difference(is_enabled_in_spec: bool) -> RecoveryResult {
    let (actual, desired) =
        if is_enabled_in_spec { ("disabled", "enabled") } else { ("enabled", "disabled") };
    let message = format!(
        "the event stream at Auth0 is {actual} instead of {desired}, and managementPolicy: ObserveOnly forbids the write"
    );
    RecoveryResult::stalled(ConditionMessage::new("Differs", message))
}

/// Returns the time until the stream may be enabled again; None if it may be enabled now.
fn remaining_wait(last: Option<Millis>, now: Millis) -> Option<Duration> {
    let remaining = MIN_REENABLE_INTERVAL.saturating_sub(now.since(last?));
    (!remaining.is_zero()).then_some(remaining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reenables_at_most_once_an_hour() {
        let now = Millis(1_700_000_000_000);
        let ago = |seconds: i64| Some(Millis(now.0 - seconds * 1000));
        assert_eq!(remaining_wait(None, now), None);
        assert_eq!(remaining_wait(ago(3600), now), None);
        assert_eq!(remaining_wait(ago(3590), now), Some(Duration::from_secs(10)));
    }

    #[test]
    fn parses_the_status_that_auth0_shows() {
        assert_eq!(server_status(&json!({"status": "enabled"})), Some(ServerStatus::Enabled));
        assert_eq!(server_status(&json!({"status": "disabled"})), Some(ServerStatus::Disabled));
        assert_eq!(server_status(&json!({"status": "paused"})), None);
    }
}
