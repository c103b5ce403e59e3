//! Faults on demand, and what is logged of a request.

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

/// The body of a fault that has a status only, in the vendor's shape.
pub(super) type FaultBody = fn(StatusCode) -> Value;

/// What goes wrong, and when. Matched requests are counted; every `every`-th of them is hit, `times` times at most.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FaultSpec {
    /// The method, any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// The beginning of the path as it was sent, with its workspace; any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Answer this instead of doing the work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Headers of that answer, for example retry-after.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    /// Body of that answer: a string is sent as it is, anything else as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    /// Wait before anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    /// What this request creates is not seen by reads for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lag_ms: Option<u64>,
    /// Do the work (or, with a status, do not), then close the connection without an answer.
    #[serde(default)]
    drop_answer: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<u64>,
}

impl FaultSpec {
    fn check(&self) -> Result<(), &'static str> {
        if self.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err("status must be 200 to 599");
        }
        if self.every == Some(0) {
            return Err("every must be 1 or more");
        }
        if self.delay_ms.max(self.lag_ms).is_some_and(|millis| millis > MAX_MILLIS) {
            return Err("delayMs and lagMs must be 600000 or less");
        }
        let named = |(name, value): (&String, &String)| {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        };
        if !self.headers.iter().all(named) {
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

    fn answer(&self, body: FaultBody) -> Option<Response> {
        let status = StatusCode::from_u16(self.status?).ok()?;
        let mut response = match &self.body {
            None => Json(body(status)).into_response(),
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

/// What the faults do to one request.
#[derive(Default)]
pub(super) struct Effects {
    pub delay: Duration,
    pub answer: Option<Response>,
    pub lag: Duration,
    pub drop_answer: bool,
}

/// The faults that were asked for.
#[derive(Default)]
pub(super) struct Faults(Mutex<Vec<Fault>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<FaultSpec>),
    One(Box<FaultSpec>),
}

impl Faults {
    /// Counts this request and says what becomes of it.
    pub fn take(&self, method: &Method, path: &str, body: FaultBody) -> Effects {
        let mut effects = Effects::default();
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
                effects.answer = fault.spec.answer(body);
            }
        }
        effects
    }

    /// `POST /__emulator/faults`: one fault or a list of them.
    pub fn add(&self, body: &Bytes) -> Response {
        let refuse = |why: String| (StatusCode::BAD_REQUEST, Json(json!({"message": why}))).into_response();
        let specs = match serde_json::from_slice(body) {
            Ok(OneOrMany::Many(specs)) => specs,
            Ok(OneOrMany::One(spec)) => vec![*spec],
            // An untagged enum tells no field: read once more as one fault, whose error does.
            Err(_) => match serde_json::from_slice::<FaultSpec>(body) {
                Ok(spec) => vec![spec],
                Err(error) => return refuse(format!("a fault or a list of faults: {error}")),
            },
        };
        if let Some(why) = specs.iter().find_map(|spec| spec.check().err()) {
            return refuse(why.into());
        }
        let mut faults = self.0.lock();
        if faults.len() + specs.len() > MAX_FAULTS {
            return refuse(format!("more than {MAX_FAULTS} faults"));
        }
        faults.extend(specs.into_iter().map(|spec| Fault { spec, matched: 0, fired: 0 }));
        drop(faults);
        (StatusCode::CREATED, self.list()).into_response()
    }

    /// `GET /__emulator/faults`.
    pub fn list(&self) -> Json<Value> {
        let faults: Vec<Value> = self
            .0
            .lock()
            .iter()
            .map(|fault| json!({"fault": fault.spec, "matched": fault.matched, "fired": fault.fired}))
            .collect();
        Json(json!({ "data": faults }))
    }

    /// `DELETE /__emulator/faults`.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// An admin request that came.
#[derive(Clone, Serialize)]
pub(super) struct Seen {
    pub time: jiff::Timestamp,
    pub method: String,
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    pub status: u16,
    /// The answer was dropped: the caller did not get the status.
    pub dropped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(status: StatusCode) -> Value {
        json!({"status": status.as_u16()})
    }

    fn faults(text: &str) -> (Faults, Response) {
        let faults = Faults::default();
        let answer = faults.add(&Bytes::copy_from_slice(text.as_bytes()));
        (faults, answer)
    }

    #[test]
    fn every_and_times_count_matches_only() {
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
    fn faults_add_up() {
        let (faults, _) = faults(r#"[{"delayMs":5},{"delayMs":7,"lagMs":9},{"dropAnswer":true,"times":1}]"#);
        let effects = faults.take(&Method::GET, "/", body);
        assert_eq!(effects.delay, Duration::from_millis(12));
        assert_eq!(effects.lag, Duration::from_millis(9));
        assert!(effects.drop_answer && effects.answer.is_none());
        assert!(!faults.take(&Method::GET, "/", body).drop_answer);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
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
