//! docs/architecture.md names functions that exist, in the files that it names.

use super::pages::root;

#[test]
fn functions_of_the_journeys_exist() {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut checked = 0;
    for line in text.lines().filter(|line| line.starts_with('|') && line.contains("(../src/")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let function = cells[2].trim_matches('`');
        for link in cells[3].split("](../").skip(1) {
            let file = link.split(')').next().unwrap();
            let code = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            let is_defined = ["(", "<"].iter().any(|end| code.contains(&format!("fn {function}{end}")));
            assert!(is_defined, "docs/architecture.md: {file} has no function {function}");
            checked += 1;
        }
    }
    assert!(checked > 20, "the tables of the journeys were not found");
}
