//! The catalogue of sources, events and fields, as far as it is public.

use serde_json::{Map, Value, json};

/// `crud` has an event per entity type. The documents name some; the others are guessed from the entity names that the
/// vendor reserves.
const ENTITIES: [&str; 24] = [
    "acls",
    "admins",
    "basicauth_credentials",
    "ca_certificates",
    "certificates",
    "consumer_groups",
    "consumers",
    "event_hooks",
    "hmacauth_credentials",
    "jwt_secrets",
    "key_sets",
    "keyauth_credentials",
    "keys",
    "oauth2_credentials",
    "plugins",
    "rbac_roles",
    "rbac_users",
    "routes",
    "services",
    "sessions",
    "snis",
    "targets",
    "upstreams",
    "vaults",
];

/// `{<source>: {<event>: {"fields": [...], "unique": [...]}}}`.
pub(super) fn catalogue() -> Map<String, Value> {
    let crud = json!({"fields": ["operation", "entity", "old_entity", "schema"]});
    let events = |names: &[&str]| -> Value {
        names.iter().map(|name| ((*name).to_owned(), crud.clone())).collect::<Map<_, _>>().into()
    };
    let limit = json!(["consumer", "ip", "service", "rate", "limit", "window"]);
    let description = "Run an event when a rate limit has been exceeded";
    Map::from_iter([
        (
            "balancer".to_owned(),
            json!({"health": {"fields": ["upstream_id", "ip", "port", "hostname", "health"]}}),
        ),
        ("crud".into(), {
            let mut all = ENTITIES.to_vec();
            all.push("workspaces");
            events(&all)
        }),
        ("dao:crud".into(), events(&["create", "update", "delete"])),
        (
            "rate-limiting-advanced".into(),
            json!({"rate-limit-exceeded": {
                "description": description, "fields": limit, "unique": ["consumer", "ip", "service"]}}),
        ),
        (
            "ai-rate-limiting-advanced".into(),
            json!({"rate-limit-exceeded": {"description": description, "fields": limit}}),
        ),
        // Fields taken from the sample in the documents.
        (
            "oas-validation".into(),
            json!({"validation-failed": {"fields": ["consumer", "ip", "service", "err"]}}),
        ),
        // Neither its event's name nor its fields are documented: the name is a guess, the fields stay empty.
        ("service-protection".into(), json!({"rate-limit-exceeded": {"fields": []}})),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_fields() {
        let catalogue = catalogue();
        assert_eq!(catalogue.len(), 7);
        for (source, events) in &catalogue {
            for (event, about) in events.as_object().unwrap() {
                assert!(about["fields"].is_array(), "{source} {event}");
            }
        }
        assert_eq!(catalogue["crud"].as_object().unwrap().len(), 25);
    }
}
