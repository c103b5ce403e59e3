//! One hook run once on one event, for people who want to see what it does: nothing is stored, gates are passed by.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Sender, Sent, lambda, log, request, time};
use crate::core::event::{Event, Origin};
use crate::core::hook::{Handler, Hook};
use crate::core::redact::mask;
use crate::core::time::Millis;
use crate::worker::store::{HookId, Pending};

use secrecy::ExposeSecret;

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Tested {
    /// The receiver's answer, as Kong's test tells it.
    Answer {
        status: u16,
        headers: BTreeMap<String, String>,
        body: String,
    },
    /// `true`, as of Kong's log handler.
    Logged(bool),
    Ran {
        functions: Vec<Ran>,
    },
}

/// What came of one function.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Ran {
    Result { ok: bool, result: Value },
    Error { ok: bool, error: String },
}

impl Tested {
    /// None: it would count as delivered. Else why not.
    pub fn failure(&self) -> Option<String> {
        match self {
            Tested::Answer { status: 200..=299, .. } | Tested::Logged(_) => None,
            Tested::Answer { status, .. } => Some(format!("the receiver answered {status}")),
            Tested::Ran { functions } => functions.iter().enumerate().find_map(|(i, ran)| {
                let why = match ran {
                    Ran::Result { result: Value::Bool(true), .. } => return None,
                    Ran::Result { result, .. } => {
                        format!("{}: it delivers by returning true", lambda::returned(result))
                    }
                    Ran::Error { error, .. } => error.clone(),
                };
                Some(format!("function {}: {why}", i + 1))
            }),
        }
    }
}

impl Sender {
    /// Runs the hook on the event, for real. An error tells why nothing was sent, or nothing answered.
    pub async fn test(&self, hook: &Hook, event: Event) -> Result<Tested, Sent> {
        let pending = pending(hook, event);
        match &hook.handler {
            Handler::Log => match log::write(hook, &pending).await {
                Sent::Done => Ok(Tested::Logged(true)),
                other => Err(other),
            },
            Handler::Lambda(functions) => {
                let ran = lambda::try_all(self, hook, functions, &pending, time(hook)).await;
                let functions = ran.into_iter().map(|ran| match ran {
                    Ok(result) => Ran::Result { ok: true, result },
                    Err(error) => Ran::Error { ok: false, error: request::shown(&error.to_string(), &[]) },
                });
                Ok(Tested::Ran { functions: functions.collect() })
            }
            Handler::Webhook(_) | Handler::WebhookCustom(_) => {
                let mut request = self.request(hook, &pending).await?;
                let secrets = std::mem::take(&mut request.secrets);
                let answer =
                    request.exchange(time(hook)).await.map_err(|error| request::failed(&error, &secrets))?;
                // A receiver may send back what it was sent.
                let shown = |bytes: &[u8]| {
                    let secrets = secrets.iter().map(ExposeSecret::expose_secret);
                    mask(&String::from_utf8_lossy(bytes), secrets)
                };
                let headers = answer
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), shown(value.as_bytes())))
                    .collect();
                Ok(Tested::Answer { status: answer.status.as_u16(), headers, body: shown(&answer.body) })
            }
        }
    }

    /// The request that `test` would send.
    pub async fn dry_run(&self, hook: &Hook, event: Event) -> Result<super::Outgoing, Sent> {
        self.request(hook, &pending(hook, event)).await
    }

    /// The line that `test` would write.
    pub fn log_line(hook: &Hook, event: Event) -> Value {
        serde_json::to_value(log::Line::new(hook, &pending(hook, event))).unwrap_or_default()
    }
}

/// An event of this data at this hook, as if its source had emitted it. `event`: its name; else the hook's own.
pub fn posted_event(hook: &Hook, event: Option<&str>, data: Box<RawValue>) -> Event {
    let event = event.or(hook.event.as_deref()).unwrap_or("test").to_owned();
    event_of(hook, hook.source.clone(), event, data)
}

/// Kong's ping; it carries the hook as it is shown.
pub fn ping_event(hook: &Hook, shown: &Value) -> Event {
    let data = serde_json::value::to_raw_value(&json!({ "event_hooks": shown })).unwrap_or_default();
    event_of(hook, "kong:event_hooks".into(), "ping".into(), data)
}

fn event_of(hook: &Hook, source: String, event: String, data: Box<RawValue>) -> Event {
    Event {
        id: Uuid::now_v7().to_string(),
        namespace: hook.namespace.to_string(),
        origin: Origin::Api,
        source,
        event,
        time: Millis::now().rfc3339(),
        data,
        attributes: BTreeMap::new(),
    }
}

/// A delivery that is in no store.
fn pending(hook: &Hook, event: Event) -> Pending {
    let now = Millis::now();
    Pending {
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

/// The posted data as Kong's test shows it: with `source` and `event`, which win.
pub fn shown_data(event: &Event) -> Map<String, Value> {
    match serde_json::from_slice(&event.to_kong()) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}
