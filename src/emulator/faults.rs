//! Fault injection, and the entries of the request log.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const MAX_FAULTS: usize = 100;
const MAX_MILLIS: u64 = 600_000;

/// Makes the response body of a fault without a body, in the vendor's error format.
pub(super) type FaultBody = fn(StatusCode) -> Value;

/// A fault and the requests that it applies to: every `every`-th matching request, at most `times` times.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FaultSpec {
    /// The method to match. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// The prefix of the path to match, as the client sent it (with its workspace). Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The status to answer with; the request is not processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Headers of that response, for example `retry-after`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    /// Body of that response: a string is sent unchanged, any other value as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    /// A delay before everything else, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    /// The time in milliseconds during which reads do not see the object that this request creates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lag_ms: Option<u64>,
    /// Close the connection without a response. Without a status the request is processed first.
    #[serde(default)]
    drop_answer: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
}

impl FaultSpec {
    /// Rejects contradictory settings.
    fn validate(&self) -> Result<(), &'static str> {
        if self.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err("status must be 200 to 599");
        }
        if self.every == Some(0) {
            return Err("every must be 1 or more");
        }
        if self.delay_ms.max(self.lag_ms).is_some_and(|millis| millis > MAX_MILLIS) {
            return Err("delayMs and lagMs must be 600000 or less");
        }
        let is_valid_header = |(name, value): (&String, &String)| {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        };
        if !self.headers.iter().all(is_valid_header) {
            return Err("headers must be valid header names and values");
        }
        if self.status.is_none() && (self.body.is_some() || !self.headers.is_empty()) {
            return Err("body and headers need a status");
        }
        Ok(())
    }

    fn matches(&self, method: &Method, path: &str) -> bool {
        self.method.as_deref().is_none_or(|name| method.as_str().eq_ignore_ascii_case(name))
            && self.path.as_deref().is_none_or(|prefix| path.starts_with(prefix))
    }

    /// Returns the response that replaces the vendor's, if the fault has a status.
    fn response(&self, fault_body: FaultBody) -> Option<Response> {
        let status = StatusCode::from_u16(self.status?).ok()?;
        let mut response = match &self.body {
            None => Json(fault_body(status)).into_response(),
            Some(Value::String(text)) => text.clone().into_response(),
            Some(value) => Json(value).into_response(),
        };
        *response.status_mut() = status;
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().insert(name, value);
            }
        }
        Some(response)
    }
}

struct Fault {
    spec: FaultSpec,
    matched: u64,
    fired: u64,
}

/// The combined effect of all faults on one request.
#[derive(Default)]
pub(super) struct FaultEffects {
    pub delay: Duration,
    /// Replaces the vendor's response; the request is not processed.
    pub answer: Option<Response>,
    pub lag: Duration,
    pub drop_answer: bool,
}

/// The configured faults.
#[derive(Default)]
pub(super) struct FaultInjector(Mutex<Vec<Fault>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<FaultSpec>),
    One(Box<FaultSpec>),
}

impl FaultInjector {
    /// Counts a request for each fault that it matches, and returns the effects of the faults that fire.
    pub fn take(&self, method: &Method, path: &str, fault_body: FaultBody) -> FaultEffects {
        let mut effects = FaultEffects::default();
        for fault in self.0.lock().iter_mut().filter(|fault| fault.spec.matches(method, path)) {
            fault.matched += 1;
            let due = fault.matched.is_multiple_of(fault.spec.every.unwrap_or(1));
            if !due || fault.spec.times.is_some_and(|times| fault.fired >= times) {
                continue;
            }
            fault.fired += 1;
            effects.delay += Duration::from_millis(fault.spec.delay_ms.unwrap_or(0));
            effects.lag = effects.lag.max(Duration::from_millis(fault.spec.lag_ms.unwrap_or(0)));
            effects.drop_answer |= fault.spec.drop_answer;
            if effects.answer.is_none() {
                effects.answer = fault.spec.response(fault_body);
            }
        }
        effects
    }

    /// `POST /__emulator/faults`: adds one fault or a list of faults.
    pub fn add(&self, body: &Bytes) -> Response {
        let reject =
            |message: String| (StatusCode::BAD_REQUEST, Json(json!({"message": message}))).into_response();
        let specs = match serde_json::from_slice(body) {
            Ok(OneOrMany::Many(specs)) => specs,
            Ok(OneOrMany::One(spec)) => vec![*spec],
            // The error of an untagged enum names no field. Parse again as a single fault, whose error does.
            Err(_) => match serde_json::from_slice::<FaultSpec>(body) {
                Ok(spec) => vec![spec],
                Err(error) => return reject(format!("expected a fault or a list of faults: {error}")),
            },
        };
        if let Some(message) = specs.iter().find_map(|spec| spec.validate().err()) {
            return reject(message.into());
        }
        let mut faults = self.0.lock();
        if faults.len() + specs.len() > MAX_FAULTS {
            return reject(format!("at most {MAX_FAULTS} faults are possible"));
        }
        faults.extend(specs.into_iter().map(|spec| Fault { spec, matched: 0, fired: 0 }));
        drop(faults);
        (StatusCode::CREATED, self.list()).into_response()
    }

    /// `GET /__emulator/faults`: lists the faults with their counts.
    pub fn list(&self) -> Json<Value> {
        let faults: Vec<Value> = self
            .0
            .lock()
            .iter()
            .map(|fault| json!({"fault": fault.spec, "matched": fault.matched, "fired": fault.fired}))
            .collect();
        Json(json!({ "data": faults }))
    }

    /// `DELETE /__emulator/faults`: removes all faults.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// One admin request in the log.
#[derive(Clone, Serialize)]
pub(super) struct RequestLogEntry {
    pub time: jiff::Timestamp,
    pub method: String,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    pub status: u16,
    /// A fault dropped the response: the client did not receive the status.
    pub dropped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(status: StatusCode) -> Value {
        json!({"status": status.as_u16()})
    }

    fn faults(text: &str) -> (FaultInjector, Response) {
        let faults = FaultInjector::default();
        let answer = faults.add(&Bytes::copy_from_slice(text.as_bytes()));
        (faults, answer)
    }

    #[test]
    fn every_and_times_count_only_matching_requests() {
        let (faults, answer) =
            faults(r#"{"method":"post","path":"/event-hooks","status":503,"every":2,"times":2}"#);
        assert_eq!(answer.status(), 201);
        let hit = |method: Method, path: &str| faults.take(&method, path, body).answer.is_some();
        assert!(!hit(Method::GET, "/event-hooks"));
        assert!(!hit(Method::POST, "/ws/event-hooks"));
        let hits: Vec<bool> = (0..7).map(|_| hit(Method::POST, "/event-hooks/x")).collect();
        assert_eq!(hits, [false, true, false, true, false, false, false]);
        faults.clear();
        assert!(!hit(Method::POST, "/event-hooks"));
    }

    #[test]
    fn combines_effects_of_all_faults() {
        let (faults, _) = faults(r#"[{"delayMs":5},{"delayMs":7,"lagMs":9},{"dropAnswer":true,"times":1}]"#);
        let effects = faults.take(&Method::GET, "/", body);
        assert_eq!(effects.delay, Duration::from_millis(12));
        assert_eq!(effects.lag, Duration::from_millis(9));
        assert!(effects.drop_answer && effects.answer.is_none());
        assert!(!faults.take(&Method::GET, "/", body).drop_answer);
    }

    #[test]
    fn rejects_invalid_faults() {
        for text in [
            "",
            "1",
            r#"{"statu":1}"#,
            r#"{"status":99}"#,
            r#"{"every":0}"#,
            r#"{"delayMs":600001}"#,
            r#"{"body":1}"#,
            r#"{"status":500,"headers":{"a b":"c"}}"#,
        ] {
            assert_eq!(faults(text).1.status(), 400, "{text}");
        }
    }
}
