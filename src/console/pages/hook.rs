//! A hook: why it delivers or not, its health over time, its manifest and its deliveries.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::json;

use super::dead_letters;
use super::deliveries::{self, Columns, link};
use super::hooks::{receiver, selector};
use super::object_actions::{Action, actions};
use crate::api::to_yaml;
use crate::console::model::{Breaker, Condition, Delivery, HealthChange, HookDetail, List};
use crate::console::problem::Problem;
use crate::console::request::PageRequest;
use crate::console::rights::{Right, Rights};
use crate::console::view::{
    Page, Section, command, count, definition, duration, empty, hint, icon, link_button, post_form, prose,
    state_class, state_pill, time, verdict_icon,
};
use crate::core::redact::MASK;

/// Deliveries that the page shows.
const SHOWN: &str = "20";

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let (scope, name) = (&request.scope, request.parameter("name"));
    let hook: HookDetail = request.api.get(&scope.api("hooks").segment(name)).await?;
    let path = scope.api("deliveries").query("hook", name).query("limit", SHOWN);
    let shown: List<Delivery> = request.api.get(&path).await?;
    let recent = dead_letters::recent(request, name).await?;
    let dead = match recent.items.len() as u64 {
        0 => None,
        number => Some(dead_letters::describe(number, recent.is_complete, "")),
    };
    let rights = Rights::read(request).await;
    let own = scope.page("hooks").segment(name);
    let summary = &hook.hook;
    let class =
        if dead.is_some() && summary.state == "delivering" { "warn" } else { state_class(&summary.state) };
    let main = html! {
        p.crumbs { a href=(scope.page("hooks")) { "Hooks" } }
        div.title {
            h1 { (summary.name) }
            (state_pill(&summary.state))
            div.actions {
                @if rights.may(Right::Test) { (link_button(&own.clone().segment("test"), "Test…", "primary")) }
                @if rights.may(Right::Ping) && summary.handler.as_deref() == Some("Webhook") {
                    (post_form(&own.clone().segment("ping"), request.csrf(), &[], "Ping", ""))
                }
            }
        }
        p #verdict class={ "verdict " (class) } { (icon(verdict_icon(class))) span {
            (sentence(&hook, dead.is_some()))
            @if let Some(dead) = &dead {
                " " a href=(link(scope, &[("hook", name), ("state", "dead")])) { (dead.0) } (dead.1) "."
            }
        } }
        @if !rights.may(Right::Test) { (hint(&rights, "Testing the hook", Right::Test)) }
        div.grid {
            section.card aria-labelledby="facts" {
                h2 #facts { "Hook" }
                dl.facts {
                    (definition("Events", selector(summary)))
                    (definition("Receiver", receiver(summary)))
                    (definition("Pending", html! {
                        a href=(link(scope, &[("hook", name), ("state", "pending")])) { (summary.pending.map_or("unknown".to_owned(), count)) }
                        @if let Some(oldest) = &summary.oldest_time { ", oldest " (time(oldest)) }
                    }))
                    (definition("Last success", html! { @match &summary.last_success_time { Some(at) => (time(at)), None => "none yet" } }))
                    @if let Some(p95) = summary.p95_ms { (definition("p95 of attempts", duration(p95.round() as u64))) }
                    @if let Some(filter) = &hook.filter { (definition("Filter", html! { code { (filter) } })) }
                    @if let Some(connection) = &hook.connection { (definition("Connection", connection)) }
                    @if let Some(stream) = &hook.event_stream { (definition("EventStream", stream)) }
                    @if let Some(id) = &hook.external_id { (definition("Id at the vendor", html! { code { (id) } })) }
                    @if let Some(created) = &hook.created_time { (definition("Created", time(created))) }
                }
            }
            section.card aria-labelledby="health" {
                h2 #health { "Health" }
                @if let Some(breaker) = &hook.breaker { (breaker_view(breaker)) }
                (timeline(&hook.timeline))
                (conditions(&hook.conditions))
            }
        }
        section.card aria-labelledby="deliveries" {
            h2 #deliveries { a href=(link(scope, &[("hook", name)])) { "Deliveries" } }
            @if shown.items.is_empty() {
                (empty("No deliveries yet", html! { p { "An event with this source reaches the hook; the test shows what it would send." } }))
            } @else {
                (deliveries::table(&shown.items, scope, Columns { selection: false, hook: false }))
            }
        }
        (actions(request, "EventHook", name, &hook_actions(summary.state.as_str(), hook.connection.is_some(), &summary.reason)))
        section.card aria-labelledby="manifest" {
            h2 #manifest { "Manifest" }
            @match manifest(&hook) {
                Some(text) => {
                    (command("manifest-text", "the manifest", &text))
                    @if text.contains(MASK) {
                        p.hint { "What may hold a secret is masked (" code { (MASK) } "): complete it before you apply the manifest." }
                        @if !rights.may(Right::Payload) { (hint(&rights, "Reading custom bodies and the code of lambdas", Right::Payload)) }
                    }
                },
                None => p.hint { "The spec cannot be read." },
            }
        }
    };
    Ok(Page { id: "hook", title: summary.name.clone(), section: Section::Hooks, main, is_live: true })
}

/// Says in one sentence whether the hook delivers, and why not.
fn sentence(hook: &HookDetail, has_dead_letters: bool) -> Markup {
    let summary = &hook.hook;
    let message = match &hook.held {
        Some(held) => held.message.as_str(),
        None => summary.message.as_str(),
    };
    html! {
        @match summary.state.as_str() {
            // Of a receiver that answers, some deliveries may die nevertheless.
            "delivering" if has_dead_letters => "The receiver answers",
            "delivering" => "Deliveries succeed",
            "idle" => "It has delivered nothing yet",
            "failing" => "Attempts fail",
            "held" => "Deliveries are held",
            "paused" => "Paused: deliveries are kept until it is resumed",
            "suspended" => "It delivers, but is not synced with its vendor",
            "notReady" => "It is not synced with its vendor, so it may receive no events",
            "deleting" => "It is being deleted",
            other => (other),
        }
        @if !matches!(summary.state.as_str(), "delivering" | "idle" | "paused") && !message.is_empty() { ": " (prose(message)) }
        @if let Some(since) = &summary.since { ", since " (time(since)) }
        "."
        @if let Some(probe) = hook.breaker.as_ref().and_then(|breaker| breaker.next_probe_time.as_deref()) {
            " The next probe is sent at " (time(probe)) "."
        }
    }
}

fn hook_actions(state: &str, has_vendor: bool, reason: &str) -> Vec<Action> {
    let mut actions = vec![if state == "paused" { Action::Resume } else { Action::Pause }];
    if reason == "Gone" {
        actions.insert(0, Action::ResumeAfterFailure);
    }
    if has_vendor {
        actions.push(Action::Reconcile);
    }
    actions
}

fn breaker_view(breaker: &Breaker) -> Markup {
    html! {
        p {
            "The circuit breaker is " strong { (breaker.state) } ": " (breaker.failures) " of " (breaker.attempts)
            " attempts failed, pause " (duration(breaker.pause_ms)) ". "
            @match &breaker.next_probe_time {
                Some(at) => { "Next probe: " (time(at)) "." },
                None => "Probes are sent now.",
            }
        }
    }
}

fn timeline(changes: &[HealthChange]) -> Markup {
    html! {
        @if changes.is_empty() {
            p.hint { "No change of its health is known." }
        } @else {
            ol.timeline {
                @for change in changes {
                    li class=(if change.healthy { "good" } else { "bad" }) {
                        strong { (change.reason) } " " (time(&change.time))
                        @if !change.message.is_empty() { div.hint { (change.message) } }
                    }
                }
            }
        }
    }
}

fn conditions(conditions: &[Condition]) -> Markup {
    html! {
        @if !conditions.is_empty() {
            details {
                summary { "Conditions" }
                // Not a table: its columns do not fit beside the facts.
                ul.plain {
                    @for condition in conditions {
                        li {
                            strong { (condition.kind) } " " (condition.status) " " code { (condition.reason) }
                            span.muted { " since " (time(&condition.since)) }
                            @if !condition.message.is_empty() { div.hint { (prose(&condition.message)) } }
                        }
                    }
                }
            }
        }
    }
}

/// Formats the manifest. Values of headers that may hold a secret are masked by the API.
fn manifest(hook: &HookDetail) -> Option<String> {
    let mut metadata = json!({"name": hook.hook.name, "namespace": hook.hook.namespace});
    if let (Some(metadata), false) = (metadata.as_object_mut(), hook.labels.is_empty()) {
        metadata.insert("labels".to_owned(), json!(hook.labels));
    }
    let spec = hook.spec.as_ref()?;
    let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": metadata, "spec": spec});
    to_yaml(&object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_follow_the_state() {
        assert_eq!(hook_actions("delivering", false, "Delivering"), [Action::Pause]);
        assert_eq!(hook_actions("paused", true, "Paused"), [Action::Resume, Action::Reconcile]);
        assert_eq!(hook_actions("held", false, "Gone"), [Action::ResumeAfterFailure, Action::Pause]);
    }
}
