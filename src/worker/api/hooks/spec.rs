//! The spec of a hook as JSON, without secrets. A spec only references Secrets, but a header of it may hold one in clear.

use serde_json::Value;

use crate::api::EventHook;
use crate::core::redact::{MASK, is_secret_header};

/// Returns the spec with the values of headers masked that probably hold a secret.
pub fn masked_spec(hook: &EventHook) -> Value {
    let mut spec = serde_json::to_value(&hook.spec).unwrap_or_default();
    for path in ["/handler/webhook/headers", "/handler/webhookCustom/headers"] {
        let headers = spec.pointer_mut(path).and_then(Value::as_object_mut);
        for (name, value) in headers.into_iter().flatten() {
            if is_secret_header(name) {
                *value = MASK.into();
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::worker::index::testing::hook;

    #[test]
    fn masks_headers_that_may_hold_a_secret() {
        let headers =
            json!({"Authorization": "Bearer s3cr3t", "x-api-key": "s3cr3t", "accept": "text/plain"});
        let reference = json!([{"name": "x-token", "secretRef": {"name": "keys", "key": "token"}}]);
        for kind in ["webhook", "webhookCustom"] {
            let handler =
                json!({ kind: {"url": "https://e.test/", "headers": headers, "headersFrom": reference}});
            let guard = hook("h", "u", json!({ "handler": handler }));
            let spec = masked_spec(guard.0.as_ref().unwrap());
            assert!(!spec.to_string().contains("s3cr3t"), "{spec}");
            assert_eq!(spec["handler"][kind]["headers"]["accept"], "text/plain");
            assert_eq!(spec["handler"][kind]["headersFrom"], reference);
        }
    }
}
