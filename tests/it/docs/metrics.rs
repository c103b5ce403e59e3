//! The metrics in the dashboard and the alerts exist.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::pages::root;
use crate::harness::world::World;

/// Adds the metrics of an expression to `into`.
fn collect_names(text: &str, into: &mut BTreeSet<String>) {
    for (at, _) in text.match_indices("hookstream_") {
        let name: String =
            text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        into.insert(name);
    }
}

fn collect_expressions(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == "expr" || name == "query" => collect_names(text, into),
            _ => collect_expressions(value, into),
        }),
        Value::Array(items) => items.iter().for_each(|item| collect_expressions(item, into)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_dashboard_and_alerts_exists() {
    let mut required = BTreeSet::new();
    let read = |name: &str| std::fs::read_to_string(root().join("deploy/observability").join(name)).unwrap();
    collect_expressions(&serde_json::from_str(&read("dashboard.json")).unwrap(), &mut required);
    collect_expressions(&serde_saphyr::from_str(&read("alerts.yaml")).unwrap(), &mut required);
    assert!(required.len() > 15, "{required:#?}");

    let world = World::start("metrics").await;
    world
        .apply(&[
            world.connection(),
            world.hook("hook"),
            world.hook_with("broken", json!({"connectionRef": {"name": "missing"}})),
        ])
        .await;
    world.ready("eventhooks/hook").await;
    world.not_ready("eventhooks/broken", "ConnectionMissing").await;
    world.kong.emit("crud", "consumers", json!({"operation": "create"})).await;
    world.receiver.wait_for(1, crate::harness::DEADLINE).await;
    crate::harness::eventually(crate::harness::DEADLINE, "every metric", async || {
        let text = world.metrics().await?;
        let is_exported = |name: &String| {
            text.lines()
                .any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")))
        };
        let missing: Vec<&String> = required.iter().filter(|name| !is_exported(name)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("the program does not export {missing:?}\n{text}"))
        }
    })
    .await;
}
