//! Manifest files: `validate`, `standalone`, `diff` and `test` read them as kubectl does, and agree with the API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use hookstream::cluster::files::read_documents;
use serde_json::{Value, json};

use crate::harness::{Namespace, Process, control_plane, watchdog};

const HOOK: &str = "apiVersion: hookstream.dev/v1alpha1\nkind: EventHook\n";

/// An EventHook whose payload is in flow style: `{...}`.
fn with_payload(name: &str, payload: &str) -> String {
    format!(
        "{HOOK}metadata: {{name: {name}}}\nspec:\n  source: s\n  handler:\n    webhookCustom:\n      url: https://example.com\n      payload: {payload}\n"
    )
}

fn with_spec(name: &str, spec: &str) -> String {
    format!("{HOOK}metadata: {{name: {name}}}\nspec: {{source: s, handler: {{log: {{}}}}, {spec}}}\n")
}

fn json_hook(name: &str) -> Value {
    json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook", "metadata": {"name": name},
        "spec": {"source": "s", "handler": {"log": {}}}})
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    std::iter::once('\u{feff}')
        .chain(text.chars())
        .collect::<String>()
        .encode_utf16()
        .flat_map(unit)
        .collect()
}

/// Writes files to a new folder.
fn folder(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> PathBuf {
    let folder = watchdog::unique_path("manifest-files");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, content) in files {
        std::fs::write(folder.join(name), content).unwrap();
    }
    folder
}

/// Payloads that YAML 1.1, YAML 1.2, Go and Rust understand differently.
const PAYLOADS: &[&str] = &[
    "{y: 1, Y: 2, n: 3, on: 4, OFF: 5}",
    "{'y': 1, x: 2, yEs: 3}",
    "{a: [yes, No, on, Off, y, N, true, False, TRUE, tRue]}",
    "{a: [010, -010, +010, 08, 0o17, 0O17, 0x1F, -0x1f, 0b101, -0b11, 0b-11, 00, 0, -0, +0]}",
    "{a: [1_000, 1__0, 0x_FF, _1, 1_, 0_8]}",
    "{a: [1.0, 1., .5, +.5, -.5, 1e1, 1E+2, 1.5e-7, 1e21, 1e20, 1e100, -0.0, 12e-1]}",
    "{a: [9223372036854775807, 9223372036854775808, -9223372036854775808, 18446744073709551615, 18446744073709551616]}",
    "{a: [1e999, 1.2.3, 1e, 0x, 0b2, '-', +, 12:30:45, 190:20:30, 1.5:2]}",
    "{a: [2026-11-29, 2026-11-29T01:02:03Z, 2026-1-1]}",
    "{010: a, 1.50: b, 1e6: c, 0.00001: d, 1234567.5: e, -3: f, 0x10: g, 2026-11-29: h, .inf: i}",
    "{a: ['yes', \"010\", '1.0', '~', 'null', '']}",
    "{a: !!str 12, b: !!int '7', c: !!float 2, d: !!binary aGVsbG8=, e: !!bool 'yes', f: !x 12, g: ! 12}",
    "{a: \"\\x41\\u00e9\\U0001F600\\t\\e\", b: 'it''s'}",
    "{a: nil, b: NIL, c: undefined, d: =}",
    "{base: &b {p: 1, q: 2}, own: {p: 3, <<: *b}, merged: {<<: *b, q: 3}, list: {<<: [*b, {p: 9, r: 8}]}}",
    "{n: &n 010, again: *n, *n : key}",
    "{\"a\":1,\"b\":[1,2],\"c\":{\"d\":1.0}}",
    "{a: 1, a: 2, b: {c: 1, c: yes}}",
    "\n        text: |\n          one\n            two\n\n        folded: >-\n          a\n          b\n\n          c\n        keep: |+\n          x\n\n        last: plain\n          text",
];

#[tokio::test(flavor = "multi_thread")]
async fn reads_files_as_kubectl_stores_them() {
    let namespace = control_plane().namespace("files").await;
    let mut files: Vec<(String, Vec<u8>)> = PAYLOADS
        .iter()
        .enumerate()
        .map(|(n, payload)| {
            (format!("{n}.yaml"), with_payload(&format!("payload-{n}"), payload).into_bytes())
        })
        .collect();
    let mut add = |name: &str, content: Vec<u8>| files.push((name.to_owned(), content));
    let integers =
        "delivery: {concurrency: 010, retry: {maxAttempts: 1e1, terminalStatuses: [404.0, 0x19A]}}";
    add("integers.yaml", with_spec("integers", integers).into_bytes());
    let text = with_payload("name", "{a: é😀}");
    let named = |name: &str| text.replace("{name: name}", &format!("{{name: {name}}}"));
    add("little.yaml", utf16(&named("little"), u16::to_le_bytes));
    add("big.yaml", utf16(&named("big"), u16::to_be_bytes));
    add("mark.yaml", format!("\u{feff}{}", named("mark")).into_bytes());
    add("windows.yaml", named("windows").replace('\n', "\r\n").into_bytes());
    let lines = [json_hook("one"), json_hook("two"), json_hook("three")].map(|hook| hook.to_string());
    add("lines.json", lines.concat().into_bytes());
    add("pretty.json", format!("{:#}\n{:#}\n", json_hook("four"), json_hook("five")).into_bytes());
    let mixed =
        format!("{}\n---\n{}---\n# nothing\n---\n{}", json_hook("six"), named("seven"), json_hook("eight"));
    add("mixed.yaml", mixed.into_bytes());
    let numbers = json_hook("numbers").to_string().replace("\"log\":{}", "\"webhookCustom\":{\"url\":\"https://example.com\",\"payload\":{\"a\":[1.0,1e1,1e21,1.5e-7,18446744073709551615,-0.0],\"b\":1,\"b\":2,\"c\":\"\\ud83d\\ude00\"}}");
    add("numbers.json", numbers.into_bytes());
    let list = |kind: &str, items: Value| json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": kind, "items": items});
    let mut bare = json_hook("bare");
    bare.as_object_mut().unwrap().retain(|name, _| name != "kind" && name != "apiVersion");
    add("typed.json", list("EventHookList", json!([json_hook("typed"), bare])).to_string().into_bytes());
    let mut plain = list("List", json!([json_hook("listed")]));
    plain["apiVersion"] = json!("v1");
    add("list.yaml", format!("---\n{plain}\n---\n").into_bytes());
    let folder = folder(files);
    let path = folder.to_str().unwrap();

    namespace.kubectl(&["apply", "-f", path]).await.unwrap();
    let stored: Value =
        serde_json::from_str(&namespace.kubectl(&["get", "evh", "-o", "json"]).await.unwrap()).unwrap();
    let spec_by_name = |object: &Value| {
        (object["metadata"]["name"].as_str().unwrap().to_owned(), object["spec"].to_string())
    };
    let stored: BTreeMap<String, String> =
        stored["items"].as_array().unwrap().iter().map(spec_by_name).collect();
    let read = read_documents(&[folder]).unwrap();
    let read: BTreeMap<String, String> =
        read.iter().map(|document| spec_by_name(document.content.as_ref().unwrap())).collect();
    assert!(stored.len() > PAYLOADS.len() + 15, "{}", stored.len());
    let different: Vec<String> = stored
        .iter()
        .filter(|(name, spec)| read.get(*name) != Some(*spec))
        .map(|(name, spec)| format!("{name}\n  kubectl: {spec}\n  read:    {:?}", read.get(name)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(read.len(), stored.len());
}

/// Manifests and whether kubectl and the API server accept them.
fn verdicts() -> Vec<(String, bool)> {
    let secret = |members: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{members}\n");
    let config_map = |members: &str| secret(members).replace("kind: Secret", "kind: ConfigMap");
    let in_group = |version: &str| with_spec("g", "").replace("hookstream.dev/v1alpha1", version);
    let payload = |payload: &str| with_payload("p", payload);
    let mut rows = Vec::new();
    let mut add =
        |accepted: bool, texts: Vec<String>| rows.extend(texts.into_iter().map(|text| (text, accepted)));
    add(
        true,
        vec![
            secret("data: {k: aGVsbG8=, empty: ''}"),
            secret("data: {k: \"aGVs\\nbG8=\\n\"}"),
            secret("data: {bits: aGl=}"),
            secret("data: null\nstringData: {k: '12345'}"),
            secret("data: {k: null}\nstringData: {n: null}"),
            secret("data: {a.b-c_D: ''}\ntype: kubernetes.io/tls\nstringData: {tls.crt: '', tls.key: ''}"),
            config_map("data: {k: '1', n: null}\nbinaryData: {b: aGk=}"),
            with_spec("i", "delivery: {concurrency: 08., paused: yes}"),
            with_spec("m", "")
                .replace("{name: m}", "{name: m, labels: {a/b: x_y.Z, e: ''}, annotations: {A.b/C: ' '}}"),
            format!("# c\n---\n{}\n--- # c\n", with_spec("i", "")),
        ],
    );
    add(
        false,
        vec![
            secret("data: {k: plain-text not base64}"),
            secret("data: {k: 'aGVsbG8'}"),
            secret("data: {k: ' aGVsbG8='}"),
            secret("data: {k: 'aGk_'}"),
            secret("data: {k: 'ENC[AES256_GCM,data:abc]'}"),
            secret("data: {k: 1234}"),
            secret("data: {k: [aGk=]}"),
            secret("data: aGk="),
            secret("stringData: {k: 12345}"),
            secret("stringData: {k: yes}"),
            secret("stringData: {k: {a: b}}"),
            secret("stringData: {'a b': x}"),
            secret("stringData: {..a: x}"),
            secret("stringdata: {k: x}"),
            secret("type: kubernetes.io/tls\ndata: {tls.crt: ''}"),
            secret("data: {}").replace("{name: s}", "{name: S}"),
            config_map("data: {k: 1}"),
            config_map("data: {k: true}"),
            config_map("binaryData: {k: '?'}"),
            config_map("stringData: {k: x}"),
            in_group("hookstream.io/v1alpha1"),
            in_group("hookstreams.dev/v1alpha1"),
            in_group("hookstream.dev/v1"),
            in_group("v1"),
            in_group("v1alpha1"),
            in_group("''"),
            in_group("hookstream.dev/v1alpha1").replace("EventHook", "EventHok"),
            in_group("hookstream.dev/v1alpha1").replace("EventHook", "eventhook"),
            payload("{a: .inf}"),
            payload("{a: .NaN}"),
            payload("{~: 1}"),
            payload("{[a]: 1}"),
            payload("{18446744073709551615: 1}"),
            payload("{a: !!int x}"),
            payload("{a: *unknown}"),
            payload("{a: &a [*a]}"),
            payload("{<<: 1}"),
            payload("{a: b\u{1}}"),
            payload("[a]"),
            with_spec("m", "").replace("{name: m}", "{name: m, labels: {a: 'x y'}}"),
            with_spec("m", "").replace("{name: m}", "{name: m, labels: {'a b': x}}"),
            with_spec("m", "").replace("{name: m}", "{name: m, labels: {version: 2}}"),
            with_spec("m", "").replace("{name: m}", "{name: m, annotations: {'/a': x}}"),
            with_spec("m", "").replace("{name: m}", "{name: m, lables: {a: x}}"),
            with_spec("m", "").replace("{name: m}", "{name: M}"),
            payload("{a: \"\\/\"}"),
            payload("{a: \"\\ud83d\\ude00\"}"),
            payload("{a: @x}"),
            payload("{a: !!null x}"),
            with_spec("i", "delivery: {concurrency: 1.5}"),
            with_spec("i", "delivery: {concurrency: '8'}"),
            with_spec("i", "delivery: {paused: 'yes'}"),
            with_spec("i", "event: on"),
            format!("--- {{a: 1}}\n{}", with_spec("i", "")),
            format!("{}{}{{", json_hook("a"), json_hook("b")),
            "[]".to_owned(),
        ],
    );
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_agrees_with_kubectl() {
    let namespace = control_plane().namespace("verdicts").await;
    let check = |(number, (text, accepted)): (usize, (String, bool))| {
        let namespace = &namespace;
        async move {
            let folder = folder([(format!("{number}.yaml"), text.clone().into_bytes())]);
            let by_kubectl = dry_run(namespace, &folder.join(format!("{number}.yaml"))).await;
            let (code, out) = validate(&folder).await;
            let by_validate = if code == 0 { Ok(()) } else { Err(out) };
            let agree = by_kubectl.is_ok() == accepted && by_validate.is_ok() == accepted;
            (!agree).then(|| {
                format!(
                    "{text}\n  accepted: {accepted}\n  kubectl: {by_kubectl:?}\n  validate: {by_validate:?}"
                )
            })
        }
    };
    let rows = verdicts().into_iter().enumerate();
    let wrong: Vec<String> =
        stream::iter(rows).map(check).buffer_unordered(4).filter_map(|row| async { row }).collect().await;
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

async fn dry_run(namespace: &Namespace, file: &Path) -> Result<(), String> {
    let file = file.to_str().unwrap();
    namespace.kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", file]).await.map(drop)
}

/// Runs `hookstream validate`. Returns the exit code and what it printed.
async fn validate(folder: &Path) -> (i32, String) {
    let mut command = Process::command(["validate", folder.to_str().unwrap()], &[]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_warns_of_what_kubectl_ignores() {
    let namesake = "apiVersion: airflow.example.com/v1\nkind: Connection\nmetadata: {name: other}\n";
    let files = [
        ("twice.yaml", with_payload("a", "{b: 1, b: 2}")),
        ("end.yaml", format!("{}...\n{}", with_spec("b", ""), with_spec("c", ""))),
        ("other.yaml", namesake.to_owned()),
    ];
    let folder = folder(files.map(|(name, text)| (name.to_owned(), text.into_bytes())));
    let (code, out) = validate(&folder).await;
    assert_eq!(code, 0, "{out}");
    for part in [
        "twice.yaml:9:23",
        "b occurs twice",
        "what follows the end of the document",
        "Connection of airflow.example.com belongs to another application",
        "2 objects are valid",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

/// `diff` and `test` read a file once, and their users see no log.
#[tokio::test(flavor = "multi_thread")]
async fn commands_reject_a_mistyped_group() {
    let text = with_spec("a", "").replace("hookstream.dev", "hookstream.io");
    let folder = folder([("a.yaml".to_owned(), text.into_bytes())]);
    let path = folder.to_str().unwrap();
    for args in [&["diff", path][..], &["test", "-f", path, "--data", "{}"]] {
        let mut command = Process::command(args, &[]);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains("a.yaml") && error.contains("write apiVersion: hookstream.dev/v1alpha1"),
            "{error}"
        );
    }
}
