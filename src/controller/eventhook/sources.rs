//! Whether the gateway knows the source and event: a warning, for plugins emit their own, and which are loaded where is
//! not to be known from here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::admin::kong::KongClient;
use crate::admin::{AdminError, ExternalClient, Scope};
use crate::controller::reconcile::Vendor;
use crate::core::conditions::{condition, cut};
use crate::core::hook::Hook;
use crate::core::time::Millis;

const CONDITION: &str = "SourceKnown";
/// What a gateway emits changes with its plugins, which is seldom.
const KEPT: Duration = Duration::from_secs(600);
/// A gateway that could not be asked is asked again after this time.
const AGAIN: Duration = Duration::from_secs(30);
/// Named in a message.
const NAMED: usize = 20;

/// What each gateway emits, as told a while ago.
#[derive(Default)]
pub struct Sources(Mutex<HashMap<Asked, (Instant, Arc<Told>)>>);

/// Which gateway, of which version.
type Asked = (Scope, Option<String>);
type Told = OnceCell<Heard>;

/// What came of asking.
enum Heard {
    Sources(Value),
    /// It does not tell.
    Nothing,
    /// It could not be asked, which says nothing of what it knows.
    Failed,
}

impl Sources {
    /// Looks the hook's source and event up. None: nobody knows now. Some(None): the gateway does not tell what it emits.
    /// Ok: it knows them.
    pub async fn check(
        &self,
        vendor: &Vendor<KongClient>,
        hook: &Hook,
    ) -> Option<Option<Result<(), String>>> {
        let version = vendor.connection.status.as_ref().and_then(|s| s.version.clone());
        let key = (vendor.client.scope(), version);
        let cell = {
            let mut all = self.0.lock();
            all.retain(|_, (at, told)| {
                let kept = if matches!(told.get(), Some(Heard::Failed)) { AGAIN } else { KEPT };
                at.elapsed() < kept
            });
            all.entry(key).or_insert_with(|| (Instant::now(), Arc::default())).1.clone()
        };
        // A thousand hooks that start together ask once.
        let told = cell.get_or_init(async || {
            match vendor.client.sources().await {
                Ok(sources) => Heard::Sources(sources),
                // It has no such path, or may not show it.
                Err(error) if error.is_gone() || matches!(error, AdminError::Forbidden(_)) => Heard::Nothing,
                Err(error) => {
                    tracing::debug!(%error, "the gateway's sources could not be asked for");
                    Heard::Failed
                }
            }
        });
        match told.await {
            Heard::Sources(sources) => Some(Some(judge(sources, &hook.source, hook.event.as_deref()))),
            Heard::Nothing => Some(None),
            Heard::Failed => None,
        }
    }
}

fn judge(sources: &Value, source: &str, event: Option<&str>) -> Result<(), String> {
    let Some(events) = sources.get(source) else {
        return Err(format!(
            "the gateway knows no source {source}, so that the hook may never fire; it knows {}",
            names(sources)
        ));
    };
    match event {
        Some(event) if events.get(event).is_none() => Err(format!(
            "the gateway knows no event {event} of the source {source}, so that the hook may never fire; it knows {}",
            names(events)
        )),
        _ => Ok(()),
    }
}

fn names(map: &Value) -> String {
    let all: Vec<&str> = map.as_object().into_iter().flatten().map(|(name, _)| cut(name, 64)).collect();
    let (named, more) = all.split_at(all.len().min(NAMED));
    let rest = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    format!("{}{rest}", named.join(", "))
}

/// Puts the condition in; where the gateway does not tell, there is none.
pub fn report(conditions: &mut Vec<Condition>, known: Option<Result<(), String>>, generation: Option<i64>) {
    let before = conditions.iter().position(|c| c.type_ == CONDITION).map(|at| conditions.remove(at));
    let (status, reason, message) = match known {
        None => return,
        Some(Ok(())) => ("True", "Known", "the gateway emits these events".to_owned()),
        Some(Err(message)) => ("False", "Unknown", message),
    };
    let told = (reason, message.as_str());
    conditions.push(condition(before.as_ref(), CONDITION, status, told, generation, Millis::now()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Access;
    use crate::admin::kong::KongAccess;
    use crate::admin::testing::{Server, raw, reply};
    use serde_json::json;

    #[test]
    fn what_the_gateway_does_not_know_is_told_with_what_it_knows() {
        let sources =
            json!({"balancer": {"health": {"fields": []}}, "crud": {"consumers": {}, "routes": {}}});
        assert_eq!(judge(&sources, "crud", None), Ok(()));
        assert_eq!(judge(&sources, "crud", Some("routes")), Ok(()));
        let error = judge(&sources, "crudd", None).unwrap_err();
        assert!(error.contains("no source crudd") && error.ends_with("balancer, crud"), "{error}");
        let error = judge(&sources, "crud", Some("route")).unwrap_err();
        assert!(error.contains("no event route of") && error.ends_with("consumers, routes"), "{error}");
        let many: Value =
            (0..30).map(|n| (format!("s{n:02}"), json!({}))).collect::<serde_json::Map<_, _>>().into();
        assert!(judge(&many, "x", None).unwrap_err().ends_with("s19 and 10 more"));
    }

    #[tokio::test]
    async fn a_gateway_that_cannot_be_asked_is_not_one_that_does_not_tell() {
        let all = ["down", "away", "here"].map(|name| async move {
            let server = Server::start(move |_| match name {
                "down" => raw(503, &[], ""),
                "away" => reply(404, &[], &json!({"message": "Not found"})),
                _ => reply(200, &[], &json!({"data": {"crud": {"routes": {}}}})),
            })
            .await;
            let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
                "metadata": {"name": "h", "namespace": "n"},
                "spec": {"source": "crud", "event": "routes", "connectionRef": {"name": "c"},
                    "handler": {"webhook": {"url": "https://e/"}}}});
            let hook = crate::core::hook::validate(&serde_json::from_value(object).unwrap()).unwrap();
            let (token, learned) = (None, Arc::default());
            let access = KongAccess {
                http: server.client(),
                admin_url: server.base.clone(),
                workspace: None,
                token,
                learned,
            };
            let connection = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "Connection",
                "metadata": {"name": "c"}, "spec": {"kong": {"adminUrl": server.base.as_str()}}});
            let vendor = Vendor {
                connection: Arc::new(serde_json::from_value(connection).unwrap()),
                client: KongClient::new(access.clone()),
                access: Access::Kong(access),
            };
            let sources = Sources::default();
            let told = sources.check(&vendor, &hook).await;
            assert_eq!(sources.check(&vendor, &hook).await, told);
            assert_eq!(server.lines().len(), 1, "asked once, also where it failed");
            told
        });
        assert_eq!(futures::future::join_all(all).await, [None, Some(None), Some(Some(Ok(())))]);
    }

    #[test]
    fn a_condition_comes_and_goes() {
        let mut all = Vec::new();
        report(&mut all, Some(Err("no".into())), Some(1));
        report(&mut all, Some(Err("no".into())), Some(2));
        assert_eq!((all.len(), all[0].status.as_str(), all[0].observed_generation), (1, "False", Some(2)));
        report(&mut all, Some(Ok(())), Some(2));
        assert_eq!((all.len(), all[0].status.as_str()), (1, "True"));
        report(&mut all, None, Some(3));
        assert!(all.is_empty());
    }
}
