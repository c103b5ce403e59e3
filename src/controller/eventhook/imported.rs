//! Checks that an EventHook which was generated from a hook at Kong describes that hook.

use serde_json::{Map, Value};

use super::config::{self, HookSecrets};
use crate::admin::kong::KongHook;
use crate::api::{EventHook, HandlerKind};
use crate::controller::error::SyncError;
use crate::core::hook;
use crate::core::plan::{Plan, plan};

/// Returns the paths in which the hook at Kong differs from the one that a sync of `object` would write. `secret_data` is
/// the Secret that the object refers to. An adoption with `mode: Match` fails exactly for these paths.
///
/// Errors: the spec is invalid, for example because it has a URL with user information.
pub fn find_differences(
    object: &EventHook,
    secret_data: &Map<String, Value>,
    at_kong: &Value,
) -> Result<Vec<String>, SyncError> {
    /// The Connection is unknown here, so each handler counts as allowed.
    const ALL: [HandlerKind; 4] =
        [HandlerKind::Webhook, HandlerKind::WebhookCustom, HandlerKind::Log, HandlerKind::Lambda];
    let hook = hook::validate(object)?;
    let secrets = HookSecrets::from_data(&hook, secret_data)?;
    let (config, _) = config::gateway_config(&hook, &secrets, Some(&ALL))?;
    let (snooze, on_change) = config::kong_gates(&hook);
    let desired = KongHook {
        source: hook.source.to_string(),
        event: hook.event.as_deref().map(ToOwned::to_owned),
        handler: config::handler_name(&hook).to_owned(),
        snooze,
        on_change,
        config,
    };
    Ok(match plan(&desired.to_value(), Some(at_kong)) {
        Plan::Update(fields) => fields,
        Plan::Create | Plan::Nothing => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::kong::hook_manifests;
    use serde_json::json;

    /// Imports a hook and compares the manifest with it.
    fn differences(handler: &str, config: Value) -> Result<Vec<String>, String> {
        let at_kong = json!({"id": "11111111-2222-4333-8444-555555555555", "source": "crud", "event": null,
            "handler": handler, "snooze": 60, "on_change": null, "config": config});
        let manifests = hook_manifests(&at_kong, "kong").unwrap();
        let object: EventHook = serde_json::from_value(manifests.hook).map_err(|e| e.to_string())?;
        let data = manifests.secret.and_then(|secret| secret["stringData"].as_object().cloned());
        find_differences(&object, &data.unwrap_or_default(), &at_kong).map_err(|e| e.to_string())
    }

    #[test]
    fn imported_hooks_equal_those_at_kong() {
        let custom = json!({"url": "https://example.com/", "headers": {"a": "b"}, "secret": null, "ssl_verify": true,
            "method": "PUT", "headers_format": false, "payload": {"n": [1]}, "payload_format": true, "body": null,
            "body_format": true});
        let secret = json!({"url": "https://example.com/?token=t", "headers": {"X-Key": "1", "x-key": "2",
            "x^token": "3"}, "secret": "s", "ssl_verify": false});
        for (handler, config) in [
            ("webhook-custom", custom),
            ("webhook", secret),
            ("log", json!({})),
            ("lambda", json!({"functions": ["return function() return true end"]})),
        ] {
            assert_eq!(differences(handler, config), Ok(Vec::new()), "{handler}");
        }
    }

    #[test]
    fn every_spelling_of_a_url_stays_as_it_is_at_kong() {
        for url in [
            "https://example.com",
            "https://Example.com/Hooks",
            "https://example.com:443/",
            "http://example.com:80/a/../b",
            "http://example.com/x#fragment",
            "https://example.com/%7euser?A=%2f",
        ] {
            let config = json!({"url": url, "headers": {}, "secret": null, "ssl_verify": true});
            assert_eq!(differences("webhook", config), Ok(Vec::new()), "{url}");
        }
    }

    #[test]
    fn reports_what_an_event_hook_cannot_express() {
        let with = |member: &str, value: Value| {
            let mut config = json!({"url": "http://example.com", "headers": {}, "secret": null, "ssl_verify": true,
                "method": "POST", "headers_format": false, "payload": null, "payload_format": true, "body": "b",
                "body_format": true});
            config[member] = value;
            differences("webhook-custom", config)
        };
        assert_eq!(with("body", json!("b")), Ok(Vec::new()));
        assert!(with("method", json!("HEAD")).is_err());
        assert!(with("payload", json!({"a": "1"})).is_err());
        assert!(with("url", json!("http://ci:pw@example.com")).is_err());
        assert_eq!(with("method", json!(null)), Ok(vec!["config.method".to_owned()]));
    }
}
