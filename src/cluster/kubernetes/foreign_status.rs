//! Finds members of a status that another field manager wrote. Server-side apply removes only the applier's own members,
//! so a `lastError` that a user set by hand would stay, and would look changed at every reconcile.

use serde_json::{Map, Value};

use crate::api::status_schema;

/// The members that the worker writes, too.
const SHARED_MEMBERS: [&str; 3] = ["conditions", "delivery", "handled"];

/// Returns a merge patch that removes the members of `stored` that the controller did not send; None if there are none.
/// Keeps members that this version does not know: a newer version may need them.
pub fn removal_patch(kind: &str, sent: &Value, stored: &Value) -> Option<Value> {
    let mut removals = removals(status_schema(kind)?, sent, stored)?;
    let members = removals.as_object_mut()?;
    SHARED_MEMBERS.iter().for_each(|name| {
        members.remove(*name);
    });
    (!members.is_empty()).then_some(removals)
}

fn removals(schema: &Value, sent: &Value, stored: &Value) -> Option<Value> {
    let known = schema.get("properties")?;
    let mut removals = Map::new();
    for (name, stored) in stored.as_object()? {
        let Some(schema) = known.get(name) else { continue };
        match sent.get(name) {
            None | Some(Value::Null) => {
                removals.insert(name.clone(), Value::Null);
            }
            Some(sent) => {
                removals.extend(self::removals(schema, sent, stored).map(|inner| (name.clone(), inner)));
            }
        }
    }
    (!removals.is_empty()).then_some(Value::Object(removals))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn removes_known_members_that_were_not_sent() {
        let sent = json!({"observedGeneration": 1, "external": {"id": "i", "connection": "c", "endpoint": "e"},
            "conditions": [{"type": "Ready"}]});
        assert_eq!(removal_patch("EventHook", &sent, &sent), None);
        let stored = json!({"observedGeneration": 1,
            "external": {"id": "i", "connection": "c", "endpoint": "e", "workspace": "w"},
            "conditions": [{"type": "Ready"}, {"type": "Delivering"}], "handled": {"resume": "worker"},
            "delivery": {"summary": "Delivering"},
            "lastError": {"message": "by hand"}, "ofNewerVersion": 1});
        let patch = json!({"external": {"workspace": null}, "lastError": null});
        assert_eq!(removal_patch("EventHook", &sent, &stored), Some(patch));
        assert_eq!(removal_patch("Unknown", &sent, &stored), None);
    }
}
