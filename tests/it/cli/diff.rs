//! `hookstream diff` reports the changes that a sync would make, and writes nothing.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::manifests::{hook, manifest, merge, secret};
use crate::harness::standalone::Standalone;
use crate::harness::{Auth0, DEADLINE, Kong, Process, eventually, watchdog};

async fn run(args: &[&str]) -> Output {
    let mut command = Process::command(args, &[]);
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Runs the command. Returns the exit code and the rows by name.
async fn diff(manifests: &str, more: &[&str]) -> (i32, Value) {
    let folder = watchdog::unique_path("diff");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("all.yaml");
    std::fs::write(&path, manifests).unwrap();
    let args = [&["diff", path.to_str().unwrap(), "--output", "json"], more].concat();
    let output = run(&args).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("s3cret") && !error.contains("s3cret"), "{text}{error}");
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{error}"));
    let mut rows = json!({});
    for row in report["data"].as_array().unwrap() {
        rows[row["name"].as_str().unwrap()] = row.clone();
    }
    (output.status.code().unwrap(), rows)
}

fn gateway(name: &str, more: Value) -> String {
    let mut spec = json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"},
        "deliverBy": "Gateway", "handler": {"webhook":
            {"signature": {"secretRef": {"name": "signing", "key": "text"}}}}});
    merge(&mut spec, more);
    hook(name, "http://receiver.test/", spec)
}

fn relay(name: &str, more: Value) -> String {
    let mut spec = json!({"source": "crud", "connectionRef": {"name": "kong"}});
    merge(&mut spec, more);
    hook(name, "http://receiver.test/", spec)
}

async fn count_writes(kong: &Kong) -> usize {
    let mut all = 0;
    for method in ["PUT", "POST", "PATCH", "DELETE"] {
        all += kong.count(method, "").await;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_no_change_after_sync_and_each_change_before() {
    let kong = Kong::start(&[]).await;
    let base = kong.connection() + &secret("signing", json!({"text": "s3cret"}));
    let both = base.clone() + &gateway("direct", json!({})) + &relay("relayed", json!({}));
    let (code, rows) = diff(&both, &["--ingest-url", "http://127.0.0.1:1"]).await;
    assert_eq!(
        (code, &rows["direct"]["change"], &rows["relayed"]["change"]),
        (1, &json!("create"), &json!("create")),
        "{rows}"
    );
    assert_eq!(count_writes(&kong).await, 0);
    assert!(rows["direct"]["message"].as_str().unwrap().contains("kubectl get -o yaml"), "{rows}");

    let standalone = Standalone::start(&both, &[]).await;
    kong.wait_for_hooks(2).await;
    let synced = |line: &str| line.contains(r#""Synced""#);
    standalone.process().wait_for_line(synced, DEADLINE).await;
    let url = format!("http://{}", standalone.listen);
    let data = standalone.data.to_str().unwrap();
    let with_data = ["--ingest-url", &url, "--data", data];
    eventually(DEADLINE, "no difference", async || {
        let (code, rows) = diff(&both, &with_data).await;
        let is_equal = code == 0 && rows["relayed"].get("uncompared").is_none();
        if is_equal { Ok(()) } else { Err(rows.to_string()) }
    })
    .await;
    // Without the keys the derived secret cannot be compared; the report lists it as uncompared.
    let (code, rows) = diff(&both, &["--ingest-url", &url]).await;
    assert_eq!((code, &rows["relayed"]["change"]), (0, &json!("unchanged")), "{rows}");
    assert_eq!(rows["relayed"]["uncompared"], json!(["config.secret"]), "{rows}");
    assert_eq!(rows["direct"]["change"], "unchanged", "{rows}");

    let state_before = (count_writes(&kong).await, kong.hooks().await);
    let other = base.replace("s3cret", "s3cret-2")
        + &gateway("direct", json!({"event": "routes"}))
        + &relay("relayed", json!({"rotation": "2"}))
        + &gateway("new", json!({}));
    let (code, rows) = diff(&other, &with_data).await;
    assert_eq!(code, 1, "{rows}");
    assert_eq!(rows["direct"]["fields"], json!(["event", "config.secret"]), "{rows}");
    assert_eq!(rows["relayed"]["fields"], json!(["config.secret"]), "{rows}");
    assert_eq!(
        (&rows["direct"]["change"], &rows["new"]["change"]),
        (&json!("update"), &json!("create")),
        "{rows}"
    );
    assert_eq!((count_writes(&kong).await, kong.hooks().await), state_before, "diff writes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn predicts_adoption_and_lists_uncompared_fields() {
    let kong = Kong::start(&[]).await;
    let base = kong.connection() + &secret("signing", json!({"text": "s3cret"}));
    let standalone = Standalone::start(&(base.clone() + &gateway("made", json!({}))), &[]).await;
    let id = kong.wait_for_hooks(1).await[0]["id"].clone();
    drop(standalone);
    let adopting = |mode: &str, more: Value| {
        let mut spec = json!({"adopt": {"id": id, "mode": mode}});
        merge(&mut spec, more);
        base.clone() + &gateway("h", spec)
    };
    let (code, rows) = diff(&adopting("Match", json!({})), &[]).await;
    assert_eq!((code, &rows["h"]["change"]), (0, &json!("unchanged")), "{rows}");
    let (code, rows) = diff(&adopting("Match", json!({"source": "balancer"})), &[]).await;
    assert_eq!(
        (code, &rows["h"]["change"], &rows["h"]["fields"]),
        (1, &json!("differs"), &json!(["source"])),
        "{rows}"
    );
    let (code, rows) = diff(&adopting("Override", json!({"source": "balancer"})), &[]).await;
    assert_eq!((code, &rows["h"]["change"]), (1, &json!("update")), "{rows}");
    // An object as the cluster prints it has a finalizer, and names its external object in the status.
    let mut printed: Value = serde_json::from_str(&gateway("printed", json!({}))[4..]).unwrap();
    printed["metadata"]["uid"] = json!("11111111-2222-4333-8444-555555555555");
    printed["metadata"]["finalizers"] = json!(["hookstream.dev/cleanup"]);
    printed["status"] = json!({"external": {"id": id, "connection": "kong", "endpoint": kong.url}});
    let (code, rows) = diff(&format!("{base}---\n{printed}\n"), &[]).await;
    assert_eq!((code, &rows["printed"]["change"]), (0, &json!("unchanged")), "{rows}");

    for (manifests, reason) in [
        (base.clone() + &relay("h", json!({})), "IngestUrlMissing"),
        (kong.connection() + &gateway("h", json!({})), "SecretMissing"),
        (secret("signing", json!({"text": "x"})) + &gateway("h", json!({})), "ConnectionMissing"),
        (
            base.clone()
                + &gateway(
                    "h",
                    json!({"adopt": {"id": "00000000-0000-4000-8000-000000000000", "mode": "Match"}}),
                ),
            "AdoptNotFound",
        ),
    ] {
        let (code, rows) = diff(&manifests, &[]).await;
        assert_eq!(
            (code, &rows["h"]["change"], &rows["h"]["reason"]),
            (2, &json!("unknown"), &json!(reason)),
            "{rows}"
        );
    }
    let (_, rows) = diff(&(base.clone() + &relay("h", json!({}))), &[]).await;
    let message = rows["h"]["message"].as_str().unwrap();
    assert!(message.contains("--ingest-url") && message.contains("give diff the same flag"), "{message}");
    let output = run(&["diff", "/no/such/file"]).await;
    assert_eq!(output.status.code(), Some(2));
    let empty = watchdog::unique_path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let file = empty.join("a.yaml");
    std::fs::write(&file, &base).unwrap();
    let output = run(&["diff", file.to_str().unwrap(), "--data", empty.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(!empty.join("keys.json").exists(), "diff creates no keys");
}

/// One list serves all hooks of a Connection: at the rate limit of the vendors, a request for each would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_hooks_take_a_bounded_number_of_requests() {
    let kong = Kong::start(&[]).await;
    let mut manifests = kong.connection() + &secret("signing", json!({"text": "s3cret"}));
    let url = "http://ingest.test";
    let base = format!("{manifests}{}", relay("first", json!({})));
    let standalone = Standalone::start(&base, &["--ingest-url", url]).await;
    let relay_url = kong.wait_for_hooks(1).await[0]["config"]["url"].as_str().unwrap().to_owned();
    drop(standalone);
    for number in 0..50 {
        let id = format!("00000000-0000-4000-8000-{number:012}");
        let (name, more) = (format!("adopted-{number}"), json!({"adopt": {"id": id, "mode": "Match"}}));
        manifests += &gateway(&name, more);
        let body = json!({"id": id, "source": "crud", "event": "consumers", "handler": "webhook",
            "config": {"url": "http://receiver.test/", "secret": "s3cret"}});
        kong.create(body).await;
        // Relays of earlier objects of the same names, as after a restore.
        manifests += &relay(&format!("restored-{number}"), json!({}));
        let former = relay_url.replace("/first", &format!("/restored-{number}"));
        kong.create(json!({"source": "crud", "handler": "webhook", "config": {"url": former}})).await;
        manifests += &relay(&format!("new-{number}"), json!({}));
    }
    let before = kong.requests().await.len();
    let (code, rows) = diff(&manifests, &["--ingest-url", url]).await;
    let requests = kong.requests().await.split_off(before);
    assert_eq!((code, rows.as_object().unwrap().len()), (1, 150), "{rows}");
    for number in [0, 49] {
        let change = |name: &str| rows[format!("{name}-{number}")]["change"].clone();
        let changes = ["adopted", "restored", "new"].map(change);
        assert_eq!(changes, ["unchanged", "unchanged", "create"], "{rows}");
    }
    assert!(requests.len() <= 5, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_streams_take_a_bounded_number_of_requests() {
    let auth0 = Auth0::start(&[]).await;
    let spec =
        json!({"auth0": {"domain": auth0.domain, "tokenSecretRef": {"name": "tenant", "key": "token"}}});
    let mut manifests = manifest("hookstream.dev/v1alpha1", "Connection", "auth0", json!({ "spec": spec }))
        + &secret("tenant", json!({"token": "the-token-of-the-test"}));
    let destination = json!({"type": "eventbridge",
        "configuration": {"aws_account_id": "123456789012", "aws_region": "eu-west-1"}});
    for number in 0..25 {
        let types = json!([{"event_type": "user.created"}]);
        let name = format!("adopted-{number}");
        let stream = json!({"name": name, "subscriptions": types, "destination": destination});
        let id = auth0.create_stream(stream).await["id"].clone();
        let adopt = json!({"adopt": {"id": id, "mode": "Match"}});
        for (name, more) in [(name, adopt), (format!("new-{number}"), json!({}))] {
            let mut spec = json!({"connectionRef": {"name": "auth0"}, "name": name, "subscriptions": [{"eventType": "user.created"}],
                "destination": {"eventBridge": {"accountId": "123456789012", "region": "eu-west-1"}}});
            merge(&mut spec, more);
            manifests += &manifest("hookstream.dev/v1alpha1", "EventStream", &name, json!({ "spec": spec }));
        }
    }
    auth0.forget_requests().await;
    let (code, rows) = diff(&manifests, &[]).await;
    let requests = auth0.requests().await;
    assert_eq!((code, rows.as_object().unwrap().len()), (1, 50), "{rows}");
    for (name, change) in [("adopted-0", "unchanged"), ("adopted-24", "unchanged"), ("new-24", "create")] {
        assert_eq!(rows[name]["change"], change, "{rows}");
    }
    assert!(requests.len() <= 5, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn auth0_import_has_no_difference() {
    let auth0 = Auth0::start(&[]).await;
    let webhook = json!({"type": "webhook", "configuration": {"webhook_endpoint": "https://example.com/hook",
        "webhook_authorization": {"method": "bearer", "token": "s3cret"}}});
    let bridge = json!({"type": "eventbridge",
        "configuration": {"aws_account_id": "123456789012", "aws_region": "eu-west-1"}});
    for (name, destination) in [("Users", webhook), ("bridge", bridge)] {
        let types = json!([{"event_type": "user.updated"}, {"event_type": "user.created"}]);
        auth0.create_stream(json!({"name": name, "subscriptions": types, "destination": destination})).await;
    }
    let script = "module.exports = function (user, context, cb) { cb(null, {}); };";
    let hook = auth0
        .create_hook(json!({"name": "sign up", "triggerId": "pre-user-registration", "script": script,
            "enabled": false, "dependencies": {"lodash": "4.17.21"}}))
        .await;
    let path = format!("/api/v2/hooks/{}/secrets", hook["id"].as_str().unwrap());
    let (status, answer) = auth0.call("POST", &path, Some(json!({"KEY": "s3cret"}))).await;
    assert!(status < 300, "{answer}");
    let folder = watchdog::unique_path("auth0");
    std::fs::create_dir_all(&folder).unwrap();
    let token = folder.join("token");
    std::fs::write(&token, "the-token-of-the-test\n").unwrap();
    let import = ["import", "auth0", "--domain", &auth0.domain, "--token-file", token.to_str().unwrap()];
    let output = run(&import).await;
    let (imported, error) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{error}");
    assert_eq!(imported.matches("mode: Match").count(), 3, "{imported}");
    assert!(
        !imported.contains("s3cret") && imported.matches("# Auth0 does not return").count() == 2,
        "{imported}"
    );

    // The Secrets that the comments of the generated manifests name.
    let mut all = imported.clone();
    for line in imported.lines().filter(|line| line.starts_with("# Auth0 does not return")) {
        let name = line.split("Secret ").nth(1).unwrap().split(' ').next().unwrap();
        let key = line.rsplit(' ').next().unwrap();
        let data = [(key.to_owned(), json!("s3cret"))];
        all.push('\n');
        all.push_str(&secret(name, Value::Object(data.into_iter().collect())));
    }
    let spec =
        json!({"auth0": {"domain": auth0.domain, "tokenSecretRef": {"name": "tenant", "key": "token"}}});
    all.push_str(&manifest("hookstream.dev/v1alpha1", "Connection", "auth0", json!({ "spec": spec })));
    all.push_str(&secret("tenant", json!({"token": "the-token-of-the-test"})));
    auth0.forget_requests().await;
    let (code, rows) = diff(&all, &[]).await;
    assert_eq!((code, rows.as_object().unwrap().len()), (0, 3), "{rows}");
    assert!(rows.as_object().unwrap().values().all(|row| row["change"] == "unchanged"), "{rows}");
    let (code, rows) = diff(&all.replace("user.updated", "user.deleted"), &[]).await;
    assert_eq!(code, 1);
    let differing =
        rows.as_object().unwrap().values().filter(|row| row["fields"] == json!(["subscriptions"]));
    assert_eq!(differing.count(), 2, "{rows}");
    let writes = auth0.requests().await.into_iter().filter(|r| r["method"] != "GET").count();
    assert_eq!(writes, 0, "diff writes nothing");
}
