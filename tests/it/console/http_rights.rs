//! The console in a cluster: every read and every action is authorized by the API server, and what a user may not do is not
//! offered.

use serde_json::json;

use super::http::{browser, csrf, form};
use crate::harness::http::answer;
use crate::harness::manifests::hook;
use crate::harness::worker::{Worker, create_accounts, key_ring_secret};
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn user_sees_and_does_what_the_rights_allow() {
    let receiver = Receiver::start(|_, _| Reply::status(400));
    let (namespace, kubeconfig) = create_accounts("console").await;
    namespace
        .service_account(
            "viewer",
            "[{apiGroups: [hookstream.dev], resources: [deliveries], verbs: [get, list]}]",
        )
        .await;
    let tester = "[{apiGroups: [hookstream.dev], resources: [deliveries], verbs: [get, list]}, \
                   {apiGroups: [hookstream.dev], resources: [eventhooks/test], verbs: [create]}]";
    namespace.service_account("tester", tester).await;
    let spec = json!({"delivery": {"retry": {"maxAttempts": 1}}});
    namespace.apply(&hook("h", &receiver.url(), spec)).await.unwrap();
    namespace.apply(&key_ring_secret()).await.unwrap();
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let name = worker.namespace.name.clone();
    let publisher = worker.namespace.token("publisher", &["hookstream"]).await;
    let reader = worker.namespace.token("reader", &["hookstream"]).await;
    let viewer = worker.namespace.token("viewer", &["hookstream"]).await;
    let tester = worker.namespace.token("tester", &["hookstream"]).await;
    assert_eq!(worker.publish(&name, Some(&publisher), "order-1").await.0, 202);
    let get = async |token: &str, path: &str| {
        let response =
            browser().get(format!("{}{path}", worker.api)).bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let own = format!("/console/namespaces/{name}");

    // Without a right: a problem that names the roles, on every page.
    for page in ["", "/hooks", "/events", "/deliveries", "/event?id=order-1", "/connections", "/catalogue"] {
        let (status, text) = get(&reader, &format!("{own}{page}")).await;
        assert_eq!(status, 403, "{page}: {text}");
        let shows_data = text.contains("data-row") || text.contains("<table");
        assert!(text.contains("<code>deliveries-reader</code>") && !shows_data, "{page}: {text}");
    }
    let (status, text) = get(&viewer, "/console/events").await;
    assert_eq!(status, 403);
    assert!(text.contains("Choose a namespace"), "{text}");
    // Also on pages that read nothing from the API.
    for page in ["", "/send", "/hooks/h/test"] {
        assert_eq!(get("garbage", &format!("{own}{page}")).await.0, 401, "{page}");
    }
    assert_eq!(get("garbage", "/console/catalogue").await.0, 401);
    assert_eq!(get("garbage", "/console/live?path=/console/catalogue").await.0, 401);
    for (token, status) in [("garbage", 401), (reader.as_str(), 403)] {
        assert_eq!(
            get(token, &format!("/console/live?path={own}/events")).await.0,
            status,
            "no place among the streams"
        );
    }

    // With the right to read: no payload, no actions, and the roles that have them.
    let event = format!("{own}/event?id=order-1");
    eventually(DEADLINE, "the delivery to die", async || {
        let (_, text) = get(&viewer, &event).await;
        if text.contains("dead after 1 attempt") { Ok(()) } else { Err(text) }
    })
    .await;
    let (_, text) = get(&viewer, &event).await;
    for part in ["<code>deliveries-payload</code>", "<code>deliveries-operator</code>"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("event-data") && !text.contains(">Replay<"), "{text}");
    let (_, text) = get(&viewer, &format!("{own}/hooks/h")).await;
    assert!(text.contains("<code>hooks-tester</code>") && !text.contains(">Ping<"), "{text}");
    let (_, text) = get(&viewer, &format!("{own}/hooks/h/test")).await;
    assert!(text.contains("<code>hooks-tester</code>") && !text.contains("<textarea"), "{text}");
    let (_, text) = get(&viewer, &format!("{own}/send")).await;
    assert!(text.contains("<code>publisher</code>") && !text.contains("<textarea"), "{text}");

    // A form that is sent nevertheless is rejected by the same review as the API's.
    let (_, form_page) = get(&tester, &format!("{own}/hooks/h/test")).await;
    let csrf = csrf(&form_page);
    let list =
        worker.client.get(format!("{}/v1/namespaces/{name}/deliveries", worker.api)).bearer_auth(&viewer);
    let (_, list) = answer(list).await;
    let id = list["items"][0]["id"].as_str().unwrap();
    let replay = format!("{}{own}/deliveries/{id}/replay", worker.api);
    let response =
        form(browser().post(&replay).bearer_auth(&tester), &[("csrf", &csrf)]).send().await.unwrap();
    assert_eq!(response.status(), 403);
    // A token of another user's form.
    let response =
        form(browser().post(&replay).bearer_auth(&viewer), &[("csrf", &csrf)]).send().await.unwrap();
    assert!(response.text().await.unwrap().contains("FormExpired"));
    let log = worker.process.log();
    assert!(
        log.contains("console action") && log.contains(&format!("system:serviceaccount:{name}:tester")),
        "{log}"
    );
    assert!(!log.contains(&viewer) && !log.contains(&tester), "a token is in the log");
}
