//! Changes of one delivery.

use axum::response::Response;
use serde::de::IgnoredAny;

use crate::console::audit;
use crate::console::path::{Path, with_done};
use crate::console::problem::Problem;
use crate::console::request::{ChangeRequest, PageRequest, local_path};

/// Replays a delivery, or attempts a pending one now.
pub async fn replay(change: ChangeRequest) -> Response {
    let result = change_delivery(&change.page, "replay").await;
    change.page.redirect(result.map(|()| target(&change, "replayed")))
}

/// Cancels a pending delivery.
pub async fn cancel(change: ChangeRequest) -> Response {
    let result = change_delivery(&change.page, "cancel").await;
    change.page.redirect(result.map(|()| target(&change, "cancelled")))
}

async fn change_delivery(page: &PageRequest, action: &'static str) -> Result<(), Problem> {
    let id = page.parameter("id");
    let namespace = page.scope.namespace().unwrap_or_default();
    change_one(page, namespace, id, action).await
}

/// Changes a delivery and records it.
pub async fn change_one(
    page: &PageRequest,
    namespace: &str,
    id: &str,
    action: &'static str,
) -> Result<(), Problem> {
    let path =
        Path::new("/v1/namespaces").segment(namespace).segment("deliveries").segment(id).segment(action);
    let result: Result<IgnoredAny, Problem> = page.api.post(&path, &serde_json::json!({})).await;
    audit::record_result(&page.caller, action, &format!("delivery {namespace}/{id}"), &result);
    result.map(drop)
}

/// Returns the page to show after the change: the one that the form names, or the delivery's own.
fn target(change: &ChangeRequest, done: &str) -> Path {
    let own = change.page.scope.page("deliveries").segment(change.page.parameter("id"));
    match change.form.get("return") {
        "" => own.query("done", done),
        address => with_done(local_path(address), done),
    }
}
