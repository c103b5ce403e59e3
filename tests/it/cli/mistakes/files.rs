//! Mistakes in manifests and in the files that flags name.

use super::{HOOK, check, mistake, run_with};
use crate::harness::watchdog;

#[tokio::test(flavor = "multi_thread")]
async fn of_files_are_answered_in_one_line() {
    let folder = watchdog::unique_path("mistakes");
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    };
    let spec = |name: &str, more: &str| write(name, &format!("{HOOK}  {more}\n"));
    let with = |from: &str, to: &str| HOOK.replace(from, to);
    let no_kind = write("kind.yaml", &with("kind: EventHook\n", ""));
    let kind = write("typo.yaml", &with("EventHook", "EventHok"));
    let group = write("group.yaml", &with("hookstream.dev", "hookstream.io"));
    let version = write("version.yaml", &with("v1alpha1", "v1"));
    let no_name = write("name.yaml", &with("{name: a}", "{}"));
    let helm = write("helm.yaml", &with("{name: a}", "{name: {{ .Values.name }}}"));
    let tab = write("tab.yaml", &with("  source", "\tsource"));
    let secret_number =
        write("number.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: 1}\n");
    let secret_plain =
        write("plain.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {k: plain text}\n");
    let days = spec("days.yaml", "delivery: {timeout: 1d}");
    let equals = spec("equals.yaml", "filter: data.x = 1");
    let and = spec("and.yaml", "filter: data.x == 1 & true");
    let name = spec("filter.yaml", "filter: payload.x == 1");
    let twice = spec("twice.yaml", "source: t");
    let field = spec("field.yaml", "snoose: {period: 1h}");
    let no_connection = spec("connection.yaml", "deliverBy: Worker");
    let lua = write("lua.yaml", &with("{log: {}}", "{lambda: {functions: ['return function ( end']}}"));
    let url = write("url.yaml", &with("{log: {}}", "{webhook: {url: example.com/x}}"));
    let event = write(
        "event.yaml",
        &with("source: s\n", "source: crud\n  event: consumer\n  connectionRef: {name: kong}\n"),
    );
    let crd = write(
        "source.yaml",
        &with("source: s\n", "source: rate-limiting-advance\n  connectionRef: {name: kong}\n"),
    );
    let missing = folder.join("nowhere.yaml").display().to_string();
    let text = write("notes.txt", "hello");
    let good = write("good.yaml", HOOK);
    let validate = |path| ["validate", path];

    check(vec![
        mistake(&validate(&no_kind), 1, &["kind.yaml:1:1", "is missing: write one of Connection, EventHook"]),
        mistake(
            &validate(&kind),
            1,
            &["typo.yaml:2:1", "there is no kind EventHok: did you mean EventHook?"],
        ),
        mistake(
            &validate(&group),
            1,
            &["group.yaml:1:1", "write apiVersion: hookstream.dev/v1alpha1 and kind: EventHook"],
        ),
        mistake(
            &validate(&version),
            1,
            &["version.yaml:1:1", "EventHook has no version hookstream.dev/v1; it has"],
        ),
        mistake(&validate(&no_name), 1, &["name.yaml:3:1", "metadata.name", "Required value"]),
        mistake(&validate(&helm), 1, &["helm.yaml:3:18", "a Helm template that was not rendered"]),
        mistake(&validate(&tab), 1, &["tab.yaml:5:"]),
        mistake(&validate(&secret_number), 1, &["number.yaml:4:14", "must be a string: put it into quotes"]),
        mistake(
            &validate(&secret_plain),
            1,
            &["plain.yaml:4:8", "is not base64: write plain text into stringData"],
        ),
        mistake(&validate(&days), 1, &["days.yaml:7:14", "must be a duration such as 15s"]),
        mistake(&validate(&equals), 1, &["equals.yaml:7:18", "a comparison is written =="]),
        mistake(&validate(&and), 1, &["and.yaml:7:23", "and is written &&"]),
        mistake(
            &validate(&name),
            1,
            &["filter.yaml:7:11", "unknown name payload: use source, event, data or attributes"],
        ),
        mistake(
            &validate(&field),
            1,
            &["field.yaml:7:3", "unknown field \"spec.snoose\": did you mean snooze?"],
        ),
        mistake(&validate(&no_connection), 1, &["connection.yaml:4:1", "connectionRef"]),
        mistake(&validate(&lua), 1, &["lua.yaml:6:"]),
        mistake(&validate(&url), 1, &["url.yaml:6:", "spec.handler.webhook.url"]),
        mistake(
            &["test", "-f", &helm, "--data", "{}"],
            2,
            &["helm.yaml: line 3, column 18: a Helm template that was not rendered"],
        ),
        mistake(
            &["test", "-f", &equals, "--data", "{}"],
            1,
            &["filter: line 1, column 8: a comparison is written =="],
        ),
        mistake(&["test", "-f", &good, "--data", "{]"], 2, &["--data is not JSON"]),
        mistake(
            &["test", "-f", &good, "--data", "@nowhere.json"],
            2,
            &["reading nowhere.json: No such file"],
        ),
        mistake(
            &["test", "-f", &text, "--data", "{}"],
            2,
            &["notes.txt: a document is no object: it needs apiVersion, kind and metadata"],
        ),
        mistake(&["diff", &missing], 2, &["nowhere.yaml: No such file"]),
    ])
    .await;
    // Warnings do not fail, and name line and column too.
    for (path, parts) in [
        (&twice, ["twice.yaml:7:3", "source occurs twice in one map: the last value counts"]),
        (&event, ["event.yaml:6:3", "the source crud has no event consumer: did you mean consumers?"]),
        (&crd, ["source.yaml:5:3", "did you mean rate-limiting-advanced?"]),
    ] {
        let (code, out, _) = run_with(&["validate", path], &[]).await;
        assert_eq!(code, 0, "{out}");
        assert!(parts.iter().all(|part| out.contains(part)), "{out}");
    }
}
