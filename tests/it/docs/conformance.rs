//! docs/conformance.md names tests that exist.

use super::pages::root;

/// Returns true if a source file has a test with this path, such as `worker::cloudevents::batch_is_atomic`.
fn exists(test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else { return false };
    // Tests beside the code are in a module `tests` of its file.
    let modules = [Some(module), module.strip_suffix("::tests")];
    let paths = modules.into_iter().flatten().map(|module| module.replace("::", "/"));
    let mut files = paths.flat_map(|path| {
        ["tests/it", "src"]
            .iter()
            .flat_map(move |top| [format!("{top}/{path}.rs"), format!("{top}/{path}/mod.rs")])
            .collect::<Vec<_>>()
    });
    files.any(|file| {
        let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        text.split("fn ")
            .skip(1)
            .any(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('(')))
    })
}

#[test]
fn named_tests_exist() {
    let text = std::fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ")).filter(|line| !line.ends_with("| test |"));
    let mut tests = 0;
    for row in rows {
        let last = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap();
        let named: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            assert!(exists(test), "docs/conformance.md names {test}, which does not exist");
            tests += 1;
        }
    }
    assert!(tests > 20, "the tables were not found");
    assert!(!exists("worker::cloudevents::batch") && !exists("nowhere::at_all"));
}
