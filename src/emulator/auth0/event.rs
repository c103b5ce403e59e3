//! Events in the format of Auth0: CloudEvents with extension attributes.

use serde_json::{Map, Value, json};

use crate::core::auth0_events::sample_data;
use crate::core::time::Millis;

/// The characters of recorded ids: none that look alike.
const ALPHABET: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Returns a random id: the prefix (`est` or `evt`), `_` and 22 characters.
pub(super) fn new_id(prefix: &str) -> String {
    let random = (0..22).filter_map(|_| fastrand::choice(ALPHABET)).map(|byte| char::from(*byte));
    format!("{prefix}_{}", random.collect::<String>())
}

/// Whether a text has the format of such an id.
pub(super) fn is_id(text: &str, prefix: &str) -> bool {
    let rest = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| rest.len() == 22 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// An event of the tenant, independent of streams.
pub(super) struct Event {
    pub id: String,
    pub kind: String,
    pub time: Millis,
    pub data: Value,
}

impl Event {
    pub fn new(kind: String, data: Option<Map<String, Value>>) -> Event {
        let data = data.map_or_else(|| sample_data(&kind), Value::Object);
        Event { id: new_id("evt"), kind, time: Millis::now(), data }
    }

    /// Makes the request body for a stream.
    pub fn body(&self, tenant: &str, stream: &str, test: bool) -> Value {
        let mut body = json!({
            "specversion": "1.0",
            "type": self.kind,
            "source": format!("urn:auth0:{tenant}"),
            "id": self.id,
            "time": self.time.rfc3339(),
            "data": self.data,
            "a0tenant": tenant,
            "a0stream": stream,
        });
        if let (true, Some(body)) = (test, body.as_object_mut()) {
            body.insert("a0purpose".into(), "test".into());
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_prefix_and_length() {
        let id = new_id("est");
        assert!(is_id(&id, "est") && id.len() == 26, "{id}");
        assert_ne!(id, new_id("est"));
        for wrong in [
            "",
            "est_",
            "evt_0123456789012345678901",
            "est_012345678901234567890!",
            "est_01234567890123456789012",
        ] {
            assert!(!is_id(wrong, "est"), "{wrong}");
        }
    }

    #[test]
    fn bodies_carry_stream_and_purpose() {
        let event = Event::new("user.deleted".into(), None);
        let body = event.body("acme.eu.auth0.com", "est_1", true);
        assert_eq!(body["source"], "urn:auth0:acme.eu.auth0.com");
        assert_eq!((&body["a0stream"], &body["a0purpose"]), (&json!("est_1"), &json!("test")));
        assert!(body["data"]["object"]["deleted_at"].is_string());
        let event = Event::new("new.kind".into(), Some(Map::from_iter([("object".into(), json!({"a": 1}))])));
        let body = event.body("t", "s", false);
        assert_eq!(body["data"], json!({"object": {"a": 1}}));
        assert!(body.get("a0purpose").is_none());
        for kind in
            ["organization.member.role.assigned", "group.member.added", "organization.connection.added"]
        {
            assert!(sample_data(kind)["object"].as_object().unwrap().len() > 1, "{kind}");
        }
    }
}
