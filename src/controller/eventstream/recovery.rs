//! Whether a stream is enabled at Auth0, which disables one whose receiver keeps failing.
//!
//! To repair that like any drift would be a fight. So it is reported first; then a stream into the worker is enabled again
//! when the worker answers, at most once an hour, and its failed deliveries are asked for again; any other one when
//! somebody says so by `hookstream.dev/resume`.
//!
//! What was seen disabled stands in the status before anything is done about it: a process that ends after enabling the
//! stream still asks for the failed deliveries when it comes back.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use kube::ResourceExt;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::Worker;
use crate::admin::auth0::{StreamBody, StreamClient};
use crate::admin::{AdminError, ExternalClient};
use crate::api::{EventStream, EventStreamStatus, Handled, RESUME, ServerStatus};
use crate::controller::context::Context;
use crate::controller::problem::Problem;
use crate::controller::reconcile::Synced;
use crate::controller::status;
use crate::core::conditions::Note;
use crate::core::stream::{Destination, Recovery, Stream};
use crate::core::time::Millis;

/// A stream is enabled again by the operator itself at most this often.
const AT_MOST_EVERY: Duration = Duration::from_secs(3600);
/// How often the worker is asked while a stream waits for it.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// The status is written; then the next step is due.
const SOON: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 64 * 1024;

/// What this process knows of streams that were disabled, by uid.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<String, Known>>);

#[derive(Default)]
struct Known {
    /// Why the newest delivery failed: asked for once.
    failure: Option<String>,
    /// When it was last enabled again, until the status says so: the watch is late, and a look at an older object would
    /// enable it twice.
    enabled: Option<Millis>,
}

impl Failures {
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    fn enabled(&self, uid: &str, at: Millis) {
        self.0.lock().insert(uid.to_owned(), Known { failure: None, enabled: Some(at) });
    }

    fn last_enabled(&self, uid: &str) -> Option<Millis> {
        self.0.lock().get(uid).and_then(|known| known.enabled)
    }
}

/// One look at a stream.
pub struct Look<'a> {
    pub context: &'a Context,
    pub object: &'a EventStream,
    pub stream: &'a Stream,
    pub client: &'a StreamClient,
    pub desired: &'a StreamBody,
    pub worker: Option<&'a Worker>,
    pub id: &'a str,
    /// None: Auth0 does not say, or says something new.
    pub shown: Option<ServerStatus>,
}

/// How it stands.
#[derive(Default)]
pub struct Settled {
    /// It stays so until somebody does something.
    pub stalled: Option<Note>,
    /// It is being worked on or waited for.
    pub waiting: Option<Note>,
    /// When to look again.
    pub next: Option<Duration>,
}

/// What Auth0 shows.
pub fn shown(item: &Value) -> Option<ServerStatus> {
    match item.get("status").and_then(Value::as_str) {
        Some("enabled") => Some(ServerStatus::Enabled),
        Some("disabled") => Some(ServerStatus::Disabled),
        _ => None,
    }
}

impl Look<'_> {
    /// Does what is due, and tells it in the status.
    pub async fn settle(&self, status: &mut EventStreamStatus) -> Result<Settled, Problem> {
        let token = self.object.annotations().get(RESUME).cloned();
        let handled = status.handled.as_ref().and_then(|h| h.resume.clone());
        // An object without a status records the token without acting.
        let resume = self.object.status.is_some() && token.is_some() && token != handled;
        let before = status.server_status;
        let told = status.applied.as_ref().and_then(|a| a.enabled);
        status.server_status = self.shown.or(before);

        let settled = match (self.stream.enabled, self.shown) {
            (_, None) | (false, Some(ServerStatus::Disabled)) => Settled::default(),
            (wanted, Some(_)) if self.object.policies().observes_only() && self.is(!wanted) => {
                self.observed(wanted)
            }
            (false, Some(ServerStatus::Enabled)) => {
                self.set(status).await?;
                Settled::default()
            }
            (true, Some(ServerStatus::Enabled)) => {
                if before == Some(ServerStatus::Disabled) && told == Some(true) {
                    self.enabled_again(status).await?;
                }
                Settled::default()
            }
            // It was to be disabled until now, or was just adopted.
            (true, Some(ServerStatus::Disabled)) if told != Some(true) => {
                self.set(status).await?;
                Settled::default()
            }
            // Seen for the first time: the status says so before anything is done about it.
            (true, Some(ServerStatus::Disabled)) if before != Some(ServerStatus::Disabled) => {
                let note = self.disabled("it is looked at").await;
                // What resumes it is not carried out yet.
                return Ok(Settled { waiting: Some(note), next: Some(SOON), ..Settled::default() });
            }
            (true, Some(ServerStatus::Disabled)) => self.recover(status, resume).await?,
        };
        let mut all = status.handled.take().unwrap_or_default();
        all.resume = token;
        status.handled = Some(all).filter(|all| *all != Handled::default());
        Ok(settled)
    }

    fn is(&self, enabled: bool) -> bool {
        self.shown == Some(if enabled { ServerStatus::Enabled } else { ServerStatus::Disabled })
    }

    fn observed(&self, wanted: bool) -> Settled {
        let (is, wanted) = if wanted { ("disabled", "enabled") } else { ("enabled", "disabled") };
        let message = format!(
            "the event stream at Auth0 is {is} and not {wanted}, and managementPolicy: ObserveOnly writes nothing"
        );
        Settled { stalled: Some(Note::new("Differs", message)), ..Settled::default() }
    }

    /// Auth0 (or somebody there) disabled the stream.
    async fn recover(&self, status: &mut EventStreamStatus, resume: bool) -> Result<Settled, Problem> {
        let recovery = self.recovery();
        if !resume {
            let Some(recovery) = recovery.filter(|r| r.reenable) else {
                let note = self
                    .disabled("set the annotation hookstream.dev/resume to a new text to enable it")
                    .await;
                return Ok(Settled { stalled: Some(note), ..Settled::default() });
            };
            let last = status.reenabled_at.as_deref().and_then(Millis::parse);
            let last = last.max(self.context.failures.last_enabled(&self.uid()));
            if let Some(left) = too_soon(last, Millis::now()) {
                let note =
                    self.disabled("it is enabled again when an hour has passed since the last time").await;
                return Ok(Settled { waiting: Some(note), next: Some(left), ..Settled::default() });
            }
            if let Err(why) = self.ask_worker().await {
                let what = format!("it is enabled again when the worker answers: {why}");
                let note = self.disabled(&what).await;
                return Ok(Settled { waiting: Some(note), next: Some(ASK_EVERY), ..Settled::default() });
            }
            tracing::debug!(name = self.object.name_any(), ?recovery, "the worker answers: enabled again");
        }
        match self.set(status).await {
            Ok(()) => {
                self.enabled_again(status).await?;
                Ok(Settled::default())
            }
            // Too many deliveries failed: Auth0 wants them asked for first.
            Err(Problem::Admin(AdminError::Rejected(detail) | AdminError::Conflict(detail))) => {
                self.redeliver().await?;
                self.tried(status);
                let what = format!("Auth0 refuses to enable it: {}", detail.message);
                let note = self.disabled(&what).await;
                Ok(Settled { waiting: Some(note), next: Some(AT_MOST_EVERY), ..Settled::default() })
            }
            Err(problem) => Err(problem),
        }
    }

    fn tried(&self, status: &mut EventStreamStatus) {
        let now = Millis::now();
        status.reenabled_at = Some(now.rfc3339());
        self.context.failures.enabled(&self.uid(), now);
    }

    fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }

    fn recovery(&self) -> Option<Recovery> {
        match self.stream.destination {
            Destination::Worker(recovery) => Some(recovery),
            _ => None,
        }
    }

    /// Tells Auth0 what the spec says.
    async fn set(&self, status: &mut EventStreamStatus) -> Result<(), Problem> {
        let (snapshots, scope) = (&self.context.snapshots, self.client.scope());
        let fields = ["status".to_owned()];
        let call = self.client.update(self.id, self.desired, &fields);
        let item = snapshots.writing(scope, self.id, call).await?;
        status.server_status = shown(&item).or(status.server_status);
        snapshots.is(scope, self.id, item);
        Ok(())
    }

    async fn enabled_again(&self, status: &mut EventStreamStatus) -> Result<(), Problem> {
        let asked = self.redeliver().await?;
        self.tried(status);
        let more = if asked { ", and its failed deliveries are asked for again" } else { "" };
        let note = Note::new("Reenabled", format!("the event stream at Auth0 is enabled again{more}"));
        status::tell(self.context, self.object, false, &note).await;
        Ok(())
    }

    /// Asks for what failed, where the endpoint is ours. One that may not ask says so and goes on.
    async fn redeliver(&self) -> Result<bool, Problem> {
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
                let message = format!("failed deliveries cannot be asked for again: {error}");
                status::tell(self.context, self.object, true, &Note::new("RedeliverFailed", message)).await;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn disabled(&self, what: &str) -> Note {
        let uid = self.uid();
        let known = self.context.failures.0.lock().get(&uid).and_then(|known| known.failure.clone());
        let failure = match known {
            Some(known) => known,
            None => {
                let asked = self.client.last_failure(self.id).await.ok().flatten();
                let told = asked.map(|why| format!("; the newest failure: {why}")).unwrap_or_default();
                self.context.failures.0.lock().entry(uid).or_default().failure = Some(told.clone());
                told
            }
        };
        Note::new(
            "DisabledByAuth0",
            format!("Auth0 disabled the stream, so that no event comes; {what}{failure}"),
        )
    }

    /// Asks the worker as Auth0 would: by the public address, with the token. What it is asked to take is nothing, which
    /// a worker that could take an event refuses as malformed.
    async fn ask_worker(&self) -> Result<(), String> {
        let Some(worker) = self.worker else { return Err("there is none".into()) };
        let request = Request::builder()
            .method(Method::POST)
            .uri(worker.endpoint.as_str())
            .header("authorization", format!("Bearer {}", worker.token.expose_secret()))
            .header("content-type", "application/json")
            .body(Full::from(Bytes::new()))
            .map_err(|e| e.to_string())?;
        let answer = self.context.http.send(request, TIMEOUT, MAX_ANSWER).await;
        let answer = answer.map_err(|e| format!("{}: {e}", worker.endpoint))?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        // A proxy in between has no reasons.
        let reason = body.get("reason").and_then(Value::as_str);
        match (answer.status.as_u16(), reason) {
            (400, Some(_)) => Ok(()),
            (code, Some(reason)) => Err(format!("{} answers {code} ({reason:.64})", worker.endpoint)),
            (code, None) => Err(format!("{} answers {code}, which is not the worker", worker.endpoint)),
        }
    }
}

/// How long the next time is still away.
fn too_soon(last: Option<Millis>, now: Millis) -> Option<Duration> {
    let left = AT_MOST_EVERY.saturating_sub(now.since(last?));
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn once_an_hour() {
        let now = Millis(1_700_000_000_000);
        let ago = |seconds: i64| Some(Millis(now.0 - seconds * 1000));
        assert_eq!(too_soon(None, now), None);
        assert_eq!(too_soon(ago(3600), now), None);
        assert_eq!(too_soon(ago(3590), now), Some(Duration::from_secs(10)));
    }

    #[test]
    fn what_auth0_shows() {
        assert_eq!(shown(&json!({"status": "enabled"})), Some(ServerStatus::Enabled));
        assert_eq!(shown(&json!({"status": "disabled"})), Some(ServerStatus::Disabled));
        assert_eq!(shown(&json!({"status": "paused"})), None);
    }
}
