//! Authorization of publishers by the API server: TokenReview, then SubjectAccessReview, by a worker with the worker's
//! rights only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::harness::manifests::{event, hook, quick};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED, INGESTED, count};
use crate::harness::worker::{Worker, create_accounts, proxied_kubeconfig};
use crate::harness::{DEADLINE, Namespace, Receiver, Reply, control_plane, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn requires_token_and_right() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("callers").await;
    let other = control_plane().namespace("others").await;
    namespace.apply(&hook("h", &receiver.url(), quick())).await.unwrap();
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let namespace = &worker.namespace;
    let publisher = namespace.token("publisher", &["hookstream"]).await;
    let reader = namespace.token("reader", &["hookstream"]).await;
    let api_server_token = namespace.token("publisher", &["https://kubernetes.default.svc"]).await;
    let (name, other_name) = (namespace.name.as_str(), other.name.as_str());

    for (token, target, status, reason) in [
        (None, name, 401, "Unauthenticated"),
        (Some("garbage"), name, 401, "Unauthenticated"),
        (Some(&publisher[..publisher.len() - 4]), name, 401, "Unauthenticated"),
        (Some(api_server_token.as_str()), name, 401, "Unauthenticated"),
        (Some(reader.as_str()), name, 403, "Forbidden"),
        (Some(publisher.as_str()), other_name, 403, "Forbidden"),
    ] {
        // Twice, because the cache answers the second request.
        for _ in 0..2 {
            let (answered, body) = worker.publish(target, token, "refused").await;
            assert_eq!((answered, body["reason"].as_str()), (status, Some(reason)), "{target}: {body}");
        }
    }
    for id in ["1", "2"] {
        let (status, body) = worker.publish(name, Some(&publisher), id).await;
        assert_eq!((status, body["deliveries"].as_u64()), (202, Some(1)), "{body}");
    }
    let received = receiver.wait_for(2, DEADLINE).await;
    assert!(received.iter().all(|r| r.json()["id"] != "refused"));
    assert_eq!(count(&worker.metrics().await, INGESTED, &[r#"outcome="Accepted""#]), 2);

    // A right that is granted later takes effect.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "late"},
        "rules": [{"apiGroups": ["hookstream.dev"], "resources": ["events"], "verbs": ["create"]}]});
    namespace.apply(&role.to_string()).await.unwrap();
    let account = format!("--serviceaccount={name}:reader");
    namespace.kubectl(&["create", "rolebinding", "late", "--role=late", &account]).await.unwrap();
    eventually(DEADLINE, "the new right to take effect", async || {
        let (status, body) = worker.publish(name, Some(&reader), "3").await;
        if status == 202 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
    let log = worker.process.log();
    assert!(!log.contains(&publisher) && !log.contains(&reader), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn api_outage_refuses_uncached_tokens_and_keeps_delivering() {
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 503 } else { 200 }));
    let (namespace, kubeconfig) = create_accounts("alone").await;
    namespace.apply(&hook("h", &receiver.url(), quick())).await.unwrap();
    let is_open = Arc::new(AtomicBool::new(true));
    let connections = Arc::new(AtomicUsize::new(0));
    let proxied_kubeconfig = proxied_kubeconfig(&kubeconfig, is_open.clone(), connections.clone()).await;
    let worker = Worker::start(namespace, proxied_kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let name = worker.namespace.name.clone();
    let cached = worker.namespace.token("publisher", &["hookstream"]).await;
    let uncached = worker.namespace.token("publisher", &["hookstream"]).await;
    let other_audience = worker.namespace.token("publisher", &["https://kubernetes.default.svc"]).await;
    assert_eq!(worker.publish(&name, Some(&cached), "1").await.0, 202);

    is_open.store(false, Ordering::SeqCst);
    eventually(DEADLINE, "the connections to break", async || match connections.load(Ordering::SeqCst) {
        0 => Ok(()),
        open => Err(open.to_string()),
    })
    .await;
    let url = format!("{}/v1/namespaces/{name}/events", worker.ingest);
    let response = worker.client.post(url).bearer_auth(&uncached).json(&event("2")).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert!(response.text().await.unwrap().contains("Unavailable"));
    assert_eq!(worker.publish(&name, Some(&cached), "3").await.0, 202, "a cached decision is still valid");
    for impossible in [other_audience.as_str(), "not,a,token", &"x".repeat(20_000)] {
        let (status, body) = worker.publish(&name, Some(impossible), "4").await;
        assert_eq!(status, 401, "rejected without a TokenReview: {body}");
    }
    eventually(DEADLINE, "two delivered events, one by a retry", async || {
        let delivered = count(&worker.metrics().await, FINISHED, &[DELIVERED]);
        if delivered == 2 { Ok(()) } else { Err(delivered.to_string()) }
    })
    .await;

    is_open.store(true, Ordering::SeqCst);
    eventually(DEADLINE, "an uncached token to be authorized", async || {
        let (status, body) = worker.publish(&name, Some(&uncached), "2").await;
        if status == 202 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_tokens_do_not_lock_out_valid_ones() {
    const INVALID: usize = 400;
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("flood").await;
    namespace.apply(&hook("h", &receiver.url(), quick())).await.unwrap();
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let name = worker.namespace.name.clone();
    let cached = worker.namespace.token("publisher", &["hookstream"]).await;
    let uncached = worker.namespace.token("publisher", &["hookstream"]).await;
    assert_eq!(worker.publish(&name, Some(&cached), "before").await.0, 202);

    let url = format!("{}/v1/namespaces/{name}/events", worker.ingest);
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..INVALID {
        let request =
            worker.client.post(&url).bearer_auth(format!("invalid-{number}")).json(&event("refused"));
        flood.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    for number in 0..20 {
        let (status, body) = worker.publish(&name, Some(&cached), &format!("beside-{number}")).await;
        assert_eq!(status, 202, "{body}");
    }
    while let Some(status) = flood.join_next().await {
        let status = status.unwrap();
        assert!(status == 401 || status == 503, "{status}");
    }
    eventually(DEADLINE, "an uncached token to be authorized", async || {
        let (status, body) = worker.publish(&name, Some(&uncached), "after").await;
        if status == 202 { Ok(()) } else { Err(body.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_and_api_server_are_denied() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("egress").await;
    let mut api_server = quick();
    api_server["source"] = json!("api-server");
    // The API server is excluded even if loopback is allowed: a request to it would carry the worker's trust.
    let hooks = hook("h", &receiver.url(), quick()) + &hook("api", &control_plane().url, api_server);
    namespace.apply(&hooks).await.unwrap();
    let publisher = namespace.token("publisher", &["hookstream"]).await;
    for (allow, source) in [(&[][..], "s"), (&["--egress-allow", "127.0.0.0/8"][..], "api-server")] {
        let namespace_copy = Namespace { name: namespace.name.clone() };
        let worker = Worker::start(namespace_copy, kubeconfig.clone(), allow).await;
        let url = format!("{}/v1/namespaces/{}/events", worker.ingest, namespace.name);
        let body = json!({"source": source, "event": "e"});
        let response = worker.client.post(url).bearer_auth(&publisher).json(&body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 202);
        eventually(DEADLINE, "the delivery to be dead", async || {
            let dead = count(&worker.metrics().await, FINISHED, &[DEAD, r#"reason="EgressDenied""#]);
            if dead == 1 { Ok(()) } else { Err(worker.metrics().await) }
        })
        .await;
    }
    assert!(receiver.requests().is_empty());
}
