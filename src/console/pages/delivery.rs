//! A delivery: its attempts as a timeline, the last request and response, and what happens next.

use axum::response::Response;
use maud::{Markup, html};

use super::event::{host_of, replay_form};
use super::receiver::Receiver;
use super::verdict::{class_of, describe, shown_state};
use crate::console::model::{Attempt, Delivery, Exchange, Explanation, Header, Hold, KeptBody};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::PageRequest;
use crate::console::rights::{Right, Rights};
use crate::console::view::{
    Page, Section, attempt_result, command, copy_button, definition, duration, elapsed, hint, icon,
    json_viewer, plural, post_form, prose, state_pill, time, verdict_icon,
};

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let path = request.scope.api("deliveries").segment(request.parameter("id"));
    let (delivery, has_payload): (Delivery, bool) = request.api.get_with_payload(&path).await?;
    // It explains every delivery of the event, so it is read only where it is shown.
    let explanation = match needs_explanation(&delivery) {
        true => explanation(request, &delivery).await,
        false => None,
    };
    let receiver = match delivery.state.as_str() {
        "dead" => Receiver::read(request, &delivery).await,
        _ => None,
    };
    let host = match delivery.last_exchange.as_ref().and_then(|exchange| host(&exchange.request.url)) {
        Some(host) => Some(host),
        None => match &receiver {
            Some(receiver) => receiver.host(),
            None => host_of(request, &delivery.hook).await,
        },
    };
    let rights = Rights::read(request).await;
    let own = request.scope.page("deliveries").segment(&delivery.id);
    let sentence = describe(&delivery, host.as_deref());
    let class = class_of(&delivery);
    let main = html! {
        p.crumbs { a href=(request.scope.page("deliveries")) { "Deliveries" } " / " span.mono { (delivery.id) } }
        div.title {
            (heading(&delivery, &request.scope.event(&delivery.event)))
            (state_pill(shown_state(&delivery)))
            div.actions {
                @let is_pending = delivery.state == "pending";
                @if rights.may(Right::Replay) {
                    (replay_form(request, &delivery, if delivery.state == "dead" { "primary" } else { "" }))
                }
                @if is_pending && rights.may(Right::Cancel) {
                    (post_form(&own.clone().segment("cancel"), request.csrf(), &[], "Cancel", "danger"))
                }
            }
        }
        p #verdict class={ "verdict " (class) } {
            (icon(verdict_icon(class)))
            span { (delivery.hook) ": " (prose(&sentence)) "." }
        }
        @if !rights.may(Right::Replay) { (hint(&rights, "Replaying", Right::Replay)) }
        div.grid {
            section.card aria-labelledby="next" {
                h2 #next { "What happens next" }
                (next(&delivery, receiver.as_ref()))
                @if let Some(explanation) = explanation { p.hint { (prose(&explanation)) } }
            }
            section.card aria-labelledby="facts" {
                h2 #facts { "Delivery" }
                dl.facts {
                    (definition("Hook", html! { a href=(request.scope.page("hooks").segment(&delivery.hook)) { (delivery.hook) } }))
                    (definition("Event", html! { a href=(request.scope.event(&delivery.event)) { (delivery.event) } }))
                    (definition("Namespace", &delivery.namespace))
                    (definition("Accepted", time(&delivery.accepted_time)))
                    (definition("Id (webhook-id)", html! { code #delivery-id { (delivery.id) } " " (copy_button("delivery-id", "the id")) }))
                    @if let Some(reason) = &delivery.reason { (definition("Reason", html! { code { (reason) } })) }
                }
            }
        }
        section.card aria-labelledby="attempts" {
            h2 #attempts { "Attempts" }
            (timeline(&delivery))
        }
        (exchange_card(&delivery, has_payload, &rights))
        (payload_card(&delivery, has_payload, &rights))
    };
    Ok(Page {
        id: "delivery",
        title: match &delivery.subject {
            Some(subject) => format!("{} ({subject}) to {}", delivery.event, delivery.hook),
            None => format!("{} to {}", delivery.event, delivery.hook),
        },
        section: Section::Deliveries,
        main,
        is_live: true,
    })
}

/// Names the event, its subject and the hook. People know an order by the event's id or by its subject.
fn heading(delivery: &Delivery, event: &Path) -> Markup {
    html! {
        h1 {
            "Delivery of " a href=(event) { (delivery.event) }
            @if let Some(subject) = &delivery.subject { " (" (subject) ")" }
            " to " (delivery.hook)
        }
    }
}

/// Returns the API's explanation of a delivery, if its event is still kept.
async fn explanation(request: &PageRequest, delivery: &Delivery) -> Option<String> {
    let path = request.scope.api("events").segment(&delivery.event).segment("explain");
    let found: Explanation = request.api.get(&path.query("deliveriesOnly", "true")).await.ok()?;
    let found = found.deliveries.into_iter().find(|found| found.delivery.id == delivery.id)?;
    Some(found.explanation)
}

/// Returns true if the API's explanation says more than the page does: the meaning of a reason.
fn needs_explanation(delivery: &Delivery) -> bool {
    match delivery.state.as_str() {
        "pending" => delivery.held.is_none() && delivery.reason.is_some(),
        "delivered" => false,
        _ => true,
    }
}

/// Shows when a pending delivery is attempted: at its time, or when its hook delivers again.
pub fn next_attempt(delivery: &Delivery) -> Markup {
    html! {
        @match (&delivery.held, &delivery.next_attempt_time) {
            (Some(Hold { next_probe_time: Some(probe), .. }), _) => { (time(probe)) " (probe)" },
            (Some(held), _) => (if held.reason == "Paused" { "when resumed" } else { "when the hook delivers" }),
            (None, Some(next)) => (time(next)),
            (None, None) => {},
        }
    }
}

/// Says what happens next. `receiver`: of a dead delivery, if it is known.
fn next(delivery: &Delivery, receiver: Option<&Receiver>) -> Markup {
    html! {
        @match (delivery.state.as_str(), &delivery.held, &delivery.next_attempt_time) {
            ("pending", Some(held), _) => {
                @match (&held.next_probe_time, held.reason.as_str()) {
                    (Some(probe), _) => p { "The receiver is probed at " (time(probe)) ". The delivery continues when it answers." },
                    (None, "Paused") => p { "It is sent when the hook is resumed." },
                    (None, _) => p { "It continues by itself when the hook delivers again." },
                }
            },
            ("pending", None, Some(at)) => p { "Attempt " (delivery.attempts.len() + 1) " is due at " (time(at)) "." },
            ("pending", None, None) => p { "The next attempt starts when its hook may send." },
            ("delivered", ..) => p { "Nothing: the receiver accepted it." },
            ("dead", ..) => {
                @match receiver {
                    Some(receiver) => {
                        p { "Nothing, unless it is replayed. " (prose(&receiver.outlook(delivery))) }
                        @if let Some(retries) = receiver.retries(delivery) { (retries) }
                    },
                    None => p { "Nothing, unless it is replayed: correct the cause, then replay it." },
                }
            },
            ("dropped", ..) => p { "Nothing: a rule of the hook dropped it. A replay sends it anyway." },
            ("cancelled", ..) => p { "Nothing, unless it is replayed." },
            _ => p { "Unknown." },
        }
    }
}

fn timeline(delivery: &Delivery) -> Markup {
    let mut previous = delivery.accepted_time.as_str();
    let mut steps: Vec<Markup> =
        vec![html! { li { strong { "Accepted" } " " (time(&delivery.accepted_time)) } }];
    for (at, attempt) in delivery.attempts.iter().enumerate() {
        if let Some(wait) = elapsed(previous, &attempt.time) {
            steps.push(html! { li.wait { "waited " (wait) } });
        }
        steps.push(attempt_step(at + 1, attempt));
        previous = &attempt.time;
    }
    let number = delivery.attempts.len();
    if delivery.state == "pending" && (delivery.held.is_some() || delivery.next_attempt_time.is_some()) {
        let (class, due) = if delivery.held.is_some() { ("held", " ") } else { ("busy", " due ") };
        steps.push(
            html! { li class=(class) { strong { "Attempt " (number + 1) } (due) (next_attempt(delivery)) } },
        );
    } else if delivery.state == "dead" && delivery.reason.as_deref() == Some("MaxAttempts") {
        let attempts = plural(u64::try_from(number).unwrap_or(u64::MAX), "attempt", "attempts");
        steps.push(
            html! { li.bad { strong { "Gave up after " (attempts) } " (" code { "retry.maxAttempts" } ")" } },
        );
    } else if delivery.state != "pending" && delivery.state != "delivered" {
        let class = if delivery.state == "dead" { "bad" } else { "" };
        steps.push(html! { li class=(class) { strong { (delivery.state) } @if let Some(reason) = &delivery.reason { " " code { (reason) } } } });
    }
    html! { ol.timeline { @for step in &steps { (step) } } }
}

fn attempt_step(number: usize, attempt: &Attempt) -> Markup {
    let class = if attempt.error.is_none() { "good" } else { "bad" };
    html! {
        li class=(class) {
            strong { "Attempt " (number) ": " (attempt_result(attempt)) }
            span.muted { " in " span.nowrap { (duration(attempt.duration_ms)) } ", " } (time(&attempt.time))
            @if let Some(detail) = &attempt.detail { div.hint { (detail) } }
        }
    }
}

fn exchange_card(delivery: &Delivery, has_payload: bool, rights: &Rights) -> Markup {
    html! {
        section.card.exchange aria-labelledby="exchange" {
            h2 #exchange { "Last request and response" }
            @match (&delivery.last_exchange, has_payload) {
                (_, false) => (hint(rights, "Reading requests and responses", Right::Payload)),
                (None, true) => p.hint {
                    "Not kept. The worker keeps those of failed attempts, or of all with " code { "--keep-responses all" } "."
                },
                (Some(exchange), true) => (exchange_view(exchange)),
            }
        }
    }
}

/// Shows a request and its response.
pub fn exchange_view(exchange: &Exchange) -> Markup {
    let Exchange { request, response } = exchange;
    html! {
        h3 { "Request" }
        p.mono { strong { (request.method) } " " (request.url) }
        (headers(&request.headers))
        (body("request-body", &request.body))
        h3 { "Response" }
        @match response {
            None => p.hint { "There was no response." },
            Some(response) => {
                p.mono { strong { (response.status) } }
                (headers(&response.headers))
                (body("response-body", &response.body))
            },
        }
    }
}

fn headers(headers: &[Header]) -> Markup {
    html! {
        @if !headers.is_empty() {
            dl.headers { @for header in headers { dt { (header.name) } dd { (header.value) } } }
        }
    }
}

fn body(id: &str, body: &KeptBody) -> Markup {
    html! {
        @if body.text.is_empty() {
            p.hint { "No body." }
        } @else {
            (command(id, "the body", &body.text))
            @if body.truncated { p.hint { "The body goes on; its beginning is kept." } }
        }
    }
}

fn payload_card(delivery: &Delivery, has_payload: bool, rights: &Rights) -> Markup {
    html! {
        section.card aria-labelledby="payload" {
            h2 #payload { "Event data" }
            @match (&delivery.data, has_payload) {
                (Some(data), true) => (json_viewer("event-data", data)),
                (None, true) => p.hint { "The data is not kept any more." },
                (_, false) => (hint(rights, "Reading the data", Right::Payload)),
            }
        }
    }
}

/// Returns the host of a URL.
pub fn host(url: &str) -> Option<String> {
    url::Url::parse(url).ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "<script>alert(1)</script>";

    #[test]
    fn hostile_exchange_and_attempts_are_escaped() {
        let delivery: Delivery = serde_json::from_value(json!({
            "id": HOSTILE, "namespace": "n", "event": HOSTILE, "hook": HOSTILE, "state": "dead", "reason": HOSTILE,
            "acceptedTime": HOSTILE, "nextAttemptTime": null, "held": null,
            "attempts": [{"time": HOSTILE, "status": null, "durationMs": 1, "error": HOSTILE, "detail": HOSTILE}],
        }))
        .unwrap();
        let exchange: Exchange = serde_json::from_value(json!({
            "request": {"method": HOSTILE, "url": HOSTILE, "headers": [{"name": HOSTILE, "value": HOSTILE}],
                "body": {"text": HOSTILE, "truncated": true}},
            "response": {"status": 500, "headers": [{"name": HOSTILE, "value": HOSTILE}],
                "body": {"text": HOSTILE, "truncated": false}},
        }))
        .unwrap();
        for markup in [timeline(&delivery), exchange_view(&exchange), next(&delivery, None)] {
            assert!(!markup.into_string().contains("<script"));
        }
        let delivery = Delivery { subject: Some(HOSTILE.to_owned()), ..delivery };
        let heading = heading(&delivery, &Path::new("/console/event").query("id", HOSTILE)).into_string();
        assert!(!heading.contains("<script") && heading.matches("&lt;script").count() == 3, "{heading}");
    }

    #[test]
    fn held_delivery_has_no_time_of_its_own() {
        let held = |reason: &str, probe: Option<&str>| -> Delivery {
            serde_json::from_value(json!({
                "id": "i", "namespace": "n", "event": "e", "hook": "h", "state": "pending", "reason": null,
                "acceptedTime": "2026-01-01T00:00:00Z", "nextAttemptTime": "2026-01-01T00:00:00Z", "attempts": [],
                "held": {"reason": reason, "message": "the message", "nextProbeTime": probe},
            }))
            .unwrap()
        };
        let paused = held("Paused", None);
        assert_eq!(next_attempt(&paused).into_string(), "when resumed");
        assert!(timeline(&paused).into_string().contains("Attempt 1</strong> when resumed"));
        // The sentence above has the message already.
        assert!(!next(&paused, None).into_string().contains("the message") && !needs_explanation(&paused));
        let probed = next_attempt(&held("Unreachable", Some("2026-01-01T00:05:00Z"))).into_string();
        assert!(probed.contains("00:05:00 UTC") && probed.ends_with("(probe)"), "{probed}");
    }

    #[test]
    fn timeline_shows_waits_between_attempts() {
        let attempt = |second: u32| {
            json!({"time": format!("2026-01-01T00:00:{second:02}Z"), "status": 503, "durationMs": 30, "error": "Status",
                "detail": null})
        };
        let delivery: Delivery = serde_json::from_value(json!({
            "id": "i", "namespace": "n", "event": "e", "hook": "h", "state": "pending", "reason": null,
            "acceptedTime": "2026-01-01T00:00:00Z", "nextAttemptTime": "2026-01-01T00:01:00Z", "held": null,
            "attempts": [attempt(1), attempt(6)],
        }))
        .unwrap();
        let text = timeline(&delivery).into_string();
        for part in ["waited 1.0 s", "waited 5.0 s", "Attempt 2: 503", "Attempt 3</strong> due"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
