//! Sample data of Kong's events, to try filters and handlers with. Plausible values; a gateway's own differ.

use serde_json::{Value, json};

use super::catalogue::CatalogueEvent;

/// Returns sample data of an event of the catalogue, with the members that the catalogue lists. None if it lists none.
pub fn sample_data(source: &str, event: &CatalogueEvent) -> Option<Value> {
    let members =
        event.fields.iter().map(|field| ((*field).to_owned(), sample_member(source, event.name, field)));
    (!event.fields.is_empty()).then(|| Value::Object(members.collect()))
}

fn sample_member(source: &str, event: &str, field: &str) -> Value {
    let id = "f1b2c3d4-0a1b-4c2d-8e3f-405162738495";
    match field {
        // The events of `dao:crud` are the operations; those of `crud` are the entity types.
        "operation" if source == "dao:crud" => event.into(),
        "operation" => "update".into(),
        "schema" if source == "crud" => event.into(),
        "schema" => "consumers".into(),
        "entity" => json!({"id": id, "username": "jane", "tags": ["eu"]}),
        "old_entity" => json!({"id": id, "username": "jane", "tags": []}),
        "consumer" => json!({"id": id, "username": "jane"}),
        "service" => json!({"id": id, "name": "orders"}),
        "upstream_id" => id.into(),
        "ip" => "10.0.0.7".into(),
        "hostname" => "orders.example.com".into(),
        "port" => 8080.into(),
        "health" => "UNHEALTHY".into(),
        "rate" => 101.into(),
        "limit" => 100.into(),
        "window" => 60.into(),
        "err" => "request body: property total is required".into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::SOURCES;
    use super::*;

    #[test]
    fn every_documented_field_has_a_sample_value() {
        for source in &SOURCES {
            for event in source.events {
                let Some(sample) = sample_data(source.name, event) else { continue };
                for field in event.fields {
                    assert!(!sample[*field].is_null(), "{} {} {field}", source.name, event.name);
                }
            }
        }
        let of = |source: &str, name: &str| {
            let source = SOURCES.iter().find(|s| s.name == source).unwrap();
            sample_data(source.name, source.events.iter().find(|e| e.name == name).unwrap())
        };
        assert_eq!(of("dao:crud", "delete").unwrap()["operation"], "delete");
        assert_eq!(of("crud", "routes").unwrap()["schema"], "routes");
        assert_eq!(of("service-protection", "rate-limit-exceeded"), None);
    }
}
