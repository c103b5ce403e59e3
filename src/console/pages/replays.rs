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
        replay.left = count_left(request, replay).await;
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

/// Counts the deliveries that still match a running replay. None: they cannot be counted at the moment.
async fn count_left(request: &PageRequest, replay: &Replay) -> Option<DryRun> {
    let filter = json!({"hook": replay.hook, "state": replay.state, "event": replay.event, "since": replay.since,
        "until": replay.until});
    let path = Scope::of(&replay.namespace).api("deliveries").segment("replay").query("dryRun", "true");
    request.api.post(&path, &filter).await.ok()
}

/// Returns all deliveries of a running replay: those that it replayed, and those that still match.
fn total(replay: &Replay, left: DryRun) -> u64 {
    replay.replayed.saturating_add(left.matching as u64)
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
                            td data-label="Time left" { @if let Some((left, is_exact)) = time_left(replay) { (if is_exact { "about " } else { "more than " }) (duration(left)) } }
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
        @match replay.left.filter(|left| total(replay, *left) > 0) {
            Some(left) if left.is_exact => {
                progress value=(replay.replayed) max=(total(replay, left)) aria-label="Progress" {}
                div { (count(replay.replayed)) " of " (count(total(replay, left))) }
            },
            // The total is unknown, so a bar would be wrong.
            Some(left) => { (count(replay.replayed)) " of more than " (count(total(replay, left))) },
            None => (count(replay.replayed)),
        }
    }
}

/// Returns the estimated time to the end in milliseconds, and false if it is longer.
fn time_left(replay: &Replay) -> Option<(u64, bool)> {
    let left = replay.left.filter(|left| left.matching > 0 && state(replay) == "running")?;
    Some(((left.matching as u64).saturating_mul(1000) / u64::from(replay.rate.max(1)), left.is_exact))
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
            let left = DryRun { matching: 500, is_exact: true };
            Replay { left: Some(left), ..serde_json::from_value(value).unwrap() }
        };
        assert_eq!(time_left(&replay(json!({}))), Some((10_000, true)));
        assert_eq!(time_left(&Replay { left: None, ..replay(json!({})) }), None);
        assert!(progress(&replay(json!({}))).into_string().contains("100 of 600"));
        let many = DryRun { matching: 10_000, is_exact: false };
        let many = Replay { left: Some(many), ..replay(json!({"replayed": 0})) };
        assert_eq!(progress(&many).into_string(), "0 of more than 10,000");
        assert_eq!(time_left(&many), Some((200_000, false)));
        assert_eq!(time_left(&replay(json!({"cancelled": true}))), None);
        assert_eq!(state(&replay(json!({"done": true}))), "done");
        assert_eq!(selection(&replay(json!({"hook": "h"}))), "state dead, hook h");
    }
}
