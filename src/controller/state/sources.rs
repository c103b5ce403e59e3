//! The sources and events of each gateway, cached for ten minutes and shared by all hooks of the gateway.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::admin::kong::KongClient;
use crate::admin::{AdminError, ExternalClient, ListScope, parsed_size};
use crate::core::conditions::cut;
use crate::memory::Reservation;

/// Lifetime of a cached result. The sources of a gateway change only with its plugins, which is rare.
const TIME_TO_LIVE: Duration = Duration::from_secs(600);
/// Time after which a failed query is repeated.
const FAILURE_TIME_TO_LIVE: Duration = Duration::from_secs(30);
/// Maximum number of names in a message.
const MAX_NAMES: usize = 20;

/// The sources of each gateway.
#[derive(Default)]
pub struct SourceCache(Mutex<HashMap<GatewayVersion, (Instant, Arc<CachedResult>)>>);

/// A gateway and its version, because another version may emit other events.
type GatewayVersion = (ListScope, Option<String>);
type CachedResult = OnceCell<SourceQueryResult>;

/// The result of a query for the sources of a gateway.
enum SourceQueryResult {
    Sources {
        sources: Value,
        _memory: Reservation,
    },
    /// The gateway has no such route, or forbids it.
    NotListed,
    /// The query failed, which proves nothing about the sources.
    Failed,
}

/// Whether a gateway emits the events of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceCheck {
    Known,
    /// The gateway does not emit it. The message lists the known names.
    Unknown(String),
    /// The gateway does not list its sources.
    NotListed,
    /// The query failed, so that an earlier result stays valid.
    Unavailable,
}

impl SourceCache {
    /// Checks that the gateway emits `event` (None: any event) of `source`. Concurrent callers share one query.
    pub async fn check(
        &self,
        client: &KongClient,
        version: Option<&str>,
        source: &str,
        event: Option<&str>,
    ) -> SourceCheck {
        let key = (client.list_scope(), version.map(ToOwned::to_owned));
        let cell = {
            let mut all = self.0.lock();
            all.retain(|_, (at, answer)| {
                let failed = matches!(answer.get(), Some(SourceQueryResult::Failed));
                at.elapsed() < if failed { FAILURE_TIME_TO_LIVE } else { TIME_TO_LIVE }
            });
            all.entry(key).or_insert_with(|| (Instant::now(), Arc::default())).1.clone()
        };
        // One query serves a thousand hooks that start together.
        let answer = cell.get_or_init(async || match client.sources().await {
            Ok(sources) => match parsed_size(sources.to_string().as_bytes()).map(|size| size as u64) {
                Ok(size) => match client.memory().reserve(size) {
                    Ok(memory) => SourceQueryResult::Sources { sources, _memory: memory },
                    Err(_) => SourceQueryResult::Failed,
                },
                Err(_) => SourceQueryResult::Failed,
            },
            Err(AdminError::NotFound(_) | AdminError::Forbidden(_)) => SourceQueryResult::NotListed,
            Err(error) => {
                tracing::debug!(%error, "query of the gateway's sources failed");
                SourceQueryResult::Failed
            }
        });
        match answer.await {
            SourceQueryResult::Sources { sources, .. } => find(sources, source, event),
            SourceQueryResult::NotListed => SourceCheck::NotListed,
            SourceQueryResult::Failed => SourceCheck::Unavailable,
        }
    }
}

fn find(sources: &Value, source: &str, event: Option<&str>) -> SourceCheck {
    let Some(events) = sources.get(source) else {
        return SourceCheck::Unknown(format!(
            "the gateway does not list the source {source}, so the hook may never fire; it lists {}",
            list_names(sources)
        ));
    };
    match event {
        Some(event) if events.get(event).is_none() => SourceCheck::Unknown(format!(
            "the gateway does not list the event {event} of the source {source}, so the hook may never fire; it lists {}",
            list_names(events)
        )),
        _ => SourceCheck::Known,
    }
}

fn list_names(map: &Value) -> String {
    let all: Vec<&str> = map.as_object().into_iter().flatten().map(|(name, _)| cut(name, 64)).collect();
    let (listed, more) = all.split_at(all.len().min(MAX_NAMES));
    let rest = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("{}{rest}", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::kong::KongAccess;
    use crate::admin::testing::{ScriptedServer, raw, reply};
    use serde_json::json;

    fn unknown(sources: &Value, source: &str, event: Option<&str>) -> String {
        match find(sources, source, event) {
            SourceCheck::Unknown(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn message_about_an_unknown_name_lists_the_known_names() {
        let sources =
            json!({"balancer": {"health": {"fields": []}}, "crud": {"consumers": {}, "routes": {}}});
        assert_eq!(find(&sources, "crud", None), SourceCheck::Known);
        assert_eq!(find(&sources, "crud", Some("routes")), SourceCheck::Known);
        let error = unknown(&sources, "crudd", None);
        assert!(error.contains("not list the source crudd") && error.ends_with("balancer, crud"), "{error}");
        let error = unknown(&sources, "crud", Some("route"));
        assert!(
            error.contains("not list the event route of") && error.ends_with("consumers, routes"),
            "{error}"
        );
        let many: Value =
            (0..30).map(|n| (format!("s{n:02}"), json!({}))).collect::<serde_json::Map<_, _>>().into();
        assert!(unknown(&many, "x", None).ends_with("s19 and 10 more"));
    }

    #[tokio::test]
    async fn distinguishes_a_failed_query_from_a_gateway_without_the_route() {
        let all = ["down", "away", "here"].map(|name| async move {
            let server = ScriptedServer::start(move |_| match name {
                "down" => raw(503, &[], ""),
                "away" => reply(404, &[], &json!({"message": "Not found"})),
                _ => reply(200, &[], &json!({"data": {"crud": {"routes": {}}}})),
            })
            .await;
            let client = KongClient::new(KongAccess {
                http: server.client(),
                admin_url: server.base.clone(),
                workspace: None,
                token: None,
                capabilities: Arc::default(),
            });
            let sources = SourceCache::default();
            let first = sources.check(&client, None, "crud", Some("routes")).await;
            assert_eq!(sources.check(&client, None, "crud", Some("routes")).await, first);
            assert_eq!(server.lines().len(), 1, "one query, also if it failed");
            first
        });
        let expected = [SourceCheck::Unavailable, SourceCheck::NotListed, SourceCheck::Known];
        assert_eq!(futures::future::join_all(all).await, expected);
    }
}
