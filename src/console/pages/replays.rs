//! The replays of many deliveries and their progress.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::{Value, json};

use crate::console::audit;
use crate::console::model::{DryRun, List, Replay};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::{ChangeRequest, PageRequest, Scope};
use crate::console::view::{Page, Section, count, duration, empty, post_form, state_pill, time};

/// The running replays whose deliveries are counted for each page.
const MAX_COUNTED: usize = 3;

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let mut found: List<Replay> = request.api.get(&request.scope.api("replays")).await?;
    for replay in found.items.iter_mut().filter(|replay| state(replay) == "running").take(MAX_COUNTED) {
        replay.total = count_total(request, replay).await;
    }
    let main = html! {
        div.title { h1 { "Replays" } }
        @if found.items.is_empty() {
            (empty("No replays of many deliveries", html! {
                p { "Only replays of many deliveries are listed here; the replay of a single one is on its own page." }
                p { "To send many deliveries again, filter the " a href=(request.scope.page("deliveries").query("state", "dead")) { "deliveries" }
                    " and choose “Replay all dead that match…”." }
            }))
        } @else {
            (table(request, &found.items))
        }
    };
    Ok(Page { id: "replays", title: "Replays".to_owned(), section: Section::Replays, main, is_live: true })
}

/// Counts the deliveries of a running replay: those that it replayed, and those that still match. None: too many.
async fn count_total(request: &PageRequest, replay: &Replay) -> Option<u64> {
    let filter = json!({"hook": replay.hook, "state": replay.state, "event": replay.event, "since": replay.since,
        "until": replay.until});
    let path = Scope::of(&replay.namespace).api("deliveries").segment("replay").query("dryRun", "true");
    let left: DryRun = request.api.post(&path, &filter).await.ok()?;
    let left = u64::try_from(left.matching).ok().filter(|_| left.is_exact)?;
    Some(replay.replayed.saturating_add(left))
}

fn table(request: &PageRequest, replays: &[Replay]) -> Markup {
    let with_namespace = request.scope.namespace().is_none();
    html! {
        div.table.cards {
            table {
                thead { tr {
                    th { "State" } th { "Started" }
                    @if with_namespace { th { "Namespace" } }
                    th { "Selects" } th { "Progress" } th.number { "Rate" } th { "Time left" } th { span.visually-hidden { "Actions" } }
                } }
                tbody {
                    @for replay in replays {
                        tr {
                            td data-label="State" { (state_pill(state(replay))) @if let Some(error) = &replay.error { div.hint { (error) } } }
                            td data-label="Started" { (time(&replay.started_time)) }
                            @if with_namespace { td data-label="Namespace" { (replay.namespace) } }
                            td.wide data-label="Selects" { (selection(replay)) }
                            td.wide data-label="Progress" { (progress(replay)) }
                            td.number data-label="Rate" { (replay.rate) "/s" }
                            td data-label="Time left" { @if let Some(left) = time_left(replay) { "about " (duration(left)) } }
                            td data-label="Action" {
                                @if state(replay) == "running" {
                                    @let path = Scope::of(&replay.namespace).page("replays").segment(&replay.id).segment("cancel");
                                    (post_form(&path, request.csrf(), &[("return", &request.address)], "Cancel", "danger"))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn state(replay: &Replay) -> &'static str {
    match replay {
        Replay { error: Some(_), .. } => "failed",
        Replay { cancelled: true, .. } => "cancelled",
        Replay { done: true, .. } => "done",
        _ => "running",
    }
}

fn selection(replay: &Replay) -> String {
    let parts = [
        ("state", &replay.state),
        ("hook", &replay.hook),
        ("event", &replay.event),
        ("since", &replay.since),
        ("until", &replay.until),
    ];
    let given = parts.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)));
    given.collect::<Vec<_>>().join(", ")
}

fn progress(replay: &Replay) -> Markup {
    html! {
        @match replay.total.filter(|total| *total > 0) {
            Some(total) => {
                progress value=(replay.replayed.min(total)) max=(total) aria-label="Progress" {}
                div { (count(replay.replayed)) " of " (count(total)) }
            },
            None => (count(replay.replayed)) ,
        }
    }
}

/// Returns the estimated time to the end in milliseconds.
fn time_left(replay: &Replay) -> Option<u64> {
    let left = replay.total?.checked_sub(replay.replayed).filter(|left| *left > 0)?;
    (state(replay) == "running").then(|| left.saturating_mul(1000) / u64::from(replay.rate.max(1)))
}

/// Cancels a replay.
pub async fn cancel(change: ChangeRequest) -> Response {
    let ChangeRequest { page, .. } = change;
    let id = page.parameter("id");
    let path: Path = page.scope.api("replays").segment(id).segment("cancel");
    let result: Result<Value, Problem> = page.api.post(&path, &json!({})).await;
    audit::record_result(&page.caller, "cancel-replay", &format!("replay {id}"), &result);
    page.redirect(result.map(|_| page.scope.page("replays").query("done", "replay-cancelled")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_the_time_left_of_a_running_replay() {
        let replay = |more: Value| -> Replay {
            let mut value = json!({"id": "i", "namespace": "n", "hook": null, "state": "dead", "event": null, "since": null,
                "until": null, "rate": 50, "startedTime": "2026-01-01T00:00:00Z", "replayed": 100, "done": false,
                "cancelled": false});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Replay { total: Some(600), ..serde_json::from_value(value).unwrap() }
        };
        assert_eq!(time_left(&replay(json!({}))), Some(10_000));
        assert_eq!(time_left(&Replay { total: None, ..replay(json!({})) }), None);
        assert_eq!(time_left(&replay(json!({"cancelled": true}))), None);
        assert_eq!(state(&replay(json!({"done": true}))), "done");
        assert_eq!(selection(&replay(json!({"hook": "h"}))), "state dead, hook h");
    }
}
