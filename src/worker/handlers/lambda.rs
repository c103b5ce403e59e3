//! `lambda`: Lua functions on the event, in the sandbox, in order.
//!
//! A function delivers by returning `true`; one that does not ends the attempt, for those after it may build on it. What
//! delivered is noted by the hash of its text and is not run again at a later attempt.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Sender, Sent, script_failed};
use crate::core::hook::{Hook, Lambda, Mark};
use crate::sandbox::{Call, ScriptError};
use crate::worker::store::{Pending, Progress};

/// One attempt: runs what has not delivered yet, up to the first that fails.
pub async fn run(sender: &Sender, hook: &Hook, lambda: &Lambda, pending: &Pending, within: Duration) -> Sent {
    let began = Instant::now();
    let mut done = Done(pending.progress.clone());
    for (i, (function, mark)) in lambda.functions.iter().zip(&lambda.marks).enumerate() {
        if done.holds(mark) {
            continue;
        }
        let left = within.saturating_sub(began.elapsed());
        let came = match call(sender, hook, function, pending, left).await {
            Ok(Value::Bool(true)) => {
                done.add(mark);
                continue;
            }
            Ok(other) => refused(&other),
            Err(error) => script_failed(&format!("function {}", i + 1), &error),
        };
        return match came {
            Sent::Failed { reason, detail } if done.0.len() > pending.progress.len() => {
                Sent::Partly { reason, detail, progress: done.0 }
            }
            came => came,
        };
    }
    Sent::Done
}

/// Runs every function once, whatever the others do.
pub async fn try_all(
    sender: &Sender,
    hook: &Hook,
    lambda: &Lambda,
    pending: &Pending,
    within: Duration,
) -> Vec<Result<Value, ScriptError>> {
    let mut results = Vec::new();
    for function in &lambda.functions {
        results.push(call(sender, hook, function, pending, within).await);
    }
    results
}

async fn call(
    sender: &Sender,
    hook: &Hook,
    function: &str,
    pending: &Pending,
    within: Duration,
) -> Result<Value, ScriptError> {
    let (event, source) = (&*pending.event.event, &*pending.event.source);
    let call = Call { function, data: &pending.event.data, event, source, pid: std::process::id() };
    sender.sandbox.call(&hook.uid, call, within).await
}

fn refused(result: &Value) -> Sent {
    let detail = format!("{}: it delivers by returning true", returned(result));
    Sent::Failed { reason: "NotDelivered", detail }
}

/// A result that is not `true`, in words.
pub fn returned(result: &Value) -> String {
    match result {
        Value::Null => "it returned nothing".to_owned(),
        other => super::request::shown(&format!("it returned {other}"), &[]),
    }
}

/// The marks of the functions that delivered.
struct Done(Progress);

impl Done {
    fn holds(&self, mark: &Mark) -> bool {
        self.0.chunks_exact(mark.len()).any(|done| done == mark)
    }

    fn add(&mut self, mark: &Mark) {
        self.0.extend_from_slice(mark);
    }
}
