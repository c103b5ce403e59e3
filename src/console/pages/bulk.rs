//! Changes of many deliveries: first a page that says how many they are, then the change.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::changes::{change_one, with_done};
use super::deliveries::{self, Columns, link};
use crate::console::audit;
use crate::console::form::Form;
use crate::console::model::{Cancellation, Delivery, DryRun};
use crate::console::problem::Problem;
use crate::console::request::{ChangeRequest, PageRequest, Scope, local_path};
use crate::console::view::{Page, Section, count, csrf_field, definition, link_button, notice, plural};
use crate::core::names::is_namespace;

/// The most deliveries of a selection.
const MAX_SELECTED: usize = 500;
/// The most deliveries of a selection that are shown: each is read.
const MAX_SHOWN: usize = 20;
/// Requests of a cancellation in bulk that one form causes; each cancels up to 500 deliveries.
const MAX_CANCELLATIONS: usize = 20;
/// The parts of a filter.
const FILTERS: [&str; 5] = ["hook", "state", "event", "since", "until"];

/// Shows what would happen to the selected deliveries.
pub async fn selected(change: ChangeRequest) -> Response {
    let page = match selection(&change.form) {
        Ok((action, ids)) => {
            let found = find_selected(&change.page, &ids).await;
            Ok(confirm_selected(&change, action, &ids, &found))
        }
        Err(problem) => Err(problem),
    };
    change.page.respond(page)
}

/// Reads the first of the selected deliveries, to show what they are. Leaves out those that cannot be read.
async fn find_selected(page: &PageRequest, ids: &[(&str, &str)]) -> Vec<Delivery> {
    let mut found = Vec::new();
    for (namespace, id) in ids.iter().take(MAX_SHOWN) {
        found.extend(page.api.get(&Scope::of(namespace).api("deliveries").segment(id)).await.ok());
    }
    found
}

/// An action, and the namespaces and ids of deliveries.
type Selection<'a> = (&'static str, Vec<(&'a str, &'a str)>);

fn selection(form: &Form) -> Result<Selection<'_>, Problem> {
    let action = action(form.get("action"))?;
    let ids: Vec<(&str, &str)> = form
        .all("id")
        .filter_map(|id| id.split_once('/'))
        .filter(|(namespace, _)| is_namespace(namespace))
        .collect();
    match ids.len() {
        0 => Err(Problem::new(
            400,
            "NothingSelected",
            "no delivery is selected: go back and select at least one",
        )),
        1..=MAX_SELECTED => Ok((action, ids)),
        _ => Err(Problem::new(400, "TooMany", format!("more than {MAX_SELECTED} deliveries are selected"))),
    }
}

fn action(text: &str) -> Result<&'static str, Problem> {
    match text {
        "replay" => Ok("replay"),
        "cancel" => Ok("cancel"),
        _ => Err(Problem::new(400, "BadAction", "the form names no known action")),
    }
}

fn confirm_selected(change: &ChangeRequest, action: &str, ids: &[(&str, &str)], found: &[Delivery]) -> Page {
    let ChangeRequest { page, form } = change;
    let origin = form.get("return");
    let number = plural(ids.len() as u64, "delivery", "deliveries");
    let (title, verb, class) = match action {
        "replay" => (format!("Replay {number}?"), "Replay", "primary"),
        _ => (format!("Cancel {number}?"), "Cancel them", "danger"),
    };
    let main = html! {
        h1 { (title) }
        p { (effect(action, ids.len() == 1)) }
        form method="post" action=(page.scope.page("deliveries/selected/confirm")) {
            (csrf_field(page.csrf()))
            input type="hidden" name="action" value=(action);
            @if !origin.is_empty() { input type="hidden" name="return" value=(origin); }
            @for (namespace, id) in ids { input type="hidden" name="id" value={ (namespace) "/" (id) }; }
            div.actions {
                button class={ "button " (class) } type="submit" { (verb) " " (number) }
                a.button.quiet href=(origin_or_list(page, origin)) { "Back" }
            }
        }
        section.card {
            h2 { "Selected" }
            @if !found.is_empty() { (deliveries::table(found, &page.scope, Columns { selection: false, hook: true })) }
            @if ids.len() > found.len() { p.hint { (plural((ids.len() - found.len()) as u64, "further delivery", "further deliveries")) "." } }
        }
    };
    confirm_page(title, main)
}

/// Returns the address that a form came from, or that of the list.
fn origin_or_list(page: &PageRequest, origin: &str) -> String {
    match origin {
        "" => page.scope.page("deliveries").to_string(),
        address => local_path(address).to_owned(),
    }
}

fn effect(action: &str, is_one: bool) -> &'static str {
    match (action, is_one) {
        ("replay", true) => {
            "It is sent again, with new attempts. A receiver that accepted it before gets it twice, with the same webhook-id."
        }
        ("replay", false) => {
            "Each is sent again, with new attempts. A receiver that accepted one before gets it twice, with the same webhook-id."
        }
        _ => "Pending deliveries are not sent any more. Others are left as they are.",
    }
}

fn confirm_page(title: String, main: Markup) -> Page {
    Page { id: "confirm", title, section: Section::Deliveries, main, is_live: false }
}

/// Changes the selected deliveries.
pub async fn change_selected(change: ChangeRequest) -> Response {
    let page = match selection(&change.form) {
        Ok((action, ids)) => {
            let mut failed: Vec<(String, Problem)> = Vec::new();
            let total = ids.len();
            for (namespace, id) in ids {
                if let Err(problem) = change_one(&change.page, namespace, id, action).await {
                    failed.push((format!("{namespace}/{id}"), problem));
                }
            }
            // One delivery has a page that shows its result.
            if total == 1 && failed.is_empty() && !change.form.get("return").is_empty() {
                let done = if action == "replay" { "replayed" } else { "cancelled" };
                let target = with_done(local_path(change.form.get("return")), done);
                return change.page.redirect(Ok(target));
            }
            Ok(result_page(&change, action, total, &failed))
        }
        Err(problem) => Err(problem),
    };
    change.page.respond(page)
}

fn result_page(change: &ChangeRequest, action: &str, total: usize, failed: &[(String, Problem)]) -> Page {
    let back = origin_or_list(&change.page, change.form.get("return"));
    let changed = plural((total - failed.len()) as u64, "delivery", "deliveries");
    let title =
        if action == "replay" { format!("{changed} sent again") } else { format!("{changed} cancelled") };
    let main = html! {
        h1 { (title) }
        @if failed.is_empty() {
            (notice("good", "All selected deliveries were changed."))
        } @else {
            (notice("bad", format!("{} could not be changed.", plural(failed.len() as u64, "delivery", "deliveries"))))
            ul { @for (id, problem) in failed.iter().take(50) { li { span.mono { (id) } ": " (problem.detail) } } }
        }
        a.button.primary href=(back) { "Back" }
    };
    confirm_page(title, main)
}

/// Counts the deliveries that match a filter, and offers to change them.
pub async fn matching(request: PageRequest) -> Response {
    let page = match action(request.query.get("action")) {
        Ok(action) => confirm_matching(&request, action).await,
        Err(problem) => Err(problem),
    };
    request.respond(page)
}

async fn confirm_matching(request: &PageRequest, action: &str) -> Result<Page, Problem> {
    let query = &request.query;
    let path = request.scope.api("deliveries").segment(action).query("dryRun", "true");
    let found: DryRun = request.api.post(&path, &filter(query, action, None)).await?;
    let number = match found.is_exact {
        true => plural(found.matching as u64, "delivery", "deliveries"),
        false => format!("more than {} deliveries", count(found.matching as u64)),
    };
    let title = if action == "replay" { format!("Replay {number}?") } else { format!("Cancel {number}?") };
    let target = request.scope.page("deliveries").segment("matching").segment(action);
    let state = state(query, action);
    let back = back(request);
    let main = html! {
        h1 { (title) }
        p { (effect(action, found.matching == 1)) }
        section.card {
            h2 { "Filter" }
            dl.facts {
                (definition("Namespace", request.scope.namespace().unwrap_or_default()))
                (definition("State", state))
                @for name in ["hook", "event", "since", "until"] {
                    @if !query.get(name).is_empty() { (definition(name, query.get(name))) }
                }
            }
        }
        @if found.matching == 0 {
            p { "Nothing matches." }
            a.button href=(back) { "Back" }
        } @else {
            form.stack method="post" action=(target) {
                (csrf_field(request.csrf()))
                @for name in FILTERS {
                    @if !query.get(name).is_empty() { input type="hidden" name=(name) value=(query.get(name)); }
                }
                @if action == "replay" {
                    div.field {
                        label for="rate" { "Deliveries a second" }
                        input #rate type="number" name="rate" value="50" min="1" max="10000" required;
                    }
                }
                div.actions {
                    button class={ "button " (if action == "replay" { "primary" } else { "danger" }) } type="submit" {
                        @if action == "replay" { "Replay " } @else { "Cancel " } (number)
                    }
                    a.button.quiet href=(back) { "Back" }
                }
            }
        }
    };
    Ok(confirm_page(title, main))
}

/// Returns the address of the list that the page came from, or of one with the same filter.
fn back(request: &PageRequest) -> String {
    if !request.query.get("return").is_empty() {
        return origin_or_list(request, request.query.get("return"));
    }
    let parameters: Vec<(&str, &str)> = FILTERS.iter().map(|name| (*name, request.query.get(name))).collect();
    link(&request.scope, &parameters).to_string()
}

/// Returns the state that a change in bulk selects.
fn state<'a>(form: &'a Form, action: &str) -> &'a str {
    match (form.get("state"), action) {
        (_, "cancel") => "pending",
        ("", _) => "dead",
        (state, _) => state,
    }
}

/// Builds the filter of a change in bulk for the API.
fn filter(form: &Form, action: &str, next: Option<&str>) -> Value {
    let mut body = Map::new();
    for name in ["hook", "event", "since", "until"] {
        if !form.get(name).is_empty() {
            body.insert(name.to_owned(), form.get(name).into());
        }
    }
    body.insert("state".to_owned(), state(form, action).into());
    if let Some(next) = next {
        body.insert("continue".to_owned(), next.into());
    }
    Value::Object(body)
}

/// Starts a replay of all deliveries that match.
pub async fn replay_matching(change: ChangeRequest) -> Response {
    let ChangeRequest { page, form } = change;
    let mut body = filter(&form, "replay", None);
    if let (Some(body), Ok(rate)) = (body.as_object_mut(), form.get("rate").parse::<u32>()) {
        body.insert("rate".to_owned(), rate.into());
    }
    let path = page.scope.api("deliveries").segment("replay");
    let result: Result<Value, Problem> = page.api.post(&path, &body).await;
    audit::record_result(&page.caller, "replay", &described(&page, &form, "replay"), &result);
    page.redirect(result.map(|_| page.scope.page("replays").query("done", "replay-started")))
}

/// Cancels all pending deliveries that match. Stops after a bounded number of requests and says so.
pub async fn cancel_matching(change: ChangeRequest) -> Response {
    let ChangeRequest { page, form } = change;
    let path = page.scope.api("deliveries").segment("cancel");
    let (mut next, mut cancelled) = (None, 0);
    let mut result = Ok(());
    for _ in 0..MAX_CANCELLATIONS {
        match page.api.post::<Cancellation>(&path, &filter(&form, "cancel", next.as_deref())).await {
            Ok(part) => {
                cancelled += part.cancelled;
                next = part.next;
            }
            Err(problem) => result = Err(problem),
        }
        if next.is_none() || result.is_err() {
            break;
        }
    }
    audit::record_result(&page.caller, "cancel", &described(&page, &form, "cancel"), &result);
    let shown = result.map(|()| cancelled_page(&page, cancelled as u64, next.is_some()));
    page.respond(shown)
}

fn cancelled_page(page: &PageRequest, cancelled: u64, is_incomplete: bool) -> Page {
    let title = format!("{} cancelled", plural(cancelled, "delivery", "deliveries"));
    let main = html! {
        h1 { (title) }
        @if is_incomplete { (notice("warn", "More match: cancel again to go on.")) }
        (link_button(&page.scope.page("deliveries"), "Deliveries", "primary"))
    };
    confirm_page(title, main)
}

/// Describes a filter for the audit log.
fn described(page: &PageRequest, form: &Form, action: &str) -> String {
    format!(
        "deliveries of {} with {}",
        page.scope.namespace().unwrap_or_default(),
        filter(form, action, None)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selection_is_bounded_and_valid() {
        let many = format!("action=replay{}", "&id=n/1".repeat(501));
        for (form, reason) in [
            ("action=replay", "NothingSelected"),
            ("action=replay&id=../1&id=x", "NothingSelected"),
            ("action=delete&id=n/1", "BadAction"),
            (many.as_str(), "TooMany"),
        ] {
            assert_eq!(selection(&Form::parse(form.as_bytes())).unwrap_err().reason, reason);
        }
        let form = Form::parse(b"action=cancel&id=n/1&id=m/2");
        assert_eq!(selection(&form).unwrap(), ("cancel", vec![("n", "1"), ("m", "2")]));
    }

    #[test]
    fn filter_never_replays_delivered_ones_unasked() {
        let form = Form::parse(b"hook=h&since=1h&rate=5");
        assert_eq!(filter(&form, "replay", None), json!({"hook": "h", "since": "1h", "state": "dead"}));
        assert_eq!(
            filter(&form, "cancel", Some("t")),
            json!({"hook": "h", "since": "1h", "state": "pending", "continue": "t"})
        );
        let form = Form::parse(b"state=delivered");
        assert_eq!(filter(&form, "replay", None), json!({"state": "delivered"}));
    }
}
