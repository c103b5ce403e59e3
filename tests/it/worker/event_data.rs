//! Event data that JSON allows and other readers reject: half of a surrogate pair, numbers of any size, names that occur
//! twice. Every filter, gate, template and lambda reads it, a value that one of them cannot represent affects only the
//! hook that needs it, and receivers get the bytes that the sender wrote.

use std::collections::BTreeMap;

use hookstream::api::{SignatureAlgorithm, SignatureEncoding};
use hookstream::core::sign::kong_signature;
use serde_json::{Value, json};

use crate::harness::deliveries::{list_deliveries, run};
use crate::harness::http::answer;
use crate::harness::manifests::{hook, merge, quick};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Kong, Receiver, Recorded, Reply, eventually};

/// Members that a parser of JSON into machine types rejects, or reads as another value.
const ODD: &str =
    r#""cut":"x \ud83d","\ud83d":true,"far":1e999,"tiny":-1e-999,"big":18446744073709551617,"price":1.10"#;

fn with_spec(name: &str, url: &str, more: Value) -> String {
    let mut spec = quick();
    merge(&mut spec, more);
    hook(name, &format!("{url}/{name}"), spec)
}

fn custom(name: &str, url: &str, mut custom: Value) -> String {
    merge(&mut custom, json!({"url": format!("{url}/{name}")}));
    with_spec(name, url, json!({"handler": {"webhook": null, "webhookCustom": custom}}))
}

/// Publishes an event whose data is this JSON text. Returns the number of deliveries that no gate dropped.
async fn publish(standalone: &Standalone, id: &str, data: &str) -> u64 {
    let body = format!(r#"{{"id":"{id}","source":"s","event":"e","data":{data}}}"#);
    let (status, answer) = post(standalone, body).await;
    assert_eq!(status, 202, "{answer}");
    answer["deliveries"].as_u64().unwrap()
}

async fn post(standalone: &Standalone, body: String) -> (u16, Value) {
    let request = standalone.client.post(standalone.url(EVENTS));
    answer(request.header("content-type", "application/json").body(body)).await
}

/// Returns the bodies by path.
fn bodies(requests: &[Recorded]) -> BTreeMap<&str, String> {
    let body = |request: &Recorded| String::from_utf8(request.body.to_vec()).unwrap();
    requests.iter().map(|request| (request.path.as_str(), body(request))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_reads_data_that_json_allows() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = receiver.url();
    let lambda = json!({"functions": ["return function (data) return data.n == 1 and data.far == math.huge and data.cut == 'x \u{fffd}' end"]});
    let manifests = [
        hook("kong", &format!("{url}/kong"), quick()),
        with_spec("cloud", &url, json!({"handler": {"webhook": {"format": "CloudEvents"}}})),
        custom("fields", &url, json!({"body": "{{ name }} {* cut *} {{ far }} {{ big }} {{ price }}"})),
        custom("code", &url, json!({"body": "{% if n == 1 then %}{{ name }} {{ cut }}{% end %}"})),
        custom("payload", &url, json!({"payload": {"who": "{{ name }}", "far": "{* json(far) *}"}})),
        custom(
            "form",
            &url,
            json!({"payload": {"who": "{{ name }}", "n": "{{ big }}"}, "headers": {"content-type": "application/x-www-form-urlencoded"}}),
        ),
        with_spec("lambda", &url, json!({"handler": {"webhook": null, "lambda": lambda}})),
        with_spec(
            "filter",
            &url,
            json!({"filter": "data.n == 1 && has(data.big) && data.cut.startsWith('x')"}),
        ),
        with_spec("snooze", &url, json!({"groupBy": ["n"], "snooze": {"period": "60s"}})),
    ];
    let count = manifests.len() as u64;
    let standalone = Standalone::start(&manifests.concat(), &[]).await;
    let data = format!(r#"{{"n":1,"name":"Ann",{ODD}}}"#);
    assert_eq!(publish(&standalone, "1", &data).await, count);
    let requests = receiver.wait_for(manifests.len() - 1, DEADLINE).await;
    let bodies = bodies(&requests);
    assert_eq!(bodies["/kong"], format!(r#"{{"n":1,"name":"Ann",{ODD},"source":"s","event":"e"}}"#));
    assert!(bodies["/cloud"].ends_with(&format!(r#","data":{data}}}"#)), "{}", bodies["/cloud"]);
    assert_eq!(bodies["/fields"], "Ann x \u{fffd} 1e999 18446744073709551617 1.10");
    assert_eq!(bodies["/code"], "Ann x \u{fffd}");
    assert_eq!(bodies["/payload"], r#"{"far":"1e999","who":"Ann"}"#);
    assert_eq!(bodies["/form"], "n=18446744073709551617&who=Ann");
    eventually(DEADLINE, "the lambda to deliver", async || {
        match list_deliveries(&standalone, "event=1&hook=lambda").await {
            deliveries if deliveries[0]["state"] == "delivered" => Ok(()),
            deliveries => Err(format!("{deliveries:?}")),
        }
    })
    .await;
    // Another group, and the group of the first event.
    let of_group = |n: u64| format!(r#"{{"n":{n},"name":"Ann",{ODD}}}"#);
    publish(&standalone, "2", &of_group(2)).await;
    publish(&standalone, "3", &of_group(1)).await;
    let state = async |id: &str| {
        list_deliveries(&standalone, &format!("event={id}&hook=snooze")).await[0]["reason"].clone()
    };
    assert_eq!((state("2").await, state("3").await), (Value::Null, json!("Snoozed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_compare_exact_numbers() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = receiver.url();
    let manifests = with_spec("snooze", &url, json!({"groupBy": ["id"], "snooze": {"period": "60s"}}))
        + &with_spec("changed", &url, json!({"onChange": {"fields": ["id"]}}));
    let standalone = Standalone::start(&manifests, &[]).await;
    for (id, number, deliveries) in [
        ("1", "18446744073709551617", 2),
        ("2", "18446744073709551618", 2),
        ("3", "18446744073709551618.0", 0),
        ("4", "1", 2),
        ("5", "1.0", 0),
        ("6", "10e-1", 0),
        ("7", "1e999999999", 2),
        ("8", "1e999999998", 2),
        ("9", "10e999999997", 0),
    ] {
        assert_eq!(publish(&standalone, id, &format!(r#"{{"id":{number}}}"#)).await, deliveries, "{number}");
    }
}

/// A number that a filter cannot represent holds only the deliveries whose filter needs it. The explanation names the
/// expression and the value.
#[tokio::test(flavor = "multi_thread")]
async fn explain_names_what_a_filter_cannot_decide() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = receiver.url();
    let manifests = with_spec("needs", &url, json!({"filter": "data.n == 1 && data.big > 10"}))
        + &with_spec("ignores", &url, json!({"filter": "data.n == 1 && has(data.big)"}));
    let standalone = Standalone::start(&manifests, &[]).await;
    assert_eq!(publish(&standalone, "1", &format!(r#"{{"n":1,{ODD}}}"#)).await, 2);
    assert_eq!(receiver.wait_for(1, DEADLINE).await[0].path, "/ignores");
    eventually(DEADLINE, "the explanation", async || {
        let (code, text) = run(&standalone, &["explain", "1"]).await;
        let why = "filter: a number (18446744073709551617) fits no int, uint or double, in data.big > 10";
        if code == 0 && text.contains(why) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Receivers disagree on which of two members counts. The API rejects such an event, at every depth.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_rejects_a_name_that_occurs_twice() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    for (data, path) in [
        (r#"{"a":1,"a":1}"#, "data.a"),
        (r#"{"m":{"a":1,"a":2}}"#, "data.m.a"),
        (r#"[{"x":[{"a":1,"\u0061":2}]}]"#, "data[0].x[0].a"),
    ] {
        let body = format!(r#"{{"source":"s","event":"e","data":{data}}}"#);
        let (status, problem) = post(&standalone, body).await;
        assert_eq!((status, &problem["reason"]), (400, &json!("NotJson")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(&format!("{path} occurs twice")), "{problem}");
        let request = standalone.client.post(standalone.url(EVENTS));
        let cloud = format!(r#"[{{"specversion":"1.0","id":"1","source":"s","type":"e","data":{data}}}]"#);
        let request = request.header("content-type", "application/cloudevents-batch+json").body(cloud);
        assert_eq!(answer(request).await.0, 400);
    }
    standalone.assert_stays("nothing is stored", async || receiver.requests().is_empty()).await;
}

/// Kong drops an event that is rejected, so of two members the worker uses the last one, and sends only that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_uses_the_last_of_two_members() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let spec =
        json!({"source": "crud", "connectionRef": {"name": "kong"}, "filter": "data.operation == 'create'"});
    let standalone =
        Standalone::start(&(kong.connection() + &with_spec("h", &receiver.url(), spec)), &[]).await;
    let config = kong.wait_for_hooks(1).await[0]["config"].clone();
    let body = format!(
        r#"{{"source":"crud","event":"consumers","operation":"delete","operation":"create","entity":{{"a":1,"a":2,{ODD}}}}}"#
    );
    let secret = config["secret"].as_str().unwrap();
    let encoding = SignatureEncoding::PrefixedHex;
    let signature = kong_signature(secret.as_bytes(), SignatureAlgorithm::SHA256, encoding, body.as_bytes());
    let request = standalone.client.post(config["url"].as_str().unwrap()).body(body);
    let (status, answer) = answer(request.header("x-kong-signature", signature)).await;
    assert_eq!(status, 202, "{answer}");
    let sent = receiver.wait_for(1, DEADLINE).await[0].body.clone();
    assert_eq!(
        String::from_utf8(sent.to_vec()).unwrap(),
        format!(
            r#"{{"operation":"create","entity":{{"a":1,"a":2,{ODD}}},"source":"crud","event":"consumers"}}"#
        )
    );
}

/// Test runs show the data as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_run_shows_the_data_unchanged() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = custom("h", &receiver.url(), json!({"body": "{{ name }} {{ far }}"}));
    let standalone = Standalone::start(&manifests, &[]).await;
    let url = format!("http://{}/kong/default/event-hooks/h/test", standalone.api);
    let data = format!(r#"{{"name":"Ann","x":1,"x":2,{ODD}}}"#);
    let post = standalone.client.post(url).header("content-type", "application/json");
    let response = post.body(data).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    let text = response.text().await.unwrap();
    let shown = format!(r#"{{"data":{{"name":"Ann","x":2,{ODD},"source":"s","event":"test"}},"result":"#);
    assert!(text.starts_with(&shown), "{text}");
    assert_eq!(bodies(&receiver.requests())["/h"], "Ann 1e999");
}
