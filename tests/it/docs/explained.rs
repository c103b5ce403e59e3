//! The output of `deliveries explain` in docs/deliveries.md is that of the program, for a dead and for a snoozed delivery.

use serde_json::json;

use super::pages::root;
use crate::harness::deliveries::run;
use crate::harness::manifests::hook;
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{Receiver, Reply};

/// Replaces ids and times, which differ in each run.
fn without_ids_and_times(text: &str) -> String {
    let id = regex::Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").unwrap();
    let text = id.replace_all(text, "ID");
    time.replace_all(&text, "TIME").trim().to_owned()
}

/// Returns the document's text after this command.
fn documented_output(document: &str, command: &str) -> String {
    let (_, after) = document.split_once(&format!("$ {command}\n")).expect(command);
    after.split_once("```").expect("the end of the block").0.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn document_shows_current_output() {
    let receiver =
        Receiver::start(|request, _| Reply::status(if request.path == "/orders" { 422 } else { 200 }));
    let url = |path: &str| format!("{}/{path}", receiver.url());
    let snoozes = json!({"source": "balancer", "snooze": {"period": "1h"}});
    let manifests =
        hook("orders", &url("orders"), json!({"source": "shop"})) + &hook("health", &url("health"), snoozes);
    let standalone = Standalone::start(&manifests, &[]).await;
    for (id, source, event) in
        [("order-1", "shop", "order.created"), ("h-1", "balancer", "health"), ("h-2", "balancer", "health")]
    {
        standalone
            .publish_accepted(
                &json!({"id": id, "source": source, "event": event, "data": {"ip": "10.0.0.1"}}),
            )
            .await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let document = std::fs::read_to_string(root().join("docs/deliveries.md")).unwrap();
    for event in ["order-1", "h-2"] {
        let (code, printed) = run(&standalone, &["explain", event]).await;
        assert_eq!(code, 0, "{printed}");
        let documented =
            documented_output(&document, &format!("hookstream deliveries explain -n default {event}"));
        assert_eq!(
            without_ids_and_times(&printed),
            without_ids_and_times(&documented),
            "docs/deliveries.md differs from what the program prints"
        );
    }
}
