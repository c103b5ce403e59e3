//! `hookstream standalone`: files in the cluster's place, and how the process starts and ends.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Process, Receiver, Reply, eventually};
use crate::standalone::{
    DELIVERED, EVENTS, FINISHED, Kong, Standalone, answer, event, hook, manifest, merge, quick, stays,
};

fn relayed(url: &str, more: Value) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"}}));
    merge(&mut spec, more);
    hook("relayed", url, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_manifest_counts_within_two_seconds() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let at = |path: &str| hook("h", &format!("{}/{path}", receiver.url()), quick());
    let standalone = Standalone::start(&at("old"), &[]).await;
    standalone.accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    standalone.write("all.yaml", &at("new"));
    let edited = Instant::now();
    let mut number = 1;
    loop {
        number += 1;
        standalone.accepted(&event(&format!("{number}"))).await;
        if receiver.wait_for(number, DEADLINE).await[number - 1].path == "/new" {
            break;
        }
        assert!(edited.elapsed() < Duration::from_secs(2), "still the old one");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A new file in a new folder is one more.
    std::fs::create_dir(standalone.manifests.join("more")).unwrap();
    standalone
        .write("more/second.json", &hook("second", &format!("{}/second", receiver.url()), quick())[4..]);
    eventually(Duration::from_secs(2), "the new hook", async || {
        number += 1;
        let (_, said) = standalone.publish(&event(&format!("{number}"))).await;
        if said["deliveries"] == 2 { Ok(()) } else { Err(said.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_manifest_blocks_no_other_and_is_said_once() {
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
    let said = ["broken.yaml", "spec.snoose", "no-spec", "no such name: dat", "metadata.name", "EventStream"];
    for text in said {
        standalone.process().wait_for_line(|line| line.contains(text), DEADLINE).await;
    }
    standalone.accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    // Several scans later each stands there once.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let log = standalone.process().log();
    for text in said {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
        assert_eq!(lines.len(), 1, "{text}: {lines:#?}");
    }
    assert!(!log.contains("other-things"), "a folder for GitOps holds other things too");
    // A file that breaks keeps what it held.
    standalone.write("all.yaml", "}");
    standalone.process().wait_for_line(|line| line.contains("all.yaml"), DEADLINE).await;
    standalone.accepted(&event("2")).await;
    let seen = receiver.wait_for(2, DEADLINE).await;
    assert_eq!(seen.len(), 2, "a hook that is not understood sends nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_work_ends_at_once_with_one_line() {
    let standalone = Standalone::prepare(&hook("h", "http://127.0.0.1:1", json!({})), &[]);
    let text = |path: &std::path::Path| path.display().to_string();
    let (manifests, data) = (text(&standalone.manifests), text(&standalone.data));
    let empty = standalone.manifests.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let (empty, token) = (text(&empty), format!("{data}-token"));
    std::fs::write(&token, "\n").unwrap();
    let file_as_data = text(&standalone.manifests.join("all.yaml"));
    let cases: &[(&[&str], &str)] = &[
        (&["--manifests", "/no/such/path", "--data", &data], "/no/such/path"),
        (&["--manifests", &empty, "--data", &data], "no manifest"),
        (&["--manifests", &manifests, &empty, "--data", &data], "no manifest"),
        (&["--manifests", &manifests, "--data", &data, "--listen", "0.0.0.0:0"], "--token-file"),
        (&["--manifests", &manifests, "--data", &data, "--listen", "[::]:0"], "--token-file"),
        (
            &["--manifests", &manifests, "--data", &data, "--api-listen", "0.0.0.0:0"],
            "--api-listen 0.0.0.0:0",
        ),
        (&["--manifests", &manifests, "--data", &data, "--listen", "nonsense"], "--listen nonsense"),
        (&["--manifests", &manifests, "--data", &data, "--listen", "127.0.0.1:0"], "--listen 127.0.0.1:0"),
        (&["--manifests", &manifests, "--data", &data, "--token-file", &token], "is empty"),
        (&["--manifests", &manifests, "--data", &data, "--token-file", "/no/such"], "/no/such"),
        (&["--manifests", &manifests, "--data", &file_as_data, "--listen", &standalone.listen], "--data"),
        (&["--manifests", &manifests, "--data", &data, "--log-level", "[["], "--log-level"),
    ];
    for (args, said) in cases {
        let ops = ["--ops-listen", &standalone.ops];
        let process = Process::spawn(["standalone"].iter().chain(*args).chain(&ops), &[]);
        let status = process.wait(DEADLINE).await;
        let log = process.log();
        assert_eq!(status.code(), Some(2), "{args:?}: {log}");
        assert_eq!(log.trim().lines().count(), 1, "{args:?}: {log}");
        assert!(log.starts_with("hookstream: ") && log.contains(said), "{args:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_and_folders_that_are_taken_are_named() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start().await;
    let manifests = kong.connection() + &relayed(&receiver.url(), json!({}));
    let standalone = Standalone::start(&manifests, &[]).await;
    kong.wait_for_hooks(1).await;
    let writes =
        async || (kong.requests("PUT").await, kong.requests("PATCH").await, kong.requests("POST").await);
    let before = writes().await;

    let mut second = Standalone::prepare(&manifests, &[]);
    second.data = standalone.data.clone();
    let process = second.spawn();
    let status = process.wait(DEADLINE).await;
    assert_eq!(status.code(), Some(2), "{}", process.log());
    let log = process.log();
    assert!(log.contains("another process holds") && log.lines().count() == 1, "{log}");
    assert_eq!(writes().await, before, "the second process told Kong of its own address");

    let mut same_port = Standalone::prepare(&manifests, &[]);
    same_port.listen = standalone.listen.clone();
    let process = same_port.spawn();
    assert_eq!(process.wait(DEADLINE).await.code(), Some(2));
    assert!(process.log().contains(&format!("cannot listen on {}", standalone.listen)), "{}", process.log());
    standalone.accepted(&event("1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_where_one_is_given() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut standalone = Standalone::prepare(&hook("h", &receiver.url(), quick()), &[]);
    let token = standalone.manifests.with_file_name("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let flag = token.display().to_string();
    let port = standalone.listen.rsplit(':').next().unwrap().to_owned();
    standalone = {
        let mut with_token =
            Standalone::prepare(&hook("h", &receiver.url(), quick()), &["--token-file", &flag]);
        // With a token every address may be listened on.
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
            let (text, _) = (response.text().await.unwrap(), ());
            assert!(text.contains("Unauthenticated") && !text.contains("s3cret"), "{text}");
        }
    }
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_outlives_the_process() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start().await;
    let manifests = kong.connection() + &relayed(&receiver.url(), json!({}));
    let mut standalone = Standalone::start(&manifests, &[]).await;
    let first = kong.wait_for_hooks(1).await;
    let synced = |line: &str| line.contains(r#""Synced""#) || line.contains(r#""Connected""#);
    standalone.process().wait_for_line(synced, DEADLINE).await;
    let writes = async || {
        let mut all = 0;
        for method in ["PUT", "POST", "PATCH", "DELETE"] {
            all += kong.requests(method).await;
        }
        all
    };
    let before = writes().await;
    for killed in [false, true] {
        let looks = kong.requests("GET").await;
        if killed {
            standalone.process().kill9();
        } else {
            assert_eq!(standalone.process().terminate().await.code(), Some(0));
        }
        standalone.restart().await;
        eventually(DEADLINE, "it to look at Kong", async || {
            let now = kong.requests("GET").await;
            // Its version and its hook.
            if now >= looks + 2 { Ok(()) } else { Err(format!("{looks} then {now}")) }
        })
        .await;
        stays("nothing is written that is as it should be", async || writes().await == before).await;
        assert_eq!(kong.hooks().await, first, "no second hook, and the same secret");
    }
    assert_eq!(kong.emit("crud", "consumers", json!({"id": "1"})).await, 1);
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_manifest_deletes_at_the_vendor_with_prune_alone() {
    for prune in [false, true] {
        let kong = Kong::start().await;
        let args: &[&str] = if prune { &["--prune"] } else { &[] };
        let standalone = Standalone::start(&kong.connection(), args).await;
        standalone.write("hook.yaml", &relayed("http://127.0.0.1:1", json!({})));
        let first = kong.wait_for_hooks(1).await;
        // Renamed: the same object in another file is not removed.
        std::fs::rename(standalone.manifests.join("hook.yaml"), standalone.manifests.join("moved.yaml"))
            .unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(2000) {
            assert_eq!(kong.hooks().await, first, "a moved manifest");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        std::fs::remove_file(standalone.manifests.join("moved.yaml")).unwrap();
        if prune {
            kong.wait_for_hooks(0).await;
        } else {
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(2500) {
                assert_eq!(kong.hooks().await, first, "without --prune it stays");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_finished_before_the_end() {
    let receiver =
        Receiver::start(|_, _| Reply::After(Duration::from_millis(1500), Reply::status(200).into()));
    let spec = json!({"delivery": {"concurrency": 4, "timeout": "10s"}});
    let mut standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    for number in 0..10 {
        standalone.accepted(&event(&format!("{number}"))).await;
    }
    receiver.wait_for(4, DEADLINE).await;
    assert_eq!(standalone.process().terminate().await.code(), Some(0), "{}", standalone.process().log());
    assert_eq!(receiver.requests().len(), 4, "nothing is begun any more");
    assert!(!standalone.process().log().contains("cut off"));
    receiver.script(|_, _| Reply::status(200));
    standalone.restart().await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 6).await;
    assert_eq!(receiver.requests().len(), 10, "what was finished is not sent again");
    let readyz = standalone.client.get(format!("http://{}/readyz", standalone.ops)).send().await.unwrap();
    assert_eq!(readyz.status(), 200);
    let (status, said) = answer(standalone.client.post(standalone.url(EVENTS)).json(&event("0"))).await;
    assert_eq!((status, &said["id"]), (202, &json!("0")), "the same 202 for an id of before: {said}");
}
