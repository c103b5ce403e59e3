//! All deliveries that match a filter.

use axum::response::Response;
use maud::{Markup, html};

use super::filter::BulkFilter;
use super::{Action, confirm_page, describe_count, failed_part, origin_or_list, repeated};
use crate::console::audit::BulkAction;
use crate::console::model::{Cancellation, DryRun, StartedReplay};
use crate::console::pages::deliveries::link;
use crate::console::problem::Problem;
use crate::console::request::{ChangeRequest, PageRequest};
use crate::console::view::{Page, csrf_field, definition, link_button, notice, plural, time};
use crate::core::time::Millis;

/// No deliveries.
const NONE: DryRun = DryRun { matching: 0, is_exact: true };
/// Requests of a cancellation in bulk that one form causes; each cancels up to 500 deliveries.
const MAX_CANCELLATIONS: usize = 20;

/// Counts the deliveries that match a filter, and offers to change them.
pub async fn matching(request: PageRequest) -> Response {
    let page = match Action::parse(request.query.get("action")) {
        Ok(action) => confirm(&request, action).await,
        Err(problem) => Err(problem),
    };
    request.respond(page)
}

async fn confirm(request: &PageRequest, action: Action) -> Result<Page, Problem> {
    let filter = BulkFilter::parse(&request.query, action, Millis::now())?;
    let Matching { total: found, delivered } = count_matching(request, action, &filter).await?;
    let number = describe_count(found);
    let title = format!("{} {number}?", action.verb());
    let back = back(request, &filter);
    let main = html! {
        h1 { (title) }
        p { (action.effect(found.matching == 1)) }
        section.card {
            h2 { "Filter" }
            dl.facts {
                (definition("Namespace", request.scope.namespace().unwrap_or_default()))
                (definition("State", filter.states().join(", ")))
                @for (name, value) in filter.parts() {
                    @match name {
                        "since" | "until" => (definition(label(name), time(&value))),
                        _ => (definition(label(name), value)),
                    }
                }
            }
        }
        @if found.matching == 0 && found.is_exact {
            p { "Nothing matches." }
            a.button href=(back) { "Back" }
        } @else {
            @if !found.is_exact { (notice("warn", "The count ended before all deliveries were examined: more may match.")) }
            (repeated(action, delivered))
            (form(request, action, &filter, &number, delivered, &back))
        }
    };
    Ok(confirm_page(title, main))
}

fn label(name: &'static str) -> &'static str {
    match name {
        "hook" => "Hook",
        "event" => "Event id",
        "since" => "Accepted since",
        "until" => "Accepted before",
        name => name,
    }
}

/// The deliveries that match a filter, and those of them that were delivered.
struct Matching {
    total: DryRun,
    delivered: DryRun,
}

/// Counts the deliveries in each of the filter's states.
async fn count_matching(
    request: &PageRequest,
    action: Action,
    filter: &BulkFilter,
) -> Result<Matching, Problem> {
    let path = request.scope.api("deliveries").segment(action.name()).query("dryRun", "true");
    let mut total = NONE;
    let mut delivered = NONE;
    for state in filter.states() {
        let found: DryRun = request.api.post(&path, &filter.body(state)).await?;
        total.matching = total.matching.saturating_add(found.matching);
        total.is_exact &= found.is_exact;
        if *state == "delivered" {
            delivered = found;
        }
    }
    Ok(Matching { total, delivered })
}

/// The form that changes what matches when it is sent. `delivered`: those of them that arrived before.
fn form(
    request: &PageRequest,
    action: Action,
    filter: &BulkFilter,
    number: &str,
    delivered: DryRun,
    back: &str,
) -> Markup {
    let target = request.scope.page("deliveries").segment("matching").segment(action.name());
    html! {
        form.stack method="post" action=(target) {
            (csrf_field(request.csrf()))
            @for (name, value) in filter.parts() { input type="hidden" name=(name) value=(value); }
            @for state in filter.states() { input type="hidden" name="state" value=(state); }
            @if action == Action::Replay {
                div.field {
                    label for="rate" { "Deliveries a second" }
                    input #rate type="number" name="rate" value="50" min="1" max="10000" required;
                }
            }
            div.actions {
                button class={ "button " (action.class(delivered)) } type="submit" { (action.verb()) " " (number) }
                a.button.quiet href=(back) { "Back" }
            }
        }
    }
}

/// Returns the address of the list that the page came from, or of one with the same filter.
fn back(request: &PageRequest, filter: &BulkFilter) -> String {
    if !request.query.get("return").is_empty() {
        return origin_or_list(request, request.query.get("return"));
    }
    let texts = ["hook", "event", "since", "until"].map(|name| (name, request.query.get(name)));
    let states = filter.states().iter().map(|state| ("state", *state));
    link(&request.scope, &texts.into_iter().chain(states).collect::<Vec<_>>()).to_string()
}

/// Starts a replay of all deliveries that match: one for each state.
pub async fn replay_matching(change: ChangeRequest) -> Response {
    let ChangeRequest { page, form } = change;
    let filter = match BulkFilter::parse(&form, Action::Replay, Millis::now()) {
        Ok(filter) => filter,
        Err(problem) => return page.respond(Err(problem)),
    };
    let mut audit = begin(&page, Action::Replay, &filter);
    let path = page.scope.api("deliveries").segment("replay");
    let (mut started, mut result) = (Vec::new(), Ok(()));
    for state in filter.states() {
        let mut body = filter.body(state);
        if let Ok(rate) = form.get("rate").parse::<u32>() {
            body.insert("rate".to_owned(), rate.into());
        }
        match page.api.post::<StartedReplay>(&path, &body).await {
            Ok(replay) => {
                audit.add_replay(replay.id);
                started.push(*state);
            }
            Err(problem) => {
                audit.add_failed();
                result = Err(problem);
                break;
            }
        }
    }
    audit.end(result.as_ref().err());
    match result {
        Err(problem) if !started.is_empty() => page.respond(Ok(partly_replayed(&page, &started, &problem))),
        result => page.redirect(result.map(|()| page.scope.page("replays").query("done", "replay-started"))),
    }
}

/// Records the beginning of a change.
fn begin(page: &PageRequest, action: Action, filter: &BulkFilter) -> BulkAction {
    let namespace = page.scope.namespace().unwrap_or_default();
    BulkAction::begin(&page.caller, action.name(), &filter.describe(namespace))
}

fn partly_replayed(page: &PageRequest, started: &[&str], problem: &Problem) -> Page {
    let done = format!("The replay of {} deliveries has started.", started.join(" and "));
    let main = html! {
        h1 { "Replayed in part" }
        (failed_part(&done, problem))
        (link_button(&page.scope.page("replays"), "Replays", "primary"))
    };
    confirm_page("Replayed in part".to_owned(), main)
}

/// Cancels the deliveries that match, up to a bound.
pub async fn cancel_matching(change: ChangeRequest) -> Response {
    let ChangeRequest { page, form } = change;
    let filter = match BulkFilter::parse(&form, Action::Cancel, Millis::now()) {
        Ok(filter) => filter,
        Err(problem) => return page.respond(Err(problem)),
    };
    let mut audit = begin(&page, Action::Cancel, &filter);
    let path = page.scope.api("deliveries").segment("cancel");
    let (mut next, mut problem) = (None::<String>, None);
    for _ in 0..MAX_CANCELLATIONS {
        let mut body = filter.body("pending");
        body.extend(next.take().map(|next| ("continue".to_owned(), next.into())));
        match page.api.post::<Cancellation>(&path, &body).await {
            Ok(part) => {
                audit.add_changed(part.cancelled as u64);
                next = part.next;
            }
            Err(failed) => {
                audit.add_failed();
                problem = Some(failed);
            }
        }
        if next.is_none() {
            break;
        }
    }
    let cancelled = audit.changed();
    audit.end(problem.as_ref());
    match problem {
        // Nothing was done: the problem has a page of its own, with its status.
        Some(problem) if cancelled == 0 => page.respond(Err(problem)),
        problem => {
            let shown = cancelled_page(&page, &filter, cancelled, problem.as_ref(), next.is_some());
            page.respond(Ok(shown))
        }
    }
}

fn cancelled_page(
    page: &PageRequest,
    filter: &BulkFilter,
    cancelled: u64,
    problem: Option<&Problem>,
    is_incomplete: bool,
) -> Page {
    let title = format!("{} cancelled", plural(cancelled, "delivery", "deliveries"));
    let list = page.scope.page("deliveries").to_string();
    let main = html! {
        h1 { (title) }
        @if let Some(problem) = problem { (failed_part("What was cancelled stays cancelled.", problem)) }
        @if is_incomplete && problem.is_none() { (notice("warn", "More match: go on to cancel them too.")) }
        @if is_incomplete || problem.is_some() {
            (form(page, Action::Cancel, filter, "the rest", NONE, &list))
        } @else {
            (link_button(&page.scope.page("deliveries"), "Deliveries", "primary"))
        }
    };
    confirm_page(title, main)
}
