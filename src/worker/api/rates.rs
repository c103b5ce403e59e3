//! `GET .../rates`: what this worker accepted and delivered in each minute of the last hour.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use http::{HeaderMap, Uri};
use schemars::JsonSchema;
use serde::Serialize;

use super::query;
use super::route::{ApiRoute, schema};
use super::scope::ListScope;
use super::state::{ApiState, RESOURCE};
use crate::cluster::Permission;
use crate::core::time::Millis;
use crate::metrics::Rates;
use crate::worker::problem::HttpProblem;
use crate::worker::store::ALL_NAMESPACES;

pub fn routes() -> Vec<ApiRoute> {
    let all = |path, id, summary| {
        ApiRoute::get(path, id, summary, "list deliveries", schema::<RatesResponse>, get(show))
    };
    vec![
        all(
            "/v1/rates",
            "showRatesOfAll",
            "Show the rates of this worker in the last hour, of all namespaces",
        ),
        all(
            "/v1/namespaces/{namespace}/rates",
            "showRates",
            "Show the rates of this worker in the last hour",
        ),
    ]
}

/// The rates of this worker in the last hour. Another worker has its own; the starts of their minutes are equal.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RatesResponse {
    time: String,
    /// The last 60 minutes, oldest first. The last one has not ended.
    minutes: Vec<MinuteResponse>,
    /// All of them together.
    hour: MinuteResponse,
    /// False if the namespace is not counted, because more than 256 others had events within the hour.
    counted: bool,
}

/// What happened in a minute, or in an hour.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct MinuteResponse {
    /// When it began.
    time: String,
    /// Accepted events, without duplicates.
    accepted: u64,
    /// Attempts that succeeded.
    delivered: u64,
    /// Attempts that failed.
    failed: u64,
    /// Deliveries that died.
    dead: u64,
    /// The 99th percentile of the duration of accepted requests at the ingest port. Null without one.
    accept_p99_ms: Option<f64>,
    /// The 99th percentile of the duration of attempts. Null without one.
    attempt_p99_ms: Option<f64>,
}

async fn show(
    State(api): State<Arc<ApiState>>,
    ListScope(scope): ListScope,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<RatesResponse>, HttpProblem> {
    api.authorize_list(&headers, Permission::new(&scope, "list", RESOURCE)).await?;
    query::reject_parameters(uri.query())?;
    let now = Millis::wall();
    let namespace = Some(&*scope).filter(|scope| *scope != ALL_NAMESPACES);
    let found = api.metrics.rates.last_hour(namespace, now);
    Ok(Json(RatesResponse {
        time: now.rfc3339(),
        minutes: found.minutes.into_iter().map(MinuteResponse::from).collect(),
        hour: found.hour.into(),
        counted: found.is_counted,
    }))
}

impl From<Rates> for MinuteResponse {
    fn from(rates: Rates) -> Self {
        let Rates { start, accepted, delivered, failed, dead, accept_p99, attempt_p99 } = rates;
        MinuteResponse {
            time: start.rfc3339(),
            accepted,
            delivered,
            failed,
            dead,
            accept_p99_ms: accept_p99,
            attempt_p99_ms: attempt_p99,
        }
    }
}
