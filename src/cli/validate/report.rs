//! The report of a validation in the formats of other programs: workflow commands of GitHub Actions, SARIF 2.1.0 for code
//! scanning, and JUnit's XML for the test view of CI systems.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::{Value, json};

use super::ValidationReport;
use super::finding::{Finding, Severity};

/// Returns one workflow command for each finding; GitHub shows it at its line.
pub fn github(report: &ValidationReport) -> Vec<String> {
    report.findings.iter().map(github_command).collect()
}

fn github_command(finding: &Finding) -> String {
    let level: &str = finding.severity.into();
    let mut command = format!("::{level} file={}", escape_property(&finding.file));
    if let (Some(line), Some(column)) = (finding.line, finding.column) {
        command.push_str(&format!(",line={line},col={column}"));
    }
    format!("{command},title={}::{}", escape_property(finding.reason), escape_message(&finding.text()))
}

fn escape_message(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn escape_property(text: &str) -> String {
    escape_message(text).replace(':', "%3A").replace(',', "%2C")
}

/// Returns the report as SARIF.
pub fn sarif(report: &ValidationReport) -> Value {
    let rules: BTreeSet<&str> = report.findings.iter().map(|finding| finding.reason).collect();
    let rules: Vec<Value> = rules.into_iter().map(|id| json!({ "id": id })).collect();
    let results: Vec<Value> = report.findings.iter().map(sarif_result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "hookstream", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn sarif_result(finding: &Finding) -> Value {
    let mut location = json!({"artifactLocation": {"uri": file_uri(&finding.file)}});
    if let (Some(line), Some(column), Some(members)) =
        (finding.line, finding.column, location.as_object_mut())
    {
        members.insert("region".to_owned(), json!({"startLine": line, "startColumn": column}));
    }
    let level: &str = finding.severity.into();
    json!({
        "ruleId": finding.reason,
        "level": level,
        "message": {"text": finding.text()},
        "locations": [{"physicalLocation": location}],
    })
}

/// Returns a path as a relative reference or, if it is absolute, as a file URL.
fn file_uri(path: &str) -> String {
    let mut uri = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.strip_prefix("./").unwrap_or(path).bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte))
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

/// Returns the report as JUnit's XML: a test for each object, and one for each file that cannot be read. With `strict` a warning
/// fails the test.
pub fn junit(report: &ValidationReport, strict: bool) -> String {
    // A map, because a search for the findings of each of 10,000 objects would take seconds.
    let mut cases: BTreeMap<(&str, &str), Vec<&Finding>> = BTreeMap::new();
    for (file, object) in &report.checked {
        cases.entry((file.as_str(), object.as_str())).or_default();
    }
    for finding in &report.findings {
        cases.entry((finding.file.as_str(), finding.object.as_str())).or_default().push(finding);
    }
    let (mut xml, mut failed) = (String::new(), 0);
    for ((file, object), found) in &cases {
        let fails = |finding: &&&Finding| strict || finding.severity == Severity::Error;
        let failures: Vec<&&Finding> = found.iter().filter(fails).collect();
        failed += usize::from(!failures.is_empty());
        let name = if object.is_empty() { file } else { object };
        // Writing into a string cannot fail.
        write!(xml, "\n    <testcase classname=\"{}\" name=\"{}\">", escape_xml(file), escape_xml(name)).ok();
        for failure in &failures {
            let line = format!("{}: {}", failure.location(), failure.text());
            write!(
                xml,
                "\n      <failure type=\"{}\" message=\"{}\">{}</failure>",
                failure.reason,
                escape_xml(&failure.message),
                escape_xml(&line)
            )
            .ok();
        }
        for warning in found.iter().filter(|finding| !fails(finding)) {
            let line = format!("{}: warning: {}", warning.location(), warning.text());
            write!(xml, "\n      <system-out>{}</system-out>", escape_xml(&line)).ok();
        }
        xml.push_str("\n    </testcase>");
    }
    let counts = format!("tests=\"{}\" failures=\"{failed}\"", cases.len());
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  <testsuite name=\"hookstream validate\" {counts}>{xml}\n  </testsuite>\n</testsuites>"
    )
}

/// Escapes a text for XML. XML 1.0 has no control characters.
fn escape_xml(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => " ".to_owned(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_for_each_format() {
        let finding = Finding {
            severity: Severity::Warning,
            file: "a,b: ü.yaml".into(),
            line: Some(3),
            column: Some(5),
            object: "Hook a/b".into(),
            field: "spec".into(),
            reason: "R",
            message: "50% <&>\n\"x\"\u{1}".into(),
        };
        assert_eq!(
            github_command(&finding),
            "::warning file=a%2Cb%3A ü.yaml,line=3,col=5,title=R::Hook a/b: spec: 50%25 <&>%0A\"x\"\u{1}"
        );
        assert_eq!(file_uri(&finding.file), "a%2Cb%3A%20%C3%BC.yaml");
        assert_eq!(file_uri("/a b"), "file:///a%20b");
        assert_eq!(file_uri("./a"), "a");
        assert_eq!(escape_xml(&finding.message), "50% &lt;&amp;&gt; &quot;x&quot; ");
    }
}
