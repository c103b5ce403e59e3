//! The deliveries that were selected in a list.

use axum::response::Response;
use maud::html;

use super::{Action, confirm_page, origin_or_list, repeated};
use crate::console::audit::BulkAction;
use crate::console::form::Form;
use crate::console::model::{Delivery, DryRun};
use crate::console::pages::changes::change_one;
use crate::console::pages::deliveries::{self, Columns};
use crate::console::path::with_done;
use crate::console::problem::Problem;
use crate::console::request::{ChangeRequest, PageRequest, Scope, local_path};
use crate::console::view::{Page, csrf_field, notice, plural};
use crate::core::names::is_namespace;

/// The most deliveries of a selection.
const MAX_SELECTED: usize = 500;
/// The most deliveries of a selection that are shown.
const MAX_SHOWN: usize = 20;
/// The most failures that the result names.
const MAX_FAILURES: usize = 50;

/// Shows what would happen to the selected deliveries.
pub async fn selected(change: ChangeRequest) -> Response {
    let page = match selection(&change.form) {
        Ok((action, ids)) => {
            let found = find_selected(&change.page, action, &ids).await;
            Ok(confirm(&change, action, &ids, &found))
        }
        Err(problem) => Err(problem),
    };
    change.page.respond(page)
}

/// What is known of the selected deliveries.
struct Found {
    /// The first of them, without those that cannot be read.
    shown: Vec<Delivery>,
    /// Those of all that were delivered.
    delivered: DryRun,
}

/// Reads the selected deliveries: for a replay all of them, because it repeats those that were delivered.
async fn find_selected(page: &PageRequest, action: Action, ids: &[(&str, &str)]) -> Found {
    let mut found = Found { shown: Vec::new(), delivered: DryRun { matching: 0, is_exact: true } };
    let read = if action == Action::Replay { MAX_SELECTED } else { MAX_SHOWN };
    for (namespace, id) in ids.iter().take(read) {
        let path = Scope::of(namespace).api("deliveries").segment(id);
        let Ok(delivery): Result<Delivery, Problem> = page.api.get(&path).await else {
            found.delivered.is_exact = false;
            continue;
        };
        found.delivered.matching += usize::from(delivery.state == "delivered");
        if found.shown.len() < MAX_SHOWN {
            found.shown.push(delivery);
        }
    }
    found
}

/// An action, and the namespaces and ids of deliveries.
type Selection<'a> = (Action, Vec<(&'a str, &'a str)>);

fn selection(form: &Form) -> Result<Selection<'_>, Problem> {
    let action = Action::parse(form.get("action"))?;
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

fn confirm(change: &ChangeRequest, action: Action, ids: &[(&str, &str)], found: &Found) -> Page {
    let Found { shown, delivered } = found;
    let ChangeRequest { page, form } = change;
    let origin = form.get("return");
    let number = plural(ids.len() as u64, "delivery", "deliveries");
    let title = format!("{} {number}?", action.verb());
    let main = html! {
        h1 { (title) }
        p { (action.effect(ids.len() == 1)) }
        (repeated(action, *delivered))
        form method="post" action=(page.scope.page("deliveries/selected/confirm")) {
            (csrf_field(page.csrf()))
            input type="hidden" name="action" value=(action.name());
            @if !origin.is_empty() { input type="hidden" name="return" value=(origin); }
            @for (namespace, id) in ids { input type="hidden" name="id" value={ (namespace) "/" (id) }; }
            div.actions {
                button class={ "button " (action.class(*delivered)) } type="submit" { (action.verb()) " " (number) }
                a.button.quiet href=(origin_or_list(page, origin)) { "Back" }
            }
        }
        section.card {
            h2 { "Selected" }
            @if !shown.is_empty() { (deliveries::table(shown, &page.scope, Columns { selection: false, hook: true })) }
            @if ids.len() > shown.len() { p.hint { (plural((ids.len() - shown.len()) as u64, "further delivery", "further deliveries")) "." } }
        }
    };
    confirm_page(title, main)
}

/// Changes the selected deliveries.
pub async fn change_selected(change: ChangeRequest) -> Response {
    let (action, ids) = match selection(&change.form) {
        Ok(selection) => selection,
        Err(problem) => return change.page.respond(Err(problem)),
    };
    let mut failed: Vec<(String, Problem)> = Vec::new();
    let total = ids.len();
    // One delivery has a line of its own.
    let object = format!("{total} selected deliveries");
    let mut audit = (total > 1).then(|| BulkAction::begin(&change.page.caller, action.name(), &object));
    for (namespace, id) in ids {
        match change_one(&change.page, namespace, id, action.name()).await {
            Ok(()) => audit.iter_mut().for_each(|audit| audit.add_changed(1)),
            Err(problem) => {
                audit.iter_mut().for_each(BulkAction::add_failed);
                failed.push((format!("{namespace}/{id}"), problem));
            }
        }
    }
    if let Some(audit) = audit {
        audit.end(failed.first().map(|(_, problem)| problem));
    }
    // One delivery has a page that shows its result.
    if total == 1 && failed.is_empty() && !change.form.get("return").is_empty() {
        let done = if action == Action::Replay { "replayed" } else { "cancelled" };
        return change.page.redirect(Ok(with_done(local_path(change.form.get("return")), done)));
    }
    change.page.respond(Ok(result_page(&change, action, total, &failed)))
}

fn result_page(change: &ChangeRequest, action: Action, total: usize, failed: &[(String, Problem)]) -> Page {
    let back = origin_or_list(&change.page, change.form.get("return"));
    let changed = plural((total - failed.len()) as u64, "delivery", "deliveries");
    let title = match action {
        Action::Replay => format!("{changed} replayed"),
        Action::Cancel => format!("{changed} cancelled"),
    };
    let main = html! {
        h1 { (title) }
        @if failed.is_empty() {
            (notice("good", "All selected deliveries were changed."))
        } @else {
            (notice("bad", format!("{} could not be changed.", plural(failed.len() as u64, "delivery", "deliveries"))))
            ul { @for (id, problem) in failed.iter().take(MAX_FAILURES) { li { span.mono { (id) } ": " (problem.detail) } } }
            @if failed.len() > MAX_FAILURES { p.hint { (failed.len() - MAX_FAILURES) " more." } }
        }
        a.button.primary href=(back) { "Back" }
    };
    confirm_page(title, main)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(selection(&form).unwrap(), (Action::Cancel, vec![("n", "1"), ("m", "2")]));
    }
}
