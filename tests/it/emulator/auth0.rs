//! `hookstream emulate auth0` as a process: with Auth0's public SDK, and on the command line.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::json;

use crate::harness::auth0::{CLIENT_ID, CLIENT_SECRET};
use crate::harness::{Auth0, DEADLINE, Process, Receiver, Reply, run, watchdog};

/// The binary of `tests/go-auth0`.
static SDK: LazyLock<PathBuf> = LazyLock::new(|| {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go-auth0/build.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect(script);
    assert!(output.status.success(), "{script} failed; its output is above");
    String::from_utf8(output.stdout).expect("a path").lines().last().expect("a path").into()
});

#[tokio::test(flavor = "multi_thread")]
async fn auth0_sdk_works() {
    let sdk = tokio::task::spawn_blocking(|| SDK.clone()).await.unwrap();
    let folder = watchdog::unique_path("tls");
    std::fs::create_dir(&folder).unwrap();
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let auth0 = Auth0::start_tls(&certificate, &key, &[]).await;
    assert!(auth0.url.starts_with("https://"), "{}", auth0.url);

    let mut command = Command::new(sdk);
    command.arg(&auth0.domain).arg(&certificate).args([CLIENT_ID, CLIENT_SECRET]);
    let output = run(command, "").await.unwrap_or_else(|error| panic!("{error}\n{}", auth0.log()));
    assert_eq!(output.lines().filter(|line| line.starts_with("ok: ")).count(), 5, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_and_keeps_state() {
    let folder = watchdog::unique_path("auth0");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("state.json");
    let state = ["--state", file.to_str().unwrap(), "--tenant", "acme.eu.auth0.com"];
    let auth0 = Auth0::start(&state).await;
    let receiver = Receiver::start(|_, n| Reply::status(if n < 3 { 503 } else { 200 }));
    let stream = auth0
        .create_stream(json!({"name": "users", "subscriptions": [{"event_type": "user.created"}],
            "destination": {"type": "webhook", "configuration": {"webhook_endpoint": receiver.url(),
                "webhook_authorization": {"method": "bearer", "token": "hush"}}}}))
        .await;
    let (id, matched) = auth0.emit("user.created", json!({"object": {"user_id": "auth0|1"}})).await;
    assert_eq!(matched, 1);
    let requests = receiver.wait_for(3, DEADLINE).await;
    for request in &requests {
        let event = request.json();
        assert_eq!((&event["id"], &event["a0stream"]), (&json!(id), &stream["id"]));
        assert_eq!(
            (&event["a0tenant"], request.header("authorization")),
            (&json!("acme.eu.auth0.com"), "Bearer hush")
        );
    }
    // The second wait, 2 s, at a hundredth of the time.
    assert!(requests[2].at - requests[1].at >= Duration::from_millis(20));

    assert!(auth0.process().terminate().await.success());
    let restarted = Auth0::start(&state).await;
    assert_eq!(restarted.stored_streams().await[0]["id"], stream["id"]);
    assert!(!restarted.log().contains("hush"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_invalid_flags() {
    for (args, expected) in [
        (&["--client-id", "x"][..], "--client-secret"),
        (&["--tls-cert", "/nowhere"], "--tls-key"),
        (&["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "--tls-key: reading /nowhere"),
        (&["--ca", "/nowhere"], "--ca /nowhere"),
        (&["--rate-limit", "0"], "--rate-limit"),
        (&["--time-scale", "1001"], "--time-scale"),
        (&["--hooks-gone", "500"], "--hooks-gone"),
        (&["--token-lifetime", "1d"], "--token-lifetime"),
    ] {
        let all = ["emulate", "auth0", "--listen", "127.0.0.1:0"].iter().chain(args);
        let process = Process::spawn(all.copied(), &[]);
        let status = process.wait(DEADLINE).await;
        assert_eq!(status.code(), Some(2), "{args:?}: {}", process.log());
        assert!(process.log().contains(expected), "{args:?}: {}", process.log());
    }
}
