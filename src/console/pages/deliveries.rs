//! The list of deliveries, with selection for changes in bulk.

use axum::response::Response;
use maud::{Markup, html};

use super::bulk::replayable;
use super::delivery::next_attempt;
use super::verdict::{describe, shown_state};
use crate::console::form::Form;
use crate::console::model::{Delivery, List};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, Scope};
use crate::console::rights::{Right, Rights};
use crate::console::view::{
    Page, Section, attempt_result, copy_button, csrf_field, duration, empty, hint, link_button, pager, prose,
    shorten, state_pill, time,
};

/// The states in the order of the filter.
const STATES: [&str; 5] = ["pending", "dead", "delivered", "dropped", "cancelled"];
/// Parameters of the API's list that the page passes on.
const FILTERS: [&str; 7] = ["hook", "event", "reason", "status", "since", "until", "continue"];

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let query = &request.query;
    let states: Vec<&str> = query.all("state").flat_map(|value| value.split(',')).collect();
    let path = request.scope.api("deliveries").query_some("state", &states.join(","));
    let path = FILTERS.iter().fold(path, |path, name| path.query_some(name, query.get(name)));
    let found: List<Delivery> = request.api.get(&path).await?;
    let rights = Rights::read(request).await;
    let main = html! {
        div.title { h1 { "Deliveries" } }
        (filters(&request.scope, query, &states))
        @if found.items.is_empty() {
            (nothing(query, found.next.is_some()))
        } @else if rights.may(Right::Replay) || rights.may(Right::Cancel) {
            form data-selection method="post" action=(request.scope.page("deliveries/selected")) {
                (csrf_field(request.csrf()))
                input type="hidden" name="return" value=(request.address);
                (bulk_bar(request, &states, &rights))
                (table(&found.items, &request.scope, Columns { selection: true, hook: true }))
            }
        } @else {
            (hint(&rights, "Replaying and cancelling", Right::Replay))
            (table(&found.items, &request.scope, Columns { selection: false, hook: true }))
        }
        (pager(request.scope.page("deliveries"), query, found.next.as_deref()))
    };
    Ok(Page {
        id: "deliveries",
        title: "Deliveries".to_owned(),
        section: Section::Deliveries,
        main,
        // Older pages do not change while they are read.
        is_live: query.get("continue").is_empty(),
    })
}

fn filters(scope: &Scope, query: &Form, states: &[&str]) -> Markup {
    html! {
        form.filters method="get" action=(scope.page("deliveries")) aria-label="Filter" {
            fieldset {
                legend { "State" }
                div.choices {
                    @for state in STATES {
                        label { input type="checkbox" name="state" value=(state) checked[states.contains(&state)]; (state) }
                    }
                }
            }
            div.field { label for="f-hook" { "Hook" } input #f-hook name="hook" value=(query.get("hook")) size="18"; }
            div.field { label for="f-event" { "Event id" } input #f-event name="event" value=(query.get("event")) size="18"; }
            div.field {
                label for="f-reason" { "Reason" }
                input #f-reason name="reason" value=(query.get("reason")) size="12" placeholder="Timeout";
            }
            div.field {
                label for="f-status" { "Last status" }
                input #f-status name="status" value=(query.get("status")) size="9" placeholder="503, 5xx";
            }
            (times(query))
            button.button.primary type="submit" { "Apply" }
            a.button.quiet href=(scope.page("deliveries")) { "Clear" }
        }
    }
}

/// The fields for the time of a list.
pub fn times(query: &Form) -> Markup {
    html! {
        div.field {
            label for="f-since" { "Since" }
            input #f-since name="since" value=(query.get("since")) size="10" placeholder="1h or a time";
        }
        div.field {
            label for="f-until" { "Until" }
            input #f-until name="until" value=(query.get("until")) size="10" placeholder="10m or a time";
        }
    }
}

fn bulk_bar(request: &PageRequest, states: &[&str], rights: &Rights) -> Markup {
    let (may_replay, may_cancel) = (rights.may(Right::Replay), rights.may(Right::Cancel));
    let query = &request.query;
    let replayed = replayable(states);
    let may_cancel_all = states.is_empty() || states.contains(&"pending");
    html! {
        div.bulk {
            label { input type="checkbox" data-select-all hidden; span.visually-hidden { "Select all on this page" } }
            @if may_replay {
                button.button type="submit" name="action" value="replay" data-needs-selection { "Replay selected…" }
            }
            @if may_cancel {
                button.button type="submit" name="action" value="cancel" data-needs-selection { "Cancel selected…" }
            }
            @if !may_replay { (hint(rights, "Replaying", Right::Replay)) }
            span.muted data-selected-count aria-live="polite" {}
            span.spacer {}
            // A change in bulk selects by neither: it would change more than the list shows.
            @if request.scope.namespace().is_some() && query.get("reason").is_empty() && query.get("status").is_empty() {
                @let path = ["hook", "event", "since", "until"].iter().fold(
                    request.scope.page("deliveries").segment("matching"),
                    |path, name| path.query_some(name, query.get(name)),
                ).query("return", &request.address);
                @if may_replay && !replayed.is_empty() {
                    @let path = replayed.iter().fold(path.clone().query("action", "replay"), |path, state| path.query("state", state));
                    (link_button(&path, &format!("Replay all {} that match…", replayed.join(" and ")), ""))
                }
                @if may_cancel && may_cancel_all {
                    (link_button(&path.query("action", "cancel"), "Cancel all pending that match…", ""))
                }
            }
        }
    }
}

/// The columns that not every table of deliveries has.
#[derive(Clone, Copy)]
pub struct Columns {
    /// Checkboxes of a form around the table.
    pub selection: bool,
    pub hook: bool,
}

/// A table of deliveries.
pub fn table(deliveries: &[Delivery], scope: &Scope, columns: Columns) -> Markup {
    let with_namespace = scope.namespace().is_none();
    let with_next = deliveries.iter().any(|delivery| delivery.state == "pending");
    html! {
        div.table.cards {
            table {
                thead {
                    tr {
                        @if columns.selection { th { span.visually-hidden { "Selected" } } }
                        th { "State" } th { "Event" }
                        @if columns.hook { th { "Hook" } }
                        @if with_namespace { th { "Namespace" } }
                        th { "Why" } th.number { "Attempts" } th { "Accepted" }
                        @if with_next { th { "Next attempt" } }
                    }
                }
                tbody { @for delivery in deliveries { (row(delivery, with_namespace, with_next, columns)) } }
            }
        }
    }
}

fn row(delivery: &Delivery, with_namespace: bool, with_next: bool, columns: Columns) -> Markup {
    let scope = Scope::of(&delivery.namespace);
    let address = scope.page("deliveries").segment(&delivery.id);
    html! {
        tr {
            @if columns.selection {
                td data-label="Select" {
                    input type="checkbox" name="id" value={ (delivery.namespace) "/" (delivery.id) }
                        aria-label={ "Select the delivery of " (delivery.event) " to " (delivery.hook) };
                }
            }
            td data-label="State" {
                a data-row href=(address) title="Show the delivery" { (state_pill(shown_state(delivery))) }
            }
            td.id data-label="Event" title=(delivery.event) { a href=(scope.event(&delivery.event)) { (shorten(&delivery.event, 80)) } }
            @if columns.hook {
                td.id data-label="Hook" title=(delivery.hook) { a href=(scope.page("hooks").segment(&delivery.hook)) { (delivery.hook) } }
            }
            @if with_namespace { td.id data-label="Namespace" title=(delivery.namespace) { (delivery.namespace) } }
            td.wide data-label="Why" { (prose(&why(delivery))) }
            td.number data-label="Attempts" { (delivery.attempts.len()) }
            td data-label="Accepted" { (time(&delivery.accepted_time)) }
            @if with_next { td data-label="Next attempt" { @if delivery.state == "pending" { (next_attempt(delivery)) } } }
        }
    }
}

fn why(delivery: &Delivery) -> String {
    match delivery.state.as_str() {
        "delivered" => delivery.attempts.last().map_or_else(String::new, |last| {
            format!("{} in {}", attempt_result(last), duration(last.duration_ms))
        }),
        _ => shorten(&describe(delivery, None), 160),
    }
}

fn nothing(query: &Form, has_more: bool) -> Markup {
    if has_more {
        return empty(
            "Nothing so far",
            html! { p { "The search has not come to the end: go on with “Older”." } },
        );
    }
    if query.fields().any(|(name, value)| FILTERS.contains(&name) && !value.is_empty()) || query.has("state")
    {
        return empty(
            "No delivery matches this filter",
            html! {
                p { "Deliveries are kept for a day, dead letters for a week, unless the worker is set differently. An event that no hook "
                    "matched has no delivery: look at the events." }
            },
        );
    }
    empty(
        "No deliveries yet",
        html! {
            p { "A delivery is created when an event matches a hook. Create an EventHook, then send an event:" }
            pre tabindex="0" { code #send-command { "hookstream send --source demo --event ping '{\"hello\": \"world\"}'" } }
            p { (copy_button("send-command", "the command")) }
        },
    )
}

/// Returns the link to the deliveries with these parameters.
pub fn link(scope: &Scope, parameters: &[(&str, &str)]) -> Path {
    parameters.iter().fold(scope.page("deliveries"), |path, (name, value)| path.query_some(name, value))
}
