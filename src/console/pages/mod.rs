//! A file for each page: its handler and its view.

mod bulk;
mod catalogue;
mod changes;
mod connections;
mod dead_letters;
mod deliveries;
mod delivery;
mod event;
mod events;
mod hook;
mod hook_test;
mod hooks;
mod object_actions;
mod overview;
mod receiver;
mod replays;
mod search;
mod send;
mod verdict;

use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};

use super::Console;
use super::problem::Problem;
use super::request::PageRequest;

/// Builds the routes of all pages.
pub fn routes() -> Router<Arc<Console>> {
    let router = Router::new()
        .route("/console/", get(overview::show))
        .route("/console/namespaces/{namespace}", get(overview::show))
        .route("/console/go", get(search::go))
        .route("/console/{*rest}", get(not_found).post(not_found));
    // Pages of one namespace and of all.
    let of_scopes: [(&str, MethodRouter<Arc<Console>>); 9] = [
        ("hooks", get(hooks::show)),
        ("events", get(events::show)),
        ("deliveries", get(deliveries::show)),
        ("deliveries/selected", post(bulk::selected)),
        ("deliveries/selected/confirm", post(bulk::change_selected)),
        ("replays", get(replays::show)),
        ("connections", get(connections::show)),
        ("catalogue", get(catalogue::show)),
        ("search", get(search::search)),
    ];
    let router = of_scopes.into_iter().fold(router, |router, (path, handler)| {
        router
            .route(&format!("/console/{path}"), handler.clone())
            .route(&format!("/console/namespaces/{{namespace}}/{path}"), handler)
    });
    // Pages of one namespace.
    let of_namespace: [(&str, MethodRouter<Arc<Console>>); 12] = [
        ("hooks/{name}", get(hook::show)),
        ("hooks/{name}/test", get(hook_test::show).post(hook_test::run)),
        ("hooks/{name}/ping", post(hook_test::ping)),
        ("event", get(event::show)),
        ("send", get(send::show).post(send::send)),
        ("deliveries/{id}", get(delivery::show)),
        ("deliveries/{id}/replay", post(changes::replay)),
        ("deliveries/{id}/cancel", post(changes::cancel)),
        ("deliveries/matching", get(bulk::matching)),
        ("deliveries/matching/replay", post(bulk::replay_matching)),
        ("deliveries/matching/cancel", post(bulk::cancel_matching)),
        ("replays/{id}/cancel", post(replays::cancel)),
    ];
    let router = of_namespace.into_iter().fold(router, |router, (path, handler)| {
        router.route(&format!("/console/namespaces/{{namespace}}/{path}"), handler)
    });
    router.method_not_allowed_fallback(not_allowed)
}

async fn not_allowed(request: PageRequest) -> Response {
    request.respond(Err(Problem::new(
        405,
        "MethodNotAllowed",
        "this address is a form's target: open the page and use its buttons",
    )))
}

async fn not_found(request: PageRequest) -> Response {
    // The loopback proxy handles these itself.
    let detail = match request.address.starts_with("/console/-/") {
        true => "only `hookstream console` changes objects, with your kubeconfig",
        false => "the console has no such page",
    };
    request.respond(Err(Problem::not_found(detail)))
}
