//! docs/security.md names a test for each claim about tenants. The tests exist.

use std::path::PathBuf;

use super::pages::root;

/// Returns the tests in the last column of the table of claims.
fn named_tests(text: &str) -> Vec<String> {
    let (_, section) =
        text.split_once("## What one tenant can and cannot do to another").expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let mut tests = Vec::new();
    for row in section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| claim")) {
        let names = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<_> = names.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect();
        assert!(!names.is_empty(), "a claim without a test: {row}");
        tests.extend(names);
    }
    tests
}

/// Returns the files that may contain a module of the integration tests, or of the program.
fn files(module: &str) -> Vec<PathBuf> {
    let path = module.trim_end_matches("::tests").replace("::", "/");
    let in_folder = |folder: &str| {
        [root().join(folder).join(format!("{path}.rs")), root().join(folder).join(&path).join("mod.rs")]
    };
    ["tests/it", "src"].into_iter().flat_map(in_folder).filter(|file| file.exists()).collect()
}

#[test]
fn every_claim_about_tenants_has_a_test() {
    let text = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let tests = named_tests(&text);
    assert!(tests.len() > 15, "{tests:?}");
    for test in tests {
        let (module, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{test} has no module"));
        let is_test = |file: &PathBuf| {
            let text = std::fs::read_to_string(file).unwrap();
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            lines.iter().enumerate().any(|(at, line)| {
                let is_named =
                    [format!("async fn {name}("), format!("fn {name}(")].iter().any(|f| line.starts_with(f));
                // Attributes and comments are between.
                is_named
                    && lines[at.saturating_sub(6)..at]
                        .iter()
                        .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
            })
        };
        assert!(files(module).iter().any(is_test), "docs/security.md names {test}, which is no test");
    }
}
