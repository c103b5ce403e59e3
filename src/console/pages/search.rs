//! The search of every page, and the choice of a namespace.

use axum::response::Response;
use futures::future::try_join_all;
use maud::{Markup, html};
use uuid::Uuid;

use super::events::{link, table};
use super::hooks;
use crate::console::ROOT;
use crate::console::model::{Delivery, Event, Hook, HookList, List};
use crate::console::path::Path;
use crate::console::problem::Problem;
use crate::console::request::{PageRequest, Scope, local_path};
use crate::console::rights::{Right, Rights};
use crate::console::view::{Page, Section, empty, hint, time};
use crate::core::names::{NAMESPACE_RULE, is_namespace, is_object_name};

/// The most events of a search.
const MAX_FOUND: &str = "20";
/// The most hooks of a search.
const MAX_HOOKS: &str = "20";

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
    Results(Box<Hits>),
}

/// The events and the hooks that have a text.
struct Hits {
    /// What was looked for: the entered text, or a word of it.
    text: String,
    events: List<Event>,
    /// True if the data was searched too.
    with_data: bool,
    /// When the oldest examined event was accepted. None: all events were examined, or it is unknown.
    examined_back_to: Option<String>,
    /// True if the search of a longer part of the text ended early.
    is_after_unfinished: bool,
    hooks: Vec<Hook>,
}

/// Searches for an event, a delivery or a hook. Opens what is the only result.
pub async fn search(request: PageRequest) -> Response {
    match find(&request).await {
        Ok(Found::Page(path)) => request.redirect(Ok(path)),
        Ok(Found::Results(found)) => {
            let rights = Rights::read(&request).await;
            request.respond(Ok(results(&request, &found, &rights)))
        }
        Err(problem) => request.respond(Err(problem)),
    }
}

async fn find(request: &PageRequest) -> Result<Found, Problem> {
    let (text, scope) = (request.query.get("q"), &request.scope);
    if text.is_empty() {
        return Ok(Found::Page(scope.page("events")));
    }
    let candidates = candidates(text);
    if let Some(path) = find_exact(request, text).await? {
        return Ok(Found::Page(path));
    }
    // At the same time: on a large store each takes as long as one list may.
    let found = try_join_all(candidates.iter().map(|text| find_text(request, text))).await?;
    let (mut nothing, mut unfinished) = (None, None);
    for (at, mut hits) in found.into_iter().enumerate() {
        // A part of the text counts only if nothing has more of it.
        if at > 0
            && let Some(path) = find_exact(request, &hits.text).await?
        {
            return Ok(Found::Page(path));
        }
        hits.is_after_unfinished = unfinished.is_some();
        if !hits.is_empty() {
            return Ok(open_only_result(hits));
        }
        // What ended early can be continued: it does not show that there is nothing.
        match hits.events.next {
            Some(_) => unfinished.get_or_insert(hits),
            None => nothing.get_or_insert(hits),
        };
    }
    // A search of all events found nothing, so the store is small enough to search it for names too.
    if unfinished.is_none() {
        for text in &candidates {
            if let Some(path) = find_name(request, text).await? {
                return Ok(Found::Page(path));
            }
        }
    }
    let Some(mut nothing) = unfinished.or(nothing) else { return Ok(Found::Page(scope.page("events"))) };
    nothing.examined_back_to = examined_back_to(request, nothing.events.next.as_deref()).await;
    Ok(Found::Results(Box::new(nothing)))
}

fn open_only_result(hits: Hits) -> Found {
    let is_complete = hits.events.next.is_none() && !hits.is_after_unfinished;
    match (hits.events.items.as_slice(), hits.hooks.as_slice()) {
        ([only], []) if is_complete => Found::Page(link(only)),
        ([], [only]) if is_complete => Found::Page(hook_page(only)),
        _ => Found::Results(Box::new(hits)),
    }
}

impl Hits {
    fn is_empty(&self) -> bool {
        self.events.items.is_empty() && self.hooks.is_empty()
    }
}

/// Returns when the event at which a list ended was accepted.
async fn examined_back_to(request: &PageRequest, next: Option<&str>) -> Option<String> {
    let path = request.scope.api("events").query("limit", "1").query("continue", next?);
    let found: List<Event> = request.api.get(&path).await.ok()?;
    found.items.into_iter().next().map(|event| event.accepted_time)
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

/// Finds events with a text, and hooks whose names have it.
async fn find_text(request: &PageRequest, text: &str) -> Result<Hits, Problem> {
    let scope = &request.scope;
    // With the data if the user may read it, for an order number that is no id.
    let by_text = scope.api("events").query("text", text).query("limit", MAX_FOUND);
    let mut with_data = true;
    let events: List<Event> = match request.api.get(&by_text.clone().query("payload", "true")).await {
        Err(problem) if problem.is_forbidden() => {
            with_data = false;
            request.api.get(&by_text).await?
        }
        other => other?,
    };
    let hooks = match is_object_name(text) {
        true => {
            let by_name = scope.api("hooks").query("name", text).query("limit", MAX_HOOKS);
            let found: HookList = request.api.get(&by_name).await?;
            exact_or_all(found.items, text)
        }
        false => Vec::new(),
    };
    Ok(Hits {
        text: text.to_owned(),
        events,
        with_data,
        examined_back_to: None,
        is_after_unfinished: false,
        hooks,
    })
}

/// Returns the hooks of this name if there are any: other names that contain it are another's.
fn exact_or_all(hooks: Vec<Hook>, name: &str) -> Vec<Hook> {
    let (exact, others): (Vec<_>, Vec<_>) = hooks.into_iter().partition(|hook| hook.name == name);
    if exact.is_empty() { others } else { exact }
}

/// Finds a source, the name of an event, or a deleted hook with events.
async fn find_name(request: &PageRequest, text: &str) -> Result<Option<Path>, Problem> {
    let scope = &request.scope;
    for (name, is_possible) in [("hook", is_object_name(text)), ("source", true), ("event", true)] {
        let path = scope.api("events").query(name, text).query("limit", "1");
        if is_possible && !request.api.get::<List<Event>>(&path).await?.items.is_empty() {
            return Ok(Some(scope.page("events").query(name, text)));
        }
    }
    Ok(None)
}

fn hook_page(hook: &Hook) -> Path {
    Scope::of(&hook.namespace).page("hooks").segment(&hook.name)
}

/// Finds an event or a delivery by its id, or a hook by its name. These are looked up in one namespace.
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
    if is_object_name(text)
        && let Ok(hook) = request.api.get::<Hook>(&scope.api("hooks").segment(text)).await
    {
        return Ok(Some(hook_page(&hook)));
    }
    Ok(None)
}

fn results(request: &PageRequest, hits: &Hits, rights: &Rights) -> Page {
    let Hits { text: used, events, hooks, .. } = hits;
    let text = request.query.get("q");
    let main = html! {
        div.title { h1 { "Search: " (text) } }
        @if hits.is_empty() {
            @match &events.next {
                Some(next) => (nothing_so_far(request, hits, next)),
                None => (nothing(request, hits)),
            }
            @if !hits.with_data { (hint(rights, "Searching the data of events", Right::Payload)) }
        } @else {
            @if used != text {
                p.hint {
                    @if hits.is_after_unfinished { "Nothing with the whole text was found so far" } @else { "Nothing has the whole text" }
                    ". These have “" (used) "”."
                }
            }
            @if !hooks.is_empty() {
                section.card aria-labelledby="hooks" { h2 #hooks { "Hooks" } (hooks::table(hooks, &request.scope)) }
            }
            @if !events.items.is_empty() {
                section.card aria-labelledby="events" { h2 #events { "Events" } (table(&events.items, &request.scope)) }
            }
            @if events.next.is_some() {
                p { a.button href=(all_events(request, hits)) { @if events.items.is_empty() { "Search the events for this text" } @else { "All events with this text" } } }
            }
        }
    };
    Page { id: "search", title: format!("Search: {text}"), section: Section::Events, main, is_live: false }
}

/// Returns the address of the list of events that continues a search.
fn all_events(request: &PageRequest, hits: &Hits) -> Path {
    let all = request.scope.page("events").query("text", &hits.text);
    if hits.with_data { all.query("data", "1") } else { all }
}

/// Says how far a search looked that ended before it found anything.
fn nothing_so_far(request: &PageRequest, hits: &Hits, next: &str) -> Markup {
    empty(
        "Nothing found so far",
        html! {
            p {
                "One request looks at a bounded number of events: this one at those "
                @match &hits.examined_back_to { Some(at) => { "that were accepted since " (time(at)) }, None => "of the last time" }
                ". No hook has this name."
            }
            p { a.button.primary href=(all_events(request, hits).query("continue", next)) { "Search older events" } }
        },
    )
}

fn nothing(request: &PageRequest, hits: &Hits) -> Markup {
    let text = request.query.get("q");
    empty(
        "Nothing found",
        html! {
            @if hits.with_data {
                p { "No event has this text in its id or its data, and no hook, source or event has this name." }
            } @else {
                p { "No event has this text in its id, and no hook, source or event has this name." }
            }
            @if request.scope.namespace().is_some() { p { "Is it the right namespace? " a href=(Scope::of("").page("search").query("q", text)) { "Search all namespaces" } } }
            p { a href=(all_events(request, hits)) { "Search the events step by step" } }
        },
    )
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
