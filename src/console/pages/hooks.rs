//! The list of hooks with the state of their deliveries.

use axum::response::Response;
use maud::{Markup, html};

use super::deliveries::link;
use crate::console::form::Form;
use crate::console::model::{Hook, HookList};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, Scope};
use crate::console::view::{Page, Section, count, duration, empty, pager, prose, shorten, state_pill, time};

const STATES: [&str; 8] =
    ["failing", "held", "notReady", "deleting", "paused", "suspended", "idle", "delivering"];
const ORDERS: [(&str, &str); 6] = [
    ("", "name"),
    ("state", "worst first"),
    ("pending", "most pending first"),
    ("oldest", "oldest pending first"),
    ("lastSuccess", "longest without success first"),
    ("p95", "slowest first"),
];
/// Parameters of the API's list that the page passes on.
const FILTERS: [&str; 5] = ["name", "source", "event", "sort", "continue"];

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let (scope, query) = (&request.scope, &request.query);
    let states: Vec<&str> = query.all("state").flat_map(|value| value.split(',')).collect();
    let path = scope.api("hooks").query_some("state", &states.join(","));
    let path = FILTERS.iter().fold(path, |path, name| path.query_some(name, query.get(name)));
    let found: HookList = request.api.get(&path).await?;
    let main = html! {
        div.title { h1 { "Hooks" } }
        (filters(scope, query, &states, &found))
        @if found.items.is_empty() { (nothing(&found)) } @else { (table(&found.items, scope)) }
        (pager(scope.page("hooks"), query, found.next.as_deref()))
    };
    let is_live = query.get("continue").is_empty();
    Ok(Page { id: "hooks", title: "Hooks".to_owned(), section: Section::Hooks, main, is_live })
}

fn filters(scope: &Scope, query: &Form, states: &[&str], found: &HookList) -> Markup {
    let number = |state: &str| found.counts.get(state).copied().unwrap_or_default();
    html! {
        form.filters method="get" action=(scope.page("hooks")) aria-label="Filter" {
            fieldset {
                legend { "State" }
                div.choices {
                    @for state in STATES {
                        @if number(state) > 0 || states.contains(&state) {
                            label {
                                input type="checkbox" name="state" value=(state) checked[states.contains(&state)];
                                (if state == "notReady" { "not ready" } else { state }) " (" (count(number(state))) ")"
                            }
                        }
                    }
                }
            }
            div.field { label for="f-name" { "Name contains" } input #f-name name="name" value=(query.get("name")) size="16"; }
            div.field { label for="f-source" { "Source" } input #f-source name="source" value=(query.get("source")) size="14"; }
            div.field { label for="f-event" { "Event" } input #f-event name="event" value=(query.get("event")) size="14"; }
            div.field {
                label for="f-sort" { "Order" }
                select #f-sort name="sort" {
                    @for (value, label) in ORDERS { option value=(value) selected[query.get("sort") == value] { (label) } }
                }
            }
            button.button.primary type="submit" { "Apply" }
            a.button.quiet href=(scope.page("hooks")) { "Clear" }
        }
    }
}

/// A table of hooks.
pub fn table(hooks: &[Hook], scope: &Scope) -> Markup {
    let with_namespace = scope.namespace().is_none();
    html! {
        div.table.cards {
            table {
                thead {
                    tr {
                        th { "State" } th { "Hook" }
                        @if with_namespace { th { "Namespace" } }
                        th { "Source / event" } th { "Receiver" } th { "Why" }
                        th.number { "Pending" } th { "Last success" } th.number { "p95" }
                    }
                }
                tbody { @for hook in hooks { (row(hook, with_namespace)) } }
            }
        }
    }
}

fn row(hook: &Hook, with_namespace: bool) -> Markup {
    let scope = Scope::of(&hook.namespace);
    html! {
        tr {
            td data-label="State" {
                div { (state_pill(&hook.state)) @if let Some(since) = &hook.since { div.hint title="Since" { (time(since)) } } }
            }
            td.id data-label="Hook" title=(hook.name) { a data-row href=(hook_address(&hook.namespace, &hook.name)) { (hook.name) } }
            @if with_namespace { td.id data-label="Namespace" title=(hook.namespace) { (hook.namespace) } }
            td.id data-label="Source / event" title=(selector(hook)) { (selector(hook)) }
            td.id data-label="Receiver" title=(receiver(hook)) { (receiver(hook)) }
            td.wide data-label="Why" {
                @if let Some(dead) = &hook.dead_letters {
                    div { a href=(link(&scope, &[("hook", &hook.name), ("state", "dead")])) { (dead) } }
                }
                @if !matches!(hook.state.as_str(), "delivering" | "idle") { code { (hook.reason) } " " (prose(&shorten(&hook.message, 140))) }
            }
            td.number data-label="Pending" {
                @match hook.pending {
                    Some(0) => "0",
                    Some(pending) => a href=(link(&scope, &[("hook", &hook.name), ("state", "pending")])) { (count(pending)) },
                    None => "",
                }
                @if let Some(oldest) = &hook.oldest_time { div.hint { "oldest " (time(oldest)) } }
            }
            td data-label="Last success" { @if let Some(success) = &hook.last_success_time { (time(success)) } }
            td.number data-label="p95" { @if let Some(p95) = hook.p95_ms { span.nowrap { (duration(p95.round() as u64)) } } }
        }
    }
}

/// Describes the events that a hook selects.
pub fn selector(hook: &Hook) -> String {
    let source = hook.source.as_deref().unwrap_or("?");
    format!("{source} / {}", hook.event.as_deref().unwrap_or("every event"))
}

/// Describes where a hook sends to.
pub fn receiver(hook: &Hook) -> String {
    match (&hook.host, &hook.handler) {
        (Some(host), _) => host.clone(),
        (None, Some(handler)) => handler.clone(),
        (None, None) => String::new(),
    }
}

/// Returns the address of a hook's page.
pub fn hook_address(namespace: &str, name: &str) -> Path {
    Scope::of(namespace).page("hooks").segment(name)
}

fn nothing(found: &HookList) -> Markup {
    if found.counts.values().sum::<u64>() > 0 {
        return empty(
            "No hook matches this filter",
            html! { p { "Other hooks exist: clear the filter to see them." } },
        );
    }
    empty(
        "No hooks here",
        html! {
            p { "Apply an EventHook with kubectl or from a file, or check the namespace and the filter above." }
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hostile_hooks_are_escaped() {
        let hostile = "<script>alert(1)</script>";
        let hook: Hook = serde_json::from_value(json!({"namespace": hostile, "name": hostile, "handler": null,
            "source": hostile, "event": hostile, "host": hostile, "state": hostile, "reason": hostile, "message": hostile,
            "since": hostile, "pending": 1234, "oldestTime": null, "lastSuccessTime": null, "p95Ms": 12.6}))
        .unwrap();
        let text = table(&[hook], &Scope::of("")).into_string();
        assert!(!text.contains("<script"), "{text}");
        assert!(text.contains(">1,234</a>") && text.contains("13 ms"), "{text}");
    }
}
