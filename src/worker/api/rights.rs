//! `GET .../rights`: which permissions of the worker a client has, and which role of the chart has each. So a user interface
//! offers only what is allowed, and says whom to ask for the rest.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use futures::future::try_join_all;
use http::{HeaderMap, Uri};
use schemars::JsonSchema;
use serde::Serialize;

use super::query;
use super::route::{ApiRoute, schema};
use super::scope::ListScope;
use super::state::{ApiState, RESOURCE};
use crate::cluster::{AuthorizationError, Permission};
use crate::worker::problem::HttpProblem;
use crate::worker::request::token;
use crate::worker::store::ALL_NAMESPACES;

/// A permission: verb, resource, subresource, and the role of the chart that has it.
type Right = (&'static str, &'static str, Option<&'static str>, &'static str);

/// All permissions that the worker checks.
const RIGHTS: [Right; 9] = [
    ("list", RESOURCE, None, "deliveries-reader"),
    ("get", RESOURCE, None, "deliveries-reader"),
    ("get", RESOURCE, Some("payload"), "deliveries-payload"),
    ("create", RESOURCE, Some("replay"), "deliveries-operator"),
    ("create", RESOURCE, Some("cancel"), "deliveries-operator"),
    ("create", "events", None, "publisher"),
    ("list", "eventhooks", None, "hooks-tester"),
    ("create", "eventhooks", Some("test"), "hooks-tester"),
    ("create", "eventhooks", Some("ping"), "hooks-tester"),
];

/// Returns the role of the chart, without the release's prefix, that has a permission.
pub fn role_of(permission: &Permission<'_>) -> Option<&'static str> {
    let wanted = (permission.verb, permission.resource, permission.subresource);
    let right =
        RIGHTS.iter().find(|(verb, resource, subresource, _)| (*verb, *resource, *subresource) == wanted);
    right.map(|(.., role)| *role)
}

pub fn routes() -> Vec<ApiRoute> {
    let all = |path, id, summary| ApiRoute {
        right: None,
        ..ApiRoute::get(path, id, summary, "", schema::<RightsResponse>, get(show))
    };
    vec![
        all(
            "/v1/rights",
            "showRightsInAll",
            "Show which rights the client has in all namespaces; needs a token, and no right",
        ),
        all(
            "/v1/namespaces/{namespace}/rights",
            "showRights",
            "Show which rights the client has; needs a token, and no right",
        ),
    ]
}

/// The rights of a client.
#[derive(Serialize, JsonSchema)]
struct RightsResponse {
    /// Null: in all namespaces.
    namespace: Option<String>,
    rights: Vec<RightResponse>,
}

/// A right, and whether the client has it.
#[derive(Serialize, JsonSchema)]
struct RightResponse {
    /// As in `x-hookstream-right` of the routes: `create deliveries/replay`.
    right: String,
    allowed: bool,
    /// The role of the chart that has it, without the release's name: `deliveries-operator` is the ClusterRole
    /// `RELEASE-deliveries-operator`.
    role: &'static str,
}

async fn show(
    State(api): State<Arc<ApiState>>,
    ListScope(scope): ListScope,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<RightsResponse>, HttpProblem> {
    let reviews = RIGHTS.into_iter().map(|right| review(&api, &headers, &scope, right));
    let rights = try_join_all(reviews).await?;
    query::reject_parameters(uri.query())?;
    let namespace = (scope != ALL_NAMESPACES).then_some(scope);
    Ok(Json(RightsResponse { namespace, rights }))
}

async fn review(
    api: &ApiState,
    headers: &HeaderMap,
    scope: &str,
    (verb, resource, subresource, role): Right,
) -> Result<RightResponse, HttpProblem> {
    let permission = Permission { subresource, ..Permission::new(scope, verb, resource) };
    let allowed = match api.cluster.authorize(token(headers), permission).await {
        Ok(()) => true,
        Err(AuthorizationError::Forbidden) => false,
        Err(error) => return Err(error.into()),
    };
    let subresource = subresource.map(|subresource| format!("/{subresource}")).unwrap_or_default();
    Ok(RightResponse { right: format!("{verb} {resource}{subresource}"), allowed, role })
}

#[cfg(test)]
mod tests {
    use super::super::routes::routes;
    use super::*;

    #[test]
    fn every_right_of_a_route_is_listed_with_a_role_of_the_chart() {
        let chart = include_str!("../../../charts/hookstream/templates/user-roles.yaml");
        let listed: Vec<String> = RIGHTS
            .into_iter()
            .map(|(verb, resource, subresource, role)| {
                assert!(chart.contains(&format!("\"{role}\"")), "{role}");
                let resource =
                    [Some(resource), subresource].into_iter().flatten().collect::<Vec<_>>().join("/");
                format!("{verb} {resource}")
            })
            .collect();
        for right in routes().iter().filter_map(|route| route.right) {
            assert!(listed.iter().any(|listed| listed == right), "{right}");
        }
    }
}
