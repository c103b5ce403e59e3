//! Filters: they select a hook's events; an event that a filter cannot evaluate counts as matched and is held.

use serde_json::{Value, json};

use crate::harness::manifests::{hook, merge, quick};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Kong, Receiver, Reply};

fn filtered(name: &str, url: &str, filter: &str, more: Value) -> String {
    let mut spec = quick();
    merge(&mut spec, json!({"filter": filter}));
    merge(&mut spec, more);
    hook(name, &format!("{url}/{name}"), spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_matching_events_only() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = receiver.url();
    let manifests = filtered("big", &url, "data.n > 10 && source == 's'", json!({}))
        + &filtered("small", &url, "data.n <= 10", json!({}));
    let standalone = Standalone::start(&manifests, &[]).await;
    for (n, deliveries) in [(5, 1), (50, 1)] {
        let (status, body) =
            standalone.publish(&json!({"source": "s", "event": "e", "data": {"n": n}})).await;
        assert_eq!((status, &body["deliveries"]), (202, &json!(deliveries)), "{body}");
    }
    let mut received: Vec<_> = receiver
        .wait_for(2, DEADLINE)
        .await
        .iter()
        .map(|r| (r.path.clone(), r.json()["n"].clone()))
        .collect();
    received.sort_by_key(|(path, _)| path.clone());
    assert_eq!(received, [("/big".to_owned(), json!(50)), ("/small".to_owned(), json!(5))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_filter_holds_events() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&filtered("h", &receiver.url(), "dat.n == 1", json!({})), &[]).await;
    let (status, body) = standalone.publish(&json!({"source": "s", "event": "e", "data": {"n": 1}})).await;
    assert_eq!((status, &body["deliveries"]), (202, &json!(1)), "the event counts as matched");
    standalone.assert_stays("the delivery is held", async || receiver.requests().is_empty()).await;
    standalone.write("all.yaml", &filtered("h", &receiver.url(), "data.n == 1", json!({})));
    receiver.wait_for(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_is_filtered_by_its_own_hook() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let connected = json!({"source": "crud", "connectionRef": {"name": "kong"}});
    let manifests = kong.connection()
        + &filtered("created", &receiver.url(), "data.operation == 'create'", connected.clone())
        + &filtered("deleted", &receiver.url(), "data.operation == 'delete'", connected);
    let standalone = Standalone::start(&manifests, &[]).await;
    let hooks = kong.wait_for_hooks(2).await;
    assert!(hooks.iter().all(|h| h["snooze"].is_null() && h["on_change"].is_null()), "{hooks:?}");
    kong.emit("crud", "consumers", json!({"operation": "update", "entity": {}})).await;
    kong.emit("crud", "consumers", json!({"operation": "create", "entity": {}})).await;
    let received = receiver.wait_for(1, DEADLINE).await;
    assert_eq!(received[0].path, "/created");
    standalone
        .assert_stays("only the event that the filter selects is delivered", async || {
            receiver.requests().len() == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_delivery_sets_kong_gates() {
    let kong = Kong::start(&[]).await;
    let gates = json!({"source": "crud", "connectionRef": {"name": "kong"}, "deliverBy": "Gateway", "delivery": null,
        "snooze": {"period": "1m30s"}, "onChange": {}});
    let mut spec = quick();
    merge(&mut spec, gates);
    let manifests = kong.connection() + &hook("h", "http://127.0.0.1:9/", spec);
    let _standalone = Standalone::start(&manifests, &[]).await;
    let hooks = kong.wait_for_hooks(1).await;
    assert_eq!((&hooks[0]["snooze"], &hooks[0]["on_change"]), (&json!(90), &json!(true)), "{hooks:?}");
}
