//! The screen of `hookstream status`.

use serde::{Deserialize, Serialize};

use super::leader::{Leader, ReportedLeader};
use crate::cli::output::{strip_control_chars, table_lines};
use crate::core::duration::short_text;
use crate::core::time::Millis;
use crate::core::version::Version;

/// The worker's response.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    version: Version,
    namespace: Option<String>,
    pub healthy: bool,
    /// Absent in the response of an older worker.
    #[serde(default)]
    pub leader: Option<ReportedLeader>,
    #[serde(flatten)]
    objects: ObjectLists,
    backlog: Backlog,
    dead_letters: DeadLetters,
    disk: Disk,
    memory: Memory,
}

/// Objects by what they need: in the worker's response, or read from the cluster without the worker.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectLists {
    pub connections: Items<ObjectStatus>,
    pub not_ready: Items<ObjectStatus>,
    pub not_delivering: Items<HookStatus>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Items<T> {
    items: Vec<T>,
    left_out: usize,
}

impl<T> Items<T> {
    /// Leaves out what is more than `max`.
    pub fn bounded(mut items: Vec<T>, max: usize) -> Self {
        let left_out = items.len().saturating_sub(max);
        items.truncate(max);
        Items { items, left_out }
    }
}

#[derive(Deserialize, Serialize)]
pub struct ObjectStatus {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub ready: String,
    pub reason: String,
    pub message: String,
    pub since: Option<String>,
    #[serde(default)]
    pub expected: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookStatus {
    pub namespace: String,
    pub name: String,
    pub reason: String,
    pub message: String,
    pub since: String,
    pub pending: u64,
    pub next_probe_time: Option<String>,
    #[serde(default)]
    pub expected: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Backlog {
    pending: u64,
    oldest_time: Option<String>,
    exact: bool,
}

#[derive(Deserialize)]
struct DeadLetters {
    #[serde(rename = "last24h")]
    last_24h: u64,
    exact: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Disk {
    used_ratio: Option<f64>,
    closed: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    used_bytes: u64,
    budget_bytes: u64,
}

/// Returns the lines of the screen.
pub fn status_lines(
    status: &WorkerStatus,
    leader: Option<&Leader>,
    target: &str,
    is_healthy: bool,
    now: Millis,
) -> Vec<String> {
    let worker = format!("{} at {target}", version_text(&status.version));
    let mut summary = summary_rows(status.namespace.as_deref(), is_healthy, worker, leader);
    let more = |exact: bool| if exact { "" } else { "more than " };
    let oldest = status.backlog.oldest_time.as_ref().map(|at| format!(", the oldest for {}", age(at, now)));
    let backlog = format!(
        "{}{} pending{}",
        more(status.backlog.exact),
        status.backlog.pending,
        oldest.unwrap_or_default()
    );
    let used = status
        .disk
        .used_ratio
        .map_or_else(|| "unknown".to_owned(), |ratio| format!("{:.0}% used", ratio * 100.0));
    let closed = status.disk.closed.as_ref().map(|reason| format!(", ingest is closed ({reason})"));
    summary.extend([
        ["backlog".to_owned(), backlog],
        [
            "dead in 24h".to_owned(),
            format!("{}{}", more(status.dead_letters.exact), status.dead_letters.last_24h),
        ],
        ["disk".to_owned(), used + &closed.unwrap_or_default()],
        [
            "memory".to_owned(),
            format!("{} of {} MiB", status.memory.used_bytes >> 20, status.memory.budget_bytes >> 20),
        ],
    ]);
    screen(summary, &status.objects, now)
}

/// Returns the lines of the screen if the worker cannot be reached. `why`: one line. `problems`: why objects are missing.
pub fn status_lines_without_worker(
    namespace: Option<&str>,
    why: &str,
    leader: &Leader,
    (objects, problems): (&ObjectLists, &[String]),
    now: Millis,
) -> Vec<String> {
    let worker = format!("cannot be reached: {why}");
    let mut summary = summary_rows(namespace, false, worker, Some(leader));
    summary.extend(problems.iter().map(|problem| ["cluster".to_owned(), problem.clone()]));
    screen(summary, objects, now)
}

/// Returns the first rows of the summary.
fn summary_rows(
    namespace: Option<&str>,
    is_healthy: bool,
    worker: String,
    leader: Option<&Leader>,
) -> Vec<[String; 2]> {
    let scope = namespace.map_or_else(|| "all namespaces".to_owned(), |name| format!("namespace {name}"));
    let mut summary = vec![
        ["status".to_owned(), format!("{} ({scope})", if is_healthy { "well" } else { "unwell" })],
        ["client".to_owned(), version_text(&Version::current())],
        ["worker".to_owned(), worker],
    ];
    if let Some(leader) = leader {
        let text = leader.holder.clone().or_else(|| leader.problem.clone()).unwrap_or_default();
        summary
            .push(["leader".to_owned(), if leader.is_unknown { format!("unknown: {text}") } else { text }]);
    }
    summary
}

/// Returns the summary and the lists.
fn screen(summary: Vec<[String; 2]>, objects: &ObjectLists, now: Millis) -> Vec<String> {
    let ObjectLists { connections, not_ready, not_delivering } = objects;
    let mut rows = summary.into_iter().map(|row| row.map(|text| strip_control_chars(&text)));
    let first = rows.next().unwrap_or_default();
    let mut lines = table_lines(first, rows);
    let objects = |list: &Items<ObjectStatus>| -> Vec<[String; 5]> {
        let row = |object: &ObjectStatus| {
            let since = object.since.as_ref().map(|at| age(at, now)).unwrap_or_default();
            let name = format!("{} {}/{}", object.kind, object.namespace, object.name);
            [name, object.ready.clone(), since, object.reason.clone(), object.message.clone()]
        };
        list.items.iter().map(row).collect()
    };
    let head = ["READY", "SINCE", "REASON", "MESSAGE"];
    let [ready, since, reason, message] = head;
    section(
        &mut lines,
        ["CONNECTION", ready, since, reason, message],
        objects(connections),
        connections.left_out,
    );
    section(&mut lines, ["NOT READY", ready, since, reason, message], objects(not_ready), not_ready.left_out);
    let hooks = not_delivering.items.iter().map(|hook| {
        let probe = hook.next_probe_time.as_ref().map(|at| until(at, now)).unwrap_or_default();
        [
            format!("{}/{}", hook.namespace, hook.name),
            age(&hook.since, now),
            hook.pending.to_string(),
            probe,
            hook.reason.clone(),
            hook.message.clone(),
        ]
    });
    let head = ["NOT DELIVERING", "SINCE", "PENDING", "NEXT PROBE", "REASON", "MESSAGE"];
    section(&mut lines, head, hooks.collect(), not_delivering.left_out);
    lines
}

/// Appends a table after a blank line, unless it is empty.
fn section<const N: usize>(
    lines: &mut Vec<String>,
    head: [&str; N],
    rows: Vec<[String; N]>,
    left_out: usize,
) {
    if rows.is_empty() {
        return;
    }
    lines.push(String::new());
    lines.extend(table_lines(head, rows.into_iter().map(|row| row.map(|text| strip_control_chars(&text)))));
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
}

fn version_text(version: &Version) -> String {
    match &version.commit {
        Some(commit) => format!("{} ({commit})", version.version),
        None => version.version.to_string(),
    }
}

/// Returns the time since this time, for people.
fn age(at: &str, now: Millis) -> String {
    Millis::parse(at).map_or_else(|| at.to_owned(), |at| short_text(now.since(at)))
}

/// Returns the time until this time, for people.
fn until(at: &str, now: Millis) -> String {
    match Millis::parse(at) {
        Some(at) if at <= now => "now".to_owned(),
        Some(at) => format!("in {}", short_text(at.since(now))),
        None => at.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screen_shows_what_requires_attention() {
        let status: WorkerStatus = serde_json::from_value(serde_json::json!({
            "time": "2026-11-22T06:43:22Z", "version": {"version": "1.2.3"}, "namespace": "shop", "healthy": false,
            "connections": {"items": [{"kind": "Connection", "namespace": "shop", "name": "kong", "ready": "True",
                "reason": "Ready", "message": "the admin API answers", "since": "2026-11-22T03:43:22Z", "expected": false}],
                "leftOut": 0},
            "notReady": {"items": [], "leftOut": 0},
            "notDelivering": {"items": [{"namespace": "shop", "name": "orders", "reason": "ReceiverFailing",
                "message": "the receiver fails", "since": "2026-11-22T06:31:22Z", "pending": 214,
                "oldestTime": "2026-11-22T06:31:22Z", "nextProbeTime": "2026-11-22T06:44:02Z", "expected": false}], "leftOut": 7},
            "backlog": {"pending": 214, "oldestTime": "2026-11-22T06:31:22Z", "exact": false},
            "deadLetters": {"last24h": 3, "exact": true},
            "disk": {"usedRatio": 0.412, "closed": "DiskLimit"},
            "memory": {"usedBytes": 12_582_912, "budgetBytes": 536_870_912},
        }))
        .unwrap();
        let leader = Leader { holder: Some("hookstream-0".into()), problem: None, is_unknown: false };
        let now = Millis::parse("2026-11-22T06:43:22Z").unwrap();
        let lines = status_lines(&status, Some(&leader), "http://127.0.0.1:8082", false, now);
        let client = format!("client       {}", version_text(&Version::current()));
        assert_eq!(
            lines,
            [
                "status       unwell (namespace shop)",
                &client,
                "worker       1.2.3 at http://127.0.0.1:8082",
                "leader       hookstream-0",
                "backlog      more than 214 pending, the oldest for 12m",
                "dead in 24h  3",
                "disk         41% used, ingest is closed (DiskLimit)",
                "memory       12 of 512 MiB",
                "",
                "CONNECTION            READY  SINCE  REASON  MESSAGE",
                "Connection shop/kong  True   3h     Ready   the admin API answers",
                "",
                "NOT DELIVERING  SINCE  PENDING  NEXT PROBE  REASON           MESSAGE",
                "shop/orders     12m    214      in 40s      ReceiverFailing  the receiver fails",
                "and 7 more",
            ]
        );
    }
}
