//! The overview: what is wrong, worst first, and the rates of the last hour.

use axum::response::Response;
use futures::try_join;
use maud::{Markup, html};

use super::dead_letters::{self, DeadLetters};
use super::deliveries::link;
use super::hooks::{hook_address, table};
use super::verdict::Verdict;
use crate::console::model::{Hook, HookDetail, HookList, Leader, Minute, Object, Rates, Status};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, Scope};
use crate::console::view::{
    Page, Section, copy_button, count, duration, empty, icon, plural, sparkline, state_pill, time,
    verdict_icon,
};

/// The most hooks that are listed as wrong.
const MAX_WRONG: &str = "10";
/// The most hooks that are listed because of their dead letters.
const MAX_LOSING: usize = 5;
/// The most hooks that a sentence names.
const MAX_NAMED: usize = 3;
/// The states of hooks that need attention.
const WRONG: &str = "failing,held,notReady";

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let scope = &request.scope;
    let wrong = scope.api("hooks").query("sort", "state").query("state", WRONG).query("limit", MAX_WRONG);
    let (status, wrong, rates) = (scope.api("status"), wrong, scope.api("rates"));
    // At the same time: two of them examine every hook.
    let (status, hooks, rates): (Status, HookList, Rates) =
        try_join!(request.api.get(&status), request.api.get(&wrong), request.api.get(&rates))?;
    let dead = recent_dead_letters(request, &status).await;
    let losing = losing_hooks(dead.as_ref());
    let verdict = verdict(scope, &status, &hooks);
    let total: u64 = hooks.counts.values().sum();
    let more_are_wrong = hooks.next.is_some();
    let shown = attention(request, &losing, dead.as_ref(), hooks.items.as_slice()).await;
    let main = html! {
        div.title { h1 { "Overview" } @if let Some(namespace) = scope.namespace() { span.muted { (namespace) } } }
        p #verdict class={ "verdict " (verdict.class) } { (icon(verdict_icon(verdict.class))) span {
                // Dead letters come before hooks that fail, because those are retried by themselves.
                @let (is_losing, is_closed) = (status.dead_letters.last_day > 0, status.disk.closed.is_some());
                @if is_losing && !is_closed { (lost(scope, &status, &losing)) " " }
                (verdict.text)
                @if is_losing && is_closed { " " (lost(scope, &status, &losing)) }
            } }
        @if total == 0 { (first_steps()) }
        (states(scope, &hooks, &status))
        (traffic(&rates))
        @if !shown.is_empty() {
            section.card aria-labelledby="wrong" {
                h2 #wrong { "Hooks that need attention" }
                (table(&shown, scope))
            }
            @if more_are_wrong { p { a href=(scope.page("hooks").query("sort", "state")) { "All hooks, worst first" } } }
        }
        @if !status.not_ready.items.is_empty() { (objects("Objects that are not synced", &status.not_ready.items, status.not_ready.left_out)) }
        div.grid {
            @if !status.connections.items.is_empty() {
                section.card aria-labelledby="connections" {
                    h2 #connections { a href=(scope.page("connections")) { "Connections" } }
                    ul.plain {
                        @for connection in &status.connections.items {
                            li { (ready_pill(connection)) " " (connection.namespace) "/" (connection.name) " "
                                @if connection.ready != "True" { span.muted { (connection.message) } } }
                        }
                    }
                }
            }
            section.card aria-labelledby="leader" {
                h2 #leader { "Leader of the controllers" }
                (leader(&status.leader))
            }
        }
        p.hint { "Hookstream " (status.version.version) ". Rates are those of this worker; " (memory(&status)) "." }
    };
    Ok(Page { id: "overview", title: "Overview".to_owned(), section: Section::Overview, main, is_live: true })
}

fn number_in(hooks: &HookList, states: &[&str]) -> u64 {
    states.iter().filter_map(|state| hooks.counts.get(*state)).sum()
}

/// Reads the recent dead letters. None: there are none, or they cannot be read.
async fn recent_dead_letters(request: &PageRequest, status: &Status) -> Option<DeadLetters> {
    match status.dead_letters.last_day {
        0 => None,
        _ => dead_letters::recent(request, "").await.ok(),
    }
}

/// A hook with recent dead letters.
#[derive(Debug, PartialEq, Eq)]
struct LosingHook<'a> {
    namespace: &'a str,
    name: &'a str,
    dead: u64,
}

/// Returns the hooks of dead letters, that of the last one first.
fn losing_hooks(dead: Option<&DeadLetters>) -> Vec<LosingHook<'_>> {
    let mut hooks: Vec<LosingHook<'_>> = Vec::new();
    for delivery in dead.iter().flat_map(|dead| &dead.items) {
        let (namespace, name) = (delivery.namespace.as_str(), delivery.hook.as_str());
        match hooks.iter_mut().find(|hook| (hook.namespace, hook.name) == (namespace, name)) {
            Some(hook) => hook.dead += 1,
            None => hooks.push(LosingHook { namespace, name, dead: 1 }),
        }
    }
    hooks
}

/// Returns the hooks that need attention: those with recent dead letters first, then those that are wrong.
async fn attention(
    request: &PageRequest,
    losing: &[LosingHook<'_>],
    dead: Option<&DeadLetters>,
    wrong: &[Hook],
) -> Vec<Hook> {
    let mut first = Vec::new();
    for lost in losing.iter().take(MAX_LOSING) {
        let path = Scope::of(lost.namespace).api("hooks").segment(lost.name);
        // A deleted hook has no page.
        let Ok(HookDetail { hook, .. }) = request.api.get(&path).await else { continue };
        let is_complete = dead.is_some_and(|dead| dead.is_complete);
        first.push(Hook { dead_letters: Some(dead_letters::short_count(lost.dead, is_complete)), ..hook });
    }
    let is_first =
        |hook: &Hook| first.iter().any(|lost| (&lost.namespace, &lost.name) == (&hook.namespace, &hook.name));
    let others: Vec<Hook> = wrong.iter().filter(|hook| !is_first(hook)).cloned().collect();
    first.into_iter().chain(others).collect()
}

/// Says how many deliveries became dead letters, and of which hooks.
fn lost(scope: &Scope, status: &Status, losing: &[LosingHook<'_>]) -> Markup {
    let counted = &status.dead_letters;
    let hooks = names(losing.iter().map(|hook| hook.name), losing.len() as u64).unwrap_or_default();
    let (deliveries, became) = dead_letters::describe(counted.last_day, counted.exact, &hooks);
    html! { a href=(link(scope, &[("state", "dead")])) { (deliveries) } (became) "." }
}

/// Returns the first names of a number of hooks. None: no name is known.
fn names<'a>(hooks: impl Iterator<Item = &'a str>, total: u64) -> Option<String> {
    let named: Vec<&str> = hooks.take(MAX_NAMED).collect();
    let more = total.saturating_sub(named.len() as u64);
    match (named.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(named.join(", ")),
        (false, more) => Some(format!("{} and {more} more", named.join(", "))),
    }
}

/// Names the hooks of these states: `: billing, orders`.
fn named(hooks: &HookList, states: &[&str]) -> String {
    let items = hooks.items.iter().filter(|hook| states.contains(&hook.state.as_str()));
    names(items.map(|hook| hook.name.as_str()), number_in(hooks, states))
        .map(|names| format!(": {names}"))
        .unwrap_or_default()
}

fn verdict(scope: &Scope, status: &Status, hooks: &HookList) -> Verdict {
    let (failing, held) = (number_in(hooks, &["failing"]), number_in(hooks, &["held", "notReady"]));
    if let Some(closed) = &status.disk.closed {
        return Verdict { class: "bad", text: format!("The worker accepts no events: {closed}.") };
    }
    let dead = status.dead_letters.last_day;
    let failing_names = named(hooks, &["failing"]);
    let held_names = named(hooks, &["held", "notReady"]);
    match (failing, held) {
        (0, 0) if dead > 0 => Verdict { class: "warn", text: "No hook fails or is held.".to_owned() },
        // A name that was mistyped looks like this too: it is no good news.
        (0, 0) if hooks.counts.values().sum::<u64>() == 0 && status.healthy => Verdict {
            class: "off",
            text: match scope.namespace() {
                Some(namespace) => format!("No hooks in {namespace}."),
                None => "No hooks in any namespace.".to_owned(),
            },
        },
        (0, 0) if status.healthy => {
            Verdict { class: "good", text: "Everything that is not paused delivers.".to_owned() }
        }
        (0, 0) => Verdict {
            class: "warn",
            text: "Hooks deliver, but an object is not in step with its vendor.".to_owned(),
        },
        (0, held) => Verdict {
            class: "held",
            text: format!("{} or not synced{held_names}.", plural(held, "hook is held", "hooks are held")),
        },
        (failing, 0) => Verdict {
            class: "bad",
            text: format!("{} to deliver{failing_names}.", plural(failing, "hook fails", "hooks fail")),
        },
        (failing, held) => Verdict {
            class: "bad",
            text: format!(
                "{} to deliver{failing_names}; {} or not synced{held_names}.",
                plural(failing, "hook fails", "hooks fail"),
                plural(held, "is held", "are held")
            ),
        },
    }
}

fn states(scope: &Scope, hooks: &HookList, status: &Status) -> Markup {
    let of_state =
        |states: &[&str]| states.iter().fold(scope.page("hooks"), |path, state| path.query("state", state));
    let shown = |number: u64, class: &str| if number > 0 { class.to_owned() } else { String::new() };
    let failing = number_in(hooks, &["failing"]);
    let held = number_in(hooks, &["held", "notReady", "paused", "suspended", "deleting"]);
    let healthy = number_in(hooks, &["delivering", "idle"]);
    let dead = status.dead_letters.last_day;
    let oldest = status.backlog.oldest_time.as_deref();
    html! {
        div.stats {
            (stat(&of_state(&["failing"]), "Failing hooks", &count(failing), &shown(failing, "bad"), html! {}))
            (stat(&of_state(&["held", "notReady", "paused", "suspended", "deleting"]), "Held or paused", &count(held), &shown(held, "held"), html! {}))
            (stat(&of_state(&["delivering", "idle"]), "Healthy hooks", &count(healthy), &shown(healthy, "good"), html! {}))
            (stat(&link(scope, &[("state", "pending")]), "Backlog", &bounded(status.backlog.pending, status.backlog.exact), "",
                html! { @if let Some(oldest) = oldest { "oldest " (time(oldest)) } @else { "nothing is pending" } }))
            (stat(&link(scope, &[("state", "dead")]), "Dead letters, 24 h", &bounded(dead, status.dead_letters.exact),
                &shown(dead, "bad"), html! {}))
            @if let Some(used) = status.disk.used_ratio {
                div.stat { span.label { "Disk" } span.value { (format!("{:.0}%", used * 100.0)) } span.more { "in use" } }
            }
        }
    }
}

fn bounded(number: u64, is_exact: bool) -> String {
    if is_exact { count(number) } else { format!("> {}", count(number)) }
}

fn stat(target: &Path, label: &str, value: &str, class: &str, more: Markup) -> Markup {
    html! {
        a class={ "stat " (class) } href=(target) {
            span.label { (label) } span.value { (value) } span.more { (more) }
        }
    }
}

fn traffic(rates: &Rates) -> Markup {
    let values = |of: fn(&Minute) -> u64| -> Vec<f64> {
        rates.minutes.iter().map(|minute| of(minute) as f64).collect()
    };
    let times = |of: fn(&Minute) -> Option<f64>| -> Vec<f64> {
        rates.minutes.iter().map(|minute| of(minute).unwrap_or_default()).collect()
    };
    let hour = &rates.hour;
    let p99 =
        |millis: Option<f64>| millis.map_or_else(|| "–".to_owned(), |millis| duration(millis.round() as u64));
    html! {
        div.stats {
            (series("Accepted, last hour", &count(hour.accepted), &values(|minute| minute.accepted), "Accepted events in each minute of the last hour"))
            (series("Delivered, last hour", &count(hour.delivered), &values(|minute| minute.delivered), "Successful attempts in each minute of the last hour"))
            (series("Failed attempts", &count(hour.failed), &values(|minute| minute.failed), "Failed attempts in each minute of the last hour"))
            (series("Accept p99", &p99(hour.accept_p99_ms), &times(|minute| minute.accept_p99_ms), "99th percentile of the duration of accepted requests in each minute"))
            (series("Attempt p99", &p99(hour.attempt_p99_ms), &times(|minute| minute.attempt_p99_ms), "99th percentile of the duration of attempts in each minute"))
        }
    }
}

fn series(label: &str, value: &str, values: &[f64], description: &str) -> Markup {
    html! {
        div.stat { span.label { (label) } span.value { (value) } (sparkline(values, description)) }
    }
}

fn objects(title: &str, objects: &[Object], left_out: usize) -> Markup {
    html! {
        section.card aria-labelledby="not-ready" {
            h2 #not-ready { (title) }
            div.table.cards {
                table {
                    thead { tr { th { "Ready" } th { "Object" } th { "Reason" } th { "Message" } th { "Since" } } }
                    tbody {
                        @for object in objects.iter().take(20) {
                            tr {
                                td data-label="Ready" { (ready_pill(object)) }
                                td.name data-label="Object" { (object_link(object)) }
                                td data-label="Reason" { code { (object.reason) } }
                                td.wide data-label="Message" { (object.message) }
                                td data-label="Since" { @if let Some(since) = &object.since { (time(since)) } }
                            }
                        }
                    }
                }
            }
            @if objects.len() > 20 || left_out > 0 { p.hint { "More are on the page of connections and streams." } }
        }
    }
}

/// Shows whether an object is in step with its vendor.
pub fn ready_pill(object: &Object) -> Markup {
    state_pill(match object.ready.as_str() {
        "True" => "ready",
        "False" => "not ready",
        _ => "unknown",
    })
}

/// Shows an object; a hook has a page of its own.
pub fn object_link(object: &Object) -> Markup {
    html! {
        @if object.kind == "EventHook" {
            a href=(hook_address(&object.namespace, &object.name)) { (object.kind) " " (object.namespace) "/" (object.name) }
        } @else {
            (object.kind) " " (object.namespace) "/" (object.name)
        }
    }
}

/// Shows which replica of the controller leads, and since when.
fn leader(leader: &Leader) -> Markup {
    let message = leader.message.as_deref().unwrap_or_default();
    html! {
        @match (leader.state.as_str(), &leader.holder) {
            ("leads", Some(holder)) => p {
                (state_pill("leading")) " " span.mono title=(holder) { (replica(holder)) }
                @if let Some(since) = &leader.since { " since " (time(since)) }
            },
            ("noElection", _) => p { "Standalone: this process has all roles, so there is no election." },
            ("none", _) => p { (state_pill("failing")) " No controller leads: " (message) ". Objects are not synced until one does; deliveries go on." },
            _ => p {
                (state_pill("unknown")) " " (message)
                @if let Some(role) = &leader.role { ": that needs the role " code { (role) } } "."
            },
        }
    }
}

/// Returns the name of a replica without the random part that distinguishes its starts.
fn replica(holder: &str) -> &str {
    let is_random = |part: &str| part.len() == 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    holder.rsplit_once('_').filter(|(_, part)| is_random(part)).map_or(holder, |(name, _)| name)
}

fn memory(status: &Status) -> String {
    let mebibytes = |bytes: u64| count(bytes >> 20);
    format!(
        "{} of {} MiB for payloads are in use",
        mebibytes(status.memory.used_bytes),
        mebibytes(status.memory.budget_bytes)
    )
}

fn first_steps() -> Markup {
    empty(
        "No hooks yet",
        html! {
            p { "A hook says which events go where. Apply this, then send an event:" }
            pre tabindex="0" { code #first-hook {
"apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata:
  name: orders
spec:
  source: shop
  handler:
    webhook:
      url: https://example.com/hooks/orders" } }
            p { (copy_button("first-hook", "the manifest")) }
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::console::model::Delivery;

    fn status(dead: u64) -> Status {
        let none = json!({"items": [], "leftOut": 0});
        serde_json::from_value(json!({"healthy": true, "version": {"version": "1"}, "connections": none, "notReady": none,
            "leader": {"state": "noElection"},
            "backlog": {"pending": 0, "oldestTime": null, "exact": true}, "deadLetters": {"last24h": dead, "exact": true},
            "disk": {"usedRatio": null, "closed": null}, "memory": {"usedBytes": 0, "budgetBytes": 0}}))
        .unwrap()
    }

    fn hooks(counts: Value, wrong: &[(&str, &str)]) -> HookList {
        let items: Vec<Value> = wrong
            .iter()
            .map(|(name, state)| json!({"namespace": "n", "name": name, "state": state, "reason": "", "message": ""}))
            .collect();
        serde_json::from_value(json!({"items": items, "counts": counts})).unwrap()
    }

    #[test]
    fn leader_is_named_without_its_random_part() {
        let shown = |value: Value| leader(&serde_json::from_value(value).unwrap()).into_string();
        let holder = format!("hookstream-controller-0_{}", "0af1".repeat(8));
        let text = shown(json!({"state": "leads", "holder": holder, "since": "2026-11-22T06:00:00Z"}));
        assert!(
            text.contains(">hookstream-controller-0</span> since <time") && text.contains(&holder),
            "{text}"
        );
        assert!(shown(json!({"state": "noElection"})).contains("Standalone"));
        let none = shown(json!({"state": "none", "message": "no controller holds the Lease a"}));
        assert!(none.contains("No controller leads: no controller holds the Lease a."), "{none}");
        let unknown = shown(
            json!({"state": "unknown", "message": "the worker may not read the Lease", "role": "lease-read"}),
        );
        assert!(
            unknown.contains("may not read the Lease: that needs the role <code>lease-read</code>."),
            "{unknown}"
        );
        assert_eq!(replica("a_b"), "a_b");
    }

    #[test]
    fn verdict_names_the_hooks_and_is_neutral_without_any() {
        let shop = Scope::of("shop");
        let of = |hooks: HookList| verdict(&shop, &status(0), &hooks);
        assert_eq!(of(hooks(json!({}), &[])), Verdict { class: "off", text: "No hooks in shop.".to_owned() });
        assert_eq!(of(hooks(json!({"delivering": 1}), &[])).class, "good");
        let found = of(hooks(json!({"failing": 1}), &[("billing", "failing")]));
        assert_eq!((found.class, found.text.as_str()), ("bad", "1 hook fails to deliver: billing."));
        let wrong = [("a", "failing"), ("b", "failing"), ("c", "failing"), ("d", "failing"), ("e", "held")];
        assert_eq!(
            of(hooks(json!({"failing": 12, "held": 1}), &wrong)).text,
            "12 hooks fail to deliver: a, b, c and 9 more; 1 is held or not synced: e."
        );
    }

    #[test]
    fn dead_letters_name_their_hooks_and_the_last_comes_first() {
        let dead = |hook: &str| -> Delivery {
            serde_json::from_value(json!({"id": "i", "namespace": "n", "event": "e", "hook": hook, "state": "dead",
                "reason": null, "acceptedTime": "2026-01-01T00:00:00Z", "attempts": [], "nextAttemptTime": null, "held": null}))
            .unwrap()
        };
        let items = vec![dead("warehouse"), dead("billing"), dead("warehouse")];
        let found = DeadLetters { items, is_complete: true };
        let losing = losing_hooks(Some(&found));
        let of = |name, dead| LosingHook { namespace: "n", name, dead };
        assert_eq!(losing, [of("warehouse", 2), of("billing", 1)]);
        let text = lost(&Scope::of("shop"), &status(3), &losing).into_string();
        assert_eq!(
            text,
            "<a href=\"/console/namespaces/shop/deliveries?state=dead\">3 deliveries</a> to warehouse, billing became dead \
             letters in the last 24 hours."
        );
    }
}
