//! The search of every page, and the choice of a namespace.

use axum::response::Response;
use maud::html;
use uuid::Uuid;

use super::events::{link, table};
use crate::console::ROOT;
use crate::console::model::{Delivery, Event, List};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, Scope, local_path};
use crate::console::rights::Right;
use crate::console::view::{Page, Section, empty};
use crate::core::names::{NAMESPACE_RULE, is_namespace, is_object_name};

/// The most events of a search.
const MAX_FOUND: &str = "20";

/// Opens the page of another namespace that corresponds to the present one.
pub async fn go(request: PageRequest) -> Response {
    let namespace = request.query.get("namespace");
    if !namespace.is_empty() && !is_namespace(namespace) {
        let detail = format!("the name of a namespace {NAMESPACE_RULE}");
        return request.respond(Err(Problem::new(400, "BadNamespace", detail)));
    }
    let section = section_of(local_path(request.query.get("from")));
    request.redirect(Ok(Scope::of(namespace).page(section)))
}

/// Returns the list that a page belongs to: another namespace has the same lists, but not the same objects.
fn section_of(address: &str) -> &'static str {
    let path = address.split('?').next().unwrap_or_default();
    let mut parts = path.strip_prefix(ROOT).unwrap_or_default().split('/');
    let section = match parts.next() {
        Some("namespaces") => parts.nth(1),
        other => other,
    };
    let lists = ["hooks", "events", "deliveries", "replays", "connections", "catalogue"];
    lists.into_iter().find(|list| section == Some(list)).unwrap_or_default()
}

/// What a search found.
enum Found {
    Page(Path),
    Events(Hits),
}

/// The events that have a text.
struct Hits {
    /// What was looked for: the entered text, or a word of it.
    text: String,
    list: List<Event>,
    /// True if the data was searched too.
    with_data: bool,
}

/// Searches for an event, a delivery or a hook. Opens what is the only result.
pub async fn search(request: PageRequest) -> Response {
    match find(&request).await {
        Ok(Found::Page(path)) => request.redirect(Ok(path)),
        Ok(Found::Events(found)) => request.respond(Ok(results(&request, &found))),
        Err(problem) => request.respond(Err(problem)),
    }
}

async fn find(request: &PageRequest) -> Result<Found, Problem> {
    let (text, scope) = (request.query.get("q"), &request.scope);
    if text.is_empty() {
        return Ok(Found::Page(scope.page("events")));
    }
    let mut first = None;
    for text in candidates(text) {
        match find_text(request, &text).await? {
            Found::Events(hits) if hits.list.items.is_empty() => first = first.or(Some(hits)),
            found => return Ok(found),
        }
    }
    let none =
        || Hits { text: text.to_owned(), list: List { items: Vec::new(), next: None }, with_data: false };
    Ok(Found::Events(first.unwrap_or_else(none)))
}

/// Returns what to look for, in this order: the text, the text without the marks of a number or a sentence (`#4711`), and its
/// last word, preferably one with a digit: `order 4711`.
fn candidates(text: &str) -> Vec<String> {
    let marks = |c: char| c.is_ascii_punctuation();
    let words = text.split_whitespace().map(|word| word.trim_matches(marks)).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let has_digit = |word: &&&str| word.bytes().any(|byte| byte.is_ascii_digit());
    let word = words.iter().rev().find(has_digit).or(words.last()).copied();
    let mut candidates = vec![text.to_owned()];
    for candidate in [words.join(" "), word.unwrap_or_default().to_owned()] {
        if !candidate.is_empty() && !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
    }
    candidates
}

async fn find_text(request: &PageRequest, text: &str) -> Result<Found, Problem> {
    let scope = &request.scope;
    if let Some(path) = find_exact(request, text).await? {
        return Ok(Found::Page(path));
    }
    // With the data if the user may read it, for an order number that is no id.
    let by_text = scope.api("events").query("text", text).query("limit", MAX_FOUND);
    let mut with_data = true;
    let mut found: List<Event> = match request.api.get(&by_text.clone().query("payload", "true")).await {
        Err(problem) if problem.is_forbidden() => {
            with_data = false;
            request.api.get(&by_text).await?
        }
        other => other?,
    };
    if found.items.is_empty() && found.next.is_none() {
        for (name, is_possible) in [("hook", is_object_name(text)), ("source", true), ("event", true)] {
            let path = scope.api("events").query(name, text).query("limit", MAX_FOUND);
            if is_possible {
                found = request.api.get(&path).await?;
            }
            if !found.items.is_empty() {
                return Ok(Found::Page(scope.page("events").query(name, text)));
            }
        }
    }
    match found.items.as_slice() {
        [only] if found.next.is_none() => Ok(Found::Page(link(only))),
        _ => Ok(Found::Events(Hits { text: text.to_owned(), list: found, with_data })),
    }
}

/// Finds an event or a delivery by its id. Ids are looked up in one namespace.
async fn find_exact(request: &PageRequest, text: &str) -> Result<Option<Path>, Problem> {
    let scope = &request.scope;
    if scope.namespace().is_none() {
        return Ok(None);
    }
    match request.api.get::<Event>(&scope.api("events").segment(text)).await {
        Ok(event) => return Ok(Some(link(&event))),
        Err(problem) if problem.status == 404 => {}
        Err(problem) => return Err(problem),
    }
    if Uuid::parse_str(text).is_ok()
        && let Ok(delivery) = request.api.get::<Delivery>(&scope.api("deliveries").segment(text)).await
    {
        return Ok(Some(scope.page("deliveries").segment(&delivery.id)));
    }
    Ok(None)
}

fn results(request: &PageRequest, hits: &Hits) -> Page {
    let Hits { text: used, list: found, with_data } = hits;
    let text = request.query.get("q");
    let all = request.scope.page("events").query("text", used);
    let all = if *with_data { all.query("data", "1") } else { all };
    let main = html! {
        div.title { h1 { "Search: " (text) } }
        @if found.items.is_empty() {
            (empty("Nothing found", html! {
                @if *with_data {
                    p { "No event has this text in its id or its data, and no hook, source or event has this name." }
                } @else {
                    p { "No event has this text in its id, and no hook, source or event has this name. You may not search the data of events: "
                        "that needs the role " code { (Right::Payload.role()) } "." }
                }
                @if request.scope.namespace().is_some() { p { "Is it the right namespace? " a href=(Scope::of("").page("search").query("q", text)) { "Search all namespaces" } } }
                p { a href=(all) { "Search the events step by step" } }
            }))
        } @else {
            @if used != text { p.hint { "Nothing has the whole text. These events have “" (used) "”." } }
            (table(&found.items, &request.scope))
            @if found.next.is_some() { p { a.button href=(all) { "All events with this text" } } }
        }
    };
    Page { id: "search", title: format!("Search: {text}"), section: Section::Events, main, is_live: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_falls_back_to_the_number_in_the_text() {
        for (text, want) in [
            ("4711", &["4711"][..]),
            ("#4711", &["#4711", "4711"][..]),
            ("order 4711", &["order 4711", "4711"][..]),
            ("4711 order?", &["4711 order?", "4711 order", "4711"][..]),
            ("new order", &["new order", "order"][..]),
            ("a/b ?&#%2F", &["a/b ?&#%2F", "a/b 2F", "2F"][..]),
            ("???", &["???"][..]),
        ] {
            assert_eq!(candidates(text), want, "{text}");
        }
    }

    #[test]
    fn another_namespace_shows_the_same_list() {
        for (address, want) in [
            ("/console/", ""),
            ("/console/events?text=a", "events"),
            ("/console/namespaces/shop", ""),
            ("/console/namespaces/shop/hooks", "hooks"),
            ("/console/namespaces/shop/hooks/orders", "hooks"),
            ("/console/namespaces/shop/send", ""),
        ] {
            assert_eq!(section_of(address), want, "{address}");
        }
    }
}
