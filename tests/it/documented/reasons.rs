//! docs/troubleshooting.md lists every reason that the program gives.

use std::collections::BTreeSet;
use std::path::Path;

use super::root;

/// Enums whose variants' names are reasons that people see, and the variants that only pass another's on.
const ENUMS: [(&str, &str, &[&str]); 10] = [
    ("src/controller/problem.rs", "Problem", &["Spec", "Secret", "Admin", "Cluster"]),
    ("src/admin/error.rs", "AdminError", &[]),
    ("src/core/hook/mod.rs", "InvalidSpec", &[]),
    ("src/cluster/secrets.rs", "MissingSecret", &["Cluster"]),
    ("src/cluster/mod.rs", "ClusterError", &[]),
    ("src/cluster/mod.rs", "AccessError", &[]),
    ("src/net/client.rs", "SendError", &[]),
    ("src/core/relay.rs", "Refused", &[]),
    ("src/core/stream_auth.rs", "Refused", &[]),
    ("src/sandbox/mod.rs", "ScriptError", &[]),
];

#[test]
fn every_reason_is_listed() {
    let text = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let told: BTreeSet<&str> = text.split('`').skip(1).step_by(2).collect();
    let mut given = BTreeSet::new();
    for (file, name, passed_on) in ENUMS {
        let variants = variants(file, name);
        assert!(!variants.is_empty(), "{file} has no enum {name}");
        given.extend(variants.into_iter().filter(|variant| !passed_on.contains(&variant.as_str())));
    }
    for folder in ["src/controller", "src/worker"] {
        literals(&root().join(folder), &mut given);
    }
    let missing: Vec<&String> = given.iter().filter(|reason| !told.contains(reason.as_str())).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md says nothing of {missing:?}");
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

/// The first argument of `Note::new` and its like: a text of one CamelCase word, where a reason is made.
fn literals(folder: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Tests, and the suite that the stores pass, make reasons of their own.
        if path.file_stem().is_some_and(|name| name == "tests" || name == "conformance") {
            continue;
        }
        if path.is_dir() {
            literals(&path, into);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for maker in
            ["Note::new(", "Hold::new(", "Problem::new(", "reason: ", "dead: Some(", "bad(", "ComeAgain("]
        {
            for rest in text.split(maker).skip(1) {
                // A status may stand before it.
                let rest = rest
                    .trim_start()
                    .trim_start_matches(|c: char| c.is_ascii_digit() || c == ',' || c.is_whitespace());
                let Some(rest) = rest.strip_prefix('"') else { continue };
                let word = rest.split('"').next().unwrap();
                let camel = word.starts_with(|c: char| c.is_ascii_uppercase())
                    && word.chars().all(|c| c.is_ascii_alphanumeric());
                if camel {
                    into.insert(word.to_owned());
                }
            }
        }
    }
}
