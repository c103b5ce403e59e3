//! The list of events, with search.

use axum::response::Response;
use maud::{Markup, html};

use super::deliveries::times;
use super::verdict::outcome;
use crate::console::form::Form;
use crate::console::model::{Event, List};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, Scope};
use crate::console::rights::{Right, Rights};
use crate::console::view::{
    Page, Section, copy_button, empty, hint, pager, plural, shorten, state_pill, time,
};

const OUTCOMES: [(&str, &str); 5] = [
    ("", "all"),
    ("matched", "matched"),
    ("unmatched", "unmatched"),
    ("dead", "with dead letters"),
    ("dropped", "dropped"),
];
/// Parameters of the API's list that the page passes on.
const FILTERS: [&str; 9] =
    ["text", "source", "event", "hook", "origin", "outcome", "since", "until", "continue"];
/// Events on a page that searches data: the API returns the data of each.
const SEARCHED: &str = "20";

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let query = &request.query;
    let searches_data = query.has("data") && !query.get("text").is_empty();
    let mut may_search_data = true;
    let found = match list(request, searches_data).await {
        Err(problem) if problem.is_forbidden() && searches_data => {
            may_search_data = false;
            list(request, false).await?
        }
        other => other?,
    };
    let rights = Rights::read(request).await;
    let main = html! {
        div.title {
            h1 { "Events" }
            div.actions {
                @if request.scope.namespace().is_some() && rights.may(Right::Publish) {
                    a.button href=(request.scope.page("send")) { "Send a test event" }
                }
            }
        }
        (filters(&request.scope, query))
        @if !may_search_data { (hint(&rights, "Searching the data of events", Right::Payload)) }
        @if found.items.is_empty() { (nothing(&request.scope, query, found.next.is_some())) } @else { (table(&found.items, &request.scope)) }
        (pager(request.scope.page("events"), query, found.next.as_deref()))
    };
    Ok(Page {
        id: "events",
        title: "Events".to_owned(),
        section: Section::Events,
        main,
        is_live: query.get("continue").is_empty() && !searches_data,
    })
}

async fn list(request: &PageRequest, searches_data: bool) -> Result<List<Event>, Problem> {
    let query = &request.query;
    let path = request.scope.api("events");
    let path = FILTERS.iter().fold(path, |path, name| path.query_some(name, query.get(name)));
    let path = if searches_data { path.query("payload", "true").query("limit", SEARCHED) } else { path };
    request.api.get(&path).await
}

fn filters(scope: &Scope, query: &Form) -> Markup {
    html! {
        form.filters method="get" action=(scope.page("events")) aria-label="Filter" {
            div.field {
                label for="f-text" { "Text in the id" }
                input #f-text name="text" value=(query.get("text")) size="20" maxlength="256";
            }
            div.choices { label { input type="checkbox" name="data" value="1" checked[query.has("data")]; "and in the data" } }
            div.field { label for="f-source" { "Source" } input #f-source name="source" value=(query.get("source")) size="14"; }
            div.field { label for="f-name" { "Event" } input #f-name name="event" value=(query.get("event")) size="14"; }
            div.field { label for="f-hook" { "Hook" } input #f-hook name="hook" value=(query.get("hook")) size="14"; }
            div.field {
                label for="f-outcome" { "Outcome" }
                select #f-outcome name="outcome" {
                    @for (value, label) in OUTCOMES { option value=(value) selected[query.get("outcome") == value] { (label) } }
                }
            }
            (times(query))
            button.button.primary type="submit" { "Apply" }
            a.button.quiet href=(scope.page("events")) { "Clear" }
        }
    }
}

/// A table of events.
pub fn table(events: &[Event], scope: &Scope) -> Markup {
    let with_namespace = scope.namespace().is_none();
    html! {
        div.table.cards {
            table {
                thead {
                    tr {
                        th { "Accepted" } th { "Id" } th { "Outcome" } th { "Deliveries" } th { "Source / event" }
                        @if with_namespace { th { "Namespace" } }
                        th { "Origin" }
                    }
                }
                tbody {
                    @for event in events {
                        tr {
                            td data-label="Accepted" { (time(&event.accepted_time)) }
                            td.id data-label="Id" title=(event.id) { a data-row href=(link(event)) { (shorten(&event.id, 80)) } }
                            td data-label="Outcome" { (state_pill(outcome_of(event))) }
                            td data-label="Deliveries" title=(event.hooks.iter().take(20).cloned().collect::<Vec<_>>().join(", ")) { (counts(event)) }
                            @let name = format!("{} / {}", event.source, event.event);
                            td.id data-label="Source / event" title=(name) { (shorten(&name, 120)) }
                            @if with_namespace { td.id data-label="Namespace" title=(event.namespace) { (event.namespace) } }
                            td.id data-label="Origin" title=(event.origin) { (event.origin) }
                        }
                    }
                }
            }
        }
    }
}

/// Returns the address of an event's page.
pub fn link(event: &Event) -> Path {
    Scope::of(&event.namespace).event(&event.id)
}

/// Returns the outcome that the list shows. The API counts no held deliveries here: they are pending.
fn outcome_of(event: &Event) -> &str {
    outcome(event.deliveries.keys().map(String::as_str), !event.deliveries_left_out)
}

fn counts(event: &Event) -> String {
    let parts: Vec<String> =
        event.deliveries.iter().map(|(state, count)| format!("{count} {state}")).collect();
    match (parts.is_empty(), event.deliveries_left_out) {
        (true, _) => "none".to_owned(),
        (false, true) => format!("{} and more", parts.join(", ")),
        (false, false) => parts.join(", "),
    }
}

fn nothing(scope: &Scope, query: &Form, has_more: bool) -> Markup {
    let filtered = query.fields().filter(|(name, value)| FILTERS.contains(name) && !value.is_empty()).count();
    if has_more {
        return empty(
            "Nothing so far",
            html! { p { "The search has not come to the end: go on with “Older”." } },
        );
    }
    if filtered > 0 {
        let used = plural(u64::try_from(filtered).unwrap_or(u64::MAX), "filter", "filters");
        return empty(
            "No event matches",
            html! {
                p { (used) " in use. If the event was sent, check the namespace above, and that its sender got a 202 response." }
            },
        );
    }
    empty(
        "No events yet",
        html! {
            p { "Send one, then see here which hooks it matched:" }
            pre tabindex="0" { code #send-command {
                "hookstream send --source demo --event ping '{\"hello\": \"world\"}'"
                @if let Some(namespace) = scope.namespace() { " --namespace " (namespace) }
            } }
            p { (copy_button("send-command", "the command")) }
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hostile_events_are_escaped_and_linked() {
        let hostile = "\"><script>alert(1)</script>/../x";
        let event: Event = serde_json::from_value(json!({"id": hostile, "namespace": "n", "source": hostile,
            "event": hostile, "origin": hostile, "time": hostile, "acceptedTime": hostile, "outcome": hostile,
            "deliveries": {"dead": 1, "delivered": 2}, "hooks": [hostile], "deliveriesLeftOut": false}))
        .unwrap();
        let text = table(&[event], &Scope::of("")).into_string();
        assert!(!text.contains("<script") && !text.contains("\"\">"), "{text}");
        assert!(text.contains("/console/namespaces/n/event?id=%22%3E%3Cscript"), "{text}");
        assert!(text.contains("1 dead, 2 delivered"), "{text}");
    }
}
