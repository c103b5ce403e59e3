//! CloudEvents with data that is not JSON: what each format, template, filter and gate makes of it, before and after a
//! restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::http::answer;
use crate::harness::manifests::{hook, merge, quick};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Receiver, Recorded, Reply, eventually};

fn with_spec(name: &str, url: &str, more: Value) -> String {
    let mut spec = quick();
    merge(&mut spec, more);
    hook(name, &format!("{url}/{name}"), spec)
}

/// Publishes text, XML and bytes in binary, structured and batch mode, and an event without data.
async fn publish_all(standalone: &Standalone) {
    let post = async |headers: &[(&str, &str)], body: Vec<u8>| {
        let mut request = standalone.client.post(standalone.url(EVENTS)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, answer) = answer(request).await;
        assert_eq!(status, 202, "{answer}");
    };
    let ce = [("ce-specversion", "1.0"), ("ce-source", "s"), ("ce-type", "e")];
    let of = |id: &'static str, content_type: &'static str| {
        [&ce[..], &[("ce-id", id), ("content-type", content_type)]].concat()
    };
    post(&of("text", "text/plain"), b"50% \"off\"\r\n".to_vec()).await;
    post(&of("bytes", "image/png"), vec![0x89, b'P', 0, 0xff]).await;
    post(&of("latin", "text/plain; charset=iso-8859-1"), vec![b'g', 0xfc]).await;
    let structured = |id: &str, members: Value| {
        let mut event = json!({"specversion": "1.0", "id": id, "source": "s", "type": "e"});
        merge(&mut event, members);
        event
    };
    let xml = structured("xml", json!({"datacontenttype": "application/xml", "data": "<a>\n</a>"}));
    post(&[("content-type", "application/cloudevents+json")], xml.to_string().into_bytes()).await;
    let batch = json!([
        structured("encoded", json!({"datacontenttype": "text/csv", "data_base64": "YSwi4oKsIg=="})),
        structured("json", json!({"data": {"n": 1}})),
        structured("none", json!({})),
    ]);
    post(&[("content-type", "application/cloudevents-batch+json")], batch.to_string().into_bytes()).await;
}

/// Returns the requests of a hook by the id of their event, which `id` extracts.
fn by_id<'r>(
    requests: &'r [Recorded],
    hook: &str,
    id: impl Fn(&'r Recorded) -> String,
) -> BTreeMap<String, &'r Recorded> {
    let path = format!("/{hook}");
    requests.iter().filter(|request| request.path == path).map(|request| (id(request), request)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_delivers_every_content_type_after_a_restart() {
    let is_up = Arc::new(AtomicBool::new(false));
    let receiver = {
        let is_up = is_up.clone();
        Receiver::start(move |_, _| Reply::status(if is_up.load(Ordering::SeqCst) { 200 } else { 503 }))
    };
    let url = receiver.url();
    let custom =
        json!({"url": format!("{url}/template"), "body": "{* data *}|{* attributes.datacontenttype *}"});
    let manifests = with_spec("cloud", &url, json!({"handler": {"webhook": {"format": "CloudEvents"}}}))
        + &with_spec("binary", &url, json!({"handler": {"webhook": {"format": "CloudEventsBinary"}}}))
        + &with_spec("kong", &url, json!({}))
        + &with_spec(
            "template",
            &url,
            json!({"filter": "attributes.id in ['text', 'bytes'] && data == null",
                   "handler": {"webhook": null, "webhookCustom": custom}}),
        );
    let mut standalone = Standalone::start(&manifests, &[]).await;
    publish_all(&standalone).await;
    // The attempts of the first process fail, so what is delivered comes from the disk.
    receiver.wait_for(1, DEADLINE).await;
    standalone.restart().await;
    let failed = receiver.requests().len();
    is_up.store(true, Ordering::SeqCst);
    let delivered = eventually(DEADLINE, "all deliveries", async || {
        let requests: Vec<Recorded> = receiver.requests().split_off(failed);
        let ids: std::collections::BTreeSet<_> = requests.iter().map(|r| r.header("webhook-id")).collect();
        if ids.len() == 7 * 3 + 2 { Ok(requests.clone()) } else { Err(ids.len().to_string()) }
    })
    .await;

    let cloud = by_id(&delivered, "cloud", |r| r.json()["id"].as_str().unwrap().to_owned());
    for (id, name, data) in [
        ("text", "data", json!("50% \"off\"\r\n")),
        ("bytes", "data_base64", json!("iVAA/w==")),
        ("latin", "data_base64", json!("Z/w=")),
        ("xml", "data", json!("<a>\n</a>")),
        ("encoded", "data_base64", json!("YSwi4oKsIg==")),
        ("json", "data", json!({"n": 1})),
    ] {
        let body = cloud[id].json();
        let others = ["data", "data_base64"].iter().filter(|other| body.get(**other).is_some()).count();
        assert_eq!((&body[name], others), (&data, 1), "{body}");
    }
    let none = cloud["none"].json();
    assert!(none.get("data").is_none() && none.get("datacontenttype").is_none(), "{none}");

    let binary = by_id(&delivered, "binary", |r| r.header("ce-id").to_owned());
    for (id, content_type, body) in [
        ("text", "text/plain", &b"50% \"off\"\r\n"[..]),
        ("bytes", "image/png", &[0x89, b'P', 0, 0xff]),
        ("latin", "text/plain; charset=iso-8859-1", &[b'g', 0xfc]),
        ("xml", "application/xml", b"<a>\n</a>"),
        ("encoded", "text/csv", "a,\"€\"".as_bytes()),
        ("json", "application/json", b"{\"n\":1}"),
        ("none", "", b""),
    ] {
        let request = binary[id];
        assert_eq!((request.header("content-type"), &request.body[..]), (content_type, body), "{id}");
        assert_eq!((request.header("ce-source"), request.header("ce-type")), ("s", "e"));
    }

    let kong: Vec<Value> = delivered.iter().filter(|r| r.path == "/kong").map(Recorded::json).collect();
    for (data, content_type) in [
        ("50% \"off\"\r\n", "text/plain"),
        ("iVAA/w==", "image/png"),
        ("Z/w=", "text/plain; charset=iso-8859-1"),
        ("<a>\n</a>", "application/xml"),
        ("a,\"€\"", "text/csv"),
    ] {
        let want = json!({"data": data, "attributes": {"datacontenttype": content_type}, "source": "s", "event": "e"});
        assert!(kong.contains(&want), "{want} in {kong:?}");
    }
    assert!(kong.contains(&json!({"source": "s", "event": "e"})), "{kong:?}");

    let rendered: Vec<_> = delivered.iter().filter(|r| r.path == "/template").map(|r| &r.body[..]).collect();
    for want in ["50% \"off\"\r\n|text/plain", "iVAA/w==|image/png"] {
        assert!(rendered.contains(&want.as_bytes()), "{want} in {rendered:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_compare_text() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = with_spec("changed", &receiver.url(), json!({"onChange": {}}));
    let standalone = Standalone::start(&manifests, &[]).await;
    for (id, text, deliveries) in [("1", "a", 1), ("2", "a", 0), ("3", "b", 1)] {
        let request = standalone.client.post(standalone.url(EVENTS)).header("content-type", "text/plain");
        let request = request.header("ce-specversion", "1.0").header("ce-id", id).header("ce-source", "s");
        let (status, answer) = answer(request.header("ce-type", "e").body(text)).await;
        assert_eq!((status, &answer["deliveries"]), (202, &json!(deliveries)), "{answer}");
    }
}
