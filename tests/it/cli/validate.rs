//! `validate`: places of findings, "did you mean", inputs and output formats.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use super::run;
use crate::harness::{Process, watchdog};

const HEAD: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\nmetadata:\n  name: a\n";

/// Writes one file to a new folder. Returns the folder.
fn folder(name: &str, text: &str) -> PathBuf {
    let folder = watchdog::unique_path("validate");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    folder
}

/// Runs the program in a folder, with this standard input. Returns the exit code, standard output and standard error.
fn run_in(folder: &PathBuf, args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = Process::command(args, &[]);
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), out, error)
}

/// Returns the findings of a text as `severity line:column reason message`.
fn findings(text: &str) -> Vec<String> {
    let folder = folder("a.yaml", text);
    let (_, out, error) = run_in(&folder, &["validate", "a.yaml", "-o", "json"], "");
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    let findings = report["findings"].as_array().unwrap().iter().map(|finding| {
        assert_eq!(finding["file"], "a.yaml");
        let text = |name: &str| finding[name].as_str().unwrap().to_owned();
        let place = format!("{}:{}", finding["line"], finding["column"]);
        format!("{} {place} {} {}", text("severity"), text("reason"), text("message"))
    });
    findings.collect()
}

/// Many documents are checked by several threads; the report has the order of the files, and finds what one document has in
/// common with another.
#[test]
fn findings_of_many_documents_are_in_order() {
    const COUNT: usize = 1000;
    const INVALID: usize = 97;
    let document = |number: usize| {
        let filter = if number.is_multiple_of(INVALID) { "data.x = 1" } else { "data.x == 1" };
        // The last one has the name of the first.
        let name = number % (COUNT - 1);
        format!(
            "{{apiVersion: hookstream.dev/v1alpha1, kind: EventHook, metadata: {{name: h-{name}}}, spec: {{source: s, filter: '{filter}', handler: {{log: {{}}}}}}}}\n"
        )
    };
    let text: Vec<String> = (0..COUNT).map(document).collect();
    let findings = findings(&text.join("---\n"));
    // A document has a line, and so has the separator.
    let line = |number: usize| format!("error {}:", 2 * number + 1);
    let mut expected: Vec<_> =
        (0..COUNT).filter(|n| n.is_multiple_of(INVALID)).map(|n| (line(n), "InvalidFilter")).collect();
    expected.push((line(COUNT - 1), "Duplicate"));
    assert_eq!(findings.len(), expected.len(), "{findings:#?}");
    for (finding, (place, reason)) in findings.iter().zip(expected) {
        assert!(finding.starts_with(&place) && finding.contains(reason), "{place} {reason}: {finding}");
    }
}

#[test]
fn findings_name_line_and_column_of_the_file() {
    let hook = |spec: &str| format!("# a comment\n---\n{HEAD}spec:\n{spec}");
    let log = "  source: s\n  handler:\n    log: {}\n";
    let custom = |more: &str| {
        hook(&format!("  source: s\n  handler:\n    webhookCustom:\n      url: https://example.com\n{more}"))
    };
    for (text, expected) in [
        (
            hook(&format!("{log}  snoose: {{}}\n")),
            "error 11:3 InvalidSchema unknown field \"spec.snoose\": did you mean snooze?",
        ),
        (hook(&format!("{log}  delivery:\n    timeout: 1d\n")), "error 12:5 InvalidSchema"),
        (hook(&format!("{log}  filter: |-\n    data.x ==\n     1 +\n")), "error 13:9 InvalidFilter"),
        (hook(&format!("{log}  filter: data.x = 1\n")), "error 11:18 InvalidFilter"),
        (hook("  source: s\n"), "error 7:1 InvalidSchema"),
        (
            hook(
                "  source: s\n  handler:\n    lambda:\n      functions:\n      - |\n        return function ()\n          return tru e\n        end\n",
            ),
            "error 14:22 InvalidLambda",
        ),
        (custom("      payload:\n        a: ['x', '{% if %}']\n"), "error 13:"),
        (
            custom("      body: |\n        a {{ entity.name }\n      bodyFormat: Template\n"),
            "warning 13:11 UnclosedTag {{ is not closed by }}",
        ),
        (
            custom("      body: '{\"a\": \"{{ entity.name }}\"}'\n      bodyFormat: Template\n"),
            "warning 12:24 HtmlInJson {{ entity.name }} escapes for HTML",
        ),
        (hook(&format!("{log}  source: t\n")), "warning 11:3 Ignored source occurs twice"),
        (
            hook(log).replace("EventHook", "EventHok"),
            "error 4:1 InvalidSchema there is no kind EventHok: did you mean EventHook?",
        ),
        (hook(log).replace("kind: EventHook\n", ""), "error 3:1 InvalidSchema is missing: write one of"),
        (
            hook(log).replace("apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\n", ""),
            "error 3:1 UnknownKind is missing",
        ),
        (
            hook(log).replace("hookstream.dev", "hookstream.io"),
            "error 3:1 UnknownKind there is no kind EventHook in hookstream.io",
        ),
        (format!("{}a: [\n", hook(log)), "Unreadable"),
        (
            hook(log).replace("name: a", "name: {{ .Values.name }}"),
            "error 6:9 NotRendered a Helm template that was not rendered",
        ),
        (hook(log).replace("name: a", "name: '{{ .Values.name }}'"), "error 6:10 NotRendered"),
        (format!("{{{{- if .Values.on }}}}\n{}{{{{- end }}}}\n", hook(log)), "error 1:1 NotRendered"),
        (
            hook(&format!("{log}  connectionRef: {{name: kong}}\n").replace("source: s", "source: crd")),
            "warning 8:3 UnknownSource Kong documents no source crd: did you mean crud?",
        ),
        (
            hook(
                &format!("{log}  event: consumer\n  connectionRef: {{name: kong}}\n")
                    .replace("source: s", "source: crud"),
            ),
            "warning 11:3 UnknownEvent the source crud has no event consumer: did you mean consumers?",
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: s}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: t}\n  data:\n    k: '?'\n"
                .to_owned(),
            "error 11:5 InvalidSchema Invalid value: is not base64",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringdata: {k: x}\n".to_owned(),
            "error 4:1 InvalidSchema unknown field \"stringdata\": did you mean stringData?",
        ),
    ] {
        let found = findings(&text);
        assert!(
            found.iter().any(|finding| finding.contains(expected)),
            "{text}\nexpected: {expected}\nfound: {found:#?}"
        );
    }
    assert!(findings(&hook(log)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_standard_input_and_pipes() {
    let text = format!("{HEAD}spec: {{source: s, handler: {{log: {{}}}}, snoose: {{}}}}\n");
    let folder = folder("a.yaml", &text);
    let (code, out, error) = run_in(&folder, &["validate", "-"], &text);
    assert_eq!((code, error.as_str()), (1, ""));
    assert!(out.contains("<stdin>:5:39"), "{out}");
    for script in [
        "hookstream validate <(cat a.yaml)",
        "cat a.yaml | hookstream validate /dev/stdin",
        "hookstream validate /dev/fd/9 9< a.yaml",
        "hookstream validate a.yaml",
    ] {
        let mut command = std::process::Command::new("bash");
        let path = std::path::Path::new(env!("CARGO_BIN_EXE_hookstream")).parent().unwrap();
        let path = format!("{}:{}", path.display(), std::env::var("PATH").unwrap());
        let output = command.args(["-c", script]).env("PATH", path).current_dir(&folder).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(out.contains(":5:39  EventHook default/a  spec.snoose  unknown field"), "{script}: {out}");
    }
    let (code, out, _) = run_in(&folder, &["validate", "-"], "");
    assert_eq!(
        (code, out.as_str()),
        (0, "the files contain no object of hookstream.dev: nothing was checked\n")
    );
    // A pipe would be empty when standalone reads it again, and its objects would count as removed.
    let (code, _, error) =
        run(&["standalone", "--data", folder.join("d").to_str().unwrap(), "--manifests", "/dev/null"]).await;
    assert_eq!(code, 2);
    assert!(error.contains("/dev/null: is neither a file nor a folder"), "{error}");
}

#[test]
fn warnings_fail_with_strict() {
    let text = format!("{HEAD}spec: {{source: s, handler: {{log: {{}}}}, connectionRef: {{name: kong}}}}\n");
    let folder = folder("a.yaml", &text);
    for (flags, code) in [(&["validate", "a.yaml"][..], 0), (&["validate", "a.yaml", "--strict"], 1)] {
        let (exit_code, out, _) = run_in(&folder, flags, "");
        assert_eq!(exit_code, code, "{out}");
        assert_eq!(out.contains("1 object is valid"), code == 0, "{out}");
    }
}

#[test]
fn reports_for_other_programs() {
    let text = format!(
        "{HEAD}spec: {{source: s, handler: {{log: {{}}}}, snoose: {{}}}}\n---\n{}spec: {{source: crud, event: consumer, handler: {{log: {{}}}}, connectionRef: {{name: kong}}}}\n",
        HEAD.replace("name: a", "name: b")
    );
    let folder = folder("a b.yaml", &text);
    let report = |format: &str| {
        let (code, out, error) = run_in(&folder, &["validate", "a b.yaml", "-o", format], "");
        assert_eq!((code, error.as_str()), (1, ""), "{out}");
        out
    };
    let github = report("github");
    let lines: Vec<&str> = github.lines().collect();
    assert_eq!(lines.len(), 3, "{github}");
    assert!(lines[0].starts_with("::error file=a b.yaml,line=5,col=39,title=InvalidSchema::EventHook default/a: spec.snoose: unknown field"), "{github}");
    assert!(
        lines[1].starts_with(
            "::warning file=a b.yaml,line=11,col=22,title=UnknownEvent::EventHook default/b: spec.event: "
        ),
        "{github}"
    );

    let sarif: Value = serde_json::from_str(&report("sarif")).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    assert_eq!(
        run["tool"]["driver"]["rules"],
        json!([{"id": "InvalidSchema"}, {"id": "NotInFiles"}, {"id": "UnknownEvent"}])
    );
    let result = &run["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&json!("InvalidSchema"), &json!("error")));
    assert_eq!(
        result["locations"],
        json!([{"physicalLocation": {"artifactLocation": {"uri": "a%20b.yaml"}, "region": {"startLine": 5, "startColumn": 39}}}])
    );

    let junit = report("junit");
    for part in [
        "<testsuites tests=\"2\" failures=\"1\">",
        "<testcase classname=\"a b.yaml\" name=\"EventHook default/a\">",
        "<failure type=\"InvalidSchema\" message=\"unknown field &quot;spec.snoose&quot;: did you mean snooze?",
        "<system-out>a b.yaml:11:22: warning: EventHook default/b: spec.event: ",
    ] {
        assert!(junit.contains(part), "{part}: {junit}");
    }
    let parsed = std::process::Command::new("python3")
        .args(["-c", "import sys, xml.dom.minidom as m; print(len(m.parseString(sys.argv[1]).getElementsByTagName('testcase')))", &junit])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(parsed.stdout).unwrap().trim(), "2");
    let (code, out, _) = run_in(&folder, &["validate", "a b.yaml", "-o", "junit", "--strict"], "");
    assert_eq!(code, 1);
    assert!(out.contains("<testsuites tests=\"2\" failures=\"2\">"), "{out}");
}
