//! The table of the API port's routes. The router and the OpenAPI document are built from it, so that neither has a route
//! that the other does not.

use std::sync::LazyLock;

use axum::Json;
use axum::http::header::CONTENT_TYPE;
use axum::routing::{get, post};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::event_query::EVENT_PARAMETERS;
use super::openapi;
use super::query::{CancellationRequest, DELIVERIES_ONLY, DRY_RUN, LIST_PARAMETERS, PAYLOAD, ReplayRequest};
use super::responses::{
    CancellationResponse, DeliveryListResponse, DeliveryResponse, DeliveryStateResponse, DryRunResponse,
    EventListResponse, EventResponse, ExplainResponse, ReplayListResponse, ReplayResponse,
};
use super::route::{ApiRoute, BodySchema, schema};
use super::status::{self, StatusResponse};
use super::{
    cancellations, catalogue, deliveries, events, explain, hooks, kong, objects, rates, replays, rights,
};
use crate::core::version::Version;

const REPLAY: &str = "create deliveries/replay";
const CANCEL: &str = "create deliveries/cancel";

/// Returns the OpenAPI document as JSON text.
pub fn openapi_document() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| openapi::document(routes()));
    &TEXT
}

/// Returns all routes.
pub fn routes() -> Vec<ApiRoute> {
    let mut routes = vec![
        ApiRoute::get(
            "/v1/namespaces/{namespace}/deliveries",
            "listDeliveries",
            "List deliveries, newest first",
            "list deliveries",
            schema::<DeliveryListResponse>,
            get(deliveries::list),
        )
        .parameters(&LIST_PARAMETERS),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/deliveries/replay",
            "startReplay",
            "Replay many deliveries, or count them (200) with dryRun",
            REPLAY,
            replay_or_count,
            post(replays::start),
        )
        .parameters(&DRY_RUN)
        .request::<ReplayRequest>()
        .status(202),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/deliveries/cancel",
            "cancelDeliveries",
            "Cancel up to 500 pending deliveries, or count them with dryRun; repeat it while `continue` is not null",
            CANCEL,
            cancelled_or_counted,
            post(cancellations::cancel),
        )
        .parameters(&DRY_RUN)
        .request::<CancellationRequest>(),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/deliveries/{id}",
            "showDelivery",
            "Show a delivery; with payload also its event's data and its last request and response (get deliveries/payload)",
            "get deliveries",
            schema::<DeliveryResponse>,
            get(deliveries::show),
        )
        .parameters(&PAYLOAD),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/deliveries/{id}/replay",
            "replayDelivery",
            "Replay a delivery",
            REPLAY,
            schema::<DeliveryStateResponse>,
            post(deliveries::replay),
        )
        .status(202),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/deliveries/{id}/cancel",
            "cancelDelivery",
            "Cancel a pending delivery",
            CANCEL,
            schema::<DeliveryStateResponse>,
            post(deliveries::cancel),
        ),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/replays",
            "listReplays",
            "List replays of many deliveries",
            REPLAY,
            schema::<ReplayListResponse>,
            get(replays::list),
        ),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/replays/{id}",
            "showReplay",
            "Show the progress of a replay",
            REPLAY,
            schema::<ReplayResponse>,
            get(replays::progress),
        ),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/replays/{id}/cancel",
            "cancelReplay",
            "Cancel a replay",
            REPLAY,
            schema::<ReplayResponse>,
            post(replays::cancel),
        ),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/events",
            "listEvents",
            "List accepted events, newest first; with payload also their data (get deliveries/payload)",
            "list deliveries",
            schema::<EventListResponse>,
            get(events::list),
        )
        .parameters(&EVENT_PARAMETERS),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/events/{event}",
            "showEvent",
            "Show the newest event with an id; with payload also its data (get deliveries/payload)",
            "get deliveries",
            schema::<EventResponse>,
            get(events::show),
        )
        .parameters(&PAYLOAD),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/events/{event}/explain",
            "explainEvent",
            "Explain an event: each delivery, and why other hooks did not match",
            "get deliveries",
            schema::<ExplainResponse>,
            get(explain::explain),
        )
        .parameters(&DELIVERIES_ONLY),
        ApiRoute::get(
            "/v1/namespaces/{namespace}/status",
            "showStatus",
            "Show what is wrong in a namespace: objects, hooks, backlog, dead letters",
            "list deliveries",
            schema::<StatusResponse>,
            get(status::show),
        ),
        ApiRoute::get(
            "/v1/deliveries",
            "listDeliveriesOfAll",
            "List the deliveries of all namespaces, newest first",
            "list deliveries",
            schema::<DeliveryListResponse>,
            get(deliveries::list),
        )
        .parameters(&LIST_PARAMETERS),
        ApiRoute::get(
            "/v1/events",
            "listEventsOfAll",
            "List the events of all namespaces, newest first; with payload also their data (get deliveries/payload)",
            "list deliveries",
            schema::<EventListResponse>,
            get(events::list),
        )
        .parameters(&EVENT_PARAMETERS),
        ApiRoute::get(
            "/v1/replays",
            "listReplaysOfAll",
            "List replays of many deliveries of all namespaces",
            REPLAY,
            schema::<ReplayListResponse>,
            get(replays::list),
        ),
        ApiRoute::get(
            "/v1/status",
            "showStatusOfAll",
            "Show what is wrong in all namespaces",
            "list deliveries",
            schema::<StatusResponse>,
            get(status::show),
        ),
    ];
    routes.extend(hooks::routes());
    routes.extend(objects::routes());
    routes.extend(rates::routes());
    routes.extend(catalogue::routes());
    routes.extend(rights::routes());
    routes.extend(kong::routes());
    // As at the Kubernetes API server, everybody may read these two.
    routes.extend(
        [
            ApiRoute::get(
                "/version",
                "version",
                "Return the worker's version",
                "",
                schema::<VersionSchema>,
                get(|| async { Json(Version::current()) }),
            ),
            ApiRoute::get(
                "/openapi.json",
                "openapi",
                "Return this document",
                "",
                schema::<serde_json::Map<String, Value>>,
                get(|| async { ([(CONTENT_TYPE, "application/json")], openapi_document()) }),
            ),
        ]
        .map(|route| ApiRoute { right: None, ..route }),
    );
    routes
}

fn replay_or_count(generator: &mut SchemaGenerator) -> Schema {
    one_of(generator, &[schema::<ReplayResponse>, schema::<DryRunResponse>])
}

fn cancelled_or_counted(generator: &mut SchemaGenerator) -> Schema {
    one_of(generator, &[schema::<CancellationResponse>, schema::<DryRunResponse>])
}

fn one_of(generator: &mut SchemaGenerator, schemas: &[BodySchema]) -> Schema {
    let schemas: Vec<Schema> = schemas.iter().map(|schema| schema(generator)).collect();
    schemars::json_schema!({ "oneOf": schemas })
}

/// The worker's version.
#[derive(JsonSchema)]
#[schemars(rename = "Version")]
#[expect(dead_code, reason = "only its schema is used, because core has no schemas")]
pub(super) struct VersionSchema {
    version: String,
    commit: Option<String>,
    date: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// Collects every `$ref` of a document.
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn describes_every_route_and_every_reference_leads_somewhere() {
        let document = openapi::build(routes());
        let paths = document["paths"].as_object().unwrap();
        let all = routes();
        for route in all.iter().filter(|route| !route.is_alias) {
            let method: &str = route.method.into();
            let operation = &paths[route.path][method];
            assert_eq!(operation["operationId"], route.id, "{}", route.path);
            assert!(operation["responses"]["default"].is_object(), "{}", route.path);
        }
        let ids: BTreeSet<_> = all.iter().filter(|route| !route.is_alias).map(|route| route.id).collect();
        assert_eq!(
            ids.len(),
            all.iter().filter(|route| !route.is_alias).count(),
            "an operationId is used twice"
        );
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 10, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        // A response has its nullable members always.
        let delivery = &document["components"]["schemas"]["DeliveryResponse"]["required"];
        assert!(delivery.as_array().unwrap().contains(&json!("nextAttemptTime")), "{delivery}");
        assert!(!delivery.as_array().unwrap().contains(&json!("data")), "{delivery}");
    }
}
