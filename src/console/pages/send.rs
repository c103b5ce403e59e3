//! Sends a test event to the worker's own ingest port.

use axum::response::Response;
use maud::html;
use serde_json::{Value, json};

use crate::console::audit;
use crate::console::client::ApiClient;
use crate::console::form::Form;
use crate::console::model::Published;
use crate::console::problem::Problem;
use crate::console::request::{ChangeRequest, PageRequest};
use crate::console::rights::{Right, Rights};
use crate::console::view::{Page, Section, csrf_field, hint, link_button, notice};

/// Shows the form.
pub async fn show(request: PageRequest) -> Response {
    let rights = Rights::read(&request).await;
    let page = page(&request, &request.query, &rights, None);
    request.respond(Ok(page))
}

/// Sends the event and opens its page.
pub async fn send(change: ChangeRequest) -> Response {
    let ChangeRequest { page: request, form } = change;
    match publish(&request, &form).await {
        Ok(id) => request.redirect(Ok(request.scope.event(&id).query("done", "sent"))),
        Err(problem) => {
            let rights = Rights::read(&request).await;
            let page = page(&request, &form, &rights, Some(&problem));
            request.respond(Ok(page))
        }
    }
}

async fn publish(request: &PageRequest, form: &Form) -> Result<String, Problem> {
    let event = event(form)?;
    let router = request.console.ingest.get().cloned().ok_or_else(|| {
        Problem::new(503, "NotOpen", "the ingest port is not open yet: try again in a moment")
    })?;
    let ingest = ApiClient::new(router, request.caller.token());
    let result: Result<Published, Problem> = ingest.post(&request.scope.api("events"), &event).await;
    let namespace = request.scope.namespace().unwrap_or_default();
    let object = format!("event of source {} in {namespace}", form.get("source"));
    audit::record_result(&request.caller, "send", &object, &result);
    result.map(|published| published.id)
}

/// Builds the event of the form.
fn event(form: &Form) -> Result<Value, Problem> {
    let data = form.data()?;
    let mut event = json!({"source": form.get("source"), "event": form.get("event"), "data": data});
    if let (Some(event), id) = (event.as_object_mut(), form.get("id"))
        && !id.is_empty()
    {
        event.insert("id".to_owned(), id.into());
    }
    Ok(event)
}

fn page(request: &PageRequest, form: &Form, rights: &Rights, problem: Option<&Problem>) -> Page {
    let namespace = request.scope.namespace().unwrap_or_default();
    let field = |name: &'static str| form.get(name);
    let main = html! {
        p.crumbs { a href=(request.scope.page("events")) { "Events" } }
        div.title { h1 { "Send a test event" } span.muted { "to " (namespace) } }
        @if let Some(problem) = problem { (notice("bad", &problem.detail)) }
        @if rights.may(Right::Publish) {
            form.stack method="post" action=(request.scope.page("send")) {
                (csrf_field(request.csrf()))
                div.field { label for="source" { "Source" } input #source name="source" value=(field("source")) required maxlength="256"; }
                div.field { label for="event" { "Event" } input #event name="event" value=(field("event")) required maxlength="256"; }
                div.field {
                    label for="id" { "Id (optional: a second event with the same id is a duplicate)" }
                    input #id name="id" value=(field("id")) maxlength="512";
                }
                div.field {
                    label for="data" { "Data (JSON)" }
                    textarea #data name="data" spellcheck="false" { (if field("data").is_empty() { "{}" } else { field("data") }) }
                }
                p.hint { "It is delivered to every hook that matches, as any other event." }
                div.actions { button.button.primary type="submit" { "Send" } (link_button(&request.scope.page("events"), "Back", "quiet")) }
            }
        } @else {
            (hint(rights, "Sending an event", Right::Publish))
        }
    };
    Page { id: "send", title: "Send a test event".to_owned(), section: Section::Events, main, is_live: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_the_event_of_the_form() {
        let form = Form::parse(b"source=s&event=e&id=&data=%7B%22n%22%3A1%7D");
        assert_eq!(event(&form).unwrap(), json!({"source": "s", "event": "e", "data": {"n": 1}}));
        assert_eq!(event(&Form::parse(b"id=7")).unwrap()["id"], "7");
        assert_eq!(event(&Form::parse(b"data=x")).unwrap_err().reason, "BadData");
    }
}
