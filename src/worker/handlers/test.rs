//! Runs a hook once on one event and shows the user what it does. Nothing is stored and gates are bypassed.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{HandlerOutcome, HandlerRunner, OutgoingRequest, lambda, log, request, timeout};
use crate::core::delivery_reason::AttemptFailure;
use crate::core::event::{Event, Origin};
use crate::core::hook::{CompiledHook, Handler};
use crate::core::redact::mask;
use crate::core::time::Millis;
use crate::worker::store::{Exchange, HookId, KeepResponses, PendingDelivery};

/// The result of a test run.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum TestResult {
    /// The receiver's response, in the format of Kong's test.
    Answer {
        body: String,
        headers: BTreeMap<String, String>,
        status: u16,
    },
    /// `true`, as Kong's log handler returns.
    Logged(bool),
    Ran {
        functions: Vec<FunctionResult>,
    },
}

/// The result of one Lua function.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum FunctionResult {
    Result { ok: bool, result: Value },
    Error { ok: bool, error: String },
}

impl TestResult {
    /// Returns why a delivery with this result would fail. None: it would succeed.
    pub fn failure(&self) -> Option<String> {
        match self {
            TestResult::Answer { status: 200..=299, .. } | TestResult::Logged(_) => None,
            TestResult::Answer { status, .. } => Some(format!("the receiver answered {status}")),
            TestResult::Ran { functions } => functions.iter().enumerate().find_map(|(i, function)| {
                let why = match function {
                    FunctionResult::Result { result: Value::Bool(true), .. } => return None,
                    FunctionResult::Result { result, .. } => {
                        format!("{}: a function delivers by returning true", lambda::describe_result(result))
                    }
                    FunctionResult::Error { error, .. } => error.clone(),
                };
                Some(format!("function {}: {why}", i + 1))
            }),
        }
    }
}

/// What a hook did with an event, with the request and the response as the history shows those of a delivery.
pub struct TestRun {
    pub outcome: HandlerOutcome,
    /// The request and the response, masked and bounded. None if the handler sends none, or could not build one.
    pub exchange: Option<Box<Exchange>>,
    /// The results of Lua functions.
    pub functions: Vec<FunctionResult>,
}

impl HandlerRunner {
    /// Runs the hook on the event as a delivery's attempt, with real effects.
    pub async fn run_once(&self, hook: &CompiledHook, event: Event) -> TestRun {
        let of = |(outcome, exchange)| TestRun { outcome, exchange, functions: Vec::new() };
        match &hook.handler {
            Handler::Webhook(_) | Handler::WebhookCustom(_) => {
                let pending = unstored_delivery(hook, event);
                if hook.handler.performs_handshake()
                    && let Err(outcome) = self.perform_handshake_once(hook, &pending).await
                {
                    return of((outcome, None));
                }
                match self.prepare_request(hook, &pending).await {
                    Ok(request) => of(request.send(timeout(hook), KeepResponses::All).await),
                    Err(outcome) => of((outcome, None)),
                }
            }
            Handler::Log | Handler::Lambda(_) => match self.test(hook, event).await {
                Err(outcome) => of((outcome, None)),
                Ok(result) => {
                    let outcome = match result.failure() {
                        None => HandlerOutcome::Completed,
                        Some(detail) => {
                            HandlerOutcome::Failed { reason: AttemptFailure::NotDelivered, detail }
                        }
                    };
                    let functions = match result {
                        TestResult::Ran { functions } => functions,
                        TestResult::Answer { .. } | TestResult::Logged(_) => Vec::new(),
                    };
                    TestRun { outcome, exchange: None, functions }
                }
            },
        }
    }

    /// Runs the hook on the event, with real effects. An error: nothing was sent, or no response was received.
    pub async fn test(&self, hook: &CompiledHook, event: Event) -> Result<TestResult, HandlerOutcome> {
        let pending = unstored_delivery(hook, event);
        match &hook.handler {
            Handler::Log => match log::write(hook, &pending).await {
                HandlerOutcome::Completed => Ok(TestResult::Logged(true)),
                other => Err(other),
            },
            Handler::Lambda(functions) => {
                let results = lambda::run_all(self, hook, functions, &pending, timeout(hook)).await;
                let functions = results.into_iter().map(|result| match result {
                    Ok(result) => FunctionResult::Result { ok: true, result },
                    Err(error) => FunctionResult::Error {
                        ok: false,
                        error: request::redact_and_cut(&error.to_string(), &[]),
                    },
                });
                Ok(TestResult::Ran { functions: functions.collect() })
            }
            Handler::Webhook(_) | Handler::WebhookCustom(_) => {
                if hook.handler.performs_handshake() {
                    self.perform_handshake_once(hook, &pending).await?;
                }
                let mut request = self.prepare_request(hook, &pending).await?;
                let mut secrets = std::mem::take(&mut request.secrets);
                let response = request.exchange(timeout(hook), &mut secrets).await?;
                // A receiver may echo the request, which contains secrets.
                let masked = |bytes: &[u8]| {
                    let secrets = secrets.iter().map(ExposeSecret::expose_secret);
                    mask(&String::from_utf8_lossy(bytes), secrets)
                };
                let headers = response
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), masked(value.as_bytes())))
                    .collect();
                let status = response.status.as_u16();
                Ok(TestResult::Answer { status, headers, body: masked(&response.body) })
            }
        }
    }

    /// Returns the request that `test` would send.
    pub async fn dry_run(
        &self,
        hook: &CompiledHook,
        event: Event,
    ) -> Result<OutgoingRequest, HandlerOutcome> {
        let mut request = self.prepare_request(hook, &unstored_delivery(hook, event)).await?;
        request.show_authorization();
        Ok(request)
    }

    /// Returns the line that `test` would log, as JSON.
    pub fn log_line(hook: &CompiledHook, event: Event) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(&log::LogLine::new(hook, &unstored_delivery(hook, event)))
    }
}

/// Creates an event with this data, as if the hook's source had emitted it. Without `event`, it has the hook's event name.
pub fn posted_event(hook: &CompiledHook, event: Option<&str>, data: Box<RawValue>) -> Event {
    let event = event.or(hook.event.as_deref()).unwrap_or("test").to_owned();
    new_event(hook, hook.source.to_string(), event, data)
}

/// Creates Kong's ping event. Its data contains the hook in Kong's format.
pub fn ping_event(hook: &CompiledHook, shown: &Value) -> serde_json::Result<Event> {
    let data = to_raw_value(&json!({ "event_hooks": shown }))?;
    Ok(new_event(hook, "kong:event_hooks".into(), "ping".into(), data))
}

fn new_event(hook: &CompiledHook, source: String, event: String, data: Box<RawValue>) -> Event {
    Event {
        id: Uuid::now_v7().to_string(),
        namespace: hook.namespace.to_string(),
        origin: Origin::Api,
        source,
        event,
        time: Millis::now().rfc3339(),
        data: data.into(),
        attributes: BTreeMap::new(),
    }
}

/// Creates a delivery that is not stored.
fn unstored_delivery(hook: &CompiledHook, event: Event) -> PendingDelivery {
    let now = Millis::now();
    PendingDelivery {
        epoch: None,
        seq: 0,
        id: Uuid::now_v7(),
        hook: HookId { uid: hook.uid.clone(), namespace: hook.namespace.clone(), name: hook.name.clone() },
        event: Arc::new(event),
        accepted: now,
        attempts: 0,
        due: now,
        held: std::time::Duration::ZERO,
        suppressed: 0,
        replays: 0,
        progress: Vec::new(),
    }
}

/// Returns the posted data as Kong's test shows it: with the members `source` and `event`, which take precedence.
pub fn shown_data(event: &Event) -> serde_json::Result<Box<RawValue>> {
    serde_json::from_slice(&event.to_kong())
}

/// The response to a test: the data, and what the handler did with it. The data keeps its text.
#[derive(Serialize)]
pub struct ShownTest {
    pub data: Box<RawValue>,
    pub result: TestResult,
}
