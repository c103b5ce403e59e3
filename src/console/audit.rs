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

/// Records a failed attempt to log in. The API did not accept its token, so the name in it proves nothing: the client's address counts.
pub fn record_failed_login(client: &str, problem: &Problem) {
    let (user, action, result) = ("unknown", "log-in", problem.reason.as_str());
    tracing::warn!(target: "hookstream::console::audit", user, action, object = client, result, "console action");
}

/// An action on many deliveries: recorded when it begins, and with its counts when it ends, also if a part of it fails or the
/// browser disconnects.
pub struct BulkAction {
    user: String,
    action: &'static str,
    object: String,
    changed: u64,
    failed: u64,
    /// The ids of the replays that it started. How many deliveries each changes is known when that ends.
    replays: Vec<String>,
    result: String,
}

impl BulkAction {
    pub fn begin(caller: &Caller, action: &'static str, object: &str) -> Self {
        record(caller, action, object, "started");
        BulkAction {
            user: caller.name(),
            action,
            object: cut(object, MAX_OBJECT).to_owned(),
            changed: 0,
            failed: 0,
            replays: Vec::new(),
            result: "interrupted".to_owned(),
        }
    }

    /// Counts deliveries that were changed.
    pub fn add_changed(&mut self, number: u64) {
        self.changed = self.changed.saturating_add(number);
    }

    /// Names a replay that was started, instead of a count of deliveries. Called once for each state.
    pub fn add_replay(&mut self, id: String) {
        self.replays.push(id);
    }

    /// Counts a part that failed.
    pub fn add_failed(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// Records the end.
    pub fn end(mut self, problem: Option<&Problem>) {
        self.result = problem.map_or("done", |problem| problem.reason.as_str()).to_owned();
    }
}

impl Drop for BulkAction {
    fn drop(&mut self) {
        let BulkAction { user, action, object, changed, failed, replays, result } = &*self;
        if replays.is_empty() {
            tracing::info!(target: "hookstream::console::audit", user, action, object, result, changed, failed, "console action");
        } else {
            let (started, ids) = (replays.len(), replays.join(","));
            tracing::info!(target: "hookstream::console::audit", user, action, object, result, started, replays = ids, failed, "console action");
        }
    }
}
