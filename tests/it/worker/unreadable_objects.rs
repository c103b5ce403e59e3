//! Objects that cannot be read, or whose manifest is missing for a moment: their events are held, and nothing is dropped.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::deliveries::list_deliveries;
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, manifest, merge, quick, secret};
use crate::harness::standalone::Standalone;
use crate::harness::worker::{Worker, create_accounts};
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// Waits until the manifests as they are now are in effect. The scan in progress may have read the old text.
async fn apply(standalone: &Standalone) {
    for _ in 0..2 {
        standalone.wait_for_scan().await;
    }
}

/// Publishes an event and asserts how many deliveries it has.
async fn publish(standalone: &Standalone, id: &str, deliveries: u64) {
    let (status, body) = standalone.publish(&event(id)).await;
    assert_eq!((status, body["deliveries"].as_u64()), (202, Some(deliveries)), "{id}: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_type_holds_the_hook_over_restarts() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let good = hook("a", &receiver.url(), quick());
    let mut standalone = Standalone::start(&good, &["--hook-grace", "1s"]).await;
    publish(&standalone, "before", 1).await;
    receiver.wait_for(1, DEADLINE).await;
    let mut expected = vec!["before".to_owned()];
    for (name, wrong) in [
        ("event", json!({"event": true})),
        ("timeout", json!({"delivery": {"timeout": 15}})),
        ("group-by", json!({"groupBy": [1], "snooze": {"period": "1s"}})),
        ("rotation", json!({"rotation": 2026})),
        ("headers", json!({"handler": {"webhook": {"headers": {"x-a": 1}}}})),
        ("source", json!({"source": ["s"]})),
    ] {
        let mut spec = quick();
        merge(&mut spec, wrong);
        standalone.write("all.yaml", &hook("a", &receiver.url(), spec));
        apply(&standalone).await;
        publish(&standalone, name, 1).await;
        expected.push(name.to_owned());
    }
    let labelled = json!({"metadata": {"labels": {"version": 2}}, "spec": {"source": "s",
        "handler": {"webhook": {"url": receiver.url()}}}});
    standalone.write("all.yaml", &manifest("hookstream.dev/v1alpha1", "EventHook", "a", labelled));
    apply(&standalone).await;
    publish(&standalone, "labels", 1).await;
    expected.push("labels".into());
    // A restart keeps matching, with a wrong type and with a file that is no YAML.
    for (name, text) in
        [("restarted", hook("a", &receiver.url(), json!({"source": ["s"]}))), ("no-yaml", "a: [".to_owned())]
    {
        standalone.write("all.yaml", &text);
        standalone.restart().await;
        publish(&standalone, name, 1).await;
        expected.push(name.to_owned());
        standalone.write("all.yaml", &hook("a", &receiver.url(), json!({"source": ["s"]})));
        apply(&standalone).await;
    }
    standalone
        .assert_stays("every delivery is pending after the grace period of deleted hooks", async || {
            let pending = list_deliveries(&standalone, "state=pending").await;
            let mut pending: Vec<_> =
                pending.iter().map(|d| d["event"].as_str().unwrap().to_owned()).collect();
            pending.sort();
            let mut all = expected.clone();
            all.sort();
            pending == all
        })
        .await;
    let attempts = receiver.requests().len();
    receiver.script(|_, _| Reply::status(200));
    standalone.write("all.yaml", &good);
    let received = receiver.wait_for(attempts + expected.len(), DEADLINE).await;
    let mut ids: Vec<_> =
        received[attempts..].iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected, "the corrected hook receives every event once");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifest_that_is_empty_for_a_moment_drops_nothing() {
    let receiver = Receiver::start(|request, _| {
        Reply::status(if request.header("authorization") == "Bearer t" { 200 } else { 503 })
    });
    let header = json!([{"name": "authorization", "secretRef": {"name": "token", "key": "header"}}]);
    let mut spec = quick();
    merge(&mut spec, json!({"handler": {"webhook": {"headersFrom": header}}}));
    let all = hook("a", &receiver.url(), spec) + &secret("token", json!({"header": "Bearer t"}));
    let standalone = Standalone::start(&all, &[]).await;
    publish(&standalone, "1", 1).await;
    receiver.wait_for(1, DEADLINE).await;

    // Truncate the file in place, as `helm template > file` does. A hook that was added at the same time proves that a
    // scan has read both.
    std::fs::write(standalone.manifests.join("all.yaml"), "").unwrap();
    standalone.write("other.yaml", &hook("other", &receiver.url(), json!({"source": "other"})));
    let probe = |n: u64| json!({"id": format!("probe-{n}"), "source": "other", "event": "e", "data": {}});
    let mut probes = 0;
    eventually(DEADLINE, "a scan", async || {
        probes += 1;
        let (_, body) = standalone.publish(&probe(probes)).await;
        if body["deliveries"] == 1 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
    publish(&standalone, "2", 1).await;
    eventually(DEADLINE, "the event to be delivered with its Secret", async || {
        let delivered = list_deliveries(&standalone, "state=delivered&event=2").await;
        if delivered.len() == 1 { Ok(()) } else { Err("pending".to_owned()) }
    })
    .await;
    standalone.write("all.yaml", &all);
    apply(&standalone).await;
    publish(&standalone, "3", 1).await;
    assert!(!standalone.process().log().contains("object removed"), "{}", standalone.process().log());

    // A file that stays empty is a removal, and the log says so.
    standalone.write("all.yaml", "");
    let is_removal =
        |line: &str| line.contains("object removed from the manifests") && line.contains("default/a");
    standalone.process().wait_for_line(is_removal, DEADLINE).await;
    eventually(DEADLINE, "the hook to be removed", async || {
        probes += 1;
        let (_, body) = standalone.publish(&event(&format!("gone-{probes}"))).await;
        if body["deliveries"] == 0 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_names_that_are_no_kubernetes_names() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let mut standalone = Standalone::prepare(&hook("a", &receiver.url(), quick()), &[]);
    let spec = json!({"source": "s", "handler": {"webhook": {"url": receiver.url()}}});
    for (file, metadata) in [
        ("namespace.yaml", json!({"name": "b", "namespace": ".."})),
        ("name.yaml", json!({"name": "../../escaped"})),
    ] {
        let content = json!({"metadata": metadata, "spec": spec});
        standalone.write(file, &manifest("hookstream.dev/v1alpha1", "EventHook", "b", content));
    }
    standalone.restart().await;
    for field in ["metadata.namespace", "metadata.name"] {
        let is_problem = |line: &str| line.contains("is ignored") && line.contains(field);
        standalone.process().wait_for_line(is_problem, DEADLINE).await;
    }
    publish(&standalone, "1", 1).await;
    receiver.wait_for(1, DEADLINE).await;
    let body = event("2").to_string();
    for (address, method, path) in [
        (&standalone.listen, "POST", "/v1/namespaces/../events"),
        (&standalone.listen, "POST", "/v1/namespaces/%2e%2e/events"),
        (&standalone.listen, "POST", "/v1/namespaces/a.b/events"),
        (&standalone.listen, "POST", "/v1/namespaces/default/relays/.."),
        (&standalone.api, "GET", "/v1/namespaces/../deliveries"),
        (&standalone.api, "GET", "/v1/namespaces/a%2fb/deliveries"),
    ] {
        // A client library would resolve the dots.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok();
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("lower-case"), "{path}: {answer}");
    }
    let states = std::fs::read_dir(standalone.data.join("objects")).unwrap();
    let states: Vec<_> = states.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        states.iter().all(|name| name.to_string_lossy().starts_with("EventHook.default.a.")),
        "{states:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_object_in_a_cluster_holds_its_events() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("unreadable").await;
    let rules = json!([
        {"apiGroups": ["hookstream.dev"], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": ["hookstream.dev"], "resources": ["deliveries"], "verbs": ["get", "list"]}]);
    namespace.service_account("caller", &rules.to_string()).await;
    namespace.apply(&hook("h", &receiver.url(), quick())).await.unwrap();
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let (namespace, name) = (&worker.namespace, worker.namespace.name.as_str());
    let token = namespace.token("caller", &["hookstream"]).await;
    // A time that the API server's `date-time` accepts and RFC 3339 does not.
    let conditions = json!([{"type": "ByHand", "status": "True", "reason": "ByHand", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00+99:99"}]);
    let patch = async |conditions: &Value| {
        let patch = json!({"status": {"conditions": conditions}}).to_string();
        let args =
            ["patch", "eventhooks.hookstream.dev/h", "--subresource=status", "--type=merge", "-p", &patch];
        namespace.kubectl(&args).await.unwrap();
    };
    patch(&conditions).await;
    let mut published = 0;
    let held = eventually(DEADLINE, "an event to be held", async || {
        published += 1;
        let id = published.to_string();
        let (status, body) = worker.publish(name, Some(&token), &id).await;
        assert_eq!((status, body["deliveries"].as_u64()), (202, Some(1)), "{body}");
        let url = format!("{}/v1/namespaces/{name}/events/{id}/explain", worker.api);
        let (_, explained) = answer(worker.client.get(url).bearer_auth(&token)).await;
        let why = explained["deliveries"][0]["explanation"].to_string();
        if why.contains("the object cannot be read") { Ok(id) } else { Err(explained.to_string()) }
    })
    .await;
    patch(&json!([])).await;
    let received = receiver.wait_for(published, DEADLINE).await;
    assert!(received.iter().any(|request| request.json()["id"] == held.as_str()), "{held}");
}
