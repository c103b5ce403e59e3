//! The tables for people, compared as a whole with the snapshots in `tables/`: columns, their order and their alignment. Ids,
//! times, durations and addresses differ in each run and are replaced by ones of the same width.
//! `INSTA_UPDATE=always cargo test --test it cli::tables` writes them.

use super::deliveries;
use super::run;
use crate::harness::{DEADLINE, eventually, watchdog};

/// Findings of each kind of place: an unknown field, a filter, a Secret that the files lack, and a template.
const MANIFESTS: &str = r"apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: misspelt}
spec: {source: s, handler: {webhok: {}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: signed, namespace: shop}
spec:
  source: s
  filter: 'event.data.x = 1'
  handler: {webhook: {url: 'https://example.com', signature: {scheme: StandardWebhooks, secretRef: {name: keys, key: secret}}}}
---
apiVersion: hookstream.dev/v1alpha1
kind: EventHook
metadata: {name: custom}
spec: {source: s, handler: {webhookCustom: {url: 'https://example.com', payload: {text: 'a {{ event.id'}}}}
";

/// Replaces what differs in each run. The columns keep their width.
fn stable(text: &str) -> String {
    let replace = |text: &str, pattern: &str, with: &str| {
        regex::Regex::new(pattern).unwrap().replace_all(text, with).into_owned()
    };
    let text =
        replace(text, "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "01234567-89ab-7cde-8f01-23456789abcd");
    let text = replace(&text, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "2026-01-02T03:04:05.678Z");
    let text = replace(&text, r"http://127\.0\.0\.1:\d+", "http://ADDRESS");
    let text = replace(&text, r"\d+\.\d+\.\d+( \([0-9a-f]+\))?( at|\n)", "VERSION$2");
    let text = replace(&text, r"\d+% used", "N% used");
    let text = replace(&text, r"\d+ of \d+ MiB", "N of N MiB");
    // A duration and the blanks after it are as wide as its column.
    let duration = regex::Regex::new(r"\b(\d+[smh])\b *").unwrap();
    let text = duration.replace_all(&text, |found: &regex::Captures<'_>| {
        if &found[1] == "24h" { found[0].to_owned() } else { format!("{:<1$}", "5s", found[0].len()) }
    });
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn assert_table(name: &str, text: &str) {
    insta::with_settings!({ snapshot_path => "tables", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(name, stable(text));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_worker() {
    let (_receiver, standalone) = deliveries::start().await;
    let url = format!("http://{}", standalone.api);
    let run = async |args: &[&str]| run(&[args, &["--url", &url]].concat()).await;

    // The worker shares a measurement of the backlog for two seconds.
    let status = eventually(DEADLINE, "a measurement of the backlog", async || {
        let (_, out, error) = run(&["status"]).await;
        let is_measured = out.contains("2 pending") && out.contains("dead in 24h  1");
        if is_measured { Ok(out) } else { Err(format!("{out}{error}")) }
    })
    .await;
    assert_table("status", &status);
    for list in ["events", "deliveries"] {
        let (code, out, error) = run(&[list, "list", "-n", "default"]).await;
        assert_eq!((code, error.as_str()), (0, ""), "{out}");
        assert_table(list, &out);
    }
    let replay = ["deliveries", "replay", "-n", "default", "--hook", "dead", "--state", "dead", "--wait"];
    let (_, out, error) = run(&replay).await;
    assert!(error.contains("target: "), "{out}{error}");
    let (code, out, error) = run(&["replays", "list", "-n", "default"]).await;
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert_table("replays", &out);
}

#[tokio::test(flavor = "multi_thread")]
async fn table_of_findings() {
    let folder = watchdog::unique_path("tables");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("hooks.yaml");
    std::fs::write(&path, MANIFESTS).unwrap();
    let (code, out, error) = run(&["validate", path.to_str().unwrap()]).await;
    assert_eq!((code, error.as_str()), (1, ""), "{out}");
    // The widest cell of the first column is the path.
    let out = out.replace(folder.to_str().unwrap(), "DIR").replace("DIR/", "");
    let blanks = regex::Regex::new("  +").unwrap();
    assert_table("validate", &blanks.replace_all(&out, "  "));
}
