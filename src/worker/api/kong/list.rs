//! Lists the hooks of a namespace, and shows one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use serde_json::{Value, json};

use super::{HookPath, RESOURCE, shape};
use crate::cluster::Permission;
use crate::worker::api::query::Parameter;
use crate::worker::api::state::ApiState;
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

/// The default and the maximum size of a page, as in Kong.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// The parameters of a list.
pub(super) const PARAMETERS: [Parameter; 2] = [
    Parameter::number("size", "The most hooks, 1 to 1000; 100 if it is not given"),
    Parameter::text("offset", "The offset of the last page"),
];

pub async fn list(
    State(api): State<Arc<ApiState>>,
    ValidPath(namespace): ValidPath<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, HttpProblem> {
    api.authorize(&headers, Permission::new(&namespace, "list", RESOURCE)).await?;
    let (size, offset) = parse_page(uri.query())?;
    let mut hooks: Vec<Value> = api
        .readable_hooks(&namespace)
        .iter()
        .filter_map(|hook| hook.0.as_ref().ok())
        .map(shape::kong_hook)
        .collect();
    let id = |hook: &Value| hook.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    hooks.sort_by_key(id);
    if let Some(offset) = offset {
        hooks.retain(|hook| id(hook) > offset);
    }
    let has_more = hooks.len() > size;
    hooks.truncate(size);
    let Some(last) = hooks.last().filter(|_| has_more).map(id) else {
        return Ok(Json(json!({"data": hooks, "next": null})));
    };
    let next = format!("/kong/{namespace}/event-hooks?offset={last}&size={size}");
    Ok(Json(json!({"data": hooks, "next": next, "offset": last})))
}

/// Parses `size` and `offset`. Ignores other parameters, as Kong does.
fn parse_page(query: Option<&str>) -> Result<(usize, Option<String>), HttpProblem> {
    let (mut size, mut offset) = (DEFAULT_PAGE, None);
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "size" => {
                size = value.parse().ok().filter(|n| (1..=MAX_PAGE).contains(n)).ok_or_else(|| {
                    HttpProblem::new(400, "InvalidQuery", format!("size must be 1 to {MAX_PAGE}"))
                })?;
            }
            "offset" => offset = Some(value.into_owned()),
            _ => {}
        }
    }
    Ok((size, offset))
}

pub async fn show(
    State(api): State<Arc<ApiState>>,
    ValidPath(path): ValidPath<HookPath>,
    headers: HeaderMap,
) -> Result<Json<Value>, HttpProblem> {
    api.authorize(&headers, Permission::new(&path.namespace, "list", RESOURCE)).await?;
    let hook = api.find_hook(&path)?;
    Ok(Json(hook.0.as_ref().map(shape::kong_hook).unwrap_or_default()))
}
