//! The audit log: a line for each action, with its user.

use super::problem::Problem;
use super::session::Caller;
use crate::core::conditions::cut;

/// The most bytes of an object's description. Users choose the names in it.
const MAX_OBJECT: usize = 512;

/// Records an action and its result. Never called with payloads: `object` names objects, deliveries and filters.
pub fn record(caller: &Caller, action: &str, object: &str, result: &str) {
    let (user, object) = (caller.name(), cut(object, MAX_OBJECT));
    tracing::info!(target: "hookstream::console::audit", user, action, object, result, "console action");
}

/// Records an action whose result is known. A rejected one is recorded with its reason.
pub fn record_result<T>(caller: &Caller, action: &str, object: &str, result: &Result<T, Problem>) {
    let result = result.as_ref().map_or_else(|problem| problem.reason.as_str(), |_| "done");
    record(caller, action, object, result);
}
