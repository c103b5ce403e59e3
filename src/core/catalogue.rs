//! The event sources of Kong that are publicly documented: their events, fields and unique fields.
//!
//! Gates take their default groups from this list, and the emulator and `hookstream sources` show it. Hooks can use
//! unlisted sources too, because custom plugins emit events of their own sources.

use serde_json::{Map, Value, json};

/// An event of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogueEvent {
    pub name: &'static str,
    pub description: Option<&'static str>,
    /// The members of its data.
    pub fields: &'static [&'static str],
    /// The fields that identify the subject of an event: two events with equal values concern the same subject. Empty if
    /// not documented.
    pub unique: &'static [&'static str],
}

/// A source of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogueSource {
    pub name: &'static str,
    pub events: &'static [CatalogueEvent],
}

const CRUD: &[&str] = &["operation", "entity", "old_entity", "schema"];
const LIMIT: &[&str] = &["consumer", "ip", "service", "rate", "limit", "window"];
const EXCEEDED: Option<&str> = Some("Run an event when a rate limit has been exceeded");

const fn plain(name: &'static str, fields: &'static [&'static str]) -> CatalogueEvent {
    CatalogueEvent { name, description: None, fields, unique: &[] }
}

/// The events of `crud`, one for each entity type. Kong's documentation names some; the others are inferred from the
/// entity names that Kong reserves.
const ENTITIES: [CatalogueEvent; 25] = [
    plain("acls", CRUD),
    plain("admins", CRUD),
    plain("basicauth_credentials", CRUD),
    plain("ca_certificates", CRUD),
    plain("certificates", CRUD),
    plain("consumer_groups", CRUD),
    plain("consumers", CRUD),
    plain("event_hooks", CRUD),
    plain("hmacauth_credentials", CRUD),
    plain("jwt_secrets", CRUD),
    plain("key_sets", CRUD),
    plain("keyauth_credentials", CRUD),
    plain("keys", CRUD),
    plain("oauth2_credentials", CRUD),
    plain("plugins", CRUD),
    plain("rbac_roles", CRUD),
    plain("rbac_users", CRUD),
    plain("routes", CRUD),
    plain("services", CRUD),
    plain("sessions", CRUD),
    plain("snis", CRUD),
    plain("targets", CRUD),
    plain("upstreams", CRUD),
    plain("vaults", CRUD),
    plain("workspaces", CRUD),
];

/// All known sources, sorted by name.
pub static SOURCES: [CatalogueSource; 7] = [
    CatalogueSource {
        name: "ai-rate-limiting-advanced",
        // Kong does not document unique fields for this source, unlike for rate-limiting-advanced.
        events: &[CatalogueEvent {
            name: "rate-limit-exceeded",
            description: EXCEEDED,
            fields: LIMIT,
            unique: &[],
        }],
    },
    CatalogueSource {
        name: "balancer",
        events: &[plain("health", &["upstream_id", "ip", "port", "hostname", "health"])],
    },
    CatalogueSource { name: "crud", events: &ENTITIES },
    CatalogueSource {
        name: "dao:crud",
        events: &[plain("create", CRUD), plain("update", CRUD), plain("delete", CRUD)],
    },
    // The fields come from the sample in Kong's documentation.
    CatalogueSource {
        name: "oas-validation",
        events: &[plain("validation-failed", &["consumer", "ip", "service", "err"])],
    },
    CatalogueSource {
        name: "rate-limiting-advanced",
        events: &[CatalogueEvent {
            name: "rate-limit-exceeded",
            description: EXCEEDED,
            fields: LIMIT,
            unique: &["consumer", "ip", "service"],
        }],
    },
    // Kong documents neither the event's name nor its fields: the name is inferred, the fields are left empty.
    CatalogueSource { name: "service-protection", events: &[plain("rate-limit-exceeded", &[])] },
];

/// Returns the fields that identify the subject of an event. Empty if they are not known.
pub fn unique_fields(source: &str, event: &str) -> &'static [&'static str] {
    let source = SOURCES.iter().find(|s| s.name == source);
    let event = source.and_then(|s| s.events.iter().find(|e| e.name == event));
    event.map_or(&[], |e| e.unique)
}

/// Describes all sources, one source or one event in the shape of Kong's API. `names` holds up to two names: the source
/// and the event. Returns `None` if a name is not known.
pub fn describe(names: &[&str]) -> Option<Value> {
    let all: Map<String, Value> =
        SOURCES.iter().map(|source| (source.name.to_owned(), describe_events(source.events))).collect();
    names.iter().try_fold(Value::from(all), |mut value, name| value.get_mut(*name).map(Value::take))
}

fn describe_events(events: &[CatalogueEvent]) -> Value {
    events.iter().map(|event| (event.name.to_owned(), describe_event(event))).collect::<Map<_, _>>().into()
}

/// Omits `unique` and `description` if they are empty, as Kong does.
fn describe_event(event: &CatalogueEvent) -> Value {
    let mut members = Map::from_iter([("fields".to_owned(), json!(event.fields))]);
    members.extend(event.description.map(|text| ("description".to_owned(), text.into())));
    if !event.unique.is_empty() {
        members.insert("unique".to_owned(), json!(event.unique));
    }
    members.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_sorted_and_events_unique() {
        assert!(SOURCES.is_sorted_by(|a, b| a.name < b.name));
        for source in SOURCES {
            let names: std::collections::BTreeSet<_> = source.events.iter().map(|e| e.name).collect();
            assert_eq!(names.len(), source.events.len(), "{}", source.name);
            for event in source.events {
                assert!(event.unique.iter().all(|u| event.fields.contains(u)), "{}", source.name);
            }
        }
    }

    #[test]
    fn finds_unique_fields() {
        assert_eq!(
            unique_fields("rate-limiting-advanced", "rate-limit-exceeded"),
            ["consumer", "ip", "service"]
        );
        for (source, event) in [
            ("rate-limiting-advanced", "other"),
            ("ai-rate-limiting-advanced", "rate-limit-exceeded"),
            ("crud", "consumers"),
            ("shop", "paid"),
        ] {
            assert!(unique_fields(source, event).is_empty(), "{source} {event}");
        }
    }

    #[test]
    fn describes_sources_in_kong_shape() {
        let all = describe(&[]).unwrap();
        assert_eq!(all.as_object().unwrap().len(), 7);
        assert_eq!(describe(&["crud"]).unwrap().as_object().unwrap().len(), 25);
        let limit = describe(&["rate-limiting-advanced", "rate-limit-exceeded"]).unwrap();
        assert_eq!(limit["unique"], json!(["consumer", "ip", "service"]));
        assert!(limit["description"].is_string());
        assert_eq!(describe(&["balancer", "health"]).unwrap()["fields"][0], "upstream_id");
        assert_eq!(describe(&["dao:crud", "create"]).unwrap(), json!({"fields": CRUD}));
        assert_eq!(describe(&["shop"]), None);
        assert_eq!(describe(&["crud", "shop"]), None);
    }
}
