//! `hookstream standalone`: manifests from files, and start and end of the process.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, manifest, merge, quick};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Kong, Process, Receiver, Reply, eventually};

fn relayed(url: &str, more: Value) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"}}));
    merge(&mut spec, more);
    hook("relayed", url, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn scan_applies_edited_and_new_manifests() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let hook_to = |path: &str| hook("h", &format!("{}/{path}", receiver.url()), quick());
    let standalone = Standalone::start(&hook_to("old"), &[]).await;
    standalone.publish_accepted(&event("1")).await;
    assert_eq!(receiver.wait_for(1, DEADLINE).await[0].path, "/old");
    // A scan reads every file. A scan that runs during the edit may read the old text; the next one reads the new text.
    standalone.write("all.yaml", &hook_to("new"));
    for _ in 0..2 {
        standalone.wait_for_scan().await;
    }
    standalone.publish_accepted(&event("2")).await;
    assert_eq!(receiver.wait_for(2, DEADLINE).await[1].path, "/new");
    // A new file in a new folder adds a hook.
    std::fs::create_dir(standalone.manifests.join("more")).unwrap();
    standalone
        .write("more/second.json", &hook("second", &format!("{}/second", receiver.url()), quick())[4..]);
    for _ in 0..2 {
        standalone.wait_for_scan().await;
    }
    let (_, answer) = standalone.publish(&event("3")).await;
    assert_eq!(answer["deliveries"], 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_manifest_blocks_no_other_and_is_logged_once() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut standalone = Standalone::prepare(&hook("good", &receiver.url(), quick()), &[]);
    standalone.write("broken.yaml", "a: [");
    standalone.write("unknown.yaml", &hook("unknown", &receiver.url(), json!({"snoose": "5s"})));
    standalone.write("no-spec.yaml", &manifest("hookstream.dev/v1alpha1", "EventHook", "no-spec", json!({})));
    standalone.write(
        "later.yaml",
        &hook("later", &receiver.url(), json!({"source": "other", "filter": "dat.x == 1"})),
    );
    standalone.write("no-name.yaml", "{apiVersion: hookstream.dev/v1alpha1, kind: EventHook, metadata: {}}");
    standalone.write("stream.yaml", &manifest("hookstream.dev/v1alpha1", "EventStream", "stream", json!({})));
    standalone.write("config.yaml", &manifest("v1", "ConfigMap", "other-things", json!({})));
    standalone.restart().await;
    let problems =
        ["broken.yaml", "spec.snoose", "no-spec", "unknown name dat", "metadata.name", "EventStream"];
    for text in problems {
        standalone.process().wait_for_line(|line| line.contains(text), DEADLINE).await;
    }
    standalone.publish_accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    // Later scans find the same files and do not report them again.
    for _ in 0..3 {
        standalone.wait_for_scan().await;
    }
    let log = standalone.process().log();
    for text in problems {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
        assert_eq!(lines.len(), 1, "{text}: {lines:#?}");
    }
    assert!(!log.contains("other-things"), "objects of other kinds are ignored silently");
    // A file that becomes invalid keeps its last valid objects.
    standalone.write("all.yaml", "}");
    standalone.process().wait_for_line(|line| line.contains("all.yaml"), DEADLINE).await;
    standalone.publish_accepted(&event("2")).await;
    let received = receiver.wait_for(2, DEADLINE).await;
    assert_eq!(received.len(), 2, "an invalid hook sends nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_start_exits_with_one_line() {
    let standalone = Standalone::prepare(&hook("h", "http://127.0.0.1:1", json!({})), &[]);
    let text = |path: &std::path::Path| path.display().to_string();
    let (manifests, data) = (text(&standalone.manifests), text(&standalone.data));
    let empty = standalone.manifests.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (empty, token) = (text(&empty), format!("{data}-token"));
    std::fs::write(&token, "\n").unwrap();
    let file_as_data = text(&standalone.manifests.join("all.yaml"));
    let cases: &[(&[&str], &str)] = &[
        (&["--manifests", &manifests], "give --data with a folder for the state, or --store-url"),
        (&["--manifests", "/no/such/path", "--data", &data], "/no/such/path"),
        (&["--manifests", &empty, "--data", &data], "no manifest"),
        (&["--manifests", &manifests, &empty, "--data", &data], "no manifest"),
        (&["--manifests", &manifests, "--data", &data, "--listen", "0.0.0.0:0"], "--token-file"),
        (&["--manifests", &manifests, "--data", &data, "--listen", "[::]:0"], "--token-file"),
        (
            &["--manifests", &manifests, "--data", &data, "--api-listen", "0.0.0.0:0"],
            "--api-listen 0.0.0.0:0",
        ),
        (
            &["--manifests", &manifests, "--data", &data, "--listen", "nonsense"],
            "'nonsense' for '--listen <ADDRESS>'",
        ),
        (&["--manifests", &manifests, "--data", &data, "--listen", "127.0.0.1:0"], "--listen 127.0.0.1:0"),
        (&["--manifests", &manifests, "--data", &data, "--token-file", &token], "is empty"),
        (&["--manifests", &manifests, "--data", &data, "--token-file", "/no/such"], "/no/such"),
        (&["--manifests", &manifests, "--data", &file_as_data, "--listen", &standalone.listen], "--data"),
        (&["--manifests", &manifests, "--data", &data, "--log-level", "[["], "--log-level"),
    ];
    for (args, expected) in cases {
        let ops = ["--ops-listen", &standalone.ops];
        let process = Process::spawn(["standalone"].iter().chain(*args).chain(&ops), &[]);
        let status = process.wait(DEADLINE).await;
        let log = process.log();
        assert_eq!(status.code(), Some(2), "{args:?}: {log}");
        assert_eq!(log.trim().lines().count(), 1, "{args:?}: {log}");
        assert!(log.starts_with("hookstream: ") && log.contains(expected), "{args:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_ports_and_folders_in_use() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let manifests = kong.connection() + &relayed(&receiver.url(), json!({}));
    let standalone = Standalone::start(&manifests, &[]).await;
    kong.wait_for_hooks(1).await;
    let count_writes =
        async || (kong.count("PUT", "").await, kong.count("PATCH", "").await, kong.count("POST", "").await);
    let writes_before = count_writes().await;

    let mut second = Standalone::prepare(&manifests, &[]);
    second.data = standalone.data.clone();
    let process = second.spawn();
    let status = process.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(2), "{}", process.log());
    let log = process.log();
    assert!(log.contains("another process holds") && log.lines().count() == 1, "{log}");
    assert_eq!(count_writes().await, writes_before, "the second process wrote to Kong");

    let mut same_port = Standalone::prepare(&manifests, &[]);
    same_port.listen = standalone.listen.clone();
    let process = same_port.spawn();
    assert_eq!(process.wait(DEADLINE).await.code(), Some(2));
    assert!(process.log().contains(&format!("cannot listen on {}", standalone.listen)), "{}", process.log());
    standalone.publish_accepted(&event("1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_file_requires_token() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut standalone = Standalone::prepare(&hook("h", &receiver.url(), quick()), &[]);
    let token = standalone.manifests.with_file_name("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let flag = token.display().to_string();
    let port = standalone.listen.rsplit(':').next().unwrap().to_owned();
    standalone = {
        let mut with_token =
            Standalone::prepare(&hook("h", &receiver.url(), quick()), &["--token-file", &flag]);
        // With a token, the process may listen on every address.
        with_token.listen = format!("0.0.0.0:{port}");
        with_token
    };
    standalone.restart().await;
    standalone.listen = format!("127.0.0.1:{port}");
    let post = || standalone.client.post(standalone.url(EVENTS)).json(&event("1"));
    for (request, status) in [
        (post(), 401),
        (post().bearer_auth("wrong"), 401),
        (post().bearer_auth("s3cret2"), 401),
        (post().header("authorization", "Basic s3cret"), 401),
        (post().bearer_auth(""), 401),
        (post().bearer_auth("s3cret"), 202),
        (post().header("authorization", "bearer s3cret"), 202),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        if status == 401 {
            assert!(response.headers().contains_key("www-authenticate"));
            let text = response.text().await.unwrap();
            assert!(text.contains("Unauthenticated") && !text.contains("s3cret"), "{text}");
        }
    }
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_survives_restart_and_crash() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let manifests = kong.connection() + &relayed(&receiver.url(), json!({}));
    let mut standalone = Standalone::start(&manifests, &[]).await;
    let first_hooks = kong.wait_for_hooks(1).await;
    let is_synced = |line: &str| line.contains(r#""Synced""#) || line.contains(r#""Connected""#);
    standalone.process().wait_for_line(is_synced, DEADLINE).await;
    let count_writes = async || {
        let mut all = 0;
        for method in ["PUT", "POST", "PATCH", "DELETE"] {
            all += kong.count(method, "").await;
        }
        all
    };
    let writes_before = count_writes().await;
    for is_killed in [false, true] {
        let reads_before = kong.count("GET", "").await;
        if is_killed {
            standalone.process().kill9();
        } else {
            assert_eq!(standalone.process().terminate().await.code(), Some(0));
        }
        standalone.restart().await;
        eventually(DEADLINE, "GETs of Kong's version and of the hook", async || {
            let now = kong.count("GET", "").await;
            if now >= reads_before + 2 { Ok(()) } else { Err(format!("{reads_before} then {now}")) }
        })
        .await;
        eventually(DEADLINE, "reconciles of the connection and the hook", async || {
            let applied = async |kind: &str| {
                let kind = format!(r#"kind="{kind}""#);
                standalone.count("hookstream_reconciles", &[&kind, r#"outcome="Applied""#]).await
            };
            let applied = [applied("Connection").await, applied("EventHook").await];
            if applied.iter().all(|n| *n > 0) { Ok(()) } else { Err(format!("{applied:?}")) }
        })
        .await;
        assert_eq!(
            count_writes().await,
            writes_before,
            "a reconcile writes nothing when Kong has the desired hook"
        );
        assert_eq!(kong.hooks().await, first_hooks, "no second hook, and the same secret");
    }
    assert_eq!(kong.emit("crud", "consumers", json!({"id": "1"})).await, 1);
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_manifest_deletes_remote_hook_with_prune_only() {
    for prune in [false, true] {
        let kong = Kong::start(&[]).await;
        let args: &[&str] = if prune { &["--prune"] } else { &[] };
        let standalone = Standalone::start(&kong.connection(), args).await;
        standalone.write("hook.yaml", &relayed("http://127.0.0.1:1", json!({})));
        let first_hooks = kong.wait_for_hooks(1).await;
        // A rename moves the object to another file, which is not a removal.
        std::fs::rename(standalone.manifests.join("hook.yaml"), standalone.manifests.join("moved.yaml"))
            .unwrap();
        // Once a hook that was added later reaches Kong, the controller has handled the rename.
        let mut markers = Markers::new(&standalone, &kong);
        markers.add_two(&first_hooks).await;
        std::fs::remove_file(standalone.manifests.join("moved.yaml")).unwrap();
        if prune {
            kong.until_hooks("no hook of the removed manifest", |hooks| {
                !hooks.iter().any(|hook| hook["id"] == first_hooks[0]["id"])
            })
            .await;
        } else {
            markers.add_two(&first_hooks).await;
        }
    }
}

/// Manifests that are added one after another. Once such a hook reaches Kong, the controller has handled earlier changes
/// of the manifests.
struct Markers<'a> {
    standalone: &'a Standalone,
    kong: &'a Kong,
    names: Vec<String>,
}

impl Markers<'_> {
    fn new<'a>(standalone: &'a Standalone, kong: &'a Kong) -> Markers<'a> {
        Markers { standalone, kong, names: Vec::new() }
    }

    /// Adds two hooks, the second when Kong has the first. Asserts that Kong still has `kept_hooks`.
    async fn add_two(&mut self, kept_hooks: &[Value]) {
        for _ in 0..2 {
            let name = format!("marker-{}", self.names.len());
            let spec = json!({"source": "crud", "event": "routes", "connectionRef": {"name": "kong"}});
            self.standalone.write(&format!("{name}.yaml"), &hook(&name, "http://127.0.0.1:1", spec));
            self.names.push(name);
            let count = kept_hooks.len() + self.names.len();
            let hooks = self.kong.until_hooks("one more marker", |hooks| hooks.len() >= count).await;
            for hook in kept_hooks {
                assert!(hooks.contains(hook), "Kong lost a hook: {hooks:#?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn finishes_attempts_in_flight_on_sigterm() {
    // The attempts stay in flight until the receiver has permits for their answers.
    let answers = Arc::new(Semaphore::new(0));
    let permits = answers.clone();
    let receiver =
        Receiver::start(move |_, _| Reply::AfterPermit(permits.clone(), Reply::status(200).into()));
    let spec = json!({"delivery": {"concurrency": 4, "timeout": "60s"}});
    let mut standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    for number in 0..10 {
        standalone.publish_accepted(&event(&format!("{number}"))).await;
    }
    receiver.wait_for(4, DEADLINE).await;
    let answer_attempts = async {
        // The worker closes its ports in the same step in which the dispatcher stops.
        eventually(DEADLINE, "the API port to be closed", async || {
            match TcpStream::connect(&standalone.api).await {
                Ok(_) => Err("still open".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
        answers.add_permits(10);
    };
    let (status, ()) = tokio::join!(standalone.process().terminate(), answer_attempts);
    assert_eq!(status.code(), Some(0), "{}", standalone.process().log());
    assert_eq!(receiver.requests().len(), 4, "no attempt starts after SIGTERM");
    assert!(
        !standalone.process().log().contains("attempts in flight aborted"),
        "{}",
        standalone.process().log()
    );
    standalone.restart().await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 6).await;
    assert_eq!(receiver.requests().len(), 10, "finished deliveries are not sent again");
    let readyz = standalone.client.get(format!("http://{}/readyz", standalone.ops)).send().await.unwrap();
    assert_eq!(readyz.status(), 200);
    let (status, body) = answer(standalone.client.post(standalone.url(EVENTS)).json(&event("0"))).await;
    assert_eq!((status, &body["id"]), (202, &json!("0")), "the same 202 for a repeated id: {body}");
}
