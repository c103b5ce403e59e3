//! The tables of rights in docs/security.md are generated from the comments in deploy/base/rbac.yaml.

use super::{assert_current, between, read};

#[test]
fn rights_tables_are_current() {
    let mut tables = String::new();
    for document in read("deploy/base/rbac.yaml").split("\n---\n") {
        let object: serde_json::Value = serde_saphyr::from_str(document).unwrap();
        let Some(rules) = object["rules"].as_array() else { continue };
        let purposes = comments_of_rules(document);
        let name = object["metadata"]["name"].as_str().unwrap();
        let kind = object["kind"].as_str().unwrap();
        assert_eq!(
            purposes.len(),
            rules.len(),
            "{kind} {name}: each rule needs a comment that says what it is for"
        );
        let scope = if kind == "Role" { "in the operator's own namespace" } else { "where it works" };
        tables.push_str(&format!("\n`{name}`, {scope}:\n\n| what | verbs | for |\n|---|---|---|\n"));
        for (rule, purpose) in rules.iter().zip(purposes) {
            let list = |of: &serde_json::Value| {
                let items = of.as_array().into_iter().flatten().filter_map(|item| item.as_str());
                items.filter(|item| !item.is_empty()).collect::<Vec<_>>().join(", ")
            };
            let group = list(&rule["apiGroups"]);
            let mut what = list(&rule["resources"]);
            if !group.is_empty() {
                what = format!("{what} ({group})");
            }
            if rule["resourceNames"].is_array() {
                what = format!("{what} named {}", list(&rule["resourceNames"]));
            }
            tables.push_str(&format!("| {what} | {} | {purpose} |\n", list(&rule["verbs"])));
        }
    }
    tables.push('\n');
    assert_current("docs/security.md", &between(&read("docs/security.md"), "rights", &tables));
}

/// Returns the comment before each rule in one line.
fn comments_of_rules(document: &str) -> Vec<String> {
    let (mut purposes, mut comment) = (Vec::new(), Vec::new());
    let rules = document.split_once("\nrules:\n").map_or("", |(_, rules)| rules);
    for line in rules.lines().map(str::trim) {
        match line.strip_prefix("# ") {
            Some(text) => comment.push(text),
            None if line.starts_with("- apiGroups") && !comment.is_empty() => {
                purposes.push(std::mem::take(&mut comment).join(" "))
            }
            None => {}
        }
    }
    purposes
}
