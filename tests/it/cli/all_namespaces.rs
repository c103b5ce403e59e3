//! `-A` of the commands that list.

use serde_json::{Value, json};

use super::run;
use crate::harness::Receiver;
use crate::harness::Reply;
use crate::harness::http::answer;
use crate::harness::manifests::{event, manifest};
use crate::harness::metrics::{DEAD, FINISHED};
use crate::harness::standalone::Standalone;

/// Returns the namespace and the name of each item, in the order of the list.
fn names(out: &str, name: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(out).unwrap();
    let name = |item: &Value| {
        format!("{}/{}", item["namespace"].as_str().unwrap(), item[name].as_str().unwrap_or_default())
    };
    list["items"].as_array().unwrap().iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_all_namespaces() {
    let receiver = Receiver::start(|_, _| Reply::status(422));
    let hook = |namespace: &str| {
        let spec = json!({"source": "s", "handler": {"webhook": {"url": receiver.url()}}});
        let content = json!({"metadata": {"namespace": namespace}, "spec": spec});
        manifest("hookstream.dev/v1alpha1", "EventHook", "orders", content)
    };
    let standalone = Standalone::start(&(hook("shop") + &hook("billing")), &[]).await;
    for (namespace, id) in [("shop", "1"), ("billing", "2"), ("idle", "3")] {
        let url = standalone.url(&format!("/v1/namespaces/{namespace}/events"));
        let (status, body) = answer(standalone.client.post(url).json(&event(id))).await;
        assert_eq!(status, 202, "{body}");
    }
    standalone.wait_for_count(FINISHED, &[DEAD], 2).await;
    let url = format!("http://{}", standalone.api);
    let list = async |args: &[&str]| {
        let (code, out, error) = run(&[args, &["--url", &url]].concat()).await;
        assert_eq!(code, 0, "{args:?}: {out}{error}");
        (out, error)
    };

    let (out, _) = list(&["deliveries", "list", "-A", "-o", "json"]).await;
    assert_eq!(names(&out, "hook"), ["billing/orders", "shop/orders"]);
    let (out, _) = list(&["deliveries", "list", "-A"]).await;
    assert!(out.starts_with("NAMESPACE  AGE") && out.contains("\nbilling    "), "{out}");
    let (out, _) = list(&["deliveries", "list", "-n", "shop"]).await;
    assert!(out.starts_with("AGE") && out.lines().count() == 2, "{out}");
    let (out, _) = list(&["deliveries", "list", "-A", "--limit", "1", "-o", "json"]).await;
    let page: Value = serde_json::from_str(&out).unwrap();
    let token = page["continue"].as_str().unwrap();
    let (out, _) = list(&["deliveries", "list", "-A", "--continue", token, "-o", "json"]).await;
    assert_eq!(names(&out, "hook"), ["shop/orders"]);
    let (out, _) = list(&["deliveries", "list", "-A", "--event", "1", "-o", "json"]).await;
    assert_eq!(names(&out, "event"), ["shop/1"]);
    let (out, error) = list(&["deliveries", "list", "-A", "--hook", "missing"]).await;
    assert!(error.contains("no matching delivery in any namespace"), "{out}{error}");

    let (out, _) = list(&["events", "list", "-A", "-o", "json"]).await;
    assert_eq!(names(&out, "id"), ["idle/3", "billing/2", "shop/1"]);
    let (out, _) = list(&["events", "list", "-A", "--outcome", "unmatched"]).await;
    assert!(out.starts_with("NAMESPACE  AGE") && out.contains("\nidle       "), "{out}");

    list(&["deliveries", "replay", "-n", "billing", "--hook", "orders", "--rate", "1"]).await;
    let (out, _) = list(&["replays", "list", "-A", "-o", "json"]).await;
    assert_eq!(names(&out, "hook"), ["billing/orders"]);
    let (out, _) = list(&["replays", "list", "-A"]).await;
    assert!(out.starts_with("NAMESPACE  ID") && out.contains("\nbilling    "), "{out}");

    // The ingest port has no such routes, as an older worker.
    let ingest = format!("http://{}", standalone.listen);
    for list in ["deliveries", "events", "replays"] {
        let (code, _, error) = run(&[list, "list", "-A", "--url", &ingest]).await;
        assert!(code == 2 && error.contains("the worker is older than this program"), "{list}: {error}");
        assert_eq!(error.lines().count(), 1, "{list}: {error}");
    }
}
