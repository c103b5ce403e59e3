//! The audit log: a line for each action, with its user.

use super::problem::Problem;
use super::session::Caller;

/// Records an action and its result. Never called with payloads: `object` names objects, deliveries and filters.
pub fn record(caller: &Caller, action: &str, object: &str, result: &str) {
    let user = caller.name();
    tracing::info!(target: "hookstream::console::audit", user, action, object, result, "console action");
}

/// Records an action whose result is known. A rejected one is recorded with its reason.
pub fn record_result<T>(caller: &Caller, action: &str, object: &str, result: &Result<T, Problem>) {
    let result = result.as_ref().map_or_else(|problem| problem.reason.as_str(), |_| "done");
    record(caller, action, object, result);
}
