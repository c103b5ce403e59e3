//! Connections and streams: what the vendors have, what differs, the last errors, and streams that Auth0 disabled.

use axum::response::Response;
use maud::{Markup, html};

use super::object_actions::{Action, short_action};
use super::overview::{object_link, ready_pill};
use crate::console::model::{List, Object, Stream};
use crate::console::problem::Problem;
use crate::console::request::PageRequest;
use crate::console::view::{Page, Section, empty, pager, state_pill, time};

const KINDS: [&str; 4] = ["Connection", "EventStream", "EventHook", "Hook"];
const READY: [(&str, &str); 3] = [("True", "ready"), ("False", "not ready"), ("Unknown", "unknown")];

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let query = &request.query;
    let kinds: Vec<&str> = query.all("kind").flat_map(|value| value.split(',')).collect();
    let shown_kinds = if kinds.is_empty() { vec!["Connection", "EventStream"] } else { kinds };
    let ready: Vec<&str> = query.all("ready").flat_map(|value| value.split(',')).collect();
    let path = request.scope.api("objects").query("kind", &shown_kinds.join(","));
    let path = path.query_some("ready", &ready.join(",")).query_some("continue", query.get("continue"));
    let found: List<Object> = request.api.get(&path).await?;
    let main = html! {
        div.title { h1 { "Connections and streams" } }
        form.filters method="get" action=(request.scope.page("connections")) aria-label="Filter" {
            fieldset {
                legend { "Kind" }
                div.choices {
                    @for kind in KINDS { label { input type="checkbox" name="kind" value=(kind) checked[shown_kinds.contains(&kind)]; (kind) } }
                }
            }
            fieldset {
                legend { "Ready" }
                div.choices {
                    @for (value, label) in READY { label { input type="checkbox" name="ready" value=(value) checked[ready.contains(&value)]; (label) } }
                }
            }
            button.button.primary type="submit" { "Apply" }
            a.button.quiet href=(request.scope.page("connections")) { "Clear" }
        }
        @if found.items.is_empty() {
            (empty("Nothing here", html! {
                p { "A Connection gives access to a Kong gateway or an Auth0 tenant. Hooks that receive events of your own programs need none." }
            }))
        } @else {
            (table(request, &found.items))
        }
        (pager(request.scope.page("connections"), query, found.next.as_deref()))
    };
    let is_live = query.get("continue").is_empty();
    let title = "Connections and streams".to_owned();
    Ok(Page { id: "connections", title, section: Section::Connections, main, is_live })
}

fn table(request: &PageRequest, objects: &[Object]) -> Markup {
    html! {
        div.table.cards {
            table {
                thead { tr {
                    th { "Ready" } th { "Object" } th { "At the vendor" } th { "Problem" } th { "Last error" } th { "Since" }
                    th { span.visually-hidden { "Actions" } }
                } }
                tbody { @for object in objects { (row(request, object)) } }
            }
        }
    }
}

fn row(request: &PageRequest, object: &Object) -> Markup {
    html! {
        tr {
            td data-label="Ready" { (ready_pill(object)) }
            td.name data-label="Object" { (object_link(object)) @if let Some(connection) = &object.connection { div.hint { "Connection " (connection) } } }
            td.name data-label="At the vendor" {
                @if let Some(version) = &object.version { div { (version) } }
                @if let Some(id) = &object.external_id { div { code { (id) } } }
                @if let Some(endpoint) = &object.endpoint { div.hint { (endpoint) } }
                @if let Some(stream) = &object.stream { (stream_view(stream)) }
            }
            td.wide data-label="Problem" {
                @if let Some(drift) = &object.drift { div { strong { "Differs: " } (drift) } }
                @else if object.ready != "True" { code { (object.reason) } " " (object.message) }
            }
            td.wide data-label="Last error" {
                @if let Some(error) = &object.last_error {
                    @if let Some(status) = error.http_status { (status) ": " }
                    @if object.message.contains(&error.message) { "the same" } @else { (error.message) }
                    @if let Some(at) = &error.time { div.hint { (time(at)) } }
                }
            }
            td data-label="Since" { @if let Some(since) = &object.since { (time(since)) } }
            td.nowrap data-label="Action" {
                @if object.stream.as_ref().is_some_and(|stream| stream.disabled_by_vendor) {
                    (short_action(request, Action::ResumeAfterFailure, &object.kind, &object.namespace, &object.name))
                }
                (short_action(request, Action::Reconcile, &object.kind, &object.namespace, &object.name))
            }
        }
    }
}

fn stream_view(stream: &Stream) -> Markup {
    html! {
        @if let Some(status) = &stream.server_status { div { (state_pill(status)) } }
        @if stream.disabled_by_vendor {
            div.hint {
                "Auth0 disabled it, because its receiver failed. "
                @if stream.recovers { "It is enabled again when the worker answers." } @else { "It must be resumed." }
            }
        }
        @if let Some(at) = &stream.reenabled_time { div.hint { "enabled again " (time(at)) } }
    }
}
