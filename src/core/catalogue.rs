//! The sources that Kong has, as far as they are public: their events, fields, and by which fields they tell things apart.
//!
//! The gates' default groups come from here, and what the emulator lists. A source that is not in it is none the worse:
//! custom plugins emit their own.

use serde_json::{Map, Value, json};

/// An event of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: &'static str,
    pub description: Option<&'static str>,
    /// The members of its data.
    pub fields: &'static [&'static str],
    /// The fields by which two of its events are about the same thing; empty: not told.
    pub unique: &'static [&'static str],
}

/// A source of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: &'static str,
    pub events: &'static [Event],
}

const CRUD: &[&str] = &["operation", "entity", "old_entity", "schema"];
const LIMIT: &[&str] = &["consumer", "ip", "service", "rate", "limit", "window"];
const EXCEEDED: Option<&str> = Some("Run an event when a rate limit has been exceeded");

const fn plain(name: &'static str, fields: &'static [&'static str]) -> Event {
    Event { name, description: None, fields, unique: &[] }
}

/// `crud` has an event per entity type. The documents name some; the others are guessed from the entity names that the
/// vendor reserves.
const ENTITIES: [Event; 25] = [
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

/// All of them.
pub const SOURCES: [Source; 7] = [
    Source {
        name: "ai-rate-limiting-advanced",
        // Whether it tells things apart as its sibling does is not documented.
        events: &[Event { name: "rate-limit-exceeded", description: EXCEEDED, fields: LIMIT, unique: &[] }],
    },
    Source {
        name: "balancer",
        events: &[plain("health", &["upstream_id", "ip", "port", "hostname", "health"])],
    },
    Source { name: "crud", events: &ENTITIES },
    Source {
        name: "dao:crud",
        events: &[plain("create", CRUD), plain("update", CRUD), plain("delete", CRUD)],
    },
    // Fields taken from the sample in the documents.
    Source {
        name: "oas-validation",
        events: &[plain("validation-failed", &["consumer", "ip", "service", "err"])],
    },
    Source {
        name: "rate-limiting-advanced",
        events: &[Event {
            name: "rate-limit-exceeded",
            description: EXCEEDED,
            fields: LIMIT,
            unique: &["consumer", "ip", "service"],
        }],
    },
    // Neither its event's name nor its fields are documented: the name is a guess, the fields stay empty.
    Source { name: "service-protection", events: &[plain("rate-limit-exceeded", &[])] },
];

/// The fields by which the events of a source are about the same thing; empty where that is not known.
pub fn unique(source: &str, event: &str) -> &'static [&'static str] {
    let source = SOURCES.iter().find(|s| s.name == source);
    let event = source.and_then(|s| s.events.iter().find(|e| e.name == event));
    event.map_or(&[], |e| e.unique)
}

/// All of it, the events of a source, or one event (`names`: the source, then the event), in the shape in which Kong
/// tells it. None: it is not known.
pub fn told(names: &[&str]) -> Option<Value> {
    let all: Map<String, Value> =
        SOURCES.iter().map(|source| (source.name.to_owned(), events(source.events))).collect();
    names.iter().try_fold(Value::from(all), |mut value, name| value.get_mut(*name).map(Value::take))
}

fn events(events: &[Event]) -> Value {
    events.iter().map(|event| (event.name.to_owned(), about(event))).collect::<Map<_, _>>().into()
}

/// `unique` and `description` appear only where there is something to tell.
fn about(event: &Event) -> Value {
    let mut about = Map::from_iter([("fields".to_owned(), json!(event.fields))]);
    about.extend(event.description.map(|text| ("description".to_owned(), text.into())));
    if !event.unique.is_empty() {
        about.insert("unique".to_owned(), json!(event.unique));
    }
    about.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_and_without_repeats() {
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
    fn what_tells_things_apart() {
        assert_eq!(unique("rate-limiting-advanced", "rate-limit-exceeded"), ["consumer", "ip", "service"]);
        for (source, event) in [
            ("rate-limiting-advanced", "other"),
            ("ai-rate-limiting-advanced", "rate-limit-exceeded"),
            ("crud", "consumers"),
            ("shop", "paid"),
        ] {
            assert!(unique(source, event).is_empty(), "{source} {event}");
        }
    }

    #[test]
    fn as_kong_tells_it() {
        let all = told(&[]).unwrap();
        assert_eq!(all.as_object().unwrap().len(), 7);
        assert_eq!(told(&["crud"]).unwrap().as_object().unwrap().len(), 25);
        let limit = told(&["rate-limiting-advanced", "rate-limit-exceeded"]).unwrap();
        assert_eq!(limit["unique"], json!(["consumer", "ip", "service"]));
        assert!(limit["description"].is_string());
        assert_eq!(told(&["balancer", "health"]).unwrap()["fields"][0], "upstream_id");
        assert_eq!(told(&["dao:crud", "create"]).unwrap(), json!({"fields": CRUD}));
        assert_eq!(told(&["shop"]), None);
        assert_eq!(told(&["crud", "shop"]), None);
    }
}
