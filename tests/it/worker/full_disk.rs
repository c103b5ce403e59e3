//! A full disk: the worker refuses events so that each kind of sender retries, loses nothing, and recovers.

use serde_json::{Value, json};

use hookstream::api::{SignatureAlgorithm, SignatureEncoding};
use hookstream::core::sign::kong_signature;

use crate::harness::manifests::{hook, merge, quick};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Kong, Receiver, Reply, eventually};

fn filler(id: usize) -> Value {
    json!({"source": "crud", "event": "consumers", "id": id, "data": "x".repeat(60_000)})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system: make test runs it where user namespaces are allowed"]
async fn full_disk_makes_senders_retry_and_loses_nothing_needs_mount() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let spec = |connected: bool, paused: bool| {
        let mut spec = quick();
        merge(&mut spec, json!({"source": "crud", "delivery": {"paused": paused, "concurrency": 32}}));
        if connected {
            merge(&mut spec, json!({"connectionRef": {"name": "kong"}}));
        }
        spec
    };
    let manifests = |paused: bool| {
        let url = receiver.url();
        kong.connection()
            + &hook("relayed", &url, spec(true, paused))
            + &hook("api", &url, spec(false, paused))
    };
    let mut standalone =
        Standalone::prepare(&manifests(true), &["--relay-dedup-window", "0", "--disk-limit", "100%"]);
    // 2 MiB of the disk are filled beforehand.
    standalone.mount_data("6m", r#"head -c 2097152 /dev/zero > "$0/filler""#);
    standalone.restart().await;
    let config = kong.wait_for_hooks(1).await[0]["config"].clone();
    let text = |name: &str| config[name].as_str().expect("the relay's settings").to_owned();
    let (relay_url, secret) = (text("url"), text("secret"));
    let relay = async |id: usize| {
        let body = filler(id).to_string();
        let encoding = SignatureEncoding::PrefixedHex;
        let signature =
            kong_signature(secret.as_bytes(), SignatureAlgorithm::SHA256, encoding, body.as_bytes());
        let request = standalone.client.post(&relay_url).header("x-kong-signature", signature);
        request.body(body).send().await.ok().map(|response| response.status().as_u16())
    };
    let publish = async |id: usize| {
        let body = json!({"id": format!("{id}"), "source": "crud", "event": "e", "data": filler(id)});
        standalone.client.post(standalone.url(EVENTS)).json(&body).send().await.expect("an answer")
    };

    let mut accepted = 0;
    let (mut refused, mut closed) = (0, 0);
    for id in 0..200 {
        if refused > 3 && closed > 3 {
            break;
        }
        let answer = publish(id).await;
        if answer.status() == 202 {
            accepted += 1;
        } else {
            refused += 1;
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
            let body: Value = answer.json().await.expect("a problem");
            assert_eq!(body["reason"], "Full", "{body}");
        }
        match relay(id).await {
            Some(202) => accepted += 1,
            Some(status) => panic!("a relay was answered {status}: Kong would not retry"),
            None => closed += 1,
        }
    }
    assert!(
        refused > 3 && closed > 3,
        "the disk did not fill: {refused} and {closed} refused, {accepted} accepted"
    );
    assert!(standalone.process().ended().is_none(), "a full disk must not end the process");

    // Once there is space, the same process accepts events again.
    let pid = standalone.process().pid();
    let filler_file = format!("/proc/{pid}/root{}/filler", standalone.data.display());
    std::fs::remove_file(filler_file).expect("the file that fills the disk");
    eventually(DEADLINE, "the worker to accept events again", async || {
        let status = publish(1000).await.status().as_u16();
        if status == 202 { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(relay(1000).await, Some(202));
    standalone.write("all.yaml", &manifests(false));
    standalone.wait_for_count(FINISHED, &[DELIVERED], accepted + 2).await;
    assert_eq!(receiver.requests().len() as u64, accepted + 2, "each event is sent once");
}
