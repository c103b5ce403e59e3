//! The metrics in the dashboard and the alerts exist.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::pages::root;
use crate::harness::Process;
use crate::harness::manifests::merged;
use crate::harness::world::World;

/// Adds the metrics of an expression to `into`.
fn collect_names(text: &str, into: &mut BTreeSet<String>) {
    let starts = text.match_indices("hookstream_").chain(text.match_indices("process_"));
    for (at, _) in starts {
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
    let closed = format!("http://127.0.0.1:{}/", crate::harness::free_port());
    let failing = world.hook_with(
        "failing",
        json!({"handler": {"webhook": {"url": closed}}, "delivery": {"retry": {"maxAttempts": 1}}}),
    );
    world
        .apply(&[
            world.connection(),
            world.hook("hook"),
            world.hook_with("broken", json!({"connectionRef": {"name": "missing"}})),
            merged(failing, json!({"metadata": {"annotations": {"hookstream.dev/metrics": "true"}}})),
        ])
        .await;
    world.ready("eventhooks/hook").await;
    world.ready("eventhooks/failing").await;
    world.not_ready("eventhooks/broken", "ConnectionMissing").await;
    // A receiver is reported as failing after three failures in a row.
    for id in ["1", "2", "3"] {
        world.kong.emit("crud", "consumers", json!({"operation": "create", "entity": {"id": id}})).await;
    }
    world.receiver.wait_for(3, crate::harness::DEADLINE).await;
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

/// The link of each alert leads to a section that says what to do.
#[test]
fn every_alert_has_a_runbook() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let runbooks = read("docs/runbooks.md");
    let alerts: Value = serde_saphyr::from_str(&read("deploy/observability/alerts.yaml")).unwrap();
    let mut names = BTreeSet::new();
    for rule in
        alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap())
    {
        let name = rule["alert"].as_str().unwrap();
        let (page, anchor) = rule["annotations"]["runbook_url"].as_str().unwrap().split_once('#').unwrap();
        assert!(
            page.ends_with("/docs/runbooks.md") && anchor == name.to_lowercase(),
            "{name}: {page}#{anchor}"
        );
        names.insert(name.to_owned());
    }
    let sections = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    assert_eq!(names, sections);
}

/// An engineer who is woken at night starts with the same command, and types what is written.
#[test]
fn every_runbook_begins_with_the_status_and_has_valid_commands() {
    let runbooks = std::fs::read_to_string(root().join("docs/runbooks.md")).unwrap();
    for section in runbooks.split("\n## ").skip(1) {
        let (name, text) = section.split_once("\n\n").unwrap();
        assert!(text.starts_with("`hookstream status -A` "), "{name}: {text}");
    }
    let id = "01a201d0-e928-7748-a797-9272c188e8bd";
    let codes = runbooks.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("hookstream "));
    let commands: BTreeSet<&str> = codes.collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        // With --help at the end, the program only parses its flags.
        let words = command.split(' ').map(|word| if word == "ID" { id } else { word });
        let output = Process::command(words.chain(["--help"]), &[]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
