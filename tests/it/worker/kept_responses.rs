//! `--keep-responses`: the request and the response of the last attempt, without secrets.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::deliveries::{get_ok, list_deliveries, run};
use crate::harness::manifests::{event, hook, merge, quick, secret};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{Receiver, Reply};

/// Returns the last exchange of the only delivery of an event.
async fn exchange(standalone: &Standalone, event: &str) -> Value {
    let id =
        list_deliveries(standalone, &format!("event={event}")).await[0]["id"].as_str().unwrap().to_owned();
    let shown = get_ok(standalone, &format!("deliveries/{id}")).await;
    assert!(shown.get("lastExchange").is_none(), "it is behind the right to read payloads: {shown}");
    get_ok(standalone, &format!("deliveries/{id}?payload=true")).await["lastExchange"].clone()
}

fn manifests(url: &str) -> String {
    let of = |name: &str| {
        let mut spec = quick();
        merge(
            &mut spec,
            json!({"event": name, "handler": {"webhook": {"url": format!("{url}/{name}"),
                "headers": {"x-plain": "seen"},
                "headersFrom": [{"name": "x-key", "secretRef": {"name": "keys", "key": "key"}}],
                "signature": {"secretRef": {"name": "keys", "key": "sign"}}}}}),
        );
        hook(name, url, spec)
    };
    [
        secret("keys", json!({"key": "k3y-k3y-k3y", "sign": "s1gn-s1gn-s1gn-s1gn"})),
        of("dead"),
        of("fine"),
        of("flaky"),
    ]
    .concat()
}

fn receiver() -> Receiver {
    let failed = AtomicBool::new(false);
    Receiver::start(move |request, _| match request.path.as_str() {
        "/dead" => Reply::status(422).body(format!("wrong key k3y-k3y-k3y {}", "x".repeat(10_000))),
        "/flaky" if !failed.swap(true, Ordering::SeqCst) => Reply::status(503),
        _ => Reply::status(200).body("thanks"),
    })
}

async fn publish(standalone: &Standalone, names: &[&str]) {
    for name in names {
        let mut body = event(name);
        merge(&mut body, json!({"event": name, "data": {"order": 7}}));
        standalone.publish_accepted(&body).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_failed_attempts_without_secrets() {
    let receiver = receiver();
    let standalone = Standalone::start(&manifests(&receiver.url()), &[]).await;
    publish(&standalone, &["dead", "fine", "flaky"]).await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let kept = exchange(&standalone, "dead").await;
    let text = kept.to_string();
    assert!(!text.contains("k3y") && !text.contains("s1gn"), "a secret is kept: {text}");
    assert_eq!((&kept["request"]["method"], &kept["response"]["status"]), (&json!("POST"), &json!(422)));
    let headers = kept["request"]["headers"].as_array().unwrap();
    let value =
        |name: &str| headers.iter().find(|header| header["name"] == name).map(|header| &header["value"]);
    assert_eq!((value("x-plain"), value("x-key")), (Some(&json!("seen")), Some(&json!("***"))));
    assert!(kept["request"]["body"]["text"].as_str().unwrap().contains("\"order\":7"), "{text}");
    let body = &kept["response"]["body"];
    let shown = body["text"].as_str().unwrap();
    assert!(shown.starts_with("wrong key *** xxx") && shown.len() <= 4096, "{}", shown.len());
    assert_eq!(body["truncated"], true);
    assert_eq!(exchange(&standalone, "fine").await, Value::Null, "it was delivered");
    assert_eq!(exchange(&standalone, "flaky").await, Value::Null, "its last attempt delivered it");

    let id = list_deliveries(&standalone, "event=dead").await[0]["id"].as_str().unwrap().to_owned();
    let (code, shown) = run(&standalone, &["show", &id, "--payload"]).await;
    assert_eq!(code, 1, "{shown}");
    for part in [
        "Request of the last attempt:\n  POST http://",
        "  x-key: ***\n",
        "Response:\n  422\n",
        "  wrong key ***",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.ends_with("  [the rest was not kept]\n"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_or_none() {
    let receiver = receiver();
    for (flag, dead, fine) in [("all", true, true), ("none", false, false)] {
        let standalone = Standalone::start(&manifests(&receiver.url()), &["--keep-responses", flag]).await;
        publish(&standalone, &["dead", "fine"]).await;
        standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
        standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
        for (event, is_kept) in [("dead", dead), ("fine", fine)] {
            let kept = exchange(&standalone, event).await;
            assert_eq!(kept.is_object(), is_kept, "{flag} {event}: {kept}");
        }
    }
}
