//! The hooks of a namespace, listed and shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use serde_json::{Value, json};

use super::{Api, OfHook, RESOURCE, shape};
use crate::cluster::Access;
use crate::worker::problem::Problem;
use crate::worker::request::InPath;

/// The sizes of a page, as Kong has them.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

pub async fn list(
    State(api): State<Arc<Api>>,
    InPath(namespace): InPath<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    api.may(&headers, Access::new(&namespace, "list", RESOURCE)).await?;
    let (size, offset) = page(uri.query())?;
    let mut hooks: Vec<Value> =
        api.hooks(&namespace).iter().filter_map(|hook| hook.0.as_ref().ok()).map(shape::shown).collect();
    let id = |hook: &Value| hook.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    hooks.sort_by_key(id);
    if let Some(offset) = offset {
        hooks.retain(|hook| id(hook) > offset);
    }
    let more = hooks.len() > size;
    hooks.truncate(size);
    let Some(last) = hooks.last().filter(|_| more).map(id) else {
        return Ok(Json(json!({"data": hooks, "next": null})));
    };
    let next = format!("/kong/{namespace}/event-hooks?offset={last}&size={size}");
    Ok(Json(json!({"data": hooks, "next": next, "offset": last})))
}

/// `size` and `offset`; what Kong does not know it does not refuse.
fn page(query: Option<&str>) -> Result<(usize, Option<String>), Problem> {
    let (mut size, mut offset) = (PAGE, None);
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "size" => {
                size = value.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n)).ok_or_else(|| {
                    Problem::new(400, "InvalidQuery", format!("size must be 1 to {MAX_PAGE}"))
                })?;
            }
            "offset" => offset = Some(value.into_owned()),
            _ => {}
        }
    }
    Ok((size, offset))
}

pub async fn show(
    State(api): State<Arc<Api>>,
    InPath(of): InPath<OfHook>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    api.may(&headers, Access::new(&of.namespace, "list", RESOURCE)).await?;
    let hook = api.hook(&of)?;
    Ok(Json(hook.0.as_ref().map(shape::shown).unwrap_or_default()))
}
