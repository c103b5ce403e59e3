//! The config that Kong gets: a relay to the worker, or the handler itself.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use url::Url;

use crate::api::{DeliverBy, EventHook, HandlerKind, Method, TextFormat};
use crate::cluster::{ClusterError, secret_text, tls_options};
use crate::controller::context::Context;
use crate::controller::problem::Problem;
use crate::core::hook::{self, Handler, Hook, Target, WebhookCustom};
use crate::core::keys::KeyRing;
use crate::core::relay;
use crate::core::sign::secret_lines;

/// A config, and the paths of what of it came from Secrets.
type Config = (Value, Vec<&'static str>);

const URL: &str = "config.url";
const HEADERS: &str = "config.headers";
const SECRET: &str = "config.secret";

/// The values of the hook's Secrets. No `Debug`.
#[derive(Default)]
pub struct References {
    url: Option<Url>,
    signing: Option<SecretString>,
    headers: Vec<(String, SecretString)>,
}

/// Reads what the handler refers to, so that a reference that leads nowhere is told at the object.
pub async fn read(hook: &Hook, context: &Context) -> Result<References, Problem> {
    let (handler, cluster) = (&hook.handler, &*context.cluster);
    let url = match handler.target() {
        None => None,
        Some(Target::Url(address)) => Some(address.url.clone()),
        Some(Target::Secret(reference)) => {
            let text = secret_text(cluster, &hook.namespace, reference).await?;
            let url = hook::parse_url(text.expose_secret()).map_err(|problem| {
                let (key, name) = (&reference.key, &reference.name);
                Problem::SecretUnusable(format!("key {key} of Secret {name} {problem}"))
            })?;
            Some(url)
        }
    };
    let signing = match handler.signature() {
        Some(signature) => Some(secret_text(cluster, &hook.namespace, &signature.secret_ref).await?),
        None => None,
    };
    if let Some(tls) = handler.tls() {
        let options = tls_options(cluster, &hook.namespace, tls).await?;
        context.http.with(&options).map_err(|e| Problem::SecretUnusable(e.to_string()))?;
    }
    let mut headers = Vec::new();
    for header in handler.headers_from() {
        headers.push((header.name.clone(), secret_text(cluster, &hook.namespace, &header.secret_ref).await?));
    }
    Ok(References { url, signing, headers })
}

/// Kong relays to the worker, signed with a derived secret.
pub fn relay(
    object: &EventHook,
    hook: &Hook,
    mut url: Url,
    ring: &KeyRing,
    key: &str,
    rotation: Option<&str>,
) -> Result<Config, Problem> {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "namespaces", &hook.namespace, "relays", &hook.name]);
    }
    let secret = relay::secret(ring, key, object, rotation)
        .ok_or_else(|| ClusterError::KeyRing(format!("it has no key {key}")))?;
    let config = json!({"url": url.as_str(), "headers": {}, "ssl_verify": true,
                        "secret": secret.expose_secret()});
    Ok((config, vec![SECRET]))
}

/// Kong itself delivers, by a handler that the Connection allows. Every field is named: what is left out would be the
/// gateway's to choose, and its version decides (`ssl_verify` is off before 3.14).
pub fn gateway(
    hook: &Hook,
    references: &References,
    allowed: Option<&[HandlerKind]>,
) -> Result<Config, Problem> {
    let kind = hook.handler.kind();
    if !allowed.unwrap_or(&[HandlerKind::Webhook, HandlerKind::Log]).contains(&kind) {
        return Err(Problem::HandlerNotAllowed(kind.into()));
    }
    match &hook.handler {
        Handler::Log => Ok((json!({}), Vec::new())),
        Handler::Lambda(lambda) => Ok((json!({ "functions": lambda.functions }), Vec::new())),
        Handler::Webhook(webhook) => request(hook, references, &webhook.headers),
        Handler::WebhookCustom(custom) => {
            let (mut config, secrets) = request(hook, references, &custom.headers)?;
            if let Some(config) = config.as_object_mut() {
                config.extend(content(custom));
            }
            Ok((config, secrets))
        }
    }
}

/// What the two webhook handlers have in common.
fn request(hook: &Hook, references: &References, headers: &[(String, String)]) -> Result<Config, Problem> {
    let mut map: Map<String, Value> = headers.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
    map.extend(references.headers.iter().map(|(n, v)| (n.clone(), json!(v.expose_secret()))));
    let lines = references.signing.as_ref().map(|text| secret_lines(text.expose_secret()));
    if let (Some([_, _, ..]), Some(signature)) = (lines.as_deref(), hook.handler.signature()) {
        return Err(Problem::SecretUnusable(format!(
            "Secret {} holds several secrets, and Kong takes one: leave one line",
            signature.secret_ref.name
        )));
    }
    let secret = lines.and_then(|lines| lines.first().map(ToString::to_string));
    let verify = hook.handler.tls().is_none_or(|tls| tls.insecure_skip_verify != Some(true));
    let from_secrets = [
        (URL, matches!(hook.handler.target(), Some(Target::Secret(_)))),
        (HEADERS, !references.headers.is_empty()),
        (SECRET, secret.is_some()),
    ];
    let url = references.url.as_ref().map(Url::as_str);
    let config = json!({"url": url, "headers": map, "secret": secret, "ssl_verify": verify});
    Ok((config, from_secrets.into_iter().filter_map(|(path, is)| is.then_some(path)).collect()))
}

fn content(custom: &WebhookCustom) -> Map<String, Value> {
    let is_template = |format: TextFormat| json!(format == TextFormat::Template);
    let method = match custom.method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
    };
    [
        ("method", json!(method)),
        ("headers_format", is_template(custom.headers_format)),
        ("payload", json!(custom.payload)),
        ("payload_format", is_template(custom.payload_format)),
        ("body", json!(custom.body)),
        ("body_format", is_template(custom.body_format)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Kong's name of the handler that it runs: a relay is a webhook, whatever the worker then does.
pub fn handler_name(hook: &Hook) -> &'static str {
    match (hook.deliver_by, hook.handler.kind()) {
        (DeliverBy::Worker, _) | (DeliverBy::Gateway, HandlerKind::Webhook) => "webhook",
        (DeliverBy::Gateway, HandlerKind::WebhookCustom) => "webhook-custom",
        (DeliverBy::Gateway, HandlerKind::Log) => "log",
        (DeliverBy::Gateway, HandlerKind::Lambda) => "lambda",
    }
}

/// `snooze` in seconds and `on_change`, where Kong itself delivers. A relay carries none: the worker gates, once, and Kong
/// must tell it of every event.
pub fn gates(hook: &Hook) -> (Option<i64>, Option<bool>) {
    match hook.deliver_by {
        DeliverBy::Worker => (None, None),
        DeliverBy::Gateway => (
            hook.gates.snooze.map(|snooze| i64::try_from(snooze.period.as_secs()).unwrap_or(i64::MAX)),
            hook.gates.on_change.is_some().then_some(true),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::kong::config_fields;

    fn valid(spec: Value) -> Hook {
        let mut all = json!({"source": "crud", "connectionRef": {"name": "k"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object: EventHook = serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1",
            "kind": "EventHook", "metadata": {"name": "h"}, "spec": all}))
        .unwrap();
        hook::validate(&object).unwrap()
    }

    #[test]
    fn gates_go_to_kong_where_kong_delivers() {
        let told = |deliver_by: &str, mut spec: Value| {
            let rest =
                json!({"deliverBy": deliver_by, "handler": {"webhook": {"url": "https://example.com"}}});
            spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            gates(&valid(spec))
        };
        let both = json!({"snooze": {"period": "1m30s"}, "onChange": {}});
        assert_eq!(told("Gateway", both.clone()), (Some(90), Some(true)));
        assert_eq!(told("Gateway", json!({})), (None, None));
        assert_eq!(told("Worker", both), (None, None));
    }

    #[test]
    fn every_handler_names_every_field() {
        let all = [HandlerKind::Webhook, HandlerKind::WebhookCustom, HandlerKind::Log, HandlerKind::Lambda];
        for handler in [
            json!({"webhook": {"url": "https://example.com"}}),
            json!({"webhookCustom": {"url": "https://example.com", "body": "{{ entity.id }}"}}),
            json!({"log": {}}),
            json!({"lambda": {"functions": ["return function() return true end"]}}),
        ] {
            let hook = valid(json!({"deliverBy": "Gateway", "handler": handler}));
            let references = References {
                url: hook.handler.target().map(|_| "https://example.com".parse().unwrap()),
                ..References::default()
            };
            let (config, secrets) = gateway(&hook, &references, Some(&all)).unwrap();
            let mut named: Vec<&str> = config.as_object().unwrap().keys().map(String::as_str).collect();
            let mut known = config_fields(handler_name(&hook)).to_vec();
            named.sort_unstable();
            known.sort_unstable();
            assert_eq!(named, known);
            assert!(secrets.is_empty());
            let unnamed = gateway(&hook, &references, None);
            let by_default = matches!(hook.handler.kind(), HandlerKind::Webhook | HandlerKind::Log);
            assert_eq!(unnamed.is_ok(), by_default);
        }
    }

    #[test]
    fn what_is_imported_asks_for_what_is_there() {
        let custom = json!({"url": "https://example.com/", "headers": {"a": "b"}, "secret": null, "ssl_verify": true,
            "method": "PUT", "headers_format": false, "payload": {"n": [1]}, "payload_format": true, "body": null,
            "body_format": true});
        for (handler, there) in [
            (
                "webhook",
                json!({"url": "https://example.com/", "headers": {}, "secret": null, "ssl_verify": false}),
            ),
            ("webhook-custom", custom),
            ("log", json!({})),
            ("lambda", json!({"functions": ["return function() return true end"]})),
        ] {
            let item = json!({"id": "11111111-2222", "source": "crud", "event": null, "handler": handler,
                "snooze": 60, "on_change": null, "config": there});
            let made = crate::admin::kong::manifests(&item, "k").unwrap();
            assert!(made.secret.is_none());
            let hook = valid(made.hook["spec"].clone());
            let references = References {
                url: hook.handler.target().map(|_| "https://example.com".parse().unwrap()),
                ..References::default()
            };
            let all = [hook.handler.kind()];
            assert_eq!(gateway(&hook, &references, Some(&all)).unwrap().0, there);
            assert_eq!((handler_name(&hook), gates(&hook)), (handler, (Some(60), None)));
        }
    }

    #[test]
    fn what_is_from_secrets_says_so() {
        let reference = json!({"name": "s", "key": "k"});
        let hook = valid(json!({"deliverBy": "Gateway", "handler": {"webhook": {"urlSecretRef": reference,
            "signature": {"secretRef": reference}, "headersFrom": [{"name": "a", "secretRef": reference}],
            "headers": {"b": "c"}, "tls": {"insecureSkipVerify": true}}}}));
        let references = |signing: &str| References {
            url: Some("https://example.com".parse().unwrap()),
            signing: Some(SecretString::from(signing)),
            headers: vec![("a".into(), SecretString::from("v"))],
        };
        let (config, secrets) = gateway(&hook, &references("one"), None).unwrap();
        assert_eq!(secrets, [URL, HEADERS, SECRET]);
        let want = json!({"url": "https://example.com/", "headers": {"a": "v", "b": "c"}, "secret": "one",
            "ssl_verify": false});
        assert_eq!(config, want);
        let two = gateway(&hook, &references("one\ntwo"), None).unwrap_err();
        assert_eq!(two.reason(), "SecretUnusable");
    }
}
