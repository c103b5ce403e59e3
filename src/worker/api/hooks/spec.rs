//! The spec of a hook as JSON, without secrets. A spec only references Secrets, but its URL, headers and payload may hold one
//! in clear. So may the free texts, a custom body and the code of a lambda, and no name in them says where: they are shown to
//! clients that may read payloads only.

use serde_json::Value;

use crate::api::EventHook;
use crate::core::redact::{MASK, is_secret_header};
use crate::core::urls::without_secrets;

/// Returns the spec with the parts masked that probably hold a secret: the query of the URL, and headers and members of the
/// payload with such a name. Without `shows_texts`, a custom body and the functions of a lambda too.
pub fn masked_spec(hook: &EventHook, shows_texts: bool) -> Value {
    let mut spec = serde_json::to_value(&hook.spec).unwrap_or_default();
    if !shows_texts {
        spec.pointer_mut("/handler/webhookCustom/body").into_iter().for_each(|body| *body = MASK.into());
        let functions = spec.pointer_mut("/handler/lambda/functions").and_then(Value::as_array_mut);
        functions.into_iter().flatten().for_each(|function| *function = MASK.into());
    }
    for kind in ["webhook", "webhookCustom"] {
        let Some(handler) = spec.pointer_mut(&format!("/handler/{kind}")) else { continue };
        for member in ["headers", "payload"] {
            handler.get_mut(member).into_iter().for_each(mask_members);
        }
        if let Some(url) = handler.get_mut("url")
            && let Some(shown) = url.as_str().and_then(without_secrets)
        {
            *url = shown.into();
        }
    }
    spec
}

/// Masks the members whose name says that they hold a secret, at any depth.
fn mask_members(value: &mut Value) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| {
            if is_secret_header(name) { *value = MASK.into() } else { mask_members(value) }
        }),
        Value::Array(items) => items.iter_mut().for_each(mask_members),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::worker::index::testing::hook;

    #[test]
    fn masks_urls_and_payloads_that_may_hold_a_secret() {
        let payload = json!({"text": "{{ event.id }}", "auth": [{"api-key": "s3cr3t", "user": "u"}]});
        let handler = json!({"webhookCustom": {"url": "https://e.test/a?token=s3cr3t", "payload": payload}});
        let guard = hook("h", "u", json!({ "handler": handler }));
        let spec = masked_spec(guard.0.as_ref().unwrap(), true);
        assert!(!spec.to_string().contains("s3cr3t"), "{spec}");
        let shown = &spec["handler"]["webhookCustom"];
        assert_eq!(shown["url"], "https://e.test/a?...");
        assert_eq!(shown["payload"]["auth"][0]["user"], "u");
    }

    #[test]
    fn shows_free_texts_only_with_the_payload_right() {
        let custom = json!({"webhookCustom": {"url": "https://e.test/", "body": "key=s3cr3t"}});
        let lambda = json!({"lambda": {"functions": ["return 's3cr3t'", "return 's3cr3t'"]}});
        for (handler, path) in
            [(custom, "/handler/webhookCustom/body"), (lambda, "/handler/lambda/functions/1")]
        {
            let guard = hook("h", "u", json!({ "handler": handler }));
            let object = guard.0.as_ref().unwrap();
            let hidden = masked_spec(object, false);
            assert!(!hidden.to_string().contains("s3cr3t"), "{hidden}");
            assert_eq!(hidden.pointer(path), Some(&json!(MASK)));
            let shown = masked_spec(object, true);
            assert!(shown.pointer(path).unwrap().as_str().unwrap().contains("s3cr3t"));
        }
    }

    #[test]
    fn masks_headers_that_may_hold_a_secret() {
        let headers =
            json!({"Authorization": "Bearer s3cr3t", "x-api-key": "s3cr3t", "accept": "text/plain"});
        let reference = json!([{"name": "x-token", "secretRef": {"name": "keys", "key": "token"}}]);
        for kind in ["webhook", "webhookCustom"] {
            let handler =
                json!({ kind: {"url": "https://e.test/", "headers": headers, "headersFrom": reference}});
            let guard = hook("h", "u", json!({ "handler": handler }));
            let spec = masked_spec(guard.0.as_ref().unwrap(), true);
            assert!(!spec.to_string().contains("s3cr3t"), "{spec}");
            assert_eq!(spec["handler"][kind]["headers"]["accept"], "text/plain");
            assert_eq!(spec["handler"][kind]["headersFrom"], reference);
        }
    }
}
