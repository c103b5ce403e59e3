//! Sources, their events with fields and samples, and a filter to try on a stored event.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::json;

use crate::console::model::{FilterPart, FilterResult, Source, SourceEvent, SourceList};
use crate::console::problem::Problem;
use crate::console::request::PageRequest;
use crate::console::rights::{Right, Rights};
use crate::console::view::{
    Page, Section, copy_button, empty, hint, icon, notice, plural, state_pill, verdict_icon,
};

pub async fn show(request: PageRequest) -> Response {
    request.respond(page(&request).await)
}

async fn page(request: &PageRequest) -> Result<Page, Problem> {
    let main = match request.scope.namespace() {
        None => html! {
            div.title { h1 { "Catalogue" } }
            (empty("Choose a namespace", html! { p { "The catalogue shows the sources of one namespace: enter its name above." } }))
        },
        Some(_) => of_namespace(request).await?,
    };
    Ok(Page {
        id: "catalogue",
        title: "Catalogue".to_owned(),
        section: Section::Catalogue,
        main,
        is_live: false,
    })
}

async fn of_namespace(request: &PageRequest) -> Result<Markup, Problem> {
    let found: SourceList = request.api.get(&request.scope.api("sources")).await?;
    let rights = Rights::read(request).await;
    let result = try_filter(request).await;
    Ok(html! {
        div.title { h1 { "Catalogue" } }
        (filter_card(request, &rights, result.as_ref()))
        @if found.items.is_empty() {
            (empty("No sources", html! { p { "A source appears here when a hook names it." } }))
        }
        @for source in sorted(&found.items) { (source_view(request, source)) }
        @if found.truncated { p.hint { "More events are named by hooks than are shown." } }
    })
}

/// Sorts the sources that hooks of the namespace receive to the front.
fn sorted(sources: &[Source]) -> Vec<&Source> {
    let is_used = |source: &Source| source.hooks > 0 || source.events.iter().any(|event| event.hooks > 0);
    let mut sorted: Vec<&Source> = sources.iter().collect();
    sorted.sort_by_key(|source| !is_used(source));
    sorted
}

/// Evaluates the filter of the query, if there is one.
async fn try_filter(request: &PageRequest) -> Option<Result<FilterResult, Problem>> {
    let (filter, event) = (request.query.get("filter"), request.query.get("event"));
    if filter.is_empty() || event.is_empty() {
        return None;
    }
    let path = request.scope.api("events").segment(event).segment("filter");
    Some(request.api.post(&path, &json!({"filter": filter})).await)
}

fn filter_card(
    request: &PageRequest,
    rights: &Rights,
    result: Option<&Result<FilterResult, Problem>>,
) -> Markup {
    let query = &request.query;
    html! {
        section.card aria-labelledby="try" {
            h2 #try { "Try a filter" }
            @if rights.may(Right::Payload) {
                form.stack method="get" action=(request.scope.page("catalogue")) {
                    div.field {
                        label for="f-event" { "Id of a stored event" }
                        input #f-event name="event" value=(query.get("event")) maxlength="512" required;
                    }
                    div.field {
                        label for="f-filter" { "Filter (CEL)" }
                        input.mono #f-filter name="filter" value=(query.get("filter")) placeholder="data.total > 100" spellcheck="false" required;
                    }
                    div.actions { button.button.primary type="submit" { "Evaluate" } }
                }
            } @else {
                (hint(rights, "Trying a filter", Right::Payload))
            }
            @match result {
                Some(Ok(result)) => (filter_view(result)),
                Some(Err(problem)) => (notice("bad", &problem.detail)),
                None => {},
            }
        }
    }
}

/// Shows the result of a filter with that of each part.
pub fn filter_view(result: &FilterResult) -> Markup {
    let (class, text) = match result.verdict.as_str() {
        "accepts" => ("good", "The filter accepts the event."),
        "rejects" => ("off", "The filter rejects the event."),
        "undecided" => {
            ("warn", "The filter cannot be evaluated on the event: a delivery would stay pending.")
        }
        _ => ("bad", "The filter is not valid."),
    };
    html! {
        p class={ "verdict " (class) } role="status" {
            (icon(verdict_icon(class)))
            span {
                (text)
                @if let Some(error) = &result.error { " " (error) }
                @if let (Some(line), Some(column)) = (result.line, result.column) { " Line " (line) ", column " (column) "." }
            }
        }
        @if result.parts.len() > 1 {
            div.table.cards {
                table {
                    thead { tr { th { "Part" } th { "Result" } } }
                    tbody { @for part in &result.parts { (part_row(part)) } }
                }
            }
        }
    }
}

fn part_row(part: &FilterPart) -> Markup {
    html! {
        tr {
            td.wide data-label="Part" { code { (" · ".repeat(part.depth)) (part.expression) } }
            td data-label="Result" {
                @match (part.result, &part.error) {
                    (Some(true), _) => (state_pill("true")),
                    (Some(false), _) => (state_pill("false")),
                    (None, Some(error)) => (error),
                    (None, None) => {},
                }
            }
        }
    }
}

fn source_view(request: &PageRequest, source: &Source) -> Markup {
    html! {
        section.card {
            h2 {
                (source.source) " "
                span.muted {
                    @match &source.catalogue {
                        Some(catalogue) if *catalogue == source.source => "catalogue",
                        Some(catalogue) => (catalogue),
                        None => "named by hooks",
                    }
                    @if source.hooks > 0 { ", " (plural(source.hooks, "hook receives", "hooks receive")) " every event" }
                }
            }
            div.source-events { @for event in &source.events { (event_view(request, source, event)) } }
        }
    }
}

fn event_view(request: &PageRequest, source: &Source, event: &SourceEvent) -> Markup {
    let id = format!("sample-{}-{}", source.source, event.event);
    let sample = event.sample.as_ref().and_then(|sample| serde_json::to_string_pretty(sample).ok());
    let send = request.scope.page("send").query("source", &source.source).query("event", &event.event);
    html! {
        details {
            summary {
                strong { (event.event) }
                @if event.hooks > 0 { " " span.muted { (plural(event.hooks, "hook", "hooks")) } }
            }
            @if let Some(description) = &event.description { p { (description) } }
            @if !event.fields.is_empty() {
                p { "Fields: " @for (at, field) in event.fields.iter().enumerate() { @if at > 0 { ", " } code { (field) } } }
            }
            @if !event.unique.is_empty() {
                p { "Identified by: " @for (at, field) in event.unique.iter().enumerate() { @if at > 0 { ", " } code { (field) } } }
            }
            @if let Some(sample) = &sample {
                pre tabindex="0" { code id=(id) { (sample) } }
                (copy_button(&id, "the sample"))
            }
            p {
                a href=(request.scope.page("events").query("source", &source.source).query("event", &event.event)) { "Events" }
                " · "
                a href=(request.scope.page("hooks").query("source", &source.source)) { "Hooks" }
                @if source.catalogue.is_none() { " · " a href=(send) { "Send a test event" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hostile_filters_are_escaped() {
        let hostile = "<script>alert(1)</script>";
        let result: FilterResult = serde_json::from_value(json!({"filter": hostile, "verdict": "invalid", "error": hostile,
            "line": 1, "column": 2, "parts": [{"depth": 1, "expression": hostile, "result": null, "error": hostile},
            {"depth": 0, "expression": hostile, "result": true, "error": null}]}))
        .unwrap();
        let text = filter_view(&result).into_string();
        assert!(!text.contains("<script") && text.contains("Line 1, column 2."), "{text}");
    }
}
