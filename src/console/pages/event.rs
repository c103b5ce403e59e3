//! An event: what matched and how each delivery went, what did not match and why, and the data.

use std::collections::BTreeMap;

use axum::response::Response;
use maud::{Markup, html};

use super::catalogue::filter_view;
use super::verdict::{self, outcome, severity, shown_state};
use crate::console::model::{Delivery, Event, ExplainedDelivery, Explanation, HookDetail, UnmatchedHook};
use crate::console::problem::Problem;
use crate::console::request::PageRequest;
use crate::console::rights::{Right, Rights};
use crate::console::view::{
    Page, Section, attempt_result, button, copy_button, csrf_field, definition, hint, icon, json_viewer,
    post_form, prose, state_pill, time, verdict_icon,
};

/// The most hooks whose receivers are looked up.
const MAX_HOSTS: usize = 12;

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let path = request.scope.api("events").segment(request.query.get("id"));
    let (event, has_payload): (Event, bool) = request.api.get_with_payload(&path).await?;
    let explanation: Explanation = request.api.get(&path.segment("explain")).await?;
    let hosts = hosts(request, &explanation).await;
    let rights = Rights::read(request).await;
    let verdict = verdict::of_event(&explanation, |hook| hosts.get(hook).cloned());
    let main = html! {
        p.crumbs { a href=(request.scope.page("events")) { "Events" } " / " span { (event.source) } }
        div.title {
            (heading(&event))
            (state_pill(outcome_of(&explanation)))
            div.actions {
                @if rights.may(Right::Replay) { (replay_forms(request, &explanation.deliveries)) }
            }
        }
        p #verdict class={ "verdict " (verdict.class) } { (icon(verdict_icon(verdict.class))) span { (prose(&verdict.text)) } }
        section.card aria-labelledby="deliveries" {
            h2 #deliveries { "Hooks that matched" }
            @if explanation.deliveries.is_empty() {
                p.hint { "None. The reasons are below." }
            } @else {
                (deliveries(request, &explanation, rights.may(Right::Replay)))
                @if !rights.may(Right::Replay) { (hint(&rights, "Replaying", Right::Replay)) }
            }
        }
        section.card aria-labelledby="others" {
            h2 #others { "Hooks that did not match" }
            (others(request, &explanation))
        }
        div.grid {
            section.card aria-labelledby="facts" {
                h2 #facts { "Event" }
                dl.facts {
                    (definition("Id", html! { code #event-id { (event.id) } " " (copy_button("event-id", "the id")) }))
                    (definition("Source", &event.source))
                    (definition("Event", &event.event))
                    (definition("Namespace", &event.namespace))
                    (definition("Origin", &event.origin))
                    (definition("Time", time(&event.time)))
                    (definition("Accepted", time(&event.accepted_time)))
                }
            }
            section.card aria-labelledby="payload" {
                h2 #payload { "Data" }
                @match (&event.data, has_payload) {
                    (Some(data), true) => (json_viewer("event-data", data)),
                    (None, true) => p.hint { "The data is not kept any more." },
                    (_, false) => (hint(&rights, "Reading the data", Right::Payload)),
                }
            }
        }
    };
    Ok(Page {
        id: "event",
        title: match &event.subject {
            Some(subject) => format!("{} {} ({subject})", event.event, event.id),
            None => format!("{} {}", event.event, event.id),
        },
        section: Section::Events,
        main,
        is_live: true,
    })
}

/// Names the event with its id and its subject: people know an order by one of them.
fn heading(event: &Event) -> Markup {
    html! {
        hgroup {
            h1 { (event.event) " " span #id.mono { (event.id) } @if let Some(subject) = &event.subject { " (" (subject) ")" } }
        }
    }
}

/// Returns the receivers' hosts of the hooks that the sentence describes.
async fn hosts(request: &PageRequest, explanation: &Explanation) -> BTreeMap<String, String> {
    let mut hosts = BTreeMap::new();
    let failing = explanation.deliveries.iter().filter(|found| found.delivery.state != "delivered");
    for found in failing.take(MAX_HOSTS) {
        if let Some(host) = host_of(request, &found.delivery.hook).await {
            hosts.insert(found.delivery.hook.clone(), host);
        }
    }
    hosts
}

/// Returns the receiver's host of a hook, if it exists and its address is not in a Secret.
pub async fn host_of(request: &PageRequest, hook: &str) -> Option<String> {
    let found: HookDetail = request.api.get(&request.scope.api("hooks").segment(hook)).await.ok()?;
    found.hook.host
}

fn outcome_of(explanation: &Explanation) -> &'static str {
    let states = explanation.deliveries.iter().map(|found| shown_state(&found.delivery));
    outcome(states, explanation.deliveries_left_out == 0)
}

fn deliveries(request: &PageRequest, explanation: &Explanation, may_replay: bool) -> Markup {
    let mut worst_first: Vec<_> = explanation.deliveries.iter().collect();
    worst_first.sort_by_key(|found| severity(&found.delivery));
    html! {
        div.table.cards {
            table {
                thead { tr {
                    th { "State" } th { "Hook" } th { "Explanation" } th.number { "Attempts" } th { "Last" }
                    th { span.visually-hidden { "Actions" } }
                } }
                tbody { @for found in worst_first { (delivery_row(request, found, may_replay)) } }
            }
        }
        @if explanation.deliveries_left_out > 0 {
            p.hint { (explanation.deliveries_left_out) " more are in the list of deliveries." }
        }
    }
}

fn delivery_row(request: &PageRequest, found: &ExplainedDelivery, may_replay: bool) -> Markup {
    let delivery = &found.delivery;
    let address = request.scope.page("deliveries").segment(&delivery.id);
    html! {
        tr {
            td data-label="State" { a data-row href=(address) { (state_pill(shown_state(delivery))) } }
            td.id data-label="Hook" title=(delivery.hook) { a href=(request.scope.page("hooks").segment(&delivery.hook)) { (delivery.hook) } }
            td.wide data-label="Explanation" { (prose(&found.explanation)) " " a href=(address) { "Attempts" } }
            td.number data-label="Attempts" { (delivery.attempts.len()) }
            td data-label="Last" { @if let Some(last) = delivery.attempts.last() { (attempt_result(last)) } }
            td data-label="Action" {
                @if may_replay {
                    (replay_form(request, delivery, ""))
                }
            }
        }
    }
}

/// The form that replays a delivery. One that was delivered is replayed only after a page that says what that does.
pub fn replay_form(request: &PageRequest, delivery: &Delivery, class: &str) -> Markup {
    let list = request.scope.page("deliveries");
    if delivery.state == "delivered" {
        let id = format!("{}/{}", delivery.namespace, delivery.id);
        let fields = [("action", "replay"), ("id", id.as_str()), ("return", request.address.as_str())];
        return post_form(&list.segment("selected"), request.csrf(), &fields, "Replay…", "");
    }
    let label = if delivery.state == "pending" { "Replay now" } else { "Replay" };
    let target = list.segment(&delivery.id).segment("replay");
    post_form(&target, request.csrf(), &[("return", &request.address)], label, class)
}

/// The forms that replay several deliveries of the event: first those that are dead, because a replay of the others repeats what
/// arrived.
fn replay_forms(request: &PageRequest, deliveries: &[ExplainedDelivery]) -> Markup {
    let dead: Vec<&Delivery> =
        deliveries.iter().map(|found| &found.delivery).filter(|delivery| delivery.state == "dead").collect();
    let all = deliveries.iter().map(|found| &found.delivery);
    html! {
        @match dead.as_slice() {
            [] => {},
            [one] => {
                @let target = request.scope.page("deliveries").segment(&one.id).segment("replay");
                (post_form(&target, request.csrf(), &[("return", &request.address)], "Replay the dead delivery", "primary"))
            },
            many => (replay_selected(request, many.iter().copied(), &format!("Replay the {} dead deliveries…", many.len()), "primary")),
        }
        @if deliveries.len() > 1 && dead.len() < deliveries.len() {
            (replay_selected(request, all, &format!("Replay all {}…", deliveries.len()), ""))
        }
    }
}

/// The form that replays these deliveries, after a page that says how many they are and how many of them arrived before.
fn replay_selected<'a>(
    request: &PageRequest,
    deliveries: impl Iterator<Item = &'a Delivery>,
    label: &str,
    class: &str,
) -> Markup {
    html! {
        form.inline method="post" action=(request.scope.page("deliveries/selected")) {
            (csrf_field(request.csrf()))
            input type="hidden" name="action" value="replay";
            @for delivery in deliveries {
                input type="hidden" name="id" value={ (delivery.namespace) "/" (delivery.id) };
            }
            input type="hidden" name="return" value=(request.address);
            (button(label, class))
        }
    }
}

fn others(request: &PageRequest, explanation: &Explanation) -> Markup {
    html! {
        @if explanation.others.is_empty() && explanation.others_left_out == 0 {
            p.hint { "None: every hook of this namespace matched." }
        } @else {
            div.table.cards {
                table {
                    thead { tr { th { "Hook" } th { "Reason" } th { "Explanation" } } }
                    tbody { @for other in &explanation.others { (other_row(request, other)) } }
                }
            }
            @if explanation.others_left_out > 0 { p.hint { (explanation.others_left_out) " further hooks are not shown." } }
        }
    }
}

fn other_row(request: &PageRequest, other: &UnmatchedHook) -> Markup {
    html! {
        tr {
            td.id data-label="Hook" title=(other.hook) { a data-row href=(request.scope.page("hooks").segment(&other.hook)) { (other.hook) } }
            td data-label="Reason" { code { (other.reason) } }
            td.wide data-label="Explanation" {
                (other.explanation)
                @if let Some(filter) = &other.filter {
                    details { summary { "The filter on this event" } p { code { (filter.filter) } } (filter_view(filter)) }
                }
            }
        }
    }
}
