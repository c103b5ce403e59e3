//! A worker with hooks that are healthy, failing, filtered and paused, with events, dead letters, and texts that would run as
//! script if a page did not escape them.

use std::path::Path;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::harness::http::{self as requests, answer};
use crate::harness::manifests::{hook, manifest, merged};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// Changes the title of the page if it is not escaped.
pub const HOSTILE: &str =
    "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">";

/// The order that did not arrive at `warehouse`.
pub const ORDER: &str = "order-4711";

/// A running worker with a history.
pub struct Seeded {
    pub standalone: Standalone,
    /// Answers 200.
    pub good: Receiver,
    /// Answers 422 with a hostile body.
    pub bad: Receiver,
}

impl Seeded {
    pub async fn start() -> Seeded {
        Seeded::start_as(&[], requests::client()).await
    }

    /// Starts a worker that requires the token of this file.
    pub async fn start_with_token(file: &Path) -> Seeded {
        let mut headers = HeaderMap::new();
        let token = std::fs::read_to_string(file).unwrap();
        rustls::crypto::ring::default_provider().install_default().ok();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).default_headers(headers);
        Seeded::start_as(&["--token-file", file.to_str().unwrap()], client.build().unwrap()).await
    }

    /// `client`: sends the requests that seed.
    async fn start_as(args: &[&str], client: reqwest::Client) -> Seeded {
        let good = Receiver::start(|_, _| Reply::status(200).body("{\"ok\": true}"));
        let bad = Receiver::start(|_, _| {
            let reply = Reply::status(422).header("content-type", "text/html").header("x-hostile", HOSTILE);
            reply.body(format!("{{\"error\": \"article A-17 is unknown {}\"}}", HOSTILE.replace('"', "'")))
        });
        let orders = |more: Value| merged(json!({"source": "shop", "event": "order.created"}), more);
        let manifests = [
            hook("fulfilment", &good.url(), orders(json!({}))),
            hook("warehouse", &bad.url(), orders(json!({}))),
            hook("sales-alerts", &good.url(), orders(json!({"filter": "data.total > 500.0"}))),
            hook("newsletter", &good.url(), json!({"source": "shop", "event": "customer.registered", "delivery": {"paused": true}})),
            hook(
                "billing",
                "http://127.0.0.1:1/",
                json!({"source": "shop", "event": "invoice.sent", "delivery": {"retry": {"initialBackoff": "1h"}}}),
            ),
            manifest("hookstream.dev/v1alpha1", "Connection", "kong", json!({"spec": {"kong": {"adminUrl": "http://127.0.0.1:1"}}})),
        ]
        .concat();
        let mut standalone =
            Standalone::start(&manifests, &[&["--keep-responses", "all"], args].concat()).await;
        standalone.client = client;
        let seeded = Seeded { standalone, good, bad };
        seeded
            .publish(ORDER, "order.created", json!({"order": 4711, "total": 129.9, "customer": "Ada"}))
            .await;
        for order in 4712..4715 {
            let data = json!({"order": order, "total": 90.5});
            seeded.publish(&format!("order-{order}"), "order.created", data).await;
        }
        seeded.publish(HOSTILE, "order.created", json!({"total": 600.5, HOSTILE: HOSTILE})).await;
        seeded.publish("invoice-1", "invoice.sent", json!({"invoice": 1})).await;
        seeded.publish("customer-1", "customer.registered", json!({"customer": 1})).await;
        seeded.publish("unmatched-1", "order.cancelled", json!({"order": 4705})).await;
        seeded.wait_for_deliveries("warehouse", "dead", 5).await;
        seeded.wait_for_deliveries("fulfilment", "delivered", 5).await;
        seeded
    }

    /// Publishes an event of the source `shop`.
    pub async fn publish(&self, id: &str, event: &str, data: Value) {
        self.standalone
            .publish_accepted(&json!({"id": id, "source": "shop", "event": event, "data": data}))
            .await;
    }

    /// Returns the address of a page.
    pub fn page(&self, path: &str) -> String {
        format!("http://{}{path}", self.standalone.api)
    }

    /// Returns the deliveries of a hook in a state.
    pub async fn deliveries(&self, hook: &str, state: &str) -> Vec<Value> {
        let url = self.page(&format!("/v1/namespaces/default/deliveries?hook={hook}&state={state}"));
        let (status, page) = answer(self.standalone.client.get(url)).await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().unwrap().clone()
    }

    pub async fn wait_for_deliveries(&self, hook: &str, state: &str, count: usize) {
        eventually(DEADLINE, &format!("{count} {state} deliveries of {hook}"), async || {
            let found = self.deliveries(hook, state).await;
            if found.len() == count { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}
