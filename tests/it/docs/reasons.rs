//! docs/troubleshooting.md lists every reason of the program.

use std::collections::BTreeSet;
use std::path::Path;

use super::pages::root;

/// Enums whose variants are visible reasons, and the variants that wrap or share the reason of another.
const ENUMS: [(&str, &str, &[&str]); 13] = [
    ("src/core/delivery_reason.rs", "DeliveryReason", &[]),
    ("src/core/delivery_reason.rs", "AttemptFailure", &[]),
    ("src/core/delivery_reason.rs", "DeliveringFault", &[]),
    (
        "src/controller/error.rs",
        "SyncError",
        &["Spec", "Secret", "Admin", "Cluster", "PublicIngestUrlMissing"],
    ),
    ("src/admin/error.rs", "AdminError", &[]),
    ("src/core/hook/mod.rs", "InvalidSpec", &["RejectedBySchema"]),
    ("src/cluster/secrets.rs", "ReferenceError", &["Cluster"]),
    ("src/cluster/backend.rs", "ClusterError", &[]),
    ("src/cluster/backend.rs", "AuthorizationError", &[]),
    ("src/net/client.rs", "SendError", &[]),
    ("src/core/relay.rs", "RelayRejection", &[]),
    ("src/core/stream_auth.rs", "StreamRejection", &[]),
    ("src/sandbox/error.rs", "ScriptError", &[]),
];

/// Reasons that reach no condition and no Event, because the object's state did not change: `supervise` reports none of them.
const METRICS_ONLY: [&str; 4] = ["NotVisibleYet", "Postponed", "Gone", "NotLeading"];

/// Reasons of other enums: of the store and of requests at the ports.
const OF_REQUESTS: [&str; 15] = [
    "ContentEncoding",
    "CorruptBody",
    "BadHost",
    "NotFound",
    "MethodNotAllowed",
    "Full",
    "Busy",
    "NamespaceFull",
    "HookFull",
    "TooManyReads",
    "TooManyReplays",
    "Indexing",
    "Closed",
    "Refused",
    "Failed",
];

/// Returns the reasons in the code.
fn reasons() -> BTreeSet<String> {
    let mut reasons = BTreeSet::new();
    for (file, name, wrappers) in ENUMS {
        let variants = variants(file, name);
        assert!(!variants.is_empty(), "{file} has no enum {name}");
        reasons.extend(variants.into_iter().filter(|variant| !wrappers.contains(&variant.as_str())));
    }
    for folder in ["src/controller", "src/worker"] {
        literals(&root().join(folder), &mut reasons);
    }
    reasons
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap()
}

/// Returns the rows of the tables: the reasons in the first cell, and the other cells.
fn rows(text: &str) -> Vec<(Vec<&str>, Vec<&str>)> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].split('`').skip(1).step_by(2).collect(), cells[1..].to_vec())).collect()
}

#[test]
fn every_reason_is_listed() {
    let text = document();
    let listed: BTreeSet<&str> = text.split('`').skip(1).step_by(2).collect();
    let missing: Vec<String> =
        reasons().into_iter().filter(|reason| !listed.contains(reason.as_str())).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md lacks {missing:?}");
}

/// Fails if a reason in a table is misspelt, or was renamed or removed in the code.
#[test]
fn every_listed_reason_exists() {
    let (text, reasons) = (document(), reasons());
    let mut listed = 0;
    for reason in rows(&text).into_iter().flat_map(|(reasons, _)| reasons) {
        let exists = reasons.contains(reason) || OF_REQUESTS.contains(&reason);
        assert!(exists, "docs/troubleshooting.md lists {reason}, which the program does not have");
        listed += 1;
    }
    assert!(listed > 60, "the tables were not found");
}

/// Fails if the document calls a condition an Event or the reverse.
#[test]
fn controller_reasons_are_where_document_places_them() {
    let mut events = BTreeSet::new();
    event_literals(&root().join("src/controller"), &mut events);
    assert!(events.contains("DriftRepaired"), "the published Events were not found: {events:?}");
    let text = document();
    let (_, table) = text.split_once("## Reasons of the controller").expect("the section");
    let (table, _) = table.split_once("\n## ").expect("the next section");
    for (reasons, cells) in rows(table) {
        for reason in reasons {
            let shown_in = match reason {
                _ if events.contains(reason) => "Event",
                _ if METRICS_ONLY.contains(&reason) => "metrics",
                _ => "condition",
            };
            assert_eq!(cells[0], shown_in, "docs/troubleshooting.md: {reason}");
        }
    }
}

/// Collects the reasons of Events that no condition carries: literals of the message that `publish_event` gets.
fn event_literals(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            event_literals(&path, into);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("status::publish_event(") {
            let call = &text[at..];
            let end = call.find(';').unwrap();
            // The message is made in the call, or right before it.
            let message = match call[..end].find("ConditionMessage::new(") {
                Some(inside) => &call[inside..],
                None => {
                    let before = &text[..at];
                    let Some(last) = before.rfind("ConditionMessage::new(") else { continue };
                    // A message that another function returned is a condition's, too.
                    if before[last..].contains("\n    }\n") || before[last..].contains("fn ") {
                        continue;
                    }
                    &text[last..]
                }
            };
            into.extend(message.split('"').nth(1).map(ToOwned::to_owned));
        }
    }
}

fn variants(file: &str, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    let Some((_, body)) = text.split_once(&format!("enum {name} {{\n")) else { return Vec::new() };
    let body = body.split("\n}").next().unwrap();
    body.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| line.chars().take_while(char::is_ascii_alphanumeric).collect())
        .collect()
}

/// Collects the reasons in calls such as `ConditionMessage::new`: first arguments of one CamelCase word.
fn literals(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Tests and the conformance suite of the stores have reasons of their own.
        if path.file_stem().is_some_and(|name| name == "tests" || name == "conformance") {
            continue;
        }
        if path.is_dir() {
            literals(&path, into);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for prefix in [
            "ConditionMessage::new(",
            "Hold::new(",
            "Problem::new(",
            "reason: ",
            "dead: Some(",
            "unhealthy(",
            "RetryLater(",
        ] {
            for rest in text.split(prefix).skip(1) {
                // A status may precede it.
                let rest = rest
                    .trim_start()
                    .trim_start_matches(|c: char| c.is_ascii_digit() || c == ',' || c.is_whitespace());
                let Some(rest) = rest.strip_prefix('"') else { continue };
                let word = rest.split('"').next().unwrap();
                let is_camel_case = word.starts_with(|c: char| c.is_ascii_uppercase())
                    && word.chars().all(|c| c.is_ascii_alphanumeric());
                if is_camel_case {
                    into.insert(word.to_owned());
                }
            }
        }
    }
}
