//! Runs a hook once, with a stored event or typed data, and shows the request and the response.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::delivery::exchange_view;
use crate::console::audit;
use crate::console::form::Form;
use crate::console::model::TestResult;
use crate::console::problem::Problem;
use crate::console::request::{ChangeRequest, PageRequest};
use crate::console::rights::{Right, Rights};
use crate::console::view::{Page, Section, csrf_field, duration, hint, icon, link_button, verdict_icon};

/// Shows the form.
pub async fn show(request: PageRequest) -> Response {
    let rights = Rights::read(&request).await;
    let page = page(&request, &request.query, &rights, None);
    request.respond(Ok(page))
}

/// Runs the hook.
pub async fn run(change: ChangeRequest) -> Response {
    let ChangeRequest { page: request, form } = change;
    let rights = Rights::read(&request).await;
    let result = match body(&form) {
        Ok(body) => send(&request, "test", &body).await,
        Err(problem) => Err(problem),
    };
    let page = page(&request, &form, &rights, Some(result));
    request.respond(Ok(page))
}

/// Sends Kong's ping.
pub async fn ping(change: ChangeRequest) -> Response {
    let ChangeRequest { page: request, form } = change;
    let rights = Rights::read(&request).await;
    let result = send(&request, "ping", &json!({})).await;
    let page = page(&request, &form, &rights, Some(result));
    request.respond(Ok(page))
}

async fn send(request: &PageRequest, action: &str, body: &Value) -> Result<TestResult, Problem> {
    let name = request.parameter("name");
    let path = request.scope.api("hooks").segment(name).segment(action);
    let result = request.api.post(&path, body).await;
    let namespace = request.scope.namespace().unwrap_or_default();
    audit::record_result(&request.caller, action, &format!("hook {namespace}/{name}"), &result);
    result
}

/// Builds the API's request from the form.
fn body(form: &Form) -> Result<Value, Problem> {
    if form.get("with") == "event" {
        return match form.get("event") {
            "" => Err(Problem::new(400, "NoEvent", "the id of the stored event is missing")),
            id => Ok(json!({"event": id})),
        };
    }
    let data = form.data()?;
    let name = Some(form.get("name")).filter(|name| !name.is_empty());
    let mut body = json!({"data": data});
    if let (Some(body), Some(name)) = (body.as_object_mut(), name) {
        body.insert("name".to_owned(), name.into());
    }
    Ok(body)
}

fn page(
    request: &PageRequest,
    form: &Form,
    rights: &Rights,
    result: Option<Result<TestResult, Problem>>,
) -> Page {
    let name = request.parameter("name");
    let own = request.scope.page("hooks").segment(name);
    let main = html! {
        p.crumbs { a href=(request.scope.page("hooks")) { "Hooks" } " / " a href=(own) { (name) } }
        div.title { h1 { "Test " (name) } }
        @match &result {
            Some(Ok(result)) => (result_view(result)),
            Some(Err(problem)) => p #verdict.verdict.bad role="alert" {
                (icon(verdict_icon("bad"))) span { (problem.detail) @if let Some(role) = &problem.role { " The role " code { (role) } " has it." } }
            },
            None => p { "The hook is run once, now: its receiver gets the request. Nothing is stored, and its filter does not apply." },
        }
        @if rights.may(Right::Test) { (run_form(request, form, rights)) } @else { (hint(rights, "Testing the hook", Right::Test)) }
    };
    Page { id: "hook-test", title: format!("Test {name}"), section: Section::Hooks, main, is_live: false }
}

fn run_form(request: &PageRequest, form: &Form, rights: &Rights) -> Markup {
    let own = request.scope.page("hooks").segment(request.parameter("name"));
    let with_event = form.get("with") == "event" || (!form.has("with") && !form.get("event").is_empty());
    html! {
        section.card aria-labelledby="form-title" {
            h2 #form-title { "Run it with" }
            form.stack method="post" action=(own.clone().segment("test")) {
                (csrf_field(request.csrf()))
                div.field {
                    label { input type="radio" name="with" value="event" checked[with_event]; " a stored event" }
                    label for="event" { "Event id" }
                    input #event name="event" value=(form.get("event")) maxlength="512";
                    @if !rights.may(Right::Payload) { (hint(rights, "A stored event", Right::Payload)) }
                }
                div.field {
                    label { input type="radio" name="with" value="data" checked[!with_event]; " typed data" }
                    label for="name" { "Event name" }
                    input #name name="name" value=(form.get("name")) maxlength="512" placeholder="the hook's own, or test";
                    label for="data" { "Data (JSON object)" }
                    textarea #data name="data" spellcheck="false" { (if form.get("data").is_empty() { "{}" } else { form.get("data") }) }
                }
                div.actions { button.button.primary type="submit" { "Send the test" } (link_button(&own, "Back", "quiet")) }
            }
        }
    }
}

fn result_view(result: &TestResult) -> Markup {
    let class = if result.delivered { "good" } else { "bad" };
    html! {
        p #verdict class={ "verdict " (class) } role="status" {
            (icon(verdict_icon(class)))
            span {
                @if result.delivered { "The receiver accepted it" } @else { "It was not delivered" }
                @if let Some(status) = result.status { ": status " (status) }
                @if let Some(reason) = &result.reason { " (" (reason) ")" }
                ", in " (duration(result.duration_ms)) "."
                @if let Some(detail) = &result.detail { " " (detail) }
            }
        }
        @if let Some(exchange) = &result.exchange {
            section.card.exchange aria-labelledby="exchange" { h2 #exchange { "Request and response" } (exchange_view(exchange)) }
        }
        @if !result.functions.is_empty() {
            section.card aria-labelledby="functions" {
                h2 #functions { "Functions" }
                @for function in &result.functions {
                    @match (&function.error, &function.result) {
                        (Some(error), _) => p { strong { "failed: " } (error) },
                        (None, Some(value)) => pre tabindex="0" { code { (serde_json::to_string_pretty(value).unwrap_or_default()) } },
                        (None, None) => p { (if function.ok { "ran to its end" } else { "did not run" }) },
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_the_request_of_the_form() {
        let form = |text: &str| body(&Form::parse(text.as_bytes()));
        assert_eq!(form("with=event&event=a%2Fb").unwrap(), json!({"event": "a/b"}));
        assert_eq!(form("with=data&data=&name=").unwrap(), json!({"data": {}}));
        assert_eq!(
            form("with=data&data=%7B%22a%22%3A1%7D&name=n").unwrap(),
            json!({"data": {"a": 1}, "name": "n"})
        );
        assert_eq!(form("with=event").unwrap_err().reason, "NoEvent");
        assert_eq!(form("data=%7B").unwrap_err().reason, "BadData");
    }
}
