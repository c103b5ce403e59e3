//! The commands for authors of hooks: validate, test, ping, sources.

use serde_json::{Value, json};

use super::run;
use crate::harness::manifests::{hook, manifest, secret};
use crate::harness::standalone::Standalone;
use crate::harness::{Receiver, Reply, watchdog};

/// Writes a file with this text to a unique path.
fn file(name: &str, text: &str) -> String {
    let folder = watchdog::unique_path("files");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn lambda(name: &str, function: &str) -> String {
    let spec = json!({"source": "s", "handler": {"lambda": {"functions": [function]}}});
    manifest("hookstream.dev/v1alpha1", "EventHook", name, json!({ "spec": spec }))
}

fn custom(more: Value) -> String {
    let mut custom = json!({"url": "https://example.com/x"});
    crate::harness::manifests::merge(&mut custom, more);
    let spec = json!({"source": "s", "handler": {"webhookCustom": custom}});
    manifest("hookstream.dev/v1alpha1", "EventHook", "c", json!({ "spec": spec }))
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_reports_errors() {
    let connection = manifest(
        "hookstream.dev/v1alpha1",
        "Connection",
        "kong",
        json!({"spec": {"kong": {"adminUrl": "https://kong.example.com:8444"}}}),
    );
    let tenant = manifest(
        "hookstream.dev/v1alpha1",
        "Connection",
        "kong",
        json!({"spec": {"auth0": {"domain": "acme.eu.auth0.com", "tokenSecretRef": {"name": "a", "key": "b"}}}}),
    );
    let signed = json!({"handler": {"webhook": {"signature": {"secretRef": {"name": "keys", "key": "k"}}}}});
    let related = json!({"source": "crud", "connectionRef": {"name": "kong"}});
    let url = "https://example.com/x";
    let valid = hook("a", url, json!({}));
    // The text; the exit code; then of the expected finding: severity, field, reason, part of the message.
    type ExpectedFinding = Option<(&'static str, &'static str, &'static str, &'static str)>;
    let cases: Vec<(String, i32, ExpectedFinding)> = vec![
        (valid.clone(), 0, None),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n".into(), 0, None),
        ("a: [".into(), 1, Some(("error", "", "Unreadable", ""))),
        (
            hook("a", url, json!({"snoose": {}})),
            1,
            Some(("error", "spec.snoose", "InvalidSchema", "unknown field")),
        ),
        (
            hook("a", url, json!({"deliverBy": "Worker"})),
            1,
            Some(("error", "spec", "InvalidSchema", "connectionRef")),
        ),
        (
            hook("a", url, json!({"delivery": {"timeout": "soon"}})),
            1,
            Some(("error", "spec.delivery.timeout", "InvalidSchema", "")),
        ),
        (
            hook("a", url, json!({"filter": "data.x ==\n 1 +"})),
            1,
            Some(("error", "spec.filter", "InvalidFilter", "line 2, column 5 of the text")),
        ),
        (
            lambda("a", "return function ()\n  return tru e\nend"),
            1,
            Some((
                "error",
                "spec.handler.lambda.functions[0]",
                "InvalidLambda",
                "line 2, column 14 of the text",
            )),
        ),
        (
            custom(json!({"payload": {"a": ["x", "one\n {% if %}"]}})),
            1,
            Some(("error", "spec.handler.webhookCustom.payload.a[1]", "InvalidTemplate", "")),
        ),
        (
            custom(json!({"body": "{(secrets.html)}"})),
            1,
            Some(("error", "spec.handler.webhookCustom.body", "InvalidTemplate", "")),
        ),
        (
            custom(json!({"body": "{\n \"a\": \"{{ entity.name }}\"}"})),
            0,
            Some(("warning", "spec.handler.webhookCustom.body", "HtmlInJson", "json(entity.name)")),
        ),
        (valid.clone() + &valid, 1, Some(("error", "metadata.name", "Duplicate", "also defined in"))),
        (
            hook("a", url, signed.clone()),
            0,
            Some(("warning", "spec.handler.webhook.signature.secretRef", "NotInFiles", "keys")),
        ),
        (
            hook("a", url, signed.clone()) + &secret("keys", json!({"other": "x"})),
            1,
            Some(("error", "spec.handler.webhook.signature.secretRef", "KeyMissing", "no key k")),
        ),
        (hook("a", url, signed) + &secret("keys", json!({"k": "x"})), 0, None),
        (hook("a", url, related.clone()) + &connection, 0, None),
        (
            hook("a", url, related) + &tenant + &secret("a", json!({"b": "x"})),
            1,
            Some(("error", "spec.connectionRef", "WrongVendor", "not a Connection to kong")),
        ),
    ];
    for (text, code, expected) in cases {
        let path = file("all.yaml", &text);
        let (status, out, error) = run(&["validate", &path, "--output", "json"]).await;
        assert_eq!(status, code, "{text}\n{out}{error}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["valid"], json!(code == 0));
        let findings = report["findings"].as_array().unwrap();
        let Some((severity, field, reason, part)) = expected else {
            assert!(findings.is_empty(), "{text}\n{out}");
            continue;
        };
        let finding = findings.iter().find(|f| f["field"] == field && f["reason"] == reason);
        let finding = finding.unwrap_or_else(|| panic!("{text}\n{out}"));
        assert_eq!(finding["severity"], severity, "{out}");
        assert!(finding["message"].as_str().unwrap().contains(part), "{out}");
        let (status, table, _) = run(&["validate", &path]).await;
        assert_eq!(status, code);
        assert!(table.contains("SEVERITY") && table.contains(severity), "{table}");
    }
    let (status, _, error) = run(&["validate", "/no/such/path"]).await;
    assert_eq!(status, 2, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_valid() {
    for folder in [
        "deploy/samples",
        "deploy/samples/quickstart",
        "deploy/samples/eventhook-slack.yaml",
        "deploy/samples/eventhook-lambda.yaml",
    ] {
        let path = format!("{}/{folder}", env!("CARGO_MANIFEST_DIR"));
        let (status, out, error) = run(&["validate", &path]).await;
        assert_eq!(status, 0, "{out}{error}");
    }
}

/// Folders often belong to different clusters, so a name that occurs in two of them is a warning and not an error.
#[tokio::test(flavor = "multi_thread")]
async fn same_name_in_two_folders_is_a_warning() {
    let folder = watchdog::unique_path("files");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let signed = json!({"handler": {"webhook": {"signature": {"secretRef": {"name": "keys", "key": "k"}}}}});
    let signed = hook("a", "https://example.com/x", signed);
    // References are resolved in the hook's own folder first.
    write("one/all.yaml", &(signed.clone() + &secret("keys", json!({"k": "x"}))));
    write("two/all.yaml", &(signed.clone() + &secret("keys", json!({"k": "y"}))));
    write("zero/secret.yaml", &secret("keys", json!({"other": "z"})));
    let path = folder.display().to_string();
    let (status, out, _) = run(&["validate", &path, "--output", "json"]).await;
    assert_eq!(status, 0, "{out}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let reported: Vec<_> = findings.iter().map(|f| (&f["severity"], &f["reason"])).collect();
    assert_eq!(reported, [(&json!("warning"), &json!("Duplicate"))], "{out}");
    write("two/more.yaml", &signed);
    let (status, out, _) = run(&["validate", &path, "--output", "json"]).await;
    assert_eq!(status, 1, "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn test_prints_request_and_masks_secrets() {
    let receiver = Receiver::start(|_, _| Reply::status(200).header("x-received", "yes").body("thanks"));
    let keys =
        secret("keys", json!({"url": format!("{}/s3cr3t-path", receiver.url()), "token": "s3cr3t-token"}));
    let handler = json!({"urlSecretRef": {"name": "keys", "key": "url"}, "method": "PUT",
        "headersFrom": [{"name": "x-token", "secretRef": {"name": "keys", "key": "token"}}],
        "payload": {"text": "{{ entity.username }}{% if operation == 'create' then %} is new{% end %}", "n": 1}});
    let spec = json!({"source": "crud", "event": "consumers", "handler": {"webhookCustom": handler}});
    let hook = manifest("hookstream.dev/v1alpha1", "EventHook", "h", json!({ "spec": spec }));
    let (hook, keys) = (file("hook.yaml", &hook), file("keys.yaml", &keys));
    let data = file("data.json", r#"{"operation":"create","entity":{"username":"Jane"}}"#);
    let data = format!("@{data}");
    let dry = ["test", "-f", &hook, "--data", &data, "--dry-run", "--output", "json"];

    // Secrets are masked even if their manifests are missing.
    for more in [&[][..], &["-f", &keys][..]] {
        let (status, out, error) = run(&[&dry[..], more].concat()).await;
        assert_eq!(status, 0, "{error}");
        let request: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&request["method"], &request["url"]), (&json!("PUT"), &json!("***")));
        assert_eq!(request["headers"]["x-token"], "***");
        assert_eq!(request["headers"]["content-type"], "application/json");
        assert_eq!(request["body"], r#"{"n":1,"text":"Jane is new"}"#);
        assert!(!out.contains("s3cr3t") && !error.contains("s3cr3t"), "{out}{error}");
    }
    assert_eq!(receiver.requests().len(), 0, "a dry run sends nothing");

    let send = ["test", "-f", &hook, "-f", &keys, "--data", &data, "--output", "json"];
    let (status, out, error) = run(&send).await;
    assert_eq!(status, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["result"]["status"], &report["result"]["body"]), (&json!(200), &json!("thanks")));
    assert_eq!(report["result"]["headers"]["x-received"], "yes");
    assert_eq!((&report["data"]["source"], &report["data"]["event"]), (&json!("crud"), &json!("consumers")));
    let received = receiver.requests();
    assert_eq!(
        (received.len(), received[0].path.as_str(), received[0].header("x-token")),
        (1, "/s3cr3t-path", "s3cr3t-token")
    );
    assert_eq!(received[0].json(), json!({"n": 1, "text": "Jane is new"}));

    receiver.script(|_, _| Reply::status(503));
    let (status, _, error) = run(&send).await;
    assert_eq!(status, 1);
    assert!(error.contains("503"), "{error}");
    let (status, _, error) = run(&[&send[..], &["--egress-deny", "127.0.0.0/8"]].concat()).await;
    assert_eq!(status, 1);
    assert!(error.contains("EgressDenied"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn test_reports_script_errors() {
    for (text, code, out_part, error_part) in [
        (
            lambda("a", "return function () return true end"),
            0,
            r#"{"functions":[{"ok":true,"result":true}]}"#,
            "",
        ),
        (
            lambda("a", "return function () return {n = 1} end"),
            1,
            r#"{"functions":[{"ok":true,"result":{"n":1}}]}"#,
            "returning true",
        ),
        (lambda("a", "return function (d)\nerror('no ' .. d.x) end"), 1, r#""ok":false"#, "2: no luck"),
        (lambda("a", "return function ( end"), 1, "", "InvalidLambda"),
        (custom(json!({"body": "{{ a.b.c }}"})), 1, "", "line 1"),
        (custom(json!({"body": "{% while true do end %}"})), 1, "", "ScriptTimeout"),
    ] {
        let path = file("hook.yaml", &text);
        let args = ["test", "-f", &path, "--data", r#"{"x":"luck"}"#, "--dry-run", "--output", "json"];
        let (status, out, error) = run(&args).await;
        assert_eq!(status, code, "{text}\n{out}{error}");
        assert!(out.contains(out_part), "{text}\n{out}");
        if error_part == "InvalidLambda" {
            assert!(error.contains("line 1, column"), "{error}");
        } else {
            assert!(error.contains(error_part), "{text}\n{error}");
        }
    }
    let path = file(
        "hook.yaml",
        &(lambda("a", "return function () return true end")
            + &lambda("b", "return function () return true end")),
    );
    let (status, _, error) = run(&["test", "-f", &path, "--data", "{}"]).await;
    assert_eq!(status, 2);
    assert!(error.contains("--hook"), "{error}");
    let (status, ..) = run(&["test", "-f", &path, "--hook", "b", "--data", "{}"]).await;
    assert_eq!(status, 0);
    let (status, _, error) = run(&["test", "-f", &path, "--hook", "b", "--data", "no"]).await;
    assert_eq!(status, 2);
    assert!(error.contains("--data is not JSON"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_sources_without_worker() {
    let (status, all, _) = run(&["sources"]).await;
    assert_eq!(status, 0);
    assert!(all.contains("rate-limiting-advanced  rate-limit-exceeded"), "{all}");
    let (_, one, _) = run(&["sources", "dao:crud", "--output", "json"]).await;
    let event = |name: &str| json!({"source": "dao:crud", "event": name, "fields": ["operation", "entity", "old_entity", "schema"]});
    let expected = json!({"items": [event("create"), event("update"), event("delete")]});
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap(), expected);
    let (status, _, error) = run(&["sources", "shop"]).await;
    assert_eq!(status, 2);
    assert!(error.contains("shop is not in the catalogue"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_hook_through_worker() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let log = manifest(
        "hookstream.dev/v1alpha1",
        "EventHook",
        "l",
        json!({"spec": {"source": "s", "handler": {"log": {}}}}),
    );
    let standalone = Standalone::start(&(hook("a", &receiver.url(), json!({})) + &log), &[]).await;
    let address = format!("http://{}", standalone.api);
    let ping = async |name: &str| run(&["ping", "-n", "default", name, "--url", &address]).await;
    let (status, out, error) = ping("a").await;
    assert_eq!(status, 0, "{error}");
    assert!(out.contains("a answered the ping"), "{out}");
    let body = receiver.requests()[0].json();
    assert_eq!((&body["source"], &body["event"]), (&json!("kong:event_hooks"), &json!("ping")));
    receiver.script(|_, _| Reply::status(500));
    assert_eq!(ping("a").await.0, 1);
    assert_eq!(ping("missing").await.0, 2);
    assert_eq!(ping("l").await.0, 2);
}
