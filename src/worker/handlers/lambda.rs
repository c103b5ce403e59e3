//! Handler `lambda`: runs Lua functions on the event in the sandbox, one after the other.
//!
//! A function delivers by returning `true`. Any other result ends the attempt, because later functions may depend on
//! it. The delivery's progress stores the hashes of the functions that have delivered; later attempts skip those
//! functions.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{HandlerOutcome, HandlerRunner, script_failed, script_owner};
use crate::core::delivery_reason::AttemptFailure;
use crate::core::hook::{CompiledHook, FunctionHash, Lambda};
use crate::sandbox::{Invocation, ScriptError};
use crate::worker::store::{HandlerProgress, PendingDelivery};

/// Makes one attempt: runs the functions that have not delivered yet, up to the first that fails.
pub async fn run(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    lambda: &Lambda,
    pending: &PendingDelivery,
    timeout: Duration,
) -> HandlerOutcome {
    let started = Instant::now();
    let mut delivered = DeliveredFunctions(pending.progress.clone());
    for (i, (function, hash)) in lambda.functions.iter().zip(&lambda.hashes).enumerate() {
        if delivered.contains(hash) {
            continue;
        }
        let remaining = timeout.saturating_sub(started.elapsed());
        let outcome = match call(runner, hook, function, pending, remaining).await {
            Ok(Value::Bool(true)) => {
                delivered.add(hash);
                continue;
            }
            Ok(other) => not_delivered(&other),
            Err(error) => script_failed(&format!("function {}", i + 1), &error),
        };
        return match outcome {
            HandlerOutcome::Failed { reason, detail } if delivered.0.len() > pending.progress.len() => {
                HandlerOutcome::PartlyFailed { reason, detail, progress: delivered.0 }
            }
            outcome => outcome,
        };
    }
    HandlerOutcome::Completed
}

/// Runs every function once, all within the timeout of an attempt. A failure does not skip later functions. The results
/// need no output budget: the CRD allows 16 functions and the sandbox 256 KiB for each result.
pub async fn run_all(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    lambda: &Lambda,
    pending: &PendingDelivery,
    timeout: Duration,
) -> Vec<Result<Value, ScriptError>> {
    let started = Instant::now();
    let mut results = Vec::new();
    for function in &lambda.functions {
        let remaining = timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        results.push(call(runner, hook, function, pending, remaining).await);
    }
    results
}

async fn call(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    function: &str,
    pending: &PendingDelivery,
    timeout: Duration,
) -> Result<Value, ScriptError> {
    let (event, source) = (&*pending.event.event, &*pending.event.source);
    let call =
        Invocation { function, data: pending.event.data.view(), event, source, pid: std::process::id() };
    runner.sandbox.invoke(script_owner(hook), call, timeout).await
}

fn not_delivered(result: &Value) -> HandlerOutcome {
    let detail = format!("{}: a function delivers by returning true", describe_result(result));
    HandlerOutcome::Failed { reason: AttemptFailure::NotDelivered, detail }
}

/// Describes a result that is not `true`.
pub fn describe_result(result: &Value) -> String {
    match result {
        Value::Null => "it returned nothing".to_owned(),
        other => super::request::redact_and_cut(&format!("it returned {other}"), &[]),
    }
}

/// The concatenated hashes of the functions that have delivered.
struct DeliveredFunctions(HandlerProgress);

impl DeliveredFunctions {
    fn contains(&self, hash: &FunctionHash) -> bool {
        self.0.chunks_exact(hash.len()).any(|delivered| delivered == hash)
    }

    fn add(&mut self, hash: &FunctionHash) {
        self.0.extend_from_slice(hash);
    }
}
