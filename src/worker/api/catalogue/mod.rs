//! What a filter can be written for: the known sources and events with samples, and the result of a filter on a stored
//! event.

mod filter;
mod sources;

use axum::routing::{get, post};

pub use filter::{FilterResultResponse, HIDDEN_VALUE, filter_result};

use super::route::{ApiRoute, schema};

pub fn routes() -> Vec<ApiRoute> {
    vec![
        ApiRoute::get(
            "/v1/namespaces/{namespace}/sources",
            "listSources",
            "List the sources and events of the catalogue and of the namespace's hooks, with fields and samples",
            "list deliveries",
            schema::<sources::SourceListResponse>,
            get(sources::list),
        ),
        ApiRoute::post(
            "/v1/namespaces/{namespace}/events/{event}/filter",
            "tryFilter",
            "Evaluate a filter on the newest event with an id (also get deliveries)",
            "get deliveries/payload",
            schema::<FilterResultResponse>,
            post(filter::evaluate),
        )
        .request::<filter::FilterRequest>(),
    ]
}
