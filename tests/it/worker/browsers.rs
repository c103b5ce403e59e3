//! `standalone` without a token: web pages in a browser on the same machine can neither read nor change anything, and programs
//! notice nothing of that.

use serde_json::json;

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Reply};

/// Starts a worker that has stored and delivered one event.
async fn start(flags: &[&str]) -> (Receiver, Standalone) {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&hook("h", &receiver.url(), json!({})), flags).await;
    (receiver, standalone)
}

fn deliveries(standalone: &Standalone) -> String {
    format!("http://{}/v1/namespaces/default/deliveries", standalone.api)
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_are_rejected_on_both_ports() {
    let (receiver, standalone) = start(&[]).await;
    standalone.publish_accepted(&event("first")).await;
    receiver.wait_for(1, DEADLINE).await;
    let replay = format!("{}/replay", deliveries(&standalone));
    for (name, value, status, reason) in [
        ("host", "evil.example", 403, "HostNotAllowed"),
        ("host", "localhost.evil.example:8080", 403, "HostNotAllowed"),
        ("origin", "http://evil.example", 403, "CrossSiteRequest"),
        ("origin", "http://localhost:3000", 403, "CrossSiteRequest"),
        ("origin", "null", 403, "CrossSiteRequest"),
        ("sec-fetch-site", "cross-site", 403, "CrossSiteRequest"),
        ("sec-fetch-site", "same-site", 403, "CrossSiteRequest"),
        ("content-type", "application/x-www-form-urlencoded", 415, "ContentType"),
        ("content-type", "text/plain", 415, "ContentType"),
    ] {
        let body = event("forged").to_string();
        let json = |request: reqwest::RequestBuilder| match name {
            "content-type" => request,
            _ => request.header("content-type", "application/json"),
        };
        let mut requests = vec![
            json(standalone.client.post(standalone.url(EVENTS))).header(name, value).body(body.clone()),
            json(standalone.client.post(&replay)).header(name, value).body("{}"),
        ];
        if name != "content-type" {
            requests.push(standalone.client.get(deliveries(&standalone)).header(name, value));
            requests.push(standalone.client.get(standalone.url("/")).header(name, value));
        }
        for request in requests {
            let shown = format!("{request:?}");
            let (answered, problem) = answer(request).await;
            assert_eq!((answered, &problem["reason"]), (status, &json!(reason)), "{shown}: {problem}");
            assert!(problem["detail"].as_str().unwrap().contains("--token-file"), "{problem}");
        }
    }
    // A body without a type, as a script can send it.
    let (status, problem) = answer(standalone.client.post(standalone.url(EVENTS)).body("{}")).await;
    assert_eq!((status, &problem["reason"]), (415, &json!("ContentType")), "{problem}");
    // A rejected event that was stored would be delivered before this one.
    standalone.publish_accepted(&event("last")).await;
    receiver.wait_for(2, DEADLINE).await;
    let received: Vec<_> = receiver.requests().iter().map(|request| request.json()["id"].clone()).collect();
    assert_eq!(received, ["first", "last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_and_own_pages_are_served() {
    let (_receiver, standalone) = start(&[]).await;
    let port = standalone.listen.rsplit(':').next().unwrap();
    for host in ["localhost", "hooks.localhost", "127.0.0.1", "[::1]"] {
        let host = format!("{host}:{port}");
        let request = standalone.client.post(standalone.url(EVENTS)).header("host", &host);
        let own_page = request
            .header("origin", format!("http://{host}"))
            .header("sec-fetch-site", "same-origin")
            .json(&event(&host));
        let (status, body) = answer(own_page).await;
        assert_eq!(status, 202, "{host}: {body}");
    }
    let typed = standalone.client.get(deliveries(&standalone)).header("sec-fetch-site", "none");
    assert_eq!(answer(typed).await.0, 200);
    let binary = standalone.client.post(standalone.url(EVENTS)).header("ce-specversion", "1.0");
    let binary = binary.header("ce-id", "binary").header("ce-source", "s").header("ce-type", "e").body("{}");
    let (status, body) = answer(binary).await;
    assert_eq!(status, 202, "{body}");
    // `curl -X POST` sends neither a body nor a type.
    let cancel = format!("{}/01a201fe-c27f-77cb-8f52-9d58b4decf08/cancel", deliveries(&standalone));
    assert_eq!(answer(standalone.client.post(cancel)).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn named_hosts_are_accepted() {
    let flags =
        ["--ingest-url", "http://hooks.example:9000", "--allowed-hosts", "host.docker.internal,192.0.2.1"];
    let (_receiver, standalone) = start(&flags).await;
    for host in ["hooks.example:9000", "host.docker.internal:8080", "192.0.2.1"] {
        let request = standalone.client.post(standalone.url(EVENTS)).header("host", host).json(&event(host));
        let (status, body) = answer(request).await;
        assert_eq!(status, 202, "{host}: {body}");
        let list = standalone.client.get(deliveries(&standalone)).header("host", host);
        assert_eq!(answer(list).await.0, 200, "{host}");
    }
    let request = standalone.client.post(standalone.url(EVENTS)).header("host", "docker.internal");
    assert_eq!(answer(request.json(&event("other"))).await.0, 403);
}

/// Kong and Auth0 reach the port under the names of proxies and tunnels; their requests are signed.
#[tokio::test(flavor = "multi_thread")]
async fn relays_authenticate_under_any_host() {
    let (_receiver, standalone) = start(&[]).await;
    let request = standalone.client.post(standalone.url("/v1/namespaces/default/relays/h"));
    let request = request.header("host", "tunnel.example").header("content-type", "text/plain").body("{}");
    let (status, problem) = answer(request).await;
    assert_eq!((status, &problem["reason"]), (401, &json!("BadSignature")), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_replaces_the_checks() {
    let token = crate::harness::watchdog::unique_path("token");
    std::fs::write(&token, "t0ken").unwrap();
    let (_receiver, standalone) = start(&["--token-file", token.to_str().unwrap()]).await;
    let publish = || {
        let request = standalone.client.post(standalone.url(EVENTS)).header("host", "hooks.example");
        request.header("origin", "https://console.example").json(&event("1"))
    };
    assert_eq!(answer(publish()).await.0, 401);
    assert_eq!(answer(publish().bearer_auth("t0ken")).await.0, 202);
}
