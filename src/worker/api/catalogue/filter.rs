//! `POST .../events/{id}/filter`: the result of a filter on a stored event, with that of each part.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::Permission;
use crate::core::event::Event;
use crate::core::filter::{Filter, FilterError, FilterInput, FilterPart};
use crate::worker::api::query;
use crate::worker::api::state::{
    ApiState, EventPath, RESOURCE, event_not_found, read_small_body, store_problem,
};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

/// The error that clients get instead of one with values of the event.
pub const HIDDEN_VALUE: &str =
    "the filter cannot be evaluated on this event; why needs the permission get deliveries/payload";

/// A filter to try.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterRequest {
    /// The CEL expression.
    filter: String,
}

/// The result of a filter on an event.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilterResultResponse {
    /// The expression.
    filter: String,
    verdict: FilterVerdict,
    /// Why the filter is invalid, or why it cannot be evaluated on this event.
    error: Option<String>,
    /// Where the text is invalid, from 1.
    line: Option<usize>,
    column: Option<usize>,
    /// The operands of `&&` and `||`, outermost first, up to 64; a group is followed by its own. Empty if the filter is
    /// invalid.
    parts: Vec<FilterPartResponse>,
}

/// What a filter does with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum FilterVerdict {
    Accepts,
    Rejects,
    /// It fails on this event: the delivery would stay pending.
    Undecided,
    /// It cannot be compiled.
    Invalid,
}

/// An operand of a filter, and its own result.
#[derive(Serialize, JsonSchema)]
struct FilterPartResponse {
    /// The number of groups around it.
    depth: usize,
    /// Truncated to 128 bytes.
    expression: String,
    /// Null if it cannot be evaluated.
    result: Option<bool>,
    error: Option<String>,
}

/// Evaluates a filter on the newest event with an id.
pub async fn evaluate(
    State(api): State<Arc<ApiState>>,
    ValidPath(EventPath { namespace, event }): ValidPath<EventPath>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FilterResultResponse>, HttpProblem> {
    let access = Permission::new(&namespace, "get", RESOURCE);
    api.authorize(&headers, access).await?;
    // A filter can ask for each value of the data.
    api.authorize(&headers, access.with_subresource("payload")).await?;
    query::reject_parameters(uri.query())?;
    let body = read_small_body(&api, &namespace, &headers, body).await?;
    let FilterRequest { filter } = query::parse_body(&body, r#"{"filter": "data.total > 100"}"#)?;
    let found = api.store.explain(&namespace, &event).await.map_err(|error| store_problem(&error))?;
    let found = found.ok_or_else(event_not_found)?;
    // On a blocking thread, because a filter may take milliseconds.
    let result = tokio::task::spawn_blocking(move || try_filter(filter, &found.event)).await;
    result.map(Json).map_err(|_| HttpProblem::new(500, "Failed", "the filter could not be evaluated"))
}

fn try_filter(text: String, event: &Event) -> FilterResultResponse {
    match Filter::compile(&text) {
        Ok(filter) => filter_result(&filter, &FilterInput::new(event)),
        Err(error) => {
            let position = match &error {
                FilterError::Invalid { line, column, .. } => Some((*line, *column)),
                _ => None,
            };
            FilterResultResponse {
                filter: text,
                verdict: FilterVerdict::Invalid,
                error: Some(error.to_string()),
                line: position.map(|(line, _)| line),
                column: position.map(|(_, column)| column),
                parts: Vec::new(),
            }
        }
    }
}

/// Evaluates a filter and each of its parts.
pub fn filter_result(filter: &Filter, input: &FilterInput<'_>) -> FilterResultResponse {
    let (verdict, error) = match filter.matches_input(input) {
        Ok(true) => (FilterVerdict::Accepts, None),
        Ok(false) => (FilterVerdict::Rejects, None),
        Err(error) => (FilterVerdict::Undecided, Some(error.to_string())),
    };
    FilterResultResponse {
        filter: filter.text().to_owned(),
        verdict,
        error,
        line: None,
        column: None,
        parts: filter.evaluate_parts(input).into_iter().map(FilterPartResponse::from).collect(),
    }
}

impl FilterResultResponse {
    /// Removes the errors, which have values of the event.
    pub fn without_values(mut self) -> Self {
        let errors = self.parts.iter_mut().map(|part| &mut part.error).chain([&mut self.error]);
        errors.flatten().for_each(|error| HIDDEN_VALUE.clone_into(error));
        self
    }
}

impl From<FilterPart> for FilterPartResponse {
    fn from(part: FilterPart) -> Self {
        let (result, error) = match part.result {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error.to_string())),
        };
        FilterPartResponse { depth: part.depth, expression: part.expression, result, error }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::worker::index::testing::event;

    #[test]
    fn names_verdict_parts_and_position() {
        let event = event("shop", "paid", json!({"total": 7}));
        let tried = |text: &str| try_filter(text.to_owned(), &event);
        let rejected = tried("data.total > 100 && event == 'paid'");
        assert_eq!(rejected.verdict, FilterVerdict::Rejects);
        let results: Vec<_> = rejected.parts.iter().map(|part| part.result).collect();
        assert_eq!(results, [Some(false), Some(true)]);
        assert_eq!(tried("data.total == 7").verdict, FilterVerdict::Accepts);
        let undecided = tried("data.vip");
        assert_eq!(undecided.verdict, FilterVerdict::Undecided);
        assert!(undecided.error.unwrap().contains("vip"));
        let invalid = tried("data.total >\n> 1");
        assert_eq!((invalid.verdict, invalid.line), (FilterVerdict::Invalid, Some(2)), "{:?}", invalid.error);
        assert_eq!(tried(&"x".repeat(5000)).verdict, FilterVerdict::Invalid);
    }
}
