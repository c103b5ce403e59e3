//! The `config` of Kong's hook: a relay to the worker, or the handler itself.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use url::Url;

use crate::api::{DeliverBy, EventHook, HandlerKind, Method, SecretKeyRef, TextFormat};
use crate::cluster::{ClusterError, read_secret_text, read_tls_options};
use crate::controller::context::Context;
use crate::controller::error::SyncError;
use crate::core::hook::{self, CompiledHook, Handler, RequestTarget, WebhookCustom};
use crate::core::keys::KeyRing;
use crate::core::relay;
use crate::core::relay_mark::RelayMark;
use crate::core::sign::secret_lines;

/// A config, and the paths of its secret values.
type Config = (Value, Vec<&'static str>);

const URL: &str = "config.url";
const HEADERS: &str = "config.headers";
const SECRET: &str = "config.secret";

/// The values of the hook's Secrets. No `Debug`, so that they are never logged.
#[derive(Default)]
pub struct HookSecrets {
    /// The URL as the user wrote it. Kong returns this text, so it is compared with no other spelling of the URL.
    url: Option<String>,
    signing: Option<SecretString>,
    headers: Vec<(String, SecretString)>,
}

/// Reads the Secrets of the handler. Reads them for a relay too, so that the hook's status reports a missing Secret.
pub async fn read_secrets(hook: &CompiledHook, context: &Context) -> Result<HookSecrets, SyncError> {
    let (handler, cluster) = (&hook.handler, &*context.cluster);
    let url = match handler.target() {
        None => None,
        Some(RequestTarget::Url(address)) => Some(address.text.to_string()),
        Some(RequestTarget::Secret(reference)) => {
            let text = read_secret_text(cluster, &hook.namespace, reference).await?;
            Some(check_url(reference, &text)?)
        }
    };
    let signing = match handler.signature() {
        Some(signature) => Some(read_secret_text(cluster, &hook.namespace, &signature.secret_ref).await?),
        None => None,
    };
    if let Some(tls) = handler.tls() {
        let options = read_tls_options(cluster, &hook.namespace, tls).await?;
        context.http.with_tls(&options).map_err(|e| SyncError::SecretUnusable(e.to_string()))?;
    }
    let mut headers = Vec::new();
    for header in handler.headers_from() {
        headers.push((
            header.name.clone(),
            read_secret_text(cluster, &hook.namespace, &header.secret_ref).await?,
        ));
    }
    Ok(HookSecrets { url, signing, headers })
}

/// Returns the URL in a Secret without surrounding white space, if it is one.
fn check_url(reference: &SecretKeyRef, text: &SecretString) -> Result<String, SyncError> {
    match hook::parse_url(text.expose_secret()) {
        Ok(_) => Ok(text.expose_secret().trim().to_owned()),
        Err(problem) => {
            let (key, name) = (&reference.key, &reference.name);
            Err(SyncError::SecretUnusable(format!("key {key} of Secret {name} {problem}")))
        }
    }
}

impl HookSecrets {
    /// Takes the values from one Secret's data instead of a cluster. Checks no certificates.
    pub fn from_data(hook: &CompiledHook, data: &Map<String, Value>) -> Result<Self, SyncError> {
        let read = |reference: &SecretKeyRef| {
            let missing = || {
                SyncError::SecretUnusable(format!("Secret {} has no key {}", reference.name, reference.key))
            };
            data.get(&reference.key).and_then(Value::as_str).map(SecretString::from).ok_or_else(missing)
        };
        let handler = &hook.handler;
        let url = match handler.target() {
            None => None,
            Some(RequestTarget::Url(address)) => Some(address.text.to_string()),
            Some(RequestTarget::Secret(reference)) => Some(check_url(reference, &read(reference)?)?),
        };
        let headers = handler.headers_from().iter();
        Ok(HookSecrets {
            url,
            signing: handler.signature().map(|signature| read(&signature.secret_ref)).transpose()?,
            headers: headers
                .map(|header| Ok((header.name.clone(), read(&header.secret_ref)?)))
                .collect::<Result<_, SyncError>>()?,
        })
    }
}

/// Returns the config of a relay to the worker, signed with a derived secret.
pub fn relay_config(
    object: &EventHook,
    hook: &CompiledHook,
    mut url: Url,
    key_ring: &KeyRing,
    key: &str,
    rotation: Option<&str>,
    installation: Option<&str>,
) -> Result<Config, SyncError> {
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "namespaces", &hook.namespace, "relays", &hook.name]);
    }
    if let Some(mark) = installation.and_then(|id| RelayMark::new(key_ring, key, id, &object.metadata)) {
        mark.append_to(&mut url);
    }
    let secret = relay::derive_secret(key_ring, key, object, rotation)
        .ok_or_else(|| ClusterError::KeyRing(format!("it has no key {key}")))?;
    let config = json!({"url": url.as_str(), "headers": {}, "ssl_verify": true,
                        "secret": secret.expose_secret()});
    Ok((config, vec![SECRET]))
}

/// Returns the config of a handler that Kong runs, if the Connection allows it. Sets every field: the default of an absent
/// field depends on the gateway's version (`ssl_verify` is off before 3.14).
pub fn gateway_config(
    hook: &CompiledHook,
    secrets: &HookSecrets,
    allowed: Option<&[HandlerKind]>,
) -> Result<Config, SyncError> {
    let kind = hook.handler.kind();
    if !allowed.unwrap_or(&[HandlerKind::Webhook, HandlerKind::Log]).contains(&kind) {
        return Err(SyncError::HandlerNotAllowed(kind.into()));
    }
    match &hook.handler {
        Handler::Log => Ok((json!({}), Vec::new())),
        Handler::Lambda(lambda) => Ok((json!({ "functions": lambda.functions }), Vec::new())),
        Handler::Webhook(webhook) => webhook_config(hook, secrets, &webhook.headers),
        Handler::WebhookCustom(custom) => {
            let (mut config, secret_paths) = webhook_config(hook, secrets, &custom.headers)?;
            if let Some(config) = config.as_object_mut() {
                config.extend(content_fields(custom));
            }
            Ok((config, secret_paths))
        }
    }
}

/// Returns the fields that both webhook handlers have.
fn webhook_config(
    hook: &CompiledHook,
    secrets: &HookSecrets,
    headers: &[(String, String)],
) -> Result<Config, SyncError> {
    let mut map: Map<String, Value> = headers.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
    map.extend(secrets.headers.iter().map(|(n, v)| (n.clone(), json!(v.expose_secret()))));
    let lines = secrets.signing.as_ref().map(|text| secret_lines(text.expose_secret()));
    if let (Some([_, _, ..]), Some(signature)) = (lines.as_deref(), hook.handler.signature()) {
        return Err(SyncError::SecretUnusable(format!(
            "Secret {} has several lines, and Kong accepts one secret: keep one line",
            signature.secret_ref.name
        )));
    }
    let secret = lines.and_then(|lines| lines.first().map(ToString::to_string));
    let verify = hook.handler.tls().is_none_or(|tls| tls.insecure_skip_verify != Some(true));
    let from_secrets = [
        (URL, matches!(hook.handler.target(), Some(RequestTarget::Secret(_)))),
        (HEADERS, !secrets.headers.is_empty()),
        (SECRET, secret.is_some()),
    ];
    let config = json!({"url": secrets.url, "headers": map, "secret": secret, "ssl_verify": verify});
    Ok((config, from_secrets.into_iter().filter_map(|(path, is_secret)| is_secret.then_some(path)).collect()))
}

/// Returns the fields that only `webhook-custom` has.
fn content_fields(custom: &WebhookCustom) -> Map<String, Value> {
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

/// Returns Kong's name of the handler. A relay is a webhook for Kong, whatever handler the worker then runs.
pub fn handler_name(hook: &CompiledHook) -> &'static str {
    match (hook.deliver_by, hook.handler.kind()) {
        (DeliverBy::Worker, _) | (DeliverBy::Gateway, HandlerKind::Webhook) => "webhook",
        (DeliverBy::Gateway, HandlerKind::WebhookCustom) => "webhook-custom",
        (DeliverBy::Gateway, HandlerKind::Log) => "log",
        (DeliverBy::Gateway, HandlerKind::Lambda) => "lambda",
    }
}

/// Returns `snooze` in seconds and `on_change`, if Kong delivers. A relay has neither: the worker applies these gates,
/// so Kong must send it every event.
pub fn kong_gates(hook: &CompiledHook) -> (Option<i64>, Option<bool>) {
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

    fn valid(spec: Value) -> CompiledHook {
        let mut all = json!({"source": "crud", "connectionRef": {"name": "k"}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object: EventHook = serde_json::from_value(json!({"apiVersion": "hookstream.dev/v1alpha1",
            "kind": "EventHook", "metadata": {"name": "h"}, "spec": all}))
        .unwrap();
        hook::validate(&object).unwrap()
    }

    #[test]
    fn kong_gets_the_gates_only_if_it_delivers() {
        let gates = |deliver_by: &str, mut spec: Value| {
            let rest =
                json!({"deliverBy": deliver_by, "handler": {"webhook": {"url": "https://example.com"}}});
            spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            kong_gates(&valid(spec))
        };
        let both = json!({"snooze": {"period": "1m30s"}, "onChange": {}});
        assert_eq!(gates("Gateway", both.clone()), (Some(90), Some(true)));
        assert_eq!(gates("Gateway", json!({})), (None, None));
        assert_eq!(gates("Worker", both), (None, None));
    }

    #[test]
    fn every_handler_sets_every_field() {
        let all = [HandlerKind::Webhook, HandlerKind::WebhookCustom, HandlerKind::Log, HandlerKind::Lambda];
        for handler in [
            json!({"webhook": {"url": "https://example.com"}}),
            json!({"webhookCustom": {"url": "https://example.com", "body": "{{ entity.id }}"}}),
            json!({"log": {}}),
            json!({"lambda": {"functions": ["return function() return true end"]}}),
        ] {
            let hook = valid(json!({"deliverBy": "Gateway", "handler": handler}));
            let secrets = HookSecrets {
                url: hook.handler.target().map(|_| "https://example.com".to_owned()),
                ..HookSecrets::default()
            };
            let (config, secret_paths) = gateway_config(&hook, &secrets, Some(&all)).unwrap();
            let mut fields: Vec<&str> = config.as_object().unwrap().keys().map(String::as_str).collect();
            let mut known = config_fields(handler_name(&hook)).to_vec();
            fields.sort_unstable();
            known.sort_unstable();
            assert_eq!(fields, known);
            assert!(secret_paths.is_empty());
            let unlisted = gateway_config(&hook, &secrets, None);
            let by_default = matches!(hook.handler.kind(), HandlerKind::Webhook | HandlerKind::Log);
            assert_eq!(unlisted.is_ok(), by_default);
        }
    }

    #[test]
    fn secret_paths_list_the_values_from_secrets() {
        let reference = json!({"name": "s", "key": "k"});
        let hook = valid(json!({"deliverBy": "Gateway", "handler": {"webhook": {"urlSecretRef": reference,
            "signature": {"secretRef": reference}, "headersFrom": [{"name": "a", "secretRef": reference}],
            "headers": {"b": "c"}, "tls": {"insecureSkipVerify": true}}}}));
        let secrets = |signing: &str| HookSecrets {
            url: Some("https://example.com".to_owned()),
            signing: Some(SecretString::from(signing)),
            headers: vec![("a".into(), SecretString::from("v"))],
        };
        let (config, secret_paths) = gateway_config(&hook, &secrets("one"), None).unwrap();
        assert_eq!(secret_paths, [URL, HEADERS, SECRET]);
        let want = json!({"url": "https://example.com", "headers": {"a": "v", "b": "c"}, "secret": "one",
            "ssl_verify": false});
        assert_eq!(config, want);
        let two = gateway_config(&hook, &secrets("one\ntwo"), None).unwrap_err();
        assert_eq!(two.reason(), "SecretUnusable");
    }
}
