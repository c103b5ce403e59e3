//! `GET .../sources`: the catalogue of sources and events, and those that hooks of the namespace name.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::{HeaderMap, Uri};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Permission;
use crate::core::auth0_events;
use crate::core::catalogue::SOURCES;
use crate::core::catalogue_samples;
use crate::worker::api::listing;
use crate::worker::api::query;
use crate::worker::api::state::{ApiState, RESOURCE};
use crate::worker::problem::HttpProblem;
use crate::worker::request::ValidPath;

/// The source of Auth0's events in specs.
const AUTH0: &str = "auth0";
/// The most events that only hooks name.
const MAX_NAMED: usize = 1000;

/// Sources and their events, sorted by name.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceListResponse {
    items: Vec<SourceResponse>,
    /// True if hooks name more than 1,000 events that no catalogue has: the others are missing here.
    truncated: bool,
}

/// A source and its events.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SourceResponse {
    source: String,
    /// `kong` or `auth0`: the catalogue that has it. Null: only hooks name it.
    catalogue: Option<&'static str>,
    /// The hooks of the namespace that name the source and no event: they receive every event.
    hooks: usize,
    events: Vec<SourceEventResponse>,
}

/// An event of a source.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SourceEventResponse {
    event: String,
    description: Option<&'static str>,
    /// The members of its data. Empty: not documented.
    fields: Vec<&'static str>,
    /// The fields that identify the subject of an event.
    unique: Vec<&'static str>,
    /// Sample data. Null: not known.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    sample: Option<Value>,
    /// The hooks of the namespace that name it.
    hooks: usize,
}

type Events = BTreeMap<String, SourceEventResponse>;

pub async fn list(
    State(api): State<Arc<ApiState>>,
    ValidPath(namespace): ValidPath<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<SourceListResponse>, HttpProblem> {
    api.authorize(&headers, Permission::new(&namespace, "list", RESOURCE)).await?;
    query::reject_parameters(uri.query())?;
    let listed = namespace.clone();
    listing::build(&listed, move || build_list(&api, &namespace)).await.map(Json)
}

fn build_list(api: &ApiState, namespace: &str) -> SourceListResponse {
    let mut sources = known_sources();
    let (mut named, mut truncated) = (0, false);
    api.hook_table.read(|table| {
        table.visit_selectors(namespace, |selector, count| {
            let (source, event) = (selector.source(), selector.event());
            let known = sources.get_mut(source).and_then(|(_, hooks, events)| match event {
                None => Some(hooks),
                Some(event) => events.get_mut(event).map(|event| &mut event.hooks),
            });
            if let Some(hooks) = known {
                *hooks += count;
                return;
            }
            if named >= MAX_NAMED {
                truncated = true;
                return;
            }
            named += 1;
            let (_, hooks, events) =
                sources.entry(source.to_owned()).or_insert_with(|| (None, 0, Events::new()));
            match event {
                None => *hooks += count,
                Some(event) => {
                    let new = || SourceEventResponse { event: event.to_owned(), ..Default::default() };
                    events.entry(event.to_owned()).or_insert_with(new).hooks += count;
                }
            }
        });
    });
    let items = sources.into_iter().map(|(source, (catalogue, hooks, events))| SourceResponse {
        source,
        catalogue,
        hooks,
        events: events.into_values().collect(),
    });
    SourceListResponse { items: items.collect(), truncated }
}

/// Returns the sources of the catalogues, with the number of hooks that name no event: none yet.
fn known_sources() -> BTreeMap<String, (Option<&'static str>, usize, Events)> {
    let kong = SOURCES.iter().map(|source| {
        let events = source.events.iter().map(|event| {
            let shown = SourceEventResponse {
                event: event.name.to_owned(),
                description: event.description,
                fields: event.fields.to_vec(),
                unique: event.unique.to_vec(),
                sample: catalogue_samples::sample_data(source.name, event),
                hooks: 0,
            };
            (event.name.to_owned(), shown)
        });
        (source.name.to_owned(), (Some("kong"), 0, events.collect()))
    });
    let auth0 = auth0_events::KNOWN_TYPES.iter().map(|name| {
        let sample = Some(auth0_events::sample_data(name));
        let event = SourceEventResponse {
            event: (*name).to_owned(),
            fields: vec!["object"],
            sample,
            ..Default::default()
        };
        ((*name).to_owned(), event)
    });
    let auth0 = (AUTH0.to_owned(), (Some("auth0"), 0, auth0.collect()));
    kong.chain([auth0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_has_kong_and_auth0_with_samples() {
        let sources = known_sources();
        assert_eq!(sources.len(), SOURCES.len() + 1);
        let (catalogue, _, events) = &sources["auth0"];
        assert_eq!(*catalogue, Some("auth0"));
        assert!(events["user.created"].sample.as_ref().unwrap()["object"]["user_id"].is_string());
        let (_, _, events) = &sources["crud"];
        assert_eq!(events["routes"].sample.as_ref().unwrap()["schema"], "routes");
    }
}
