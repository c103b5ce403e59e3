//! Renders a hook in the JSON format of Kong's admin API, with secrets masked.

use serde_json::{Map, Value, json};

use crate::api::{EventHook, SecretKeyRef, TextFormat, Tls, UrlText};
use crate::core::duration;
use crate::core::redact::{MASK, is_secret_header};

/// Returns the hook's id in Kong, or its uid if it does not exist there.
pub fn id(hook: &EventHook) -> &str {
    let external = hook.status.as_ref().and_then(|status| status.external.as_ref());
    external.map(|external| &*external.id).or(hook.metadata.uid.as_deref()).unwrap_or_default()
}

/// Returns the hook as Kong shows an event hook.
pub fn kong_hook(hook: &EventHook) -> Value {
    let spec = &hook.spec;
    let snooze = spec.snooze.as_ref().and_then(|s| duration::parse(&s.period.0).ok()).map(|s| s.as_secs());
    let created_at = hook.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let (handler, config) = kong_handler(&spec.handler);
    json!({
        "id": id(hook),
        "created_at": created_at,
        "source": spec.source,
        "event": spec.event,
        "handler": handler,
        "snooze": snooze,
        "on_change": spec.on_change.as_ref().map(|_| true),
        "config": config,
    })
}

/// Returns the handler's name and config. An object without a handler is shown as `log`.
fn kong_handler(handler: &crate::api::Handler) -> (&'static str, Value) {
    if let Some(webhook) = &handler.webhook {
        let config = json!({
            "url": masked_url(webhook.url.as_ref()),
            "headers": masked_headers(webhook.headers.as_ref(), webhook.headers_from.as_ref()),
            "secret": masked_secret(webhook.signature.as_ref().map(|s| &s.secret_ref)),
            "ssl_verify": verifies_tls(webhook.tls.as_deref()),
        });
        return ("webhook", config);
    }
    if let Some(custom) = &handler.webhook_custom {
        let is_template = |format: Option<TextFormat>, default| match format {
            Some(format) => format == TextFormat::Template,
            None => default,
        };
        let config = json!({
            "url": masked_url(custom.url.as_ref()),
            "method": custom.method.unwrap_or(crate::api::Method::Post),
            "headers": masked_headers(custom.headers.as_ref(), custom.headers_from.as_ref()),
            "headers_format": is_template(custom.headers_format, false),
            "payload": custom.payload,
            "payload_format": is_template(custom.payload_format, true),
            "body": custom.body,
            "body_format": is_template(custom.body_format, true),
            "secret": masked_secret(custom.signature.as_ref().map(|s| &s.secret_ref)),
            "ssl_verify": verifies_tls(custom.tls.as_deref()),
        });
        return ("webhook-custom", config);
    }
    match &handler.lambda {
        Some(lambda) => ("lambda", json!({ "functions": lambda.functions })),
        None => ("log", json!({})),
    }
}

fn masked_url(url: Option<&UrlText>) -> &str {
    url.map_or(MASK, |url| &url.0)
}

fn masked_secret(reference: Option<&SecretKeyRef>) -> Value {
    reference.map_or(Value::Null, |_| MASK.into())
}

fn verifies_tls(tls: Option<&Tls>) -> bool {
    tls.is_none_or(|tls| tls.insecure_skip_verify != Some(true))
}

fn masked_headers(
    plain: Option<&std::collections::BTreeMap<String, String>>,
    from: Option<&Vec<crate::api::HeaderFrom>>,
) -> Map<String, Value> {
    let plain = plain.into_iter().flatten().map(|(name, value)| {
        let value = if is_secret_header(name) { MASK } else { value };
        (name.clone(), value.into())
    });
    let from = from.into_iter().flatten().map(|from| (from.name.clone(), MASK.into()));
    plain.chain(from).collect()
}
